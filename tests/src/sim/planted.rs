//! Known mistakes of the shipped parts, to be planted on purpose.

/// A mistake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// Of the block back end.
    Backend(trunnion_backends::planted::Bug),
    /// Of the store.
    Store(trunnion_xenstore::planted::Bug),
    /// Of any other part: see [`trunnion_protocol::planted`].
    Part(trunnion_protocol::planted::Bug),
}
