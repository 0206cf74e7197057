//! Parses `/proc/<pid>/stat` (proc_pid_stat(5)).

use crate::os::pid::Pid;
use crate::procfs::text::words;
use leash_tag::parse_number;

// PF_KTHREAD, <linux/sched.h>.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// The fields that identify a process and tell its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Field 1.
    pub pid: Pid,
    /// Field 2 without its parentheses: any bytes, at most 15 for user processes.
    pub comm: Vec<u8>,
    /// Field 3, a letter such as `R`, `S`, `D`, `T`, `Z`.
    pub state: char,
    /// Field 4; `None` for a parent outside this pid namespace and for the first process.
    pub parent: Option<Pid>,
    /// Field 5; 0 if the group's leader is outside this pid namespace, or if no process has that
    /// number any more.
    pub group: u32,
    /// Field 6, in the same way.
    pub session: u32,
    /// Field 9, flag `PF_KTHREAD`. "Child of pid 2" would not do, because pid 2 is an ordinary
    /// process in a container.
    pub kernel_thread: bool,
    /// Fields 14 to 17: CPU time of the process and of the children that it waited for, in clock
    /// ticks.
    pub cpu_ticks: u64,
    /// Field 20: the number of threads. A leader that has ended counts while other threads run.
    pub threads: u64,
    /// Field 22: the start, in clock ticks since boot as *this reader's* time namespace counts
    /// them.
    pub start_ticks: u64,
    /// Field 24, in pages. Kernels since 6.2 may be some pages behind (proc_pid_statm(5)).
    pub rss_pages: u64,
    /// Field 50: where the environment begins. 0 while there is none (exec at work), and for
    /// readers without ptrace rights.
    pub env_start: u64,
}

impl Stat {
    /// Whether all of the process has ended. A leader shown as `Z` may have threads that run;
    /// they belong to the process.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x') && self.threads <= 1
    }

    /// Parses a whole file. `comm` may hold anything, so the *last* `)` ends it.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let open = text.iter().position(|&byte| byte == b'(')?;
        let close = text.iter().rposition(|&byte| byte == b')')?;
        let pid = Pid::parse(text.get(..open)?.strip_suffix(b" ")?)?;
        let comm = text.get(open + 1..close)?.to_vec();
        let mut fields = words(text.get(close + 1..)?);
        let state = match fields.next()? {
            [letter] if letter.is_ascii_alphabetic() => char::from(*letter),
            _ => return None,
        };
        let parent = match fields.next()? {
            b"0" => None,
            number => Some(Pid::parse(number)?),
        };
        // While a process is being reaped, both are -1.
        let mut number = || Some(parse_number::<u32>(fields.next()?).unwrap_or(0));
        let (group, session) = (number()?, number()?);
        let flags: u64 = parse_number(fields.nth(2)?)?;
        let mut cpu_ticks: u64 = parse_number(fields.nth(4)?)?;
        for _ in 15..=17 {
            cpu_ticks = cpu_ticks.saturating_add(parse_number(fields.next()?)?);
        }
        let threads = parse_number(fields.nth(2)?)?;
        let start_ticks = parse_number(fields.nth(1)?)?;
        let rss_pages = fields.nth(1).and_then(parse_number).unwrap_or(0);
        let env_start = fields.nth(25).and_then(parse_number).unwrap_or(0);
        Some(Self {
            pid,
            comm,
            state,
            parent,
            group,
            session,
            kernel_thread: flags & KERNEL_THREAD != 0,
            cpu_ticks,
            threads,
            start_ticks,
            rss_pages,
            env_start,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(pid: &str, comm: &[u8], state: &str, parent: &str) -> Vec<u8> {
        let mut text = format!("{pid} (").into_bytes();
        text.extend_from_slice(comm);
        text.extend_from_slice(
            format!(
                ") {state} {parent} 10 10 0 -1 4194560 1 0 0 0 3 40 500 6000 20 0 1 0 987654 1 2 3 4 5 6 7 8 9 0 0 0 0 0 \
                 0 17 1 0 0 0 0 0 11 12 13 14 15 140737 16 0\n"
            )
            .as_bytes(),
        );
        text
    }

    #[test]
    fn reads_the_kernels_line_for_this_process() {
        let text = std::fs::read("/proc/self/stat").unwrap();
        let stat = Stat::parse(&text).unwrap();
        assert_eq!(stat.pid, Pid::current());
        assert_eq!(stat.parent.map(Pid::as_u32), Some(std::os::unix::process::parent_id()));
        assert!(!stat.kernel_thread && stat.env_start > 0 && stat.start_ticks > 0);
    }

    #[test]
    fn comm_may_hold_anything() {
        for comm in [
            &b"a) R 1 (b"[..],
            b"",
            b" ",
            b")",
            b"(",
            b"a\nb",
            b"\xff\xfe",
            b") Z 0 (",
            b"x) S 1 2 3",
        ] {
            let stat = Stat::parse(&line("42", comm, "S", "7")).unwrap();
            assert_eq!((stat.comm.as_slice(), stat.state, stat.parent), (comm, 'S', Pid::new(7)));
            assert_eq!((stat.start_ticks, stat.env_start), (987_654, 140_737), "{comm:?}");
            assert_eq!((stat.cpu_ticks, stat.rss_pages, stat.threads), (6543, 2, 1), "{comm:?}");
        }
    }

    #[test]
    fn long_pids_and_parents_outside_are_fine_and_zero_and_negative_pids_are_not() {
        let stat = Stat::parse(&line("4194303", b"x", "Z", "0")).unwrap();
        assert_eq!((stat.pid.get(), stat.parent, stat.state), (4_194_303, None, 'Z'));
        for pid in ["0", "-1", "", "x", "99999999999"] {
            assert_eq!(Stat::parse(&line(pid, b"x", "S", "1")), None, "{pid}");
        }
        for parent in ["-1", "x"] {
            assert_eq!(Stat::parse(&line("1", b"x", "S", parent)), None);
        }
    }

    #[test]
    fn kernel_threads_are_known_by_their_flag() {
        let text = b"2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 5 0 0";
        assert!(Stat::parse(text).unwrap().kernel_thread);
    }

    #[test]
    fn a_truncated_line_is_none() {
        let whole = line("42", b"x", "S", "7");
        let needed = whole.windows(6).position(|window| window == b"987654").unwrap();
        for end in 0..needed {
            assert_eq!(Stat::parse(&whole[..end]), None, "{end}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Stat::parse(&text);
        }

        #[test]
        fn any_comm_and_pid_round_trip(
            pid in 1..i32::MAX, comm in proptest::collection::vec(any::<u8>(), 0..40), parent in 0..i32::MAX
        ) {
            let stat = Stat::parse(&line(&pid.to_string(), &comm, "R", &parent.to_string())).unwrap();
            prop_assert_eq!((stat.pid.get(), stat.comm, stat.parent), (pid, comm, Pid::new(parent)));
        }
    }
}
