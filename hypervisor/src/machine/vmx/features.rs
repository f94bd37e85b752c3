//! What this processor's VMX can do (SDM 3, appendix A), and switching it on.

use trunnion_manual::vmx::{Fixed, Host};

use super::context::VmxContext;
use super::control::{entry, exit, pin, primary, secondary};
use super::{instruction, paging};
use crate::machine::cpu;
use crate::machine::prelude::*;
use crate::machine::vendor::{FIRMWARE, Flags, OPEN_MSRS, Refusal, Vendor, port_maps};

/// VMX, switched on.
pub struct Vmx {
    pub(super) revision: u32,
    /// The pin-based, primary, secondary, exit and entry controls.
    pub(super) controls: [u64; 5],
    /// Bits that CR0 and CR4 must have, and may have, in a guest.
    pub(super) cr0_fixed: Fixed,
    pub(super) cr4_fixed: Fixed,
    pub(super) accessed_dirty: bool,
    pub(super) invept_single: bool,
    pub(super) has_tsc_aux: bool,
    pub(super) io_guest: u64,
    pub(super) io_hardware: u64,
    pub(super) msr_bitmaps: u64,
    format: &'static EntryFormat,
}

/// Whether the processor has VMX.
pub fn is_present() -> bool {
    cpuid(1, 0).ecx & 1 << 5 != 0
}

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
                advice: FIRMWARE,
            });
        }
        let Host { controls: [pins, primaries, secondaries, exits, entries], cr0, cr4, ept, .. } =
            processor();
        if !primaries.has(primary::SECONDARY) || !secondaries.has(secondary::EPT) {
            return Err(Refusal::no("nested paging (EPT)"));
        }
        if ept & 1 << 6 == 0 || ept & 1 << 14 == 0 || ept & 1 << 20 == 0 {
            return Err(Refusal::no("EPT with four levels, write-back memory and INVEPT"));
        }
        if !secondaries.has(secondary::UNRESTRICTED) {
            return Err(Refusal::no("unrestricted guest"));
        }
        for (capability, wanted, name) in [
            (pins, pin::ALWAYS, "pin-based VMX controls"),
            (primaries, primary::ALWAYS, "primary processor-based VMX controls"),
            (exits, exit::ALWAYS, "VM-exit controls"),
            (entries, entry::ALWAYS, "VM-entry controls"),
        ] {
            if !capability.has(wanted) {
                return Err(Refusal { missing: name, advice: "some that the hypervisor needs are missing" });
            }
        }
        let vpid = secondaries.has(secondary::VPID) && ept >> 32 & 1 != 0 && ept >> 42 & 1 != 0;
        let optional = secondary::RDTSCP | secondary::INVPCID | secondary::WBINVD | secondary::PAUSE_LOOP;
        let tags = if vpid { secondary::VPID } else { 0 };
        let second = secondary::EPT | secondary::UNRESTRICTED | tags | optional & secondaries.may as u32;
        let timer = pins.has(pin::TIMER);
        let virtual_nmi = pins.has(pin::VIRTUAL_NMI) && primaries.has(primary::NMI_WINDOW);
        let basic = msr::read(msr::VMX_BASIC);
        let revision = basic as u32 & 0x7fff_ffff;
        let vmxon = Block::pages(1)?.leak();
        // SAFETY: the page is ours for ever; VMX exists and may be switched on, and CR0 and CR4 get the bits that its capability
        // registers ask for. Bit 0 of FEATURE_CONTROL is clear only where the firmware left the choice to us.
        unsafe {
            if control & 1 == 0 {
                msr::write(msr::FEATURE_CONTROL, control | 5);
            }
            msr::write(msr::EFER, msr::read(msr::EFER) | msr::EFER_NXE);
            (vmxon as *mut u32).write(revision);
            Cr0::write_raw(cr0.adjust(Cr0::read_raw()));
            Cr4::write_raw(cr4.adjust(Cr4::read_raw()));
            instruction::vmxon(vmxon)
                .map_err(|_| Refusal { missing: "VMXON", advice: "the processor refused it" })?;
        }
        cpu.switch.host_page.set(vmxon);
        cpu.switch.set_tags(1 << 16);
        instruction::invept(2, 0);
        let [io_guest, io_hardware] = port_maps(2)?;
        let has_tsc_aux = second & secondary::RDTSCP != 0;
        let mut bitmaps = Block::pages(1)?;
        fill_msrs(bitmaps.bytes(), has_tsc_aux);
        let accessed_dirty = ept & 1 << 21 != 0;
        let (gigabyte, two_megabyte) = (ept & 1 << 17 != 0, ept & 1 << 16 != 0);
        let format = Box::leak(Box::new(paging::format(gigabyte, two_megabyte)));
        log::info!(
            "VMX revision={revision:#x} ept=yes unrestricted-guest=yes{}",
            Flags(&[
                ("vpid", vpid),
                ("virtual-nmi", virtual_nmi),
                ("preemption-timer", timer),
                ("accessed-dirty", accessed_dirty),
                ("2m-pages", two_megabyte),
                ("1g-pages", gigabyte),
                ("pause-loop", second & secondary::PAUSE_LOOP != 0),
                ("invpcid", second & secondary::INVPCID != 0),
            ])
        );
        Ok(Self {
            revision,
            controls: [
                pins.adjust(
                    (pin::ALWAYS
                        | if virtual_nmi { pin::VIRTUAL_NMI } else { 0 }
                        | if timer { pin::TIMER } else { 0 })
                    .into(),
                ),
                primaries.adjust(primary::ALWAYS.into()),
                secondaries.adjust(second.into()),
                exits.adjust(exit::ALWAYS.into()),
                entries.adjust(entry::ALWAYS.into()),
            ],
            // Unrestricted guests may clear PE and PG.
            cr0_fixed: Fixed { must: cr0.must & !0x8000_0001, ..cr0 },
            cr4_fixed: cr4,
            accessed_dirty,
            invept_single: ept & 1 << 25 != 0,
            has_tsc_aux,
            io_guest,
            io_hardware,
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

/// The processor this runs on. The control words' registers are the newer ones where there are any, and what depends on
/// the secondary controls is 0 without them (SDM 3, appendix A).
pub(super) fn processor() -> Host {
    let read = |index: u32| msr::read(msr::VMX_BASIC + index);
    let newer = if read(0) & 1 << 55 != 0 { 12 } else { 0 };
    let controls = |index: u32| Fixed::of_controls(read(index));
    let primary = controls(2 + newer);
    let has_secondary = primary.has(primary::SECONDARY);
    let secondary = if has_secondary { controls(11) } else { Fixed { must: 0, may: 0 } };
    Host {
        controls: [controls(1 + newer), primary, secondary, controls(3 + newer), controls(4 + newer)],
        cr0: Fixed { must: read(6), may: read(7) },
        cr4: Fixed { must: read(8), may: read(9) },
        ept: if has_secondary { read(12) } else { 0 },
        address_bits: cpu::address_bits(),
    }
}
