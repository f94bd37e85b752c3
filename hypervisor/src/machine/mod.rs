//! The hardware below the seam: x86-64 with VMX or SVM.
//!
//! What touches instructions and registers is compiled for bare metal alone. What only thinks (reading the loader's and the
//! firmware's tables, the entry checker, the vendors' formats) is ordinary code with host tests.
//!
//! Unsafe code is allowed below this module. What it relies on, everywhere: the host's page tables map all RAM one to one
//! and never change after boot; the core hands only frames that it holds references to; each CPU's own data is touched by
//! that CPU alone with interrupts off.
#![allow(unsafe_code, reason = "the room for instructions and registers")]

pub mod acpi;
pub mod boot;
pub mod check;
pub mod svm;
pub mod vmx;

#[cfg(target_os = "none")]
pub mod cpu;
#[cfg(target_os = "none")]
pub mod crash;
#[cfg(target_os = "none")]
pub mod heap;
#[cfg(target_os = "none")]
pub mod irq;
#[cfg(target_os = "none")]
pub mod logger;
#[cfg(target_os = "none")]
pub mod page;
#[cfg(target_os = "none")]
pub mod paging;
#[cfg(target_os = "none")]
pub mod pc;
#[cfg(target_os = "none")]
pub mod rtc;
#[cfg(target_os = "none")]
pub mod run;
#[cfg(target_os = "none")]
pub mod serial;
#[cfg(target_os = "none")]
pub mod start;
#[cfg(target_os = "none")]
pub mod vendor;
#[cfg(target_os = "none")]
pub mod xstate;
