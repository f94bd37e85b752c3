//! The devices: where their registers are, and how a case begins.

use trunnion_devices::memory::GuestMemory;
use trunnion_devices::width::Width;
use trunnion_protocol::address::Gpa;

use crate::support::bench::{Made, RAM, World};

/// A device: ports, and device memory, as first and length. Registers that do much are there once more by themselves, to be met often.
pub struct Device {
    pub name: &'static str,
    pub ports: &'static [(u16, u16)],
    pub memory: &'static [(u64, u64)],
}

const fn ports(name: &'static str, ports: &'static [(u16, u16)]) -> Device {
    Device { name, ports, memory: &[] }
}

/// Where [`World::place`] puts the windows of PCI.
const E1000: u64 = 0xf100_0000;
const HPET: u64 = 0xfed0_0000;

pub const DEVICES: [Device; 21] = [
    ports("dma", &[(0, 0x10), (0x80, 0x10), (0xc0, 0x20)]),
    ports("pic", &[(0x20, 2), (0xa0, 2), (0x4d0, 2)]),
    ports("pit", &[(0x40, 4), (0x61, 1)]),
    ports("i8042", &[(0x60, 1), (0x64, 1), (0x92, 1)]),
    ports("rtc", &[(0x70, 4)]),
    ports("resets", &[(0xb2, 2), (0xcf9, 1), (0xe9, 1), (0x402, 1)]),
    ports("ide", &[(0x1f0, 8), (0x3f6, 1), (0xc000, 8)]),
    ports("cd", &[(0x170, 8), (0x376, 1), (0xc008, 8)]),
    ports("uart", &[(0x3f8, 8)]),
    ports("com2", &[(0x2f8, 8)]),
    ports("floppy", &[(0x3f0, 6), (0x3f7, 1), (0x3f5, 1), (0x04, 2), (0x0a, 3)]),
    Device {
        name: "vga",
        ports: &[(0x3b0, 0x30), (0x1ce, 2)],
        memory: &[(0xa_0000, 0x2_0000), (0xf000_0000, 0x100_0000), (0xf200_0000, 0x1_0000)],
    },
    ports("fwcfg", &[(0x510, 2), (0x514, 8)]),
    Device { name: "platform", ports: &[(0x10, 4), (0xc100, 0x100)], memory: &[(0xf300_0000, 0x1000)] },
    ports("pci", &[(0xcf8, 8)]),
    ports("pm", &[(0xb000, 0x40)]),
    Device {
        name: "e1000",
        ports: &[(0xc200, 0x40), (0xc200, 8)],
        memory: &[
            (E1000, 0x6000),
            (E1000, 0x24),
            (E1000 + 0xc0, 0x1c),
            (E1000 + 0x100, 4),
            (E1000 + 0x400, 4),
            (E1000 + 0x2800, 0x30),
            (E1000 + 0x3800, 0x30),
            (E1000 + 0x5400, 8),
        ],
    },
    ports("ne2000", &[(0xc300, 0x20)]),
    Device { name: "ioapic", ports: &[], memory: &[(0xfec0_0000, 0x20)] },
    Device {
        name: "hpet",
        ports: &[],
        memory: &[(HPET, 0x400), (HPET, 0x24), (HPET + 0xf0, 8), (HPET + 0x100, 0x60)],
    },
    // The whole board. Ports with something behind them are met more often than chance would have it.
    Device {
        name: "board",
        ports: &[
            (0x00, 0x14),
            (0x20, 2),
            (0x40, 4),
            (0x60, 5),
            (0x70, 2),
            (0x80, 0x20),
            (0xa0, 2),
            (0xb2, 2),
            (0xc0, 0x20),
            (0x170, 8),
            (0x1ce, 2),
            (0x1f0, 8),
            (0x2f8, 8),
            (0x376, 1),
            (0x3b0, 0x30),
            (0x3f0, 0x10),
            (0x4d0, 2),
            (0x510, 0x10),
            (0xcf8, 8),
            (0xb000, 0x40),
            (0xc000, 0x10),
            (0xc200, 0x40),
            (0xc300, 0x20),
            (0, 0xffff),
        ],
        memory: &[
            (0xa_0000, 0x2_0000),
            (0xfec0_0000, 0x20),
            (HPET, 0x400),
            (0xf000_0000, 0x1000),
            (E1000, 0x6000),
            (E1000 + 0x3800, 0x30),
            (0xf200_0000, 0x400),
            (0xf300_0000, 0x400),
        ],
    },
];

/// The device with a name.
pub fn named(name: &str) -> &'static Device {
    DEVICES.iter().find(|device| device.name == name).expect("a device has that name")
}

impl Device {
    /// Whether it needs the screen, which is the largest part of a board.
    pub fn has_screen(&self) -> bool {
        matches!(self.name, "vga" | "board")
    }

    /// A world for a short walk over this device.
    pub fn small(&self) -> Made {
        Made { ram: 1 << 20, vga: self.has_screen(), media: Some([1 << 18, 1 << 18, 1 << 16]) }
    }

    /// A world with everything, of full size.
    pub fn large() -> Made {
        Made { ram: RAM, vga: true, media: Some([1 << 20, 1 << 20, 1_474_560]) }
    }
}

/// How a walk begins.
#[derive(Clone, Copy, Debug)]
pub enum Beginning {
    Reset,
    Transfers,
    Interrupts,
}

impl Beginning {
    pub const ALL: [Self; 3] = [Self::Reset, Self::Transfers, Self::Interrupts];

    pub fn world(self, made: Made) -> World {
        let mut world = World::new(made);
        world.place();
        match self {
            Self::Reset => {}
            Self::Transfers => transfers(&mut world),
            Self::Interrupts => interrupts(&mut world),
        }
        world
    }
}

/// A read of 256 sectors by bus master under way, with a table whose only entry points at itself, a read of a floppy disk, and half a
/// packet in the card.
fn transfers(world: &mut World) {
    world.ram.write(Gpa(0x1000), &0x1000u64.to_le_bytes()).expect("RAM");
    world.out(0xc004, Width::Double, 0x1000);
    for (register, value) in [(6, 0xe0), (2, 0), (3, 0), (4, 0), (5, 0), (7, 0xc8)] {
        world.out(0x1f0 + register, Width::Byte, value);
    }
    world.out(0xc000, Width::Byte, 9);
    // Channel 2 to 0x4000, three sectors; the first of the first track.
    for (port, value) in [(0x0b, 0x46), (0x0c, 0), (4, 0), (4, 0x40), (0x81, 0), (5, 0xff), (5, 5), (0x0a, 2)]
    {
        world.out(port, Width::Byte, value);
    }
    for value in [0x46, 0, 0, 0, 1, 2, 18, 0x1b, 0xff] {
        world.out(0x3f5, Width::Byte, value);
    }
    // A descriptor of 100 bytes that does not end its packet, in a ring of eight.
    world.ram.write(Gpa(0x2000), &0x3000u64.to_le_bytes()).expect("RAM");
    world.ram.write(Gpa(0x2008), &(0x64u64 | 8 << 24).to_le_bytes()).expect("RAM");
    for (register, value) in [(0x3800, 0x2000), (0x3808, 128), (0x0400, 2), (0x3818, 1)] {
        world.card(register, value);
    }
    assert!(world.board.ide.is_busy() || world.read(0x1f7, Width::Byte) & 0x89 != 0, "a transfer");
    assert!(world.board.floppy.save().is_none(), "a transfer");
}

/// The 8259s are set up with all lines open, and keyboard, serial port, card, drive and timer have something to say.
fn interrupts(world: &mut World) {
    for (port, value) in
        [(0x20, 0x11), (0x21, 8), (0x21, 4), (0x21, 1), (0xa0, 0x11), (0xa1, 0x70), (0xa1, 2)]
    {
        world.out(port, Width::Byte, value);
    }
    for (port, value) in
        [(0xa1, 1), (0x21, 0), (0xa1, 0), (0x64, 0x60), (0x60, 0x47), (0x64, 0xd2), (0x60, 0x1c)]
    {
        world.out(port, Width::Byte, value);
    }
    for (port, value) in [(0x3f9, 0xf), (0x1f6, 0xe0), (0x1f7, 0xec), (0x43, 0x34), (0x40, 0x10), (0x40, 0)] {
        world.out(port, Width::Byte, value);
    }
    world.card(0xd0, 0xffff);
    world.card(0xc8, 0x84);
    world.now = world.now.after(1_000_000);
    world.poll();
    assert!(world.board.wants(), "an interrupt is pending");
}
