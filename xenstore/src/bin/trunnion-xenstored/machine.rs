//! A machine played from files: ring pages, deaths, event channels.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use trunnion_protocol::errno::Errno;
use trunnion_protocol::id::{DomainId, Port};
use trunnion_xenstore::ring::RingPage;
use trunnion_xenstore::server::Host;

/// The port of domain N is this plus N.
const FIRST_PORT: u32 = 100;
/// The event that says that some domain died.
const DOMAIN_EVENT: u32 = 2;

/// The files of domains.
pub(crate) struct Files(pub(crate) PathBuf);

impl Files {
    fn ring(&self, domain: DomainId) -> PathBuf {
        self.0.join(format!("ring.{domain}"))
    }
}

impl Host for Files {
    fn exists(&self, domain: DomainId) -> bool {
        domain.is_guest() && self.ring(domain).exists() && !self.0.join(format!("dead.{domain}")).exists()
    }

    fn connect(
        &mut self,
        domain: DomainId,
        _frame: u64,
        _port: Port,
    ) -> Result<(Box<dyn RingPage + Send>, Port), Errno> {
        let file =
            OpenOptions::new().read(true).write(true).open(self.ring(domain)).map_err(|error| match error
                .kind()
            {
                ErrorKind::NotFound => Errno::NoEnt,
                ErrorKind::PermissionDenied => Errno::Acces,
                _ => Errno::Io,
            })?;
        Ok((Box::new(FilePage(file)), Port(FIRST_PORT + u32::from(domain.0))))
    }

    fn disconnect(&mut self, _: DomainId, _: Port) {}
}

/// A ring page in a file. What cannot be read is zero: an empty ring.
struct FilePage(File);

impl RingPage for FilePage {
    fn word(&self, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        self.copy_out(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn set_word(&self, offset: usize, value: u32) {
        self.copy_in(offset, &value.to_le_bytes());
    }

    fn copy_out(&self, offset: usize, into: &mut [u8]) {
        if self.0.read_exact_at(into, offset as u64).is_err() {
            into.fill(0);
        }
    }

    fn copy_in(&self, offset: usize, from: &[u8]) {
        if let Err(error) = self.0.write_all_at(from, offset as u64) {
            eprintln!("trunnion-xenstored: cannot write to a ring file: {error}");
        }
    }
}

/// What an event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A domain kicked the store.
    Kick,
    /// Some domain died.
    Death,
}

/// The event channels: two FIFOs.
pub(crate) struct Events {
    incoming: File,
    outgoing: File,
    part: Vec<u8>,
    waiting: VecDeque<u8>,
}

impl Events {
    /// Opens the FIFOs of `directory`, making those that are missing.
    pub(crate) fn open(directory: &Path) -> Result<Self, String> {
        let incoming = fifo(&directory.join("evt.in"))?;
        let outgoing = fifo(&directory.join("evt.out"))?;
        Ok(Self { incoming, outgoing, part: Vec::new(), waiting: VecDeque::new() })
    }

    /// The descriptor to poll for incoming events.
    pub(crate) fn incoming(&self) -> BorrowedFd<'_> {
        self.incoming.as_fd()
    }

    /// The descriptor to poll for room, while notifications wait.
    pub(crate) fn outgoing(&self) -> Option<BorrowedFd<'_>> {
        (!self.waiting.is_empty()).then(|| self.outgoing.as_fd())
    }

    /// The events that have come.
    pub(crate) fn read(&mut self) -> Vec<Event> {
        let mut bytes = [0; 4096];
        match self.incoming.read(&mut bytes) {
            Ok(count) => self.part.extend_from_slice(&bytes[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => eprintln!("trunnion-xenstored: cannot read events: {error}"),
        }
        let (words, rest) = self.part.as_chunks();
        let mut events = Vec::new();
        for word in words {
            match u32::from_le_bytes(*word) {
                DOMAIN_EVENT => events.push(Event::Death),
                FIRST_PORT.. => events.push(Event::Kick),
                other => eprintln!("trunnion-xenstored: nobody is bound to port {other}"),
            }
        }
        self.part = rest.to_vec();
        events
    }

    /// Notifies a port.
    pub(crate) fn notify(&mut self, port: Port) {
        /// More than a pipe holds; beyond it nobody is reading.
        const MOST: usize = 1024 * 1024;
        if self.waiting.len() < MOST {
            self.waiting.extend(port.0.to_le_bytes());
        }
        self.flush();
    }

    /// Writes notifications as far as there is room.
    pub(crate) fn flush(&mut self) {
        while !self.waiting.is_empty() {
            match self.outgoing.write(self.waiting.make_contiguous()) {
                Ok(count) => drop(self.waiting.drain(..count)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => {
                    eprintln!("trunnion-xenstored: cannot write events: {error}");
                    self.waiting.clear();
                }
            }
        }
    }
}

/// Opens a FIFO for both directions, so that neither opening nor reading depends on the other end being there.
fn fifo(path: &Path) -> Result<File, String> {
    let fault = |error: io::Error| format!("{}: {error}", path.display());
    match nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR) {
        Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
        Err(error) => return Err(fault(error.into())),
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(nix::libc::O_NONBLOCK);
    let file = options.open(path).map_err(fault)?;
    if !file.metadata().map_err(fault)?.file_type().is_fifo() {
        return Err(format!("{}: exists and is not a FIFO", path.display()));
    }
    Ok(file)
}
