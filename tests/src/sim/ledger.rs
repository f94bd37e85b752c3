//! What a disk may hold, by what its guest was told: the model that reads and the medium are compared with.
//!
//! Each sector carries a stamp, eight bytes repeated. A write that was answered leaves one stamp; one that failed or was
//! cut off by death leaves two that are possible. A flush that was answered makes what was possible before it, and what
//! was written since, the only stamps that the medium may show after a loss of power.

use super::disk::SECTOR;

struct Sector {
    now: Vec<u64>,
    durable: Vec<u64>,
}

/// The model of one disk.
pub struct Ledger(Vec<Sector>);

impl Ledger {
    /// Of a disk of zeroes.
    pub fn new(sectors: usize) -> Self {
        Self((0..sectors).map(|_| Sector { now: vec![0], durable: vec![0] }).collect())
    }

    /// A sector's bytes for a stamp.
    pub fn content(stamp: u64) -> [u8; SECTOR] {
        let mut bytes = [0; SECTOR];
        for chunk in bytes.chunks_exact_mut(8) {
            chunk.copy_from_slice(&stamp.to_le_bytes());
        }
        bytes
    }

    /// The stamp of a sector, or what is wrong with it.
    fn stamp(bytes: &[u8]) -> Result<u64, String> {
        let first = &bytes[..8];
        if bytes.chunks_exact(8).any(|chunk| chunk != first) {
            return Err("is torn".into());
        }
        Ok(u64::from_le_bytes(first.try_into().map_err(|_| "is short")?))
    }

    /// A write begins: stamps `stamp`, `stamp + 1`, …
    pub fn begin_write(&mut self, sector: usize, count: usize, stamp: u64) {
        for (index, sector) in self.0[sector..sector + count].iter_mut().enumerate() {
            sector.now.push(stamp + index as u64);
            sector.durable.push(stamp + index as u64);
        }
    }

    /// It was answered with success.
    pub fn end_write(&mut self, sector: usize, count: usize, stamp: u64) {
        for (index, sector) in self.0[sector..sector + count].iter_mut().enumerate() {
            sector.now = vec![stamp + index as u64];
        }
    }

    /// What a flush that begins now covers.
    pub fn begin_flush(&self, sector: usize, count: usize) -> Vec<Vec<u64>> {
        self.0[sector..sector + count].iter().map(|sector| sector.now.clone()).collect()
    }

    /// It was answered with success; no write to these sectors has begun since.
    pub fn end_flush(&mut self, sector: usize, covered: Vec<Vec<u64>>) {
        for (sector, covered) in self.0[sector..].iter_mut().zip(covered) {
            sector.durable = covered;
        }
    }

    /// Checks what a read returned; it also tells what the sector holds.
    pub fn check_read(&mut self, sector: usize, bytes: &[u8]) -> Result<(), String> {
        for (index, bytes) in bytes.chunks_exact(SECTOR).enumerate() {
            let number = sector + index;
            let known = &mut self.0[number];
            let stamp = Self::stamp(bytes).map_err(|why| format!("sector {number} {why}"))?;
            if !known.now.contains(&stamp) {
                return Err(format!("sector {number} reads as {stamp:#x}; possible are {:x?}", known.now));
            }
            known.now = vec![stamp];
        }
        Ok(())
    }

    /// Checks what survived.
    pub fn check_durable(&self, bytes: &[u8]) -> Result<(), String> {
        for (number, (known, bytes)) in self.0.iter().zip(bytes.chunks_exact(SECTOR)).enumerate() {
            let stamp = Self::stamp(bytes).map_err(|why| format!("sector {number} on the medium {why}"))?;
            if !known.durable.contains(&stamp) {
                return Err(format!(
                    "sector {number} on the medium is {stamp:#x}; flushed or later are {:x?}",
                    known.durable
                ));
            }
        }
        Ok(())
    }
}
