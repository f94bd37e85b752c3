//! The clients of the socket: bytes in, bytes out.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use trunnion_protocol::id::DomainId;
use trunnion_protocol::store::{Header, PAYLOAD_MAX};
use trunnion_xenstore::connection::ConnectionId;
use trunnion_xenstore::server::Store;

/// Bytes that may wait for one client before its requests are left unread.
const BACKLOG: usize = 256 * 1024;

/// One client.
pub(crate) struct Client {
    stream: UnixStream,
    id: ConnectionId,
    input: Vec<u8>,
    output: Vec<u8>,
    closed: bool,
}

impl Client {
    /// A client of the store, as domain 0.
    pub(crate) fn new(stream: UnixStream, store: &mut Store) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        let id = store.connect(DomainId::DOM0);
        Ok(Self { stream, id, input: Vec::new(), output: Vec::new(), closed: false })
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// True if more requests may be read.
    pub(crate) fn wants_input(&self) -> bool {
        self.output.len() < BACKLOG
    }

    /// True if bytes wait to be sent.
    pub(crate) fn wants_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Reads what has come and carries out the requests in it.
    pub(crate) fn read(&mut self, store: &mut Store) {
        let mut bytes = [0; 16 * 1024];
        match self.stream.read(&mut bytes) {
            Ok(0) => self.closed = true,
            Ok(count) => self.input.extend_from_slice(&bytes[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.closed = true,
        }
        let mut input = &self.input[..];
        while let Some((bytes, rest)) = input.split_first_chunk() {
            let header = Header::from_bytes(bytes);
            let length = header.len as usize;
            if length > PAYLOAD_MAX {
                self.closed = true;
                break;
            }
            let Some((payload, rest)) = rest.split_at_checked(length) else { break };
            store.handle(self.id, &header, payload);
            input = rest;
        }
        self.input = input.to_vec();
    }

    /// Sends what waits, as far as the client takes it.
    pub(crate) fn write(&mut self, store: &mut Store) {
        loop {
            while self.output.len() < BACKLOG {
                let Some(message) = store.next_output(self.id) else { break };
                self.output.extend(message.to_bytes());
            }
            if self.output.is_empty() || self.closed {
                break;
            }
            match self.stream.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.closed = true,
            }
        }
        self.closed |= store.is_broken(self.id);
    }

    /// True if the client is gone; its connection is then closed.
    pub(crate) fn is_closed(&self, store: &mut Store) -> bool {
        if self.closed {
            store.disconnect(self.id);
        }
        self.closed
    }
}

/// The listening socket; its file is removed at the end.
pub(crate) struct Listener {
    listener: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Listens on `path`, in place of a socket that nobody serves any more.
    pub(crate) fn bind(path: &Path) -> Result<Self, String> {
        let fault = |error: std::io::Error| format!("{}: {error}", path.display());
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        }
        match fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.file_type().is_socket() => {
                return Err(format!("{}: exists and is not a socket", path.display()));
            }
            Ok(_) if UnixStream::connect(path).is_ok() => {
                return Err(format!("{}: another store serves this socket", path.display()));
            }
            Ok(_) => fs::remove_file(path).map_err(fault)?,
            Err(_) => {}
        }
        let listener = UnixListener::bind(path).map_err(fault)?;
        listener.set_nonblocking(true).map_err(fault)?;
        let listener = Self { listener, path: path.to_owned() };
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(fault)?;
        Ok(listener)
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// The next client that waits.
    pub(crate) fn accept(&self) -> Option<UnixStream> {
        self.listener.accept().ok().map(|(stream, _)| stream)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
