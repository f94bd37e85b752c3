//! Known mistakes, to be planted on purpose: a simulation that does not find them is worth nothing.
//!
//! Without the feature `planted` nothing of this is compiled in.

/// A mistake that a block back end can be told to make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// Answers are published while the pages are still mapped.
    LateUnmap,
    /// The guest is not notified although it asked.
    ForgottenEvent,
    /// The back end sleeps without asking for an event, or looking once more.
    ForgottenArm,
    /// A device's error is reported as success.
    HiddenError,
    /// Only the first completion of a run is answered.
    LostAnswer,
    /// Pages of requests that fail are never unmapped.
    LeakOnError,
    /// The answers of one run carry the identity of its first.
    RepeatedIdentity,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::LateUnmap,
        Self::ForgottenEvent,
        Self::ForgottenArm,
        Self::HiddenError,
        Self::LostAnswer,
        Self::LeakOnError,
        Self::RepeatedIdentity,
    ];
}
