//! trunnion, the host tool: it sets up what is missing, builds the bare-metal images, starts the outer machine, and speaks with the platform
//! that runs in it.
//!
//! The promise to people and scripts (options, exit statuses, files) is the command-line page of the user guide; this library carries it out.
//! The machine tests use [`images::build`] and [`machine::boot`] directly.

mod args;
pub mod bundle;
mod console;
mod control;
pub mod demo;
mod dev;
mod doctor;
pub mod failure;
pub mod images;
pub mod instance;
pub mod kernel;
pub mod machine;
pub mod run;
mod say;
pub mod setup;
mod verbs;
mod vnc;
pub mod workspace;
mod xen;

pub use failure::{Failure, Status};

/// Reads the arguments of the process, does what they ask, and returns the exit status of the command-line contract.
///
/// A failure is told on stderr; its message is the last line.
pub fn main() -> std::process::ExitCode {
    let status = match args::read() {
        Ok(command) => match args::perform(command) {
            Ok(status) => status,
            Err(failure) => {
                say::failure(&failure);
                failure.status()
            }
        },
        Err(status) => status,
    };
    std::process::ExitCode::from(status.code())
}
