//! Why an instruction was not completed.

use super::machine::Pending;

/// Exceptions that the emulator raises (SDM 3, table 6-1).
#[allow(missing_docs, reason = "the names of the manual")]
pub mod vector {
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const BP: u8 = 3;
    pub const OF: u8 = 4;
    pub const BR: u8 = 5;
    pub const UD: u8 = 6;
    pub const NM: u8 = 7;
    pub const DF: u8 = 8;
    pub const TS: u8 = 10;
    pub const NP: u8 = 11;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
}

/// An exception, to be injected or delivered. Registers are as before the instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Its vector.
    pub vector: u8,
    /// The error code, of the exceptions that have one.
    pub error: Option<u32>,
    /// What goes to CR2 with a page fault: the linear address.
    pub address: u64,
}

impl Fault {
    /// An exception without an error code.
    #[must_use]
    pub const fn plain(vector: u8) -> Self {
        Self { vector, error: None, address: 0 }
    }

    /// An exception with one.
    #[must_use]
    pub const fn with(vector: u8, error: u32) -> Self {
        Self { vector, error: Some(error), address: 0 }
    }

    /// A page fault (SDM 3, 4.7).
    #[must_use]
    pub const fn page(address: u64, error: u32) -> Self {
        Self { vector: vector::PF, error: Some(error), address }
    }
}

/// Why an instruction stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    /// An exception.
    Fault(Fault),
    /// An access whose answer comes later.
    Pending,
    /// An instruction that the emulator does not know.
    Unknown,
}

impl From<Pending> for Stop {
    fn from(_: Pending) -> Self {
        Self::Pending
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// #GP(0).
pub(crate) const GP: Stop = Stop::Fault(Fault::with(vector::GP, 0));
/// #UD.
pub(crate) const UD: Stop = Stop::Fault(Fault::plain(vector::UD));
/// #DE.
pub(crate) const DE: Stop = Stop::Fault(Fault::plain(vector::DE));

/// #GP with a selector.
pub(crate) const fn gp(selector: u16) -> Stop {
    Stop::Fault(Fault::with(vector::GP, selector as u32 & 0xfffc))
}
