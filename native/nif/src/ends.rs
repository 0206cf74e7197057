//! The ends of a worker's standard streams: pipes, the VM's own descriptors, or a terminal.

use crate::terminal::{self, Terminal};
use crate::terms::atoms;
use crate::terms::failure::Reason;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustler::{Atom, Decoder, NifResult, Term};
use std::os::fd::OwnedFd;

/// The source of one of the worker's descriptors.
enum End {
    /// The shim provides it.
    None,
    /// A new pipe.
    Pipe,
    /// The VM's own descriptor.
    Own,
}

/// The sources of all three.
enum Source {
    /// One for each of stdin, stdout and stderr.
    Each([End; 3]),
    /// A new terminal for all of them.
    Terminal(Terminal),
}

/// The sources of stdin, stdout and stderr, as `{stdin, stdout, stderr}` or
/// `{:terminal, rows, cols, echo?}`.
pub(crate) struct Ends(Source);

/// Descriptors that were opened for a worker.
#[derive(Default)]
pub(crate) struct Opened {
    /// The bits of those that the worker gets.
    pub(crate) mask: u8,
    /// The worker's ends.
    pub(crate) theirs: [Option<OwnedFd>; 3],
    /// The VM's ends.
    pub(crate) ours: [Option<OwnedFd>; 3],
}

impl<'a> Decoder<'a> for Ends {
    fn decode(term: Term<'a>) -> NifResult<Self> {
        if let Ok((kind, rows, cols, echo)) = term.decode::<(Atom, u16, u16, bool)>() {
            let terminal = Terminal { rows, cols, echo };
            let is_terminal = kind == atoms::terminal();
            return is_terminal
                .then_some(Self(Source::Terminal(terminal)))
                .ok_or(rustler::Error::BadArg);
        }
        let (stdin, stdout, stderr) = term.decode::<(Atom, Atom, Atom)>()?;
        Ok(Self(Source::Each([end(stdin)?, end(stdout)?, end(stderr)?])))
    }
}

fn end(atom: Atom) -> NifResult<End> {
    match atom {
        atom if atom == atoms::none() => Ok(End::None),
        atom if atom == atoms::pipe() => Ok(End::Pipe),
        atom if atom == atoms::inherit() => Ok(End::Own),
        _ => Err(rustler::Error::BadArg),
    }
}

impl Ends {
    /// Opens the descriptors.
    pub(crate) fn open(&self) -> Result<Opened, Reason> {
        match &self.0 {
            Source::Each(ends) => Ok(open_each(ends)?),
            Source::Terminal(terminal) => open_terminal(terminal).map_err(Reason::Terminal),
        }
    }
}

fn open_each(ends: &[End; 3]) -> Result<Opened, Errno> {
    let mut opened = Opened::default();
    for (index, end) in ends.iter().enumerate() {
        let (Some(theirs), Some(ours)) =
            (opened.theirs.get_mut(index), opened.ours.get_mut(index))
        else {
            continue;
        };
        match end {
            End::None => continue,
            End::Own => {
                *theirs = Some(rustix::io::fcntl_dupfd_cloexec(crate::sys::standard(index), 3)?)
            }
            End::Pipe => {
                let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
                let (worker, vm) = if index == 0 { (read, write) } else { (write, read) };
                // This affects only our end: the two ends of a pipe are different open file
                // descriptions (pipe(7)).
                rustix::io::ioctl_fionbio(&vm, true)?;
                (*theirs, *ours) = (Some(worker), Some(vm));
            }
        }
        opened.mask |= 1 << index;
    }
    Ok(opened)
}

/// Opens a terminal. The worker's end is one descriptor, which its shim makes all three streams.
/// The VM gets the master twice, since one process writes and another one reads.
fn open_terminal(terminal: &Terminal) -> Result<Opened, Errno> {
    let (master, slave) = terminal::open(terminal)?;
    let writer = rustix::io::fcntl_dupfd_cloexec(&master, 3)?;
    Ok(Opened {
        mask: 1,
        theirs: [Some(slave), None, None],
        ours: [Some(writer), Some(master), None],
    })
}
