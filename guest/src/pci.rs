//! PCI by configuration ports, and device registers in memory, for `virtio-drivers`' transports and for our own queues.
#![expect(
    unsafe_code,
    reason = "device registers lie at addresses; the traits of virtio-drivers are unsafe to implement"
)]

use core::ptr::NonNull;

use trunnion_protocol::address::PAGE_SHIFT;
use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction};
use virtio_drivers::{BufferDirection, Hal, PhysAddr};

use crate::memory;
use crate::ports;
use crate::start::Range;

const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;

/// PCI configuration mechanism 1: ports 0xCF8 and 0xCFC.
#[derive(Debug, Default)]
pub struct ConfigurationPorts(());

impl ConfigurationPorts {
    /// The mechanism of the machine's one root.
    pub const fn new() -> Self {
        Self(())
    }

    fn select(function: DeviceFunction, offset: u8) {
        let address = 1 << 31
            | u32::from(function.bus) << 16
            | u32::from(function.device) << 11
            | u32::from(function.function) << 8
            | u32::from(offset & 0xfc);
        ports::write(ADDRESS, address);
    }
}

impl ConfigurationAccess for ConfigurationPorts {
    fn read_word(&self, function: DeviceFunction, offset: u8) -> u32 {
        Self::select(function, offset);
        ports::read(DATA)
    }

    fn write_word(&mut self, function: DeviceFunction, offset: u8, data: u32) {
        Self::select(function, offset);
        ports::write(DATA, data);
    }

    // There is one thread, and each access is complete in itself.
    unsafe fn unsafe_clone(&self) -> Self {
        Self(())
    }
}

/// Device registers: accesses of the stated width, checked against the window's size.
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    start: u64,
    size: u64,
}

macro_rules! access {
    ($read:ident, $write:ident, $int:ty) => {
        /// Reads a register at a byte offset; all ones outside the window.
        pub fn $read(&self, offset: u64) -> $int {
            match self.pointer::<$int>(offset) {
                // SAFETY: `new` made sure that the window holds no memory of the kernel, and `pointer` that the access is
                // inside it and aligned.
                Some(pointer) => unsafe { pointer.read_volatile() },
                None => <$int>::MAX,
            }
        }

        /// Writes a register at a byte offset; nothing outside the window.
        pub fn $write(&self, offset: u64, value: $int) {
            if let Some(pointer) = self.pointer::<$int>(offset) {
                // SAFETY: as for the read.
                unsafe { pointer.write_volatile(value) };
            }
        }
    };
}

impl Registers {
    /// The window at a bus address. `None` when some of it is memory of this kernel.
    pub fn new(start: u64, size: u64) -> Option<Self> {
        let pages = (start % 4096 + size).div_ceil(4096);
        memory::placed(trunnion_protocol::address::Gfn(start >> PAGE_SHIFT), pages as usize)?;
        uncache(Range::sized(start, size));
        Some(Self { start, size })
    }

    fn pointer<T>(&self, offset: u64) -> Option<*mut T> {
        let end = offset.checked_add(size_of::<T>() as u64)?;
        let address = self.start.checked_add(offset)?;
        (end <= self.size && address.is_multiple_of(size_of::<T>() as u64)).then_some(address as *mut T)
    }

    access!(read8, write8, u8);
    access!(read16, write16, u16);
    access!(read32, write32, u32);
}

#[cfg(target_os = "none")]
fn uncache(range: Range) {
    crate::paging::set(range, crate::paging::Use::Device);
}

#[cfg(not(target_os = "none"))]
fn uncache(_: Range) {}

/// What `virtio-drivers` needs to set a device up. Its own queues are not used: ours take bus addresses.
#[derive(Debug)]
pub enum Bus {}

// SAFETY: no memory is given out; register windows are checked not to be memory of the kernel; buffers need no work,
// because the address of memory is its bus address.
unsafe impl Hal for Bus {
    fn dma_alloc(_: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        // Address 0 is the trait's way to say that there is none.
        (0, NonNull::dangling())
    }

    unsafe fn dma_dealloc(_: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        -1
    }

    unsafe fn mmio_phys_to_virt(start: PhysAddr, size: usize) -> NonNull<u8> {
        // A window that is memory of ours would be a lie of the device; a page that is never mapped stands in for it.
        let checked = Registers::new(start, size as u64).map_or(0, |window| window.start);
        NonNull::new(checked as *mut u8).unwrap_or(NonNull::dangling())
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr() as PhysAddr
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}
