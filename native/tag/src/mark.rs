//! The mark: a run's id in a resource limit that the kernel ignores and inherits.

use crate::{RunId, WorkerNumber};
use core::fmt;

/// Soft and hard `RLIMIT_LOCKS` of a process, as `prlimit64(2)` and `/proc/<pid>/limits` give it.
///
/// The kernel has not enforced this limit since 2.4.25 (getrlimit(2)). It still hands the limit
/// to every child through fork and exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// The limit that a process may move below the hard one. PAM and SELinux reset it.
    pub soft: u64,
    /// The limit that only a process with `CAP_SYS_RESOURCE` can raise.
    pub hard: u64,
}

impl Limits {
    /// No limit at all (`RLIM64_INFINITY`). An unmarked process has it.
    pub const UNLIMITED: Self = Self { soft: u64::MAX, hard: u64::MAX };
}

/// A run, and a worker of it, written into [`Limits`].
///
/// ```text
/// bit  63 │ 62…56 │ 55…53 │ 52…16  │ 15       │ 14…0
///       0 │ magic │ depth │ run id │ outlives │ worker number
/// ```
///
/// The hard limit carries all ones for the number, and the soft limit the worker's own number. So
/// soft never exceeds hard.
///
/// Depth *descends* with nesting, because a process without a capability can only lower a limit.
/// A run inside a worker of another run must be able to write its own mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mark {
    depth: u8,
    run: RunId,
    outlives: bool,
    worker: Option<WorkerNumber>,
}

/// The error of nesting more runs in one another than a mark can count (eight).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoDepthLeft;

const MAGIC: u64 = 0x4c;
const MAGIC_SHIFT: u32 = 56;
const DEPTH_SHIFT: u32 = 53;
const DEPTH_MAX: u8 = 7;
const RUN_SHIFT: u32 = 16;
const RUN_MASK: u64 = (1 << 37) - 1;
const OUTLIVES: u64 = 1 << 15;
const ANY_WORKER: u64 = 0x7fff;

impl Mark {
    /// The highest limits that are no mark. A marked process may lower its own limits to them,
    /// which removes the mark without `CAP_SYS_RESOURCE`.
    pub const NONE_BELOW: Limits =
        Limits { soft: (MAGIC << MAGIC_SHIFT) - 1, hard: (MAGIC << MAGIC_SHIFT) - 1 };

    /// Returns the mark for a process that now has `limits`.
    ///
    /// If the process has a mark already, then the new one nests in it.
    ///
    /// # Errors
    ///
    /// [`NoDepthLeft`] inside eight runs already. The process keeps the mark of the innermost run
    /// that could write one.
    pub fn nested_in(
        limits: Limits,
        run: RunId,
        worker: Option<WorkerNumber>,
        outlives: bool,
    ) -> Result<Self, NoDepthLeft> {
        let depth = match Self::decode(limits) {
            None => DEPTH_MAX,
            Some(outer) => outer.depth.checked_sub(1).ok_or(NoDepthLeft)?,
        };
        Ok(Self { depth, run, outlives, worker })
    }

    /// Reads a mark; `None` if there is none.
    ///
    /// The hard limit decides. The soft limit may not match it, if PAM reset it or the process
    /// lowered it. That costs only the worker's number.
    #[must_use]
    pub fn decode(limits: Limits) -> Option<Self> {
        let hard = limits.hard;
        if hard >> MAGIC_SHIFT != MAGIC || hard & ANY_WORKER != ANY_WORKER {
            return None;
        }
        let run = RunId::from_number((hard >> RUN_SHIFT) & RUN_MASK)?;
        let worker = if limits.soft | ANY_WORKER == hard {
            WorkerNumber::new((limits.soft & ANY_WORKER) as u16)
        } else {
            None
        };
        Some(Self {
            depth: ((hard >> DEPTH_SHIFT) & 7) as u8,
            run,
            outlives: hard & OUTLIVES != 0,
            worker,
        })
    }

    /// Returns the limits that carry this mark.
    #[must_use]
    pub fn limits(self) -> Limits {
        let base = (MAGIC << MAGIC_SHIFT)
            | (u64::from(self.depth) << DEPTH_SHIFT)
            | (self.run.number() << RUN_SHIFT)
            | if self.outlives { OUTLIVES } else { 0 };
        let number = self.worker.map_or(ANY_WORKER, |worker| u64::from(worker.get()));
        Limits { soft: base | number, hard: base | ANY_WORKER }
    }

    /// The run.
    #[must_use]
    pub fn run(self) -> RunId {
        self.run
    }

    /// The worker; `None` if the soft limit lost it, or if the shim was started without a number.
    #[must_use]
    pub fn worker(self) -> Option<WorkerNumber> {
        self.worker
    }

    /// Whether the process outlives its VM on purpose (detached or kept). No sweep ends such a
    /// process.
    #[must_use]
    pub fn outlives(self) -> bool {
        self.outlives
    }

    /// The number of runs that can still nest in this one: 7 for the outermost, 0 for the last.
    #[must_use]
    pub fn depth(self) -> u8 {
        self.depth
    }
}

impl fmt::Display for NoDepthLeft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("eight runs are nested in one another already, a mark can count no more")
    }
}

impl core::error::Error for NoDepthLeft {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_can_be_taken_back_without_raising_a_limit() {
        let mark =
            Mark { depth: 0, run: RunId::from_number(1).unwrap(), outlives: false, worker: None };
        assert!(Mark::NONE_BELOW.hard < mark.limits().hard);
        assert_eq!(Mark::decode(Mark::NONE_BELOW), None);
    }
    use proptest::prelude::*;

    fn run(text: &str) -> RunId {
        text.parse().unwrap()
    }

    fn any_run() -> impl Strategy<Value = RunId> {
        (1..RunId::COUNT).prop_map(|number| RunId::from_number(number).unwrap())
    }

    fn any_worker() -> impl Strategy<Value = Option<WorkerNumber>> {
        proptest::option::of((1..=WorkerNumber::MAX).prop_map(|n| WorkerNumber::new(n).unwrap()))
    }

    #[test]
    fn unmarked_and_ordinary_limits_carry_no_mark() {
        for value in [u64::MAX, 0, 1, 10, 4096, i64::MAX as u64] {
            assert_eq!(Mark::decode(Limits { soft: value, hard: value }), None);
        }
        let mark =
            Mark::nested_in(Limits::UNLIMITED, run("s59m65f"), WorkerNumber::new(1), false)
                .unwrap();
        let soft_only = Limits { soft: mark.limits().soft, hard: u64::MAX };
        assert_eq!(Mark::decode(soft_only), None, "a soft limit alone is no mark");
    }

    #[test]
    fn a_reset_soft_limit_costs_the_number_only() {
        let mark = Mark::nested_in(Limits::UNLIMITED, run("s59m65f"), WorkerNumber::new(9), true)
            .unwrap();
        for soft in [mark.limits().hard, 0, 1024] {
            let seen = Mark::decode(Limits { soft, hard: mark.limits().hard }).unwrap();
            assert_eq!((seen.run(), seen.worker(), seen.outlives()), (mark.run(), None, true));
        }
    }

    #[test]
    fn eight_runs_nest_and_the_ninth_is_refused() {
        let mut limits = Limits::UNLIMITED;
        for depth in (0..=7).rev() {
            let mark =
                Mark::nested_in(limits, run("zzzzzzz"), WorkerNumber::new(32766), true).unwrap();
            assert_eq!(mark.depth(), depth);
            limits = mark.limits();
        }
        assert_eq!(Mark::nested_in(limits, run("0000001"), None, false), Err(NoDepthLeft));
    }

    proptest! {
        #[test]
        fn reads_back_what_it_wrote(run in any_run(), worker in any_worker(), outlives: bool) {
            let mark = Mark::nested_in(Limits::UNLIMITED, run, worker, outlives).unwrap();
            prop_assert_eq!(Mark::decode(mark.limits()), Some(mark));
        }

        #[test]
        fn nesting_never_raises_a_limit_and_soft_never_exceeds_hard(
            outer in any_run(), inner in any_run(),
            outer_worker in any_worker(), inner_worker in any_worker(),
            outer_outlives: bool, inner_outlives: bool,
        ) {
            let outer = Mark::nested_in(Limits::UNLIMITED, outer, outer_worker, outer_outlives).unwrap().limits();
            let inner = Mark::nested_in(outer, inner, inner_worker, inner_outlives).unwrap().limits();
            prop_assert!(outer.soft <= outer.hard && inner.soft <= inner.hard);
            prop_assert!(inner.hard < outer.hard);
        }

        #[test]
        fn any_limits_decode_to_nothing_or_to_themselves(soft: u64, hard: u64) {
            if let Some(mark) = Mark::decode(Limits { soft, hard }) {
                prop_assert_eq!(mark.limits().hard, hard);
            }
        }
    }
}
