//! The child's memory as the emulator sees it: the same pages at the same addresses, through page tables.

use trunnion_devices::emulate::{self, Machine, Outcome, Pending, Refused};
use trunnion_devices::width::Width;
use trunnion_protocol::address::Gpa;
use trunnion_protocol::control::{Segment, Table, VcpuState};

use super::cases::{CODE, Case, LENGTH, START, WINDOW, WRITABLE, decode};
use super::child::{Verdict, content, sum};

/// Where the pages are in physical memory.
const TABLES: u64 = 0x10000;
const PAGES: u64 = 0x1000;

/// RFLAGS.AC.
const ALIGNMENT: u64 = 1 << 18;

struct Flat(Vec<u8>);

impl Flat {
    fn word(&mut self, at: u64) -> &mut [u8] {
        &mut self.0[at as usize..at as usize + 8]
    }

    /// Enters a page into four levels of tables.
    fn map(&mut self, linear: u64, physical: u64, flags: u64, free: &mut u64) {
        let mut table = TABLES;
        for level in (1..4).rev() {
            let at = table + (linear >> (12 + 9 * level) & 0x1ff) * 8;
            let mut entry = u64::from_le_bytes(self.word(at).try_into().unwrap());
            if entry == 0 {
                entry = *free | 7;
                *free += 0x1000;
                self.word(at).copy_from_slice(&entry.to_le_bytes());
            }
            table = entry & !0xfff;
        }
        let at = table + (linear >> 12 & 0x1ff) * 8;
        self.word(at).copy_from_slice(&(physical | flags).to_le_bytes());
    }

    fn new(case: &Case) -> Self {
        let mut flat = Self(vec![0; 0x1a000]);
        let mut free = TABLES + 0x1000;
        flat.map(CODE, PAGES, 5, &mut free);
        flat.0[PAGES as usize..][..0x1000].fill(0xf4);
        let at = (PAGES + START - CODE) as usize;
        flat.0[at..at + 16].copy_from_slice(&case.code);
        for (n, word) in content().iter().enumerate() {
            flat.word(PAGES + 0x1000 + 8 * n as u64).copy_from_slice(&word.to_le_bytes());
        }
        for page in (0..LENGTH as u64).step_by(0x1000) {
            let flags = if page < WRITABLE as u64 { 7 } else { 5 } | 1 << 63;
            flat.map(WINDOW + page, PAGES + 0x1000 + page, flags, &mut free);
        }
        flat
    }

    fn sum(&self) -> u64 {
        let window = &self.0[PAGES as usize + 0x1000..][..LENGTH];
        let words: Vec<u64> =
            window.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
        sum(&words)
    }
}

impl Machine for Flat {
    fn read(&mut self, at: Gpa, into: &mut [u8]) -> Result<(), Pending> {
        into.copy_from_slice(&self.0[at.0 as usize..][..into.len()]);
        Ok(())
    }
    fn write(&mut self, at: Gpa, from: &[u8]) -> Result<(), Pending> {
        self.0[at.0 as usize..][..from.len()].copy_from_slice(from);
        Ok(())
    }
    fn port_read(&mut self, port: u16, _: Width) -> Result<u32, Pending> {
        panic!("a process reads port {port:#x}")
    }
    fn port_write(&mut self, port: u16, _: Width, _: u32) -> Result<(), Pending> {
        panic!("a process writes port {port:#x}")
    }
    fn cpuid(&mut self, _: u32, _: u32) -> [u32; 4] {
        [0; 4]
    }
    fn msr_read(&mut self, _: u32) -> Result<u64, Refused> {
        Err(Refused)
    }
    fn msr_write(&mut self, _: u32, _: u64) -> Result<(), Refused> {
        Err(Refused)
    }
    fn tsc(&mut self) -> u64 {
        0
    }
}

/// The registers of a process of Linux, as a case has them.
fn state(case: &Case) -> VcpuState {
    let data = Segment { selector: 0x2b, attributes: 0xcf3, limit: u32::MAX, base: 0 };
    let code = if case.bits == 32 {
        Segment { selector: 0x23, attributes: 0xcfb, ..data }
    } else {
        Segment { selector: 0x33, attributes: 0xafb, ..data }
    };
    let mut state = VcpuState::pvh(0, 0);
    state.gpr = case.gpr;
    state.rip = START;
    state.rflags = case.flags;
    // PG, AM, WP, NE, ET, MP, PE; PAE; NXE, LMA, LME, SCE.
    state.cr0 = 0x8005_0033;
    state.cr4 = 0x20;
    state.efer = 0xd01;
    state.cr3 = TABLES;
    state.cs = code;
    (state.ss, state.ds, state.es) = (data, data, data);
    (state.fs, state.gs) = (Segment::default(), Segment::default());
    // No port is allowed, and no gate.
    state.tr = Segment { selector: 0x40, attributes: 0x8b, limit: 0x63, base: 0 };
    state.gdtr = Table::default();
    state.idtr = Table::default();
    state
}

/// Executes a case. `None` when it would never end, or the child could not go on behind it.
pub(crate) fn emulate(case: &Case) -> Option<(Outcome, Verdict)> {
    let mut machine = Flat::new(case);
    let mut state = state(case);
    for _ in 0..64 {
        let outcome = emulate::step(&mut state, &mut machine);
        let fault = match outcome {
            Outcome::Done if state.rip == START => continue,
            Outcome::Fault(fault) => Some(fault),
            _ => None,
        };
        let length = decode(case).len() as u64;
        if state.rflags & ALIGNMENT != 0 || (1..length).contains(&state.rip.wrapping_sub(START)) {
            // The child's handler would be held to aligned accesses; or another instruction comes behind this one.
            return None;
        }
        let mut verdict = Verdict::of(fault, state.rip);
        verdict.gpr = state.gpr;
        verdict.flags = state.rflags;
        verdict.memory = machine.sum();
        return Some((outcome, verdict));
    }
    None
}
