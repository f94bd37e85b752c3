//! Linux bzImages: the ELF inside, by the boot protocol of the kernel's `Documentation/x86/boot.rst`.

use super::{LARGEST, elf};
use std::io::Read;

/// How payloads begin: LZ4 (legacy frame), XZ, gzip, zstd, and an ELF that is not packed.
const KNOWN: [&[u8]; 5] =
    [&[0x02, 0x21, 0x4c, 0x18], b"\xfd7zXZ\0", &[0x1f, 0x8b], &[0x28, 0xb5, 0x2f, 0xfd], b"\x7fELF"];

type Unpacked = Result<Vec<u8>, String>;

/// Whether the bytes carry the setup header of a bzImage.
pub fn is_bzimage(bytes: &[u8]) -> bool {
    bytes.get(0x202..0x206) == Some(b"HdrS")
}

/// The ELF in a bzImage. Errors say in words what is wrong.
pub fn unpack(image: &[u8]) -> Unpacked {
    let version = u16::from_le_bytes(field(image, 0x206)?);
    if version < 0x208 {
        return Err(format!(
            "its boot protocol is {}.{:02}; 2.08 or newer says where the ELF is",
            version >> 8,
            version & 0xff
        ));
    }
    let sectors = match field::<1>(image, 0x1f1)? {
        [0] => 4,
        [n] => usize::from(n),
    };
    let offset = u32::from_le_bytes(field(image, 0x248)?) as usize;
    let length = u32::from_le_bytes(field(image, 0x24c)?) as usize;
    let start = (sectors + 1) * 512 + offset;
    let payload = image.get(start..start + length).ok_or_else(|| {
        format!(
            "the bzImage is truncated: its payload ends at byte {}, the file at byte {}",
            start + length,
            image.len()
        )
    })?;
    if length < 8 {
        return Err("the bzImage has no payload".into());
    }
    if let &[a, b, c, d, ..] = payload
        && !KNOWN.iter().any(|magic| payload.starts_with(magic))
    {
        return Err(format!(
            "its payload is packed in a way that is not supported (it begins with {a:02x} {b:02x} {c:02x} {d:02x}; LZ4, XZ, gzip and zstd are)"
        ));
    }
    // The build appends the unpacked size, except for gzip, whose own trailer is that size.
    let size = u32::from_le_bytes(field(payload, length - 4)?) as usize;
    if size > LARGEST && !elf::is_elf(payload) {
        return Err(format!(
            "its payload would unpack to {} MiB; no kernel has more than {} MiB",
            size >> 20,
            LARGEST >> 20
        ));
    }
    let body = payload.get(..length - 4).unwrap_or_default();
    let elf = match payload {
        [0x02, 0x21, 0x4c, 0x18, ..] => lz4_legacy(body, size)?,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => limited("XZ", size, lzma_rust2::XzReader::new(body, false))?,
        [0x1f, 0x8b, ..] => limited("gzip", size, flate2::read::GzDecoder::new(payload))?,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let reader = ruzstd::decoding::StreamingDecoder::new(body)
                .map_err(|e| format!("its zstd payload is damaged: {e}"))?;
            limited("zstd", size, reader)?
        }
        _ => payload.to_vec(),
    };
    if elf::is_elf(&elf) { Ok(elf) } else { Err("what is packed in the bzImage is not an ELF".into()) }
}

/// The legacy frame of `lz4 -l`: a magic number, then blocks of at most 8 MiB unpacked, each after its packed size.
fn lz4_legacy(body: &[u8], size: usize) -> Unpacked {
    const BLOCK: usize = 8 << 20;
    let damaged = |at: usize| format!("its LZ4 payload is damaged (block at byte {at})");
    let mut out = Vec::with_capacity(size);
    let mut block = vec![0; BLOCK];
    let mut at = 4;
    while out.len() < size {
        let length = u32::from_le_bytes(field(body, at).map_err(|_| damaged(at))?) as usize;
        let packed = body.get(at + 4..at + 4 + length).ok_or_else(|| damaged(at))?;
        let written = lz4_flex::block::decompress_into(packed, &mut block)
            .map_err(|e| format!("{}: {e}", damaged(at)))?;
        out.extend_from_slice(block.get(..written).unwrap_or_default());
        at += 4 + length;
        if written == 0 {
            return Err(damaged(at));
        }
    }
    exact("LZ4", out, size)
}

fn limited(name: &str, size: usize, reader: impl Read) -> Unpacked {
    let mut out = Vec::with_capacity(size);
    reader
        .take(size as u64 + 1)
        .read_to_end(&mut out)
        .map_err(|e| format!("its {name} payload is damaged: {e}"))?;
    exact(name, out, size)
}

fn exact(name: &str, out: Vec<u8>, size: usize) -> Unpacked {
    if out.len() == size {
        Ok(out)
    } else {
        Err(format!("its {name} payload unpacks to {} bytes and should to {size}", out.len()))
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], String> {
    let found = bytes.get(at..).and_then(|rest| rest.get(..N)).and_then(|field| field.try_into().ok());
    found.ok_or_else(|| format!("the bzImage is truncated: it has {} bytes", bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// A bzImage with one setup sector around `payload`.
    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend_from_slice(payload);
        image
    }

    fn content() -> Vec<u8> {
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.extend((0..50_000u32).flat_map(|n| (n / 7).to_le_bytes()));
        elf
    }

    fn with_size(mut packed: Vec<u8>, size: usize) -> Vec<u8> {
        packed.extend_from_slice(&(size as u32).to_le_bytes());
        packed
    }

    fn lz4(content: &[u8]) -> Vec<u8> {
        let packed = lz4_flex::block::compress(content);
        let mut out = vec![0x02, 0x21, 0x4c, 0x18];
        out.extend_from_slice(&(packed.len() as u32).to_le_bytes());
        out.extend_from_slice(&packed);
        with_size(out, content.len())
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        out.write_all(content).unwrap();
        out.finish().unwrap()
    }

    #[test]
    fn each_packing_gives_the_elf_back() {
        let content = content();
        let zstd =
            ruzstd::encoding::compress_to_vec(&content[..], ruzstd::encoding::CompressionLevel::Fastest);
        let mut xz = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
        xz.write_all(&content).unwrap();
        let xz = xz.finish().unwrap();
        for payload in
            [lz4(&content), gzip(&content), with_size(zstd, content.len()), with_size(xz, content.len())]
        {
            assert!(unpack(&image(&payload)).unwrap() == content);
        }
    }

    #[test]
    fn damage_is_named() {
        let whole = image(&lz4(&content()));
        assert!(unpack(&whole[..whole.len() - 100]).unwrap_err().contains("truncated"));
        assert!(unpack(&whole[..0x230]).unwrap_err().contains("truncated"));
        let mut wrong = whole.clone();
        wrong[1024 + 4..1024 + 8].copy_from_slice(&[0xff; 4]);
        assert!(unpack(&wrong).unwrap_err().contains("damaged"));
        assert!(unpack(&image(b"BZh91AY&SY....")).unwrap_err().contains("not supported"));
        let mut huge = lz4(&content());
        let end = huge.len();
        huge[end - 4..].copy_from_slice(&[0xff; 4]);
        assert!(unpack(&image(&huge)).unwrap_err().contains("MiB"));
        assert!(unpack(&image(&gzip(b"no kernel at all"))).unwrap_err().contains("not an ELF"));
        let mut old = whole;
        old[0x206] = 7;
        old[0x207] = 2;
        assert!(unpack(&old).unwrap_err().contains("2.07"));
    }
}
