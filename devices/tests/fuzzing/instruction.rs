//! The instruction emulator: random bytes, registers, modes, and tables of pages and descriptors in random memory.

use trunnion_devices::emulate::{self, Machine, Outcome, Pending, Recorded, Refused};
use trunnion_devices::width::Width;
use trunnion_protocol::address::Gpa;
use trunnion_protocol::control::{Segment, Table, VcpuState};

use super::Source;

/// Bytes of memory; a device has the page behind it, which answers later.
const MEMORY: usize = 0x1_0000;
/// Where tables of pages and of descriptors are; code, data and stack are in front of them.
const PAGES: u64 = 0x8000;
const DESCRIPTORS: u64 = 0xe000;
/// Instructions of a case.
const STEPS: usize = 4;
/// Accesses of an instruction that have to wait.
const WAITS: u32 = 100;

/// Memory, and around it something that answers everything. So many accesses of devices have to wait, once each.
#[derive(Clone, PartialEq, Eq)]
struct World {
    memory: Vec<u8>,
    late: u32,
    waited: bool,
    /// What devices were asked, and got.
    log: Vec<(u64, u64)>,
}

impl World {
    fn device(&mut self, at: u64, value: u64) -> Result<(), Pending> {
        if self.late > 0 && !self.waited {
            self.late -= 1;
            self.waited = true;
            return Err(Pending);
        }
        self.waited = false;
        self.log.push((at, value));
        Ok(())
    }
}

impl Machine for World {
    fn read(&mut self, at: Gpa, into: &mut [u8]) -> Result<(), Pending> {
        assert!(!into.is_empty() && (at.0 & 0xfff) as usize + into.len() <= 0x1000, "bytes of one page");
        match self.memory.get(at.0 as usize..(at.0 as usize).saturating_add(into.len())) {
            Some(bytes) => into.copy_from_slice(bytes),
            None => {
                self.device(at.0, into.len() as u64)?;
                into.fill(at.0 as u8);
            }
        }
        Ok(())
    }
    fn write(&mut self, at: Gpa, from: &[u8]) -> Result<(), Pending> {
        assert!(!from.is_empty() && (at.0 & 0xfff) as usize + from.len() <= 0x1000, "bytes of one page");
        match self.memory.get_mut(at.0 as usize..(at.0 as usize).saturating_add(from.len())) {
            Some(bytes) => bytes.copy_from_slice(from),
            None => self.device(at.0, from.iter().fold(0, |all, &byte| all << 8 | u64::from(byte)))?,
        }
        Ok(())
    }
    fn port_read(&mut self, port: u16, width: Width) -> Result<u32, Pending> {
        self.device(1 << 60 | u64::from(port), width.bytes() as u64)?;
        Ok(u32::from(port).wrapping_mul(0x9e37_79b9) & width.mask())
    }
    fn port_write(&mut self, port: u16, _: Width, value: u32) -> Result<(), Pending> {
        self.device(1 << 61 | u64::from(port), value.into())
    }
    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> [u32; 4] {
        [leaf, subleaf, !leaf, !subleaf]
    }
    fn msr_read(&mut self, index: u32) -> Result<u64, Refused> {
        if index & 1 == 0 { Ok(index.into()) } else { Err(Refused) }
    }
    fn msr_write(&mut self, index: u32, _: u64) -> Result<(), Refused> {
        if index & 1 == 0 { Ok(()) } else { Err(Refused) }
    }
    fn tsc(&mut self) -> u64 {
        0x1234_5678_9abc
    }
}

/// What the cases reached.
#[derive(Debug, Default)]
pub struct Reached {
    pub cases: u64,
    pub done: u64,
    pub faults: [u64; 32],
    pub unknown: u64,
    pub waits: u64,
    pub devices: u64,
    pub delivered: u64,
    /// By the kind of code, and of paging.
    pub modes: [u64; 3],
    pub paging: [u64; 4],
}

/// An address: in code, data, tables or the device; at a page's end; or any.
fn place(source: &mut Source) -> u64 {
    match source.below(8) {
        0 => 0x1000 * source.below(17) + 0x1000 - source.below(20),
        1 => MEMORY as u64 + source.below(0x1000),
        2 => source.bits(),
        3 => source.below(0x40),
        _ => source.below(MEMORY as u64),
    }
}

fn word(source: &mut Source) -> u64 {
    match source.below(4) {
        0 => [0, 1, 0x7f, 0x80, 0x7fff_ffff, 0x8000_0000, u64::MAX, 1 << 63][source.below(8) as usize],
        1 => source.bits(),
        _ => place(source),
    }
}

/// Tables of pages that map nearly everything to itself, with some entries that say something else.
fn pages(memory: &mut [u8], levels: usize, source: &mut Source) {
    let wide = levels != 2;
    let size = if wide { 8 } else { 4 };
    let mut put = |at: u64, value: u64| {
        let at = at as usize;
        memory[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
    };
    // The last table maps memory and the device page by page; those above have one entry that leads on.
    let mut table = PAGES;
    for _ in 1..levels {
        put(table, (table + 0x1000) | if levels == 3 && table == PAGES { 1 } else { 7 });
        table += 0x1000;
    }
    for page in 0..0x11 {
        let mut rights = 7;
        if source.one_in(4) {
            rights = source.below(8) | source.below(2) << 5 | source.below(2) << 6;
        }
        let execute = if wide && source.one_in(8) { 1 << 63 } else { 0 };
        put(table + page * size as u64, page << 12 | rights | execute);
    }
    if source.one_in(4) {
        // Anything, anywhere in the tables.
        let at = PAGES + (source.below(levels as u64 * 0x1000 - 8) & !7);
        put(at, if source.one_in(2) { source.bits() } else { place(source) | 0x87 });
    }
}

/// A segment: flat, or anything.
fn segment(source: &mut Source, code: bool, bits: u32) -> Segment {
    let ring = if source.one_in(4) { 3 } else { 0 };
    let size = match (code, bits) {
        (true, 64) => 0x200,
        (_, 16) => 0,
        _ => 0x400,
    };
    let mut segment = Segment {
        selector: (8 + 8 * source.below(6) as u16) | ring,
        attributes: if code { 0x9b } else { 0x93 } | ring << 5 | size | if bits == 16 { 0 } else { 0x800 },
        limit: if bits == 16 { 0xffff } else { u32::MAX },
        base: 0,
    };
    if !code && source.one_in(4) {
        segment.base = place(source);
        segment.limit = source.below(0x2_0000) as u32;
        // The type, the level, whether it is there, and the size.
        segment.attributes = source.below(0x1000) as u16 & 0xcff | if source.one_in(4) { 0 } else { 0x91 };
    }
    segment
}

/// A vCPU and its memory.
fn world(source: &mut Source, reached: &mut Reached) -> (VcpuState, World) {
    // What a fuzzer looks at first: the instruction.
    let code: Vec<u8> = (0..32).map(|_| source.below(256) as u8).collect();
    let mode = source.below(3) as usize;
    let bits = [16, 32, 64][mode];
    let mut memory = vec![0; MEMORY];
    for n in 0..MEMORY as u64 / 8 {
        let at = n as usize * 8;
        memory[at..at + 8].copy_from_slice(&(n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
    memory[PAGES as usize..].fill(0);
    // Descriptors and gates, some sensible.
    for n in 1..16u64 {
        let at = (DESCRIPTORS + n * 8) as usize;
        let descriptor = match source.below(8) {
            0 => source.bits(),
            1 => 0x00af_9b00_0000_ffff,
            2 => 0x00cf_9300_0000_ffff,
            3 => 0x0000_8900_0000_ffff,
            4 => 0x0000_8e00_0008_1000 | source.below(8) << 40,
            5 => 0x00cf_fb00_0000_ffff,
            _ => 0x00cf_9b00_0000_ffff,
        };
        memory[at..at + 8].copy_from_slice(&descriptor.to_le_bytes());
    }
    let mut state = if bits == 16 { VcpuState::real_mode(0) } else { VcpuState::pvh(0, 0) };
    // 16-bit code is in real mode, protected mode, or virtual 8086 mode.
    let real = bits == 16 && source.one_in(2);
    let levels: usize = match (bits, source.below(3)) {
        (64, 0) => 5,
        (64, _) => 4,
        _ if real => 0,
        (_, kind) => [0, 2, 3][kind as usize],
    };
    reached.modes[mode] += 1;
    reached.paging[levels.saturating_sub(1).min(3)] += 1;
    state.cr0 = 0x30 | u64::from(!real) | source.below(2) << 16 | source.below(2) << 18;
    state.cr4 = source.below(2) << 4 | source.below(1 << 12) << 10 & 0x30_0800;
    if levels > 0 {
        state.cr0 |= 1 << 31;
        state.cr3 = PAGES;
        state.cr4 |= if levels == 2 { 0 } else { 1 << 5 } | if levels == 5 { 1 << 12 } else { 0 };
        state.efer = source.below(2) << 11 | if levels >= 4 { 0x500 } else { 0 };
        pages(&mut memory, levels, source);
    }
    if !real {
        state.cs = segment(source, true, bits);
        for data in [&mut state.ss, &mut state.ds, &mut state.es, &mut state.fs, &mut state.gs] {
            *data = segment(source, false, bits);
        }
        let ring = state.cs.attributes >> 5 & 3;
        state.ss.attributes = state.ss.attributes & !0x60 | ring << 5;
    }
    state.gpr = std::array::from_fn(|_| word(source));
    if bits != 64 {
        state.gpr.iter_mut().for_each(|value| *value &= 0xffff_ffff);
    }
    state.gdtr = Table { base: DESCRIPTORS, limit: source.below(0x1000) };
    state.idtr = Table { base: DESCRIPTORS + 8 * source.below(8), limit: source.below(0x1000) };
    state.tr = Segment { selector: 0x18, attributes: 0x8b, limit: source.below(0x200) as u32, base: 0x4000 };
    state.rflags = 2 | source.bits() & 0x27_7fd5;
    if bits == 64 || real {
        state.rflags &= !(1 << 17);
    }
    if state.rflags & 1 << 17 != 0 {
        // Virtual 8086 mode has the segments of real mode, at level 3.
        if bits == 16 {
            let rest = Segment { selector: 0, attributes: 0xf3, limit: 0xffff, base: 0 };
            for each in
                [&mut state.cs, &mut state.ss, &mut state.ds, &mut state.es, &mut state.fs, &mut state.gs]
            {
                *each = rest;
            }
        } else {
            state.rflags &= !(1 << 17);
        }
    }
    // Code in one page, or across two.
    state.rip = 0x1000 + if source.one_in(4) { 0x1000 - source.below(16) } else { source.below(0xf00) };
    let mut at = state.rip as usize;
    for (prefix, one_of) in [(0x66, 6), (0x67, 8), (0xf3, 6), (0xf2, 8), (0xf0, 12), (0x26, 20)] {
        if source.one_in(one_of) {
            memory[at] = prefix;
            at += 1;
        }
    }
    if source.one_in(4) {
        memory[at] = 0x0f;
        at += 1;
    }
    memory[at..at + code.len()].copy_from_slice(&code);
    (state, World { memory, late: 0, waited: false, log: vec![] })
}

/// Whether all that changed are accessed and dirty bits, which were not set.
fn marked(before: &[u8], after: &[u8]) -> bool {
    before.iter().zip(after).all(|(&before, &after)| {
        before == after || (after & !0x60) == (before & !0x60) && after & before == before
    })
}

/// Executes a few instructions, at once and with devices that answer later: both do the same, and what faults leaves nothing behind.
pub fn case(mut source: Source, reached: &mut Reached) {
    reached.cases += 1;
    let (mut state, mut world) = world(&mut source, reached);
    for _ in 0..STEPS {
        let deliver = source.one_in(8).then(|| (source.below(20) as u8, source.one_in(2).then_some(0x18)));
        let mut late_state = state;
        world.log.clear();
        let (before, memory) = (state, world.memory.clone());
        let mut late = Recorded::new(World { late: WAITS, ..world.clone() });
        // Both are recorded, so that reads come to the machine in the same pieces.
        let mut now = Recorded::new(world);
        let outcome = match deliver {
            Some((vector, error)) => {
                reached.delivered += 1;
                emulate::interrupt(&mut state, &mut now, vector, error)
                    .map_or_else(|stop| stop, |()| Outcome::Done)
            }
            None => emulate::step(&mut state, &mut now),
        };
        let mut waits = 0;
        let second = loop {
            let outcome = match deliver {
                Some((vector, error)) => emulate::interrupt(&mut late_state, &mut late, vector, error)
                    .map_or_else(|stop| stop, |()| Outcome::Done),
                None => emulate::step(&mut late_state, &mut late),
            };
            if outcome != Outcome::Pending {
                break outcome;
            }
            waits += 1;
            assert!(waits <= WAITS, "an instruction waits for ever");
        };
        world = now.machine().clone();
        reached.waits += u64::from(waits);
        reached.devices += world.log.len() as u64;
        let late = late.machine();
        if outcome == Outcome::Done && state.rip == before.rip {
            // A repetition that is not over: how far one call goes is not the same.
            reached.done += 1;
            continue;
        }
        assert_eq!(
            (outcome, state),
            (second, late_state),
            "{source}: devices that answer later change what is done: {before}"
        );
        assert!(
            world.memory == late.memory && world.log == late.log,
            "{source}: devices that answer later change memory"
        );
        match outcome {
            Outcome::Done | Outcome::Halted => reached.done += 1,
            Outcome::Pending => unreachable!("nothing here answers later"),
            Outcome::Fault(_) | Outcome::Unknown(_) => {
                if let Outcome::Fault(fault) = outcome {
                    reached.faults[usize::from(fault.vector) & 31] += 1;
                } else {
                    reached.unknown += 1;
                }
                // A repeated string instruction has made complete iterations.
                let mut rest = state;
                for register in [1, 6, 7] {
                    rest.gpr[register] = before.gpr[register];
                }
                rest.rflags = before.rflags;
                rest.interruptibility = before.interruptibility;
                let kept = state != before;
                if kept {
                    rest.gpr[0] = before.gpr[0];
                }
                assert_eq!(rest, before, "{source}: {outcome:?} has changed registers");
                assert!(kept || marked(&memory, &world.memory), "{source}: {outcome:?} has changed memory");
            }
        }
    }
}
