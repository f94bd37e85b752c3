//! Port accesses. There are no devices behind them in the core: a domain's device model has them. Without one, what nobody
//! claims reads all ones, and writes go nowhere.

use super::{advance, ends};
use crate::prelude::*;

/// Bytes written here are printed; reading it gives its own number.
const DEBUG_CONSOLE: u16 = 0xe9;
/// Counter 2 of the interval timer, which stands still at zero. Were it all ones, Linux would read it 100,000 times, to see its start
/// value 0xffff end (`quick_pit_calibrate`), before it takes the clock's frequency from here.
const TIMER_COUNTER: u16 = 0x42;

pub(super) fn access<M: Machine>(running: &mut Running<'_, M>, access: PortAccess) -> Verdict {
    let PortAccess { port, size, read, .. } = access;
    let value = running.context.gpr(Gpr::Rax) & mov::mask(size);
    let modelled = running.domain.model.is_completed();
    if access.string {
        if modelled {
            return model::ask_instruction(running, port.into());
        }
        return ends(running, format_args!("string access to port {port:#x}, which is not emulated"));
    }
    advance(running, access.length);
    if modelled {
        let kind = RequestKind::Port.number();
        let request = Request { kind, port, size, read: read.into(), value, ..Request::default() };
        model::ask(running.host, running.domain, running.vcpu, request);
    } else if read {
        let value = match port {
            DEBUG_CONSOLE => DEBUG_CONSOLE.into(),
            TIMER_COUNTER => 0,
            _ => u64::MAX,
        };
        fill(running.context, size, value);
    } else if port == DEBUG_CONSOLE && size == 1 {
        running.host.print(running.domain, value as u8);
    }
    Verdict::Resume
}

/// Puts what an IN of so many bytes has read into its register: 32 bits clear the upper half, fewer leave the rest.
pub(crate) fn fill(context: &mut impl Context, size: u8, value: u64) {
    let mask = mov::mask(size);
    let kept = if size == 4 { 0 } else { context.gpr(Gpr::Rax) & !mask };
    context.set_gpr(Gpr::Rax, kept | value & mask);
}
