//! The privileged domain: drivers, services, toolstack.
#![cfg_attr(not(test), no_std)]
