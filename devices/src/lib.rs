//! The devices of an emulated PC, and the x86 instruction emulator.
//!
//! - [`emulate`]: one instruction on a vCPU's registers and a machine;
//! - [`width`], [`time`], [`memory`]: how wide an access is, when it happens, and the RAM that a DMA reaches;
//! - interrupts: [`pic`], [`ioapic`];
//! - clocks: [`pit`], [`rtc`], [`hpet`], [`pm`] with the power button;
//! - lines to people: [`uart`], [`i8042`];
//! - the bus: [`pci`]; storage: [`ide`], [`floppy`] on [`dma`]; networks: [`e1000`], [`ne2000`] with [`nic`]; the screen: [`vga`];
//! - for firmware and for Xen-aware guests: [`fwcfg`], [`platform`];
//! - [`board`]: all of it as a PC; [`tables`]: what firmware tells operating systems of it.
//!
//! Everything is a value: a device has no thread, no clock, no interrupt and no memory of its own. An access, the present
//! time and the guest's memory go in; an answer, the levels of interrupt lines and a deadline come out. Nothing that a
//! guest writes makes it panic, wait or work without bound.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod board;
pub mod dma;
pub mod e1000;
pub mod emulate;
pub mod floppy;
pub mod fwcfg;
pub mod hpet;
pub mod i8042;
pub mod ide;
pub mod ioapic;
pub mod memory;
pub mod ne2000;
pub mod nic;
pub mod pci;
pub mod pic;
pub mod pit;
pub mod platform;
pub mod pm;
pub mod rtc;
pub mod tables;
pub mod time;
pub mod uart;
pub mod vga;
pub mod width;
