//! dom0's services: each owns its state, does a bounded amount of work each time it is polled, and talks to the others by
//! calls on handles.

pub mod builder;
pub mod capture;
pub mod charge;
pub mod console;
pub mod disks;
pub mod foreign;
pub mod grants;
pub mod keyboard;
pub mod model;
pub mod nets;
pub mod platform;
pub mod remote;
pub mod segments;
pub mod server;
pub mod stack;
pub mod start;
pub mod store;

pub mod wire;

pub use start::run;
