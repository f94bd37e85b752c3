//! What the two vendor folders have in common: the closed set of operations that the rest of `machine` uses.

use crate::machine::prelude::*;

/// A processor's way to run guests.
pub trait Vendor: Sync + Sized + 'static {
    /// One vCPU's registers and control block.
    type Context: Context;

    /// The hypercall instruction.
    const OPCODE: Opcode;

    /// Reads the features and switches the extension on, on this CPU; an error names what is missing.
    fn new(cpu: &PerCpu) -> Result<Self, Refusal>;

    /// The entry format of second-level tables.
    fn format(&self) -> &'static EntryFormat;

    /// A context for a new vCPU.
    fn context(&self, hardware: bool) -> Result<Self::Context, OutOfHeap>;

    /// Runs the guest to its next exit.
    fn enter(&self, cpu: &PerCpu, context: &mut Self::Context, root: Mfn, epoch: u64) -> Exit;
}

/// Why guests cannot run on this processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// What is missing or off.
    pub missing: &'static str,
    /// What could be done about it.
    pub advice: &'static str,
}

impl From<OutOfHeap> for Refusal {
    fn from(_: OutOfHeap) -> Self {
        Self { missing: "heap for the vendor's pages", advice: "this is a bug" }
    }
}

/// What a person can do about a switch that is off.
pub const FIRMWARE: &str = "switch it on in the firmware's setup";

impl Refusal {
    /// Nothing below this can be done without the part `missing`.
    pub const fn no(missing: &'static str) -> Self {
        Self { missing, advice: "this processor is too old for this hypervisor" }
    }
}

/// Ports that the hypervisor keeps to itself, also from dom0: the 8259s, the PIT, COM1, the ends of emulators. The reset
/// register at 0xcf9 is not among them: it lies inside PCI's configuration address, which dom0 writes whole.
pub const OWN_PORTS: [(u16, u16); 6] =
    [(0x20, 0x21), (0xa0, 0xa1), (0x40, 0x43), (0x3f8, 0x3ff), (0xf4, 0xf4), (0x8900, 0x8900)];

/// MSRs that guests read and write without an exit: each is switched with the vCPU, and none reaches beyond it.
pub const OPEN_MSRS: [u32; 11] = [
    super::cpu::msr::SYSENTER_CS,
    super::cpu::msr::SYSENTER_ESP,
    super::cpu::msr::SYSENTER_EIP,
    super::cpu::msr::STAR,
    super::cpu::msr::LSTAR,
    super::cpu::msr::CSTAR,
    super::cpu::msr::SFMASK,
    super::cpu::msr::FS_BASE,
    super::cpu::msr::GS_BASE,
    super::cpu::msr::KERNEL_GS_BASE,
    super::cpu::msr::TSC_AUX,
];

/// The I/O bitmaps of guests and of dom0, of so many pages each: a set bit is an exit. Guests exit at every port; dom0 at the
/// hypervisor's own.
pub fn port_maps(pages: usize) -> Result<[u64; 2], OutOfHeap> {
    let (mut guest, mut hardware) = (Block::pages(pages)?, Block::pages(pages)?);
    guest.bytes().fill(0xff);
    for port in OWN_PORTS.into_iter().flat_map(|(from, to)| from..=to) {
        if let Some(byte) = hardware.bytes().get_mut(port as usize / 8) {
            *byte |= 1 << (port % 8);
        }
    }
    Ok([guest.leak(), hardware.leak()])
}

/// Flags for the log: ` name=yes`, ` name=no`.
pub struct Flags<'a>(pub &'a [(&'a str, bool)]);

impl fmt::Display for Flags<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(name, set)| write!(f, " {name}={}", if *set { "yes" } else { "no" }))
    }
}
