//! Seeded noise for what a loader leaves: information that is nearly right never makes the parsers fail in another way than by an error.

use std::collections::BTreeSet;

use super::source::tests::Piece;
use super::{MULTIBOOT2_MAGIC, multiboot, parse, pvh};

/// SplitMix64.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    /// A few words overwritten by extreme or random numbers, and now and then an early end.
    fn damage(&mut self, piece: &mut Piece) {
        for _ in 0..=self.below(3) {
            let words = piece.1.len() / 4;
            let at = self.below(words) * 4;
            let value = match self.below(7) {
                0 => 0,
                1 => u32::MAX,
                2 => 1 << 31,
                3 => self.below(64) as u32,
                4 => piece.0 as u32 + self.below(512) as u32,
                _ => self.next() as u32,
            };
            if let Some(word) = piece.1.get_mut(at..at + 4) {
                word.copy_from_slice(&value.to_le_bytes());
            }
        }
        if self.below(8) == 0 {
            piece.1.truncate(self.below(piece.1.len()));
        }
    }
}

#[test]
fn damaged_boot_information_is_an_error_or_makes_sense() {
    let seeds = std::env::var("TRUNNION_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000);
    let mut reached = BTreeSet::new();
    for seed in 0..seeds {
        let mut noise = Noise(seed);
        let (magic, mut piece) = if seed % 2 == 0 {
            (MULTIBOOT2_MAGIC, multiboot::tests::information())
        } else {
            (0, pvh::tests::start_info(1))
        };
        noise.damage(&mut piece);
        match parse(&piece, magic, piece.0 as u32) {
            Ok(info) => {
                reached.insert(format!("{} with module {}", info.loader, info.module.1 != 0));
                for ranges in [&info.ram, &info.busy] {
                    assert!(ranges.as_slice().iter().all(|(from, to)| from < to), "seed {seed}: {info:?}");
                    assert!(
                        ranges.as_slice().windows(2).all(|pair| pair[0].1 <= pair[1].0),
                        "seed {seed}: {info:?}"
                    );
                }
            }
            Err(error) => drop(reached.insert(format!("{error:?}"))),
        }
    }
    println!("{reached:?}");
    assert!(reached.len() >= 6, "only these were reached: {reached:?}");
}
