//! The kernel's life: start, main loop, end.
#![expect(unsafe_code, reason = "the start info lies at an address, and the main function behind a symbol")]

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::Cell;
use core::ffi::CStr;
use core::future::Future;
use core::panic::PanicInfo;
use core::pin::Pin;
use core::slice;
use core::task::{Context, Waker};
use core::time::Duration;

use log::LevelFilter;
use trunnion_protocol::hypercall::memory::RegionKind;
use trunnion_protocol::hypercall::sched::ShutdownReason;
use trunnion_protocol::id::Virq;
use trunnion_protocol::start_info;

use crate::events::Listener;
use crate::executor::{Executor, Spawner};
use crate::start::{COMMAND_LINE_LIMIT, LoadedModule, Range, RawStart, StartInfo, find_hole, free_pieces};
use crate::{clock, console, entry, events, heap, hypercall, memory, paging, traps};

/// Bytes of guest-physical space that are kept for grant frames and the like.
const HOLE_SIZE: u64 = 16 << 20;
/// Tasks polled between two looks at events and timers.
const TURN: usize = 32;

/// What a kernel's main function becomes: a future that ends with the reason for which the domain ends.
pub type Main = Pin<Box<dyn Future<Output = ShutdownReason>>>;

unsafe extern "Rust" {
    /// Defined by [`entry!`](crate::entry!).
    safe fn trunnion_guest_main(spawner: Spawner, start: StartInfo) -> Main;
}

/// Names the kernel's main function: `async fn main(spawner: Spawner, start: StartInfo) -> ShutdownReason`.
#[macro_export]
macro_rules! entry {
    ($main:ident) => {
        #[expect(unsafe_code, reason = "the one symbol by which the runtime finds the kernel")]
        mod trunnion_entry {
            extern crate alloc;

            #[unsafe(no_mangle)]
            extern "Rust" fn trunnion_guest_main(
                spawner: $crate::executor::Spawner,
                start: $crate::start::StartInfo,
            ) -> $crate::kernel::Main {
                alloc::boxed::Box::pin(super::$main(spawner, start))
            }
        }
    };
}

/// From the entry code's last instruction to the kernel's end.
pub(crate) fn start(address: u64) -> ! {
    let present = hypercall::init();
    console::init(LevelFilter::Info);
    let image = entry::image();
    // SAFETY: the loader put a start info there (`arch-x86/hvm/start_info.h`), below 4 GiB, which the entry code mapped.
    let raw = unsafe { read(address) };
    let Some(raw) = raw else {
        console::emergency(format_args!("there is no start info at {address:#x}\n"));
        crash();
    };
    let occupied = occupied(&raw, address, &image);
    let ram = raw.memory_map.iter().filter(|entry| entry.kind == RegionKind::Ram.number());
    // Only what the entry code mapped; memory above 4 GiB stays unused.
    let low = ram.map(|entry| Range {
        start: entry.address.min(1 << 32),
        end: entry.address.saturating_add(entry.size).min(1 << 32),
    });
    let occupied = occupied.0.get(..occupied.1).unwrap_or_default();
    let (pieces, count) = free_pieces::<{ heap::ARENAS }>(low, occupied);
    let pieces = pieces.get(..count).unwrap_or_default();
    // SAFETY: the memory map calls these pieces RAM, and nothing that was loaded lies in them.
    unsafe { heap::init(pieces) };
    traps::init();
    // The arrays may lie in page 0, which goes away with the final protection.
    let info = own(&raw);
    paging::init(&image);
    if info.has_option("debug") {
        log::set_max_level(LevelFilter::Debug);
    }
    let mut private: Vec<Range> = pieces.to_vec();
    private.push(Range { start: image.start, end: image.end });
    let holes = find_hole(&info.memory_map, HOLE_SIZE, 1 << 21).unwrap_or(0);
    memory::init(&private, Range::sized(holes, HOLE_SIZE));
    if !present {
        log::warn!("no hypervisor: neither events nor a true clock");
    } else if let Err(error) = events::init() {
        log::error!("no events: {error}");
        crash();
    }
    run(info)
}

/// The arrays of the start info at `address`; `None` when there is none.
///
/// # Safety
/// The addresses in the start info, if it is one, are those of its arrays, and nobody changes them any more.
unsafe fn read(address: u64) -> Option<RawStart> {
    // SAFETY: by the caller's promise; addresses are aligned by the loaders' construction, and read unaligned all the same.
    let info = unsafe { (address as *const start_info::StartInfo).read_unaligned() };
    if info.magic != start_info::MAGIC {
        return None;
    }
    let entries = if info.version == 0 { 0 } else { info.memory_map_entries };
    let (modules, entries) = RawStart::bounded(info.modules, entries);
    // SAFETY: as above; the lengths are those that the loader wrote, or less.
    unsafe {
        Some(RawStart {
            flags: info.flags,
            command_line: match info.command_line {
                0 => &[],
                start => {
                    let text = slice::from_raw_parts(start as *const u8, COMMAND_LINE_LIMIT);
                    CStr::from_bytes_until_nul(text).map_or(&[], CStr::to_bytes)
                }
            },
            modules: array(info.module_list, modules),
            memory_map: array(info.memory_map, entries),
        })
    }
}

/// # Safety
/// There are `count` values at `address`, which nobody changes.
unsafe fn array<T>(address: u64, count: usize) -> &'static [T] {
    if address == 0 || !address.is_multiple_of(align_of::<T>() as u64) {
        return &[];
    }
    // SAFETY: by the caller's promise.
    unsafe { slice::from_raw_parts(address as *const T, count) }
}

/// What lies in RAM and is not free: at most 24 ranges.
fn occupied(raw: &RawStart, info: u64, image: &entry::Image) -> ([Range; 24], usize) {
    let mut list = [Range { start: 0, end: 0 }; 24];
    let fixed = [
        // The first MiB is full of firmware leftovers, and page 0 is not mapped.
        Range { start: 0, end: 1 << 20 },
        Range { start: image.start, end: image.end },
        Range::sized(info, size_of::<start_info::StartInfo>() as u64),
        Range::sized(raw.command_line.as_ptr() as u64, raw.command_line.len() as u64 + 1),
        Range::sized(raw.modules.as_ptr() as u64, size_of_val(raw.modules) as u64),
        Range::sized(raw.memory_map.as_ptr() as u64, size_of_val(raw.memory_map) as u64),
    ];
    // Loaded files are kept by whole pages, so that a page of the heap never shares one with them.
    let files = raw.modules.iter().map(|module| Range {
        start: module.address & !4095,
        end: module.address.saturating_add(module.size).saturating_add(4095) & !4095,
    });
    let mut count = 0;
    for (place, range) in list.iter_mut().zip(fixed.into_iter().chain(files).filter(|range| range.size() > 0))
    {
        *place = range;
        count += 1;
    }
    (list, count)
}

/// The start info in memory of our own.
fn own(raw: &RawStart) -> StartInfo {
    let module = |module: &start_info::Module| {
        if module.address == 0 {
            return LoadedModule { data: &[] };
        }
        paging::reach(Range::sized(module.address, module.size));
        // SAFETY: the loader put the file there, and it was kept out of the heap.
        let data = unsafe { slice::from_raw_parts(module.address as *const u8, module.size as usize) };
        LoadedModule { data }
    };
    StartInfo {
        command_line: String::from_utf8_lossy(raw.command_line).into_owned(),
        modules: raw.modules.iter().map(module).collect(),
        memory_map: raw.memory_map.to_vec(),
        flags: raw.flags,
    }
}

/// The main loop: events, timers, tasks, and rest. Ends when the main function does.
fn run(info: StartInfo) -> ! {
    let mut executor = Executor::new();
    let ended = Rc::new(Cell::new(None));
    let main = trunnion_guest_main(executor.spawner(), info);
    let result = Rc::clone(&ended);
    executor.spawner().spawn(async move { result.set(Some(main.await)) });
    let timer = if hypercall::is_present() { events::bind_virq(Virq::TIMER).ok() } else { None };
    let timer = timer.map(Listener::new);
    let mut armed = None;
    let mut nobody = Context::from_waker(Waker::noop());
    loop {
        events::dispatch();
        if timer.is_some_and(|timer| timer.poll_next(&mut nobody).is_ready()) {
            armed = None;
        }
        let deadline = clock::fire();
        executor.poll(TURN);
        if let Some(reason) = ended.get() {
            end(reason);
        }
        if executor.is_ready() || events::is_pending() {
            crate::answers::flush();
            continue;
        }
        if timer.is_none() {
            core::hint::spin_loop();
            continue;
        }
        // A poll may have added a deadline: look again, and only then rest.
        let deadline = clock::fire().or(deadline);
        if executor.is_ready() {
            continue;
        }
        // A timer that comes too early costs a look at the clock, and most deadlines move on before they come: only one that is
        // earlier than the timer, or comes after it has fired, needs a call.
        if let Some(deadline) = deadline
            && armed.is_none_or(|armed| deadline < armed)
        {
            arm(deadline);
            armed = Some(deadline);
        }
        // Interrupts are off, so an event from here on is pending when `wait` turns them on, and ends it.
        if !events::is_pending() {
            if !crate::answers::rest() {
                traps::wait();
            }
            clock::awake();
        }
    }
}

fn arm(deadline: Duration) {
    if let Err(error) = hypercall::set_timer(deadline.as_nanos() as u64) {
        log::error!("timer: {error}");
    }
}

/// Ends the domain.
pub fn end(reason: ShutdownReason) -> ! {
    hypercall::shutdown(reason);
    debug_exit(reason);
    loop {
        x86_64::instructions::interrupts::disable();
        x86_64::instructions::hlt();
    }
}

/// Ends the domain as crashed, after a report was written.
pub(crate) fn crash() -> ! {
    end(ShutdownReason::Crash)
}

/// Ends QEMU on a machine without a hypervisor, by its debug port, with the words that the host tool understands.
fn debug_exit(reason: ShutdownReason) {
    if !hypercall::is_present() {
        let code = u8::from(reason != ShutdownReason::PowerOff);
        console::emergency(format_args!("EXIT {code}\n"));
        // SAFETY: on a machine without the device the write goes nowhere.
        unsafe { x86_64::instructions::port::Port::<u8>::new(0xf4).write(0x10 + code) };
    }
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    console::emergency(format_args!("{info}\n"));
    crash()
}
