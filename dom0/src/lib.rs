//! The privileged domain: drivers, services, toolstack.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod config;
pub mod control;
