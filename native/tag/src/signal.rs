//! Signal numbers and names (signal(7); they are the same on x86-64 and aarch64).

use crate::parse_number;

/// Hang-up of the terminal.
pub const HUP: u8 = 1;
/// Ctrl-C.
pub const INT: u8 = 2;
/// Ctrl-\.
pub const QUIT: u8 = 3;
/// Ends a process for certain.
pub const KILL: u8 = 9;
/// A write to a pipe without a reader.
pub const PIPE: u8 = 13;
/// Asks a process to end.
pub const TERM: u8 = 15;
/// A child ended or stopped.
pub const CHLD: u8 = 17;
/// Lets a stopped process run.
pub const CONT: u8 = 18;
/// Stops a process for certain.
pub const STOP: u8 = 19;
/// Ctrl-Z.
pub const TSTP: u8 = 20;
/// Urgent data at a socket. Ignored by default.
pub const URG: u8 = 23;
/// The highest number, of a real-time signal.
pub const MAX: u8 = 64;

/// The names of the standard signals, from number 1 on.
const NAMES: [&[u8]; 31] = [
    b"HUP", b"INT", b"QUIT", b"ILL", b"TRAP", b"ABRT", b"BUS", b"FPE", b"KILL", b"USR1", b"SEGV",
    b"USR2", b"PIPE", b"ALRM", b"TERM", b"STKFLT", b"CHLD", b"CONT", b"STOP", b"TSTP", b"TTIN",
    b"TTOU", b"URG", b"XCPU", b"XFSZ", b"VTALRM", b"PROF", b"WINCH", b"IO", b"PWR", b"SYS",
];

/// Returns the number of a signal, given by its number or its name, with or without `SIG`.
#[must_use]
pub fn number(text: &[u8]) -> Option<u8> {
    let name = text.strip_prefix(b"SIG").unwrap_or(text);
    let by_name = (1..).zip(NAMES).find(|(_, known)| *known == name).map(|(number, _)| number);
    by_name.or_else(|| parse_number(text).filter(|number| (1..=MAX).contains(number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_those_of_the_kernel() {
        for (text, number) in [
            ("HUP", HUP),
            ("INT", INT),
            ("QUIT", QUIT),
            ("SIGKILL", KILL),
            ("PIPE", PIPE),
            ("TERM", TERM),
            ("SIGCHLD", CHLD),
            ("CONT", CONT),
            ("STOP", STOP),
            ("TSTP", TSTP),
            ("URG", URG),
            ("SYS", 31),
            ("64", MAX),
            ("015", TERM),
        ] {
            assert_eq!(super::number(text.as_bytes()), Some(number), "{text}");
        }
        for text in ["", "SIG", "term", "SIGSIGTERM", "0", "65", "-1", "+1", "SIG9", "256"] {
            assert_eq!(super::number(text.as_bytes()), None, "{text}");
        }
    }
}
