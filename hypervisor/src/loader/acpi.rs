//! The few words the core needs from ACPI's tables: local APICs, the I/O APIC and how interrupt lines reach it (ACPI 6.5
//! sections 5.2.5, 5.2.8, 5.2.12).

use super::source::Source;

/// Most interrupt source overrides that are remembered.
const OVERRIDES: usize = 16;

/// How a line of the 8259 arrives at the I/O APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Override {
    /// The 8259's line.
    pub line: u8,
    /// The I/O APIC's pin.
    pub pin: u32,
    /// Polarity in bits 0-1 (3: low), trigger in bits 2-3 (3: level); 0 is the bus's own.
    pub flags: u16,
}

/// What the MADT says.
#[derive(Clone, Debug, Default)]
pub struct Madt {
    /// Enabled local APICs.
    pub cpus: u32,
    /// Address of the I/O APIC that serves pin 0; 0 when there is none.
    pub ioapic: u64,
    overrides: [Override; OVERRIDES],
    override_count: usize,
}

impl Madt {
    /// The pin of a line, and whether it is level-triggered and active-low. Without an override, PCI's lines (5, 9, 10, 11
    /// and those above 15) are level and low, and ISA's are edge and high.
    pub fn line(&self, line: u32) -> (u32, bool) {
        let known = self.overrides.iter().take(self.override_count).find(|o| o.line as u32 == line);
        known.map_or((line, matches!(line, 5 | 9..=11) || line > 15), |o| (o.pin, o.flags >> 2 & 3 == 3))
    }
}

/// Looks for the root pointer where PC firmware leaves it, when the loader does not know it.
pub fn find_root(memory: &impl Source) -> Option<u64> {
    (0xe_0000..0x10_0000).step_by(16).find(|&at| is_root(memory, at))
}

fn is_root(memory: &impl Source, at: u64) -> bool {
    memory.bytes(at, 20).is_some_and(|b| b.starts_with(b"RSD PTR ") && sum(b) == 0)
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// Reads the MADT below the root pointer at `root`.
pub fn madt(memory: &impl Source, root: u64) -> Option<Madt> {
    if !is_root(memory, root) {
        return None;
    }
    let revision = *memory.bytes(root + 15, 1)?.first()?;
    let xsdt = if revision >= 2 { memory.read::<u64>(root + 24).ok()? } else { 0 };
    let (list, size) = if xsdt != 0 { (xsdt, 8) } else { (memory.read::<u32>(root + 16).ok()? as u64, 4) };
    let length = u64::from(memory.read::<u32>(list + 4).ok()?).min(4096);
    (36..length).step_by(size).find_map(|offset| {
        let at = list + offset;
        let table =
            if size == 8 { memory.read::<u64>(at).ok()? } else { memory.read::<u32>(at).ok()? as u64 };
        (memory.bytes(table, 4)? == b"APIC").then(|| read(memory, table)).flatten()
    })
}

fn read(memory: &impl Source, table: u64) -> Option<Madt> {
    let length = u64::from(memory.read::<u32>(table + 4).ok()?);
    let bytes = memory.bytes(table, length)?;
    if sum(bytes) != 0 {
        return None;
    }
    let mut madt = Madt::default();
    let mut rest = bytes.get(44..)?;
    while let [kind, length, ..] = *rest {
        let Some(entry) = rest.get(..length as usize).filter(|entry| entry.len() >= 2) else { break };
        let word = |at: usize| entry.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
        match kind {
            0 if word(4)? & 1 != 0 => madt.cpus += 1,
            9 if word(8)? & 1 != 0 => madt.cpus += 1,
            1 if word(8)? == 0 => madt.ioapic = u64::from(word(4)?),
            2 => {
                let flags = entry.get(8..10)?.try_into().ok().map(u16::from_le_bytes)?;
                if let Some(slot) = madt.overrides.get_mut(madt.override_count) {
                    *slot = Override { line: *entry.get(3)?, pin: word(4)?, flags };
                    madt.override_count += 1;
                }
            }
            _ => {}
        }
        rest = rest.get(length as usize..)?;
    }
    Some(madt)
}

#[cfg(test)]
mod tests {
    use super::super::source::tests::Piece;
    use super::*;

    fn finish(bytes: &mut [u8], checksum: usize) {
        bytes[checksum] = 0;
        bytes[checksum] = sum(bytes).wrapping_neg();
    }

    fn tables() -> Piece {
        let mut all = vec![0u8; 0x400];
        let mut root = b"RSD PTR \0TRUNNI\0".to_vec();
        root.extend(0xe_0100u32.to_le_bytes());
        finish(&mut root, 8);
        all[0x20..0x20 + root.len()].copy_from_slice(&root);
        let mut rsdt = b"RSDT".to_vec();
        rsdt.extend(40u32.to_le_bytes());
        rsdt.resize(36, 0);
        rsdt.extend(0xe_0200u32.to_le_bytes());
        all[0x100..0x100 + rsdt.len()].copy_from_slice(&rsdt);
        let mut madt = b"APIC".to_vec();
        madt.resize(44, 0);
        madt.extend([0, 8, 0, 0, 1, 0, 0, 0, 0, 8, 1, 1, 1, 0, 0, 0, 0, 8, 2, 2, 0, 0, 0, 0]);
        madt.extend([1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
        madt.extend([2, 10, 0, 0, 2, 0, 0, 0, 0, 0, 2, 10, 0, 9, 9, 0, 0, 0, 13, 0]);
        let length = madt.len() as u32;
        madt[4..8].copy_from_slice(&length.to_le_bytes());
        finish(&mut madt, 9);
        all[0x200..0x200 + madt.len()].copy_from_slice(&madt);
        Piece(0xe_0000, all)
    }

    #[test]
    fn the_madt_is_found_and_read() {
        let memory = tables();
        let root = find_root(&memory).unwrap();
        assert_eq!(root, 0xe_0020);
        let madt = madt(&memory, root).unwrap();
        assert_eq!((madt.cpus, madt.ioapic), (2, 0xfec0_0000));
        assert_eq!(madt.line(0), (2, false));
        assert_eq!(madt.line(9), (9, true));
        assert_eq!(madt.line(4), (4, false));
        assert_eq!(madt.line(11), (11, true));
    }

    #[test]
    fn damage_is_no_panic() {
        let memory = tables();
        for at in 0..memory.1.len() {
            let mut broken = Piece(0xe_0000, memory.1.clone());
            broken.1[at] ^= 0xff;
            if let Some(root) = find_root(&broken) {
                let _ = madt(&broken, root);
            }
            let cut = Piece(0xe_0000, memory.1[..at].to_vec());
            let _ = madt(&cut, 0xe_0020);
        }
    }
}
