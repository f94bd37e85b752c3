//! Port I/O of the host.

use x86_64::instructions::port::Port;

/// Reads a byte.
pub fn in8(port: u16) -> u8 {
    // SAFETY: the ports that the machine layer names are timers, interrupt controllers and the UART, whose reads touch no memory.
    unsafe { Port::new(port).read() }
}

/// Writes a byte.
pub fn out8(port: u16, value: u8) {
    // SAFETY: as above; none of these devices does DMA.
    unsafe { Port::new(port).write(value) }
}
