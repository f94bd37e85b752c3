//! `trunnion bench`: the measurements.

use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// Measure the platform: a table, or JSON
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  trunnion bench micro --icount
  trunnion bench micro --icount --json micro.json
  trunnion bench boot --json -")]
pub(crate) struct Arguments {
    /// What to measure
    #[arg(default_value = "micro")]
    pub(crate) what: What,
    /// QEMU counts instructions: the figures repeat to the digit
    #[arg(long)]
    pub(crate) icount: bool,
    /// Write JSON to FILE ("-" is stdout)
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write an HTML report to FILE
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// The outer machine
    #[arg(long, value_name = "NAME")]
    pub(crate) machine: Option<String>,
    /// Name what is missing, and never install it
    #[arg(long)]
    pub(crate) no_install: bool,
}

/// The measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    /// Single operations, from inside a guest
    Micro,
    /// From power-on to a shell
    Boot,
    /// Network paths (not there yet)
    Net,
    /// Disk paths (not there yet)
    Io,
    /// Exit costs (not there yet)
    Exits,
}

/// Measures.
pub(crate) fn perform(arguments: &Arguments) -> crate::failure::Result<crate::failure::Status> {
    let _ = arguments;
    super::not_yet("bench")
}
