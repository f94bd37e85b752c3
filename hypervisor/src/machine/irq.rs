//! Interrupts of the host: which vector means what, and what is done at once when one comes.

use super::cpu::{apic, ioapic};
use crate::loader::acpi::Madt;
use crate::machine::prelude::*;

/// The vector of device slot 0.
const FIRST_DEVICE: u8 = 0x40;
/// Marks a slot that no such line feeds.
const NO_PIN: u32 = u32::MAX;

/// The level-triggered I/O APIC pin that feeds each slot. Such a pin is masked when its interrupt comes, because its device
/// keeps the line up until dom0 has served it. An edge-triggered one is not: an edge that comes meanwhile would be lost.
static PINS: [AtomicU32; DEVICE_SLOTS as usize] = [const { AtomicU32::new(NO_PIN) }; DEVICE_SLOTS as usize];
static MADT: spin::Once<Madt> = spin::Once::new();

/// Keeps what the firmware says about lines.
pub fn init(madt: Madt) {
    MADT.call_once(|| madt);
}

fn slot(vector: u8) -> Option<u8> {
    vector.checked_sub(FIRST_DEVICE).filter(|slot| *slot < DEVICE_SLOTS)
}

/// Lets the interrupts that wait reach the IDT, whose handlers note them.
pub fn open() {
    // SAFETY: the handlers run on this stack and only note the interrupt; nothing here depends on IF.
    unsafe { asm!("sti", "nop", "cli", options(nostack)) };
}

/// An interrupt was taken: quietens its source, ends it at the local APIC, notes it for the core.
pub fn take(cpu: &PerCpu, vector: u8) {
    if vector == apic::SPURIOUS {
        return;
    }
    if let Some(slot) = slot(vector) {
        let pin = PINS.get(slot as usize).map_or(NO_PIN, |pin| pin.load(Ordering::Relaxed));
        if pin != NO_PIN {
            ioapic::set_mask(pin, true);
        }
    }
    apic::end_of_interrupt();
    cpu.note(vector);
}

/// The next noted interrupt of this CPU.
pub fn next(cpu: &PerCpu) -> Option<HostInterrupt> {
    while let Some(vector) = cpu.take() {
        if vector == apic::TIMER {
            return Some(HostInterrupt::Timer);
        }
        if let Some(slot) = slot(vector) {
            return Some(HostInterrupt::Device(slot));
        }
        log::warn!("stray host interrupt vector={vector:#x}");
    }
    None
}

/// The message that raises a slot's interrupt on the first CPU (SDM 3 section 10.11).
pub fn message(slot: u8) -> Message {
    if let Some(pin) = PINS.get(slot as usize) {
        pin.store(NO_PIN, Ordering::Relaxed);
    }
    let to = super::cpu::percpu::FIRST.apic_id.load(Ordering::Relaxed);
    let address = 0xfee0_0000 | u64::from(to & 0xff) << 12;
    Message { address, data: u32::from(FIRST_DEVICE + slot.min(DEVICE_SLOTS - 1)) }
}

/// Routes a line to a slot, masked.
pub fn route(line: u32, slot: u8) -> Result<(), NoSuchLine> {
    let (pin, level_low) = MADT.get().map_or((line, true), |madt| madt.line(line));
    let to = super::cpu::percpu::FIRST.apic_id.load(Ordering::Relaxed);
    let place = PINS.get(slot as usize).ok_or(NoSuchLine)?;
    if !ioapic::route(pin, to, FIRST_DEVICE + slot, level_low) {
        return Err(NoSuchLine);
    }
    place.store(if level_low { pin } else { NO_PIN }, Ordering::Relaxed);
    Ok(())
}

/// Lets a line interrupt once more.
pub fn unmask(line: u32) {
    let (pin, _) = MADT.get().map_or((line, true), |madt| madt.line(line));
    ioapic::set_mask(pin, false);
}
