//! Runtime for a Rust kernel on a Xen-ABI hypervisor.
#![cfg_attr(not(test), no_std)]
