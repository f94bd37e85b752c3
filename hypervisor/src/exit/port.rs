//! Port accesses. There are no devices behind them in the core: a domain's device model has them. Without one, what nobody
//! claims reads all ones, and writes go nowhere.

use super::{advance, ends};
use crate::prelude::*;

/// Bytes written here are printed; reading it gives its own number.
const DEBUG_CONSOLE: u16 = 0xe9;

pub(super) fn access<M: Machine>(running: &mut Running<'_, M>, access: PortAccess) -> Verdict {
    let PortAccess { port, size, read, .. } = access;
    let value = running.context.gpr(Gpr::Rax) & mov::mask(size);
    let modelled = running.domain.model.lock().is_some();
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
        fill(running.context, size, if port == DEBUG_CONSOLE { DEBUG_CONSOLE.into() } else { u64::MAX });
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
