//! Segment registers and descriptors (SDM 3, 3.4 and 5).

use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use trunnion_protocol::control::Segment;

use super::cpu::{Cpu, flag};
use super::fault::{Fault, GP, Stop, UD, gp, vector};
use super::machine::Machine;
use super::paging::Access;

/// A descriptor as it is in a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor {
    /// Its eight bytes.
    pub(crate) low: u64,
    /// Upper half of the base, of system descriptors in long mode.
    pub(crate) high: u64,
    /// Where it is.
    pub(crate) linear: u64,
}

impl Descriptor {
    /// Type, S, DPL, P, AVL, L, D/B and G as a vCPU's state has them.
    pub(crate) const fn attributes(self) -> u16 {
        (self.low >> 40 & 0xff) as u16 | (self.low >> 44 & 0xf00) as u16
    }

    pub(crate) const fn present(self) -> bool {
        self.low >> 47 & 1 != 0
    }

    pub(crate) const fn dpl(self) -> u8 {
        (self.low >> 45 & 3) as u8
    }

    /// The type, with S as bit 4.
    pub(crate) const fn kind(self) -> u8 {
        (self.low >> 40 & 0x1f) as u8
    }

    pub(crate) const fn segment(self, selector: u16) -> Segment {
        let raw = (self.low & 0xffff | self.low >> 32 & 0xf_0000) as u32;
        let limit = if self.low >> 55 & 1 != 0 { raw << 12 | 0xfff } else { raw };
        let base = self.low >> 16 & 0xff_ffff | self.low >> 32 & 0xff00_0000 | self.high << 32;
        Segment { selector, attributes: self.attributes(), limit, base }
    }

    /// The offset that a gate leads to; `wide` gates have 32 bits of it, in long mode 64.
    pub(crate) const fn gate_offset(self, wide: bool) -> u64 {
        let low = self.low & 0xffff;
        if wide { low | self.low >> 32 & 0xffff_0000 | self.high << 32 } else { low }
    }

    pub(crate) const fn gate_selector(self) -> u16 {
        (self.low >> 16) as u16
    }
}

impl<M: Machine> Cpu<'_, M> {
    pub(crate) const fn long(&self) -> bool {
        self.state.efer >> 10 & 1 != 0
    }

    /// The descriptor that a selector names. `wide`: a system descriptor, of 16 bytes in long mode.
    pub(crate) fn descriptor(&mut self, selector: u16, wide: bool) -> Result<Descriptor, Stop> {
        let (base, limit) = if selector & 4 != 0 {
            let ldt = self.state.ldtr;
            if ldt.attributes & 0x80 == 0 {
                return Err(gp(selector));
            }
            (ldt.base, u64::from(ldt.limit))
        } else {
            (self.state.gdtr.base, self.state.gdtr.limit)
        };
        let at = u64::from(selector & 0xfff8);
        let wide = wide && self.long();
        if at + if wide { 15 } else { 7 } > limit {
            return Err(gp(selector));
        }
        let linear = base.wrapping_add(at);
        let low = self.load(linear, 8, Access::System)?;
        let high = if wide { self.load(linear.wrapping_add(8), 4, Access::System)? } else { 0 };
        Ok(Descriptor { low, high, linear })
    }

    /// Marks a descriptor as accessed, or a task as busy.
    pub(crate) fn mark(&mut self, descriptor: Descriptor, bits: u8) -> Result<(), Stop> {
        let byte = (descriptor.low >> 40) as u8;
        if byte & bits == bits {
            return Ok(());
        }
        self.store(descriptor.linear.wrapping_add(5), 1, u64::from(byte | bits), Access::SystemWrite)
    }

    /// What a segment register holds after a selector was loaded into it where there are no descriptors.
    pub(crate) const fn real_segment(&self, old: Segment, selector: u16) -> Segment {
        let base = (selector as u64) << 4;
        if self.state.rflags & flag::VM != 0 {
            Segment { selector, base, limit: 0xffff, attributes: 0xf3 }
        } else {
            // Limit and size stay, which is how programs come to address all memory in real mode.
            Segment { selector, base, ..old }
        }
    }

    /// Loads ES, SS, DS, FS or GS.
    pub(crate) fn load_segment(&mut self, name: Register, selector: u16) -> Result<(), Stop> {
        let value = if self.protected() {
            self.checked_segment(name, selector, self.cpl())?
        } else {
            self.real_segment(self.segment(name), selector)
        };
        self.put_segment(name, value);
        Ok(())
    }

    pub(crate) const fn put_segment(&mut self, name: Register, value: Segment) {
        match name {
            Register::ES => self.state.es = value,
            Register::CS => self.state.cs = value,
            Register::SS => self.state.ss = value,
            Register::FS => self.state.fs = value,
            Register::GS => self.state.gs = value,
            _ => self.state.ds = value,
        }
    }

    /// A data or stack segment by its descriptor (SDM 2, MOV to a segment register).
    pub(crate) fn checked_segment(
        &mut self,
        name: Register,
        selector: u16,
        cpl: u8,
    ) -> Result<Segment, Stop> {
        let rpl = (selector & 3) as u8;
        let stack = name == Register::SS;
        if selector & 0xfffc == 0 {
            let allowed = !stack || self.bits == 64 && cpl != 3 && rpl == cpl;
            let attributes = if stack { u16::from(cpl) << 5 } else { 0 };
            return if allowed { Ok(Segment { selector, attributes, limit: 0, base: 0 }) } else { Err(GP) };
        }
        let found = self.descriptor(selector, false)?;
        let kind = found.kind();
        let code = kind & 8 != 0;
        let refused = if kind & 0x10 == 0 {
            true
        } else if stack {
            rpl != cpl || found.dpl() != cpl || code || kind & 2 == 0
        } else {
            let conforming = code && kind & 4 != 0;
            code && kind & 2 == 0 || !conforming && (rpl > found.dpl() || cpl > found.dpl())
        };
        if refused {
            return Err(gp(selector));
        }
        if !found.present() {
            let vector = if stack { vector::SS } else { vector::NP };
            return Err(Stop::Fault(Fault::with(vector, u32::from(selector & 0xfffc))));
        }
        self.mark(found, 1)?;
        let mut segment = found.segment(selector);
        segment.attributes |= 1;
        Ok(segment)
    }

    /// LDS, LES, LFS, LGS, LSS.
    pub(crate) fn load_pointer(&mut self, i: &Instruction) -> Result<(), Stop> {
        if i.op1_kind() != OpKind::Memory {
            return Err(UD);
        }
        let size = self.size(i, 0);
        let linear = self.address(i, size + 2, Access::Read)?;
        let offset = self.load(linear, size, Access::Read)?;
        let selector = self.load(linear.wrapping_add(size as u64), 2, Access::Read)? as u16;
        let name = match i.mnemonic() {
            Mnemonic::Lds => Register::DS,
            Mnemonic::Les => Register::ES,
            Mnemonic::Lfs => Register::FS,
            Mnemonic::Lgs => Register::GS,
            _ => Register::SS,
        };
        self.load_segment(name, selector)?;
        self.set(i, 0, offset)
    }

    /// LLDT and LTR.
    pub(crate) fn load_system(&mut self, i: &Instruction) -> Result<(), Stop> {
        if !self.protected() {
            return Err(UD);
        }
        if self.cpl() != 0 {
            return Err(GP);
        }
        let selector = self.get(i, 0)? as u16;
        let task = i.mnemonic() == Mnemonic::Ltr;
        if selector & 0xfffc == 0 {
            if task {
                return Err(GP);
            }
            self.state.ldtr = Segment { selector, ..Segment::default() };
            return Ok(());
        }
        if selector & 4 != 0 {
            return Err(gp(selector));
        }
        let found = self.descriptor(selector, true)?;
        let right = if task { matches!(found.kind(), 1 | 9) } else { found.kind() == 2 };
        if !right {
            return Err(gp(selector));
        }
        if !found.present() {
            return Err(Stop::Fault(Fault::with(vector::NP, u32::from(selector & 0xfffc))));
        }
        let mut segment = found.segment(selector);
        if task {
            self.mark(found, 2)?;
            segment.attributes |= 2;
            self.state.tr = segment;
        } else {
            self.state.ldtr = segment;
        }
        Ok(())
    }

    /// LAR, LSL, VERR, VERW.
    pub(crate) fn inspect(&mut self, i: &Instruction) -> Result<(), Stop> {
        if !self.protected() {
            return Err(UD);
        }
        let name = i.mnemonic();
        let operand = u32::from(matches!(name, Mnemonic::Lar | Mnemonic::Lsl));
        let selector = self.get(i, operand)? as u16;
        let found = match self.descriptor(selector, false) {
            Ok(found) if selector & 0xfffc != 0 => found,
            Ok(_) | Err(Stop::Fault(Fault { vector: vector::GP, .. })) => {
                self.set_flag(flag::ZF, false);
                return Ok(());
            }
            Err(other) => return Err(other),
        };
        let kind = found.kind();
        let conforming = kind & 0x1c == 0x1c;
        let reachable = conforming || found.dpl() >= self.cpl() && found.dpl() >= (selector & 3) as u8;
        let valid = reachable
            && match name {
                Mnemonic::Verr => kind & 0x10 != 0 && (kind & 8 == 0 || kind & 2 != 0),
                Mnemonic::Verw => kind & 0x18 == 0x10 && kind & 2 != 0,
                Mnemonic::Lsl => kind & 0x10 != 0 || matches!(kind, 1 | 2 | 3 | 9 | 11),
                _ => kind & 0x10 != 0 || matches!(kind, 1..=5 | 9 | 11 | 12),
            };
        if valid {
            match name {
                Mnemonic::Lsl => self.set(i, 0, u64::from(found.segment(selector).limit))?,
                Mnemonic::Lar => self.set(i, 0, found.low >> 32 & 0x00ff_ff00)?,
                _ => {}
            }
        }
        self.set_flag(flag::ZF, valid);
        Ok(())
    }
}
