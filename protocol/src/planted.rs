//! Known mistakes, to be planted on purpose: a simulation that does not find them is worth nothing.
//!
//! The feature `planted`, which the simulation turns on and no image does, makes `plant` available: it plants a mistake
//! for the thread that runs the world. Without the feature [`is`] is a constant, and nothing of this is compiled in.

/// A mistake of the shipped parts. The block back end has a list of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// Hypervisor: a grant's flags stay set after the last mapping has gone.
    LateClear,
    /// Hypervisor: a vCPU that waits is not woken by an event.
    LostWake,
    /// Hypervisor: a page of a destroyed domain is never freed.
    LeakedFrame,
    /// Hypervisor: the other end of a closed port does not hear of it.
    OneSidedClose,
    /// Hypervisor: translations are taken away without a flush.
    MissingFlush,
    /// Hypervisor: foreign frames are unmapped, but stay referenced.
    KeptReference,
    /// Store: a commit fires no watches.
    MissedWatch,
    /// Store: a transaction commits although what it read has changed.
    IgnoredConflict,
    /// Store: everybody may read everything.
    OpenStore,
    /// Front end: a task that is done does not pass its turn on.
    LostTurn,
    /// Front end: requests are published, and nobody is told.
    ForgottenNotify,
    /// Front end: a page is taken back although the peer still maps it.
    HastyRevoke,
    /// Front end: the grants of an answered request are never given back.
    LeakedGrant,
    /// Rings: a slot's index is not taken modulo the number of slots.
    UnmaskedIndex,
    /// Rings: a request is answered twice.
    DoubleAnswer,
    /// Rings: the peer's wish for an event is missed by one.
    SloppyNotify,
    /// Block back end: a flush is answered without reaching the device.
    DroppedFlush,
    /// Block back end: pages that a device writes are mapped for reading.
    ReadOnlyMap,
    /// Builder: a build that fails leaves its domain behind.
    ForgottenUndo,
    /// dom0: the port of a disk is never closed.
    LeakedPort,
    /// dom0: the first page that was ever mapped, a disk's ring, stays mapped.
    LeakedMapping,
    /// dom0: it panics when the hypervisor's messages are asked for.
    Panic,
}

impl Bug {
    /// All that a simulation can find: it has no dom0.
    pub const ALL: [Self; 19] = [
        Self::LateClear,
        Self::LostWake,
        Self::LeakedFrame,
        Self::OneSidedClose,
        Self::MissingFlush,
        Self::KeptReference,
        Self::MissedWatch,
        Self::IgnoredConflict,
        Self::OpenStore,
        Self::LostTurn,
        Self::ForgottenNotify,
        Self::HastyRevoke,
        Self::LeakedGrant,
        Self::UnmaskedIndex,
        Self::DoubleAnswer,
        Self::SloppyNotify,
        Self::DroppedFlush,
        Self::ReadOnlyMap,
        Self::ForgottenUndo,
    ];
}

#[cfg(all(feature = "planted", not(target_os = "none")))]
std::thread_local! {
    static PLANTED: core::cell::Cell<Option<Bug>> = const { core::cell::Cell::new(None) };
}

/// Plants a mistake for this thread, in place of the one before.
#[cfg(all(feature = "planted", not(target_os = "none")))]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether a mistake is planted: one of those that the image was built with, by their numbers (`bug as usize`) in the environment
/// variable `TRUNNION_PLANTED`, with commas between them. Such an image shows that a leak on a real machine is seen.
#[cfg(all(feature = "planted", target_os = "none"))]
pub fn is(bug: Bug) -> bool {
    const NUMBERS: &str =
        env!("TRUNNION_PLANTED", "an image with the feature `planted` needs the numbers of its mistakes");
    NUMBERS.split(',').any(|number| number.parse() == Ok(bug as usize))
}

/// Whether a mistake is planted.
#[cfg(all(feature = "planted", not(target_os = "none")))]
pub fn is(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether a mistake is planted: never.
#[cfg(not(feature = "planted"))]
#[inline]
pub const fn is(_: Bug) -> bool {
    false
}
