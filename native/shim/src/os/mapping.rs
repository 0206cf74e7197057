//! Memory of its own, which costs only the part in use. There is no allocator.
#![allow(unsafe_code)]

use core::ffi::c_void;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// An anonymous mapping that is unmapped on drop.
pub(crate) struct Mapping {
    start: *mut c_void,
    len: usize,
}

impl Mapping {
    /// Maps `len` bytes of zeros, for reading and writing.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(len: usize, flags: MapFlags) -> Result<Self, Errno> {
        Self::with_access(len, ProtFlags::READ | ProtFlags::WRITE, flags)
    }

    /// Maps `len` bytes with this access.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn with_access(
        len: usize,
        access: ProtFlags,
        flags: MapFlags,
    ) -> Result<Self, Errno> {
        let flags = MapFlags::PRIVATE | flags;
        // SAFETY: the kernel chooses an address that nothing else has.
        let start = unsafe { mmap_anonymous(core::ptr::null_mut(), len, access, flags) }?;
        Ok(Self { start, len })
    }

    /// Returns the address at an offset.
    pub(crate) fn at<T>(&self, offset: usize) -> *mut T {
        self.start.wrapping_byte_add(offset).cast()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the whole mapping and nothing else.
        let _ = unsafe { munmap(self.start, self.len) };
    }
}
