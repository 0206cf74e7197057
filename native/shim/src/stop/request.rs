//! A request of the VM on a shim's channel (native/PROTOCOL.md, section 10).

use leash_tag::signal;
use leash_tag::stop_steps::SignalScope;

/// The request, in the form in which a message carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// `E`: begin the ladder.
    End,
    /// `K`: send SIGKILL at once.
    Kill,
    /// `S`, the number and the scope: send a signal, and change nothing else.
    Signal {
        /// The signal's number.
        number: u8,
        /// The processes that get the signal.
        scope: SignalScope,
    },
    /// A request of a newer VM.
    Unknown,
}

impl Request {
    /// Returns the request of a message.
    pub(crate) fn parse(message: &[u8]) -> Self {
        match *message {
            [b'E', ..] => Self::End,
            [b'K', ..] => Self::Kill,
            [b'S', number @ 1..=signal::MAX, scope, ..] => match scope {
                0 => Self::Signal { number, scope: SignalScope::Leader },
                1 => Self::Signal { number, scope: SignalScope::Group },
                2 => Self::Signal { number, scope: SignalScope::Tree },
                _ => Self::Unknown,
            },
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_signal_names_its_number_and_its_scope() {
        let signal = |scope| Request::Signal { number: 10, scope };
        assert_eq!(Request::parse(b"S\x0a\x00"), signal(SignalScope::Leader));
        assert_eq!(Request::parse(b"S\x0a\x01"), signal(SignalScope::Group));
        assert_eq!(Request::parse(b"S\x0a\x02\0\0"), signal(SignalScope::Tree));
        for wrong in [&b"S"[..], b"S\x0a", b"S\0\0", b"S\x41\0", b"S\x0a\x03", b"", b"X"] {
            assert_eq!(Request::parse(wrong), Request::Unknown, "{wrong:?}");
        }
    }

    proptest! {
        /// No message makes a signal that the kernel does not have.
        #[test]
        fn a_number_is_a_signal(message in proptest::collection::vec(any::<u8>(), 0..8)) {
            if let Request::Signal { number, .. } = Request::parse(&message) {
                prop_assert!((1..=64).contains(&number));
            }
        }
    }
}
