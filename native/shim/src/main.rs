//! `leash-shim`: entry point and the runtime that a program without libc has to bring.
#![no_std]
#![no_main]

mod freestanding;

/// Called by `_start` with the stack pointer that the kernel gave: argc, argv, null, envp, null.
///
/// # Safety
///
/// `stack` is the initial stack pointer of the process.
unsafe extern "C" fn main(stack: *const usize) -> ! {
    // SAFETY: the kernel puts argc there, the argument pointers behind it, a null, and the
    // environment.
    let vectors = unsafe {
        let argc = *stack;
        let argv = stack.add(1);
        let envp = argv.add(argc + 1);
        leash_shim::Vectors::new(argc, argv.cast(), envp.cast())
    };
    leash_shim::exit(leash_shim::run(vectors))
}

/// Ends the shim, and with it (PDEATHSIG) the worker. The VM and the warden that started the
/// shim, or the next sweep, end the rest. No panic is reachable by intent.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    leash_shim::exit(125)
}
