//! Known mistakes, to be planted on purpose: a model that does not find them is worth nothing.
//!
//! Without the feature `planted` nothing of this is compiled in.

/// A mistake that the store can be told to make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// Of a commit's changes only the first is told to watches.
    LostEvents,
    /// Relative watches are told absolute paths.
    AbsoluteEvents,
    /// A missing node is always reported as missing, also to those who may not know.
    ToldMissing,
    /// A guest's new node belongs to the owner of the node above it.
    InheritedOwner,
    /// A commit does not look at nodes that the transaction has only read.
    BlindCommit,
    /// Permissions for a dead domain go to the next of the same number.
    LastingRights,
    /// A death is not told.
    SilentDeath,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::LostEvents,
        Self::AbsoluteEvents,
        Self::ToldMissing,
        Self::InheritedOwner,
        Self::BlindCommit,
        Self::LastingRights,
        Self::SilentDeath,
    ];
}
