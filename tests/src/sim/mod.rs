//! The simulation: the whole platform in one process, by a seed.
//!
//! What is simulated is small: the [`machine`] (registers, frames, clocks), a domain's [`kernel`] (memory, event dispatch,
//! the platform that front ends want), dom0's calls ([`control`], [`backend`], [`store`], [`toolstack`]) and the medium of a
//! [`disk`]. Everything between is what ships: the core with its exit handling and its run loop, grants, events; the store;
//! the back ends and their services, the bridge; the front ends; the planner and the builder; the executor.
//!
//! A [`world::World`] takes one step at a time: a CPU runs a domain for one turn, or a device completes a request, or a
//! fault strikes. After each step the invariants of [`check`] hold, or the world ends with its seed and its last events.

pub mod backend;
pub mod check;
pub mod control;
pub mod deceit;
pub mod disk;
pub mod guests;
pub mod hostile;
pub mod image;
pub mod kernel;
pub mod ledger;
pub mod machine;
pub mod nets;
pub mod noise;
pub mod planted;
pub mod random;
pub mod shared;
pub mod store;
pub mod toolstack;
pub mod traffic;
pub mod workload;
pub mod world;

pub use guests::Kind;
pub use planted::Bug;
pub use shared::{Faults, Tales};
pub use workload::Load;
pub use world::{Failure, Report, World};
