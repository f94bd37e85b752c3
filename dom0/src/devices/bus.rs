//! PCI: finding virtio devices and getting them ready for a driver.
//!
//! The firmware has assigned all addresses. A function is only touched when it is a modern virtio device of a kind that
//! dom0 drives.

use alloc::vec::Vec;
use core::fmt;

use trunnion_guest::pci::{Bus, ConfigurationPorts, Registers};
use trunnion_protocol::address::PAGE_SHIFT;
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::bus::{BarInfo, Command, ConfigurationAccess, DeviceFunction, PciRoot};
use virtio_drivers::transport::pci::{PciTransport, virtio_device_type};

/// Vendor-specific capability, which virtio uses for its structures (virtio 1.2, 4.1.4).
const CAPABILITY_VENDOR: u8 = 0x09;
/// MSI-X capability (PCI 3.0, 6.8.2).
const CAPABILITY_MSIX: u8 = 0x11;
/// `cfg_type` of the common configuration.
const COMMON: u8 = 1;
/// `cfg_type` of the notification area.
const NOTIFY: u8 = 2;
/// `cfg_type` of the interrupt status.
const STATUS: u8 = 3;

/// Where QEMU's `pc` never has RAM below 4 GiB, up to the I/O APIC.
const HOLE: core::ops::Range<u64> = 0xe000_0000..0xfec0_0000;

/// The function cannot be driven.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unusable {
    /// Not a modern virtio device: it offers no memory-mapped configuration (`disable-legacy=on` is needed).
    Legacy,
    /// Its registers have no usable address.
    Address,
    /// It refuses a feature that the driver cannot do without.
    Feature(&'static str),
    /// Its queue is too small or missing.
    Queue,
    /// Not enough memory.
    Memory,
    /// It does not answer.
    Silent,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Legacy => f.write_str("it is not a modern virtio device"),
            Self::Address => f.write_str("its registers have no usable address"),
            Self::Feature(name) => write!(f, "it does not offer {name}"),
            Self::Queue => f.write_str("its queue is missing or too small"),
            Self::Memory => f.write_str("there is not enough memory for its queue"),
            Self::Silent => f.write_str("it does not answer"),
        }
    }
}

/// A virtio function that was found.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Where.
    pub function: DeviceFunction,
    /// What.
    pub kind: DeviceType,
}

/// The PCI bus of the machine.
pub struct Pci {
    root: PciRoot<ConfigurationPorts>,
}

impl Default for Pci {
    fn default() -> Self {
        Self::new()
    }
}

impl Pci {
    /// The bus behind configuration mechanism 1.
    pub fn new() -> Self {
        Self { root: PciRoot::new(ConfigurationPorts::new()) }
    }

    /// Every virtio function, by bus, device and function. Only bus 0 and the buses behind its bridges that answer.
    pub fn scan(&self) -> Vec<Found> {
        (0..=u8::MAX)
            .take_while(|&bus| bus == 0 || self.root.enumerate_bus(bus).next().is_some())
            .flat_map(|bus| self.root.enumerate_bus(bus))
            .filter_map(|(function, info)| Some(Found { function, kind: virtio_device_type(&info)? }))
            .collect()
    }

    /// The firmware's note of the interrupt line.
    pub fn interrupt_line(&self, function: DeviceFunction) -> u8 {
        ConfigurationPorts::new().read_word(function, 0x3c) as u8
    }

    /// Gives register windows without an address one, below all that the firmware gave out: what is plugged in later
    /// comes without.
    pub fn assign(&mut self, function: DeviceFunction) -> Result<(), Unusable> {
        let bars = self.root.bars(function).map_err(|_| Unusable::Address)?;
        for (bar, info) in (0u8..).zip(bars) {
            let Some(window @ BarInfo::Memory { address: 0, size: size @ 1.., .. }) = info else { continue };
            let lowest = self.lowest_window();
            let start = lowest.checked_sub(size.max(1 << PAGE_SHIFT)).map_or(0, |start| start - start % size);
            match u32::try_from(start) {
                Ok(address) if start >= HOLE.start && window.takes_two_entries() => {
                    self.root.set_bar_64(function, bar, address.into());
                }
                Ok(address) if start >= HOLE.start => self.root.set_bar_32(function, bar, address),
                _ => return Err(Unusable::Address),
            }
        }
        Ok(())
    }

    /// Where the lowest register window inside the hole below 4 GiB begins.
    fn lowest_window(&self) -> u64 {
        let ports = ConfigurationPorts::new();
        let functions = (0..=u8::MAX)
            .take_while(|&bus| bus == 0 || self.root.enumerate_bus(bus).next().is_some())
            .flat_map(|bus| self.root.enumerate_bus(bus));
        functions
            .flat_map(|(function, _)| (0x10..0x28).step_by(4).map(move |offset| (function, offset)))
            .map(|(function, offset)| ports.read_word(function, offset))
            // Bit 0 marks ports (PCI 3.0, 6.2.5.1).
            .filter(|bar| bar & 1 == 0)
            .map(|bar| u64::from(bar & !0xf))
            .filter(|address| HOLE.contains(address))
            .min()
            .unwrap_or(HOLE.end)
    }

    /// Turns the function on and finds its structures.
    pub fn open(&mut self, found: Found) -> Result<Function, Unusable> {
        let function = found.function;
        let command = Command::MEMORY_SPACE | Command::BUS_MASTER;
        self.root.set_command(function, command);
        let structures = self.structures(function)?;
        let transport = PciTransport::new::<Bus, _>(&mut self.root, function).map_err(|error| {
            log::warn!("{function}: {error}");
            Unusable::Legacy
        })?;
        Ok(Function { function, transport, structures })
    }

    fn structures(&mut self, function: DeviceFunction) -> Result<Structures, Unusable> {
        let ports = ConfigurationPorts::new();
        let (mut common, mut notify, mut status, mut msix) = (None, None, None, None);
        let capabilities: Vec<_> = self.root.capabilities(function).collect();
        for capability in capabilities {
            let read = |offset: u8| ports.read_word(function, capability.offset.wrapping_add(offset));
            match (capability.id, (capability.private_header >> 8) as u8) {
                (CAPABILITY_VENDOR, kind @ (COMMON | NOTIFY | STATUS)) => {
                    let window = self.window(function, read(4) as u8, read(8), u64::from(read(12)));
                    match kind {
                        COMMON => common = common.or(window),
                        NOTIFY => notify = notify.or(window.map(|window| (window, read(16)))),
                        _ => status = status.or(window),
                    }
                }
                (CAPABILITY_MSIX, _) => {
                    let count = u64::from(read(0) >> 16 & 0x7ff) + 1;
                    let place = read(4);
                    let table = self.window(function, place as u8 & 7, place & !7, count * 16);
                    msix = table.map(|table| Msix { capability: capability.offset, table });
                }
                _ => {}
            }
        }
        let (notify, multiplier) = notify.ok_or(Unusable::Legacy)?;
        Ok(Structures {
            common: common.ok_or(Unusable::Legacy)?,
            notify,
            multiplier,
            status: status.ok_or(Unusable::Legacy)?,
            msix,
        })
    }

    fn window(&mut self, function: DeviceFunction, bar: u8, offset: u32, size: u64) -> Option<Registers> {
        let (address, length) = match self.root.bar_info(function, bar) {
            Ok(Some(BarInfo::Memory { address, size, .. })) if address != 0 => (address, size),
            _ => return None,
        };
        let end = u64::from(offset).checked_add(size)?;
        if end > length {
            return None;
        }
        Registers::new(address.checked_add(u64::from(offset))?, size)
    }
}

/// The register windows of a function.
#[derive(Clone, Copy)]
struct Structures {
    common: Registers,
    notify: Registers,
    multiplier: u32,
    status: Registers,
    msix: Option<Msix>,
}

/// The table of message interrupts.
#[derive(Clone, Copy)]
struct Msix {
    capability: u8,
    table: Registers,
}

/// A virtio function that is being driven. Dropping it resets the device.
pub struct Function {
    /// Where it is.
    pub function: DeviceFunction,
    /// For set-up.
    pub transport: PciTransport,
    structures: Structures,
}

/// Offsets in the common configuration (virtio 1.2, 4.1.4.3).
mod common {
    pub(super) const CONFIG_VECTOR: u64 = 0x10;
    pub(super) const QUEUE_SELECT: u64 = 0x16;
    pub(super) const QUEUE_VECTOR: u64 = 0x1a;
    pub(super) const QUEUE_NOTIFY: u64 = 0x1e;
    /// No interrupt.
    pub(super) const NO_VECTOR: u16 = 0xffff;
}

impl Function {
    /// Whether it has message interrupts.
    pub const fn has_messages(&self) -> bool {
        self.structures.msix.is_some()
    }

    /// Sends message `data` to `address` for events of queue `queue`, by table entry `entry`. To be called after the queue's
    /// set-up and before the device is started. False when the device refuses.
    pub fn route(&mut self, queue: u16, entry: u16, address: u64, data: u32) -> bool {
        let Some(msix) = self.structures.msix else { return false };
        let at = u64::from(entry) * 16;
        msix.table.write32(at + 12, 1);
        msix.table.write32(at, address as u32);
        msix.table.write32(at + 4, (address >> 32) as u32);
        msix.table.write32(at + 8, data);
        msix.table.write32(at + 12, 0);
        let mut ports = ConfigurationPorts::new();
        let control = ports.read_word(self.function, msix.capability);
        // Enable, and take away the function's mask.
        ports.write_word(self.function, msix.capability, (control | 1 << 31) & !(1 << 30));
        let registers = self.structures.common;
        registers.write16(common::CONFIG_VECTOR, common::NO_VECTOR);
        registers.write16(common::QUEUE_SELECT, queue);
        registers.write16(common::QUEUE_VECTOR, entry);
        registers.read16(common::QUEUE_VECTOR) == entry
    }

    /// The doorbell of a queue, once it is set up.
    pub fn doorbell(&self, queue: u16) -> Doorbell {
        self.structures.common.write16(common::QUEUE_SELECT, queue);
        let offset = u64::from(self.structures.common.read16(common::QUEUE_NOTIFY));
        let offset = offset.saturating_mul(u64::from(self.structures.multiplier));
        Doorbell { registers: self.structures.notify, offset, queue }
    }

    /// The interrupt status, which is cleared by reading; for interrupts by line.
    pub const fn status(&self) -> Registers {
        self.structures.status
    }
}

/// Where a queue's device is told of new requests.
#[derive(Clone, Copy)]
pub struct Doorbell {
    registers: Registers,
    offset: u64,
    queue: u16,
}

impl Doorbell {
    /// Tells it.
    pub fn ring(&self) {
        self.registers.write16(self.offset, self.queue);
    }
}
