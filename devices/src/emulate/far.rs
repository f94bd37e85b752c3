//! Transfers to other code segments (SDM 2, JMP far, CALL far, RET far, IRET). Task switches, and call gates, are refused:
//! nothing that this emulator is for uses them.

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};
use trunnion_protocol::control::{Gpr, Segment};

use super::cpu::{Cpu, flag};
use super::fault::{Fault, GP, Stop, gp, vector};
use super::machine::Machine;
use super::paging::Access;

/// Flags that IRET takes at privilege level 0, beyond those of POPF.
const RETURNED: u64 = flag::RF;

impl<M: Machine> Cpu<'_, M> {
    /// The selector and the offset that a far branch names, and the size of what a far call pushes.
    fn far_target(&mut self, i: &Instruction) -> Result<(u16, u64, usize), Stop> {
        match i.op0_kind() {
            OpKind::FarBranch16 => Ok((i.far_branch_selector(), u64::from(i.far_branch16()), 2)),
            OpKind::FarBranch32 => Ok((i.far_branch_selector(), u64::from(i.far_branch32()), 4)),
            OpKind::Memory => {
                let size = match i.code() {
                    Code::Jmp_m1616 | Code::Call_m1616 => 2,
                    Code::Jmp_m1632 | Code::Call_m1632 => 4,
                    _ => 8,
                };
                let linear = self.address(i, size + 2, Access::Read)?;
                let offset = self.load(linear, size, Access::Read)?;
                let selector = self.load(linear.wrapping_add(size as u64), 2, Access::Read)?;
                Ok((selector as u16, offset, size))
            }
            _ => Err(Stop::Unknown),
        }
    }

    /// A code segment that may be entered at the present privilege level, or by a return at `cpl`.
    fn code_segment(&mut self, selector: u16, cpl: u8, returns: bool) -> Result<Segment, Stop> {
        if !self.protected() {
            return Ok(self.real_segment(self.state.cs, selector));
        }
        if selector & 0xfffc == 0 {
            return Err(GP);
        }
        let found = self.descriptor(selector, false)?;
        let kind = found.kind();
        if kind & 0x18 != 0x18 {
            return if kind & 0x10 == 0 { Err(Stop::Unknown) } else { Err(gp(selector)) };
        }
        let rpl = (selector & 3) as u8;
        let allowed = match (kind & 4 != 0, returns) {
            (true, false) => found.dpl() <= cpl,
            (false, false) => rpl <= cpl && found.dpl() == cpl,
            (true, true) => found.dpl() <= rpl,
            (false, true) => found.dpl() == rpl,
        };
        if !allowed || self.long() && found.attributes() & 0x600 == 0x600 {
            return Err(gp(selector));
        }
        if !found.present() {
            return Err(Stop::Fault(Fault::with(vector::NP, u32::from(selector & 0xfffc))));
        }
        self.mark(found, 1)?;
        let level = if returns { rpl } else { cpl };
        let mut segment = found.segment(selector & 0xfffc | u16::from(level));
        segment.attributes |= 1;
        Ok(segment)
    }

    /// Whether a code segment has an offset.
    pub(crate) fn check_code(&self, segment: Segment, offset: u64) -> Result<(), Stop> {
        let long = self.long() && segment.attributes >> 9 & 1 != 0;
        let ok = if long { super::memory::canonical(offset) } else { offset <= u64::from(segment.limit) };
        if ok { Ok(()) } else { Err(GP) }
    }

    /// Enters a code segment at an offset that its limit allows.
    pub(crate) fn enter_code(&mut self, segment: Segment, offset: u64) -> Result<(), Stop> {
        self.check_code(segment, offset)?;
        self.state.cs = segment;
        self.bits = super::cpu::bits(self.state);
        self.next = offset;
        Ok(())
    }

    /// JMP and CALL, far.
    pub(crate) fn far_branch(&mut self, i: &Instruction) -> Result<(), Stop> {
        let (selector, offset, size) = self.far_target(i)?;
        let cpl = self.cpl();
        let segment = self.code_segment(selector, cpl, false)?;
        if i.mnemonic() == Mnemonic::Call {
            // Everything that can fail comes before the stack is written.
            self.check_code(segment, offset)?;
            self.probe_push(2, size)?;
            let (back, from) = (self.next, self.state.cs.selector);
            self.push(u64::from(from), size)?;
            self.push(back, size)?;
        }
        self.enter_code(segment, offset)
    }

    /// RET, far.
    pub(crate) fn far_return(&mut self, i: &Instruction) -> Result<(), Stop> {
        let size = match i.code() {
            Code::Retfw | Code::Retfw_imm16 => 2,
            Code::Retfd | Code::Retfd_imm16 => 4,
            _ => 8,
        };
        let extra = if i.op_count() == 1 { u64::from(i.immediate16()) } else { 0 };
        let offset = self.peek(0, size)?;
        let selector = self.peek(size as u64, size)? as u16;
        self.return_to(selector, offset, size, 2 * size as u64 + extra, extra)
    }

    /// The common end of far returns: to the same or an outer privilege level. `popped` bytes are taken from this stack, then
    /// `extra` ones from the outer stack as well.
    fn return_to(
        &mut self,
        selector: u16,
        offset: u64,
        size: usize,
        popped: u64,
        extra: u64,
    ) -> Result<(), Stop> {
        let cpl = self.cpl();
        if !self.protected() {
            let segment = self.code_segment(selector, cpl, true)?;
            self.enter_code(segment, offset)?;
            self.release(popped);
            return Ok(());
        }
        let rpl = (selector & 3) as u8;
        if rpl < cpl {
            return Err(gp(selector));
        }
        let segment = self.code_segment(selector, cpl, true)?;
        if rpl == cpl {
            self.release(popped);
            return self.enter_code(segment, offset);
        }
        let outer = self.peek(popped, size)?;
        let stack_selector = self.peek(popped.wrapping_add(size as u64), size)? as u16;
        let stack = self.checked_segment(Register::SS, stack_selector, rpl)?;
        self.enter_code(segment, offset)?;
        self.state.ss = stack;
        let wide = self.stack_size();
        self.set_gpr(Gpr::Rsp, wide, outer.wrapping_add(extra));
        self.drop_inner(rpl);
        Ok(())
    }

    /// Data segments that the outer level may not have become unusable (SDM 2, RET).
    pub(crate) fn drop_inner(&mut self, cpl: u8) {
        for segment in [&mut self.state.es, &mut self.state.ds, &mut self.state.fs, &mut self.state.gs] {
            let conforming = segment.attributes & 0x1c == 0x1c;
            if !conforming && (segment.attributes >> 5 & 3) < u16::from(cpl) {
                *segment = Segment::default();
            }
        }
    }

    /// IRET in its three widths.
    pub(crate) fn interrupt_return(&mut self, i: &Instruction) -> Result<(), Stop> {
        let size = match i.mnemonic() {
            Mnemonic::Iret => 2,
            Mnemonic::Iretd => 4,
            _ => 8,
        };
        self.state.interruptibility &= !4;
        let step = size as u64;
        if self.test(flag::VM) && self.state.rflags & flag::IOPL != flag::IOPL {
            return Err(GP);
        }
        let offset = self.peek(0, size)?;
        let selector = self.peek(step, size)? as u16;
        let flags = self.peek(2 * step, size)?;
        if !self.protected() {
            self.return_to(selector, offset, size, 3 * step, 0)?;
            self.set_flags(flags, size);
            return Ok(());
        }
        if self.test(flag::NT) {
            return if self.long() { Err(GP) } else { Err(Stop::Unknown) };
        }
        if flags & flag::VM != 0 && self.cpl() == 0 && size == 4 {
            return self.enter_virtual(selector, offset, flags);
        }
        let before = self.cpl();
        // In 64-bit mode the stack pointer always comes back with the rest.
        if size == 8 && self.bits == 64 && (selector & 3) as u8 == before {
            let outer = self.peek(3 * step, size)?;
            let stack_selector = self.peek(4 * step, size)? as u16;
            let segment = self.code_segment(selector, before, true)?;
            let stack = self.checked_segment(Register::SS, stack_selector, before)?;
            self.enter_code(segment, offset)?;
            self.state.ss = stack;
            *self.gpr_mut(Gpr::Rsp) = outer;
        } else {
            self.return_to(selector, offset, size, 3 * step, 0)?;
        }
        self.returned_flags(flags, size, before);
        Ok(())
    }

    /// Flags after IRET: as the level before it may set them.
    fn returned_flags(&mut self, flags: u64, size: usize, before: u8) {
        let after = self.cpl();
        let mut change = flag::STATUS | flag::TF | flag::DF | flag::NT | flag::AC | flag::ID | RETURNED;
        if before == 0 {
            change |= flag::IOPL;
        }
        if u64::from(before) <= (self.state.rflags & flag::IOPL) >> 12 {
            change |= flag::IF;
        }
        if size == 2 {
            change &= 0xffff;
        }
        debug_assert!(after >= before, "IRET never goes inward");
        self.state.rflags = self.state.rflags & !change | flags & change | 2;
    }

    /// IRET to virtual-8086 mode (SDM 3, 21.2.1).
    fn enter_virtual(&mut self, selector: u16, offset: u64, flags: u64) -> Result<(), Stop> {
        let mut values = [0; 6];
        for (n, value) in values.iter_mut().enumerate() {
            *value = self.peek(12 + 4 * n as u64, 4)?;
        }
        if offset > 0xffff {
            return Err(GP);
        }
        self.state.rflags = flags & 0x003f_7fd5 | 2;
        let make = |selector: u16| Segment {
            selector,
            attributes: 0xf3,
            limit: 0xffff,
            base: u64::from(selector) << 4,
        };
        let [stack_pointer, ss, es, ds, fs, gs] = values;
        *self.gpr_mut(Gpr::Rsp) = stack_pointer & 0xffff_ffff;
        self.state.cs = make(selector);
        self.state.ss = make(ss as u16);
        self.state.es = make(es as u16);
        self.state.ds = make(ds as u16);
        self.state.fs = make(fs as u16);
        self.state.gs = make(gs as u16);
        self.bits = 16;
        self.next = offset;
        Ok(())
    }
}
