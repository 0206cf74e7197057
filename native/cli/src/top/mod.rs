//! The parts of `leash top`, from what the user types to what stands on the screen.
//!
//! | what | where |
//! |---|---|
//! | bytes from the terminal as keys | [`keys`] |
//! | CPU use between two looks | [`load`] |
//! | one row for each process or worker, in an order | [`rows`] |
//! | what is shown, and what a key changes | [`view`] |
//! | the lines of the screen | [`frame`] |
//! | the end of a worker, or of what a dead run left | [`end`] |

pub(crate) mod end;
pub(crate) mod frame;
pub(crate) mod keys;
pub(crate) mod load;
pub(crate) mod rows;
pub(crate) mod view;
