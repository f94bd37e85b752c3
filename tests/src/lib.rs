//! Simulation, machine and whole-system tests, and what they share.
#![cfg_attr(target_os = "none", no_std)]

#[cfg(not(target_os = "none"))]
pub mod house;
#[cfg(not(target_os = "none"))]
pub mod linux;
#[cfg(not(target_os = "none"))]
pub mod sim;
#[cfg(not(target_os = "none"))]
pub mod system;
#[cfg(not(target_os = "none"))]
pub mod talk;
