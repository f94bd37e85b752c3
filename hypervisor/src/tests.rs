//! Tests of the core as a guest meets it: encoded hypercalls in guest memory, through the shipped exit handling.

mod console;
mod control;
mod events;
mod kit;
mod lengths;
mod memory;
mod model;
mod scheduling;
mod vcpus;
pub(crate) mod world;
