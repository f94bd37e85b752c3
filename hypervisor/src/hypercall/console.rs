//! `console_io`.

use trunnion_protocol::hypercall::misc::ConsoleOp;

use crate::prelude::*;

/// Bytes written in one go.
const CHUNK: usize = 256;

/// dom0's text goes to the console as it is; that of others comes by lines, with their number, and not too often.
pub(super) fn call<M: Machine>(running: &mut Running<'_, M>, arguments: &mut Arguments) -> Reply {
    match ConsoleOp::from_number(arguments.op()) {
        Some(ConsoleOp::Write) => {}
        Some(ConsoleOp::Read) if running.domain.is_privileged() => return read(running, arguments),
        Some(ConsoleOp::Read) => return Ok(0),
        None => return Err(Errno::NoSys.into()),
    }
    let (left, at) = (arguments.get(1) & 0xffff_ffff, arguments.pointer(2));
    let mut bytes = [0; CHUNK];
    let count = left.min(CHUNK as u64) as usize;
    let chunk = bytes.get_mut(..count).ok_or(Errno::Inval)?;
    running.read(at, chunk)?;
    if running.domain.is_privileged() {
        running.host.journal.write(&running.host.machine, chunk);
    } else {
        for &byte in chunk.iter() {
            running.host.print(running.domain, byte);
        }
    }
    let left = left - count as u64;
    if left == 0 {
        return Ok(0);
    }
    let [_, remaining, pointer, ..] = &mut arguments.values;
    *remaining = left;
    *pointer = Gva(at.0.wrapping_add(count as u64)).0;
    Err(Stop::Again)
}

/// Typed bytes; those that would be lost because the buffer cannot be written stay where they are.
fn read<M: Machine>(running: &mut Running<'_, M>, arguments: &Arguments) -> Reply {
    let at = arguments.pointer(2);
    let mut bytes = [0; CHUNK];
    let room =
        bytes.get_mut(..(arguments.get(1) & 0xffff_ffff).min(CHUNK as u64) as usize).ok_or(Errno::Inval)?;
    running.write(at, room)?;
    let count = running.host.machine.typed(room);
    running.write(at, room.get(..count).unwrap_or_default())?;
    Ok(count as u64)
}
