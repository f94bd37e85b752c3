//! dom0's services: each owns its state, does a bounded amount of work each time it is polled, and talks to the others by
//! calls on handles.

mod answers;
pub mod console;
pub mod disks;
pub mod figures;
pub mod files;
pub mod foreign;
pub mod grants;
pub mod life;
pub mod server;
pub mod start;
pub mod store;
pub mod toolstack;
pub mod wire;

pub use start::run;
