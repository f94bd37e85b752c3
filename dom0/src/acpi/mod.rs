//! ACPI tables of a PVH guest: what Linux needs to find its vCPUs and to know that it has no legacy devices, and nothing more. The values are those
//! that Xen's toolstack writes (`tools/libacpi`), field numbers those of the ACPI specification 5.0.

use acpi_tables::facs::FACS;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::{GenericAddress, Sdt};
use alloc::vec::Vec;
use zerocopy::IntoBytes;

/// Guest-physical address of the block; its first page is kept free, as Xen keeps it for its own use.
pub const BASE: u64 = 0xfc00_0000;
/// Where the tables begin.
pub const TABLES: u64 = BASE + 0x1000;

const OEM: [u8; 6] = *b"TRUNNI";
const OEM_TABLE: [u8; 8] = *b"TRUNNION";
const REVISION: u32 = 1;
/// Bytes of the fixed table in its fifth revision.
const FADT_SIZE: u32 = 268;
/// Where the local APIC is.
const LAPIC: u32 = 0xfee0_0000;

/// The tables of one guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// Bytes from [`TABLES`] on.
    pub bytes: Vec<u8>,
    /// Guest-physical address of the root pointer.
    pub rsdp: u64,
}

/// Tables for `maximum` vCPUs, of which the first `online` are there at start.
pub fn tables(online: u32, maximum: u32) -> Tables {
    let mut block = Block(Vec::new());
    let facs = block.add(FACS::new().as_bytes());
    // No device is described; an empty definition block is enough for Linux to start.
    let dsdt = block.add(sdt(*b"DSDT", 36, 2).as_slice());
    let fadt = block.add(fadt(facs, dsdt).as_slice());
    let madt = block.add(madt(online, maximum).as_slice());
    let mut xsdt = sdt(*b"XSDT", 36, 1);
    xsdt.append(fadt);
    xsdt.append(madt);
    let xsdt = block.add(xsdt.as_slice());
    let rsdp = block.add(Rsdp::new(OEM, xsdt).as_bytes());
    Tables { bytes: block.0, rsdp }
}

fn sdt(signature: [u8; 4], length: u32, revision: u8) -> Sdt {
    Sdt::new(signature, length, revision, OEM, OEM_TABLE, REVISION)
}

struct Block(Vec<u8>);

impl Block {
    /// Adds a table on a 64-byte boundary (the FACS needs one) and returns its address.
    fn add(&mut self, table: &[u8]) -> u64 {
        self.0.resize(self.0.len().next_multiple_of(64), 0);
        let address = TABLES + self.0.len() as u64;
        self.0.extend_from_slice(table);
        address
    }
}

/// Bits of the fixed table's boot flags (`IAPC_BOOT_ARCH`): by these two Linux recognises a PVH guest however it was started.
mod boot_flag {
    pub(super) const NO_VGA: u16 = 1 << 2;
    pub(super) const NO_CMOS_RTC: u16 = 1 << 5;
}

/// Bits of the fixed table's feature flags.
mod flag {
    pub(super) const WBINVD: u32 = 1;
    pub(super) const PROC_C1: u32 = 1 << 2;
    pub(super) const POWER_BUTTON: u32 = 1 << 4;
    pub(super) const SLEEP_BUTTON: u32 = 1 << 5;
    pub(super) const FIX_RTC: u32 = 1 << 6;
    pub(super) const TIMER_32: u32 = 1 << 8;
}

fn fadt(facs: u64, dsdt: u64) -> Sdt {
    /// Ports of the power management blocks. Nothing answers there: reads of all ones look like "in ACPI mode already".
    const PM1_EVENT: u16 = 0xb000;
    const PM1_CONTROL: u16 = 0xb004;
    const RESET: u16 = 0xcf9;
    let mut fadt = sdt(*b"FACP", FADT_SIZE, 5);
    fadt.write_u32(36, facs as u32);
    fadt.write_u32(40, dsdt as u32);
    fadt.write_u16(46, 9); // SCI_INT
    fadt.write_u32(56, PM1_EVENT.into());
    fadt.write_u32(64, PM1_CONTROL.into());
    fadt.write_u8(88, 4); // PM1_EVT_LEN
    fadt.write_u8(89, 2); // PM1_CNT_LEN
    fadt.write_u16(96, 0xfff); // P_LVL2_LAT: no C2
    fadt.write_u16(98, 0xfff); // P_LVL3_LAT: no C3
    fadt.write_u16(109, boot_flag::NO_VGA | boot_flag::NO_CMOS_RTC);
    let flags = flag::WBINVD
        | flag::PROC_C1
        | flag::POWER_BUTTON
        | flag::SLEEP_BUTTON
        | flag::FIX_RTC
        | flag::TIMER_32;
    fadt.write_u32(112, flags);
    fadt.write(116, GenericAddress::io_port_address::<u8>(RESET));
    fadt.write_u8(128, 6); // RESET_VALUE; the flag that allows its use is not set
    fadt.write_u64(132, facs);
    fadt.write_u64(140, dsdt);
    fadt.write(148, GenericAddress::io_port_address::<u32>(PM1_EVENT));
    fadt.write(172, GenericAddress::io_port_address::<u16>(PM1_CONTROL));
    fadt
}

fn madt(online: u32, maximum: u32) -> Sdt {
    const PCAT_COMPAT: u32 = 1;
    let mut madt = sdt(*b"APIC", 44, 2);
    madt.write_u32(36, LAPIC);
    madt.write_u32(40, PCAT_COMPAT);
    for vcpu in 0..maximum.min(127) as u8 {
        // Type 0, length 8, processor, APIC, enabled. Linux takes the processor number for the hypervisor's vCPU number.
        madt.append_slice(&[0, 8, vcpu, apic_id(vcpu), u8::from(u32::from(vcpu) < online), 0, 0, 0]);
    }
    madt
}

/// The APIC number of a vCPU; CPUID reports the same.
fn apic_id(vcpu: u8) -> u8 {
    vcpu.wrapping_mul(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(tables: &Tables, address: u64) -> &[u8] {
        &tables.bytes[(address - TABLES) as usize..]
    }

    fn long(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    fn table<'a>(tables: &'a Tables, address: u64, signature: &str) -> &'a [u8] {
        let bytes = at(tables, address);
        assert_eq!(&bytes[..4], signature.as_bytes());
        let length = u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize;
        let bytes = &bytes[..length];
        assert_eq!(bytes.iter().fold(0u8, |sum, &b| sum.wrapping_add(b)), 0);
        bytes
    }

    #[test]
    fn every_table_is_reached_and_sums_to_zero() {
        let tables = tables(2, 4);
        let rsdp = at(&tables, tables.rsdp);
        assert_eq!(&rsdp[..8], b"RSD PTR ");
        assert_eq!(rsdp[..20].iter().fold(0u8, |sum, &b| sum.wrapping_add(b)), 0);
        assert_eq!(rsdp[..36].iter().fold(0u8, |sum, &b| sum.wrapping_add(b)), 0);
        assert_eq!(rsdp[15], 2);
        let xsdt = table(&tables, long(rsdp, 24), "XSDT");
        assert_eq!(xsdt.len(), 36 + 16);
        let fadt = table(&tables, long(xsdt, 36), "FACP");
        assert_eq!((fadt.len(), fadt[8]), (268, 5));
        assert_eq!(fadt[109..111], [0x24, 0]);
        assert_eq!(long(fadt, 140), u64::from(u32::from_le_bytes(fadt[40..44].try_into().unwrap())));
        table(&tables, long(fadt, 140), "DSDT");
        let facs = at(&tables, long(fadt, 132));
        assert_eq!((&facs[..4], long(fadt, 132) % 64), (&b"FACS"[..], 0));
        let madt = table(&tables, long(xsdt, 44), "APIC");
        assert_eq!(madt[36..44], [0, 0, 0xe0, 0xfe, 1, 0, 0, 0]);
        let cpus: Vec<_> = madt[44..].chunks(8).map(|e| (e[0], e[1], e[2], e[3], e[4])).collect();
        assert_eq!(cpus, [(0, 8, 0, 0, 1), (0, 8, 1, 2, 1), (0, 8, 2, 4, 0), (0, 8, 3, 6, 0)]);
    }
}
