//! `_start`: hands the initial stack pointer to Rust, aligned as the ABI wants it.
//!
//! Between that and the stack of Rust it leaves room for the child's stack. The room is beside pages that are in
//! use anyway and costs no mapping; the part that nobody touches costs nothing.

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "mov rsi, rsp",
    "sub rsp, {room}",
    "call {main}",
    "ud2",
    main = sym crate::main,
    room = const leash_shim::sys::CHILD_STACK,
);

#[cfg(target_arch = "aarch64")]
core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, #0",
    "mov x30, #0",
    "mov x0, sp",
    "and x1, x0, #-16",
    "sub sp, x1, {room}",
    "bl {main}",
    "brk #1",
    main = sym crate::main,
    room = const leash_shim::sys::CHILD_STACK,
);
