//! The specification of a hunt, from a map with atom keys. If a key is missing, a harmless
//! default replaces it where there is one.

use super::args::{List, path};
use super::atoms;
use leash_core::{
    Adopted, CleanupKind, CleanupSpec, Identity, Ladder, Mode, Pid, RunDir, Signal, Workers,
};
use leash_tag::RunId;
use rustler::{Atom, Binary, Decoder, Term};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(10);

/// The reason why there is no hunt: the value of this key, or its absence.
pub(crate) struct Wrong(pub(crate) Atom);

/// Reads a specification.
pub(crate) fn hunt(map: Term<'_>) -> Result<CleanupSpec, Wrong> {
    let map = Map(map);
    let (run_dir, records_unusable) = map.run_dir()?;
    Ok(CleanupSpec {
        kind: map.kind()?,
        ladder: map.ladder()?,
        deadline: map.get::<u64>(atoms::deadline())?.map_or(DEADLINE, Duration::from_millis),
        run_dir,
        records_unusable,
    })
}

struct Map<'a>(Term<'a>);

impl<'a> Map<'a> {
    /// Returns the value of a key. `nil` and a missing key are the same.
    fn get<T: Decoder<'a>>(&self, key: Atom) -> Result<Option<T>, Wrong> {
        match self.0.map_get(key) {
            Ok(value) if Atom::from_term(value).is_ok_and(|atom| atom == atoms::nil()) => {
                Ok(None)
            }
            Ok(value) => value.decode().map(Some).map_err(|_| Wrong(key)),
            Err(_) => Ok(None),
        }
    }

    fn require<T: Decoder<'a>>(&self, key: Atom) -> Result<T, Wrong> {
        self.get(key)?.ok_or(Wrong(key))
    }

    fn kind(&self) -> Result<CleanupKind, Wrong> {
        let kind: Atom = self.require(atoms::kind())?;
        if kind == atoms::workers() {
            self.workers().map(CleanupKind::Worker)
        } else if kind == atoms::run() {
            Ok(CleanupKind::Run {
                run: self.run(atoms::run_id())?.ok_or(Wrong(atoms::run_id()))?,
                own_run: self.run(atoms::own_run_id())?,
                outliving: self.get(atoms::outliving())?.unwrap_or(false),
            })
        } else if kind == atoms::sweep() {
            // For a sweep, `run_id` is the caller's own run.
            Ok(CleanupKind::Sweep {
                own_run: self.run(atoms::run_id())?,
                app: self.app()?,
                mode: self.mode()?,
            })
        } else if kind == atoms::process() {
            self.process().map(CleanupKind::Process)
        } else {
            Err(Wrong(atoms::kind()))
        }
    }

    fn workers(&self) -> Result<Workers, Wrong> {
        let numbers: List<u16> = self.require(atoms::workers())?;
        Ok(Workers {
            run: self.run(atoms::run_id())?.ok_or(Wrong(atoms::run_id()))?,
            numbers: HashSet::from_iter(numbers),
            outliving: HashSet::from_iter(
                self.get::<List<u16>>(atoms::outliving())?.unwrap_or_default(),
            ),
            adopted: self.adopted()?,
            unmarked: HashSet::from_iter(
                self.get::<List<u16>>(atoms::unmarked())?.unwrap_or_default(),
            ),
            attached: HashSet::from_iter(
                self.get::<List<u16>>(atoms::attached())?.unwrap_or_default(),
            ),
        })
    }

    /// Reads a tree of another run: the start of its shim and the depth of its mark.
    fn adopted(&self) -> Result<Option<Adopted>, Wrong> {
        let adopted: Option<(u64, u8)> = self.get(atoms::adopted())?;
        Ok(adopted.map(|(start_ticks, depth)| Adopted { start_ticks, depth }))
    }

    fn process(&self) -> Result<Identity, Wrong> {
        let pid = Pid::new(self.require(atoms::pid())?).ok_or(Wrong(atoms::pid()))?;
        let start_ticks = self.require(atoms::start_ticks())?;
        Ok(Identity { pid, start_ticks, pidfs_inode: self.get(atoms::pidfs_inode())? })
    }

    fn run(&self, key: Atom) -> Result<Option<RunId>, Wrong> {
        let text: Option<Binary<'a>> = self.get(key)?;
        text.map(|text| RunId::parse(&text).ok_or(Wrong(key))).transpose()
    }

    /// Returns the application's name, if the scope is only the application.
    fn app(&self) -> Result<Option<String>, Wrong> {
        match self.get::<Atom>(atoms::scope())? {
            None => Ok(None),
            Some(scope) if scope == atoms::user() => Ok(None),
            Some(scope) if scope == atoms::app() => self.require(atoms::app()).map(Some),
            Some(_) => Err(Wrong(atoms::scope())),
        }
    }

    fn mode(&self) -> Result<Mode, Wrong> {
        match self.get::<Atom>(atoms::mode())? {
            None => Ok(Mode::End),
            Some(mode) if mode == atoms::end() => Ok(Mode::End),
            Some(mode) if mode == atoms::report() => Ok(Mode::Report),
            Some(_) => Err(Wrong(atoms::mode())),
        }
    }

    fn ladder(&self) -> Result<Ladder, Wrong> {
        let wrong = || Wrong(atoms::ladder());
        let Some(steps) = self.get::<List<(i32, u64)>>(atoms::ladder())? else {
            return Ok(Ladder::default());
        };
        let steps = steps.into_iter().map(|(signal, wait)| {
            Signal::from_number(signal)
                .map(|signal| (signal, Duration::from_millis(wait)))
                .ok_or_else(wrong)
        });
        Ok(Ladder::new(steps.collect::<Result<_, _>>()?))
    }

    /// Returns the directory, and whether a directory was named that cannot be used. The hunt
    /// goes on without it.
    fn run_dir(&self) -> Result<(Option<Arc<RunDir>>, bool), Wrong> {
        let Some(dir) = self.get::<Binary<'a>>(atoms::run_dir())? else {
            return Ok((None, false));
        };
        match RunDir::open(path(&dir)) {
            Ok(dir) => Ok((Some(Arc::new(dir)), false)),
            Err(_) => Ok((None, true)),
        }
    }
}
