//! The seam's machine on a PC, for either vendor.

use super::cpu::{self, apic, clock};
use super::vendor::Vendor;
use super::{crash, irq, serial};
use crate::machine::prelude::*;

/// A PC whose processors run guests the way of `V`.
pub struct Pc<V> {
    vendor: V,
    /// The largest range of RAM, which nearly all lookups want: first frame and how many. And all of them, by address.
    main: (u64, u64),
    ram: Ranges,
    wall_clock_base: u64,
    tsc_is_stable: bool,
}

impl<V: Vendor> Pc<V> {
    /// The machine: `ram` holds what [`Machine::page`] may reach, as byte addresses.
    pub fn new(vendor: V, ram: Ranges) -> Self {
        let tsc_is_stable =
            cpu::cpuid(0x8000_0000, 0).eax >= 0x8000_0007 && cpu::cpuid(0x8000_0007, 0).edx & 1 << 8 != 0;
        let now = clock::now();
        let wall_clock_base = super::rtc::seconds().saturating_mul(1_000_000_000).saturating_sub(now);
        let (from, to) =
            ram.as_slice().iter().copied().max_by_key(|(from, to)| to - from).unwrap_or_default();
        // Address 0 is nobody's.
        let main = ((from >> 12).max(1), (to >> 12).saturating_sub((from >> 12).max(1)));
        Self { vendor, main, ram, wall_clock_base, tsc_is_stable }
    }

    /// Whether a frame is in any range of RAM.
    #[cold]
    fn is_elsewhere(&self, frame: Mfn) -> bool {
        let inside =
            |address: u64| self.ram.as_slice().iter().any(|&(from, to)| (from..to).contains(&address));
        frame.0 != 0 && frame.checked_address().is_some_and(|address| inside(address.0))
    }
}

impl<V: Vendor> Machine for Pc<V> {
    type Context = V::Context;

    fn page(&self, frame: Mfn) -> Option<&SharedPage> {
        if frame.0.wrapping_sub(self.main.0) >= self.main.1 && !self.is_elsewhere(frame) {
            return None;
        }
        let address = frame.0 << 12;
        // SAFETY: the address is that of a whole page of RAM other than the first, mapped one to one and writable for ever; the
        // caller holds a reference to the frame; a shared page consists of atomics, so that guests and devices may write it
        // meanwhile.
        unsafe {
            core::hint::assert_unchecked(address != 0);
            Some(&*(address as *const SharedPage))
        }
    }

    fn format(&self) -> &'static EntryFormat {
        self.vendor.format()
    }

    fn opcode(&self) -> Opcode {
        V::OPCODE
    }

    fn this_cpu(&self) -> Cpu {
        Cpu(PerCpu::get().index.load(Ordering::Relaxed))
    }

    fn cpus(&self) -> u32 {
        1
    }

    fn now(&self) -> HostTime {
        HostTime(clock::now())
    }

    fn tsc(&self) -> u64 {
        cpu::tsc()
    }

    fn tsc_khz(&self) -> u64 {
        (clock::frequency() / 1000).max(1)
    }

    fn tsc_is_stable(&self) -> bool {
        self.tsc_is_stable
    }

    fn wall_clock_base(&self) -> u64 {
        self.wall_clock_base
    }

    /// One CPU runs domains, and nobody kicks himself.
    fn kick(&self, _: Cpu) {}

    fn arm(&self, deadline: Option<HostTime>) {
        apic::arm(deadline.map(|at| at.0.saturating_sub(clock::now())));
    }

    fn idle(&self) {
        let cpu = PerCpu::get();
        while !cpu.has_noted() {
            // SAFETY: STI holds interrupts back until HLT waits for them, so none slips through in between; the handlers only note
            // them.
            unsafe { core::arch::asm!("sti", "hlt", "cli", options(nostack)) };
        }
    }

    fn take_interrupt(&self) -> Option<HostInterrupt> {
        let cpu = PerCpu::get();
        if cpu.has_noted() { irq::next(cpu) } else { None }
    }

    fn cpuid(&self, leaf: u32, subleaf: u32) -> CpuidResult {
        let answer = cpu::cpuid(leaf, subleaf);
        CpuidResult { eax: answer.eax, ebx: answer.ebx, ecx: answer.ecx, edx: answer.edx }
    }

    fn new_context(&self, hardware: bool) -> Result<Self::Context, OutOfHeap> {
        self.vendor.context(hardware)
    }

    fn enter(&self, context: &mut Self::Context, root: Mfn, epoch: u64) -> Exit {
        self.vendor.enter(PerCpu::get(), context, root, epoch)
    }

    fn message(&self, slot: u8) -> Message {
        irq::message(slot)
    }

    fn route_line(&self, line: u32, slot: u8) -> Result<(), NoSuchLine> {
        irq::route(line, slot)
    }

    fn unmask_line(&self, line: u32) {
        irq::unmask(line);
    }

    fn console(&self, text: &[u8]) {
        serial::write(text);
    }

    fn typed(&self, into: &mut [u8]) -> usize {
        serial::read(into)
    }

    fn power_off(&self, ok: bool) -> ! {
        crash::exit(u8::from(!ok))
    }
}
