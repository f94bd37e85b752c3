//! From the entry code to the core: the machine is found, set up, and handed over to the core, which keeps it.

use super::cpu::percpu;
use super::cpu::{apic, clock, ioapic, pic};
use super::pc::Pc;
use super::physical::Physical;
use super::vendor::{Refusal, Vendor};
use super::{crash, heap, irq, logger, paging, serial, svm, vmx, xstate};
use crate::loader::{self, BootInfo, acpi, bundle};
use crate::machine::prelude::*;
use crate::seam::BootInfo as Handover;

/// The lowest address that is given away: what the firmware keeps below 1 MiB stays as it is.
const LOW: u64 = 1 << 20;
const FOUR_GIB: u64 = 1 << 32;

/// Address space above RAM in which firmware places the memory of devices that does not fit below 4 GiB.
const HIGH_WINDOW: u64 = 1 << 36;
const GIB: u64 = 1 << 30;

/// What the core is told of memory, kept for ever.
struct Memory {
    /// All RAM.
    ram: Ranges,
    /// RAM that is free.
    free: Ranges,
    /// The bundle: its address and bytes.
    bundle: (u64, u64),
    /// The root pointer of ACPI, or 0.
    rsdp: u64,
    /// Bytes of image, heap and tables.
    own_bytes: u64,
    /// Pages of the interrupt controllers, which no domain gets.
    controllers: [u64; 2],
}

/// The first Rust code: the entry code's identity map, stack and registers.
#[unsafe(no_mangle)]
extern "C" fn boot_main(magic: u32, pointer: u32) -> ! {
    serial::init();
    percpu::FIRST.install();
    // SAFETY: the first and only call on this CPU.
    unsafe { percpu::FIRST.tables.load() };
    pic::disable();
    let hz = clock::init();
    let memory = Physical;
    let info = match loader::parse(&memory, magic, pointer) {
        Ok(info) => info,
        Err(error) => {
            logger::init(None);
            log::error!("{error} magic={magic:#x}");
            crash::end()
        }
    };
    logger::init(loader::value(info.command_line, "log"));
    let (loader, words) = (info.loader, info.command_line);
    log::info!("Trunnion {} loader={loader} command-line=\"{words}\"", env!("CARGO_PKG_VERSION"));
    // Multiboot2 gives a copy of the pointer, in memory that is given away; the firmware's own stays.
    let root = acpi::find_root(&memory).or(info.rsdp);
    let madt = root.and_then(|root| acpi::madt(&memory, root)).unwrap_or_default();
    let apic_page = apic::page();
    let ioapic_page = if madt.ioapic == 0 { ioapic::USUAL_ADDRESS } else { madt.ioapic };
    let controllers = [apic_page, ioapic_page];
    let (plan, heap_at, tables_at) = lay_out(&info, root.unwrap_or(0), controllers);
    let mut mapped = plan.ram.clone();
    let image = paging::image();
    mapped.add(image.0, image.1);
    // SAFETY: the place was just found in free RAM below 4 GiB, and is taken out of what is given away.
    unsafe { heap::init(heap_at, heap::size(plan.ram.end())) };
    // The command line is the loader's memory, which may be in no RAM and is about to be given away.
    let command_line: &'static str = alloc::string::String::from(words).leak();
    // SAFETY: as above; from here on only RAM and the interrupt controllers are touched.
    unsafe { paging::switch(tables_at, &mapped, &controllers) };
    apic::init(apic_page);
    percpu::FIRST.apic_id.store(apic::id(), Ordering::Relaxed);
    let pins = ioapic::init(ioapic_page);
    let timer_hz = apic::calibrate(hz);
    let components = xstate::init();
    log::info!(
        "memory ram={} free={} heap={} bundle={} image={}",
        plan.ram.total(),
        plan.free.total(),
        heap::size(plan.ram.end()),
        plan.bundle.1,
        image.1 - image.0
    );
    log::info!(
        "clock tsc-hz={hz} timer-hz={timer_hz} x2apic={} io-apic-pins={pins} extended-state={components:#x}",
        apic::is_x2()
    );
    let parked = madt.cpus.saturating_sub(1);
    if parked > 0 {
        log::info!("cpus used=1 parked={parked}");
    }
    irq::init(madt);
    let cpu = PerCpu::get();
    if svm::is_present() {
        run(svm::Svm::new(cpu), &plan, command_line)
    } else if vmx::is_present() {
        run(vmx::Vmx::new(cpu), &plan, command_line)
    } else {
        refuse(Refusal::no("hardware virtualisation (VMX or SVM)"))
    }
}

fn refuse(Refusal { missing, advice }: Refusal) -> ! {
    give_up(format_args!("this machine cannot run guests missing=\"{missing}\" advice=\"{advice}\""))
}

/// Divides memory: finds places for the heap and the page tables, and says what is left.
fn lay_out(info: &BootInfo<'_>, rsdp: u64, controllers: [u64; 2]) -> (Memory, u64, u64) {
    let mut ram = info.ram.pages_inside(4096);
    // A null pointer must not be memory.
    ram.remove(0, 4096);
    // QEMU places the bundle by the size of memory, and SeaBIOS may have kept the last pages of that place for itself: it is
    // RAM, whatever the map says.
    let (bundle, end) = (info.module.0, info.module.0.saturating_add(info.module.1));
    let (bundle, end) = (bundle & !4095, end.checked_next_multiple_of(4096).unwrap_or(bundle));
    ram.add(bundle, end);
    let mut free = ram.clone();
    free.remove(0, LOW);
    let (image_begin, image_end) = paging::image();
    free.remove(image_begin, image_end);
    free.remove(bundle, end);
    let mut spare = free.clone();
    spare.remove_all(&info.busy.pages_around(4096));
    let tables = paging::table_bytes(&ram);
    let heap_size = heap::size(ram.end());
    let place = |spare: &mut Ranges, size: u64| {
        let Some(at) = spare.find(size, 4096, LOW, FOUR_GIB) else {
            log::error!("not enough memory below 4 GiB needed={size} free={}", spare.total());
            crash::end()
        };
        spare.remove(at, at + size);
        at
    };
    let heap_at = place(&mut spare, heap_size);
    let tables_at = place(&mut spare, tables);
    // The loader's small tables are free from here on; the bundle had a place of its own all the time.
    free.remove(heap_at, heap_at + heap_size);
    free.remove(tables_at, tables_at + tables);
    let own_bytes = image_end - image_begin + heap_size + tables;
    (Memory { ram, free, bundle: info.module, rsdp, own_bytes, controllers }, heap_at, tables_at)
}

fn frames(ranges: &Ranges) -> Vec<FrameRange> {
    let range = |&(from, to): &(u64, u64)| FrameRange { start: Mfn(from >> 12), end: Mfn(to >> 12) };
    ranges.as_slice().iter().map(range).collect()
}

/// Where devices' memory may be: everywhere below 4 GiB and in a window above RAM, but for RAM itself and the interrupt
/// controllers.
fn device_windows(plan: &Memory) -> Ranges {
    let mut windows = Ranges::default();
    windows.add(0, FOUR_GIB);
    let high = plan.ram.end().max(FOUR_GIB).next_multiple_of(GIB);
    windows.add(high, high + HIGH_WINDOW);
    windows.remove_all(&plan.ram);
    for page in plan.controllers {
        windows.remove(page, page + 4096);
    }
    windows
}

fn give_up(why: core::fmt::Arguments<'_>) -> ! {
    log::error!("{why}");
    crash::exit(2)
}

/// dom0's ELF inside the bundle.
fn dom0_image(plan: &Memory) -> &'static [u8] {
    let (address, size) = plan.bundle;
    if size == 0 {
        give_up(format_args!("no module: the hypervisor is started with one, the bundle"));
    }
    if !address.is_multiple_of(4096) {
        give_up(format_args!("the bundle does not start on a page boundary address={address:#x}"));
    }
    // SAFETY: the loader filled the module, all RAM is mapped one to one, and the range was taken out of what is given away; it is
    // only read, before any domain runs.
    let bytes = unsafe { core::slice::from_raw_parts(address as *const u8, size as usize) };
    match bundle::member(bytes, "dom0") {
        Some(image) => image,
        None => give_up(format_args!("the module is no bundle with a member dom0 bytes={size}")),
    }
}

/// Gives the machine to the core, which keeps it.
fn run<V: Vendor>(vendor: Result<V, Refusal>, plan: &Memory, command_line: &'static str) -> ! {
    let machine = Pc::new(vendor.unwrap_or_else(|refusal| refuse(refusal)), plan.ram.clone());
    let dom0_mib: u64 =
        loader::value(command_line, "dom0-memory").and_then(|mib| mib.parse().ok()).unwrap_or(0);
    let (free, ram, windows) = (frames(&plan.free), frames(&plan.ram), frames(&device_windows(plan)));
    let end = Mfn((plan.bundle.0 + plan.bundle.1).div_ceil(4096));
    let boot = Handover {
        free: &free,
        ram: &ram,
        device_windows: &windows,
        bundle: FrameRange { start: Mfn(plan.bundle.0 >> 12), end },
        bundle_bytes: plan.bundle.1,
        dom0_image: dom0_image(plan),
        dom0_memory: dom0_mib << 20,
        command_line,
        rsdp: plan.rsdp,
        log: &logger::kept(),
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
