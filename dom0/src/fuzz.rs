//! Seeded noise for every parser of the toolstack: text and bytes that are nearly right, so that they get past the first check. The loops are short enough for
//! each test run; `TRUNNION_SEEDS` makes them longer.

use crate::config;
use crate::control::frame::{self, Decoder};
use crate::control::{Down, Manifest, Up};
use crate::cpio::Archive;
use crate::image::{Image, tests::simple};
use crate::plan::{Capacity, plan};
use alloc::collections::BTreeSet;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

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

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    /// A few bytes changed, cut, doubled or overwritten by extreme numbers.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            if bytes.is_empty() {
                return;
            }
            let at = self.below(bytes.len());
            match self.below(5) {
                0 => bytes[at] = self.next() as u8,
                1 => bytes.truncate(at),
                2 => bytes.insert(at, self.next() as u8),
                3 => drop(bytes.remove(at)),
                _ => {
                    let extreme = [0, 1, u64::MAX, 1 << 31, 1 << 32, i64::MAX as u64][self.below(6)];
                    for (to, from) in bytes.iter_mut().skip(at).zip(extreme.to_le_bytes()) {
                        *to = from;
                    }
                }
            }
        }
    }
}

fn seeds() -> u64 {
    std::env::var("TRUNNION_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3000)
}

const KEYS: [&str; 16] = [
    "name", "memory", "maxmem", "vcpus", "maxvcpus", "cpus", "kernel", "ramdisk", "disk", "vif", "extra",
    "on_crash", "type", "cap", "boot", "memroy",
];
const VALUES: [&str; 24] = [
    "'g'",
    "\"k\"",
    "64",
    "0x40",
    "-1",
    "99999999999999999999",
    "[ 'a,raw,xvda,w' ]",
    "['/p,xvdb,r', 'vdev=hdc,devtype=cdrom,target=x,y']",
    "[ 'mac=00:16:3e:00:00:01,bridge=b', '' ]",
    "'restart'",
    "'pvh'",
    "'hvm'",
    "'0-3,^2'",
    "[",
    "]",
    "'",
    "[[[[[[[[[[1]]]]]]]]]]",
    "'\\x41\\0'",
    "'ä'",
    "# nothing",
    "'a,raw,xvda,w",
    "['a,,sdzz1,rw']",
    "'cd'",
    "1 2",
];

#[test]
fn configurations() {
    let mut messages = BTreeSet::new();
    let mut accepted = 0;
    let image = Image::parse(&simple()).unwrap();
    for seed in 0..seeds() {
        let mut noise = Noise(seed);
        let mut text = String::from("name = 'g'\nkernel = 'k'\nmemory = 64\n");
        for _ in 0..noise.below(6) {
            text += noise.one(&KEYS);
            text += noise.one(&[" = ", "=", " += ", " ", "=="]);
            text += noise.one(&VALUES);
            text += noise.one(&["\n", "\n", ";", " ", ""]);
        }
        match config::parse(&text) {
            Ok(good) => {
                accepted += 1;
                let host = Capacity { free_pages: 1 << noise.below(24), cpus: 4, seed };
                if let Ok(plan) = plan(&good.config, &image, Some(noise.next() >> noise.below(64)), &host) {
                    assert!(!plan.to_string().is_empty());
                    assert_eq!(plan.ram_pages, good.config.memory_mib * 256);
                }
            }
            Err(found) => {
                for diagnostic in found {
                    assert!(diagnostic.render("f", &text).starts_with("f:"));
                    assert!(
                        diagnostic.span.start <= diagnostic.span.end && diagnostic.span.end <= text.len(),
                        "{text:?} {diagnostic:?}"
                    );
                    messages.insert(diagnostic.message.split('`').next().unwrap_or_default().to_string());
                }
            }
        }
    }
    assert!(accepted > 10, "only {accepted} texts got past the parser");
    assert!(messages.len() >= 12, "only these were reached: {messages:?}");
}

#[test]
fn kernels() {
    let good = simple();
    let mut reached = BTreeSet::new();
    for seed in 0..seeds() {
        let mut noise = Noise(seed);
        let mut file = good.clone();
        noise.damage(&mut file);
        match Image::parse(&file) {
            Ok(image) => {
                reached.insert(String::from("ok"));
                assert!(image.pieces.iter().all(|piece| file.get(piece.bytes.clone()).is_some()));
                assert!(image.pieces.windows(2).all(|pair| pair[0].end() <= pair[1].address));
            }
            Err(error) => drop(
                reached
                    .insert(alloc::format!("{error:?}").split(['(', ' ']).next().unwrap_or_default().into()),
            ),
        }
    }
    assert!(reached.len() >= 6, "only these were reached: {reached:?}");
}

#[test]
fn frames_and_messages() {
    let (mut whole, mut down, mut up) = (0, 0, 0);
    for seed in 0..seeds() {
        let mut noise = Noise(seed);
        let mut payload: Vec<u8> = (0..noise.below(40)).map(|_| noise.next() as u8 % 24).collect();
        down += u32::from(Down::from_payload(&payload).is_ok());
        up += u32::from(Up::from_payload(&payload).is_ok());
        let _ = Manifest::from_bytes(&payload);
        payload.truncate(20);
        let mut line: Vec<u8> =
            [frame::encode(&payload), frame::encode(b"last")].into_iter().flat_map(Result::unwrap).collect();
        noise.damage(&mut line);
        let mut decoder = Decoder::new();
        for part in line.chunks(noise.below(9) + 1) {
            decoder.push(part);
            while decoder.next_frame().is_some() {
                whole += 1;
            }
        }
    }
    assert!(whole > 100 && down > 10 && up > 10, "{whole} {down} {up}");
}

#[test]
fn bundles() {
    let mut good = Vec::new();
    for name in ["dom0", "config", "TRAILER!!!"] {
        let fields = [1, 0o100_444, 0, 0, 1, 0, 5, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        good.extend(b"070701");
        good.extend(fields.iter().flat_map(|field: &u32| alloc::format!("{field:08x}").into_bytes()));
        good.extend(name.as_bytes());
        good.push(0);
        good.resize(good.len().next_multiple_of(4), 0);
        good.extend(b"bytes\0\0\0");
    }
    assert_eq!(Archive::new(&good).members().count(), 2);
    let (mut right, mut wrong) = (0, 0);
    for seed in 0..seeds() {
        let mut bytes = good.clone();
        Noise(seed).damage(&mut bytes);
        match Archive::new(&bytes).get("config") {
            Ok(_) => right += 1,
            Err(_) => wrong += 1,
        }
    }
    assert!(right > 0 && wrong > 0);
}
