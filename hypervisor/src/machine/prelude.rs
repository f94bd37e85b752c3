//! The nouns that every file of this folder speaks of, after those of the core.

pub(in crate::machine) use core::arch::asm;
pub(in crate::machine) use core::fmt::Write;

pub(in crate::machine) use spin::Mutex;
pub(in crate::machine) use trunnion_manual::is_pat;
pub(in crate::machine) use x86_64::registers::control::{Cr0, Cr3, Cr4};

pub(in crate::machine) use super::cpu::percpu::PerCpu;
pub(in crate::machine) use super::cpu::port::{in8, out8};
pub(in crate::machine) use super::cpu::{cpuid, msr, tsc};
pub(in crate::machine) use super::page::Block;
pub(in crate::machine) use super::xstate::Xstate;
pub(in crate::machine) use crate::loader::ranges::Ranges;
pub(in crate::machine) use crate::prelude::*;
