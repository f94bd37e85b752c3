//! One vCPU: its control structure, the registers that the structure has no room for, and the extended state.
//!
//! A VMCS can be read and written only while it is the CPU's current one, which it is while the vCPU is switched in. A state
//! that is loaded before waits in [`VmxContext::outside`] for the switch.

use trunnion_manual::vmx::Fixed;
use trunnion_manual::write_state;

use super::control as field;
use super::features::{Vmx, processor};
use super::instruction::{self, vmread, vmwrite};
use crate::machine::cpu::{clock, tables};
use crate::machine::prelude::*;

/// CR0 bits that a guest changes without an exit: PE, MP, EM, TS, ET, WP, AM, PG. NE is fixed under VMX, and the cache bits
/// do nothing there.
const CR0_OPEN: u64 = 0x8005_001f;

/// CR4 bits that a guest changes without an exit, as far as the processor has them: those that the core's page walk and
/// policy know. VMXE, SMXE, LA57, CET and what is to come are the host's.
const CR4_OPEN: u64 = 0x0077_0fff;

/// One vCPU under VMX.
pub struct VmxContext {
    pub(super) block: Block,
    /// In encoding order; the place of RSP is unused.
    pub(super) gpr: [u64; 16],
    /// What neither the VMCS has nor `gpr`: CR2, debug registers, MSRs. The processor has it while the vCPU is in.
    pub(super) outside: VcpuState,
    /// `outside` is a whole new state, which goes into the VMCS at the switch.
    pub(super) is_new: bool,
    pub(super) has_tsc_aux: bool,
    pub(super) xstate: Xstate,
    /// VMRESUME instead of VMLAUNCH.
    pub(super) is_launched: bool,
    pub(super) cr0_fixed: Fixed,
    pub(super) cr4_fixed: Fixed,
    pub(super) has_virtual_nmi: bool,
    pub(super) has_vpid: bool,
    pub(super) generation: u64,
    pub(super) epoch: u64,
    pub(super) root: u64,
}

impl VmxContext {
    pub(super) fn new(vmx: &Vmx, hardware: bool) -> Result<Self, OutOfHeap> {
        let mut block = Block::pages(1)?;
        if let Some(start) = block.bytes().first_chunk_mut::<4>() {
            *start = vmx.revision.to_le_bytes();
        }
        let [pin, _, secondary, ..] = vmx.controls;
        let context = Self {
            block,
            gpr: [0; 16],
            outside: VcpuState::pvh(0, 0),
            is_new: true,
            has_tsc_aux: vmx.has_tsc_aux,
            xstate: Xstate::new()?,
            is_launched: false,
            cr0_fixed: vmx.cr0_fixed,
            cr4_fixed: vmx.cr4_fixed,
            has_virtual_nmi: pin & u64::from(field::pin::VIRTUAL_NMI) != 0,
            has_vpid: secondary & u64::from(field::secondary::VPID) != 0,
            generation: 0,
            epoch: 0,
            root: 0,
        };
        let (ours, current) = (context.block.address(), instruction::vmptrst());
        // SAFETY: a VMCS of this processor's revision, which must be cleared before it is first used; no CPU has it current.
        if unsafe { instruction::vmclear(ours).and_then(|()| instruction::vmptrld(ours)) }.is_err() {
            return Err(OutOfHeap);
        }
        controls(vmx, hardware);
        host();
        // SAFETY: it goes back into memory, and the one of the vCPU that is switched in, if any, is current again.
        let _ = unsafe { instruction::vmclear(ours).and_then(|()| instruction::vmptrld(current)) };
        Ok(context)
    }

    /// Long mode is active when paging and LME are both on; the entry controls must agree.
    pub(super) fn set_long_mode(&mut self, efer: u64, cr0: u64) {
        let active = efer & msr::EFER_LME != 0 && cr0 & 1 << 31 != 0;
        vmwrite(field::GUEST_EFER, efer & !msr::EFER_LMA | if active { msr::EFER_LMA } else { 0 });
        let entry = vmread(field::ENTRY_CONTROLS) & !u64::from(field::entry::LONG_MODE);
        let bit = if active { u64::from(field::entry::LONG_MODE) } else { 0 };
        vmwrite(field::ENTRY_CONTROLS, entry | bit);
    }
}

/// The controls that never change.
fn controls(vmx: &Vmx, hardware: bool) {
    let [pin, primary, secondary, exit, entry] = vmx.controls;
    let io = if hardware { vmx.io_hardware } else { vmx.io_guest };
    // #UD: the other vendor's call instruction. #DB and #AC: their delivery can loop for ever. #MC: the host's business.
    let exceptions = 1 << 1 | 1 << 6 | 1 << 17 | 1 << 18;
    for (place, value) in [
        (field::PIN_CONTROLS, pin),
        (field::PROCESSOR_CONTROLS, primary),
        (field::SECONDARY_CONTROLS, secondary),
        (field::EXIT_CONTROLS, exit),
        (field::ENTRY_CONTROLS, entry),
        (field::EXCEPTION_BITMAP, exceptions),
        (field::PAGE_FAULT_MASK, 0),
        (field::PAGE_FAULT_MATCH, 0),
        (field::CR3_TARGETS, 0),
        (field::EXIT_STORE_COUNT, 0),
        (field::EXIT_LOAD_COUNT, 0),
        (field::ENTRY_LOAD_COUNT, 0),
        (field::IO_BITMAP_A, io),
        (field::IO_BITMAP_B, io + 4096),
        (field::MSR_BITMAPS, vmx.msr_bitmaps),
        (field::LINK_POINTER, u64::MAX),
        (field::GUEST_DEBUGCTL, 0),
        (field::CR0_MASK, !CR0_OPEN),
        (field::CR4_MASK, !(CR4_OPEN & vmx.cr4_fixed.may)),
        (field::TSC_OFFSET, 0),
    ] {
        vmwrite(place, value);
    }
    if pin & u64::from(field::pin::TIMER) != 0 {
        // It counts a tick each time that a bit of the TSC changes (IA32_VMX_MISC), from here at each entry.
        let ticks = (clock::frequency() / 1_000_000 * LONGEST_US) >> (msr::read(msr::VMX_BASIC + 5) & 31);
        vmwrite(field::PREEMPTION_TIMER, ticks);
    }
    if secondary & u64::from(field::secondary::PAUSE_LOOP) != 0 {
        vmwrite(field::PAUSE_GAP, 128);
        vmwrite(field::PAUSE_WINDOW, 4096);
    }
}

/// Microseconds after which a guest is left in which nothing happens. Bochs keeps physical interrupts from a guest that it
/// entered with interrupts off, which external-interrupt exiting forbids (SDM 3, 25.2): without this it would never be left.
const LONGEST_US: u64 = 1000;

/// The host half: the CPU as it is.
fn host() {
    let cpu = PerCpu::get();
    let (gdt, tss) = cpu.tables.addresses();
    for (place, value) in [
        (field::HOST_ES, tables::DATA as u64),
        (field::HOST_CS, tables::CODE as u64),
        (field::HOST_SS, tables::DATA as u64),
        (field::HOST_DS, tables::DATA as u64),
        (field::HOST_FS, 0),
        (field::HOST_GS, 0),
        (field::HOST_TR, tables::TSS as u64),
        (field::HOST_CR0, Cr0::read_raw()),
        (field::HOST_CR3, Cr3::read().0.start_address().as_u64()),
        (field::HOST_CR4, Cr4::read_raw()),
        (field::HOST_FS_BASE, 0),
        (field::HOST_GS_BASE, core::ptr::from_ref(cpu) as u64),
        (field::HOST_TR_BASE, tss),
        (field::HOST_GDTR_BASE, gdt),
        (field::HOST_IDTR_BASE, tables::idt_address()),
        (field::HOST_SYSENTER_CS, 0),
        (field::HOST_SYSENTER_ESP, 0),
        (field::HOST_SYSENTER_EIP, 0),
        (field::HOST_PAT, msr::read(msr::PAT)),
        (field::HOST_EFER, msr::read(msr::EFER)),
        (field::HOST_RIP, super::enter::exit_address()),
    ] {
        vmwrite(place, value);
    }
}

impl Context for VmxContext {
    fn gpr(&self, register: Gpr) -> u64 {
        match register {
            Gpr::Rsp => vmread(field::GUEST_RSP),
            other => self.gpr[other as usize & 15],
        }
    }

    fn set_gpr(&mut self, register: Gpr, value: u64) {
        match register {
            Gpr::Rsp => vmwrite(field::GUEST_RSP, value),
            other => self.gpr[other as usize & 15] = value,
        }
    }

    fn rip(&self) -> u64 {
        vmread(field::GUEST_RIP)
    }

    fn length(&self) -> Option<u8> {
        Some(vmread(field::EXIT_LENGTH) as u8)
    }

    fn set_rip(&mut self, value: u64) {
        vmwrite(field::GUEST_RIP, value);
        let old = vmread(field::INTERRUPTIBILITY);
        if old & u64::from(field::SHADOW) != 0 {
            vmwrite(field::INTERRUPTIBILITY, old & !u64::from(field::SHADOW));
        }
    }

    fn rflags(&self) -> u64 {
        vmread(field::GUEST_RFLAGS)
    }

    fn cr0(&self) -> u64 {
        let mask = vmread(field::CR0_MASK);
        vmread(field::GUEST_CR0) & !mask | vmread(field::CR0_SHADOW) & mask
    }

    fn cr3(&self) -> u64 {
        vmread(field::GUEST_CR3)
    }

    fn cr4(&self) -> u64 {
        let mask = vmread(field::CR4_MASK);
        vmread(field::GUEST_CR4) & !mask | vmread(field::CR4_SHADOW) & mask
    }

    fn efer(&self) -> u64 {
        vmread(field::GUEST_EFER)
    }

    fn set_efer(&mut self, value: u64) {
        let cr0 = vmread(field::GUEST_CR0);
        self.set_long_mode(value, cr0);
    }

    fn set_cr2(&mut self, value: u64) {
        // SAFETY: the host takes no page faults that it survives; CR2 is the guest's.
        unsafe { asm!("mov cr2, {}", in(reg) value, options(nostack)) };
    }

    fn cpl(&self) -> u8 {
        (vmread(field::GUEST_SS_RIGHTS) >> 5) as u8 & 3
    }

    fn mode(&self) -> CodeMode {
        let cs = vmread(field::GUEST_CS_RIGHTS);
        if cs & 1 << 13 != 0 && vmread(field::GUEST_EFER) & msr::EFER_LMA != 0 {
            CodeMode::Bits64
        } else if vmread(field::GUEST_CR0) & 1 == 0 || vmread(field::GUEST_RFLAGS) & 1 << 17 != 0 {
            CodeMode::Real
        } else if cs & 1 << 14 != 0 {
            CodeMode::Bits32
        } else {
            CodeMode::Bits16
        }
    }

    fn code_base(&self) -> u64 {
        if self.mode() == CodeMode::Bits64 { 0 } else { vmread(field::GUEST_CS_BASE) }
    }

    fn interruptibility(&self) -> Interruptibility {
        let held = vmread(field::INTERRUPTIBILITY) as u32;
        Interruptibility {
            interrupts_enabled: vmread(field::GUEST_RFLAGS) & 1 << 9 != 0,
            shadow: held & field::SHADOW != 0,
            nmi_blocked: held & field::NMI_BLOCKED != 0,
            event_set: vmread(field::ENTRY_EVENT) as u32 & field::EVENT_VALID != 0,
        }
    }

    fn inject(&mut self, event: Event) {
        super::inject::inject(event);
    }

    fn set_windows(&mut self, interrupt: bool, nmi: bool) {
        super::inject::window(field::primary::INTERRUPT_WINDOW, interrupt);
        super::inject::window(field::primary::NMI_WINDOW, nmi && self.has_virtual_nmi);
    }

    fn set_tsc_offset(&mut self, offset: u64) {
        vmwrite(field::TSC_OFFSET, offset);
    }

    fn msr(&self, msr: u32) -> Option<u64> {
        (msr == msr::PAT).then(|| vmread(field::GUEST_PAT))
    }

    fn set_msr(&mut self, msr: u32, value: u64) -> Option<()> {
        (msr == msr::PAT && is_pat(value)).then(|| vmwrite(field::GUEST_PAT, value))
    }

    fn xcr0(&self) -> u64 {
        Xstate::xcr0()
    }

    fn set_xcr0(&mut self, value: u64) {
        Xstate::set_xcr0(value);
    }

    fn set_control(&mut self, register: u8, value: u64) {
        match register {
            0 => {
                let old = vmread(field::GUEST_CR0);
                vmwrite(field::GUEST_CR0, self.cr0_fixed.adjust(value));
                vmwrite(field::CR0_SHADOW, value);
                let efer = vmread(field::GUEST_EFER);
                self.set_long_mode(efer, value);
                if old & 1 << 31 == 0 && value & 1 << 31 != 0 {
                    super::state::load_directory_pointers(self);
                }
            }
            3 => {
                vmwrite(field::GUEST_CR3, value);
                super::state::load_directory_pointers(self);
            }
            4 => {
                vmwrite(field::GUEST_CR4, self.cr4_fixed.adjust(value));
                vmwrite(field::CR4_SHADOW, value);
                super::state::load_directory_pointers(self);
            }
            // CR8 is the task priority, which the core keeps in its local APIC.
            _ => return,
        }
        // Translations of the old mode must go.
        self.generation = 0;
    }

    fn save(&self) -> VcpuState {
        super::state::save(self)
    }

    fn load(&mut self, state: &VcpuState) {
        self.outside = *state;
        self.is_new = true;
    }

    fn update(&mut self, state: &VcpuState) {
        super::state::update(self, state);
        self.set_cr2(state.cr2);
    }

    fn write_entry_state(&self, out: &mut dyn Write) -> fmt::Result {
        let words = field::ALL.iter().map(|field| (*field, vmread(*field)));
        write_state(out, "vmx", words.chain(processor().words()))
    }

    fn switch_in(&mut self) {
        // SAFETY: the page is this vCPU's VMCS, which no CPU has current; `switch_out` clears it before it may move.
        let _ = unsafe { instruction::vmptrld(self.block.address()) };
        if self.is_new {
            super::state::enter(self);
        }
        super::state::load_live(self);
    }

    fn switch_out(&mut self) {
        super::state::save_live(self);
        // SAFETY: as above.
        let _ = unsafe { instruction::vmclear(self.block.address()) };
        self.is_launched = false;
    }
}

impl Drop for VmxContext {
    fn drop(&mut self) {
        // The processor may hold parts of a current VMCS: they must not be written to memory that is somebody else's by then.
        // SAFETY: the page is a VMCS of ours.
        let _ = unsafe { instruction::vmclear(self.block.address()) };
    }
}
