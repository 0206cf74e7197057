//! The user ids of a process.

/// The user ids of a process, as the reader's user namespace sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uids {
    /// The user that started the process.
    pub real: u32,
    /// The user whose rights the process has.
    pub effective: u32,
    /// The user that the process may switch back to.
    pub saved: u32,
}

impl Uids {
    /// Whether all three are this user's.
    ///
    /// A set-id program has two users' ids. Its arguments and environment come from the user that
    /// started it.
    #[must_use]
    pub fn are(self, uid: u32) -> bool {
        [self.real, self.effective, self.saved] == [uid; 3]
    }
}
