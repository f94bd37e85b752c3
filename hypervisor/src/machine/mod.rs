//! The hardware below the seam: x86-64 with VMX or SVM.
//!
//! All of it is compiled for bare metal alone. What only thinks is ordinary code with host tests: reading the loader's and the
//! firmware's tables ([`crate::loader`]), the vendors' formats and the entry checker ([`crate::manual`]).
//!
//! Unsafe code is allowed below this module. What it relies on, everywhere: the host's page tables map all RAM one to one
//! and never change after boot; the core hands only frames that it holds references to; each CPU's own data is touched by
//! that CPU alone with interrupts off.
#![allow(unsafe_code, reason = "the room for instructions and registers")]

pub mod cpu;
pub mod crash;
pub mod entry;
pub mod heap;
pub mod irq;
pub mod logger;
pub mod page;
pub mod paging;
pub mod pc;
pub mod physical;
pub mod prelude;
pub mod rtc;
pub mod run;
pub mod serial;
pub mod start;
pub mod svm;
pub mod vendor;
pub mod vmx;
pub mod xstate;
