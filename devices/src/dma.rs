//! The ISA DMA controllers (Intel 8237A data sheet; page registers: 82371SB, 2.4.1), for the floppy controller's channel 2.

use serde::{Deserialize, Serialize};
use trunnion_protocol::address::Gpa;

use crate::memory::GuestMemory;

#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
struct Channel {
    base: u16,
    count: u16,
    address: u16,
    left: u16,
    mode: u8,
    page: u8,
    masked: bool,
    /// The terminal count was reached since the status was last read, and in the last transfer.
    done: bool,
    ended: bool,
}

/// Both controllers; channels 4 to 7 move words and are kept only as registers.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Dma {
    channels: [Channel; 8],
    high: [bool; 2],
    command: [u8; 2],
    pages: [u8; 16],
}

/// Which channel a page register belongs to.
const PAGES: [Option<usize>; 16] = [
    None,
    Some(2),
    Some(3),
    Some(1),
    None,
    None,
    None,
    Some(0),
    None,
    Some(6),
    Some(7),
    Some(5),
    None,
    None,
    None,
    None,
];

impl Dma {
    /// The controller and the register (in its own numbering) behind a port.
    fn place(port: u16) -> Option<(usize, u16)> {
        match port {
            0x00..=0x0f => Some((0, port)),
            0xc0..=0xdf => Some((1, (port - 0xc0) / 2)),
            _ => None,
        }
    }

    fn channel(&mut self, controller: usize, index: usize) -> Option<&mut Channel> {
        self.channels.get_mut(controller * 4 + (index & 3))
    }

    fn flip(&mut self, controller: usize) -> bool {
        self.high.get_mut(controller).is_some_and(|high| core::mem::replace(high, !*high))
    }

    /// Reads ports 0x00 to 0x0f, 0x80 to 0x8f, 0xc0 to 0xdf.
    pub fn read(&mut self, port: u16) -> u8 {
        if let Some(page) = port.checked_sub(0x80)
            && page < 16
        {
            return self.pages.get(usize::from(page)).copied().unwrap_or(0xff);
        }
        let Some((controller, register)) = Self::place(port) else { return 0xff };
        match register {
            0..=7 => {
                let high = self.flip(controller);
                let Some(channel) = self.channel(controller, usize::from(register / 2)) else { return 0xff };
                let value = if register & 1 == 0 { channel.address } else { channel.left };
                if high { (value >> 8) as u8 } else { value as u8 }
            }
            8 => {
                let mut status = 0;
                for index in 0..4 {
                    if let Some(channel) = self.channel(controller, index) {
                        status |= u8::from(core::mem::take(&mut channel.done)) << index;
                    }
                }
                status
            }
            15 => (0..4).fold(0xf0, |all, index| {
                all | u8::from(self.channel(controller, index).is_some_and(|channel| channel.masked)) << index
            }),
            _ => 0,
        }
    }

    /// Writes them.
    pub fn write(&mut self, port: u16, value: u8) {
        if let Some(page) = port.checked_sub(0x80)
            && let Some(place) = self.pages.get_mut(usize::from(page))
        {
            *place = value;
            let channel = PAGES.get(usize::from(page)).copied().flatten();
            if let Some(channel) = channel.and_then(|index| self.channels.get_mut(index)) {
                channel.page = value;
            }
            return;
        }
        let Some((controller, register)) = Self::place(port) else { return };
        let named = usize::from(value & 3);
        match register {
            0..=7 => {
                let high = self.flip(controller);
                let Some(channel) = self.channel(controller, usize::from(register / 2)) else { return };
                let (base, live) = if register & 1 == 0 {
                    (&mut channel.base, &mut channel.address)
                } else {
                    (&mut channel.count, &mut channel.left)
                };
                *base = if high {
                    *base & 0xff | u16::from(value) << 8
                } else {
                    *base & 0xff00 | u16::from(value)
                };
                *live = *base;
            }
            8 => {
                if let Some(command) = self.command.get_mut(controller) {
                    *command = value;
                }
            }
            10 => {
                if let Some(channel) = self.channel(controller, named) {
                    channel.masked = value & 4 != 0;
                }
            }
            11 => {
                if let Some(channel) = self.channel(controller, named) {
                    channel.mode = value;
                }
            }
            12 => {
                if let Some(high) = self.high.get_mut(controller) {
                    *high = false;
                }
            }
            13..=15 => {
                for index in 0..4 {
                    if let Some(channel) = self.channel(controller, index) {
                        match register {
                            13 => {
                                *channel = Channel { page: channel.page, masked: true, ..Channel::default() }
                            }
                            14 => channel.masked = false,
                            _ => channel.masked = value >> index & 1 != 0,
                        }
                    }
                }
            }
            _ => {}
        }
    }

    /// Bytes that a channel would still move; 0 while it is masked.
    #[must_use]
    pub fn room(&self, channel: usize) -> usize {
        let Some(channel) = self.channels.get(channel & 3) else { return 0 };
        if channel.masked { 0 } else { usize::from(channel.left) + 1 }
    }

    /// Whether a channel's last transfer ended with its terminal count.
    pub fn ended(&self, channel: usize) -> bool {
        self.channels.get(channel & 3).is_some_and(|channel| channel.ended)
    }

    /// Where a channel's next byte is. Addresses wrap inside 64 KiB.
    fn next(channel: &mut Channel) -> Gpa {
        let at = Gpa(u64::from(channel.page) << 16 | u64::from(channel.address));
        let down = channel.mode & 0x20 != 0;
        channel.address =
            if down { channel.address.wrapping_sub(1) } else { channel.address.wrapping_add(1) };
        if channel.left == 0 {
            channel.done = true;
            channel.ended = true;
            if channel.mode & 0x10 != 0 {
                channel.address = channel.base;
                channel.left = channel.count;
            } else {
                channel.masked = true;
            }
        } else {
            channel.left -= 1;
        }
        at
    }

    /// Moves bytes from a device to memory; says how many the channel took.
    pub fn to_memory<M: GuestMemory>(&mut self, memory: &M, channel: usize, bytes: &[u8]) -> usize {
        let room = self.room(channel).min(bytes.len());
        let Some(channel) = self.channels.get_mut(channel & 3) else { return 0 };
        channel.ended = false;
        for byte in bytes.iter().take(room) {
            let at = Self::next(channel);
            let _ = memory.write(at, &[*byte]);
        }
        room
    }

    /// Moves bytes from memory to a device; says how many the channel gave. What is not RAM reads as ones.
    pub fn from_memory<M: GuestMemory>(&mut self, memory: &M, channel: usize, bytes: &mut [u8]) -> usize {
        let room = self.room(channel).min(bytes.len());
        let Some(channel) = self.channels.get_mut(channel & 3) else { return 0 };
        channel.ended = false;
        for byte in bytes.iter_mut().take(room) {
            let at = Self::next(channel);
            let mut one = [0xff];
            let _ = memory.read(at, &mut one);
            [*byte] = one;
        }
        room
    }
}
