//! The log on COM1: one event a line, `seconds level subsystem message key=value…`.

use log::{Level, LevelFilter, Log, Metadata, Record};

use super::cpu::clock;
use super::serial;
use crate::machine::prelude::*;

struct Logger;

static LOGGER: Logger = Logger;

/// The first lines, for the core's journal: what does not fit is only on the wire.
static KEPT: Mutex<Kept> = Mutex::new(Kept { bytes: [0; 4096], length: 0 });

struct Kept {
    bytes: [u8; 4096],
    length: usize,
}

impl Write for Kept {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for (to, from) in self.bytes.iter_mut().skip(self.length).zip(text.bytes()) {
            *to = from;
            self.length += 1;
        }
        Ok(())
    }
}

/// What was logged so far.
pub fn kept() -> Vec<u8> {
    let kept = KEPT.lock();
    kept.bytes.iter().take(kept.length).copied().collect()
}

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let level = match record.level() {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        };
        // The subsystem is the module below the crate.
        let target = record.target();
        let subsystem = target.strip_prefix("trunnion_hypervisor::").unwrap_or(target);
        let subsystem = subsystem.split("::").next().unwrap_or(subsystem);
        let now = clock::now() / 1000;
        let (seconds, micros) = (now / 1_000_000, now % 1_000_000);
        let line = format_args!("{seconds}.{micros:06} {level} {subsystem} {}\n", record.args());
        let _ = serial::Console.write_fmt(line);
        let _ = KEPT.lock().write_fmt(line);
    }

    fn flush(&self) {
        serial::drain();
    }
}

/// Starts the log; `level` is the `log=` word of the command line.
pub fn init(level: Option<&str>) {
    // The only failure is that a logger is set already.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(level.and_then(|level| level.parse().ok()).unwrap_or(LevelFilter::Info));
}
