//! The program that a warden starts: its arguments and variables, as execve(2) takes them.
#![allow(unsafe_code)]

use core::ffi::c_char;
use core::marker::PhantomData;
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use rustix::mm::MapFlags;
use syscalls::{Sysno, syscall};

use super::errno;
use super::mapping::Mapping;

/// Room for one program at a time.
pub(crate) struct Arena(Mapping);

impl Arena {
    /// The most strings.
    const STRINGS: usize = 2_046;

    /// Bytes of pointers, with the nulls behind the two vectors.
    const VECTOR: usize = (Self::STRINGS + 2) * size_of::<usize>();

    /// The most bytes of text.
    const TEXT: usize = 32 * 1024;

    /// Maps the memory.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Self, Errno> {
        Mapping::new(Self::VECTOR + Self::TEXT, MapFlags::NORESERVE).map(Self)
    }

    /// Returns the place for the text.
    pub(crate) fn text(&mut self) -> &mut [u8] {
        // SAFETY: inside the mapping, zero or written, and used by this value alone.
        unsafe { core::slice::from_raw_parts_mut(self.0.at(Self::VECTOR), Self::TEXT) }
    }

    /// Returns the program that the first bytes of the text are.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the number of strings differs from that, or if there is no argument; `E2BIG`
    /// if there is no room for them.
    pub(crate) fn program(
        &mut self,
        bytes: usize,
        arguments: usize,
        variables: usize,
    ) -> Result<Program<'_>, Errno> {
        if arguments.saturating_add(variables) > Self::STRINGS {
            return Err(Errno::TOOBIG);
        }
        let vector = self.0.at(0);
        let text = self.text().get(..bytes).ok_or(Errno::TOOBIG)?;
        // SAFETY: the vector has room for them and the two nulls.
        unsafe { index(vector, text, arguments, variables) }?;
        Ok(Program { vector, arguments, _memory: Memory::Arena(PhantomData) })
    }
}

/// Arguments and variables of a program. The first argument names it.
pub(crate) struct Program<'a> {
    vector: *const *const c_char,
    arguments: usize,
    _memory: Memory<'a>,
}

/// The memory that must live as long as the program.
enum Memory<'a> {
    Arena(PhantomData<&'a Arena>),
    Own(#[expect(dead_code, reason = "it is unmapped on drop")] Mapping),
}

impl Program<'_> {
    /// Reads the texts from the beginning of a file.
    ///
    /// # Errors
    ///
    /// `E2BIG` above 16 MiB, which the kernel accepts for no program. `EINVAL` if the number of
    /// strings differs from that, or if there is no argument. `ENOMEM`; the errors of reading.
    pub(crate) fn read(
        file: BorrowedFd<'_>,
        arguments: usize,
        variables: usize,
    ) -> Result<Self, Errno> {
        const MOST: usize = 16 << 20;
        let bytes =
            usize::try_from(rustix::fs::fstat(file)?.st_size).map_err(|_| Errno::INVAL)?;
        let pointers = arguments.saturating_add(variables).saturating_add(2);
        let strings = pointers.saturating_mul(size_of::<usize>());
        let len = strings.saturating_add(bytes);
        if len > MOST {
            return Err(Errno::TOOBIG);
        }
        let memory = Mapping::new(len, MapFlags::empty())?;
        // SAFETY: inside the mapping, zero or written by the kernel, and used by this value
        // alone.
        let text = unsafe { core::slice::from_raw_parts_mut(memory.at::<u8>(strings), bytes) };
        let mut have = 0usize;
        while have < bytes {
            match rustix::io::pread(file, text.get_mut(have..).unwrap_or_default(), have as u64) {
                Ok(0) => return Err(Errno::INVAL),
                Ok(len) => have += len,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        let vector = memory.at(0);
        // SAFETY: `pointers` of them lie before the text.
        unsafe { index(vector, text, arguments, variables) }?;
        Ok(Self { vector, arguments, _memory: Memory::Own(memory) })
    }

    /// Replaces this process by the program. Returns only on failure.
    pub(crate) fn exec(&self) -> Errno {
        // SAFETY: both vectors end in a null and their strings in a NUL, by `index`, and live
        // across the call.
        let result = unsafe {
            let variables = self.vector.add(self.arguments + 1);
            syscall!(Sysno::execve, *self.vector, self.vector, variables)
        };
        result.err().map_or(Errno::NOEXEC, errno)
    }
}

/// Writes a pointer to each string, and a null behind the arguments and behind the variables.
///
/// # Safety
///
/// `vector` has room for all of them.
unsafe fn index(
    vector: *mut *const c_char,
    text: &[u8],
    arguments: usize,
    variables: usize,
) -> Result<(), Errno> {
    let (mut count, mut rest) = (0usize, text);
    while let Some(end) = rest.iter().position(|&byte| byte == 0) {
        if count == arguments + variables {
            return Err(Errno::INVAL);
        }
        let index = if count < arguments { count } else { count + 1 };
        // SAFETY: one of those places.
        unsafe { vector.add(index).write(rest.as_ptr().cast()) };
        count += 1;
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    // SAFETY: as above.
    unsafe {
        vector.add(arguments).write(core::ptr::null());
        vector.add(arguments + variables + 1).write(core::ptr::null());
    }
    let all = count == arguments + variables && rest.is_empty() && arguments > 0;
    if all { Ok(()) } else { Err(Errno::INVAL) }
}
