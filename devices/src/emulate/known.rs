//! Plain moves between a register and a device, remembered: drivers touch their devices at a few places of their code again and again.
//!
//! What was decoded once counts for as long as the entries of the guest's tables that lead to the instruction, and its bytes, are what they
//! were; both are read again at each use. Where the instruction's operand lies is what the processor has found out: it has checked the
//! access, and only the second-level tables had nothing there.

use alloc::boxed::Box;
use alloc::vec::Vec;

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, OpKind, Register};
use trunnion_backends::device::GuestPage;
use trunnion_protocol::address::{Gpa, PAGE_SIZE};
use trunnion_protocol::control::VcpuState;

use super::LONGEST;
use super::cpu::{bits, flag, mask};
use crate::memory::GuestMemory;

/// Instructions that are remembered, as a power of two; an instruction's place is found by a multiplication (Knuth, 6.4).
const BITS: u32 = 6;
const SCATTER: u64 = 0x9e37_79b9_7f4a_7c15;
/// Paging and long mode; tables of five levels.
const PG: u64 = 1 << 31;
const LMA: u64 = 1 << 10;
const LA57: u64 = 1 << 12;
const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// An instruction and the way to it.
struct Entry<P> {
    rip: u64,
    cr3: u64,
    /// Entries of the guest's tables: their page, where in it, and what is there.
    way: Vec<(P, usize, u64)>,
    /// The page of the code.
    page: P,
    bytes: [u8; LONGEST],
    instruction: Instruction,
}

/// Plain moves that were met.
pub struct Known<P> {
    places: [Option<Box<Entry<P>>>; 1 << BITS],
}

impl<P> Default for Known<P> {
    fn default() -> Self {
        Self { places: [const { None }; 1 << BITS] }
    }
}

/// A plain move at the instruction pointer.
#[derive(Clone, Copy, Debug)]
pub struct Plain {
    instruction: Instruction,
    /// Bytes that it moves: one, two, four or eight.
    pub size: usize,
    /// What it writes; a read has none.
    pub stored: Option<u64>,
}

/// Bytes that a plain move has in memory, and whether it writes them.
fn shape(instruction: &Instruction) -> Option<(usize, bool)> {
    Some(match instruction.code() {
        Code::Mov_rm8_r8 | Code::Mov_rm8_imm8 => (1, true),
        Code::Mov_rm16_r16 | Code::Mov_rm16_imm16 => (2, true),
        Code::Mov_rm32_r32 | Code::Mov_rm32_imm32 => (4, true),
        Code::Mov_rm64_r64 | Code::Mov_rm64_imm32 => (8, true),
        Code::Mov_r8_rm8 => (1, false),
        Code::Mov_r16_rm16 => (2, false),
        Code::Mov_r32_rm32 => (4, false),
        Code::Mov_r64_rm64 => (8, false),
        _ => return None,
    })
}

fn register(state: &VcpuState, name: Register) -> u64 {
    let value = state.gpr.get(name.full_register().number() & 15).copied().unwrap_or(0);
    let high = matches!(name, Register::AH | Register::CH | Register::DH | Register::BH);
    if high { value >> 8 & 0xff } else { value & mask(name.size()) }
}

/// The offset of the operand, of which only the part in its page counts: the base of FS and GS is added by the caller.
fn offset(state: &VcpuState, i: &Instruction) -> u64 {
    if i.is_ip_rel_memory_operand() {
        return i.ip_rel_memory_address();
    }
    let part = |name: Register| if name == Register::None { 0 } else { register(state, name) };
    let index = part(i.memory_index()).wrapping_mul(u64::from(i.memory_index_scale()));
    let base = match i.memory_segment() {
        Register::FS => state.fs.base,
        Register::GS => state.gs.base,
        _ => 0,
    };
    i.memory_displacement64().wrapping_add(part(i.memory_base())).wrapping_add(index).wrapping_add(base)
}

/// 64-bit code behind four levels of tables, without single steps.
fn is_usual(state: &VcpuState) -> bool {
    state.cr0 & PG != 0
        && state.efer & LMA != 0
        && state.cr4 & LA57 == 0
        && state.rflags & flag::TF == 0
        && bits(state) == 64
}

impl<P: GuestPage> Entry<P> {
    /// Finds the instruction at the instruction pointer, if it is a plain move that lies in one page.
    fn learn<M: GuestMemory<Page = P>>(state: &VcpuState, memory: &M) -> Option<Self> {
        let (mut table, mut way) = (state.cr3 & ADDRESS, Vec::with_capacity(4));
        let mut shift = 39;
        let frame = loop {
            let at = (state.rip >> shift & 0x1ff) as usize * 8;
            let page = memory.page(Gpa(table).frame())?;
            let entry: u64 = page.shared().load(at).ok()?;
            way.push((page, at, entry));
            if entry & PRESENT == 0 {
                return None;
            }
            if shift == 12 || entry & LARGE != 0 && shift < 39 {
                let inside = (1u64 << shift) - 1;
                break entry & ADDRESS & !inside | state.rip & inside;
            }
            (table, shift) = (entry & ADDRESS, shift - 9);
        };
        let start = frame as usize % PAGE_SIZE;
        if start + LONGEST > PAGE_SIZE {
            return None;
        }
        let page = memory.page(Gpa(frame).frame())?;
        let mut bytes = [0; LONGEST];
        page.shared().copy_out(start, &mut bytes).ok()?;
        let instruction = Decoder::with_ip(64, &bytes, state.rip, DecoderOptions::NONE).decode();
        let plain = shape(&instruction).is_some()
            && (instruction.op0_kind() == OpKind::Memory || instruction.op1_kind() == OpKind::Memory)
            && !instruction.has_lock_prefix()
            // An offset of 32 bits wraps by itself.
            && [instruction.memory_base(), instruction.memory_index()]
                .into_iter()
                .all(|name| name == Register::None || name.size() == 8 || name == Register::RIP);
        plain.then_some(Self { rip: state.rip, cr3: state.cr3, way, page, bytes, instruction })
    }

    /// Whether everything is as it was.
    fn holds(&self, state: &VcpuState) -> bool {
        let mut bytes = [0; LONGEST];
        self.rip == state.rip
            && self.cr3 == state.cr3
            && self.way.iter().all(|(page, at, entry)| page.shared().load(*at) == Ok(*entry))
            && self.page.shared().copy_out(self.rip as usize % PAGE_SIZE, &mut bytes).is_ok()
            && bytes == self.bytes
    }
}

impl<P: GuestPage> Known<P> {
    /// The plain move at the instruction pointer that the processor left for the sake of `address`, if it is one.
    pub fn find<M: GuestMemory<Page = P>>(
        &mut self,
        state: &VcpuState,
        memory: &M,
        address: u64,
    ) -> Option<Plain> {
        if !is_usual(state) {
            return None;
        }
        let place = self.places.get_mut((state.rip.wrapping_mul(SCATTER) >> (64 - BITS)) as usize)?;
        if !place.as_ref().is_some_and(|entry| entry.holds(state)) {
            *place = Entry::learn(state, memory).map(Box::new);
        }
        let instruction = place.as_ref()?.instruction;
        let (size, writes) = shape(&instruction)?;
        // An access that crosses a page is another one's.
        let inside = address as usize % PAGE_SIZE;
        if offset(state, &instruction) as usize % PAGE_SIZE != inside || inside + size > PAGE_SIZE {
            return None;
        }
        let stored = writes.then(|| match instruction.op1_kind() {
            OpKind::Register => register(state, instruction.op1_register()),
            _ => instruction.immediate(1) & mask(size),
        });
        Some(Plain { instruction, size, stored })
    }
}

impl Plain {
    /// Ends the instruction; a read has brought `value`.
    pub fn finish(&self, state: &mut VcpuState, value: u64) {
        if self.stored.is_none() {
            let name = self.instruction.op0_register();
            if let Some(full) = state.gpr.get_mut(name.full_register().number() & 15) {
                *full = match name {
                    Register::AH | Register::CH | Register::DH | Register::BH => {
                        *full & !0xff00 | (value & 0xff) << 8
                    }
                    _ if self.size >= 4 => value & mask(self.size),
                    _ => *full & !mask(self.size) | value & mask(self.size),
                };
            }
        }
        state.rip = self.instruction.next_ip();
        state.rflags &= !flag::RF;
        state.interruptibility &= !3;
    }
}
