//! From the entry code to the core: the machine is found, set up and handed over.

use core::sync::atomic::Ordering;

use super::boot::ranges::Ranges;
use super::boot::source::Physical;
use super::boot::{self, BootInfo, Module};
use super::cpu::percpu::{self, PerCpu};
use super::cpu::{apic, clock, ioapic, pic};
use super::pc::Pc;
use super::vendor::{Refusal, Vendor};
use super::{acpi, crash, handover, heap, irq, logger, paging, serial, svm, vmx, xstate};

/// The lowest address that is given away: what the firmware keeps below 1 MiB stays as it is.
const LOW: u64 = 1 << 20;
const FOUR_GIB: u64 = 1 << 32;

/// What the core is told of memory, kept for ever.
pub(super) struct Memory {
    /// All RAM.
    pub(super) ram: Ranges,
    /// RAM that is free.
    pub(super) free: Ranges,
    /// The bundle.
    pub(super) bundle: Module,
    /// The root pointer of ACPI, or 0.
    pub(super) rsdp: u64,
    /// Bytes of image, heap and tables.
    pub(super) own_bytes: u64,
    /// Pages of the interrupt controllers, which no domain gets.
    pub(super) controllers: [u64; 2],
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
    let info = match boot::parse(&memory, magic, pointer) {
        Ok(info) => info,
        Err(error) => {
            logger::init(None);
            log::error!("{error} magic={magic:#x}");
            crash::end()
        }
    };
    logger::init(info.value("log"));
    log::info!(
        "Trunnion {} loader={} command-line=\"{}\"",
        env!("CARGO_PKG_VERSION"),
        info.loader,
        info.command_line
    );
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
    let command_line: &'static str = alloc::string::String::from(info.command_line).leak();
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
        plan.bundle.size,
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
        match svm::Svm::new(cpu) {
            Ok(vendor) => handover::run(Pc::new(vendor, plan.ram.clone()), &plan, command_line),
            Err(refusal) => refuse(refusal),
        }
    } else if vmx::is_present() {
        match vmx::Vmx::new(cpu) {
            Ok(vendor) => handover::run(Pc::new(vendor, plan.ram.clone()), &plan, command_line),
            Err(refusal) => refuse(refusal),
        }
    } else {
        refuse(Refusal::no("hardware virtualisation (VMX or SVM)"))
    }
}

fn refuse(refusal: Refusal) -> ! {
    log::error!(
        "this machine cannot run guests missing=\"{}\" advice=\"{}\"",
        refusal.missing,
        refusal.advice
    );
    crash::exit(2)
}

/// Divides memory: finds places for the heap and the page tables, and says what is left.
fn lay_out(info: &BootInfo<'_>, rsdp: u64, controllers: [u64; 2]) -> (Memory, u64, u64) {
    let mut ram = info.ram.pages_inside(4096);
    // A null pointer must not be memory.
    ram.remove(0, 4096);
    // QEMU places the bundle by the size of memory, and SeaBIOS may have kept the last pages of that place for itself: it is
    // RAM, whatever the map says.
    let bundle = info.modules().first().copied().unwrap_or_default();
    let mut module = Ranges::default();
    module.add(bundle.address, bundle.address.saturating_add(bundle.size));
    for &(from, to) in module.pages_around(4096).as_slice() {
        ram.add(from, to);
    }
    let mut free = ram.clone();
    free.remove(0, LOW);
    let (image_begin, image_end) = paging::image();
    free.remove(image_begin, image_end);
    let mut busy = info.busy.clone();
    busy.add(bundle.address, bundle.address.saturating_add(bundle.size));
    let mut spare = free.clone();
    spare.remove_all(&busy.pages_around(4096));
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
    // The loader's small tables are free from here on; the bundle has a place of its own in the core's account.
    free.remove(heap_at, heap_at + heap_size);
    free.remove(tables_at, tables_at + tables);
    free.remove_all(&module.pages_around(4096));
    let own_bytes = image_end - image_begin + heap_size + tables;
    (Memory { ram, free, bundle, rsdp, own_bytes, controllers }, heap_at, tables_at)
}
