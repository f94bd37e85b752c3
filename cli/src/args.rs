//! The command line's grammar.

use crate::failure::{Result, Status};
use clap::{Parser, Subcommand};

/// Boots the Trunnion platform under an emulator, and manages the domains that run on it.
#[derive(Debug, Parser)]
#[command(name = "trunnion", version, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Doctor(crate::doctor::Arguments),
    /// For work on the platform itself.
    #[command(hide = true)]
    Dev(crate::dev::Arguments),
}

/// Reads the process's arguments; what clap has to say (help, usage errors) is printed and becomes a status.
pub(crate) fn read() -> Result<Arguments, Status> {
    Arguments::try_parse().map_err(|error| {
        let status = if error.use_stderr() { Status::Usage } else { Status::Done };
        let _ = error.print();
        status
    })
}

/// Does what was asked.
pub(crate) fn perform(arguments: Arguments) -> Result<Status> {
    match arguments.verb {
        Verb::Doctor(arguments) => crate::doctor::perform(&arguments),
        Verb::Dev(arguments) => crate::dev::perform(arguments),
    }
}
