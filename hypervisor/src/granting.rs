//! Grant tables in the core: where a domain's table and its mappings of others' grants meet its memory.

use alloc::sync::Arc;

use trunnion_protocol::address::{Gfn, Mfn};
use trunnion_protocol::errno::Errno;
use trunnion_protocol::id::{DomainId, GrantRef};

use crate::domain::Domain;
use crate::host::Host;
use crate::seam::Machine;

/// Grants of a domain.
pub struct Grants;

/// A table for a new domain.
pub fn new_table<M: Machine>(_host: &Host<M>, _id: DomainId) -> Result<Grants, Errno> {
    Ok(Grants)
}

/// Frames of a table.
pub fn frames(_grants: &Grants) -> impl Iterator<Item = Mfn> {
    core::iter::empty()
}

/// Puts a frame of the table into the domain's map.
pub fn place_frame<M: Machine>(
    _host: &Host<M>,
    _domain: &Domain<M>,
    _index: u32,
    _gfn: Gfn,
) -> Result<(), Errno> {
    Err(Errno::NoSys)
}

/// Fills a reserved entry.
pub fn seed<M: Machine>(
    _host: &Host<M>,
    _domain: &Domain<M>,
    _reference: GrantRef,
    _to: DomainId,
    _frame: u32,
) -> Result<(), Errno> {
    Err(Errno::NoSys)
}

/// Mappings and pins in force.
pub fn in_force<M: Machine>(_domain: &Domain<M>) -> u64 {
    0
}

/// Gives up to `budget` mappings of others' grants back. True when none is left.
pub fn release_some<M: Machine>(_host: &Host<M>, _domain: &Arc<Domain<M>>, _budget: u32) -> bool {
    true
}

/// Gives the frames of a domain's table up.
pub fn release_table<M: Machine>(_host: &Host<M>, _domain: &Domain<M>) {}
