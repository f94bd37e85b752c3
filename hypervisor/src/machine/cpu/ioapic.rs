//! The I/O APIC: every pin masked until dom0 asks for its interrupt line (82093AA datasheet).

use crate::machine::prelude::*;

/// Where PC chipsets put the first one.
pub const USUAL_ADDRESS: u64 = 0xfec0_0000;

struct IoApic {
    address: u64,
    pins: u32,
}

static FIRST: Mutex<IoApic> = Mutex::new(IoApic { address: 0, pins: 0 });

impl IoApic {
    fn read(&self, register: u32) -> u32 {
        // SAFETY: the page is mapped uncached for ever; the lock keeps the index register ours between the two accesses.
        unsafe {
            (self.address as *mut u32).write_volatile(register);
            ((self.address + 0x10) as *const u32).read_volatile()
        }
    }

    fn write(&self, register: u32, value: u32) {
        // SAFETY: as above.
        unsafe {
            (self.address as *mut u32).write_volatile(register);
            ((self.address + 0x10) as *mut u32).write_volatile(value);
        }
    }
}

/// Masks every pin. Returns their number.
pub fn init(address: u64) -> u32 {
    let mut apic = FIRST.lock();
    apic.address = address;
    apic.pins = (apic.read(1) >> 16 & 0xff) + 1;
    for pin in 0..apic.pins {
        apic.write(0x10 + 2 * pin, 1 << 16);
        apic.write(0x11 + 2 * pin, 0);
    }
    apic.pins
}

/// Sends a pin's interrupt to the CPU with APIC id `to` as `vector`, masked until [`unmask`]. PCI lines are level and low.
/// False when there is no such pin.
pub fn route(pin: u32, to: u32, vector: u8, level_low: bool) -> bool {
    let apic = FIRST.lock();
    if pin >= apic.pins {
        return false;
    }
    let mode = if level_low { 1 << 13 | 1 << 15 } else { 0 };
    apic.write(0x10 + 2 * pin, 1 << 16 | mode | vector as u32);
    apic.write(0x11 + 2 * pin, to << 24);
    true
}

/// Masks or unmasks a pin.
pub fn set_mask(pin: u32, masked: bool) {
    let apic = FIRST.lock();
    if pin < apic.pins {
        let low = apic.read(0x10 + 2 * pin) & !(1 << 16);
        apic.write(0x10 + 2 * pin, low | u32::from(masked) << 16);
    }
}
