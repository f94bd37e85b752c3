//! The log on COM1: one event a line, `seconds level subsystem message key=value…`.

use core::fmt::Write;
use log::{Level, LevelFilter, Log, Metadata, Record};

use super::cpu::clock;
use super::serial;

struct Logger;

static LOGGER: Logger = Logger;

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
        let _ = writeln!(serial::Console, "{seconds}.{micros:06} {level} {subsystem} {}", record.args());
    }

    fn flush(&self) {
        serial::drain();
    }
}

/// Starts the log; `level` is the `log=` word of the command line.
pub fn init(level: Option<&str>) {
    let filter = match level {
        Some("trace") => LevelFilter::Trace,
        Some("debug") => LevelFilter::Debug,
        Some("warn") => LevelFilter::Warn,
        Some("error") => LevelFilter::Error,
        _ => LevelFilter::Info,
    };
    // The only failure is that a logger is set already.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(filter);
}
