//! The picture on the screen, as a person would see it now.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use super::{Vga, extension};

/// Most pixels in a direction that is drawn.
const MOST: usize = 2560;

/// A picture: three bytes a pixel, red, green, blue, line by line from the top.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Screen {
    /// Pixels in a line.
    pub width: usize,
    /// Lines.
    pub height: usize,
    /// `width * height * 3` bytes.
    pub pixels: Vec<u8>,
}

impl Screen {
    /// Some lines of a picture, which are still black.
    fn new(width: usize, lines: &Range<usize>) -> Self {
        let height = lines.len();
        Self { width, height, pixels: vec![0; width * height * 3] }
    }

    fn put(&mut self, x: usize, y: usize, color: [u8; 3]) {
        if x < self.width
            && y < self.height
            && let Some(pixel) =
                self.pixels.get_mut((y * self.width + x) * 3..).and_then(|rest| rest.get_mut(..3))
        {
            pixel.copy_from_slice(&color);
        }
    }
}

impl Vga {
    fn crtc(&self, index: usize) -> usize {
        usize::from(self.registers.crtc.get(index).copied().unwrap_or(0))
    }

    fn at(&self, index: usize) -> u8 {
        self.memory.get(index).copied().unwrap_or(0)
    }

    /// A colour of the palette, as eight bits a component.
    fn color(&self, index: u8) -> [u8; 3] {
        let at = usize::from(index & self.registers.palette_mask) * 3;
        let wide = self.extended(extension::ENABLE) & 0x20 != 0;
        [0, 1, 2].map(|n| {
            let value = self.registers.palette.get(at + n).copied().unwrap_or(0);
            if wide { value } else { value << 2 | value >> 4 }
        })
    }

    /// The palette index behind one of the sixteen attributes (attribute registers 0 to 16 and 20).
    fn attribute(&self, color: u8) -> u8 {
        let register = |index: usize| self.registers.attribute.get(index).copied().unwrap_or(0);
        let value = register(usize::from(color & 15));
        let select = register(20);
        if register(16) & 0x80 != 0 { value & 0xf | select << 4 } else { value & 0x3f | (select & 0xc) << 4 }
    }

    /// Where the picture begins in video memory, in units of four bytes.
    fn start(&self) -> usize {
        self.crtc(0x0c) << 8 | self.crtc(0x0d)
    }

    /// Lines that are shown.
    fn lines(&self) -> usize {
        let overflow = self.crtc(7);
        (self.crtc(0x12) | (overflow & 2) << 7 | (overflow & 0x40) << 3) + 1
    }

    fn text_size(&self) -> (usize, usize, usize) {
        let height = (self.crtc(9) & 31) + 1;
        (self.crtc(1) + 1, self.lines() / height, height)
    }

    fn is_text(&self) -> bool {
        !self.linear_mode() && self.graphics(6) & 1 == 0
    }

    /// The characters of a text mode, line by line; `None` in a graphics mode.
    #[must_use]
    pub fn text(&self) -> Option<Vec<String>> {
        if !self.is_text() {
            return None;
        }
        let (columns, rows, _) = self.text_size();
        let line = self.crtc(0x13) * 2;
        Some(
            (0..rows.min(100))
                .map(|row| {
                    (0..columns.min(200))
                        .map(|column| match self.at((self.start() + row * line + column) * 4) {
                            byte @ 0x20..=0x7e => byte as char,
                            0 => ' ',
                            _ => '.',
                        })
                        .collect()
                })
                .collect(),
        )
    }

    /// The picture.
    #[must_use]
    pub fn screen(&self) -> Screen {
        self.part(0, MOST)
    }

    /// Pixels in a line of the picture, and lines.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        let (width, height) = if self.linear_mode() {
            let value = |index: usize| usize::from(self.extended(index));
            (value(extension::WIDTH), value(extension::HEIGHT))
        } else if self.is_text() {
            let (columns, rows, height) = self.text_size();
            (columns * self.text_width(), rows * height)
        } else {
            let (x_scale, y_scale) = self.scale();
            ((self.crtc(1) + 1) * 8 / x_scale, self.lines() / y_scale)
        };
        (width.min(MOST), height.min(MOST))
    }

    /// Lines of the picture: `count` from line `first` on, as far as it has them.
    #[must_use]
    pub fn part(&self, first: usize, count: usize) -> Screen {
        let (width, height) = self.size();
        let lines = first.min(height)..first.saturating_add(count).min(height);
        let screen = Screen::new(width, &lines);
        if self.linear_mode() {
            self.draw_linear(screen, lines)
        } else if self.is_text() {
            self.draw_text(screen, &lines)
        } else {
            self.draw_planes(screen, lines)
        }
    }

    /// Pixels of a character in a line.
    fn text_width(&self) -> usize {
        if self.sequencer(1) & 1 != 0 { 8 } else { 9 }
    }

    /// How often a pixel and a line of planes are shown: a doubled clock shows every pixel twice; so does a scan line of two.
    fn scale(&self) -> (usize, usize) {
        let deep = self.graphics(5) & 0x40 != 0;
        let x_scale = if deep || self.sequencer(1) & 8 != 0 { 2 } else { 1 };
        (x_scale, ((self.crtc(9) & 31) + 1) << (self.crtc(9) >> 7))
    }

    fn draw_text(&self, mut screen: Screen, lines: &Range<usize>) -> Screen {
        let (columns, _, height) = self.text_size();
        let wide = self.text_width();
        let line = self.crtc(0x13) * 2;
        let cursor = self.crtc(0x0e) << 8 | self.crtc(0x0f);
        let (from, to) = (self.crtc(0x0a), self.crtc(0x0b) & 31);
        // The font of characters whose attribute bit 3 is clear (sequencer register 3): 16 KiB apart, then 8 KiB further.
        let map = usize::from(self.sequencer(3));
        let font = (map & 3) * 0x4000 + (map >> 4 & 1) * 0x2000;
        for row in lines.start / height..lines.end.div_ceil(height) {
            for column in 0..columns {
                let cell = self.start() + row * line + column;
                let (glyph, attribute) = (self.at(cell * 4), self.at(cell * 4 + 1));
                let ink = self.color(self.attribute(attribute & 15));
                let paper = self.color(self.attribute(attribute >> 4 & 7));
                for y in 0..height {
                    let bits = self.at((font + usize::from(glyph) * 32 + y) * 4 + 2);
                    let under = cell == cursor && from & 0x20 == 0 && y >= from & 31 && y <= to;
                    for x in 0..wide {
                        // The ninth column repeats the eighth of line-drawing characters.
                        let on = match x {
                            8 => matches!(glyph, 0xc0..=0xdf) && bits & 1 != 0,
                            x => bits >> (7 - x) & 1 != 0,
                        };
                        let color = if on || under { ink } else { paper };
                        screen.put(column * wide + x, (row * height + y).wrapping_sub(lines.start), color);
                    }
                }
            }
        }
        screen
    }

    fn draw_planes(&self, mut screen: Screen, lines: Range<usize>) -> Screen {
        let deep = self.graphics(5) & 0x40 != 0;
        let packed = self.graphics(5) & 0x20 != 0;
        let line = self.crtc(0x13) * 2;
        for (place, y) in lines.enumerate() {
            for x in 0..screen.width {
                let color = if deep {
                    let at = (self.start() + y * line) * 4 + x;
                    self.at(at)
                } else if packed {
                    let at = self.start() + (y & 1) * 0x2000 + (y >> 1) * line + x / 8;
                    let bits = self.at(at * 4 + ((x / 4) & 1));
                    self.attribute(bits >> (6 - 2 * (x & 3)) & 3)
                } else {
                    let at = self.start() + y * line + x / 8;
                    let index = (0..4).fold(0, |index, plane| {
                        index | (self.at(at * 4 + plane) >> (7 - (x & 7)) & 1) << plane
                    });
                    self.attribute(index)
                };
                screen.put(x, place, self.color(color));
            }
        }
        screen
    }

    fn draw_linear(&self, mut screen: Screen, lines: Range<usize>) -> Screen {
        let value = |index: usize| usize::from(self.extended(index));
        let depth = value(extension::DEPTH);
        let line = self.line_bytes();
        for (place, y) in lines.enumerate() {
            for x in 0..screen.width {
                let (px, py) = (x + value(extension::X), y + value(extension::Y));
                let at = py * line + px * depth.div_ceil(8);
                let five = |bits: u16| ((bits & 31) << 3 | (bits & 31) >> 2) as u8;
                let color = match depth {
                    8 => self.color(self.at(at)),
                    15 | 16 => {
                        let bits = u16::from_le_bytes([self.at(at), self.at(at + 1)]);
                        if depth == 15 {
                            [five(bits >> 10), five(bits >> 5), five(bits)]
                        } else {
                            [five(bits >> 11), (bits >> 3) as u8 & 0xfc | (bits >> 9) as u8 & 3, five(bits)]
                        }
                    }
                    4 => {
                        let at = (py * value(extension::VIRTUAL_WIDTH) + px) / 8;
                        let index = (0..4).fold(0, |index, plane| {
                            index | (self.at(at * 4 + plane) >> (7 - (px & 7)) & 1) << plane
                        });
                        self.color(self.attribute(index))
                    }
                    _ => [self.at(at + 2), self.at(at + 1), self.at(at)],
                };
                screen.put(x, place, color);
            }
        }
        screen
    }
}
