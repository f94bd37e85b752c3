//! The log: one line an event, to the hypervisor's console, and to whoever asked for a copy.
//!
//! On a machine without a hypervisor, which is where an image can be debugged alone, the lines go to COM1.
#![cfg_attr(
    target_os = "none",
    expect(unsafe_code, reason = "the serial port of a machine without a hypervisor")
)]

use core::fmt::{self, Write};
use core::time::Duration;

use log::{Level, LevelFilter, Log, Metadata, Record};
use spin::Once;

/// Longest line; the rest is cut.
const LINE: usize = 1024;

/// Takes a copy of a log line, with the time at which it was said.
pub type Copy = fn(Duration, &Record<'_>);

static COPY: Once<Copy> = Once::new();

/// Every log line is also given to `copy`. The first caller wins.
pub fn copy_to(copy: Copy) {
    COPY.call_once(|| copy);
}

/// A line being put together, without allocation.
struct Line {
    bytes: [u8; LINE],
    length: usize,
}

impl Line {
    const fn new() -> Self {
        Self { bytes: [0; LINE], length: 0 }
    }

    fn text(&self) -> &str {
        let bytes = self.bytes.get(..self.length).unwrap_or_default();
        // A cut may split a character; what comes before it stays.
        match core::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                core::str::from_utf8(bytes.get(..error.valid_up_to()).unwrap_or_default()).unwrap_or_default()
            }
        }
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.length..LINE - 1).unwrap_or_default();
        let length = room.len().min(text.len());
        if let (Some(to), Some(from)) = (room.get_mut(..length), text.as_bytes().get(..length)) {
            to.copy_from_slice(from);
        }
        self.length += length;
        Ok(())
    }
}

struct Console;

impl Log for Console {
    fn enabled(&self, metadata: &Metadata) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut line = Line::new();
        let now = crate::clock::now();
        let level = match record.level() {
            Level::Error => "error",
            Level::Warn => "warn ",
            Level::Info => "info ",
            Level::Debug => "debug",
            Level::Trace => "trace",
        };
        let target = record.target();
        let target = target.strip_prefix("trunnion_").unwrap_or(target);
        let _ =
            write!(line, "{}.{:06} {level} {target} {}", now.as_secs(), now.subsec_micros(), record.args());
        if let Some(copy) = COPY.get() {
            copy(now, record);
        }
        line.length = line.text().len();
        if let Some(end) = line.bytes.get_mut(line.length) {
            *end = b'\n';
        }
        line.length += 1;
        write(line.text().as_bytes());
    }

    fn flush(&self) {}
}

/// Connects the `log` crate; `level` is the least important level that is printed.
pub fn init(level: LevelFilter) {
    static CONSOLE: Console = Console;
    if log::set_logger(&CONSOLE).is_ok() {
        log::set_max_level(level);
    }
}

/// Writes bytes as they are.
pub fn write(bytes: &[u8]) {
    if crate::hypercall::is_present() {
        let _ = crate::hypercall::console_write(bytes);
    } else {
        serial(bytes);
    }
}

/// Writes a report when nothing else can be relied on: no clock, no copy, no heap.
pub fn emergency(report: fmt::Arguments) {
    let mut line = Line::new();
    let _ = line.write_fmt(report);
    write(line.text().as_bytes());
}

#[cfg(target_os = "none")]
fn serial(bytes: &[u8]) {
    use x86_64::instructions::port::Port;
    let mut data = Port::<u8>::new(0x3f8);
    let mut status = Port::<u8>::new(0x3fd);
    for &byte in bytes {
        // SAFETY: COM1 of a PC: reading its line status and writing its data register touches no memory.
        unsafe {
            let mut patience = 100_000;
            while status.read() & 0x20 == 0 && patience > 0 {
                patience -= 1;
            }
            data.write(byte);
        }
    }
}

#[cfg(not(target_os = "none"))]
fn serial(_: &[u8]) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_cut_between_characters() {
        let mut line = Line::new();
        for _ in 0..LINE {
            line.write_str("ä").unwrap();
        }
        assert_eq!(line.text().len(), LINE - 2);
        assert!(line.text().chars().all(|c| c == 'ä'));
    }
}
