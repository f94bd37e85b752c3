//! A picture as PNG (ISO/IEC 15948): eight bits each of red, green and blue.

use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;

/// The file of a picture of `width` pixels in a line, three bytes each.
pub(crate) fn png(width: u32, height: u32, pixels: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut header = Vec::new();
    header.extend(width.to_be_bytes());
    header.extend(height.to_be_bytes());
    header.extend([8, 2, 0, 0, 0]);
    chunk(&mut file, *b"IHDR", &header);
    let mut data = ZlibEncoder::new(Vec::new(), Compression::default());
    for line in pixels.chunks(width.max(1) as usize * 3) {
        // No filter.
        data.write_all(&[0])?;
        data.write_all(line)?;
    }
    chunk(&mut file, *b"IDAT", &data.finish()?);
    chunk(&mut file, *b"IEND", &[]);
    Ok(file)
}

fn chunk(file: &mut Vec<u8>, name: [u8; 4], data: &[u8]) {
    file.extend((data.len() as u32).to_be_bytes());
    let start = file.len();
    file.extend(name);
    file.extend(data);
    let mut sum = flate2::Crc::new();
    sum.update(&file[start..]);
    file.extend(sum.sum().to_be_bytes());
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_picture_has_its_three_parts() {
        let file = super::png(2, 1, &[255, 0, 0, 0, 0, 255]).unwrap();
        assert_eq!(&file[..8], b"\x89PNG\r\n\x1a\n");
        assert_eq!(&file[12..16], b"IHDR");
        // The sum of IHDR with 2 by 1 pixels, by another implementation.
        assert_eq!(&file[29..33], &[0x7b, 0x40, 0xe8, 0xdd]);
        assert_eq!(&file[file.len() - 12..], b"\0\0\0\0IEND\xaeB`\x82");
    }
}
