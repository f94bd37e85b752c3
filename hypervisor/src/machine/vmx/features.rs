//! What this processor's VMX can do (SDM 3, appendix A), and switching it on.

use core::arch::asm;
use trunnion_protocol::address::Mfn;
use trunnion_protocol::hypercall::page::Opcode;

use super::context::VmxContext;
use super::control::{entry, exit, pin, primary, secondary};
use super::{format, instruction};
use crate::machine::cpu::percpu::PerCpu;
use crate::machine::cpu::{cpuid, msr};
use crate::machine::page::Block;
use crate::machine::vendor::{OPEN_MSRS, Refusal, Vendor, fill_ports};
use crate::seam::{EntryFormat, Exit, OutOfHeap};

const FIXED: u32 = msr::VMX_BASIC + 6;
const EPT_VPID: u32 = msr::VMX_BASIC + 12;

/// A control word's capability: bits that must be 1 in the low half, bits that may be 1 in the high half.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Capability(pub(super) u64);

impl Capability {
    /// Whether all of `bits` may be set.
    pub(super) const fn has(self, bits: u32) -> bool {
        (self.0 >> 32) as u32 & bits == bits
    }

    /// The wanted bits, with those that must be set and without those that must not.
    pub(super) const fn adjust(self, wanted: u32) -> u32 {
        (wanted | self.0 as u32) & (self.0 >> 32) as u32
    }
}

/// VMX, switched on.
pub struct Vmx {
    pub(super) revision: u32,
    pub(super) pin: u32,
    pub(super) primary: u32,
    pub(super) secondary: u32,
    pub(super) exit: u32,
    pub(super) entry: u32,
    /// Bits that CR0 and CR4 must have, and may have, in a guest.
    pub(super) cr0_fixed: (u64, u64),
    pub(super) cr4_fixed: (u64, u64),
    pub(super) accessed_dirty: bool,
    pub(super) invept_single: bool,
    pub(super) has_tsc_aux: bool,
    pub(super) io_guest: u64,
    pub(super) io_hardware: u64,
    pub(super) msr_bitmaps: u64,
    format: &'static EntryFormat,
}

static FORMAT: spin::Once<EntryFormat> = spin::Once::new();

/// Whether the processor has VMX.
pub fn is_present() -> bool {
    cpuid(1, 0).ecx & 1 << 5 != 0
}

fn heap(_: OutOfHeap) -> Refusal {
    Refusal { missing: "heap for VMX's pages", advice: "this is a bug" }
}

/// The four control words and what they may be, from the newer registers where there are any.
pub(super) fn capabilities() -> [Capability; 5] {
    let newer = msr::read(msr::VMX_BASIC) & 1 << 55 != 0;
    let word = |index: u32| Capability(msr::read(msr::VMX_BASIC + if newer { index + 12 } else { index }));
    let primary = word(2);
    let secondary = if primary.has(primary::SECONDARY) {
        Capability(msr::read(msr::VMX_BASIC + 11))
    } else {
        Capability(0)
    };
    [word(1), primary, secondary, word(3), word(4)]
}

const PIN: u32 = pin::INTERRUPT | pin::NMI;
const PRIMARY: u32 = primary::TSC_OFFSETTING
    | primary::HLT
    | primary::MWAIT
    | primary::RDPMC
    | primary::CR8_LOAD
    | primary::CR8_STORE
    | primary::IO_BITMAPS
    | primary::MSR_BITMAPS
    | primary::MONITOR
    | primary::SECONDARY;
const EXIT: u32 = exit::SAVE_DEBUG
    | exit::HOST_64
    | exit::ACKNOWLEDGE
    | exit::SAVE_PAT
    | exit::LOAD_PAT
    | exit::SAVE_EFER
    | exit::LOAD_EFER;
const ENTRY: u32 = entry::LOAD_DEBUG | entry::LOAD_PAT | entry::LOAD_EFER;

impl Vendor for Vmx {
    const OPCODE: Opcode = Opcode::Vmcall;
    type Context = VmxContext;

    fn new(cpu: &PerCpu) -> Result<Self, Refusal> {
        if !is_present() {
            return Err(Refusal::no("VMX"));
        }
        let control = msr::read(msr::FEATURE_CONTROL);
        if control & 1 != 0 && control & 4 == 0 {
            return Err(Refusal {
                missing: "permission to use VMX (IA32_FEATURE_CONTROL)",
                advice: "switch it on in the firmware's setup",
            });
        }
        let [pins, primaries, secondaries, exits, entries] = capabilities();
        if !primaries.has(primary::SECONDARY) || !secondaries.has(secondary::EPT) {
            return Err(Refusal::no("nested paging (EPT)"));
        }
        let ept = msr::read(EPT_VPID);
        if ept & 1 << 6 == 0 || ept & 1 << 14 == 0 || ept & 1 << 20 == 0 {
            return Err(Refusal::no("EPT with four levels, write-back memory and INVEPT"));
        }
        if !secondaries.has(secondary::UNRESTRICTED) {
            return Err(Refusal::no("unrestricted guest"));
        }
        for (capability, wanted, name) in [
            (pins, PIN, "pin-based VMX controls"),
            (primaries, PRIMARY, "primary processor-based VMX controls"),
            (exits, EXIT, "VM-exit controls"),
            (entries, ENTRY, "VM-entry controls"),
        ] {
            if !capability.has(wanted) {
                return Err(Refusal { missing: name, advice: "some that the hypervisor needs are missing" });
            }
        }
        let vpid = secondaries.has(secondary::VPID) && ept >> 32 & 1 != 0 && ept >> 42 & 1 != 0;
        let mut second = secondary::EPT | secondary::UNRESTRICTED;
        for (bit, wanted) in [
            (secondary::VPID, vpid),
            (secondary::RDTSCP, true),
            (secondary::INVPCID, true),
            (secondary::WBINVD, true),
            (secondary::PAUSE_LOOP, true),
        ] {
            if wanted && secondaries.has(bit) {
                second |= bit;
            }
        }
        let virtual_nmi = pins.has(pin::VIRTUAL_NMI) && primaries.has(primary::NMI_WINDOW);
        let basic = msr::read(msr::VMX_BASIC);
        let revision = basic as u32 & 0x7fff_ffff;
        let vmxon = Block::pages(1).map_err(heap)?.leak();
        // SAFETY: the page is ours for ever; VMX exists and may be switched on, and CR0 and CR4 get the bits that its capability
        // registers ask for. Bit 0 of FEATURE_CONTROL is clear only where the firmware left the choice to us.
        unsafe {
            if control & 1 == 0 {
                msr::write(msr::FEATURE_CONTROL, control | 5);
            }
            msr::write(msr::EFER, msr::read(msr::EFER) | msr::EFER_NXE);
            (vmxon as *mut u32).write(revision);
            let (mut cr0, mut cr4): (u64, u64);
            asm!("mov {}, cr0", "mov {}, cr4", out(reg) cr0, out(reg) cr4, options(nostack));
            cr0 = (cr0 | msr::read(FIXED)) & msr::read(FIXED + 1);
            cr4 = (cr4 | msr::read(FIXED + 2)) & msr::read(FIXED + 3);
            asm!("mov cr0, {}", "mov cr4, {}", in(reg) cr0, in(reg) cr4, options(nostack));
            instruction::vmxon(vmxon)
                .map_err(|_| Refusal { missing: "VMXON", advice: "the processor refused it" })?;
        }
        cpu.switch.host_page.set(vmxon);
        cpu.switch.set_tags(1 << 16);
        instruction::invept(2, 0);
        let mut io = [0; 2];
        for (address, hardware) in io.iter_mut().zip([false, true]) {
            let mut block = Block::pages(2).map_err(heap)?;
            fill_ports(block.bytes(), hardware);
            *address = block.leak();
        }
        let has_tsc_aux = second & secondary::RDTSCP != 0;
        let mut bitmaps = Block::pages(1).map_err(heap)?;
        fill_msrs(bitmaps.bytes(), has_tsc_aux);
        let accessed_dirty = ept & 1 << 21 != 0;
        let (gigabyte, two_megabyte) = (ept & 1 << 17 != 0, ept & 1 << 16 != 0);
        let format = FORMAT.call_once(|| format::format(gigabyte, two_megabyte, accessed_dirty));
        log::info!(
            "VMX revision={revision:#x} ept=yes unrestricted-guest=yes vpid={} virtual-nmi={} accessed-dirty={} 2m-pages={} 1g-pages={} pause-loop={} invpcid={}",
            yes(vpid),
            yes(virtual_nmi),
            yes(accessed_dirty),
            yes(two_megabyte),
            yes(gigabyte),
            yes(second & secondary::PAUSE_LOOP != 0),
            yes(second & secondary::INVPCID != 0),
        );
        Ok(Self {
            revision,
            pin: pins.adjust(PIN | if virtual_nmi { pin::VIRTUAL_NMI } else { 0 }),
            primary: primaries.adjust(PRIMARY),
            secondary: secondaries.adjust(second),
            exit: exits.adjust(EXIT),
            entry: entries.adjust(ENTRY),
            // Unrestricted guests may clear PE and PG.
            cr0_fixed: (msr::read(FIXED) & !0x8000_0001, msr::read(FIXED + 1)),
            cr4_fixed: (msr::read(FIXED + 2), msr::read(FIXED + 3)),
            accessed_dirty,
            invept_single: ept & 1 << 25 != 0,
            has_tsc_aux,
            io_guest: io[0],
            io_hardware: io[1],
            msr_bitmaps: bitmaps.leak(),
            format,
        })
    }

    fn format(&self) -> &'static EntryFormat {
        self.format
    }

    fn context(&self, hardware: bool) -> Result<VmxContext, OutOfHeap> {
        VmxContext::new(self, hardware)
    }

    fn enter(&self, cpu: &PerCpu, context: &mut VmxContext, root: Mfn, epoch: u64) -> Exit {
        super::enter::enter(self, cpu, context, root, epoch)
    }
}

fn yes(flag: bool) -> &'static str {
    if flag { "yes" } else { "no" }
}

/// Opens the MSRs that are switched with the vCPU (SDM 3, 24.6.9: a KiB each for reads and writes, low and high).
fn fill_msrs(bitmaps: &mut [u8], has_tsc_aux: bool) {
    bitmaps.fill(0xff);
    for msr in OPEN_MSRS {
        if msr == msr::TSC_AUX && !has_tsc_aux {
            continue;
        }
        let (start, index) = if msr < 0x2000 { (0, msr) } else { (1024, msr - 0xc000_0000) };
        for base in [start, start + 2048] {
            if let Some(byte) = bitmaps.get_mut(base + index as usize / 8) {
                *byte &= !(1 << (index % 8));
            }
        }
    }
}
