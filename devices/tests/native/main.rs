//! The emulator against the processor that runs the test: random user-mode instructions, in 32 and 64-bit code, are executed
//! twice, by `emulate::step` here and natively in a child process, and registers, flags, memory and faults compared.
//!
//! The child is this program again, told by an environment variable. 16-bit code and privileged instructions cannot run in a
//! process; a guest of its own compares those (`tests/guests/prefix.rs`).

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod cases;
mod child;
mod flat;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

use trunnion_devices::emulate::{Fault, Outcome};

use cases::{Case, Level, Random, START};
use child::Verdict;

/// Compared in each mode; in the full tier many more.
const CASES: usize = 15_000;
const FULL: usize = 200_000;
const SEED: u64 = 0x5eed;
/// Names this program as the child.
const CHILD: &str = "TRUNNION_NATIVE_CHILD";

/// The flags that are compared. Not RF, which says only that the case ended with a fault.
const FLAGS: u64 = 0x24_4dd5;

#[test]
fn the_processor_agrees() {
    if std::env::var_os(CHILD).is_some() {
        child::run();
    }
    let seed = std::env::var("TRUNNION_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(SEED);
    let full = std::env::var("TRUNNION_TIER").is_ok_and(|tier| tier == "full");
    let mut random = Random(seed);
    let mut cases = Vec::new();
    let mut expected = Vec::new();
    let mut unknown = BTreeMap::<String, usize>::new();
    for bits in [32, 64] {
        let end = cases.len() + if full { FULL } else { CASES };
        while cases.len() < end {
            let Some(case) = cases::case(&mut random, bits, Level::User) else { continue };
            let outcome = flat::emulate(&case);
            match outcome {
                Some((Outcome::Unknown(_), _)) => *unknown.entry(cases::name(&case)).or_default() += 1,
                Some(outcome) => {
                    cases.push(case);
                    expected.push(outcome);
                }
                None => {}
            }
        }
    }
    let verdicts = natively(&cases);
    let mut wrong = BTreeMap::new();
    let mut differ = 0;
    let mut compared = BTreeMap::<String, [usize; 2]>::new();
    for ((case, (outcome, ours)), native) in cases.iter().zip(&expected).zip(&verdicts) {
        let native = native.plain(case);
        let ours = ours.plain(case);
        let row = compared.entry(cases::name(case)).or_default();
        row[usize::from(matches!(outcome, Outcome::Fault(_)))] += 1;
        let undefined = cases::undefined(case);
        // A processor that faults amidst many accesses may leave some of them done, which the emulator never does; and where two
        // things are wrong, it says which it saw first.
        let pieces = native.fault.is_some() && cases::many(case);
        let same = (native.fault == ours.fault || pieces && ours.fault.is_some())
            && native.rip == ours.rip
            && (native.flags ^ ours.flags) & FLAGS & !undefined == 0
            && (pieces || native.gpr == ours.gpr && native.memory == ours.memory);
        if !same {
            differ += 1;
            let text = format!("{}\n  processor {native:x?}\n  emulator  {ours:x?}", cases::describe(case));
            wrong.entry(cases::name(case)).or_insert(text);
        }
    }
    println!("{} instructions compared, {} names: {compared:?}", cases.len(), compared.len());
    println!("not known to the emulator: {unknown:?}");
    assert!(
        wrong.is_empty(),
        "{differ} of {} differ, with TRUNNION_SEED={seed}; one of each name:\n{}",
        cases.len(),
        wrong.into_values().collect::<Vec<_>>().join("\n")
    );
    // What the comparison is worth: most names of the integer instructions, completed as well as faulting.
    assert!(compared.len() >= 90, "only {} names", compared.len());
    assert!(compared.values().filter(|[done, faulted]| *done > 0 && *faulted > 0).count() >= 60);
}

/// Has all cases executed in a child.
fn natively(cases: &[Case]) -> Vec<Verdict> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_processor_agrees", "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut into = child.stdin.take().unwrap();
    let bytes: Vec<u8> = cases.iter().flat_map(Case::bytes).collect();
    // The child reads everything before it says anything.
    into.write_all(&bytes).unwrap();
    drop(into);
    let mut bytes = Vec::new();
    child.stderr.take().unwrap().read_to_end(&mut bytes).unwrap();
    let status = child.wait().unwrap();
    assert!(
        status.success() && bytes.len() == cases.len() * Verdict::BYTES,
        "the child ended with {status} and {} of {} verdicts: {}",
        bytes.len() / Verdict::BYTES,
        cases.len(),
        String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(400)..])
    );
    bytes.chunks_exact(Verdict::BYTES).map(Verdict::from_bytes).collect()
}

/// What is compared.
#[derive(PartialEq, Eq, Debug)]
struct Plain {
    /// Vector, error code, and the address of a page fault.
    fault: Option<(u64, u64, u64)>,
    rip: u64,
    flags: u64,
    gpr: Vec<u64>,
    /// A sum of the window's words.
    memory: u64,
}

impl Verdict {
    /// In words that both sides have. The page is full of HLT, which faults in a process: a case that gets there has
    /// completed its instruction.
    fn plain(&self, case: &Case) -> Plain {
        let elsewhere = self.rip != START;
        let completed = elsewhere && (self.vector == 13 && self.error == 0 || self.vector == 14);
        const KERNEL: u64 = (1 << 47) - 0x1000;
        // Linux tells nobody which of its own pages are there.
        let error = self.error | u64::from(self.vector == 14 && self.address >= KERNEL);
        let fault = (!completed).then_some((self.vector, error, self.address));
        let (count, mask) = if case.bits == 32 { (8, 0xffff_ffff) } else { (16, u64::MAX) };
        Plain {
            fault,
            rip: self.rip & mask,
            flags: self.flags,
            gpr: self.gpr[..count].iter().map(|value| value & mask).collect(),
            memory: self.memory,
        }
    }

    /// What the emulator says, as the child would.
    fn of(fault: Option<Fault>, rip: u64) -> Self {
        let mut verdict = Self { rip, vector: 13, ..Self::default() };
        if let Some(fault) = fault {
            verdict.vector = fault.vector.into();
            verdict.error = fault.error.unwrap_or(0).into();
            verdict.address = fault.address;
        }
        verdict
    }
}
