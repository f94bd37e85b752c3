//! One console on the host: every byte goes to its log file and to all who listen on its socket, and what they type is merged.

use crate::failure::{Failure, Result};
use crate::say;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A console's files on the host; the socket goes when this is dropped.
pub(crate) struct Hub {
    log: File,
    path: PathBuf,
    /// The log could not be written, and that was said.
    damaged: bool,
    socket: PathBuf,
    readers: Readers,
}

type Readers = Arc<Mutex<Vec<UnixStream>>>;

impl Hub {
    /// Opens `NAME.console.log` and `NAME.console.sock` in `folder`; `typed` is called with what readers of the socket send.
    pub(crate) fn open(
        folder: &Path,
        name: &str,
        typed: impl Fn(Vec<u8>) + Send + Sync + 'static,
    ) -> Result<Self> {
        let path = folder.join(format!("{name}.console.log"));
        let log = File::create(&path).map_err(|e| Failure::file("make", &path, &e))?;
        let socket = folder.join(format!("{name}.console.sock"));
        let listener = listen(&socket)?;
        let readers = Readers::default();
        let (hub, typed) = (Arc::clone(&readers), Arc::new(typed));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(std::result::Result::ok) {
                let typed = Arc::clone(&typed);
                join(&hub, client, move |bytes| typed(bytes));
            }
        });
        Ok(Self { log, path, damaged: false, socket, readers })
    }

    /// Moves the files to another name. What cannot be moved keeps its own.
    pub(crate) fn rename(&mut self, folder: &Path, name: &str) {
        for (place, kind) in [(&mut self.path, "log"), (&mut self.socket, "sock")] {
            let new = folder.join(format!("{name}.console.{kind}"));
            match fs::rename(&*place, &new) {
                Ok(()) => *place = new,
                Err(e) => say::warning(Failure::file("rename", place, &e).message()),
            }
        }
    }

    /// Adds a reader; `typed` is called with what it sends, from a thread of its own.
    pub(crate) fn attach(&self, client: UnixStream, typed: impl Fn(Vec<u8>) + Send + 'static) {
        join(&self.readers, client, typed);
    }

    /// Bytes from the domain.
    pub(crate) fn output(&mut self, bytes: &[u8]) {
        if let Err(error) = self.log.write_all(bytes)
            && !std::mem::replace(&mut self.damaged, true)
        {
            let failure = Failure::file("write", &self.path, &error);
            say::warning(&format!("{failure}; it has gaps from here on"));
        }
        // A reader that takes nothing for a quarter of a second is let go, so that it delays nobody.
        self.readers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain_mut(|reader| reader.write_all(bytes).is_ok());
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.socket);
        for reader in self.readers.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = reader.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn join(readers: &Readers, client: UnixStream, typed: impl Fn(Vec<u8>) + Send + 'static) {
    let Ok(mut reader) = client.try_clone() else { return };
    let _ = client.set_write_timeout(Some(Duration::from_millis(250)));
    readers.lock().unwrap_or_else(PoisonError::into_inner).push(client);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = reader.read(&mut buffer) {
            typed(buffer.get(..count).unwrap_or_default().to_vec());
        }
    });
}

/// A listener on the socket `path`, where nobody listens any more if it exists.
pub(crate) fn listen(path: &Path) -> Result<UnixListener> {
    let _ = fs::remove_file(path);
    let folder = path.parent().unwrap_or(Path::new("."));
    let held = File::open(folder).map_err(|e| Failure::file("use the folder", folder, &e))?;
    // A socket's address holds 107 bytes, which a long folder name exceeds; through the open folder it is short.
    let short = Path::new("/proc/self/fd")
        .join(held.as_raw_fd().to_string())
        .join(path.file_name().unwrap_or_default());
    UnixListener::bind(short).map_err(|e| Failure::file("make the socket", path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn several_readers_see_all_and_their_typing_merges() {
        let folder = tempfile::tempdir().unwrap();
        let (sender, typed) = mpsc::channel();
        let mut hub = Hub::open(folder.path(), "g", move |bytes| drop(sender.send(bytes))).unwrap();
        let socket = folder.path().join("g.console.sock");
        let mut clients = [UnixStream::connect(&socket).unwrap(), UnixStream::connect(&socket).unwrap()];
        for (n, client) in clients.iter_mut().enumerate() {
            client.write_all(&[b'a' + n as u8]).unwrap();
        }
        let mut merged: Vec<u8> = (0..2).flat_map(|_| typed.recv().unwrap()).collect();
        merged.sort_unstable();
        assert_eq!(merged, b"ab");
        hub.output(b"hello");
        for client in &mut clients {
            let mut text = [0; 5];
            client.read_exact(&mut text).unwrap();
            assert_eq!(&text, b"hello");
        }
        drop(hub);
        assert!(!socket.exists());
        assert_eq!(fs::read(folder.path().join("g.console.log")).unwrap(), b"hello");
    }
}
