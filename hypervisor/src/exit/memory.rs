//! Accesses to guest-physical addresses that the second-level tables do not allow: the local interrupt controller, and
//! holes.

use super::{advance, code_address, ends, undefined};
use crate::lapic;
use crate::local;
use crate::mov::{self, Mov};
use crate::prelude::*;
use crate::seam::{Context, SecondLevelFault, Verdict};
use crate::second_level::Rights;

const LAPIC_END: u64 = lapic::BASE + 0x1000;

pub(super) fn fault<M: Machine>(running: &mut Running<'_, M>, fault: SecondLevelFault) -> Verdict {
    if allowed_by_now(running, &fault) {
        return Verdict::Resume;
    }
    if fault.walk || fault.execute {
        return ends(
            running,
            format_args!(
                "{} at {:#x}, where no memory is",
                if fault.walk { "page table" } else { "instruction fetch" },
                fault.gpa
            ),
        );
    }
    let Some(instruction) = decode(running) else {
        return unknown(running, fault.gpa);
    };
    let context = &mut *running.context;
    let store = instruction.stored(|register| context.gpr(register));
    let in_lapic = (lapic::BASE..LAPIC_END).contains(&fault.gpa.0);
    match store {
        Some(value) => {
            if in_lapic {
                local::write(running, (fault.gpa.0 - lapic::BASE) as u16, value as u32);
            }
        }
        None => {
            // What nobody claims reads all ones.
            let value = if in_lapic {
                u64::from(local::read(running, (fault.gpa.0 - lapic::BASE) as u16))
            } else {
                u64::MAX
            };
            let context = &mut *running.context;
            if let Some((register, value)) = instruction.loaded(value, |register| context.gpr(register)) {
                context.set_gpr(register, value);
            }
        }
    }
    advance(running, instruction.length);
    Verdict::Resume
}

/// Whether the tables allow the access after all: an entry is absent for an instant while it is replaced, and rights may
/// have been added meanwhile.
fn allowed_by_now<M: Machine>(running: &Running<'_, M>, fault: &SecondLevelFault) -> bool {
    let memory = running.domain.memory.lock();
    let Some(leaf) = memory.tables.lookup(&running.host.machine, fault.gpa.frame()) else { return false };
    (!fault.write || leaf.rights.contains(Rights::WRITE))
        && (!fault.execute || leaf.rights.contains(Rights::EXECUTE))
}

fn decode<M: Machine>(running: &mut Running<'_, M>) -> Option<Mov> {
    let mode = running.context.mode();
    let saved = running.context.instruction_bytes();
    if !saved.is_empty()
        && let Some(found) = mov::decode(saved, mode)
    {
        return Some(found);
    }
    let at = code_address(running);
    let mut bytes = [0; 15];
    let count = running.with_memory(|memory| memory.fetch(at, &mut bytes).len());
    mov::decode(bytes.get(..count)?, mode)
}

/// An instruction that the core does not carry out, on memory that is not there.
fn unknown<M: Machine>(running: &mut Running<'_, M>, gpa: Gpa) -> Verdict {
    let at = code_address(running);
    let mut bytes = [0; 15];
    let count = running.with_memory(|memory| memory.fetch(at, &mut bytes).len());
    let bytes = bytes.get(..count).unwrap_or(&[]);
    running.host.say(format_args!(
        "domain {} vcpu {}: instruction {bytes:02x?} on {gpa:#x} is not emulated: #UD",
        running.domain.id, running.vcpu.id
    ));
    undefined(running)
}
