//! Crash reports: what a domain was doing when it died, as text for people.

use core::fmt::Write;

use crate::prelude::*;

/// Bytes of a report at most.
pub const REPORT_BYTES: usize = 4096;

/// The kinds of a vCPU's last eight exits: a byte each, one more than the kind's number, the latest lowest.
#[derive(Default)]
pub struct Trail(AtomicU64);

impl Trail {
    /// Notes an exit.
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

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(core::str::from_utf8(&self.0).unwrap_or_default())
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.0.capacity().min(REPORT_BYTES).saturating_sub(self.0.len());
        self.0.extend_from_slice(text.as_bytes().get(..room.min(text.len())).unwrap_or(&[]));
        Ok(())
    }
}

/// Writes a report on the running vCPU. `why` is one line.
pub fn write<M: Machine>(running: &mut Running<'_, M>, why: fmt::Arguments<'_>) -> Text {
    let state = running.context.save();
    let mut out = Text::new();
    let (domain, vcpu) = (running.domain, running.vcpu);
    let at = exit::code_address(running);
    let mut bytes = [0; 16];
    let code = running.with_memory(|memory| memory.fetch(at, &mut bytes).len());
    // Writing to `Text` does not fail.
    let _ = write!(out, "domain {} ({}) vcpu {}: {why}\n{state}", domain.id, domain.name(), vcpu.id);
    let _ = write!(out, "code at {:#x}:", at.0);
    for byte in bytes.iter().take(code) {
        let _ = write!(out, " {byte:02x}");
    }
    if code == 0 {
        let _ = write!(out, " not readable");
    }
    let _ = write!(out, "\nlast exits, oldest first:");
    vcpu.trail.list(&mut out);
    let _ = writeln!(out);
    out
}
