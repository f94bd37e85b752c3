//! The outer machine of a run: hypervisor and bundle, disks, and the control connection to dom0.

use crate::failure::{Failure, Result};
use crate::machine::child::Emulator;
use crate::machine::{Boot, bochs, iso, qemu};
use crate::run::disks::Disk;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::termios;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// A machine that runs, and the two directions of its control connection.
pub(crate) struct Platform {
    pub(crate) emulator: Emulator,
    pub(crate) from_dom0: Box<dyn Read + Send>,
    pub(crate) to_dom0: Box<dyn Write + Send>,
    /// What the emulator itself says, for when it dies.
    pub(crate) errors: PathBuf,
}

/// Starts the machine `boot` with `disks`; COM1 goes to the file `serial`, and by-products to `folder`. Sockets go to `sockets`, whose name
/// has to be short.
pub(crate) fn start(
    boot: &Boot,
    disks: &[Disk],
    serial: &Path,
    folder: &Path,
    sockets: &Path,
) -> Result<Platform> {
    File::create(serial).map_err(|e| Failure::file("make", serial, &e))?;
    let errors = folder.join("emulator.log");
    if boot.machine.is_bochs() {
        start_bochs(boot, serial, folder, errors)
    } else {
        start_qemu(boot, disks, serial, sockets, errors)
    }
}

fn start_qemu(
    boot: &Boot,
    disks: &[Disk],
    serial: &Path,
    sockets: &Path,
    errors: PathBuf,
) -> Result<Platform> {
    let control = sockets.join("dom0.sock");
    let _ = fs::remove_file(&control);
    // This side listens and QEMU connects: then there is no moment at which the socket is not there yet.
    let listener =
        UnixListener::bind(&control).map_err(|e| Failure::file("make the socket", &control, &e))?;
    let monitor = sockets.join("monitor.sock");
    let said = File::create(&errors).map_err(|e| Failure::file("make", &errors, &e))?;
    let mut emulator = Emulator::start(qemu::PROGRAM, |command| {
        qemu::options(command, boot, serial);
        qemu::control(command, &control, &monitor);
        qemu::disks(command, disks);
        command.stderr(said);
    })?;
    listener.set_nonblocking(true).map_err(|e| Failure::file("use the socket", &control, &e))?;
    let begin = Instant::now();
    let stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(_) if emulator.ended().is_some() => {
                let text = fs::read_to_string(&errors).unwrap_or_default();
                return Err(Failure::platform(format!(
                    "{}\nQEMU did not start; its errors stand above",
                    text.trim_end()
                )));
            }
            Err(_) if begin.elapsed() > Duration::from_mins(1) => {
                return Err(Failure::platform("QEMU runs, and does not connect within a minute"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    let prepared = stream.set_nonblocking(false).and_then(|()| stream.try_clone());
    let reader = prepared.map_err(|e| Failure::file("use the socket", &control, &e))?;
    Ok(Platform { emulator, from_dom0: Box::new(reader), to_dom0: Box::new(stream), errors })
}

fn start_bochs(boot: &Boot, serial: &Path, folder: &Path, errors: PathBuf) -> Result<Platform> {
    let cd = folder.join("boot.iso");
    iso::write(&cd, &boot.elf, boot.module.as_deref(), &boot.cmdline, iso::Firmware::Bios)?;
    // A pseudo-terminal and not a TCP port, which any user of this machine could connect to.
    let fail = |e: nix::Error| {
        Failure::platform(format!("cannot make a pseudo-terminal for the control connection: {e}"))
    };
    let pair = nix::pty::openpty(None, None).map_err(fail)?;
    make_raw(&pair.slave).map_err(fail)?;
    let terminal = nix::unistd::ttyname(&pair.slave).map_err(fail)?;
    let configuration = folder.join("bochsrc");
    let debugger = folder.join("debugger");
    let text = bochs::configuration(boot, &cd, serial, &folder.join("bochs.log"), Some(&terminal));
    for (path, text) in [(&configuration, text.as_str()), (&debugger, bochs::DEBUGGER)] {
        fs::write(path, text).map_err(|e| Failure::file("write", path, &e))?;
    }
    let said = File::create(&errors).map_err(|e| Failure::file("make", &errors, &e))?;
    let emulator = Emulator::start(bochs::PROGRAM, |command| {
        command.args(["-q", "-unlock", "-f"]).arg(&configuration).arg("-rc").arg(&debugger);
        command.stdin(Stdio::null()).stderr(Stdio::null()).stdout(said);
    })?;
    let master = File::from(pair.master);
    let reader = master.try_clone().map_err(|e| Failure::file("use", &terminal, &e))?;
    // The other end stays open here too: reads would fail while Bochs has not opened it.
    Ok(Platform {
        emulator,
        from_dom0: Box::new(Terminal { master: reader, slave: pair.slave, raw: false }),
        to_dom0: Box::new(master),
        errors,
    })
}

/// Takes every meaning away from bytes on a terminal.
fn make_raw(terminal: impl AsFd) -> nix::Result<()> {
    let mut attributes = termios::tcgetattr(&terminal)?;
    termios::cfmakeraw(&mut attributes);
    termios::tcsetattr(&terminal, termios::SetArg::TCSANOW, &attributes)
}

/// The near end of a pseudo-terminal.
struct Terminal {
    master: File,
    slave: std::os::fd::OwnedFd,
    raw: bool,
}

impl Read for Terminal {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut wanted = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        match nix::poll::poll(&mut wanted, PollTimeout::NONE) {
            Ok(_) => {
                // Bochs gives the terminal modes of its own when it starts: there the byte of Ctrl-C would be a signal, and would
                // throw away what is on its way in both directions.
                if !std::mem::replace(&mut self.raw, true) {
                    make_raw(&self.slave)?;
                }
                self.master.read(buffer)
            }
            Err(e) => Err(e.into()),
        }
    }
}
