//! Xen's public guest ABI as types: layouts, rings and state machines, for any no_std Rust kernel.
#![cfg_attr(not(test), no_std)]
