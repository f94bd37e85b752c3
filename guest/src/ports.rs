//! Input and output ports, for a domain that owns devices.
//!
//! The functions are safe to call in Rust's sense: a port access touches no memory of the kernel by itself. What a
//! device does when it is told to is its driver's responsibility, as with any DMA.
#![expect(unsafe_code, reason = "port instructions")]

use x86_64::structures::port::{PortRead, PortWrite};

/// Reads a port.
pub fn read<T: PortRead>(port: u16) -> T {
    // SAFETY: see the module: the access itself touches no memory.
    unsafe { T::read_from_port(port) }
}

/// Writes a port.
pub fn write<T: PortWrite>(port: u16, value: T) {
    // SAFETY: see the module: the access itself touches no memory.
    unsafe { T::write_to_port(port, value) }
}
