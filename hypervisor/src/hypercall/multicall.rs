//! `multicall`.

use trunnion_protocol::hypercall::Hypercall;
use trunnion_protocol::hypercall::misc::MulticallEntry;

use super::perform;
use crate::prelude::*;

/// Calls in one go; the rest follow when the instruction is executed again.
const BUDGET: u64 = 32;

/// Argument 1 is the array, argument 2 the count; both move on as calls are done.
pub(super) fn call<M: Machine>(running: &mut Running<'_, M>, arguments: &mut Arguments) -> Reply {
    let width = arguments.width;
    let [at, left, ..] = &mut arguments.values;
    for _ in 0..BUDGET {
        if *left == 0 {
            return Ok(0);
        }
        let here = Gva(*at);
        let mut entry: MulticallEntry = running.get(width, here)?;
        let [a, b, c, d, e, _] = entry.arguments;
        let mut inner = Arguments { values: [a, b, c, d, e], width };
        let reply = if entry.number == u64::from(Hypercall::Multicall.number()) {
            Err(Stop::Error(Errno::Inval))
        } else {
            perform(running, entry.number, &mut inner)
        };
        if reply == Err(Stop::Again) {
            let [a, b, c, d, e] = inner.values;
            entry.arguments = [a, b, c, d, e, 0];
            running.put(width, here, &entry)?;
            return Err(Stop::Again);
        }
        entry.result = match reply {
            Ok(value) | Err(Stop::Wait(value) | Stop::Yield(value)) => value,
            Err(Stop::Error(errno)) => i64::from(errno) as u64,
            Err(Stop::Again) => 0,
        };
        running.put(width, here, &entry)?;
        *at = at.wrapping_add(MulticallEntry::size(width) as u64);
        *left -= 1;
        if matches!(reply, Err(Stop::Wait(_))) {
            // Only a last call can wait: a wait may always end early, and the calls behind it are due.
            return if *left == 0 { Err(Stop::Wait(0)) } else { Err(Stop::Again) };
        }
    }
    Err(Stop::Again)
}
