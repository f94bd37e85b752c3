//! `vrng`, an entropy device: the front end asks for random bytes, the back end writes them into a granted page.
//!
//! The code of the chapter *Write your first PV driver*. It stands on public items of `trunnion-protocol` and
//! `trunnion-frontends` alone, so that the same halves run in a test's world and in guests.
#![cfg_attr(not(test), no_std)]

pub mod back;
pub mod front;
pub mod wire;
