//! One viewer's connection: reads what it says, looks at the screen when it asks, and sends what changed.

use std::io::{Error, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use super::message::{self, Message};
use super::pixels::Format;
use super::{Pc, Picture, keysym};

/// From one look at the screen to the next: a look costs dom0 some milliseconds.
const PACE: Duration = Duration::from_millis(100);

/// How long a viewer may take to introduce itself, or to take what it asked for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Messages that wait; then the viewer's own sending waits.
const WAITING: usize = 64;

/// A viewer, as its connection knows it.
struct Viewer<'a, P: Pc, W: Write> {
    pc: &'a mut P,
    to: W,
    format: Format,
    /// What it was shown last.
    shown: Picture,
    /// It can be told a new size.
    resizes: bool,
    /// It waits for an update; all of the screen, or what changed.
    waits: Option<Wish>,
    looked: Instant,
    pointer: Option<(u16, u16)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    Changes,
    All,
}

/// Serves the viewer at the other end of `stream` until it goes.
pub(super) fn attend<P: Pc>(mut stream: TcpStream, name: &str, pc: &mut P) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    message::shake_hands(&mut stream)?;
    let shown = pc.screen().map_err(|e| Error::other(e.message().to_string()))?;
    message::begin(&mut stream, &shown, name)?;
    stream.set_read_timeout(None)?;
    let from = stream.try_clone()?;
    let ends = stream.try_clone()?;
    std::thread::scope(|scope| {
        // Its receiving end goes before the thread is waited for, which may be about to send.
        let (say, said) = sync_channel(WAITING);
        scope.spawn(move || listen(from, &say));
        let viewer = Viewer {
            pc,
            to: stream,
            format: Format::default(),
            shown,
            resizes: false,
            waits: None,
            looked: Instant::now(),
            pointer: None,
        };
        let served = viewer.serve(&said);
        // Wakes the thread that listens.
        let _ = ends.shutdown(Shutdown::Both);
        served
    })
}

/// Hands over what a viewer says until it goes, or says what cannot be understood.
fn listen(mut from: impl Read, say: &SyncSender<Message>) {
    while let Ok(message) = Message::read(&mut from) {
        if say.send(message).is_err() {
            return;
        }
    }
}

impl<P: Pc, W: Write> Viewer<'_, P, W> {
    fn serve(mut self, said: &Receiver<Message>) -> std::io::Result<()> {
        loop {
            let next = if self.waits.is_some() {
                said.recv_timeout((self.looked + PACE).saturating_duration_since(Instant::now()))
            } else {
                said.recv().map_err(|_| RecvTimeoutError::Disconnected)
            };
            match next {
                Ok(message) => self.hear(message)?,
                Err(RecvTimeoutError::Timeout) => self.look()?,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    fn hear(&mut self, message: Message) -> std::io::Result<()> {
        let done = match message {
            Message::Format(format) => {
                self.format = format;
                Ok(())
            }
            Message::Encodings(encodings) => {
                self.resizes = encodings.contains(&message::DESKTOP_SIZE);
                Ok(())
            }
            Message::Update { incremental } => {
                let wish =
                    if incremental && self.waits != Some(Wish::All) { Wish::Changes } else { Wish::All };
                self.waits = Some(wish);
                Ok(())
            }
            Message::Key { down, symbol } => {
                keysym::codes(symbol, down).map_or(Ok(()), |codes| self.pc.key(codes))
            }
            Message::Pointer { buttons, x, y } => self.point(buttons, x, y),
            Message::Clipboard => Ok(()),
        };
        done.map_err(|e| Error::other(e.message().to_string()))
    }

    /// A mouse of a PC says how far it moved, a viewer where it is.
    fn point(&mut self, buttons: u8, x: u16, y: u16) -> crate::failure::Result<()> {
        let (old_x, old_y) = self.pointer.replace((x, y)).unwrap_or((x, y));
        let way = |new: u16, old: u16| {
            (i32::from(new) - i32::from(old)).clamp(i16::MIN.into(), i16::MAX.into()) as i16
        };
        let buttons = buttons & 1 | buttons >> 1 & 2 | buttons << 1 & 4;
        self.pc.mouse(way(x, old_x), way(old_y, y), buttons)
    }

    /// Looks at the screen, and sends what the viewer waits for.
    fn look(&mut self) -> std::io::Result<()> {
        let new = self.pc.screen().map_err(|e| Error::other(e.message().to_string()))?;
        self.looked = Instant::now();
        let Some(wish) = self.waits else { return Ok(()) };
        let same_size = (new.width, new.height) == (self.shown.width, self.shown.height);
        let message = if !same_size && self.resizes {
            // The viewer asks again, for all of it (section 7.8.2).
            self.shown = Picture { pixels: Vec::new(), ..new };
            let mut message = message::update(1);
            message::rectangle(&mut message, 0, new.width, new.height, message::DESKTOP_SIZE);
            message
        } else {
            let new = if same_size { new } else { cut(&new, self.shown.width, self.shown.height) };
            let lines = match wish {
                Wish::All => 0..usize::from(new.height),
                Wish::Changes => changed(&self.shown, &new),
            };
            if lines.is_empty() {
                return Ok(());
            }
            let mut message = message::update(1);
            let (top, height) = (lines.start as u16, lines.len() as u16);
            message::rectangle(&mut message, top, new.width, height, message::RAW);
            let line = usize::from(new.width) * 3;
            let part = new.pixels.get(lines.start * line..lines.end * line).unwrap_or_default();
            self.format.write(part, &mut message);
            self.shown = new;
            message
        };
        self.waits = None;
        self.to.write_all(&message)
    }
}

/// From the first line that differs to the last; pictures have the same size.
fn changed(old: &Picture, new: &Picture) -> std::ops::Range<usize> {
    let line = usize::from(new.width).max(1) * 3;
    if old.pixels.len() != new.pixels.len() {
        return 0..usize::from(new.height);
    }
    let mut differing = old
        .pixels
        .chunks(line)
        .zip(new.pixels.chunks(line))
        .enumerate()
        .filter(|(_, (old, new))| old != new)
        .map(|(at, _)| at);
    let Some(first) = differing.next() else { return 0..0 };
    first..differing.next_back().unwrap_or(first) + 1
}

/// A picture of another size: what is too much is cut off, what is missing is black.
fn cut(picture: &Picture, width: u16, height: u16) -> Picture {
    let line = usize::from(width) * 3;
    let mut pixels = vec![0; line * usize::from(height)];
    let from = picture.pixels.chunks(usize::from(picture.width).max(1) * 3);
    for (to, from) in pixels.chunks_mut(line.max(1)).zip(from) {
        let count = to.len().min(from.len());
        to[..count].copy_from_slice(&from[..count]);
    }
    Picture { width, height, pixels }
}
