//! Consoles of domains: their files on the host, the terminal, and who else reads and types.

pub(crate) mod hub;
pub(crate) mod registry;
pub(crate) mod terminal;
