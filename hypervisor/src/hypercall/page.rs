//! The hypercall page.

use trunnion_protocol::hypercall::page::{STUB_SIZE, STUBS, stub};

use crate::prelude::*;

/// Fills the page that a guest named, which has to be memory it may write. False otherwise.
pub fn write<M: Machine>(host: &Host<M>, domain: &Domain<M>, at: Gpa, opcode: Opcode) -> bool {
    if !at.is_page_aligned() {
        return false;
    }
    let Some(held) = memory::writable(host, domain, at.frame()) else { return false };
    let Some(page) = host.machine.page(held.mfn()) else { return false };
    (0..STUBS).all(|number| page.copy_in(number * STUB_SIZE, &stub(number as u32, opcode)).is_ok())
}
