//! Port accesses. There are no devices behind them in the core: what nobody claims reads all ones, and writes go nowhere.

use super::{advance, ends};
use crate::mov;
use crate::prelude::*;
use crate::seam::PortAccess;

/// Bytes written here are printed; reading it gives its own number.
const DEBUG_CONSOLE: u16 = 0xe9;

pub(super) fn access<M: Machine>(running: &mut Running<'_, M>, access: PortAccess) -> Verdict {
    if access.string {
        // INS and OUTS need the emulator, which is not in the core.
        let why = format_args!("string access to port {:#x}, which is not emulated", access.port);
        return ends(running, why);
    }
    let mask = mov::mask(access.size);
    let rax = running.context.gpr(Gpr::Rax);
    if access.read {
        let value: u64 = if access.port == DEBUG_CONSOLE { u64::from(DEBUG_CONSOLE) } else { u64::MAX };
        // A 32-bit result clears the upper half of the register, shorter ones leave the rest.
        let kept = if access.size == 4 { 0 } else { rax & !mask };
        running.context.set_gpr(Gpr::Rax, kept | value & mask);
    } else if access.port == DEBUG_CONSOLE && access.size == 1 {
        running.host.print(running.domain, rax as u8);
    }
    advance(running, access.length);
    Verdict::Resume
}
