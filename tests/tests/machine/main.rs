//! Runs of the whole platform under emulators. One program, so that two processors are busy to the end.

mod grub;
mod guests;
mod hvm;
mod image;
mod linux;
mod media;
mod network;
mod prefix;
mod terminal;
mod trouble;
mod verbs;
mod xen;

/// The host tool, built from the same sources.
const DRIVER: &str = env!("CARGO_BIN_EXE_trunnion-driver");
