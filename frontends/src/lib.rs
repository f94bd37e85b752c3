//! Block and console front ends and a xenbus client for guests on Xen or Trunnion.
#![cfg_attr(not(test), no_std)]
