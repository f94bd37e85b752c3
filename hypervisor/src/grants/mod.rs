//! Grant tables, version 1: what a domain has granted, who uses it, and what it has mapped of others.
//!
//! [`Table`] is the granting side: the frames that the guest fills in, and how often each entry is in use. [`Mappings`] is
//! the using side: a bounded table of handles. Neither knows a domain; the hypercall brings both together with the two
//! domains' memory.
//!
//! Lock order: the mapping domain's [`Mappings`], the granting domain's [`Table`], then a domain's memory.

mod mappings;
mod table;

pub use mappings::{GUEST_LIMIT, HARDWARE_LIMIT, Mapping, Mappings};
pub use table::{Table, Wanted};
