//! Simulation, machine and whole-system tests, and what they share.

pub mod house;
