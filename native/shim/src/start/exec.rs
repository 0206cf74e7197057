//! Executing a command as execvp(3) does.

use core::ffi::CStr;
use rustix::io::Errno;

use crate::os::vectors::Vectors;

/// Executes a command as execvp(3) does. A command without a slash is looked up in PATH, and
/// EACCES on the way is remembered.
pub(crate) fn execute(command: &CStr, vectors: Vectors, run: impl Fn(&CStr) -> Errno) -> Errno {
    if command.to_bytes().contains(&b'/') {
        return run(command);
    }
    look_up(command.to_bytes(), vectors, run)
}

/// Looks up a command in PATH. If it were inlined, its buffer would cost a page even where
/// nothing is looked up.
#[inline(never)]
fn look_up(command: &[u8], vectors: Vectors, run: impl Fn(&CStr) -> Errno) -> Errno {
    let mut result = Errno::NOENT;
    let mut buffer = [0u8; 4096];
    for directory in vectors
        .env(b"PATH")
        .unwrap_or(b"/usr/local/bin:/usr/bin:/bin")
        .split(|&byte| byte == b':')
    {
        let Some(path) = join(&mut buffer, directory, command) else { continue };
        match run(path) {
            Errno::NOENT | Errno::NOTDIR => {}
            Errno::ACCESS => result = Errno::ACCESS,
            other => return other,
        }
    }
    result
}

/// Joins a directory and a name to a path. An empty directory is the present one (execvp(3)).
fn join<'a>(buffer: &'a mut [u8; 4096], directory: &[u8], name: &[u8]) -> Option<&'a CStr> {
    let directory = if directory.is_empty() { &b"."[..] } else { directory };
    let mut len = 0usize;
    for part in [directory, b"/", name, b"\0"] {
        let end = len.checked_add(part.len())?;
        buffer.get_mut(len..end)?.copy_from_slice(part);
        len = end;
    }
    CStr::from_bytes_with_nul(buffer.get(..len)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_joined_or_refused_where_it_does_not_fit() {
        let mut buffer = [b'x'; 4096];
        assert_eq!(join(&mut buffer, b"/usr/bin", b"ls"), Some(c"/usr/bin/ls"));
        assert_eq!(join(&mut buffer, b"/bin", b"ls"), Some(c"/bin/ls"));
        assert_eq!(join(&mut buffer, b"", b"ls"), Some(c"./ls"));
        assert_eq!(join(&mut buffer, &[b'd'; 4094], b"ls"), None);
        assert_eq!(join(&mut buffer, &[b'd'; 4090], b"12345"), None, "no room for the NUL");
    }
}
