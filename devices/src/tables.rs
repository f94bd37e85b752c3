//! What firmware hands to operating systems: ACPI tables (ACPI specification 5.0) and SMBIOS structures (DMTF DSP0134 2.8) of the
//! [board](crate::board), as files of the [firmware interface](crate::fwcfg).
//!
//! Firmware knows where it has memory for them, so it gets them with a script that it carries out: QEMU's *table loader*
//! (`docs/specs/acpi_*` and its comments: allocate, add a pointer, add a checksum).
//!
//! Described is what the board has, and no more. There is no controller for hot-plugged slots, so no slot can be ejected; a sleep other
//! than being off is not there; the local APICs' inputs for non-maskable interrupts are not connected.

mod acpi;
mod dsdt;
mod loader;
mod smbios;

use alloc::vec::Vec;

/// Where firmware that gets tables puts the ports of power management: `SeaBIOS` has 0x600 then, and 0xb000 where it makes the tables
/// itself.
pub const PM_PORTS: u16 = 0x600;
/// The interrupt of power management, an ISA line (82371AB: SCI).
pub const SCI: u8 = 9;

/// What the tables depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Processors.
    pub cpus: u8,
    /// Bytes of RAM below 4 GiB.
    pub low: u64,
    /// Bytes of RAM from 4 GiB on.
    pub high: u64,
    /// There is a high precision event timer.
    pub hpet: bool,
    /// There is a screen.
    pub vga: bool,
    /// There is a floppy drive.
    pub floppy: bool,
    /// The machine's number, in the order of its text.
    pub uuid: [u8; 16],
}

/// The number of a processor's local APIC, as the hypervisor gives it. They are even, as Xen's.
#[must_use]
pub const fn apic_id(cpu: u8) -> u8 {
    cpu.wrapping_mul(2)
}

/// Numbers that local APICs of so many processors can have: they are below it.
#[must_use]
pub const fn apic_limit(cpus: u16) -> u16 {
    cpus.saturating_mul(2).saturating_sub(1)
}

/// The files, by name.
#[must_use]
pub fn files(pc: &Description) -> [(&'static str, Vec<u8>); 5] {
    let acpi = acpi::tables(pc);
    let smbios = smbios::structures(pc);
    [
        (loader::TABLES, acpi.tables),
        (loader::ROOT, acpi.root),
        ("etc/table-loader", acpi.script),
        ("etc/smbios/smbios-tables", smbios.bytes),
        ("etc/smbios/smbios-anchor", smbios.anchor),
    ]
}

#[cfg(test)]
mod tests;
