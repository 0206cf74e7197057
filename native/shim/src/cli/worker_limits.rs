//! WorkerLimits that the command gets before its exec (`--limits=`).

use leash_tag::parse_number;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};

/// The names, as setrlimit(2) has them behind `RLIMIT_`, and the resources.
const RESOURCES: [(&[u8], Resource); 6] = [
    (b"NOFILE", Resource::Nofile),
    (b"NPROC", Resource::Nproc),
    (b"CORE", Resource::Core),
    (b"FSIZE", Resource::Fsize),
    (b"CPU", Resource::Cpu),
    (b"AS", Resource::As),
];

/// The values to set; the default limits nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerLimits {
    values: [Option<u64>; RESOURCES.len()],
    nice: Option<i8>,
}

impl WorkerLimits {
    /// Parses `NAME:VALUE` pairs, separated by commas, each name at most once.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let mut limits = Self::default();
        for part in text.split(|&byte| byte == b',') {
            let colon = part.iter().position(|&byte| byte == b':')?;
            let (name, value) = (part.get(..colon)?, part.get(colon + 1..)?);
            let is_new = if name == b"NICE" {
                let nice = parse_number(value).filter(|nice| (-20..=19).contains(nice))?;
                limits.nice.replace(nice).is_none()
            } else {
                let index = RESOURCES.iter().position(|(known, _)| *known == name)?;
                limits.values.get_mut(index)?.replace(parse_number(value)?).is_none()
            };
            is_new.then_some(())?;
        }
        Some(limits)
    }

    /// Limits this process. It sets soft and hard limits, so that the command cannot raise them.
    ///
    /// # Errors
    ///
    /// `EPERM`, `EACCES`: a limit above the present one, without the capability.
    pub(crate) fn set(self) -> Result<(), Errno> {
        for (value, (_, resource)) in self.values.into_iter().zip(RESOURCES) {
            if value.is_some() {
                let limit = Rlimit { current: value, maximum: value };
                rustix::process::setrlimit(resource, limit)?;
            }
        }
        match self.nice {
            Some(nice) => rustix::process::setpriority_process(None, i32::from(nice)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_and_values_each_once() {
        let limits = WorkerLimits::parse(b"NOFILE:8192,CORE:0,NICE:-5").unwrap();
        assert_eq!(limits.values, [Some(8192), None, Some(0), None, None, None]);
        assert_eq!(limits.nice, Some(-5));
        for bad in [
            &b""[..],
            b"NOFILE",
            b"NOFILE:",
            b"NOFILE:-1",
            b"NOFILE:+1",
            b"NOFILE:1,NOFILE:2",
            b"NICE:20",
            b"NICE:1,NICE:1",
            b"LOCKS:1",
            b"nofile:1",
            b"NOFILE:1,",
            b"NOFILE:99999999999999999999",
        ] {
            assert_eq!(
                WorkerLimits::parse(bad),
                None,
                "{}",
                std::string::String::from_utf8_lossy(bad)
            );
        }
    }
}
