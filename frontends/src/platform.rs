//! What the kit asks of a kernel: pages, addresses, a hypercall and an interrupt.
//!
//! Everything typed is built above these few functions, so that a kernel author writes one small implementation
//! and has every front end. All functions take `&self`: an implementation is shared by all devices and does its own
//! locking.
//!
//! # Coming from `virtio-drivers`
//!
//! | `virtio-drivers` asks (`Hal`, `Transport`) | here |
//! |---|---|
//! | `dma_alloc`, `dma_dealloc` | [`Platform::pages`]; dropping the pages gives them back |
//! | `mmio_phys_to_virt` | [`Platform::map`] |
//! | `share`, `unshare` | nothing: requests own their pages, and grants share them |
//! | a transport (PCI, MMIO) | nothing: devices are found in the store, by hypercalls ([`Platform::hypercall`]) |
//! | your interrupt handler calls `ack_interrupt` | your upcall handler wakes the port's waker ([`Platform::on_event`]) |
//!
//! # The five functions, sketched
//!
//! ```
//! use core::task::Waker;
//! use trunnion_frontends::platform::{Argument, Gfns, NotMapped, OutOfMemory, Platform, RawCall};
//! use trunnion_protocol::address::Gfn;
//! use trunnion_protocol::id::Port;
//! use trunnion_protocol::shared::SharedPage;
//!
//! struct MyKernel;
//!
//! /// Pages of the kernel's; its own `Drop` gives them back.
//! struct MyPages(Vec<SharedPage>);
//!
//! impl AsRef<[SharedPage]> for MyPages {
//!     fn as_ref(&self) -> &[SharedPage] {
//!         &self.0
//!     }
//! }
//!
//! impl Platform for MyKernel {
//!     type Pages = MyPages;
//!
//!     fn pages(&self, count: usize) -> Result<(MyPages, Gfns), OutOfMemory> {
//!         // A `SharedPage` is aligned to a page, so any allocator that keeps alignments will do, as long as the pages are
//!         // contiguous for the hypervisor. Here virtual and guest-physical addresses are the same.
//!         let pages: Vec<SharedPage> = (0..count).map(|_| SharedPage::zeroed()).collect();
//!         let first = Gfn(pages.as_ptr() as u64 >> 12);
//!         Ok((MyPages(pages), Gfns::new(first, count)))
//!     }
//!
//!     fn hypercall(&self, call: RawCall<'_, '_>) -> i64 {
//!         let mut registers = [0u64; 5]; // RDI, RSI, RDX, R10, R8
//!         for (register, argument) in registers.iter_mut().zip(call.arguments.iter_mut()) {
//!             *register = match argument {
//!                 Argument::Value(value) => *value,
//!                 Argument::Memory(bytes) => bytes.as_mut_ptr() as u64, // a virtual address, mapped and present
//!             };
//!         }
//!         // asm!("vmcall", inout("rax") u64::from(call.number) => result, in("rdi") registers[0], ...); `vmmcall` on AMD.
//! #       let _ = registers;
//!         -38 // -ENOSYS
//!     }
//!
//!     fn map(&self, gfn: Gfn) -> Result<MyPages, NotMapped> {
//!         // Map the frame, writable and cached, and make a `&'static [SharedPage]` of it: the one `unsafe` line.
//! #       let _ = gfn;
//!         Err(NotMapped)
//!     }
//!
//!     fn holes(&self, count: usize) -> Result<Gfns, OutOfMemory> {
//!         // Frame numbers that the memory map (start info, or E820) does not name; above the RAM will do.
//!         Ok(Gfns::new(Gfn(0xf0000), count))
//!     }
//!
//!     fn on_event(&self, port: Port, waker: &Waker) {
//!         // wakers[port] = waker.clone(); the upcall handler clears pending bits and wakes.
//! #       let _ = (port, waker);
//!     }
//! }
//! ```

use core::task::Waker;

use trunnion_protocol::address::Gfn;
use trunnion_protocol::id::Port;
use trunnion_protocol::shared::SharedPage;

/// A contiguous run of guest frame numbers: frames `first`, `first + 1`, … `first + count - 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gfns {
    first: Gfn,
    count: usize,
}

impl Gfns {
    /// The run of `count` frames that starts at `first`.
    pub const fn new(first: Gfn, count: usize) -> Self {
        Self { first, count }
    }

    /// The lowest frame of the run.
    pub const fn first(&self) -> Gfn {
        self.first
    }

    /// How many frames the run has.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Frame number `index` of the run, or nothing past its end.
    pub fn get(&self, index: usize) -> Option<Gfn> {
        (index < self.count).then(|| Gfn(self.first.0.wrapping_add(index as u64)))
    }
}

/// One argument of a hypercall.
#[derive(Debug)]
pub enum Argument<'a> {
    /// A plain register value.
    Value(u64),
    /// A structure in memory: the hypervisor reads it, and may write its results back into it.
    ///
    /// The real call passes the address of the first byte; a simulated one reads and writes the slice. Callers give
    /// memory of the alignment that the structure has in the Xen headers.
    Memory(&'a mut [u8]),
}

/// A hypercall as the hypervisor's calling convention has it: a number and up to five arguments.
///
/// Arguments go to RDI, RSI, RDX, R10 and R8 in this order, the number to RAX. Structures never hold pointers to
/// further memory, except where the caller of [`Platform::hypercall`] owns the whole chain.
#[derive(Debug)]
pub struct RawCall<'c, 'a> {
    /// Hypercall number (`__HYPERVISOR_*` in `xen.h`).
    pub number: u32,
    /// At most five arguments; further registers are not defined.
    pub arguments: &'c mut [Argument<'a>],
}

/// There is not enough memory, or not enough free address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

/// The frame cannot be reached: it is not part of the guest's address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotMapped;

/// The kernel under the front ends.
pub trait Platform {
    /// Pages that the front ends own while they hold this value. Dropping it gives RAM back to the kernel, and takes
    /// a mapping made by [`map`](Self::map) away without freeing what it showed.
    type Pages: AsRef<[SharedPage]>;

    /// `count` zeroed pages of the kernel's RAM, contiguous in guest-physical space, and their frame numbers.
    fn pages(&self, count: usize) -> Result<(Self::Pages, Gfns), OutOfMemory>;

    /// Executes one hypercall and returns what the hypervisor left in the result register, sign-extended: a negative
    /// value is a negated errno.
    fn hypercall(&self, call: RawCall<'_, '_>) -> i64;

    /// Makes a frame readable and writable that the toolstack or the hypervisor placed: the store page, the console
    /// page, grant table frames.
    fn map(&self, gfn: Gfn) -> Result<Self::Pages, NotMapped>;

    /// Guest-physical space of `count` frames with no RAM behind it, for grant table frames and mapped grants. It
    /// is never given out twice.
    fn holes(&self, count: usize) -> Result<Gfns, OutOfMemory>;

    /// Wakes `waker` at events on `port`, in place of the waker named before.
    ///
    /// The kernel keeps one waker for each port, and wakes it at each event until another replaces it; events that
    /// came earlier are not repeated, so callers look at their ring *after* this call. The kernel clears the port's
    /// pending bit before it wakes, and never leaves the port masked.
    fn on_event(&self, port: Port, waker: &Waker);

    /// Waits, with the processor at rest if the kernel can, until some event may have come. Used by the blocking
    /// wrappers; returning early is always allowed.
    fn relax(&self) {
        core::hint::spin_loop();
    }
}

impl<P: Platform + ?Sized> Platform for &P {
    type Pages = P::Pages;

    fn pages(&self, count: usize) -> Result<(Self::Pages, Gfns), OutOfMemory> {
        (**self).pages(count)
    }

    fn hypercall(&self, call: RawCall<'_, '_>) -> i64 {
        (**self).hypercall(call)
    }

    fn map(&self, gfn: Gfn) -> Result<Self::Pages, NotMapped> {
        (**self).map(gfn)
    }

    fn holes(&self, count: usize) -> Result<Gfns, OutOfMemory> {
        (**self).holes(count)
    }

    fn on_event(&self, port: Port, waker: &Waker) {
        (**self).on_event(port, waker);
    }

    fn relax(&self) {
        (**self).relax();
    }
}
