//! Block and console back ends behind device traits.
#![cfg_attr(not(test), no_std)]
