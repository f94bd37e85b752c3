//! One vCPU: its control block, the registers that the block has no room for, and the extended state.

use trunnion_manual::write_state;

use super::control::{self as field, Field, Place};
use super::features::{Svm, processor};
use crate::machine::cpu::debug;
use crate::machine::prelude::*;

/// One vCPU under SVM.
pub struct SvmContext {
    pub(super) block: Block,
    /// In encoding order; RAX and RSP are in the block, and their places here are unused.
    pub(super) gpr: [u64; 16],
    pub(super) debug: [u64; 4],
    pub(super) tsc_aux: u64,
    pub(super) xstate: Xstate,
    /// An NMI handler runs: from the injection to the next IRET.
    pub(super) nmi_blocked: bool,
    pub(super) has_tsc_aux: bool,
    pub(super) has_next_rip: bool,
    /// What the tag in the block was made for.
    pub(super) generation: u64,
    pub(super) epoch: u64,
}

impl SvmContext {
    pub(super) fn new(svm: &Svm, hardware: bool) -> Result<Self, OutOfHeap> {
        let mut c = Self {
            block: Block::pages(1)?,
            gpr: [0; 16],
            debug: [0; 4],
            tsc_aux: 0,
            xstate: Xstate::new()?,
            nmi_blocked: false,
            has_tsc_aux: svm.features.tsc_aux,
            has_next_rip: svm.features.next_rip,
            generation: 0,
            epoch: 0,
        };
        // #UD: the other vendor's call instruction. #DB and #AC: their delivery can loop for ever. #MC: the host's business.
        c.set(field::INTERCEPT_EXCEPTIONS, 1 << 1 | 1 << 6 | 1 << 17 | 1 << 18);
        let mut first = field::first::ALWAYS;
        if svm.features.pause_filter {
            first |= field::first::PAUSE;
            c.set(field::PAUSE_COUNT, 3000);
            c.set(field::PAUSE_THRESHOLD, 128);
        }
        c.set(field::INTERCEPT_1, first);
        c.set(field::INTERCEPT_2, field::second::ALWAYS);
        if svm.features.decode_assists {
            // Without decode assists the exit would not say which register was meant: CR8 is then the block's own virtual one.
            let cr4 = if svm.features.wide_cr4 { 1 << 20 } else { 0 };
            c.set(field::INTERCEPT_CR, 1 << 8 | 1 << 24 | cr4);
        }
        c.set(field::IO_MAP, if hardware { svm.ports_hardware } else { svm.ports_guest });
        c.set(field::MSR_MAP, svm.msr_map);
        c.set(field::VIRTUAL_INTERRUPT, field::V_MASKING);
        c.set(field::NESTED, 1);
        c.set(field::EFER, msr::EFER_SVME);
        Ok(c)
    }

    /// Reads a field of the block.
    pub(super) fn get<T: Copy>(&self, field: Field<T>) -> T {
        // SAFETY: the field lies inside the block (asserted where it is defined), aligned by the manual's layout; the
        // processor writes the block only while the guest runs.
        unsafe { self.block.pointer().add(field.offset).cast::<T>().read() }
    }

    /// Writes a field of the block.
    pub(super) fn set<T: Copy>(&mut self, field: Field<T>, value: T) {
        // SAFETY: as in `get`; `&mut self` makes this the only access.
        unsafe { self.block.pointer().add(field.offset).cast::<T>().write(value) }
    }
}

impl Context for SvmContext {
    fn gpr(&self, register: Gpr) -> u64 {
        match register {
            Gpr::Rax => self.get(field::RAX),
            Gpr::Rsp => self.get(field::RSP),
            other => self.gpr[other as usize & 15],
        }
    }

    fn set_gpr(&mut self, register: Gpr, value: u64) {
        match register {
            Gpr::Rax => self.set(field::RAX, value),
            Gpr::Rsp => self.set(field::RSP, value),
            other => self.gpr[other as usize & 15] = value,
        }
    }

    fn rip(&self) -> u64 {
        self.get(field::RIP)
    }

    fn length(&self) -> Option<u8> {
        if !self.has_next_rip {
            return None;
        }
        // Exits at instructions have their end; a processor that does not say it leaves what was there.
        let distance = self.get(field::NEXT_RIP).wrapping_sub(self.get(field::RIP));
        (1..=15).contains(&distance).then_some(distance as u8)
    }

    fn set_rip(&mut self, value: u64) {
        self.set(field::RIP, value);
        self.set(field::SHADOW, 0);
    }

    fn rflags(&self) -> u64 {
        self.get(field::RFLAGS)
    }

    fn cr0(&self) -> u64 {
        self.get(field::CR0)
    }

    fn cr3(&self) -> u64 {
        self.get(field::CR3)
    }

    fn cr4(&self) -> u64 {
        self.get(field::CR4)
    }

    fn efer(&self) -> u64 {
        self.get(field::EFER) & !msr::EFER_SVME
    }

    fn set_efer(&mut self, value: u64) {
        self.set(field::EFER, value | msr::EFER_SVME);
    }

    fn set_cr2(&mut self, value: u64) {
        self.set(field::CR2, value);
    }

    fn cpl(&self) -> u8 {
        self.get(field::CPL) & 3
    }

    fn mode(&self) -> CodeMode {
        let cs = self.get(Place::Cs.attributes());
        if cs & 1 << 9 != 0 && self.get(field::EFER) & msr::EFER_LMA != 0 {
            CodeMode::Bits64
        } else if self.get(field::CR0) & 1 == 0 || self.get(field::RFLAGS) & 1 << 17 != 0 {
            CodeMode::Real
        } else if cs & 1 << 10 != 0 {
            CodeMode::Bits32
        } else {
            CodeMode::Bits16
        }
    }

    fn code_base(&self) -> u64 {
        if self.mode() == CodeMode::Bits64 { 0 } else { self.get(Place::Cs.base()) }
    }

    fn interruptibility(&self) -> Interruptibility {
        Interruptibility {
            interrupts_enabled: self.get(field::RFLAGS) & 1 << 9 != 0,
            shadow: self.get(field::SHADOW) & 1 != 0,
            nmi_blocked: self.nmi_blocked,
            event_set: super::inject::is_set(self),
        }
    }

    fn inject(&mut self, event: Event) {
        super::inject::inject(self, event);
    }

    fn set_windows(&mut self, interrupt: bool, _: bool) {
        super::inject::interrupt_window(self, interrupt);
    }

    fn set_tsc_offset(&mut self, offset: u64) {
        self.set(field::TSC_OFFSET, offset);
    }

    fn msr(&self, msr: u32) -> Option<u64> {
        (msr == msr::PAT).then(|| self.get(field::PAT))
    }

    fn set_msr(&mut self, msr: u32, value: u64) -> Option<()> {
        (msr == msr::PAT && is_pat(value)).then(|| self.set(field::PAT, value))
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
                let efer: u64 = self.get(field::EFER);
                let long = value & 1 << 31 != 0 && efer & msr::EFER_LME != 0;
                self.set(field::EFER, efer & !msr::EFER_LMA | if long { msr::EFER_LMA } else { 0 });
                self.set(field::CR0, value);
                // The translations of another paging mode must go.
                self.epoch = 0;
                self.generation = 0;
            }
            3 => self.set(field::CR3, value),
            4 => {
                self.set(field::CR4, value);
                self.generation = 0;
            }
            8 => {
                let old: u64 = self.get(field::VIRTUAL_INTERRUPT);
                self.set(field::VIRTUAL_INTERRUPT, old & !0xff | value & 0xf);
            }
            _ => {}
        }
    }

    fn save(&self) -> VcpuState {
        super::state::save(self)
    }

    fn load(&mut self, state: &VcpuState) {
        super::state::load(self, state);
    }

    fn update(&mut self, state: &VcpuState) {
        super::state::update(self, state);
    }

    fn write_entry_state(&self, out: &mut dyn Write) -> fmt::Result {
        let words = (0..4096).step_by(8).map(|at| (at as u32, self.get(Field::<u64>::at(at))));
        write_state(out, "svm", words.chain(processor().words()))
    }

    fn switch_in(&mut self) {
        self.xstate.restore();
        debug::write(self.debug);
        if self.has_tsc_aux {
            // SAFETY: the register exists, and the host does not use it; the value was read from it or checked for it.
            unsafe { msr::write(msr::TSC_AUX, self.tsc_aux) };
        }
    }

    fn switch_out(&mut self) {
        self.xstate.save();
        self.debug = debug::read();
        if self.has_tsc_aux {
            self.tsc_aux = msr::read(msr::TSC_AUX);
        }
    }
}
