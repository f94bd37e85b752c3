//! Domain configurations in the syntax of `xl.cfg(5)`: text in, a checked [`DomainConfig`] or [`Diagnostic`]s with places out.
//!
//! One parser for the tool and for dom0. It opens no file: paths stay text, and whoever knows the host decides what
//! is behind them. Everything that is wrong is reported at once, not the first thing only; nothing is guessed from a wrong value.

pub mod diagnostic;
pub mod disk;
pub mod domain;
mod keys;
mod nearest;
mod options;
mod read;
mod syntax;
pub mod vif;

#[cfg(test)]
mod tests;

pub use diagnostic::{Diagnostic, Severity, Span};
pub use disk::{Access, Disk, DiskKind, Storage, VirtualDevice};
pub use domain::{Action, BIOS, DomainConfig, Hvm, Kind, VGA_BIOS};
pub use read::wrong_name;
pub use vif::{FIRST_BRIDGE, Mac, Model, Nic};

use alloc::vec::Vec;

/// A configuration without errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// What it says.
    pub config: DomainConfig,
    /// What its author should know; never an error.
    pub warnings: Vec<Diagnostic>,
}

/// Reads one network specification, as `vif` has them, for the port `number` of the domain `name`.
pub fn nic(text: &str, name: &str, number: usize) -> Result<Nic, Vec<Diagnostic>> {
    let mut diagnostics = diagnostic::Log::new(text);
    let nic = vif::read(text, diagnostic::Span::new(0, text.len()), name, number, &mut diagnostics);
    nic.ok_or_else(|| diagnostics.finish())
}

/// Reads one disk specification, as `disk` has them.
pub fn disk(text: &str) -> Result<Disk, Vec<Diagnostic>> {
    let mut diagnostics = diagnostic::Log::new(text);
    let disk = disk::read(text, diagnostic::Span::new(0, text.len()), &mut diagnostics);
    let found = diagnostics.finish();
    disk.filter(|_| found.iter().all(|d| d.severity == Severity::Warning)).ok_or(found)
}

/// Reads a configuration. On failure the list has at least one error, and the warnings too, in the order of the text.
pub fn parse(text: &str) -> Result<Accepted, Vec<Diagnostic>> {
    let mut diagnostics = diagnostic::Log::new(text);
    let settings = syntax::settings(text, &mut diagnostics);
    let config = read::domain(&settings, &mut diagnostics);
    let found = diagnostics.finish();
    match config {
        Some(config) if found.iter().all(|d| d.severity == Severity::Warning) => {
            Ok(Accepted { config, warnings: found })
        }
        _ => Err(found),
    }
}
