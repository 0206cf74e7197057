//! The run directory, found in the way the library finds it (`lib/leash/config.ex`).
//!
//! The first of these that is set counts:
//!
//! 1. `--run-dir`
//! 2. `LEASH_RUN_DIR`
//! 3. `leash` in the first directory of `RUNTIME_DIRECTORY`, which systemd sets for a service
//! 4. `/tmp/leash-<uid>`, or `/tmp/leash-<uid>.<n>` if the first is not this user's

use crate::exit::{Exit, Failure};
use leash_core::RunDir;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A run directory's path, and whether the user or the environment named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RunDirLocation {
    /// The path. Nothing need be there.
    pub(crate) path: PathBuf,
    named: bool,
}

impl RunDirLocation {
    /// Finds the location: from `--run-dir`, else from the environment, else the default.
    pub(crate) fn find(option: Option<PathBuf>) -> Self {
        let uid = rustix::process::geteuid().as_raw();
        Self::find_in(option, |name| std::env::var_os(name), uid)
    }

    /// Works as [`Self::find`], in an environment and for a user that a test can choose.
    fn find_in(
        option: Option<PathBuf>,
        variable: impl Fn(&str) -> Option<OsString>,
        uid: u32,
    ) -> Self {
        let nonempty = |name| variable(name).filter(|value| !value.is_empty());
        let named = option.or_else(|| nonempty("LEASH_RUN_DIR").map(PathBuf::from));
        if let Some(path) = named {
            return Self { path, named: true };
        }
        let path = match nonempty("RUNTIME_DIRECTORY") {
            Some(directories) => {
                // systemd.exec(5) separates several directories by colons.
                let first = directories.as_bytes().split(|&byte| byte == b':').next();
                Path::new(OsStr::from_bytes(first.unwrap_or_default())).join("leash")
            }
            None => default_in(Path::new("/tmp"), uid),
        };
        Self { path, named: false }
    }

    /// Opens the directory, for commands that end something: they need it.
    pub(crate) fn open(&self) -> Result<Arc<RunDir>, Failure> {
        // `RunDir::open` creates a missing directory. A command of an operator must not create
        // one at a guessed path.
        if is_missing(&self.path) {
            return Err(Failure::new(Exit::Unusable, self.missing()));
        }
        Ok(Arc::new(RunDir::open(&self.path)?))
    }

    /// Opens the directory, for commands that only look. If the path is the default and the
    /// directory is missing, `/proc` alone must do.
    ///
    /// The second part of the result is a note for that case.
    pub(crate) fn open_to_look(&self) -> Result<(Option<Arc<RunDir>>, Option<String>), Failure> {
        if !self.named && is_missing(&self.path) {
            let note =
                format!("{}: runs are judged by what processes say of them", self.missing());
            return Ok((None, Some(note)));
        }
        Ok((Some(self.open()?), None))
    }

    /// Returns the message about a directory that is not there.
    fn missing(&self) -> String {
        format!("{}: no such run directory", self.path.display())
    }
}

/// Returns the directory below `parent` that a VM of this user takes if none is named, see
/// `Leash.DefaultDir`.
fn default_in(parent: &Path, uid: u32) -> PathBuf {
    let name = format!("leash-{uid}");
    let first = parent.join(&name);
    let stat = |path: &Path| std::fs::symlink_metadata(path).ok();
    let is_ours = |path: &Path| stat(path).is_some_and(|stat| stat.is_dir() && stat.uid() == uid);
    let is_private = |path: &Path| stat(path).is_some_and(|stat| stat.mode() & 0o077 == 0);
    if is_ours(&first) {
        return first;
    }
    let prefix = format!("{name}.");
    let others = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let others =
        others.filter(|entry| entry.file_name().as_bytes().starts_with(prefix.as_bytes()));
    let others =
        others.map(|entry| entry.path()).filter(|path| is_ours(path) && is_private(path));
    others.min().unwrap_or(first)
}

/// Returns whether nothing is there. A path that cannot be looked at counts as there.
fn is_missing(path: &Path) -> bool {
    std::fs::symlink_metadata(path)
        .is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(option: Option<&str>, variables: &[(&str, &str)]) -> (String, bool) {
        let variable = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        };
        let RunDirLocation { path, named } =
            RunDirLocation::find_in(option.map(PathBuf::from), variable, 7);
        (path.to_str().unwrap().to_owned(), named)
    }

    #[test]
    fn the_order_is_that_of_the_library() {
        let all = [("LEASH_RUN_DIR", "/env"), ("RUNTIME_DIRECTORY", "/run/a:/run/b")];
        assert_eq!(find(Some("/option"), &all), ("/option".into(), true));
        assert_eq!(find(None, &all), ("/env".into(), true));
        assert_eq!(find(None, &all[1..]), ("/run/a/leash".into(), false));
        assert_eq!(
            find(None, &[("LEASH_RUN_DIR", ""), ("RUNTIME_DIRECTORY", "")]),
            ("/tmp/leash-7".into(), false)
        );
        assert_eq!(find(None, &[]), ("/tmp/leash-7".into(), false));
    }

    #[test]
    fn where_the_default_is_not_ours_the_one_that_a_vm_took_instead_is_found() {
        use std::os::unix::fs::PermissionsExt as _;
        let parent =
            std::env::temp_dir().join(format!("leash-cli-default-{}", std::process::id()));
        let uid = rustix::process::geteuid().as_raw();
        let at = |end: &str| parent.join(format!("leash-{uid}{end}"));
        let make = |end: &str, mode| {
            std::fs::create_dir_all(at(end)).unwrap();
            std::fs::set_permissions(at(end), std::fs::Permissions::from_mode(mode)).unwrap();
        };
        std::fs::create_dir(&parent).unwrap();
        assert_eq!(default_in(&parent, uid), at(""));
        std::fs::write(at(""), "a file where the directory is to be").unwrap();
        assert_eq!(default_in(&parent, uid), at(""), "nothing was taken instead");
        make(".1", 0o777);
        std::os::unix::fs::symlink("/", at(".2")).unwrap();
        make(".3", 0o700);
        make(".4", 0o700);
        assert_eq!(default_in(&parent, uid), at(".3"));
        std::fs::remove_file(at("")).unwrap();
        assert_eq!(
            default_in(&parent, uid),
            at(".3"),
            "it is found again when the first is free"
        );
        make("", 0o755);
        assert_eq!(
            default_in(&parent, uid),
            at(""),
            "a loose one of ours is for its user to close"
        );
        std::fs::remove_dir_all(&parent).unwrap();
    }

    #[test]
    fn a_missing_directory_is_not_made_and_only_forgiven_if_it_was_not_named() {
        let missing =
            std::env::temp_dir().join(format!("leash-cli-missing-{}", std::process::id()));
        let location = |named| RunDirLocation { path: missing.clone(), named };
        assert_eq!(location(true).open_to_look().unwrap_err().exit, Exit::Unusable);
        assert_eq!(location(false).open().unwrap_err().exit, Exit::Unusable);
        let (dir, note) = location(false).open_to_look().unwrap();
        assert!(dir.is_none() && note.unwrap().contains("no such run directory"));
        assert!(is_missing(&missing));
    }
}
