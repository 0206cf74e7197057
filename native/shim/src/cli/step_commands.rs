//! The places of the ladder's commands on the command line. Each is `--step=COUNT` and COUNT
//! arguments. They follow each other, and are the last options before `--`.
//!
//! They come last so that other programs can stop at the first of them when they read a shim's
//! options. The arguments behind it belong to another program and may look like anything. The
//! shim reads them again when it needs them, so that they take no memory until then.

use core::ffi::CStr;

use leash_tag::parse_number;

use super::arg_error::ArgError;

/// The most arguments of one command, its program included.
pub(crate) const MAX_ARGUMENTS: usize = 32;

/// The option, its `=` included.
const OPTION: &[u8] = b"--step=";

/// One command: the index of its program in the argument vector, and its number of arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StepCommand {
    /// The index of its program in the argument vector.
    pub(crate) first: usize,
    /// The number of its arguments, the program included.
    pub(crate) count: usize,
}

/// All commands of a command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepCommands {
    /// The index of the first option, 0 while there is none.
    begin: usize,
    count: usize,
}

impl StepCommands {
    /// Returns the number of commands.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Takes the command that begins with this argument out of the arguments that follow. Returns
    /// `false` if the argument begins none.
    ///
    /// # Errors
    ///
    /// The count is no number or too large, or fewer arguments follow than it says.
    pub(crate) fn take<'a>(
        &mut self,
        index: usize,
        arg: &'a CStr,
        rest: &mut impl Iterator<Item = (usize, &'a CStr)>,
    ) -> Result<bool, ArgError<'a>> {
        let Some(value) = arg.to_bytes().strip_prefix(OPTION) else { return Ok(false) };
        let wrong = |expected| ArgError { option: b"--step", expected, value };
        let count = length(arg).ok_or(wrong("a number of arguments, 1 to 32"))?;
        let mut rest = rest.take(count);
        let program = rest.next();
        if program.is_some_and(|(_, program)| program.is_empty()) {
            return Err(wrong("a program as the first argument after it"));
        }
        if program.is_none() || rest.count() + 1 < count {
            return Err(wrong("as many arguments after it as it says"));
        }
        if self.count == 0 {
            self.begin = index;
        }
        self.count += 1;
        Ok(true)
    }

    /// Returns the command with this number, counted from 0, among the same arguments.
    pub(crate) fn nth<'a>(
        &self,
        number: usize,
        args: impl Iterator<Item = &'a CStr>,
    ) -> Option<StepCommand> {
        if number >= self.count {
            return None;
        }
        let mut args = args.skip(self.begin);
        let mut at = self.begin;
        for _ in 0..number {
            let count = length(args.next()?)?;
            args.nth(count.checked_sub(1)?)?;
            at += count + 1;
        }
        Some(StepCommand { first: at + 1, count: length(args.next()?)? })
    }
}

/// Returns the COUNT of `--step=COUNT`.
fn length(arg: &CStr) -> Option<usize> {
    let count = parse_number(arg.to_bytes().strip_prefix(OPTION)?)?;
    (1..=MAX_ARGUMENTS).contains(&count).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::ffi::CString;
    use std::string::String;
    use std::vec::Vec;

    fn strings(args: &[String]) -> Vec<CString> {
        args.iter().map(|arg| CString::new(arg.as_str()).unwrap()).collect()
    }

    /// Reads the commands at the front. Returns them and the index of the argument behind them.
    fn read(args: &[CString]) -> Result<(StepCommands, usize), ArgError<'_>> {
        let mut commands = StepCommands::default();
        let mut rest = args.iter().map(CString::as_c_str).enumerate().skip(1);
        while let Some((index, arg)) = rest.next() {
            if !commands.take(index, arg, &mut rest)? {
                return Ok((commands, index));
            }
        }
        Ok((commands, args.len()))
    }

    proptest! {
        /// The commands may be anything: `--` and options may be among their arguments.
        #[test]
        fn what_was_written_is_read(
            commands in proptest::collection::vec(
                ("[a-z/-]{1,5}", proptest::collection::vec("-{0,2}(step=)?[a-z0-9=]{0,4}", 0..=31)), 0..=8)
        ) {
            let mut args = std::vec![String::from("leash-shim")];
            for (program, arguments) in &commands {
                args.push(std::format!("--step={}", arguments.len() + 1));
                args.push(program.clone());
                args.extend(arguments.iter().cloned());
            }
            args.push("--".into());
            let args = strings(&args);
            let (found, end) = read(&args).unwrap();
            prop_assert_eq!((found.count(), end), (commands.len(), args.len() - 1));
            for (number, (program, arguments)) in commands.iter().enumerate() {
                let command = found.nth(number, args.iter().map(CString::as_c_str)).unwrap();
                let part = &args[command.first..command.first + command.count];
                let mut written = std::vec![program.clone()];
                written.extend(arguments.iter().cloned());
                prop_assert_eq!(part, &strings(&written)[..]);
            }
            prop_assert_eq!(found.nth(commands.len(), args.iter().map(CString::as_c_str)), None);
        }

        #[test]
        fn nothing_panics(args in proptest::collection::vec("(--step=[0-9]{0,3})?[ -~]{0,4}", 0..12)) {
            let args = strings(&args);
            if let Ok((commands, _)) = read(&args) {
                for number in 0..4 {
                    let _ = commands.nth(number, args.iter().skip(1).map(CString::as_c_str));
                }
            }
        }
    }

    #[test]
    fn numbers_that_are_none_are_refused() {
        for count in ["", "0", "33", "-1", "+1", "1x", "99999999999999999999999"] {
            let mut args = std::vec![String::from("leash-shim"), std::format!("--step={count}")];
            args.extend((0..40).map(|_| String::from("x")));
            let args = strings(&args);
            assert_eq!(read(&args).unwrap_err().option, b"--step", "{count}");
        }
    }
}
