//! What dom0 drives: virtio disks and the line that carries the control connection.
//!
//! Set-up goes through `virtio-drivers`' PCI transport; the data path is [`trunnion_guest::virtqueue`], which takes bus
//! addresses, so that a device reads and writes granted pages directly. Interrupts are PIRQ event channels.

pub mod bus;
pub mod console;
pub mod disk;
pub mod interrupt;
pub mod uart;
pub mod uplink;
