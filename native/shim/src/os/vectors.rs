//! The program's arguments and environment, and exec with them.
#![allow(unsafe_code)]

use core::ffi::{CStr, c_char};
use rustix::io::Errno;
use syscalls::{Sysno, syscall};

use super::errno;

/// The argument vector and environment of this process.
#[derive(Clone, Copy, Debug)]
pub struct Vectors {
    argc: usize,
    argv: *const *const c_char,
    envp: *const *const c_char,
}

impl Vectors {
    /// Takes over the vectors that the kernel put on the stack.
    ///
    /// # Safety
    ///
    /// `argv` has `argc` valid strings and `envp` is null-terminated; both live for ever.
    #[must_use]
    pub unsafe fn new(
        argc: usize,
        argv: *const *const c_char,
        envp: *const *const c_char,
    ) -> Self {
        Self { argc, argv, envp }
    }

    /// Returns the arguments, program name included.
    pub(crate) fn args(self) -> impl Iterator<Item = &'static CStr> {
        // SAFETY: in bounds, valid and never freed, by the contract of `new`.
        (0..self.argc).map(move |index| unsafe { CStr::from_ptr(*self.argv.add(index)) })
    }

    /// Overwrites the arguments from an index on with NULs, in `/proc/<pid>/cmdline` too.
    ///
    /// No reference to one of them may be used any more, and no child may be in this memory.
    pub(crate) fn wipe(self, first: usize) {
        for index in first..self.argc {
            // SAFETY: below argc; the strings lie in this process's stack segment, writable, and
            // end in NUL.
            unsafe {
                let arg = *self.argv.add(index);
                arg.cast_mut().write_bytes(0, CStr::from_ptr(arg).count_bytes());
            }
        }
    }

    /// Returns the value of an environment variable.
    pub(crate) fn env(self, name: &[u8]) -> Option<&'static [u8]> {
        let mut entries = (0..).map_while(|index| {
            // SAFETY: `envp` is null-terminated, and this ends at the null.
            let entry = unsafe { *self.envp.add(index) };
            // SAFETY: a valid string that is never freed, by the contract of `new`.
            (!entry.is_null()).then(|| unsafe { CStr::from_ptr(entry) }.to_bytes())
        });
        entries.find_map(|entry| entry.strip_prefix(name)?.strip_prefix(b"="))
    }

    /// Replaces this process by `path`, with the arguments from `first` on. Returns only on
    /// failure.
    ///
    /// `arg0` stands in for the first of them.
    pub(crate) fn exec(self, path: &CStr, first: usize, arg0: Option<&CStr>) -> Errno {
        // SAFETY: `first < argc`, and the vector is null-terminated behind argc (execve(2)), so
        // the tail is a valid argument vector.
        let argv = unsafe { self.argv.add(first) };
        if let Some(name) = arg0 {
            // SAFETY: the vector lies on this process's own stack segment, writable; one thread.
            unsafe { *argv.cast_mut() = name.as_ptr() };
        }
        // SAFETY: all three are valid, null-terminated and live across the call.
        let result = unsafe { syscall!(Sysno::execve, path.as_ptr(), argv, self.envp) };
        result.err().map_or(Errno::NOEXEC, errno)
    }

    /// Replaces this process by `path`, with `count` arguments from `first` on. Returns only on
    /// failure. `N` is more than `count`.
    pub(crate) fn exec_part<const N: usize>(
        self,
        path: &CStr,
        first: usize,
        count: usize,
    ) -> Errno {
        // The vector goes on behind the part, so a copy is needed that ends in a null.
        let mut argv = [core::ptr::null::<c_char>(); N];
        let indices = first..self.argc.min(first.saturating_add(count));
        for (place, index) in argv.iter_mut().take(N - 1).zip(indices) {
            // SAFETY: below argc.
            *place = unsafe { *self.argv.add(index) };
        }
        // SAFETY: all three are valid, null-terminated and live across the call.
        let result = unsafe { syscall!(Sysno::execve, path.as_ptr(), argv.as_ptr(), self.envp) };
        result.err().map_or(Errno::NOEXEC, errno)
    }
}
