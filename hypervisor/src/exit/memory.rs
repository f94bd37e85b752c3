//! Accesses to guest-physical addresses that the second-level tables do not allow: the local interrupt controller, what a
//! device model answers for, and holes.

use super::{advance, code_address, ends, undefined};
use crate::prelude::*;

pub(super) fn fault<M: Machine>(running: &mut Running<'_, M>, fault: SecondLevelFault) -> Verdict {
    if allowed_by_now(running, &fault) {
        return Verdict::Resume;
    }
    if fault.walk || fault.execute {
        let what = if fault.walk { "page table" } else { "instruction fetch" };
        return ends(running, format_args!("{what} at {:#x}, where no memory is", fault.gpa));
    }
    let offset = fault.gpa.0.checked_sub(lapic::BASE).filter(|offset| *offset < lapic::SIZE);
    if offset.is_none() && running.domain.model.is_completed() {
        return model::ask_instruction(running, fault.gpa.0);
    }
    let at = code_address(running);
    let mut bytes = [0; 15];
    let bytes = running.with_memory(|memory| memory.fetch(at, &mut bytes));
    let Some(instruction) = mov::decode(bytes, running.context.mode()) else {
        if running.domain.debug.lock().allows(running.now()) {
            running.host.say(format_args!(
                "domain {} vcpu {}: instruction {bytes:02x?} on {:#x} is not emulated: #UD",
                running.domain.id, running.vcpu.id, fault.gpa
            ));
        }
        return undefined(running);
    };
    let register = offset.map(|offset| offset as u16);
    match (instruction.stored(|register| running.context.gpr(register)), register) {
        (Some(value), Some(register)) => local::write(running, register, value as u32),
        (Some(_), None) => {}
        (None, register) => {
            // What nobody claims reads all ones.
            let value = register.map_or(u64::MAX, |register| local::read(running, register).into());
            if let Some((to, value)) = instruction.loaded(value, |register| running.context.gpr(register)) {
                running.context.set_gpr(to, value);
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
