//! A kernel for the shipped loader: an ELF of the 64-bit class with one segment and a PVH entry note.

/// Where it is loaded, and where it starts.
pub const BASE: u64 = 0x10_0000;
/// What its segment holds.
pub const TEXT: &[u8; 16] = b"a simulated text";

/// The file.
pub fn kernel() -> Vec<u8> {
    let note =
        [&4u32.to_le_bytes()[..], &8u32.to_le_bytes(), &18u32.to_le_bytes(), b"Xen\0", &BASE.to_le_bytes()]
            .concat();
    let (header, entry) = (64usize, 56usize);
    let text_at = header + 2 * entry;
    let note_at = text_at + TEXT.len();
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    file.extend(2u16.to_le_bytes());
    file.extend(62u16.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    for value in [BASE, header as u64, 0] {
        file.extend(value.to_le_bytes());
    }
    file.extend(0u32.to_le_bytes());
    for value in [header as u16, entry as u16, 2, 64, 0, 0] {
        file.extend(value.to_le_bytes());
    }
    let mut segment = |kind: u32, at: usize, address: u64, bytes: usize, memory: usize| {
        file.extend(kind.to_le_bytes());
        file.extend(5u32.to_le_bytes());
        for value in [at as u64, address, address, bytes as u64, memory as u64, 4] {
            file.extend(value.to_le_bytes());
        }
    };
    segment(1, text_at, BASE, TEXT.len(), 0x1000);
    segment(4, note_at, 0, note.len(), note.len());
    file.extend(TEXT);
    file.extend(note);
    file
}
