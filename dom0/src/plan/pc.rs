//! Plans of emulated PCs: RAM with the hole of the screen, firmware below 1 MiB and below 4 GiB, drives by their names.

use super::memory::{Extent, extents};
use super::{
    CONSOLE_FRAME, Capacity, Content, MIB, PAGE, Plan, PlannedDisk, Refusal, SPECIAL, STORE_FRAME, Write,
    made_uuid, planned_disk,
};
use crate::config::{DiskKind, DomainConfig};
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use trunnion_protocol::address::Gpa;
use trunnion_protocol::hypercall::memory::{Region, RegionKind};

/// The memory of the screen, where there is no RAM.
pub const SCREEN: Range<u64> = 0xa_0000..0xc_0000;
/// Where RAM ends below 4 GiB: behind it are the windows of PCI devices.
pub const PCI: u64 = 0xe000_0000;
/// Where RAM goes on.
const HIGH: u64 = 1 << 32;
/// Bytes of firmware that are also seen below 1 MiB.
const SHADOW: u64 = 0x2_0000;
/// Bytes that firmware may have.
const FIRMWARE: Range<u64> = 0x1_0000..0x10_0001;
/// IDE drives of the two channels.
const DRIVES: u8 = 4;

/// What a domain with firmware has besides memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pc {
    /// Bytes of RAM, as the firmware counts them.
    pub ram: u64,
    /// Bytes of firmware, which end at 4 GiB.
    pub firmware: u64,
    /// Letters of the devices to boot from, in order.
    pub boot: String,
    /// There is a serial port that leads to the console.
    pub serial: bool,
    /// There is a high precision event timer.
    pub hpet: bool,
    /// The forced-emulation prefix works.
    pub forced: bool,
    /// There is the device by which guests of Xen find their back ends.
    pub platform: bool,
    /// IDE drives.
    pub drives: Vec<Drive>,
    /// What is in the floppy drive, if there is one.
    pub floppy: Option<String>,
}

/// An IDE drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drive {
    /// 0 to 3: channel times two, and the device.
    pub place: u8,
    /// A CD drive.
    pub cdrom: bool,
    /// Its number among the domain's disks; none is an empty CD drive.
    pub disk: Option<u32>,
}

impl Pc {
    /// The RAM and firmware of the guest, as ranges of addresses.
    pub fn memory(&self) -> [Range<u64>; 4] {
        let low = self.ram.min(PCI);
        [0..SCREEN.start, SCREEN.end..low, HIGH - self.firmware..HIGH, HIGH..HIGH + (self.ram - low)]
    }
}

/// The IDE drive that a virtual device is (`xen-vbd-interface(7)`): `hda` to `hdd`, `xvda` to `xvdd`.
pub const fn place(number: u32) -> Option<u8> {
    match (number >> 8, number & 0xff) {
        (3, 0) => Some(0),
        (3, 64) => Some(1),
        (22, 0) => Some(2),
        (22, 64) => Some(3),
        (202, minor) if minor & 15 == 0 && minor >> 4 < DRIVES as u32 => Some((minor >> 4) as u8),
        _ => None,
    }
}

/// Plans a domain that starts with firmware of so many bytes.
pub fn pc(config: &DomainConfig, firmware: u64, host: &Capacity) -> Result<Plan, Refusal> {
    host.has_cpus(config)?;
    if !FIRMWARE.contains(&firmware) || !firmware.is_multiple_of(PAGE) {
        return Err(Refusal::Firmware { bytes: firmware });
    }
    let mut drives: Vec<Drive> = Vec::new();
    for disk in &config.disks {
        let Some(place) = place(disk.vdev.number) else { continue };
        if drives.iter().any(|drive| drive.place == place) {
            return Err(Refusal::Drive { place });
        }
        let cdrom = disk.kind == DiskKind::Cdrom;
        drives.push(Drive { place, cdrom, disk: disk.target.is_some().then_some(disk.vdev.number) });
    }
    let ram = config.memory_mib.saturating_mul(MIB).max(MIB);
    let pc = Pc {
        ram,
        firmware,
        boot: config.hvm.boot.clone(),
        serial: config.hvm.serial,
        hpet: config.hvm.hpet,
        forced: config.hvm.forced,
        platform: config.hvm.platform_device,
        drives,
        floppy: config.hvm.floppy.clone(),
    };
    let mut all: Vec<Extent> =
        pc.memory().into_iter().flat_map(|range| extents(range.start / PAGE, range.end / PAGE)).collect();
    for first in [STORE_FRAME, CONSOLE_FRAME] {
        all.push(Extent { first, order: 0, count: 1 });
    }
    let pages: u64 = all.iter().map(Extent::pages).sum();
    let ram_pages = ram / PAGE;
    host.has_pages(pages, config)?;
    let shadow = firmware.min(SHADOW);
    let writes = [(HIGH - firmware, 0..firmware), (MIB - shadow, firmware - shadow..firmware)]
        .into_iter()
        .map(|(address, range)| Write { address: Gpa(address), content: Content::Firmware(range) })
        .collect();
    Ok(Plan {
        name: config.name.clone(),
        uuid: config.uuid.unwrap_or_else(|| made_uuid(&config.name, host.seed)),
        vcpus: config.vcpus,
        max_vcpus: config.max_vcpus,
        ram_pages,
        max_pages: (config.max_memory_mib.saturating_mul(MIB) / PAGE)
            .saturating_add(pages.saturating_sub(ram_pages)),
        weight: config.weight,
        cap: config.cap,
        extents: all,
        memory_map: map(&pc),
        writes,
        entry: 0,
        start_info: 0,
        pc: Some(pc),
        disks: config
            .disks
            .iter()
            .filter(|disk| disk.target.is_some())
            .map(|disk| PlannedDisk { emulated: place(disk.vdev.number).is_some(), ..planned_disk(disk) })
            .collect(),
        nics: config.nics.clone(),
        on_poweroff: config.on_poweroff,
        on_reboot: config.on_reboot,
        on_crash: config.on_crash,
    })
}

/// The memory map, by address.
fn map(pc: &Pc) -> Vec<Region> {
    let region = |range: Range<u64>, kind: RegionKind| Region {
        address: Gpa(range.start),
        length: range.end - range.start,
        kind: kind.number(),
    };
    let [base, low, firmware, high] = pc.memory();
    let mut map = alloc::vec![
        region(base, RegionKind::Ram),
        region(MIB - SHADOW..MIB, RegionKind::Reserved),
        region(MIB..low.end.max(MIB), RegionKind::Ram),
        region(SPECIAL, RegionKind::Reserved),
        region(firmware, RegionKind::Reserved),
    ];
    if !high.is_empty() {
        map.push(region(high, RegionKind::Ram));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use alloc::string::ToString;

    const HOST: Capacity = Capacity { free_pages: 1 << 21, cpus: 1, seed: 7 };

    fn planned(lines: &str, firmware: u64) -> Result<Plan, Refusal> {
        let text = alloc::format!("name = 'p'\ntype = 'hvm'\n{lines}");
        pc(&config::parse(&text).unwrap_or_else(|found| panic!("{found:?}")).config, firmware, &HOST)
    }

    #[test]
    fn ram_has_the_hole_of_the_screen_and_goes_on_above_the_devices() {
        let plan = planned("memory = 4096", 0x4_0000).unwrap();
        let pages: u64 = plan.extents.iter().map(Extent::pages).sum();
        assert_eq!(pages, 4096 * 256 - 32 + 64 + 2);
        let covered =
            |frame: u64| plan.extents.iter().any(|e| (e.first.0..e.first.0 + e.pages()).contains(&frame));
        for (frame, there) in [
            (0x9f, true),
            (0xa0, false),
            (0xbf, false),
            (0xc0, true),
            (0xdffff, true),
            (0xe0000, false),
            (0xfffbf, false),
            (0xfffc0, true),
            (0xfffff, true),
            (0x10_0000, true),
            (0x11_ffff, true),
            (0x12_0000, false),
        ] {
            assert_eq!(covered(frame), there, "{frame:#x}");
        }
        let writes: Vec<_> = plan.writes.iter().map(|w| (w.address.0, w.content.clone())).collect();
        assert_eq!(
            writes,
            [
                (0xfffc_0000, Content::Firmware(0..0x4_0000)),
                (0xe_0000, Content::Firmware(0x2_0000..0x4_0000))
            ]
        );
        let state = plan.state();
        assert_eq!((state.cs.selector, state.cs.base, state.rip), (0xf000, 0xffff_0000, 0xfff0));
    }

    #[test]
    fn drives_are_where_their_names_say() {
        let plan = planned(
            "memory = 64\ndisk = [ '/a,raw,xvda,w', '/b,raw,hdb,w', 'target=/c,vdev=hdc,access=ro,devtype=cdrom', 'vdev=hdd,access=ro,devtype=cdrom' ]",
            0x2_0000,
        )
        .unwrap();
        let drives: Vec<_> =
            plan.pc.unwrap().drives.iter().map(|d| (d.place, d.cdrom, d.disk.is_some())).collect();
        assert_eq!(drives, [(0, false, true), (1, false, true), (2, true, true), (3, true, false)]);
        assert_eq!(plan.disks.len(), 3);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let why = |lines, firmware| planned(lines, firmware).unwrap_err().to_string();
        assert_eq!(
            why("memory = 64", 0x100),
            "the firmware has 256 bytes, and must have whole pages from 64 KiB to 1 MiB"
        );
        assert!(why("memory = 64", 2 << 20).contains("firmware"));
        assert_eq!(
            why("memory = 64\ndisk = [ '/a,raw,xvda,w', '/b,raw,hda,w' ]", 0x4_0000),
            "two disks are the first IDE drive (`hda`)"
        );
        assert!(why("memory = 9000", 0x4_0000).contains("not enough memory"));
    }
}
