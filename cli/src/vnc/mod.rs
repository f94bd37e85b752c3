//! A server of the remote framebuffer protocol, "VNC" (RFC 6143): the screen, keyboard and mouse of an emulated PC for any viewer.
//!
//! Versions 3.3, 3.7 and 3.8, security type None, encoding Raw, and the pseudo-encoding `DesktopSize` for guests that change their
//! mode. There is no password: the one of the protocol protects nobody, so the listener belongs on a loopback address or behind
//! a tunnel. What a viewer sends is checked like what a guest sends: a wrong or oversized message ends that viewer's connection
//! and nothing else.

mod keysym;
mod message;
mod pixels;
mod viewer;

#[cfg(test)]
mod tests;

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::failure::Result;

/// Viewers at a time; more are turned away.
const VIEWERS: usize = 16;

/// A picture, three bytes a pixel: red, green, blue, line by line from the top.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Picture {
    /// Pixels in a line.
    pub(crate) width: u16,
    /// Lines.
    pub(crate) height: u16,
    /// `width * height * 3` bytes.
    pub(crate) pixels: Vec<u8>,
}

/// The PC that viewers look at. Each viewer has its own.
pub(crate) trait Pc {
    /// The screen, as it is now.
    fn screen(&mut self) -> Result<Picture>;
    /// Sends the scan codes of set 2 of one key.
    fn key(&mut self, codes: Vec<u8>) -> Result<()>;
    /// Moves the mouse by so many counts to the right and upwards, with these buttons down: bit 0 left, 1 right, 2 middle.
    fn mouse(&mut self, x: i16, y: i16, buttons: u8) -> Result<()>;
}

/// Serves viewers that come to `listener`, each with a thread and a PC that `connect` makes, until the listener fails.
pub(crate) fn serve<P: Pc>(listener: &TcpListener, name: &str, connect: impl Fn() -> Result<P> + Sync) {
    let viewers = Arc::new(AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for stream in listener.incoming().map_while(std::result::Result::ok) {
            let viewers = Arc::clone(&viewers);
            if viewers.fetch_add(1, Ordering::Relaxed) >= VIEWERS {
                viewers.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let connect = &connect;
            scope.spawn(move || {
                if let Ok(mut pc) = connect() {
                    // A viewer that goes, or speaks wrongly, is no news for anybody else.
                    let _ = viewer::attend(stream, name, &mut pc);
                }
                viewers.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
}
