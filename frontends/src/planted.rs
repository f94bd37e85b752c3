//! Known mistakes, to be planted on purpose in this crate's tests: tests that do not find them are worth nothing.

use std::cell::Cell;

/// A mistake that a front end can be told to make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bug {
    /// A buffer comes back although the peer still maps its pages.
    EarlyReturn,
    /// The back end is not notified of a request.
    ForgottenEvent,
    /// Who stops waiting does not wake the others.
    ForgottenHandOver,
    /// An answer is believed whatever request it names.
    BelievedIdentity,
    /// A flush succeeds without being made.
    DroppedFlush,
    /// Requests that nobody waits for are never forgotten.
    KeptFlight,
    /// A grant is withdrawn while the peer uses the page.
    ForcedRevoke,
    /// A watch of the store is looked at before, and not after, the task has asked to be woken.
    SingleLook,
}

impl Bug {
    pub(crate) const ALL: [Self; 8] = [
        Self::EarlyReturn,
        Self::ForgottenEvent,
        Self::ForgottenHandOver,
        Self::BelievedIdentity,
        Self::DroppedFlush,
        Self::KeptFlight,
        Self::ForcedRevoke,
        Self::SingleLook,
    ];
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Whether this thread is to make a mistake.
pub(crate) fn is(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Runs something with a mistake planted. True if it fails.
pub(crate) fn found_by(bug: Bug, test: fn()) -> bool {
    PLANTED.set(Some(bug));
    let failed = std::panic::catch_unwind(test).is_err();
    PLANTED.set(None);
    failed
}
