//! What this processor's SVM can do, and switching it on.

use trunnion_manual::svm::Host;

use super::context::SvmContext;
use super::paging;
use crate::machine::cpu;
use crate::machine::prelude::*;
use crate::machine::vendor::{FIRMWARE, Flags, OPEN_MSRS, Refusal, Vendor, port_maps};

/// Optional parts (CPUID 0x8000_000A EDX) that are used where they exist.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Features {
    /// The address behind an intercepted instruction.
    pub next_rip: bool,
    /// Register numbers and instruction bytes with exits.
    pub decode_assists: bool,
    /// Exits after many PAUSEs.
    pub pause_filter: bool,
    /// RDTSCP, and with it TSC_AUX.
    pub tsc_aux: bool,
    /// A guest could set CR4 bits that the core's page walk does not know (LA57).
    pub wide_cr4: bool,
}

/// SVM, switched on.
pub struct Svm {
    pub(super) features: Features,
    format: &'static EntryFormat,
    pub(super) ports_guest: u64,
    pub(super) ports_hardware: u64,
    pub(super) msr_map: u64,
}

/// Whether the processor has SVM.
pub fn is_present() -> bool {
    cpuid(0x8000_0000, 0).eax >= 0x8000_000a && cpuid(0x8000_0001, 0).ecx & 4 != 0
}

impl Vendor for Svm {
    const OPCODE: Opcode = Opcode::Vmmcall;
    type Context = SvmContext;

    fn new(cpu: &PerCpu) -> Result<Self, Refusal> {
        if !is_present() {
            return Err(Refusal::no("SVM"));
        }
        let leaf = cpuid(0x8000_000a, 0);
        let has = |bit: u32| leaf.edx & 1 << bit != 0;
        if !has(0) {
            return Err(Refusal::no("nested paging (SVM feature NP)"));
        }
        // Bochs has SVM without VM_CR and reads it as zero where unknown MSRs are ignored.
        if msr::read(msr::VM_CR) & 1 << 4 != 0 {
            return Err(Refusal { missing: "permission to use SVM (VM_CR.SVMDIS)", advice: FIRMWARE });
        }
        let extended = cpuid(0x8000_0001, 0).edx;
        let gigabyte_pages = extended & 1 << 26 != 0;
        let features = Features {
            next_rip: has(3),
            decode_assists: has(7),
            pause_filter: has(10) && has(12),
            tsc_aux: extended & 1 << 27 != 0,
            wide_cr4: cpuid(0, 0).eax >= 7 && cpuid(7, 0).ecx & 1 << 16 != 0,
        };
        let host_page = Block::pages(1)?.leak();
        let save_area = Block::pages(1)?.leak();
        // SAFETY: SVM exists and is not locked out; the save area is a page of its own for ever.
        unsafe {
            msr::write(msr::EFER, msr::read(msr::EFER) | msr::EFER_SVME | msr::EFER_NXE);
            msr::write(msr::VM_HSAVE_PA, save_area);
            core::arch::asm!("vmsave rax", in("rax") host_page, options(nostack, preserves_flags));
        }
        cpu.switch.host_page.set(host_page);
        cpu.switch.set_tags(leaf.ebx);
        let [ports_guest, ports_hardware] = port_maps(3)?;
        let mut msr_map = Block::pages(2)?;
        fill_msrs(msr_map.bytes(), features);
        let format = Box::leak(Box::new(paging::format(gigabyte_pages)));
        log::info!(
            "SVM revision={} asids={} nested-paging=yes{}",
            leaf.eax & 0xff,
            leaf.ebx,
            Flags(&[
                ("next-rip", features.next_rip),
                ("decode-assists", features.decode_assists),
                ("flush-by-asid", has(6)),
                ("pause-filter", features.pause_filter),
                ("1g-pages", gigabyte_pages),
            ])
        );
        Ok(Self { features, format, ports_guest, ports_hardware, msr_map: msr_map.leak() })
    }

    fn format(&self) -> &'static EntryFormat {
        self.format
    }

    fn context(&self, hardware: bool) -> Result<SvmContext, OutOfHeap> {
        SvmContext::new(self, hardware)
    }

    fn enter(&self, cpu: &PerCpu, context: &mut SvmContext, root: Mfn, epoch: u64) -> Exit {
        super::enter::enter(cpu, context, root, epoch)
    }
}

/// Opens the MSRs that are switched with the vCPU (APM 2, 15.11: two bits for each, read and write).
fn fill_msrs(map: &mut [u8], features: Features) {
    map.fill(0xff);
    for msr in OPEN_MSRS {
        if msr == msr::TSC_AUX && !features.tsc_aux {
            continue;
        }
        let (range, index) = if msr < 0x2000 { (0, msr) } else { (0x800, msr - 0xc000_0000) };
        if let Some(byte) = map.get_mut(range + index as usize / 4) {
            *byte &= !(3 << (index % 4 * 2));
        }
    }
}

/// The processor this runs on.
pub(super) fn processor() -> Host {
    let asids = cpuid(0x8000_000a, 0).ebx;
    // EFER: SCE, LME, LMA, NXE, SVME, LMSLE, FFXSR, TCE and the newer ones below bit 22.
    Host { asids, address_bits: cpu::address_bits(), efer: 0x003f_fd01, cr4: 0x0fff_ffff }
}
