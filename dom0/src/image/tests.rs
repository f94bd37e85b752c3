//! Kernels of many shapes, made here.

use super::*;
use alloc::vec;

struct Builder {
    wide: bool,
    loads: Vec<(u64, &'static [u8], u64)>,
    notes: Vec<Vec<u8>>,
    in_sections: bool,
}

fn note(owner: &str, kind: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [owner.len() as u32 + 1, content.len() as u32, kind] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(owner.as_bytes());
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

pub(crate) fn simple() -> Vec<u8> {
    Builder {
        wide: true,
        loads: vec![(0x100_0000, b"text", 0x2000), (0x100_3000, b"data", 4)],
        notes: vec![
            [
                note("Xen", 6, b"linux\0"),
                note("GNU", 18, &[1; 20]),
                note("Xen", 18, &0x100_0002u64.to_le_bytes()),
            ]
            .concat(),
        ],
        in_sections: false,
    }
    .build()
}

impl Builder {
    fn build(&self) -> Vec<u8> {
        let (header, ph, sh) = if self.wide { (64, 56, 64) } else { (52, 32, 40) };
        let notes_in_segments = if self.in_sections { 0 } else { self.notes.len() };
        let segments = self.loads.len() + notes_in_segments;
        let mut body: Vec<u8> = Vec::new();
        let start = header + ph * segments;
        let mut table = Vec::new();
        let put = |out: &mut Vec<u8>, wide: bool, value: u64| {
            if wide { out.extend(value.to_le_bytes()) } else { out.extend((value as u32).to_le_bytes()) }
        };
        let mut segment = |kind: u32, at: usize, address: u64, file: usize, memory: u64| {
            table.extend(kind.to_le_bytes());
            if self.wide {
                table.extend(5u32.to_le_bytes());
            }
            // The virtual address is 0, as that of Linux's per-CPU segment.
            for value in [at as u64, 0, address, file as u64, memory] {
                put(&mut table, self.wide, value);
            }
            if !self.wide {
                table.extend(5u32.to_le_bytes());
            }
            put(&mut table, self.wide, 4);
        };
        for (address, data, memory) in &self.loads {
            segment(1, start + body.len(), *address, data.len(), *memory);
            body.extend(*data);
        }
        let mut sections = Vec::new();
        for note in &self.notes {
            let at = start + body.len();
            if self.in_sections {
                sections.extend([0u32, 7].map(u32::to_le_bytes).concat());
                for value in [0, 0, at as u64, note.len() as u64] {
                    put(&mut sections, self.wide, value);
                }
                sections.extend([0u32; 2].map(u32::to_le_bytes).concat());
                put(&mut sections, self.wide, 4);
                put(&mut sections, self.wide, 0);
            } else {
                segment(4, at, 0, note.len(), note.len() as u64);
            }
            body.extend(note);
        }
        let section_count = sections.len() / sh;
        let mut file =
            vec![0x7f, b'E', b'L', b'F', if self.wide { 2 } else { 1 }, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        file.extend([2u16, 62].map(u16::to_le_bytes).concat());
        file.extend(1u32.to_le_bytes());
        let section_at = if section_count == 0 { 0 } else { start + body.len() };
        for value in [0, header, section_at] {
            put(&mut file, self.wide, value as u64);
        }
        file.extend(0u32.to_le_bytes());
        for value in [header, ph, segments, sh, section_count, 0] {
            file.extend((value as u16).to_le_bytes());
        }
        assert_eq!(file.len(), header);
        file.extend(table);
        file.extend(body);
        file.extend(sections);
        file
    }
}

#[test]
fn pieces_lie_by_physical_address() {
    let file = simple();
    let image = Image::parse(&file).unwrap();
    assert_eq!((image.entry, image.wide, image.system.as_deref()), (0x100_0002, true, Some("linux")));
    assert_eq!(image.span(), 0x100_0000..0x100_3004);
    let text = &image.pieces[0];
    assert_eq!((&file[text.bytes.clone()], text.address, text.size), (&b"text"[..], 0x100_0000, 0x2000));
}

#[test]
fn notes_are_found_where_they_are() {
    let entry = note("Xen", 18, &0x10u32.to_le_bytes());
    for wide in [false, true] {
        for in_sections in [false, true] {
            let image = Image::parse(
                &Builder {
                    wide,
                    loads: vec![(0, b"at zero", 0x100)],
                    notes: vec![
                        note("GNU", 1, &[0; 16]),
                        [note("Xen", 17, &0x8801u64.to_le_bytes()), entry.clone()].concat(),
                    ],
                    in_sections,
                }
                .build(),
            )
            .unwrap();
            assert_eq!((image.entry, image.features, image.wide), (0x10, 0x8801, wide));
        }
    }
}

#[test]
fn a_kernel_that_may_be_moved_is_moved_whole() {
    let reloc: Vec<u8> =
        [0x20_0000u32, 0x20_0000, 0x4000_0000].iter().flat_map(|word| word.to_le_bytes()).collect();
    let file = Builder {
        wide: true,
        loads: vec![(0x1000, b"a", 0x1000), (0x3000, b"b", 0x1000)],
        notes: vec![[note("Xen", 18, &0x1234u32.to_le_bytes()), note("Xen", 19, &reloc)].concat()],
        in_sections: false,
    }
    .build();
    let image = Image::parse(&file).unwrap();
    assert_eq!(image.base(), 0);
    let moved = image.moved_to(0x60_0000).unwrap();
    assert_eq!((moved.entry, moved.span()), (0x60_1234, 0x60_1000..0x60_4000));
    assert_eq!(image.moved_to(0xffff_f000), None);
}

#[test]
fn what_cannot_be_loaded_is_named() {
    let entry = || vec![note("Xen", 18, &0x1000u32.to_le_bytes())];
    let with = |loads: Vec<(u64, &'static [u8], u64)>, notes| {
        Builder { wide: true, loads, notes, in_sections: false }.build()
    };
    let good = simple();
    assert_eq!(Image::parse(b""), Err(ImageError::Empty));
    assert_eq!(Image::parse(b"#!/bin/sh"), Err(ImageError::NotElf));
    let mut bzimage = vec![0; 0x400];
    bzimage[0x202..0x206].copy_from_slice(b"HdrS");
    assert_eq!(Image::parse(&bzimage), Err(ImageError::BzImage));
    let mut arm = good.clone();
    arm[18] = 183;
    assert_eq!(Image::parse(&arm), Err(ImageError::Machine(183)));
    let mut object = good.clone();
    object[16] = 1;
    assert_eq!(Image::parse(&object), Err(ImageError::NotExecutable));
    assert!(matches!(Image::parse(&good[..good.len() - 20]), Err(ImageError::Truncated { .. })));
    assert!(matches!(Image::parse(&good[..100]), Err(ImageError::Truncated { .. })));
    assert_eq!(Image::parse(&with(vec![(0x1000, b"a", 16)], vec![])), Err(ImageError::NoEntryNote));
    assert_eq!(Image::parse(&with(vec![], entry())), Err(ImageError::NothingToLoad));
    assert_eq!(
        Image::parse(&with(vec![(0x2000, b"a", 16)], entry())),
        Err(ImageError::EntryOutside { entry: 0x1000 })
    );
    assert_eq!(
        Image::parse(&with(vec![(0x1000, b"a", 0x1000), (0x1fff, b"b", 1)], entry())),
        Err(ImageError::Overlap { address: 0x1fff })
    );
    assert_eq!(Image::parse(&with(vec![(0x1000, b"abc", 2)], entry())), Err(ImageError::Damaged));
    assert_eq!(
        Image::parse(&with(vec![(0xffff_ffff, b"ab", 2)], entry())),
        Err(ImageError::TooHigh { address: 0xffff_ffff })
    );
    assert_eq!(
        Image::parse(&with(vec![(u64::MAX, b"ab", 2)], entry())),
        Err(ImageError::TooHigh { address: u64::MAX })
    );
    assert_eq!(
        Image::parse(&with(vec![(0x1000, b"a", 16)], vec![note("Xen", 18, &[1, 2])])),
        Err(ImageError::BadNotes)
    );
    let mut long = note("Xen", 18, &[0; 4]);
    long[4] = 200;
    assert_eq!(Image::parse(&with(vec![(0x1000, b"a", 16)], vec![long])), Err(ImageError::BadNotes));
}

#[test]
fn no_damage_makes_the_loader_fail() {
    let good = simple();
    for at in 0..good.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut file = good.clone();
            file[at] = value;
            if let Ok(image) = Image::parse(&file) {
                assert!(
                    image
                        .pieces
                        .iter()
                        .all(|piece| file.get(piece.bytes.clone()).is_some() && piece.end() <= 1 << 32)
                );
            }
        }
        let _ = Image::parse(&good[..at]);
    }
}
