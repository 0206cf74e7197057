//! The user and the privileges that the command gets before its exec.

use leash_tag::parse_number;
use rustix::io::Errno;
use rustix::process::Gid;
use rustix::thread::CapabilitySet;

use crate::os::privileges;

/// The most supplementary groups.
const MAX_GROUPS: usize = 32;

/// The user and the privileges; the default changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// `--uid`.
    pub uid: Option<u32>,
    /// `--gid`.
    pub gid: Option<u32>,
    /// `--groups`, and how many of the places are in use.
    groups: Option<([Gid; MAX_GROUPS], usize)>,
    /// `--capabilities`.
    pub(crate) kept: Option<CapabilitySet>,
    /// `--no-new-privs`.
    pub(crate) no_new_privs: bool,
    /// `--umask`.
    pub(crate) umask: Option<u32>,
}

impl Identity {
    /// Returns the value of `--groups`. With `--uid` and without `--groups` the result is empty,
    /// since the shim's own groups are not that user's.
    #[must_use]
    pub fn groups(&self) -> Option<&[Gid]> {
        match &self.groups {
            Some((groups, len)) => groups.get(..*len),
            None => self.uid.map(|_| &[][..]),
        }
    }

    /// Reads one of the options `uid`, `gid`, `groups`, `capabilities`, `umask` and
    /// `no-new-privs`. Returns `None` for a value of another form.
    pub(crate) fn read(&mut self, name: &str, text: &[u8]) -> Option<()> {
        match name {
            "uid" => self.uid = Some(id(text)?),
            "gid" => self.gid = Some(id(text)?),
            "groups" => self.groups = Some(groups(text)?),
            "capabilities" => self.kept = Some(capabilities(text)?),
            "umask" => self.umask = Some(umask(text)?),
            "no-new-privs" => self.no_new_privs = true,
            _ => return None,
        }
        Some(())
    }

    /// Returns whether the command has other rights than the shim. Then a program that may trace
    /// the command must not find the shim's memory there.
    pub(crate) fn changes_rights(&self) -> bool {
        self.changes_ids() || self.kept.is_some()
    }

    /// Changes groups, gid and uid of this process, each if asked for.
    ///
    /// # Errors
    ///
    /// `EPERM` without CAP_SETGID or CAP_SETUID, `EINVAL` for an id that the user namespace does
    /// not have.
    pub(crate) fn assume(&self) -> Result<(), Errno> {
        if self.kept.is_some() {
            privileges::keep_over_change_of_ids()?;
        }
        privileges::become_user(self.groups(), self.gid, self.uid)
    }

    /// Returns whether this process may signal the command's processes. Ask before the change.
    pub(crate) fn is_endable(&self) -> bool {
        self.uid.is_none_or(privileges::may_signal)
    }

    /// Takes from this process the capabilities that the command does not get, and sets
    /// `no_new_privs`. Comes behind the change of ids.
    ///
    /// # Errors
    ///
    /// `EPERM` for a capability that this process does not have, `EINVAL` for root, which gets
    /// all of its bounding set at exec (capabilities(7)).
    pub(crate) fn limit_privileges(&self) -> Result<(), Errno> {
        match self.kept {
            Some(_) if rustix::process::geteuid().is_root() => return Err(Errno::INVAL),
            Some(kept) => privileges::keep_only(kept)?,
            None if self.changes_ids() => privileges::drop_ambient()?,
            None => {}
        }
        if self.no_new_privs { rustix::thread::set_no_new_privs(true) } else { Ok(()) }
    }

    fn changes_ids(&self) -> bool {
        self.uid.is_some() || self.gid.is_some() || self.groups.is_some()
    }
}

/// Parses an id. The highest number means "no change" to the kernel.
fn id(text: &[u8]) -> Option<u32> {
    parse_number(text).filter(|&id| id != u32::MAX)
}

/// Parses group ids. The empty text is no group at all.
fn groups(text: &[u8]) -> Option<([Gid; MAX_GROUPS], usize)> {
    let mut groups = [Gid::ROOT; MAX_GROUPS];
    let mut len = 0;
    for group in items(text) {
        *groups.get_mut(len)? = Gid::from_raw(id(group)?);
        len += 1;
    }
    Some((groups, len))
}

/// Parses names of capabilities as capabilities(7) has them behind `CAP_`, in any case. The empty
/// text is no capability at all.
fn capabilities(text: &[u8]) -> Option<CapabilitySet> {
    let mut set = CapabilitySet::empty();
    for name in items(text) {
        let is_named = |known: &&str| known.as_bytes().eq_ignore_ascii_case(name);
        let known = CapabilitySet::all().iter_names().find(|(known, _)| is_named(known))?;
        set |= known.1;
    }
    Some(set)
}

/// Parses an octal mask of permissions.
fn umask(text: &[u8]) -> Option<u32> {
    let digits = (1..=4).contains(&text.len());
    let text = core::str::from_utf8(text).ok().filter(|text| digits && !text.starts_with('+'))?;
    u32::from_str_radix(text, 8).ok().filter(|&mask| mask <= 0o777)
}

/// Returns what commas separate. The empty text has no part.
fn items(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b',').filter(|_| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::String;

    fn read(name: &str, text: &[u8]) -> Option<Identity> {
        let mut identity = Identity::default();
        identity.read(name, text).map(|()| identity)
    }

    #[test]
    fn capabilities_have_the_names_of_the_kernel() {
        let kept = |text: &[u8]| read("capabilities", text).unwrap().kept.unwrap();
        assert_eq!(kept(b""), CapabilitySet::empty());
        assert_eq!(kept(b"net_bind_service"), CapabilitySet::NET_BIND_SERVICE);
        assert_eq!(kept(b"KILL,Sys_Nice"), CapabilitySet::KILL | CapabilitySet::SYS_NICE);
        assert_eq!(kept(b"checkpoint_restore").bits(), 1 << 40);
        assert_eq!(CapabilitySet::all().iter_names().count(), 41);
        for bad in [&b"cap_kill"[..], b"kill,", b",", b"kill;chown", b"all", b"\xff"] {
            assert_eq!(read("capabilities", bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn a_umask_is_octal() {
        for (text, mask) in [("0", 0), ("22", 0o22), ("022", 0o22), ("0777", 0o777)] {
            assert_eq!(read("umask", text.as_bytes()).unwrap().umask, Some(mask));
        }
        for bad in [&b""[..], b"8", b"0o22", b"1000", b"00022", b"-22", b"+22", b"u=rwx"] {
            assert_eq!(read("umask", bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn what_changes_nothing_needs_no_memory_of_its_own() {
        let changes = |name, text: &[u8]| read(name, text).unwrap().changes_rights();
        assert!(!Identity::default().changes_rights());
        assert!(!changes("umask", b"22") && !changes("no-new-privs", b""));
        assert!(changes("uid", b"0") && changes("gid", b"0") && changes("groups", b""));
        assert!(changes("capabilities", b""));
    }
}
