//! Formats of pixels (RFC 6143 section 7.4).

/// How a viewer wants a pixel of true colour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Format {
    /// 1, 2 or 4.
    bytes: usize,
    depth: u8,
    big_endian: bool,
    /// The largest value of red, green, blue.
    most: [u16; 3],
    /// How far each is shifted to the left.
    shift: [u8; 3],
}

impl Default for Format {
    fn default() -> Self {
        Self { bytes: 4, depth: 24, big_endian: false, most: [255; 3], shift: [16, 8, 0] }
    }
}

impl Format {
    /// From a message; none with a palette, which no screen has had for a long time, or when it makes no sense.
    pub(super) fn read(bytes: &[u8; 16]) -> Option<Self> {
        let [bits, depth, big_endian, true_color, r1, r0, g1, g0, b1, b0, red, green, blue, ..] = *bytes;
        let shift = [red, green, blue];
        let fits = matches!(bits, 8 | 16 | 32) && true_color != 0 && shift.iter().all(|&shift| shift < bits);
        let most = [[r1, r0], [g1, g0], [b1, b0]].map(u16::from_be_bytes);
        fits.then(|| Self { bytes: usize::from(bits / 8), depth, big_endian: big_endian != 0, most, shift })
    }

    /// As a message has it.
    pub(super) fn bytes(&self) -> [u8; 16] {
        let [red, green, blue] = self.most.map(u16::to_be_bytes);
        let [r, g, b] = self.shift;
        let bits = (self.bytes * 8) as u8;
        let end = u8::from(self.big_endian);
        [bits, self.depth, end, 1, red[0], red[1], green[0], green[1], blue[0], blue[1], r, g, b, 0, 0, 0]
    }

    /// Adds pixels of three bytes each in this format.
    pub(super) fn write(&self, pixels: &[u8], to: &mut Vec<u8>) {
        for pixel in pixels.chunks_exact(3) {
            let mut value = 0;
            for ((&color, &most), &shift) in pixel.iter().zip(&self.most).zip(&self.shift) {
                value |= ((u32::from(color) * u32::from(most) + 127) / 255) << shift;
            }
            if self.big_endian {
                to.extend(&value.to_be_bytes()[4 - self.bytes..]);
            } else {
                to.extend(&value.to_le_bytes()[..self.bytes]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_take_the_form_that_is_wanted() {
        let red_and_gray = [255, 0, 0, 128, 128, 128];
        let mut bytes = Vec::new();
        Format::default().write(&red_and_gray, &mut bytes);
        assert_eq!(bytes, [0, 0, 255, 0, 128, 128, 128, 0]);
        // Five, six and five bits, big-endian.
        let high = Format::read(&[16, 16, 1, 1, 0, 31, 0, 63, 0, 31, 11, 5, 0, 0, 0, 0]).unwrap();
        bytes.clear();
        high.write(&red_and_gray, &mut bytes);
        assert_eq!(bytes, [0xf8, 0, 0x84, 0x10]);
    }

    #[test]
    fn a_format_comes_back_from_its_bytes() {
        let format = Format::default();
        assert_eq!(Format::read(&format.bytes()), Some(format));
    }

    #[test]
    fn a_format_without_sense_is_refused() {
        let good = Format::default().bytes();
        for (place, value) in [(0, 24), (0, 0), (3, 0), (10, 32), (12, 255)] {
            let mut bad = good;
            bad[place] = value;
            assert_eq!(Format::read(&bad), None, "byte {place} is {value}");
        }
    }
}
