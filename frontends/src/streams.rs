//! The console as asynchronous [`embedded_io_async`] streams, and a network port with one frame a call.
//!
//! ```
//! use embedded_io_async::Write;
//! use trunnion_frontends::console::Console;
//! use trunnion_frontends::platform::Platform;
//!
//! async fn greet<P: Platform>(console: &mut Console<'_, P>) {
//!     // A console cannot fail.
//!     let _ = console.write_all(b"hello\r\n").await;
//!     let _ = console.flush().await;
//! }
//! ```

use core::convert::Infallible;

use embedded_io_async::{Error, ErrorKind, ErrorType, Read, Write};

use crate::console::Console;
use crate::net::{NetError, Nic, Offload};
use crate::platform::Platform;

impl<P: Platform> Read for Console<'_, P> {
    async fn read(&mut self, into: &mut [u8]) -> Result<usize, Infallible> {
        Ok(Console::read(self, into).await)
    }
}

impl<P: Platform> Write for Console<'_, P> {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        Console::write(self, bytes).await;
        Ok(bytes.len())
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        Console::flush(self).await;
        Ok(())
    }
}

/// A network port as a stream whose pieces are frames: a read gives one whole frame, and fails with [`NetError::TooLong`] when
/// the place is too small for it; a write sends one. For a port without [offloads](crate::net::Options::offload).
#[derive(Debug)]
pub struct Frames<'n, 't, 'p, P: Platform>(&'n Nic<'t, 'p, P>);

impl<'n, 't, 'p, P: Platform> Frames<'n, 't, 'p, P> {
    /// An adapter for a port. Several may exist at a time, one for each direction for example.
    pub const fn new(nic: &'n Nic<'t, 'p, P>) -> Self {
        Self(nic)
    }
}

impl Error for NetError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Length | Self::TooLong => ErrorKind::InvalidInput,
            Self::Unsupported => ErrorKind::Unsupported,
            Self::Closed => ErrorKind::NotConnected,
        }
    }
}

impl<P: Platform> ErrorType for Frames<'_, '_, '_, P> {
    type Error = NetError;
}

impl<P: Platform> Read for Frames<'_, '_, '_, P> {
    async fn read(&mut self, into: &mut [u8]) -> Result<usize, NetError> {
        self.0.receive(into).await.map(|received| received.length)
    }
}

impl<P: Platform> Write for Frames<'_, '_, '_, P> {
    async fn write(&mut self, frame: &[u8]) -> Result<usize, NetError> {
        self.0.send(frame, Offload::default()).await?;
        Ok(frame.len())
    }

    /// Frames are on their way when they are written.
    async fn flush(&mut self) -> Result<(), NetError> {
        Ok(())
    }
}
