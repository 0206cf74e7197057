//! The environment carrier: the run, and the VM that owns it.

use crate::{RunId, WorkerNumber, decimal};
use core::fmt;

/// The environment variable that carries an [`OwnerTag`].
pub const ENV_NAME: &str = "LEASH_RUN";

/// The first eight hexadecimal digits of `/proc/sys/kernel/random/boot_id`.
///
/// A record or process from before a reboot, or from another machine, differs here.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BootTag([u8; Self::LEN]);

impl BootTag {
    /// The number of characters that are kept of the boot id.
    pub const LEN: usize = 8;

    /// Parses exactly eight lower-case hexadecimal digits.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let tag: [u8; Self::LEN] = text.try_into().ok()?;
        tag.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')).then_some(Self(tag))
    }

    /// Returns the tag of a whole boot id, from its first eight digits.
    #[must_use]
    pub fn of_boot_id(boot_id: &[u8]) -> Option<Self> {
        Self::parse(boot_id.get(..Self::LEN)?)
    }
}

impl fmt::Display for BootTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(core::str::from_utf8(&self.0).unwrap_or_default())
    }
}

impl fmt::Debug for BootTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BootTag({self})")
    }
}

/// The value of `LEASH_RUN`: `<run>.<worker>.<vm pid>.<vm start ticks>.<vm pid namespace>.<boot
/// id, 8>`.
///
/// The tag names the owner. So a run whose record was deleted is still known to be alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OwnerTag {
    /// The run.
    pub run: RunId,
    /// The worker within the run.
    pub worker: WorkerNumber,
    /// The VM's process id, in its own pid namespace.
    pub pid: u32,
    /// The VM's start, in clock ticks since boot: field 22 of `/proc/<pid>/stat` (proc(5)).
    pub start_ticks: u64,
    /// The inode of the VM's `/proc/self/ns/pid`.
    pub pid_ns: u64,
    /// The boot in which the VM runs.
    pub boot: BootTag,
}

impl OwnerTag {
    /// Parses a value. Returns `None` for anything but the exact form.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut fields = text.split(|&byte| byte == b'.');
        let tag = Self {
            run: RunId::parse(fields.next()?)?,
            worker: WorkerNumber::parse(fields.next()?)?,
            pid: u32::try_from(decimal::parse(fields.next()?)?).ok().filter(|&pid| pid > 0)?,
            start_ticks: decimal::parse(fields.next()?)?,
            pid_ns: decimal::parse(fields.next()?)?,
            boot: BootTag::parse(fields.next()?)?,
        };
        fields.next().is_none().then_some(tag)
    }

    /// Finds the tag in an environment block as `/proc/<pid>/environ` gives it.
    ///
    /// If several entries have the name, they count as none. No ordinary program writes that.
    #[must_use]
    pub fn find(environ: &[u8]) -> Option<Self> {
        let mut values = environ
            .split(|&byte| byte == 0)
            .filter_map(|entry| entry.strip_prefix(ENV_NAME.as_bytes())?.strip_prefix(b"="));
        let value = values.next()?;
        if values.next().is_some() {
            return None;
        }
        Self::parse(value)
    }
}

impl fmt::Display for OwnerTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { run, worker, pid, start_ticks, pid_ns, boot } = self;
        write!(f, "{run}.{worker}.{pid}.{start_ticks}.{pid_ns}.{boot}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;
    use std::vec::Vec;

    const TEXT: &str = "s59m65f.12.4711.123456.4026531836.0a1b2c3d";

    #[test]
    fn reads_back_what_it_writes() {
        let tag = OwnerTag::parse(TEXT.as_bytes()).unwrap();
        assert_eq!(tag.to_string(), TEXT);
        assert_eq!((tag.pid, tag.start_ticks, tag.pid_ns), (4711, 123456, 4026531836));
    }

    #[test]
    fn a_value_that_merely_contains_or_extends_a_tag_is_none() {
        for text in [
            "x".to_string() + TEXT,
            TEXT.to_string() + "x",
            TEXT.to_string() + ".",
            TEXT.replace("s59m65f", "s59m65ff"),
            TEXT.replace("s59m65f", "S59M65F"),
            TEXT.replace("4711", "0"),
            TEXT.replace("4711", "-1"),
            TEXT.replace(".12.", ".0."),
            TEXT.replace("0a1b2c3d", "0A1B2C3D"),
            TEXT.replace('.', ","),
        ] {
            assert_eq!(OwnerTag::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn finds_the_variable_by_its_exact_name() {
        let environ = |entries: &[&str]| entries.join("\0").into_bytes();
        let tag = OwnerTag::parse(TEXT.as_bytes());
        let ours = std::format!("LEASH_RUN={TEXT}");
        assert_eq!(OwnerTag::find(&environ(&["A=1", &ours, "B=2", ""])), tag);
        assert_eq!(OwnerTag::find(&environ(&[&std::format!("NOTLEASH_RUN={TEXT}")])), None);
        assert_eq!(OwnerTag::find(&environ(&[&std::format!("LEASH_RUNS={TEXT}")])), None);
        assert_eq!(OwnerTag::find(&environ(&[&std::format!("X=LEASH_RUN={TEXT}")])), None);
        assert_eq!(OwnerTag::find(&environ(&[&ours, &ours])), None, "two are none");
        assert_eq!(OwnerTag::find(b""), None);
    }

    proptest! {
        #[test]
        fn what_parses_is_what_was_given(text in "[0-9a-z.]{0,60}") {
            if let Some(tag) = OwnerTag::parse(text.as_bytes()) {
                prop_assert_eq!(tag.to_string(), text);
            }
        }

        #[test]
        fn no_environment_block_panics(block in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _: Option<OwnerTag> = OwnerTag::find(&block);
            let _: Vec<u8> = block;
        }
    }
}
