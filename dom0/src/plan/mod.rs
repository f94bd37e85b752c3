//! From a configuration and its files to a plan: everything that building will do, decided before anything is done. Pure, and printable.
//!
//! The address space is the one of Xen's toolstack: RAM from 0 with no holes below [`LOW_END`], the rest from 4 GiB on; ACPI tables at
//! [`acpi::BASE`]; the store's and the console's ring pages at fixed frames near 4 GiB. Memory that the hypervisor hands out is zero, so a
//! plan only lists bytes that are not.

mod memory;
pub mod pc;
mod print;
mod refusal;
mod store;

#[cfg(test)]
mod tests;

pub use memory::{Extent, extents};
pub use pc::{Drive, Pc, pc};
pub use refusal::Refusal;
pub(crate) use store::uuid_text;
pub use store::{
    Group, Node, Ports, Rights, backend_disk, backend_nic, block, frontend_disk, frontend_nic, network,
    roots, tree,
};

use crate::acpi;
use crate::config::{Access, Action, DiskKind, DomainConfig, Nic, Storage, VirtualDevice};
use crate::image::Image;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use trunnion_protocol::address::{Gfn, Gpa};
use trunnion_protocol::control::VcpuState;
use trunnion_protocol::hypercall::memory::Region;
use trunnion_protocol::start_info::{MapEntry, Module, StartInfo};
use zerocopy::IntoBytes;

/// RAM below 4 GiB ends here at the latest.
pub const LOW_END: u64 = acpi::BASE;
/// Frame of the store's ring page.
pub const STORE_FRAME: Gfn = Gfn(0xfeffc);
/// Frame of the console's ring page.
pub const CONSOLE_FRAME: Gfn = Gfn(0xfefff);
/// Where the special frames lie; the memory map reserves all of it.
pub const SPECIAL: Range<u64> = 0xfeff_8000..0xff00_0000;

const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;
/// Bytes of a command line, with its final zero.
const COMMAND_LINE_MAX: usize = 4096;

/// What the host has.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Pages that a new domain could get.
    pub free_pages: u64,
    /// Physical CPUs that run domains.
    pub cpus: u32,
    /// Something that differs for each domain, for identities that the configuration does not give.
    pub seed: u64,
}

impl Capacity {
    /// Whether the CPUs are there that the configuration wants its vCPUs to run on.
    fn has_cpus(&self, config: &DomainConfig) -> Result<(), Refusal> {
        match config.cpus.iter().flatten().find(|&&cpu| cpu >= self.cpus) {
            Some(&cpu) => Err(Refusal::NoSuchCpu { cpu, cpus: self.cpus }),
            None => Ok(()),
        }
    }

    /// Whether so many pages are free for a domain, with those that the hypervisor itself needs for it.
    fn has_pages(&self, pages: u64, config: &DomainConfig) -> Result<(), Refusal> {
        let needed = pages.saturating_add(memory::overhead(pages, config.max_vcpus));
        if needed <= self.free_pages {
            return Ok(());
        }
        Err(Refusal::Memory {
            needed_mib: needed.saturating_mul(PAGE).div_ceil(MIB),
            free_mib: self.free_pages * PAGE / MIB,
        })
    }
}

/// What building a domain will do.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Name.
    pub name: String,
    /// Identity.
    pub uuid: [u8; 16],
    /// vCPUs that are there at start.
    pub vcpus: u32,
    /// vCPUs there can be.
    pub max_vcpus: u32,
    /// RAM in pages.
    pub ram_pages: u64,
    /// Limit of all pages of the domain.
    pub max_pages: u64,
    /// Scheduler's weight.
    pub weight: u32,
    /// Scheduler's cap, in per cent of a CPU; 0 is none.
    pub cap: u32,
    /// Memory to be populated, in order.
    pub extents: Vec<Extent>,
    /// The memory map that the guest is told.
    pub memory_map: Vec<Region>,
    /// Bytes to be written.
    pub writes: Vec<Write>,
    /// Where vCPU 0 begins.
    pub entry: u32,
    /// Address of the start info.
    pub start_info: u32,
    /// The emulated PC, for a domain that starts with firmware: it has neither of the two before.
    pub pc: Option<Pc>,
    /// Disks, in order.
    pub disks: Vec<PlannedDisk>,
    /// Networks, in order.
    pub nics: Vec<Nic>,
    /// What happens when it powers off.
    pub on_poweroff: Action,
    /// What happens when it reboots.
    pub on_reboot: Action,
    /// What happens when it crashes, or its watchdog runs out.
    pub on_crash: Action,
}

impl Plan {
    /// The state in which vCPU 0 starts.
    pub fn state(&self) -> VcpuState {
        if self.pc.is_none() {
            return VcpuState::pvh(self.entry, self.start_info);
        }
        // Sixteen bytes below 4 GiB (SDM 3, 9.1.4).
        let mut state = VcpuState::real_mode(0);
        state.rip = 0xfff0;
        state.cs.selector = 0xf000;
        state.cs.base = 0xffff_0000;
        state
    }
}

/// Bytes that go into the guest's memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// Where.
    pub address: Gpa,
    /// What.
    pub content: Content,
}

/// Where bytes come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A part of the kernel's file.
    Kernel(Range<usize>),
    /// The RAM disk, all of it.
    Ramdisk,
    /// A part of the firmware's file.
    Firmware(Range<u64>),
    /// These.
    Bytes(Vec<u8>),
}

/// A disk that dom0 will serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedDisk {
    /// Name and number.
    pub vdev: VirtualDevice,
    /// Path as the configuration has it; none is an empty drive.
    pub target: Option<String>,
    /// Not writable.
    pub read_only: bool,
    /// A CD-ROM.
    pub cdrom: bool,
    /// Kept in dom0's memory.
    pub in_memory: bool,
    /// The guest may discard sectors.
    pub discard: bool,
    /// An emulated drive shows it too.
    pub emulated: bool,
}

/// Plans a domain. `ramdisk` is the size of the RAM disk's file in bytes.
pub fn plan(
    config: &DomainConfig,
    image: &Image,
    ramdisk: Option<u64>,
    host: &Capacity,
) -> Result<Plan, Refusal> {
    host.has_cpus(config)?;
    if config.cmdline.len() >= COMMAND_LINE_MAX {
        return Err(Refusal::CommandLine { bytes: config.cmdline.len(), most: COMMAND_LINE_MAX - 1 });
    }
    let memory = config.memory_mib.saturating_mul(MIB);
    let low = memory.min(LOW_END);
    let acpi = acpi::tables(config.vcpus, config.max_vcpus);
    let acpi_end = (acpi::TABLES + acpi.bytes.len() as u64).next_multiple_of(PAGE);
    let memory_map = memory::map(memory, low, acpi_end);

    let placed = place(image, low)?;
    let block = StartBlock::new(config, &memory_map, ramdisk);
    let start_info = placed.span().end.next_multiple_of(PAGE);
    let ramdisk_at = (start_info + block.size).next_multiple_of(PAGE);
    let end = ramdisk_at.saturating_add(ramdisk.unwrap_or(0));
    if end > low {
        let needed = end.div_ceil(MIB);
        return Err(match ramdisk {
            Some(bytes) if start_info + block.size <= low => {
                Refusal::Ramdisk { bytes, needed_mib: needed, memory_mib: low / MIB }
            }
            _ => Refusal::Kernel { needed_mib: needed, memory_mib: low / MIB },
        });
    }

    let extents = memory::all_extents(memory, low, acpi_end);
    let pages: u64 = extents.iter().map(Extent::pages).sum();
    let ram_pages = memory / PAGE;
    host.has_pages(pages, config)?;

    let mut writes: Vec<Write> = placed
        .pieces
        .iter()
        .filter(|piece| !piece.bytes.is_empty())
        .map(|piece| Write { address: Gpa(piece.address), content: Content::Kernel(piece.bytes.clone()) })
        .collect();
    writes.push(Write {
        address: Gpa(start_info),
        content: Content::Bytes(block.bytes(start_info, ramdisk_at, acpi.rsdp)),
    });
    if ramdisk.is_some_and(|bytes| bytes > 0) {
        writes.push(Write { address: Gpa(ramdisk_at), content: Content::Ramdisk });
    }
    writes.push(Write { address: Gpa(acpi::TABLES), content: Content::Bytes(acpi.bytes) });

    Ok(Plan {
        name: config.name.clone(),
        uuid: config.uuid.unwrap_or_else(|| made_uuid(&config.name, host.seed)),
        vcpus: config.vcpus,
        max_vcpus: config.max_vcpus,
        ram_pages,
        max_pages: (config.max_memory_mib.saturating_mul(MIB) / PAGE).saturating_add(pages - ram_pages),
        weight: config.weight,
        cap: config.cap,
        extents,
        memory_map,
        writes,
        entry: placed.entry,
        start_info: start_info as u32,
        pc: None,
        disks: config.disks.iter().map(planned_disk).collect(),
        nics: config.nics.clone(),
        on_poweroff: config.on_poweroff,
        on_reboot: config.on_reboot,
        on_crash: config.on_crash,
    })
}

/// The kernel where it goes: at its own address, or moved when it may be and that address cannot be had.
fn place(image: &Image, low: u64) -> Result<Image, Refusal> {
    let span = image.span();
    let Some(relocation) = image.relocation else {
        return if span.end <= low {
            Ok(image.clone())
        } else {
            Err(Refusal::Kernel { needed_mib: span.end.div_ceil(MIB), memory_mib: low / MIB })
        };
    };
    let highest = u64::from(relocation.highest).saturating_add(1).min(low);
    if image.base() >= u64::from(relocation.lowest).max(PAGE) && span.end <= highest {
        return Ok(image.clone());
    }
    // Nothing goes below 1 MiB, where kernels expect a PC's first megabyte to be theirs.
    let base = u64::from(relocation.lowest).max(MIB).next_multiple_of(u64::from(relocation.align));
    match image.moved_to(base) {
        Some(moved) if moved.span().end <= highest => Ok(moved),
        _ => Err(Refusal::Kernel {
            needed_mib: (base + (span.end - image.base())).div_ceil(MIB),
            memory_mib: low / MIB,
        }),
    }
}

/// The start info with all that it points to, in one block: structure, module list, memory map, command line.
struct StartBlock<'a> {
    cmdline: &'a str,
    map: Vec<MapEntry>,
    ramdisk: Option<u64>,
    size: u64,
}

impl<'a> StartBlock<'a> {
    fn new(config: &'a DomainConfig, map: &[Region], ramdisk: Option<u64>) -> Self {
        let map: Vec<MapEntry> = map.iter().map(MapEntry::from).collect();
        let fixed = size_of::<StartInfo>() + size_of::<Module>() + size_of::<MapEntry>() * map.len();
        let size = (fixed + config.cmdline.len() + 1) as u64;
        Self { cmdline: &config.cmdline, map, ramdisk, size }
    }

    fn bytes(&self, at: u64, ramdisk_at: u64, rsdp: u64) -> Vec<u8> {
        let module_list = at + size_of::<StartInfo>() as u64;
        let memory_map = module_list + size_of::<Module>() as u64;
        let command_line = memory_map + (size_of::<MapEntry>() * self.map.len()) as u64;
        let modules = u32::from(self.ramdisk.is_some());
        let info = StartInfo {
            magic: trunnion_protocol::start_info::MAGIC,
            version: trunnion_protocol::start_info::VERSION,
            flags: 0,
            modules,
            module_list: if modules == 0 { 0 } else { module_list },
            command_line,
            rsdp,
            memory_map,
            memory_map_entries: self.map.len() as u32,
            reserved: 0,
        };
        let module = self.ramdisk.map_or_else(Module::default, |size| Module {
            address: ramdisk_at,
            size,
            ..Module::default()
        });
        let mut bytes = Vec::with_capacity(self.size as usize);
        bytes.extend_from_slice(info.as_bytes());
        bytes.extend_from_slice(module.as_bytes());
        bytes.extend(self.map.iter().flat_map(|entry| entry.as_bytes().iter().copied()));
        bytes.extend_from_slice(self.cmdline.as_bytes());
        bytes.push(0);
        bytes
    }
}

/// A disk as it will be served, without an emulated drive.
pub fn planned_disk(disk: &crate::config::Disk) -> PlannedDisk {
    PlannedDisk {
        vdev: disk.vdev.clone(),
        target: disk.target.clone(),
        read_only: disk.access == Access::ReadOnly,
        cdrom: disk.kind == DiskKind::Cdrom,
        in_memory: disk.storage == Storage::Memory,
        discard: disk.discard,
        emulated: false,
    }
}

/// A random-looking identity (version 4, RFC 9562) that is the same for the same name and seed.
fn made_uuid(name: &str, seed: u64) -> [u8; 16] {
    let mut uuid = [0; 16];
    let mut state = seed ^ 0x9e37_79b9_7f4a_7c15;
    for byte in name.bytes() {
        state = (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    for half in uuid.chunks_mut(8) {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        half.copy_from_slice(&(mixed ^ mixed >> 31).to_le_bytes());
    }
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}
