//! Crash reports: what a domain was doing when it died, as text for people.

use alloc::vec::Vec;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use trunnion_protocol::address::Gva;
use trunnion_protocol::control::{ExitKind, Gpr, Segment, VcpuState};

use crate::seam::{Context, Exit, Machine, PortAccess};
use crate::vcpu::Running;

/// Bytes of a report at most.
pub const REPORT_BYTES: usize = 4096;
const TRAIL: usize = 8;

/// The last exits of a vCPU.
#[derive(Default)]
pub struct Trail {
    next: AtomicU32,
    kinds: [AtomicU32; TRAIL],
    details: [AtomicU64; TRAIL],
}

impl Trail {
    /// Notes an exit.
    #[inline]
    pub fn note(&self, exit: &Exit) {
        let at = self.next.load(Ordering::Relaxed);
        self.next.store(at.wrapping_add(1), Ordering::Relaxed);
        let slot = at as usize % TRAIL;
        let detail = match *exit {
            Exit::Port(PortAccess { port, size, read, .. }) => {
                u64::from(port) | u64::from(size) << 16 | u64::from(read) << 24
            }
            Exit::Memory(fault) => fault.gpa.0,
            Exit::Exception { vector, .. } => u64::from(vector),
            Exit::ControlRegister { register, .. } | Exit::DebugRegister { register, .. } => {
                u64::from(register)
            }
            Exit::Unknown(code) => code,
            _ => 0,
        };
        self.kinds[slot].store(exit.kind().number() + 1, Ordering::Relaxed);
        self.details[slot].store(detail, Ordering::Relaxed);
    }

    fn list(&self, out: &mut Text) {
        let next = self.next.load(Ordering::Relaxed);
        for back in (1..=TRAIL as u32).rev() {
            let slot = next.wrapping_sub(back) as usize % TRAIL;
            if let Some(kind) = self.kinds[slot].load(Ordering::Relaxed).checked_sub(1) {
                let name = ExitKind::NAMES.get(kind as usize).unwrap_or(&"?");
                let _ = write!(out, " {name}:{:#x}", self.details[slot].load(Ordering::Relaxed));
            }
        }
    }
}

/// Text that is cut off at the end instead of failing.
#[derive(Default)]
pub struct Text(Vec<u8>);

impl Text {
    /// Room for a report; less when there is no heap, and then the report is shorter.
    pub fn new() -> Self {
        let mut bytes = Vec::new();
        let _ = bytes.try_reserve_exact(REPORT_BYTES);
        Self(bytes)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.0.capacity().min(REPORT_BYTES).saturating_sub(self.0.len());
        self.0.extend_from_slice(text.as_bytes().get(..room.min(text.len())).unwrap_or(&[]));
        Ok(())
    }
}

const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8 ", "r9 ", "r10", "r11", "r12", "r13", "r14",
    "r15",
];

/// Writes a report on the running vCPU. `why` is one line.
pub fn write<M: Machine>(running: &mut Running<'_, M>, why: fmt::Arguments<'_>) -> Text {
    let state = running.context.save();
    let mut out = Text::new();
    // Writing to `Text` does not fail.
    let _ = writeln!(
        out,
        "domain {} ({}) vcpu {}: {why}",
        running.domain.id,
        running.domain.name(),
        running.vcpu.id
    );
    registers(&mut out, &state);
    let mut bytes = [0; 16];
    let at = state.rip.wrapping_add(if running.context.mode() == crate::seam::CodeMode::Bits64 {
        0
    } else {
        state.cs.base
    });
    let code = running.with_memory(|memory| memory.fetch(Gva(at), &mut bytes).len());
    let _ = write!(out, "code at {at:#x}:");
    for byte in bytes.iter().take(code) {
        let _ = write!(out, " {byte:02x}");
    }
    if code == 0 {
        let _ = write!(out, " not readable");
    }
    let _ = write!(out, "\nlast exits, oldest first:");
    running.vcpu.trail.list(&mut out);
    let _ = writeln!(out);
    out
}

fn registers(out: &mut Text, state: &VcpuState) {
    for (chunk, names) in state.gpr.chunks(4).zip(NAMES.chunks(4)) {
        for (value, name) in chunk.iter().zip(names) {
            let _ = write!(out, "{name} {value:016x}  ");
        }
        let _ = writeln!(out);
    }
    let _ = writeln!(
        out,
        "rip {:016x}  rflags {:08x}  rsp {:016x}",
        state.rip,
        state.rflags,
        state.gpr[Gpr::Rsp as usize]
    );
    let _ = writeln!(
        out,
        "cr0 {:08x}  cr2 {:016x}  cr3 {:016x}  cr4 {:08x}  efer {:04x}",
        state.cr0, state.cr2, state.cr3, state.cr4, state.efer
    );
    for (name, segment) in [
        ("cs", state.cs),
        ("ss", state.ss),
        ("ds", state.ds),
        ("es", state.es),
        ("fs", state.fs),
        ("gs", state.gs),
        ("tr", state.tr),
        ("ldtr", state.ldtr),
    ] {
        let Segment { selector, attributes, limit, base } = segment;
        let _ = writeln!(
            out,
            "{name:4} {selector:04x} base {base:016x} limit {limit:08x} attributes {attributes:04x}"
        );
    }
    let _ = writeln!(
        out,
        "gdtr {:016x}+{:04x}  idtr {:016x}+{:04x}",
        state.gdtr.base, state.gdtr.limit, state.idtr.base, state.idtr.limit
    );
}
