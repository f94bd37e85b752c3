//! dom0: made by the core itself, from the image in the boot bundle.
//!
//! It is mapped one to one, so its guest-physical addresses are bus addresses. It gets its share of memory, the bundle as
//! its first module, and everything that is no RAM of the host as device memory, save the interrupt controllers.

mod image;

use trunnion_protocol::hypercall::memory::{Region, RegionKind};
use trunnion_protocol::start_info::{
    FLAG_INITIAL_DOMAIN, FLAG_PRIVILEGED, MAGIC, MEMORY_MAP_LIMIT, MapEntry, Module, StartInfo, VERSION,
};

use crate::frames::Run as Frames;
use crate::prelude::*;
use crate::second_level::Run;
use image::Image;

/// dom0's memory when the command line does not say.
pub const DEFAULT_MEMORY: u64 = 32 << 20;
/// What it takes at least: less than this holds no image.
const LEAST_MEMORY: u64 = 8 << 20;
/// 2 MiB, in pages: the alignment of everything that dom0 is given.
const ALIGN_ORDER: u32 = 9;
/// dom0 starts in 32-bit code and maps the first 4 GiB.
const LOW: Mfn = Mfn(1 << 20);
/// Pages for what dom0 reads at its start: start info with modules and memory map, and the command line.
const START_PAGES: u64 = 2;
/// Its weight: back ends serve everybody.
const WEIGHT: u32 = 1024;

/// Why dom0 cannot be started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// Its image is not what it has to be; the reason.
    Image(&'static str),
    /// Not enough memory: bytes that were wanted, and bytes that are free.
    Memory(u64, u64),
    /// The core refused a step.
    Core(Errno),
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::Core(errno)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(why) => write!(f, "dom0's image: {why}"),
            Self::Memory(wanted, free) => {
                write!(f, "dom0 needs {wanted} bytes below 4 GiB, and {free} are free")
            }
            Self::Core(errno) => write!(f, "dom0 cannot be made: {errno}"),
        }
    }
}

/// Makes dom0 and starts it. The run loop does the rest.
pub fn start<M: Machine>(host: &Host<M>, boot: &BootInfo<'_>) -> Result<(), Failure> {
    host.frames.claim_range(boot.bundle, DomainId::XEN, FrameKind::Bundle);
    let image = Image::read(boot.dom0_image)?;
    let wanted = if boot.dom0_memory == 0 { DEFAULT_MEMORY } else { boot.dom0_memory.max(LEAST_MEMORY) };
    let domain = create::dom0(host, host.frames.end_frame().0)?;
    domain.weight.store(WEIGHT, Ordering::Relaxed);
    let runs = domain.give_memory(host, wanted)?;
    host.dom0_bytes.store(runs.iter().map(|run| (PAGE_SIZE as u64) << run.order).sum(), Ordering::Relaxed);
    domain.map_frames(host, boot.bundle, Kind::Ram)?;
    for &window in boot.device_windows {
        domain.map_frames(host, window, Kind::Device)?;
    }
    let first = runs.first().ok_or(Failure::Image("no memory for it"))?.frames();
    let room = FrameRange { start: first.start, end: Mfn(first.end.0 - START_PAGES) };
    let entry = image.load(&host.machine, room)?;
    let regions = regions(&runs, boot);
    let info = describe(&host.machine, boot, &regions, room.end)?;
    domain.memory.lock().regions = regions;
    let name = VcpuRef { domain: domain.clone(), index: VcpuId(0).0 };
    start::load(host, &name, &VcpuState::pvh(entry, info), true)?;
    host.ready.store(host.now().0, Ordering::Relaxed);
    host.say(format_args!("dom0 starts entry={entry:#x} memory={} bundle={}", wanted, boot.bundle_bytes));
    life::unpause(host, &domain)?;
    Ok(())
}

impl<M: Machine> Domain<M> {
    /// Gives dom0 memory below 4 GiB in as few runs as there are, mapped one to one. The first, which takes the image, is the
    /// largest.
    pub(crate) fn give_memory(&self, host: &Host<M>, bytes: u64) -> Result<Vec<Frames>, Failure> {
        let short = Failure::Memory(bytes, host.frames.free_frames() * PAGE_SIZE as u64);
        let mut runs: Vec<Frames> = Vec::new();
        let mut left = bytes.div_ceil((PAGE_SIZE as u64) << ALIGN_ORDER) << ALIGN_ORDER;
        let mut order = left.ilog2();
        while left > 0 {
            order = order.min(left.ilog2());
            runs.try_reserve(1).map_err(|_| short)?;
            match host.allocate_below(order, LOW, DomainId::DOM0, FrameKind::Ram) {
                Some(run) => {
                    self.map_frames(host, run.frames(), Kind::Ram)?;
                    runs.push(run);
                    left -= 1 << order;
                }
                None if order > ALIGN_ORDER => order -= 1,
                None => return Err(short),
            }
        }
        Ok(runs)
    }

    fn map_frames(&self, host: &Host<M>, frames: FrameRange, kind: Kind) -> Result<(), Errno> {
        let rights = if kind == Kind::Device { Rights::WRITE } else { Rights::all() };
        let count = frames.end.0.saturating_sub(frames.start.0);
        self.map(host).map(Run { gfn: Gfn(frames.start.0), mfn: frames.start, count, rights, kind })
    }
}

/// dom0's memory map: its RAM, and the rest of the host's RAM as reserved, since other domains' frames appear there.
fn regions(runs: &[Frames], boot: &BootInfo<'_>) -> Vec<Region> {
    let mut regions = Vec::new();
    let mut push = |from: u64, to: u64, kind: RegionKind| {
        if from < to && regions.len() < MEMORY_MAP_LIMIT as usize {
            regions.push(Region { address: Gpa(from << 12), length: (to - from) << 12, kind: kind.number() });
        }
    };
    let mut own: Vec<_> = runs.iter().map(|run| (run.start.0, run.frames().end.0)).collect();
    own.sort_unstable();
    for range in boot.ram {
        let mut at = range.start.0;
        for &(from, to) in own.iter().filter(|(from, to)| *from >= range.start.0 && *to <= range.end.0) {
            push(at, from, RegionKind::Reserved);
            push(from, to, RegionKind::Ram);
            at = to;
        }
        push(at, range.end.0, RegionKind::Reserved);
    }
    regions
}

/// Writes the start info and what it points to at frame `at`; returns its address.
fn describe<M: Machine>(machine: &M, boot: &BootInfo<'_>, map: &[Region], at: Mfn) -> Result<u32, Failure> {
    let start = at.address().0;
    let entries: Vec<MapEntry> = map.iter().map(MapEntry::from).collect();
    let module_list = start + size_of::<StartInfo>() as u64;
    let memory_map = module_list + size_of::<Module>() as u64;
    let info = StartInfo {
        magic: MAGIC,
        version: VERSION,
        flags: FLAG_PRIVILEGED | FLAG_INITIAL_DOMAIN,
        modules: 1,
        module_list,
        command_line: memory_map + size_of_val(entries.as_slice()) as u64,
        rsdp: boot.rsdp,
        memory_map,
        memory_map_entries: entries.len() as u32,
        reserved: 0,
    };
    let module =
        Module { address: boot.bundle.start.address().0, size: boot.bundle_bytes, ..Module::default() };
    let parts = [info.as_bytes(), module.as_bytes(), entries.as_bytes(), boot.command_line.as_bytes()];
    // One byte stays zero as the end.
    if parts.iter().map(|part| part.len()).sum::<usize>() >= START_PAGES as usize * PAGE_SIZE {
        return Err(Failure::Image("its start info does not fit"));
    }
    let mut to = start;
    for part in parts {
        image::copy(machine, part, to)?;
        to += part.len() as u64;
    }
    u32::try_from(start).map_err(|_| Failure::Image("its memory is above 4 GiB"))
}
