use super::*;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};

const PC: Description = Description {
    cpus: 4,
    low: 0xe000_0000,
    high: 0x2000_0000,
    hpet: true,
    vga: true,
    floppy: true,
    uuid: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
};

/// Memory with the files where the script wants them.
struct Memory(BTreeMap<String, (u64, Vec<u8>)>);

impl Memory {
    /// Carries a script out as firmware does, and refuses what it would refuse.
    fn load(pc: &Description) -> Self {
        let files: BTreeMap<_, _> = files(pc).into_iter().collect();
        let mut placed = BTreeMap::<String, (u64, Vec<u8>)>::new();
        let script = &files["etc/table-loader"];
        assert!(script.len().is_multiple_of(128));
        for entry in script.chunks(128) {
            let name = |at: usize| {
                let name = &entry[at..at + 56];
                String::from_utf8(name[..name.iter().position(|&byte| byte == 0).unwrap()].to_vec()).unwrap()
            };
            let word = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().unwrap()) as usize;
            match word(0) {
                1 => {
                    let base = if entry[64] == 2 { 0xf_5ac0 } else { 0xdff_e1c0 };
                    assert!(word(60).is_power_of_two() && base % word(60) as u64 == 0);
                    let file = files[name(4).as_str()].clone();
                    assert!(placed.insert(name(4), (base, file)).is_none());
                }
                2 => {
                    let (base, _) = placed[&name(60)];
                    let size = usize::from(entry[120]);
                    let place = &mut placed.get_mut(&name(4)).unwrap().1[word(116)..word(116) + size];
                    let mut value = [0; 8];
                    value[..size].copy_from_slice(place);
                    let value = u64::from_le_bytes(value) + base;
                    place.copy_from_slice(&value.to_le_bytes()[..size]);
                }
                3 => {
                    let file = &mut placed.get_mut(&name(4)).unwrap().1;
                    let sum = sum(&file[word(64)..word(64) + word(68)]);
                    file[word(60)] = file[word(60)].wrapping_sub(sum);
                }
                other => panic!("command {other}"),
            }
        }
        Self(placed)
    }

    fn at(&self, address: u64) -> &[u8] {
        self.0
            .values()
            .find_map(|(base, bytes)| bytes.get(usize::try_from(address.checked_sub(*base)?).ok()?..))
            .unwrap()
    }

    fn table(&self, address: u64, signature: &str) -> &[u8] {
        let bytes = self.at(address);
        assert_eq!(String::from_utf8_lossy(&bytes[..4]), signature);
        let bytes = &bytes[..long(bytes, 4) as usize];
        assert_eq!(sum(bytes), 0, "{signature}");
        bytes
    }

    /// The tables of a list whose addresses have so many bytes.
    fn listed(&self, list: &[u8], size: usize) -> Vec<(String, u64)> {
        let addresses = list[36..]
            .chunks(size)
            .map(|address| if size == 4 { long(address, 0) } else { wide(address, 0) });
        addresses
            .map(|address| (String::from_utf8_lossy(&self.at(address)[..4]).to_string(), address))
            .collect()
    }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, &byte| sum.wrapping_add(byte))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()).into()
}

fn wide(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

#[test]
fn every_table_is_reached_and_sums_to_zero() {
    let memory = Memory::load(&PC);
    let (place, root) = &memory.0[loader::ROOT];
    assert_eq!((&root[..8], root[15], root.len()), (&b"RSD PTR "[..], 2, 36));
    assert!((0xf_0000..0x10_0000).contains(place));
    assert_eq!((sum(&root[..20]), sum(root)), (0, 0));
    let narrow = memory.listed(memory.table(long(root, 16), "RSDT"), 4);
    let wider = memory.listed(memory.table(wide(root, 24), "XSDT"), 8);
    assert_eq!(narrow, wider);
    let names: Vec<_> = narrow.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["FACP", "APIC", "HPET"]);
    for (name, address) in &narrow {
        memory.table(*address, name);
    }
    let fadt = memory.table(narrow[0].1, "FACP");
    assert_eq!((fadt.len(), fadt[8]), (244, 3));
    assert_eq!(long(fadt, 40), wide(fadt, 140));
    memory.table(long(fadt, 40), "DSDT");
    let facs = memory.at(long(fadt, 36));
    assert_eq!((&facs[..4], long(facs, 4), long(fadt, 36) % 64), (&b"FACS"[..], 64, 0));
}

#[test]
fn fixed_registers_are_those_of_the_board() {
    let memory = Memory::load(&PC);
    let list = memory.listed(memory.table(long(&memory.0[loader::ROOT].1, 16), "RSDT"), 4);
    let fadt = memory.table(list[0].1, "FACP");
    for (narrow, wider, port) in [(56, 148, 0x600), (64, 172, 0x604), (76, 208, 0x608), (80, 220, 0x60c)] {
        assert_eq!((long(fadt, narrow), fadt[wider], wide(fadt, wider + 4)), (port, 1, port));
    }
    assert_eq!((long(fadt, 48), fadt[52], fadt[53]), (0xb2, 0xf1, 0xf0));
    // The reset register.
    assert_eq!((fadt[116], wide(fadt, 120), fadt[128], long(fadt, 112) >> 10 & 1), (1, 0xcf9, 6, 1));
    // Twelve entries of processors, the I/O APIC, and two lines that are not wired one to one.
    let madt = memory.table(list[1].1, "APIC");
    let cpus: Vec<_> = madt[44..76].chunks(8).map(|entry| (entry[0], entry[2], entry[3], entry[4])).collect();
    assert_eq!(cpus, [(0, 0, 0, 1), (0, 1, 2, 1), (0, 2, 4, 1), (0, 3, 6, 1)]);
    assert_eq!(madt[76..80], [1, 12, 1, 0]);
    assert_eq!((long(madt, 80), long(madt, 84)), (0xfec0_0000, 0));
    assert_eq!(madt[88..], [2, 10, 0, 0, 2, 0, 0, 0, 0, 0, 2, 10, 0, 9, 9, 0, 0, 0, 13, 0]);
    let timer = memory.table(list[2].1, "HPET");
    assert_eq!((long(timer, 36), wide(timer, 44)), (0x8086_a201, 0xfed0_0000));
}

/// Whether the definition block has a name or a device's number.
fn defines(pc: &Description, what: &[u8]) -> bool {
    dsdt::body(pc).windows(what.len()).any(|bytes| bytes == what)
}

#[test]
fn only_what_is_there_is_described() {
    let bare = Description { cpus: 1, hpet: false, vga: false, floppy: false, high: 0, ..PC };
    // PNP0700 is the floppy controller, PNP0103 the timer.
    for (there, names) in [
        (true, [&b"PRTA"[..], b"LNKD", b"_S5_", b"C000", b"\x0c\x41\xd0\x03\x03", b"\x0c\x41\xd0\x05\x01"]),
        (false, [b"C004", b"_S3_", b"_EJ0", b"_SUN", b"C005", b"_GPE"]),
    ] {
        assert!(names.iter().all(|name| defines(&PC, name) == there), "{names:?}");
    }
    for name in [&b"HPET"[..], b"C001", b"\x0c\x41\xd0\x07\x00", b"\x0c\x41\xd0\x01\x03"] {
        assert!(defines(&PC, name) && !defines(&bare, name), "{name:?}");
    }
    let memory = Memory::load(&bare);
    let list = memory.listed(memory.table(long(&memory.0[loader::ROOT].1, 16), "RSDT"), 4);
    assert_eq!(list.len(), 2);
    assert_eq!(memory.table(list[0].1, "FACP")[109..111], [7, 0]);
}

#[test]
fn slots_are_wired_as_on_the_board() {
    let body = dsdt::body(&PC);
    let element = |slot: u8, pin: &[u8], rest: &[u8]| [&[0x0c, 0xff, 0xff, slot, 0], pin, rest].concat();
    for (slot, pin, rest) in [
        // Slot 4 pin A is line D; slot 5 pin B is B; pin A of the PIIX is the interrupt of power management.
        (4, &[0][..], &[0, 0x0a, 19][..]),
        (4, &[0], b"\\._SB_LNKD\0"),
        (5, &[1], &[0, 0x0a, 17]),
        (5, &[1], b"\\._SB_LNKB\0"),
        (1, &[0], &[0, 0x0a, 9]),
        (31, &[0x0a, 3], &[0, 0x0a, 17]),
    ] {
        let element = element(slot, pin, rest);
        assert!(body.windows(element.len()).any(|bytes| bytes == element), "{slot} {pin:?} {rest:?}");
    }
}

/// The structures: type, handle, formatted part, strings.
fn structures(bytes: &[u8]) -> Vec<(u8, u16, Vec<u8>, Vec<String>)> {
    let mut all = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (formatted, behind) = rest.split_at(rest[1].into());
        let end = behind.windows(2).position(|pair| pair == [0, 0]).unwrap();
        let strings =
            behind[..end].split(|&byte| byte == 0).map(|text| String::from_utf8_lossy(text).to_string());
        let handle = u16::from_le_bytes([formatted[2], formatted[3]]);
        all.push((formatted[0], handle, formatted.to_vec(), strings.collect()));
        rest = &behind[end + 2..];
    }
    all
}

#[test]
fn structures_have_the_lengths_of_their_version() {
    let files: BTreeMap<_, _> = files(&PC).into_iter().collect();
    let (bytes, anchor) = (&files["etc/smbios/smbios-tables"], &files["etc/smbios/smbios-anchor"]);
    let all = structures(bytes);
    let lengths: Vec<_> = all.iter().map(|(kind, _, formatted, _)| (*kind, formatted.len())).collect();
    assert_eq!(
        lengths,
        [(1, 27), (3, 22), (4, 42), (16, 23), (17, 40), (19, 31), (19, 31), (32, 11), (127, 4)]
    );
    let mut handles: Vec<_> = all.iter().map(|(_, handle, ..)| *handle).collect();
    handles.dedup();
    assert!(handles.is_sorted() && handles.len() == all.len());
    assert_eq!(anchor.len(), 31);
    assert_eq!((sum(anchor), sum(&anchor[16..])), (0, 0));
    assert_eq!(usize::from(u16::from_le_bytes([anchor[22], anchor[23]])), bytes.len());
    assert_eq!(usize::from(anchor[28]), all.len());
    let (_, _, system, strings) = &all[0];
    assert_eq!(system[8..16], [3, 2, 1, 0, 5, 4, 7, 6]);
    assert_eq!(strings[3], "00010203-0405-0607-0809-0a0b0c0d0e0f");
    // Four cores; 4 GiB in all, and where they are.
    assert_eq!(all[2].2[0x23..0x26], [4, 4, 4]);
    assert_eq!(all[3].2[7..11], 0x40_0000u32.to_le_bytes());
    assert_eq!(all[4].2[12..14], 4096u16.to_le_bytes());
    assert_eq!(all[5].2[4..12], [0, 0, 0, 0, 0xff, 0xff, 0x37, 0]);
    assert_eq!(all[6].2[4..12], [0, 0, 0x40, 0, 0xff, 0xff, 0x47, 0]);
}

#[test]
fn much_memory_stands_in_the_wide_fields() {
    let pc = Description { high: 5 << 40, ..PC };
    let files: BTreeMap<_, _> = files(&pc).into_iter().collect();
    let all = structures(&files["etc/smbios/smbios-tables"]);
    let bytes = pc.low + pc.high;
    assert_eq!((long(&all[3].2, 7), wide(&all[3].2, 15)), (0x8000_0000, bytes));
    assert_eq!((all[4].2[12..14].to_vec(), long(&all[4].2, 28)), (vec![0xff, 0x7f], bytes >> 20));
    assert_eq!((wide(&all[6].2, 15), wide(&all[6].2, 23)), (1 << 32, (1 << 32) + pc.high - 1));
}
