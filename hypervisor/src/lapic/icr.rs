//! The interrupt command register (SDM 11.6.1).

/// Bits of the low half that can be written; the delivery status always reads as idle.
pub(super) const KNOWN: u32 = 0x000c_cfff;

const LOGICAL: u32 = 1 << 11;
const ASSERT: u32 = 1 << 14;
/// Triggered by level.
pub const LEVEL: u32 = 1 << 15;

/// What an interrupt between processors does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// A vector for every destination.
    Fixed(u8),
    /// A vector for one of the destinations.
    Lowest(u8),
    /// A non-maskable interrupt.
    Nmi,
    /// INIT: resets the vCPU; it then waits for a start-up interrupt.
    Init,
    /// Start-up: a vCPU that waits for it begins in real mode at this page.
    Startup(u8),
}

/// Whom it is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Destination {
    /// The sender.
    Own,
    /// Everybody.
    All,
    /// Everybody but the sender.
    Others,
    /// An APIC's number, 0xff for all.
    Physical(u8),
    /// A set, by the logical destination registers.
    Logical(u8),
}

/// An interrupt from one processor to others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ipi {
    /// What it does.
    pub delivery: Delivery,
    /// Whom it is for.
    pub destination: Destination,
}

/// The interrupt that a message is (SDM 11.11); `None` where that is none. The data is as the register's low half.
pub fn message(address: u64, data: u32) -> Option<Ipi> {
    let logical = if address & 4 != 0 { LOGICAL } else { 0 };
    let ipi = decode(data & 0xc7ff | logical, (address >> 12) as u8).ok()?;
    ipi.filter(|_| address >> 20 == 0xfee)
}

/// A fixed vector below 16.
pub(super) struct IllegalVector;

/// What a write of the low half sends; nothing for system management interrupts, reserved modes and the end of an INIT.
pub(super) const fn decode(low: u32, address: u8) -> Result<Option<Ipi>, IllegalVector> {
    let vector = low as u8;
    let delivery = match low >> 8 & 7 {
        0 | 1 if vector < 16 => return Err(IllegalVector),
        0 => Delivery::Fixed(vector),
        1 => Delivery::Lowest(vector),
        4 => Delivery::Nmi,
        5 if low & (ASSERT | LEVEL) == LEVEL => return Ok(None),
        5 => Delivery::Init,
        6 => Delivery::Startup(vector),
        _ => return Ok(None),
    };
    let destination = match low >> 18 & 3 {
        1 => Destination::Own,
        2 => Destination::All,
        3 => Destination::Others,
        _ if low & LOGICAL != 0 => Destination::Logical(address),
        _ => Destination::Physical(address),
    };
    // By shorthand to itself a processor can send only vectors (SDM table 11-3).
    match (destination, delivery) {
        (Destination::Own | Destination::All, Delivery::Nmi | Delivery::Init | Delivery::Startup(_)) => {
            Ok(None)
        }
        _ => Ok(Some(Ipi { delivery, destination })),
    }
}
