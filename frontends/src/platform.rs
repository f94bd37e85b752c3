//! What the kit asks of a kernel: pages, addresses, a hypercall and an interrupt.
//!
//! Everything typed is built above these few functions, so that a kernel author writes one small implementation
//! and has every front end. All functions take `&self`: an implementation is shared by all devices and does its own
//! locking.

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
