//! Debian's `xenstore-*` tools against the program: they come from other people's hands, and agree with it.

mod common;

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixListener;
use std::process::{Command, Output, Stdio};
use std::sync::Once;

use common::{Daemon, wait};
use nix::sys::signal::Signal;
use trunnion_cli::setup::{self, Permission, Tool};

fn tool(daemon: &Daemon, name: &str, arguments: &[&str]) -> Output {
    command(daemon, name).args(arguments).output().unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// One of Debian's programs; their package is installed when it is missing.
fn command(daemon: &Daemon, name: &str) -> Command {
    static PREPARED: Once = Once::new();
    PREPARED.call_once(|| {
        setup::ensure(&[Tool::StoreTools], Permission::Install).unwrap_or_else(|failure| panic!("{failure}"));
    });
    let mut command = Command::new(name);
    command.env("XENSTORED_PATH", &daemon.socket).stdin(Stdio::null());
    command
}

/// The output of a tool that has to succeed.
fn good(daemon: &Daemon, name: &str, arguments: &[&str]) -> String {
    let output = tool(daemon, name, arguments);
    assert!(output.status.success(), "{name} {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn values_come_back() {
    let daemon = Daemon::start();
    good(&daemon, "xenstore-write", &["/a/b", "hello", "/a/c", "two words", "/a/empty", ""]);
    assert_eq!(good(&daemon, "xenstore-read", &["/a/b", "/a/c", "/a/empty"]), "hello\ntwo words\n\n");
    assert_eq!(good(&daemon, "xenstore-list", &["/a"]), "b\nc\nempty\n");
    good(&daemon, "xenstore-exists", &["/a/b"]);
    assert!(!tool(&daemon, "xenstore-exists", &["/a/missing"]).status.success());
    assert!(!tool(&daemon, "xenstore-read", &["/a/missing"]).status.success());
    assert!(!tool(&daemon, "xenstore-write", &["/a//b", "x"]).status.success());
    good(&daemon, "xenstore-write", &["here", "relative"]);
    assert_eq!(good(&daemon, "xenstore-read", &["/local/domain/0/here"]), "relative\n");
}

#[test]
fn the_tree_is_shown_with_permissions() {
    let daemon = Daemon::start();
    good(&daemon, "xenstore-write", &["/a/b", "1", "/a/c", "2"]);
    good(&daemon, "xenstore-chmod", &["/a", "n0", "r5", "b6"]);
    good(&daemon, "xenstore-chmod", &["-r", "/a/b", "w7"]);
    let shown = good(&daemon, "xenstore-ls", &["-fp", "/"]);
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
    let lines: Vec<_> = shown.lines().map(words).collect();
    let expected = [
        "/tool = \"\" (n0)",
        "/tool/xenstored = \"\" (n0)",
        "/a = \"\" (n0,r5,b6)",
        "/a/b = \"1\" (w7)",
        "/a/c = \"2\" (n0)",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn removal_takes_what_is_below() {
    let daemon = Daemon::start();
    good(&daemon, "xenstore-write", &["/a/b/c/d", "1", "/a/x", "2"]);
    good(&daemon, "xenstore-rm", &["/a/b"]);
    assert_eq!(good(&daemon, "xenstore-list", &["/a"]), "x\n");
    // With -t the tool removes parents that are empty then.
    good(&daemon, "xenstore-rm", &["-t", "/a/x"]);
    assert_eq!(good(&daemon, "xenstore-list", &["/"]), "tool\n");
    assert!(!tool(&daemon, "xenstore-rm", &["/no/such/node"]).status.success());
}

#[test]
fn a_long_directory_is_listed_in_parts() {
    let daemon = Daemon::start();
    let names: Vec<_> = (0..300).map(|number| format!("a-rather-long-name-{number:04}")).collect();
    let mut arguments = Vec::new();
    let paths: Vec<_> = names.iter().map(|name| format!("/many/{name}")).collect();
    for path in &paths {
        arguments.extend([path.as_str(), "x"]);
    }
    for part in arguments.chunks(100) {
        good(&daemon, "xenstore-write", part);
    }
    let listed = good(&daemon, "xenstore-list", &["/many"]);
    assert_eq!(listed.lines().collect::<Vec<_>>(), names);
}

#[test]
fn watches_tell() {
    let daemon = Daemon::start();
    let mut watching =
        command(&daemon, "xenstore-watch").args(["-n", "4", "/w"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "/w");
    good(&daemon, "xenstore-write", &["/w/x", "1"]);
    assert_eq!(lines.next().unwrap(), "/w/x");
    good(&daemon, "xenstore-write", &["/other", "1"]);
    good(&daemon, "xenstore-chmod", &["/w/x", "r1"]);
    assert_eq!(lines.next().unwrap(), "/w/x");
    good(&daemon, "xenstore-rm", &["/w"]);
    assert_eq!(lines.next().unwrap(), "/w");
    assert!(watching.wait().unwrap().success());
}

#[test]
fn the_socket_is_tidy() {
    let mut daemon = Daemon::start();
    let second = Command::new(env!("CARGO_BIN_EXE_trunnion-xenstored"))
        .arg("--socket")
        .arg(&daemon.socket)
        .env_remove("NOXEN_DIR")
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another store serves this socket"));
    good(&daemon, "xenstore-write", &["/a", "1"]);
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait());
    wait("the socket's removal", || !daemon.socket.exists());
    // A socket that a dead store left behind is replaced.
    drop(UnixListener::bind(&daemon.socket).unwrap());
    let mut child = Command::new(env!("CARGO_BIN_EXE_trunnion-xenstored"))
        .arg("--socket")
        .arg(&daemon.socket)
        .env_remove("NOXEN_DIR")
        .spawn()
        .unwrap();
    wait("the second store", || tool(&daemon, "xenstore-exists", &["/"]).status.success());
    child.kill().unwrap();
    child.wait().unwrap();
}
