//! Where the choices of a fuzz target come from. The targets of `devices` have it too.

use std::fmt;

/// Where choices come from: a seed, or the bytes that a fuzzer found.
#[derive(Clone)]
pub enum Source {
    /// SplitMix64, which never ends.
    Seed { first: u64, state: u64 },
    /// Bytes, and how many were taken. After the last one every choice is the last.
    Bytes { bytes: Vec<u8>, at: usize },
}

impl Source {
    pub const fn seed(seed: u64) -> Self {
        Self::Seed { first: seed, state: seed }
    }

    pub fn bytes(bytes: &[u8]) -> Self {
        Self::Bytes { bytes: bytes.into(), at: 0 }
    }

    /// So many bytes' worth of bits.
    fn take(&mut self, count: usize) -> u64 {
        match self {
            Self::Seed { state, .. } => {
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mixed = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
                mixed ^ mixed >> 31
            }
            Self::Bytes { bytes, at } => {
                let mut word = [0xff; 8];
                let rest = bytes.get(*at..).unwrap_or_default();
                let count = count.min(rest.len());
                if count > 0 {
                    word = [0; 8];
                }
                word[..count].copy_from_slice(&rest[..count]);
                *at += count;
                u64::from_le_bytes(word)
            }
        }
    }

    /// True when nothing more is to be chosen.
    pub fn is_spent(&self) -> bool {
        matches!(self, Self::Bytes { bytes, at } if *at >= bytes.len())
    }

    pub fn bits(&mut self) -> u64 {
        self.take(8)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        if self.is_spent() {
            return end.saturating_sub(1);
        }
        let bytes = match end {
            0..=0x100 => 1,
            0x101..=0x1_0000 => 2,
            _ => 8,
        };
        self.take(bytes) % end
    }

    /// One chance in so many.
    pub fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seed { first, .. } => write!(f, "seed {first}"),
            Self::Bytes { bytes, .. } => write!(f, "{} bytes", bytes.len()),
        }
    }
}

/// The seed of `TRUNNION_SEED`, in decimal or, behind `0x`, in hexadecimal.
pub fn chosen() -> Option<u64> {
    let text = std::env::var("TRUNNION_SEED").ok()?;
    let seed = text.strip_prefix("0x").map_or_else(|| text.parse(), |hex| u64::from_str_radix(hex, 16));
    Some(seed.expect("TRUNNION_SEED is a number"))
}
