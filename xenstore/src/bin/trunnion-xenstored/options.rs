//! Command line and environment.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

pub(crate) const HELP: &str = "\
Serve a xenstore on a Unix socket.

Usage: trunnion-xenstored [OPTIONS]

Options:
  -s, --socket PATH  Listen on PATH, whatever the environment says
  -v, --verbose      Report connections and domains on standard error
  -h, --help         Print this help
  -V, --version      Print the version

Environment:
  XENSTORED_PATH     The socket; without it, `socket` in the run directory
  XENSTORED_RUNDIR   The run directory (default: /var/run/xenstored)
  NOXEN_DIR          Play a machine from the files of this directory: the socket is
                     DIR/socket, DIR/ring.N is the ring page of domain N, which lives
                     until DIR/dead.N exists; DIR/evt.in brings events as little-endian
                     32-bit numbers (100+N: domain N kicked the store, 2: a domain died)
                     and DIR/evt.out takes the ports that the store notifies

The program runs in the foreground and stops at SIGINT or SIGTERM. All clients of the
socket act as domain 0.

Examples:
  XENSTORED_PATH=/tmp/store trunnion-xenstored &
  XENSTORED_PATH=/tmp/store xenstore-write /demo hello
";

/// What the program was asked to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Help,
    Version,
    Serve(Options),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) socket: PathBuf,
    pub(crate) machine: Option<PathBuf>,
    pub(crate) verbose: bool,
}

/// Reads arguments, without the program's name, and the environment.
pub(crate) fn parse(
    arguments: impl Iterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Command, String> {
    let mut arguments = arguments;
    let mut socket = None;
    let mut verbose = false;
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("-h" | "--help") => return Ok(Command::Help),
            Some("-V" | "--version") => return Ok(Command::Version),
            Some("-v" | "--verbose") => verbose = true,
            Some("-s" | "--socket") => {
                let path = arguments.next().ok_or("--socket needs a path")?;
                socket = Some(PathBuf::from(path));
            }
            _ => return Err(format!("unknown argument: {}", argument.display())),
        }
    }
    let set = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let machine = set("NOXEN_DIR");
    let in_machine = machine.as_ref().map(|dir| dir.join("socket"));
    let run_directory = || set("XENSTORED_RUNDIR").unwrap_or_else(|| PathBuf::from("/var/run/xenstored"));
    let socket = socket
        .or(in_machine)
        .or_else(|| set("XENSTORED_PATH"))
        .unwrap_or_else(|| run_directory().join("socket"));
    Ok(Command::Serve(Options { socket, machine, verbose }))
}

/// The options of this process.
pub(crate) fn from_process() -> Result<Command, String> {
    parse(env::args_os().skip(1), |name| env::var_os(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Command, String> {
        let variable = |name: &str| environment.iter().find(|pair| pair.0 == name).map(|pair| pair.1.into());
        parse(arguments.iter().map(OsString::from), variable)
    }

    fn socket(arguments: &[&str], environment: &[(&str, &str)]) -> PathBuf {
        match parsed(arguments, environment) {
            Ok(Command::Serve(options)) => options.socket,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn where_the_socket_is() {
        assert_eq!(socket(&[], &[]), PathBuf::from("/var/run/xenstored/socket"));
        assert_eq!(socket(&[], &[("XENSTORED_RUNDIR", "/r")]), PathBuf::from("/r/socket"));
        let both = [("XENSTORED_RUNDIR", "/r"), ("XENSTORED_PATH", "/p")];
        assert_eq!(socket(&[], &both), PathBuf::from("/p"));
        assert_eq!(socket(&[], &[("NOXEN_DIR", "/d"), ("XENSTORED_PATH", "/p")]), PathBuf::from("/d/socket"));
        assert_eq!(socket(&["-s", "/x"], &both), PathBuf::from("/x"));
        assert_eq!(socket(&[], &[("XENSTORED_PATH", "")]), PathBuf::from("/var/run/xenstored/socket"));
    }

    #[test]
    fn other_arguments() {
        assert_eq!(parsed(&["--help"], &[]), Ok(Command::Help));
        assert_eq!(parsed(&["-V"], &[]), Ok(Command::Version));
        assert_eq!(parsed(&["--what"], &[]), Err("unknown argument: --what".into()));
        assert_eq!(parsed(&["--socket"], &[]), Err("--socket needs a path".into()));
    }
}
