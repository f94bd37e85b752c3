//! The VGA (IBM *Personal System/2 Hardware Interface Technical Reference*, video subsystem; register meanings also in
//! *`FreeVGA`*) with the extension of Bochs for linear modes (*VBE display API*, version 0xb0c5), which Debian's VGA BIOS drives.
//!
//! Video memory is this device's own: four planes interleaved, byte `4 n + p` is byte `n` of plane `p`, and the linear
//! modes see the bytes in this order.

mod render;

use alloc::vec;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::pci::{Config, Identity, Space};
use crate::width::Width;
pub use render::Screen;

/// Bytes of video memory.
pub const MEMORY: usize = 4 << 20;
/// Size of the linear window, BAR 0.
pub const WINDOW: u32 = 16 << 20;
/// Where the window of the old modes lies, and how long it is.
pub const LEGACY: u64 = 0xa_0000;
/// Bytes of it.
pub const LEGACY_SIZE: u64 = 0x2_0000;

/// Indices of the extension's registers.
pub(crate) mod extension {
    pub(crate) const ID: usize = 0;
    pub(crate) const WIDTH: usize = 1;
    pub(crate) const HEIGHT: usize = 2;
    pub(crate) const DEPTH: usize = 3;
    pub(crate) const ENABLE: usize = 4;
    pub(crate) const BANK: usize = 5;
    pub(crate) const VIRTUAL_WIDTH: usize = 6;
    pub(crate) const VIRTUAL_HEIGHT: usize = 7;
    pub(crate) const X: usize = 8;
    pub(crate) const Y: usize = 9;
    pub(crate) const MEGABYTES: usize = 10;
    pub(crate) const COUNT: usize = 11;
}

const LARGEST: (u16, u16) = (2560, 1600);

/// Everything but the video memory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Registers {
    misc: u8,
    sequencer_index: u8,
    sequencer: [u8; 8],
    crtc_index: u8,
    crtc: [u8; 32],
    graphics_index: u8,
    graphics: [u8; 16],
    attribute_index: u8,
    attribute_data: bool,
    attribute: [u8; 32],
    palette: Vec<u8>,
    palette_mask: u8,
    palette_write: u16,
    palette_read: u16,
    palette_reads: bool,
    latch: [u8; 4],
    status: u8,
    extension_index: u16,
    extension: [u16; extension::COUNT],
}

/// The card.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Vga {
    /// Configuration space. BAR 0 is the linear window.
    pub config: Config,
    registers: Registers,
    memory: Vec<u8>,
}

impl Default for Vga {
    fn default() -> Self {
        let identity = Identity {
            vendor: 0x1234,
            device: 0x1111,
            class: 0x03_0000,
            revision: 2,
            subsystem: 0x1100_1af4,
        };
        let mut extension = [0; extension::COUNT];
        if let Some(id) = extension.get_mut(extension::ID) {
            *id = 0xb0c5;
        }
        if let Some(size) = extension.get_mut(extension::MEGABYTES) {
            // In units of 64 KiB.
            *size = (MEMORY >> 16) as u16;
        }
        Self {
            config: Config::new(identity).with_bar(0, Space::Prefetchable, WINDOW).with_rom(0x1_0000),
            registers: Registers {
                misc: 0,
                sequencer_index: 0,
                sequencer: [0; 8],
                crtc_index: 0,
                crtc: [0; 32],
                graphics_index: 0,
                graphics: [0; 16],
                attribute_index: 0,
                attribute_data: false,
                attribute: [0; 32],
                palette: vec![0; 768],
                palette_mask: 0xff,
                palette_write: 0,
                palette_read: 0,
                palette_reads: false,
                latch: [0; 4],
                status: 0,
                extension_index: 0,
                extension,
            },
            memory: vec![0; MEMORY],
        }
    }
}

impl Vga {
    fn extended(&self, index: usize) -> u16 {
        self.registers.extension.get(index).copied().unwrap_or(0)
    }

    fn graphics(&self, index: usize) -> u8 {
        self.registers.graphics.get(index).copied().unwrap_or(0)
    }

    fn sequencer(&self, index: usize) -> u8 {
        self.registers.sequencer.get(index).copied().unwrap_or(0)
    }

    fn linear_mode(&self) -> bool {
        self.extended(extension::ENABLE) & 1 != 0
    }

    /// Reads one of ports 0x3b0 to 0x3df.
    pub fn read(&mut self, port: u16) -> u8 {
        let color = self.registers.misc & 1 != 0;
        if matches!(port, 0x3b0..=0x3bf) && color || matches!(port, 0x3d0..=0x3df) && !color {
            return 0xff;
        }
        let r = &mut self.registers;
        match port {
            0x3c0 => r.attribute_index,
            0x3c1 => r.attribute.get(usize::from(r.attribute_index & 31)).copied().unwrap_or(0),
            0x3c2 => 0x10,
            0x3c4 => r.sequencer_index,
            0x3c5 => r.sequencer.get(usize::from(r.sequencer_index & 7)).copied().unwrap_or(0),
            0x3c6 => r.palette_mask,
            0x3c7 => {
                if r.palette_reads {
                    3
                } else {
                    0
                }
            }
            0x3c8 => (r.palette_write / 3) as u8,
            0x3c9 => {
                let value = r.palette.get(usize::from(r.palette_read)).copied().unwrap_or(0);
                r.palette_read = (r.palette_read + 1) % 768;
                value
            }
            0x3ca => 0,
            0x3cc => r.misc,
            0x3ce => r.graphics_index,
            0x3cf => r.graphics.get(usize::from(r.graphics_index & 15)).copied().unwrap_or(0),
            0x3b4 | 0x3d4 => r.crtc_index,
            0x3b5 | 0x3d5 => r.crtc.get(usize::from(r.crtc_index & 31)).copied().unwrap_or(0),
            0x3ba | 0x3da => {
                r.attribute_data = false;
                // Programs wait for both edges of the retrace: each read sees the other level.
                r.status ^= 0x09;
                r.status
            }
            _ => 0xff,
        }
    }

    /// Writes one of ports 0x3b0 to 0x3df.
    pub fn write(&mut self, port: u16, value: u8) {
        let color = self.registers.misc & 1 != 0;
        if matches!(port, 0x3b0..=0x3bf) && color || matches!(port, 0x3d0..=0x3df) && !color {
            return;
        }
        let r = &mut self.registers;
        match port {
            0x3c0 if !r.attribute_data => {
                r.attribute_index = value & 0x3f;
                r.attribute_data = true;
            }
            0x3c0 => {
                if let Some(place) = r.attribute.get_mut(usize::from(r.attribute_index & 31)) {
                    *place = value;
                }
                r.attribute_data = false;
            }
            0x3c2 => r.misc = value,
            0x3c4 => r.sequencer_index = value & 7,
            0x3c5 => {
                if let Some(place) = r.sequencer.get_mut(usize::from(r.sequencer_index & 7)) {
                    *place = value;
                }
            }
            0x3c6 => r.palette_mask = value,
            0x3c7 => {
                r.palette_read = u16::from(value) * 3;
                r.palette_reads = true;
            }
            0x3c8 => {
                r.palette_write = u16::from(value) * 3;
                r.palette_reads = false;
            }
            0x3c9 => {
                let wide = r.extension.get(extension::ENABLE).is_some_and(|enable| enable & 0x20 != 0);
                if let Some(place) = r.palette.get_mut(usize::from(r.palette_write)) {
                    *place = if wide { value } else { value & 0x3f };
                }
                r.palette_write = (r.palette_write + 1) % 768;
            }
            0x3ce => r.graphics_index = value & 15,
            0x3cf => {
                if let Some(place) = r.graphics.get_mut(usize::from(r.graphics_index & 15)) {
                    *place = value;
                }
            }
            0x3b4 | 0x3d4 => r.crtc_index = value & 31,
            0x3b5 | 0x3d5 => {
                let index = usize::from(r.crtc_index & 31);
                // Bit 7 of register 0x11 protects the first eight, but for the line compare bit.
                let protected = r.crtc.get(0x11).is_some_and(|end| end & 0x80 != 0);
                if let Some(place) = r.crtc.get_mut(index) {
                    if protected && index < 7 {
                        return;
                    }
                    *place = if protected && index == 7 { *place & !0x10 | value & 0x10 } else { value };
                }
            }
            _ => {}
        }
    }

    /// Reads the extension's index (port 0x1ce) or its data (0x1cf).
    #[must_use]
    pub fn read_extension(&self, port: u16) -> u16 {
        if port == 0x1ce {
            return self.registers.extension_index;
        }
        let index = usize::from(self.registers.extension_index);
        // Bit 1 asks for what is possible instead of what is.
        if self.extended(extension::ENABLE) & 2 != 0 {
            match index {
                extension::WIDTH => return LARGEST.0,
                extension::HEIGHT => return LARGEST.1,
                extension::DEPTH => return 32,
                _ => {}
            }
        }
        self.extended(index)
    }

    /// Writes the extension's index or its data.
    pub fn write_extension(&mut self, port: u16, value: u16) {
        if port == 0x1ce {
            self.registers.extension_index = value;
            return;
        }
        let index = usize::from(self.registers.extension_index);
        let live = self.linear_mode();
        let value = match index {
            extension::ID if !matches!(value, 0xb0c0..=0xb0c5) => return,
            extension::WIDTH if !live => value.min(LARGEST.0) & !7,
            extension::HEIGHT if !live => value.min(LARGEST.1),
            extension::DEPTH if !live => match value {
                0 => 8,
                4 | 8 | 15 | 16 | 24 | 32 => value,
                _ => return,
            },
            extension::WIDTH
            | extension::HEIGHT
            | extension::DEPTH
            | extension::VIRTUAL_HEIGHT
            | extension::MEGABYTES => {
                return;
            }
            extension::BANK => value % ((MEMORY >> 16) as u16),
            extension::VIRTUAL_WIDTH => value.max(self.extended(extension::WIDTH)),
            _ => value,
        };
        let Some(place) = self.registers.extension.get_mut(index) else { return };
        *place = value;
        match index {
            extension::ENABLE if value & 1 != 0 && !live => self.begin(value),
            extension::VIRTUAL_WIDTH => self.measure(),
            _ => {}
        }
    }

    /// A linear mode begins.
    fn begin(&mut self, enable: u16) {
        let width = self.extended(extension::WIDTH);
        for (index, value) in
            [(extension::VIRTUAL_WIDTH, width), (extension::X, 0), (extension::Y, 0), (extension::BANK, 0)]
        {
            if let Some(place) = self.registers.extension.get_mut(index) {
                *place = value;
            }
        }
        self.measure();
        // Bit 7 keeps what is in memory.
        if enable & 0x80 == 0 {
            self.memory.fill(0);
        }
    }

    /// How many lines fit into memory.
    fn measure(&mut self) {
        let line = self.line_bytes();
        let lines = MEMORY.checked_div(line).unwrap_or(0).min(usize::from(u16::MAX)) as u16;
        if let Some(place) = self.registers.extension.get_mut(extension::VIRTUAL_HEIGHT) {
            *place = lines;
        }
    }

    fn line_bytes(&self) -> usize {
        let width = usize::from(self.extended(extension::VIRTUAL_WIDTH));
        match self.extended(extension::DEPTH) {
            4 => width / 2,
            depth => width * usize::from(depth.div_ceil(8)),
        }
    }

    /// Reads the linear window.
    #[must_use]
    pub fn read_linear(&self, offset: u64) -> u8 {
        usize::try_from(offset).ok().and_then(|at| self.memory.get(at)).copied().unwrap_or(0xff)
    }

    /// Writes the linear window.
    pub fn write_linear(&mut self, offset: u64, value: u8) {
        if let Some(byte) = usize::try_from(offset).ok().and_then(|at| self.memory.get_mut(at)) {
            *byte = value;
        }
    }

    /// The offset of an address of the old window, if the memory map that is chosen has it (graphics register 6).
    fn legacy_offset(&self, offset: u64) -> Option<usize> {
        let (start, length) = match self.graphics(6) >> 2 & 3 {
            0 => (0, 0x2_0000),
            1 => (0, 0x1_0000),
            2 => (0x1_0000, 0x8000),
            _ => (0x1_8000, 0x8000),
        };
        let at = offset.checked_sub(start)?;
        (at < length).then_some(at as usize)
    }

    fn byte(&mut self, at: usize) -> Option<&mut u8> {
        self.memory.get_mut(at)
    }

    /// Reads a byte of the old window, by its offset from 0xa0000.
    pub fn read_legacy(&mut self, offset: u64) -> u8 {
        let Some(at) = self.legacy_offset(offset) else { return 0xff };
        if self.linear_mode() && self.extended(extension::DEPTH) > 4 {
            let bank = usize::from(self.extended(extension::BANK)) << 16;
            return self.byte(bank + at).copied().unwrap_or(0xff);
        }
        if self.sequencer(4) & 8 != 0 {
            return self.byte(at).copied().unwrap_or(0xff);
        }
        if self.graphics(5) & 0x10 != 0 {
            // Odd and even addresses are in neighbouring planes.
            let plane = usize::from(self.graphics(4) & 2) | at & 1;
            return self.byte((at & !1) << 1 | plane).copied().unwrap_or(0xff);
        }
        for plane in 0..4 {
            let value = self.byte(at * 4 + plane).copied().unwrap_or(0);
            if let Some(latch) = self.registers.latch.get_mut(plane) {
                *latch = value;
            }
        }
        if self.graphics(5) & 8 == 0 {
            return self.registers.latch.get(usize::from(self.graphics(4) & 3)).copied().unwrap_or(0);
        }
        // Read mode 1: bits whose colour is the one to compare with.
        let (compare, care) = (self.graphics(2), self.graphics(7));
        self.registers.latch.iter().enumerate().fold(0xff, |equal, (plane, &value)| {
            if care >> plane & 1 == 0 {
                return equal;
            }
            equal & if compare >> plane & 1 != 0 { value } else { !value }
        })
    }

    /// Writes a byte of the old window.
    pub fn write_legacy(&mut self, offset: u64, value: u8) {
        let Some(at) = self.legacy_offset(offset) else { return };
        if self.linear_mode() && self.extended(extension::DEPTH) > 4 {
            let bank = usize::from(self.extended(extension::BANK)) << 16;
            if let Some(byte) = self.byte(bank + at) {
                *byte = value;
            }
            return;
        }
        let planes = self.sequencer(2) & 0xf;
        if self.sequencer(4) & 8 != 0 {
            if planes >> (at & 3) & 1 != 0
                && let Some(byte) = self.byte(at)
            {
                *byte = value;
            }
            return;
        }
        if self.graphics(5) & 0x10 != 0 {
            let plane = usize::from(self.graphics(4) & 2) | at & 1;
            if planes >> plane & 1 != 0
                && let Some(byte) = self.byte((at & !1) << 1 | plane)
            {
                *byte = value;
            }
            return;
        }
        self.write_planes(at, value, planes);
    }

    /// The four write modes (graphics registers 0, 1, 3, 5 and 8).
    fn write_planes(&mut self, at: usize, value: u8, planes: u8) {
        let rotated = value.rotate_right(u32::from(self.graphics(3) & 7));
        let mode = self.graphics(5) & 3;
        let set = self.graphics(0);
        let enable = self.graphics(1);
        let mask = match mode {
            3 => self.graphics(8) & rotated,
            _ => self.graphics(8),
        };
        let function = self.graphics(3) >> 3 & 3;
        let latch = self.registers.latch;
        for (plane, &old) in latch.iter().enumerate() {
            if planes >> plane & 1 == 0 {
                continue;
            }
            let full = |on: u8| if on >> plane & 1 != 0 { 0xff } else { 0 };
            let result = if mode == 1 {
                old
            } else {
                let new = match mode {
                    0 if enable >> plane & 1 != 0 => full(set),
                    0 => rotated,
                    2 => full(value),
                    _ => full(set),
                };
                let new = match function {
                    1 => new & old,
                    2 => new | old,
                    3 => new ^ old,
                    _ => new,
                };
                new & mask | old & !mask
            };
            if let Some(byte) = self.byte(at * 4 + plane) {
                *byte = result;
            }
        }
    }

    /// Reads a port by its width: the extension is 16 bits wide, the rest bytes.
    pub fn port_read(&mut self, port: u16, width: Width) -> u32 {
        if matches!(port, 0x1ce | 0x1cf) {
            return u32::from(self.read_extension(port)) & width.mask();
        }
        (0..width.bytes() as u16)
            .fold(0, |all, n| all | u32::from(self.read(port.wrapping_add(n))) << (8 * n))
    }

    /// Writes a port by its width.
    pub fn port_write(&mut self, port: u16, width: Width, value: u32) {
        if matches!(port, 0x1ce | 0x1cf) {
            return self.write_extension(port, value as u16);
        }
        for (n, byte) in value.to_le_bytes().into_iter().enumerate().take(width.bytes()) {
            self.write(port.wrapping_add(n as u16), byte);
        }
    }
}
