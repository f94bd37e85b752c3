//! The last step of boot: what was found becomes the core's account of the machine, and the core runs.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use trunnion_protocol::address::Mfn;

use super::boot::bundle;
use super::boot::ranges::Ranges;
use super::pc::Pc;
use super::start::Memory;
use super::vendor::Vendor;
use super::{crash, selftest};
use crate::host::Host;
use crate::seam::{BootInfo, FrameRange, Machine};

const FOUR_GIB: u64 = 1 << 32;
/// Address space above RAM in which firmware places the memory of devices that does not fit below 4 GiB.
const HIGH_WINDOW: u64 = 1 << 36;
const GIB: u64 = 1 << 30;

fn frames(ranges: &Ranges) -> Vec<FrameRange> {
    let range = |&(from, to): &(u64, u64)| FrameRange { start: Mfn(from >> 12), end: Mfn(to >> 12) };
    ranges.as_slice().iter().map(range).collect()
}

/// Where devices' memory may be: everywhere below 4 GiB and in a window above RAM, but for RAM itself, which the core leaves
/// out, and the interrupt controllers.
fn device_windows(plan: &Memory) -> Ranges {
    let mut windows = Ranges::default();
    windows.add(0, FOUR_GIB);
    let high = plan.ram.end().max(FOUR_GIB).next_multiple_of(GIB);
    windows.add(high, high + HIGH_WINDOW);
    for page in plan.controllers {
        windows.remove(page, page + 4096);
    }
    windows
}

fn give_up(why: core::fmt::Arguments<'_>) -> ! {
    log::error!("{why}");
    crash::exit(2)
}

/// The machine address and the bytes of dom0's ELF inside the bundle.
fn dom0_image(plan: &Memory) -> (u64, u64) {
    let module = plan.bundle;
    if module.size == 0 {
        give_up(format_args!("no module: the hypervisor is started with one, the bundle"));
    }
    if !module.address.is_multiple_of(4096) {
        give_up(format_args!("the bundle does not start on a page boundary address={:#x}", module.address));
    }
    // SAFETY: the loader filled the module, all RAM is mapped one to one, and the range was taken out of what is given away; it is
    // only read, before any domain runs.
    let bytes = unsafe { core::slice::from_raw_parts(module.address as *const u8, module.size as usize) };
    match bundle::member(bytes, "dom0") {
        Some(image) => (image.as_ptr() as u64, image.len() as u64),
        None => give_up(format_args!("the module is no bundle with a member dom0 bytes={}", module.size)),
    }
}

/// Gives the machine to the core, which keeps it.
pub(super) fn run<V: Vendor>(machine: Pc<V>, plan: &Memory, command_line: &'static str) -> ! {
    let word = |key: &str| {
        command_line.split_ascii_whitespace().find_map(|w| w.strip_prefix(key)?.strip_prefix('='))
    };
    if command_line.split_ascii_whitespace().any(|w| w == "selftest") {
        selftest::run(&machine);
    }
    let dom0_mib: u64 = word("dom0-memory").and_then(|mib| mib.parse().ok()).unwrap_or(0);
    let (free, ram, windows) = (frames(&plan.free), frames(&plan.ram), frames(&device_windows(plan)));
    let dom0_image = dom0_image(plan);
    let end = (plan.bundle.address + plan.bundle.size).div_ceil(4096);
    let boot = BootInfo {
        free: &free,
        ram: &ram,
        device_windows: &windows,
        bundle: FrameRange { start: Mfn(plan.bundle.address >> 12), end: Mfn(end) },
        bundle_bytes: plan.bundle.size,
        dom0_image,
        dom0_memory: dom0_mib << 20,
        command_line,
        rsdp: plan.rsdp,
        hypervisor_bytes: plan.own_bytes,
    };
    let host = match Host::new(machine, &boot) {
        Ok(host) => Box::leak(Box::new(host)),
        Err(_) => give_up(format_args!("the heap does not hold the frame table")),
    };
    host.ready.store(host.machine.now().0, Ordering::Relaxed);
    if let Err(failure) = crate::dom0::start(host, &boot) {
        give_up(format_args!("{failure}"));
    }
    crate::run::run_cpu(host)
}
