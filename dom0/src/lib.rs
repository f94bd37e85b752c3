//! The privileged domain: drivers, services, toolstack.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod acpi;
pub mod build;
pub mod config;
pub mod control;
pub mod cpio;
pub mod devices;
pub mod domains;
#[cfg(test)]
mod fuzz;
pub mod image;
pub mod model;
pub mod plan;
pub mod services;
pub mod shell;
