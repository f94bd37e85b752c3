//! The ACPI tables. Field numbers are those of the specification, values those of the board.

use acpi_tables::facs::FACS;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::{GenericAddress, Sdt};
use alloc::vec::Vec;
use zerocopy::IntoBytes;

use super::loader::{ROOT, Script, TABLES, Zone};
use super::{Description, PM_PORTS, SCI, apic_id, dsdt};
use crate::{hpet, ioapic};

const OEM: [u8; 6] = *b"TRUNNI";
const OEM_TABLE: [u8; 8] = *b"TRUNNION";
const REVISION: u32 = 1;
/// Bytes of a table's header, and the place of its checksum in it.
const HEADER: usize = 36;
const CHECKSUM: usize = 9;
/// Alignment of tables: the FACS has to have it.
const ALIGNMENT: usize = 64;
/// Where the local APICs are.
const LAPIC: u32 = 0xfee0_0000;

/// The ACPI files.
pub(super) struct Files {
    /// The tables, one behind the other.
    pub(super) tables: Vec<u8>,
    /// The root pointer.
    pub(super) root: Vec<u8>,
    /// How to put them into memory.
    pub(super) script: Vec<u8>,
}

/// The tables of a PC.
pub(super) fn tables(pc: &Description) -> Files {
    let mut block = Block::default();
    block.script.allocate(ROOT, 16, Zone::Segment);
    block.script.allocate(TABLES, ALIGNMENT as u32, Zone::High);
    let facs = block.add(FACS::new().as_bytes());
    let mut definitions = sdt(*b"DSDT", HEADER, 2);
    definitions.append_slice(&dsdt::body(pc));
    let dsdt = block.add(definitions.as_slice());
    let fixed = fadt(pc, facs, dsdt);
    // FIRMWARE_CTRL, DSDT, X_DSDT. X_FIRMWARE_CTRL is for one above 4 GiB.
    let mut listed = alloc::vec![block.add_pointing(&fixed, &[(36, 4), (40, 4), (140, 8)])];
    listed.push(block.add(madt(pc).as_slice()));
    if pc.hpet {
        listed.push(block.add(timer().as_slice()));
    }
    // The list for systems that know revision 1, with narrow addresses, and the other.
    let narrow = block.list(*b"RSDT", 4, &listed);
    let wide = block.list(*b"XSDT", 8, &listed);
    let mut root = Rsdp::new(OEM, u64::from(wide)).as_bytes().to_vec();
    put(&mut root, 16, &narrow.to_le_bytes());
    block.script.point(ROOT, 16, 4);
    block.script.point(ROOT, 24, 8);
    block.script.sum(ROOT, 8, 0, 20);
    block.script.sum(ROOT, 32, 0, root.len());
    Files { tables: block.bytes, root, script: block.script.0 }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes.iter_mut().skip(at).zip(value).for_each(|(to, from)| *to = *from);
}

fn sdt(signature: [u8; 4], length: usize, revision: u8) -> Sdt {
    Sdt::new(signature, length as u32, revision, OEM, OEM_TABLE, REVISION)
}

/// The file of the tables. An address is an offset in it until firmware has added where the file is.
#[derive(Default)]
struct Block {
    bytes: Vec<u8>,
    script: Script,
}

impl Block {
    fn add(&mut self, table: &[u8]) -> u32 {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
        let address = self.bytes.len() as u32;
        self.bytes.extend_from_slice(table);
        address
    }

    /// Adds a table with addresses in it: their places and sizes.
    fn add_pointing(&mut self, table: &Sdt, pointers: &[(usize, u8)]) -> u32 {
        let address = self.add(table.as_slice());
        let at = address as usize;
        for (offset, size) in pointers {
            self.script.point(TABLES, at + offset, *size);
        }
        self.script.sum(TABLES, at + CHECKSUM, at, table.len());
        address
    }

    /// Adds a list of tables' addresses.
    fn list(&mut self, signature: [u8; 4], size: usize, tables: &[u32]) -> u32 {
        let mut list = sdt(signature, HEADER, 1);
        let mut pointers = Vec::new();
        for &table in tables {
            pointers.push((list.len(), size as u8));
            list.append_slice(u64::from(table).to_le_bytes().get(..size).unwrap_or_default());
        }
        self.add_pointing(&list, &pointers)
    }
}

/// Bits of the fixed table's boot flags (`IAPC_BOOT_ARCH`).
mod boot_flag {
    pub(super) const LEGACY_DEVICES: u16 = 1;
    pub(super) const KEYBOARD: u16 = 1 << 1;
    pub(super) const NO_VGA: u16 = 1 << 2;
}

/// Bits of the fixed table's feature flags. Those of buttons are clear: they are fixed hardware here.
mod flag {
    pub(super) const WBINVD: u32 = 1;
    pub(super) const PROC_C1: u32 = 1 << 2;
    /// The wake status of the clock is not among the fixed registers.
    pub(super) const FIX_RTC: u32 = 1 << 6;
    pub(super) const RESET_REGISTER: u32 = 1 << 10;
}

/// The fixed table, in its third revision.
fn fadt(pc: &Description, facs: u32, dsdt: u32) -> Sdt {
    const SIZE: usize = 244;
    const DESKTOP: u8 = 1;
    /// Ports of the PIIX4's registers, their bytes, and the width of an access: 2 is a word, 3 a double word (82371AB, 7.2).
    const EVENT: (u16, u8, u8) = (PM_PORTS, 4, 2);
    const CONTROL: (u16, u8, u8) = (PM_PORTS + 4, 2, 2);
    const TIMER: (u16, u8, u8) = (PM_PORTS + 8, 4, 3);
    const GENERAL: (u16, u8, u8) = (PM_PORTS + 12, 4, 2);
    let mut fadt = sdt(*b"FACP", SIZE, 3);
    fadt.write_u32(36, facs);
    fadt.write_u32(40, dsdt);
    fadt.write_u8(45, DESKTOP);
    fadt.write_u16(46, SCI.into());
    fadt.write_u32(48, 0xb2); // SMI_CMD, with what switches ACPI on and off
    fadt.write_u8(52, 0xf1);
    fadt.write_u8(53, 0xf0);
    for (at, length, wide, (port, bytes, access_size)) in
        [(56, 88, 148, EVENT), (64, 89, 172, CONTROL), (76, 91, 208, TIMER), (80, 92, 220, GENERAL)]
    {
        fadt.write_u32(at, port.into());
        fadt.write_u8(length, bytes);
        let register_bit_width = 8 * bytes;
        let address = GenericAddress::io_port_address::<u8>(port);
        fadt.write(wide, GenericAddress { register_bit_width, access_size, ..address });
    }
    fadt.write_u16(96, 0xfff); // P_LVL2_LAT: no C2
    fadt.write_u16(98, 0xfff); // P_LVL3_LAT: no C3
    fadt.write_u8(108, 0x32); // CENTURY
    let screen = if pc.vga { 0 } else { boot_flag::NO_VGA };
    fadt.write_u16(109, boot_flag::LEGACY_DEVICES | boot_flag::KEYBOARD | screen);
    fadt.write_u32(112, flag::WBINVD | flag::PROC_C1 | flag::FIX_RTC | flag::RESET_REGISTER);
    fadt.write(116, GenericAddress::io_port_address::<u8>(0xcf9));
    fadt.write_u8(128, 6); // RESET_VALUE: a hard reset, begun by bit 2
    fadt.write_u64(140, dsdt.into());
    fadt
}

/// The interrupt controllers.
fn madt(pc: &Description) -> Sdt {
    const PCAT_COMPAT: u32 = 1;
    /// Active high, level-triggered.
    const LEVEL_HIGH: u8 = 0xd;
    let mut madt = sdt(*b"APIC", HEADER + 8, 2);
    madt.write_u32(36, LAPIC);
    madt.write_u32(40, PCAT_COMPAT);
    for cpu in 0..pc.cpus {
        // Processor, APIC, enabled.
        madt.append_slice(&[0, 8, cpu, apic_id(cpu), 1, 0, 0, 0]);
    }
    let mut controller = alloc::vec![1, 12, ioapic::ID, 0];
    controller.extend_from_slice(&(ioapic::BASE as u32).to_le_bytes());
    controller.extend_from_slice(&[0; 4]);
    madt.append_slice(&controller);
    // ISA line 0, the timer, is input 2; that of power management is shared, and so it has a level.
    madt.append_slice(&[2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
    madt.append_slice(&[2, 10, 0, SCI, SCI, 0, 0, 0, LEVEL_HIGH, 0]);
    madt
}

/// The high precision event timer.
fn timer() -> Sdt {
    /// Ticks of the main counter that a periodic comparator needs at least (IA-PC HPET 1.0a, 3.2.4): 50 microseconds, as often as the
    /// board's timers are looked at.
    const MINIMUM: u16 = 5_000;
    let mut table = sdt(*b"HPET", HEADER + 20, 1);
    table.write_u32(36, hpet::ID);
    table.write(40, GenericAddress::mmio_address::<u64>(hpet::BASE));
    table.write_u16(53, MINIMUM);
    table
}
