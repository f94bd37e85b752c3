//! Front ends for guests on a hypervisor that speaks Xen's public guest ABI: Xen itself, or Trunnion.
//!
//! A kernel implements [`platform::Platform`] (six functions) and gets the store client, the console and block
//! devices. Everything is asynchronous with plain [`core::future`] and brings no executor; blocking wrappers exist
//! for early boot. The data path allocates nothing.
#![cfg_attr(not(test), no_std)]

pub mod platform;
