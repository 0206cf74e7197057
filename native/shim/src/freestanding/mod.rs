//! What a program without libc has to bring: its entry point, and the memory functions that the
//! compiler calls.

mod entry;
mod mem_functions;
