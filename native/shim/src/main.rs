//! `leash-shim`: entry point and the runtime that a program without libc has to bring.
#![no_std]
#![no_main]

use leash_shim::sys;

mod memory;
mod start;

/// Called by `_start` with the stack pointer that the kernel gave: argc, argv, null, envp, null.
///
/// # Safety
///
/// `stack` is the initial stack pointer of the process.
unsafe extern "C" fn main(stack: *const usize) -> ! {
    // SAFETY: the kernel puts argc there, the argument pointers behind it, a null, and the environment.
    let vectors = unsafe {
        let argc = *stack;
        let argv = stack.add(1);
        let envp = argv.add(argc + 1);
        sys::Vectors::new(argc, argv.cast(), envp.cast())
    };
    sys::exit(leash_shim::run(vectors))
}

/// No panic is reachable by intent; if one is, the shim ends, and with it (PDEATHSIG) the worker, and the VM
/// and the warden that started it, or the next sweep ends the rest.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    sys::exit(125)
}
