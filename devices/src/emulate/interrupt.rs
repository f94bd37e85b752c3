//! Delivery of interrupts and exceptions through the interrupt table (SDM 3, 6.12 and 6.14; real mode 21.1.4). In a guest
//! the processor does this; the host's interpreter does it here.

use iced_x86::Register;
use trunnion_protocol::control::{Gpr, Segment};

use super::cpu::{Cpu, flag};
use super::fault::{Fault, GP, Stop, vector};
use super::machine::Machine;
use super::paging::Access;

/// Where an interrupt comes from: software is held to a gate's privilege level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    /// INT n, INT3, INTO.
    Software,
    /// A device or an exception.
    Hardware,
}

impl<M: Machine> Cpu<'_, M> {
    /// Delivers a vector; the return address is `back`.
    pub(crate) fn deliver(
        &mut self,
        vector: u8,
        error: Option<u32>,
        source: Source,
        back: u64,
    ) -> Result<(), Stop> {
        if self.state.cr0 & 1 == 0 {
            return self.deliver_real(vector, back);
        }
        self.deliver_protected(vector, error, source, back)
    }

    fn deliver_real(&mut self, vector: u8, back: u64) -> Result<(), Stop> {
        let table = self.state.idtr;
        let at = u64::from(vector) * 4;
        if at + 3 > table.limit {
            return Err(GP);
        }
        let entry = self.load(table.base.wrapping_add(at) & 0xffff_ffff, 4, Access::System)?;
        let segment = self.real_segment(self.state.cs, (entry >> 16) as u16);
        self.check_code(segment, entry & 0xffff)?;
        self.probe_push(3, 2)?;
        let (flags, from) = (self.state.rflags, self.state.cs.selector);
        self.push(flags, 2)?;
        self.push(u64::from(from), 2)?;
        self.push(back, 2)?;
        self.state.rflags &= !(flag::IF | flag::TF | flag::AC | flag::RF);
        self.enter_code(segment, entry & 0xffff)
    }

    fn deliver_protected(
        &mut self,
        vector: u8,
        error: Option<u32>,
        source: Source,
        back: u64,
    ) -> Result<(), Stop> {
        // The error code of a fault on the way names the gate (SDM 3, 6.13).
        let external = u32::from(source == Source::Hardware);
        let refuse = Stop::Fault(Fault::with(vector::GP, u32::from(vector) << 3 | 2 | external));
        let long = self.long();
        let size = if long { 16u64 } else { 8 };
        let at = u64::from(vector) * size;
        if at + size - 1 > self.state.idtr.limit {
            return Err(refuse);
        }
        let linear = self.state.idtr.base.wrapping_add(at);
        let low = self.load(linear, 8, Access::System)?;
        let high = if long { self.load(linear.wrapping_add(8), 4, Access::System)? } else { 0 };
        let gate = super::segment::Descriptor { low, high, linear };
        let kind = gate.kind();
        let known = if long { matches!(kind, 14 | 15) } else { matches!(kind, 6 | 7 | 14 | 15) };
        if !known {
            // Task gates among them, which nothing here has.
            return Err(refuse);
        }
        if source == Source::Software && gate.dpl() < self.cpl() {
            return Err(Stop::Fault(Fault::with(vector::GP, u32::from(vector) << 3 | 2)));
        }
        if !gate.present() {
            return Err(Stop::Fault(Fault::with(vector::NP, u32::from(vector) << 3 | 2 | external)));
        }
        let wide = kind & 8 != 0;
        let width = if long {
            8
        } else if wide {
            4
        } else {
            2
        };
        let offset = gate.gate_offset(wide);
        let selector = gate.gate_selector();
        let code_refused = Stop::Fault(Fault::with(vector::GP, u32::from(selector & 0xfffc) | external));
        if selector & 0xfffc == 0 {
            return Err(code_refused);
        }
        let code = self.descriptor(selector, false)?;
        if code.kind() & 0x18 != 0x18 || code.dpl() > self.cpl() {
            return Err(code_refused);
        }
        if !code.present() {
            return Err(Stop::Fault(Fault::with(vector::NP, u32::from(selector & 0xfffc) | external)));
        }
        let conforming = code.kind() & 4 != 0;
        let from_virtual = self.test(flag::VM);
        let target = if conforming { self.cpl() } else { code.dpl() };
        if from_virtual && target != 0 {
            return Err(code_refused);
        }
        let mut segment = code.segment(selector & 0xfffc | u16::from(target));
        segment.attributes |= 1;
        self.check_code(segment, offset)?;

        let flags = self.state.rflags;
        let (old_stack, old_pointer) = (self.state.ss, self.gpr(Gpr::Rsp));
        let old_code = self.state.cs.selector;
        let data = [self.state.gs, self.state.fs, self.state.ds, self.state.es].map(|s| s.selector);
        let inward = target < self.cpl() || from_virtual;
        let stack_table = (gate.low >> 32 & 7) as u8;
        if long {
            let mut pointer = old_pointer;
            if inward || stack_table != 0 {
                let place = if stack_table != 0 {
                    0x1c + u64::from(stack_table) * 8
                } else {
                    4 + u64::from(target) * 8
                };
                pointer = self.load(self.state.tr.base.wrapping_add(place), 8, Access::System)?;
            }
            *self.gpr_mut(Gpr::Rsp) = pointer & !15;
            if inward {
                self.state.ss = Segment {
                    selector: u16::from(target),
                    attributes: u16::from(target) << 5,
                    limit: 0,
                    base: 0,
                };
            }
            self.bits = 64;
        } else if inward {
            let (stack, pointer) = self.inner_stack(target)?;
            self.state.ss = stack;
            *self.gpr_mut(Gpr::Rsp) = pointer;
            self.state.rflags &= !flag::VM;
        }
        let count = 3
            + u64::from(error.is_some())
            + if long || inward { 2 } else { 0 }
            + if from_virtual { 4 } else { 0 };
        self.probe_push(count, width)?;
        if from_virtual {
            for value in data {
                self.push(u64::from(value), width)?;
            }
        }
        if long || inward {
            self.push(u64::from(old_stack.selector), width)?;
            self.push(old_pointer, width)?;
        }
        self.push(flags, width)?;
        self.push(u64::from(old_code), width)?;
        self.push(back, width)?;
        if let Some(error) = error {
            self.push(u64::from(error), width)?;
        }
        self.mark(code, 1)?;
        if kind & 1 == 0 {
            self.state.rflags &= !flag::IF;
        }
        self.state.rflags &= !(flag::TF | flag::NT | flag::VM | flag::RF);
        if from_virtual {
            self.state.es = Segment::default();
            self.state.ds = Segment::default();
            self.state.fs = Segment::default();
            self.state.gs = Segment::default();
        }
        self.enter_code(segment, offset)
    }

    /// The stack that the task has for a privilege level (SDM 3, 8.2.1).
    fn inner_stack(&mut self, level: u8) -> Result<(Segment, u64), Stop> {
        let task = self.state.tr;
        let wide = task.attributes & 8 != 0;
        let (place, size) = if wide { (4 + u64::from(level) * 8, 4) } else { (2 + u64::from(level) * 4, 2) };
        let refuse = Stop::Fault(Fault::with(vector::TS, u32::from(task.selector & 0xfffc)));
        if place + 2 * size - 1 > u64::from(task.limit) {
            return Err(refuse);
        }
        let pointer = self.load(task.base.wrapping_add(place), size as usize, Access::System)?;
        let selector = self.load(task.base.wrapping_add(place + size), 2, Access::System)? as u16;
        let stack = self.checked_segment(Register::SS, selector, level).map_err(|_| refuse)?;
        Ok((stack, pointer))
    }
}
