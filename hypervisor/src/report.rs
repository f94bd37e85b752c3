//! Crash reports: what a domain was doing when it died, as text for people.

use alloc::vec::Vec;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering};

use trunnion_protocol::address::Gva;
use trunnion_protocol::control::{ExitKind, Gpr, Segment, VcpuState};

use crate::seam::{Context, Machine};
use crate::vcpu::Running;

/// Bytes of a report at most.
pub const REPORT_BYTES: usize = 4096;

/// The kinds of a vCPU's last eight exits: a byte each, one more than the kind's number, the latest lowest.
#[derive(Default)]
pub struct Trail(AtomicU64);

impl Trail {
    /// Notes an exit.
    #[inline]
    pub fn note(&self, kind: ExitKind) {
        self.0.store(self.0.load(Ordering::Relaxed) << 8 | u64::from(kind.number() + 1), Ordering::Relaxed);
    }

    fn list(&self, out: &mut Text) {
        for byte in self.0.load(Ordering::Relaxed).to_be_bytes() {
            if let Some(name) = byte.checked_sub(1).and_then(|kind| ExitKind::NAMES.get(usize::from(kind))) {
                let _ = write!(out, " {name}");
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
