//! Asks a living VM, over the socket beside its run's record (`lib/leash/control.ex` answers).
//!
//! Each connection carries one request, which is one line. The answer is lines of fields, with
//! tabs between the fields, and then the line `end`. An answer without `end` is not an answer:
//! the VM ended meanwhile, or the time is over.
//!
//! | request | lines of the answer |
//! |---|---|
//! | `find NAME` | `worker`, number, kind, pid, label, group |
//! | `stop MS NAME` | the same, then result, how, survivors |
//! | `end MS NUMBER SHIM` | the same |
//! | `names` | `name`, a name that a worker or a group has |
//! | any | `error`, the reason why the VM rejects the request |

use leash_core::{RunDir, socket_name};
use leash_tag::RunId;
use serde::Serialize;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// The limit of an answer; thirty thousand workers take some megabytes.
const MOST_BYTES: usize = 64 << 20;

/// The reason why a VM gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Silence {
    /// There is no socket, or no process listens on it.
    NoSocket,
    /// The VM accepted the connection, but did not answer in time or ended first.
    NoAnswer,
    /// The bytes received are not an answer.
    Garbage,
    /// A process of another user listens there.
    ForeignPeer,
}

/// A line of an answer, split into fields.
pub(crate) type Line = Vec<String>;

/// Asks the VMs of these runs at once. Returns, in the order of the runs, what each VM sent
/// before its `end`.
pub(crate) fn ask_all(
    dir: &RunDir,
    runs: &[RunId],
    request: &str,
    patience: Duration,
) -> Vec<(RunId, Result<Vec<Line>, Silence>)> {
    let until = Instant::now() + patience;
    // These threads are never joined: connect(2) to a VM that hangs has no timeout once the queue
    // of the socket is full.
    let ask = |run: &RunId| {
        let (path, request) = (dir.path().join(socket_name(*run)), request.to_owned());
        let (sender, answer) = mpsc::channel();
        // Without a thread the sender is dropped, and the wait for the answer ends at once.
        let _ =
            std::thread::Builder::new().spawn(move || sender.send(ask(&path, &request, until)));
        (*run, answer)
    };
    let wait = |(run, answer): (RunId, mpsc::Receiver<_>)| {
        // The thread keeps the deadline itself, where it can.
        let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(200);
        (run, answer.recv_timeout(left).unwrap_or(Err(Silence::NoAnswer)))
    };
    let asked: Vec<_> = runs.iter().map(ask).collect();
    asked.into_iter().map(wait).collect()
}

/// Sends one request, and reads until the answer is whole or the time is over.
fn ask(path: &Path, request: &str, until: Instant) -> Result<Vec<Line>, Silence> {
    let mut stream = connect(path)?;
    let uid = rustix::net::sockopt::socket_peercred(&stream)
        .map_err(|_| Silence::NoAnswer)?
        .uid
        .as_raw();
    if !is_believed(uid, rustix::process::geteuid().as_raw()) {
        return Err(Silence::ForeignPeer);
    }
    let left = || {
        let left = until.saturating_duration_since(Instant::now());
        // A timeout of zero would mean for ever.
        if left.is_zero() { Err(Silence::NoAnswer) } else { Ok(Some(left)) }
    };
    stream.set_write_timeout(left()?).map_err(|_| Silence::NoAnswer)?;
    stream.write_all(format!("{request}\n").as_bytes()).map_err(|_| Silence::NoAnswer)?;
    let mut answer = Vec::new();
    let mut part = [0; 8192];
    while !is_whole(&answer) {
        stream.set_read_timeout(left()?).map_err(|_| Silence::NoAnswer)?;
        match stream.read(&mut part) {
            Ok(0) => return Err(Silence::NoAnswer),
            Ok(count) => answer.extend_from_slice(part.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Err(Silence::NoAnswer),
        }
        if answer.len() > MOST_BYTES {
            return Err(Silence::Garbage);
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
    Ok(lines(&answer))
}

/// Connects to a VM. A path that no process listens on means that the VM cannot be asked.
fn connect(path: &Path) -> Result<UnixStream, Silence> {
    UnixStream::connect(path).map_err(|error| match error.kind() {
        // InvalidInput: the path is too long for a socket, so the VM has no socket either.
        ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::InvalidInput => {
            Silence::NoSocket
        }
        _ => Silence::NoAnswer,
    })
}

/// Returns whether a peer with this uid may be a VM of user `own`: a process of that user, or of
/// root.
fn is_believed(uid: u32, own: u32) -> bool {
    uid == own || uid == 0
}

/// Returns whether the answer has its last line.
fn is_whole(answer: &[u8]) -> bool {
    answer == b"end\n" || answer.ends_with(b"\nend\n")
}

/// Splits a whole answer.
fn lines(answer: &[u8]) -> Vec<Line> {
    let text = String::from_utf8_lossy(answer);
    let body = text.strip_suffix("end\n").unwrap_or(&text);
    body.lines().map(|line| line.split('\t').map(plain).collect()).collect()
}

/// Replaces the escapes `\t`, `\n` and `\\` by what they stand for.
fn plain(field: &str) -> String {
    let mut text = String::with_capacity(field.len());
    let mut chars = field.chars();
    while let Some(char) = chars.next() {
        text.push(match char {
            '\\' => match chars.next() {
                Some('t') => '\t',
                Some('n') => '\n',
                Some(other) => other,
                None => '\\',
            },
            char => char,
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn scene() -> (RunDir, RunId, std::path::PathBuf) {
        let run = leash_core::generate_run_id().unwrap();
        let dir = RunDir::open(&std::env::temp_dir().join(format!("leash-cli-{run}"))).unwrap();
        let socket = dir.path().join(socket_name(run));
        (dir, run, socket)
    }

    fn answered(with: &'static [u8]) -> (Result<Vec<Line>, Silence>, Duration) {
        let (dir, run, socket) = scene();
        let listener = UnixListener::bind(socket).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 64];
            let count = stream.read(&mut request).unwrap();
            for byte in with {
                stream.write_all(&[*byte]).unwrap();
            }
            // Waits until the other side gives up.
            let _ = stream.read(&mut [0; 1]);
            String::from_utf8_lossy(&request[..count]).into_owned()
        });
        let began = Instant::now();
        let answer = ask_all(&dir, &[run], "find x", Duration::from_millis(300)).remove(0).1;
        let took = began.elapsed();
        assert_eq!(server.join().unwrap(), "find x\n");
        std::fs::remove_dir_all(dir.path()).unwrap();
        (answer, took)
    }

    #[test]
    fn another_users_socket_is_not_asked() {
        assert!(is_believed(7, 7) && is_believed(0, 7) && is_believed(0, 0));
        assert!(!is_believed(8, 7) && !is_believed(8, 0));
    }

    #[test]
    fn an_answer_is_what_comes_before_its_end() {
        let (answer, _) = answered(b"worker\t1\ta\\tb\\\\n\nworker\t\nend\n");
        assert_eq!(answer.unwrap(), [vec!["worker", "1", "a\tb\\n"], vec!["worker", ""]]);
        assert_eq!(answered(b"end\n").0, Ok(Vec::new()));
    }

    #[test]
    fn without_its_end_it_is_none_and_the_time_is_over_when_it_is() {
        for half in [&b""[..], b"worker\t1\n", b"worker\tend\n"] {
            let (answer, took) = answered(half);
            assert_eq!(answer, Err(Silence::NoAnswer), "{half:?}");
            assert!(
                took >= Duration::from_millis(300) && took < Duration::from_secs(5),
                "{took:?}"
            );
        }
    }

    #[test]
    fn no_process_listens_on_a_socket_that_a_dead_vm_left() {
        let (dir, run, socket) = scene();
        let ask = || ask_all(&dir, &[run], "find x", Duration::from_millis(300)).remove(0).1;
        assert_eq!(ask(), Err(Silence::NoSocket));
        drop(UnixListener::bind(socket).unwrap());
        assert_eq!(ask(), Err(Silence::NoSocket));
        std::fs::remove_dir_all(dir.path()).unwrap();
    }
}
