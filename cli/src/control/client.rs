//! The verbs' side of the socket of a running instance.

use crate::control::ask::{Answer, Ask};
use crate::failure::{Failure, Result};
use crate::instance;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;

/// A connection to a running instance.
pub(crate) struct Client {
    instance: String,
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Client {
    /// Connects to `instance`.
    pub(crate) fn connect(instance: &str) -> Result<Self> {
        let socket = instance::control_socket(instance)?;
        let connected = UnixStream::connect(&socket).and_then(|stream| Ok((stream.try_clone()?, stream)));
        if let Ok((reader, writer)) = connected {
            return Ok(Self { instance: instance.to_string(), reader: BufReader::new(reader), writer });
        }
        let others = instance::running();
        if instance::is_foreign(instance) {
            return Err(Failure::usage(format!(
                "instance \"{instance}\" runs real Xen, whose dom0 does not know this tool's verbs"
            )));
        }
        if others.iter().any(|name| name == instance) {
            return Err(Failure::usage(format!(
                "instance \"{instance}\" is still starting; try again in a moment"
            )));
        }
        let advice = if others.is_empty() {
            "start one with `cargo run`, or `trunnion run`".to_string()
        } else {
            format!("these run: {}; choose with --instance NAME before the verb", others.join(", "))
        };
        Err(Failure::usage(format!("no instance \"{instance}\" is running; {advice}")))
    }

    /// Asks, and waits for the answer.
    pub(crate) fn ask(&mut self, ask: &Ask) -> Result<serde_json::Value> {
        let mut line = serde_json::to_string(ask)
            .map_err(|e| Failure::platform(format!("the question cannot be written down: {e}")))?;
        line.push('\n');
        self.writer.write_all(line.as_bytes()).map_err(|_| self.gone())?;
        let text = self.line()?.ok_or_else(|| self.gone())?;
        let answer: Answer = serde_json::from_str(&text).map_err(|e| {
            Failure::platform(format!(
                "instance \"{}\" answers in words of another version: {e}",
                self.instance
            ))
        })?;
        answer.value()
    }

    /// Asks, and reads the answer as a `T`.
    pub(crate) fn ask_for<T: serde::de::DeserializeOwned>(&mut self, ask: &Ask) -> Result<T> {
        let value = self.ask(ask)?;
        serde_json::from_value(value).map_err(|e| {
            Failure::platform(format!(
                "instance \"{}\" answers in words of another version: {e}",
                self.instance
            ))
        })
    }

    /// The next line, `None` at the end of the connection.
    pub(crate) fn line(&mut self) -> Result<Option<String>> {
        let mut text = String::new();
        match self.reader.read_line(&mut text) {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(text)),
            Err(_) => Err(self.gone()),
        }
    }

    /// The next `count` bytes, which come after some answers.
    pub(crate) fn bytes(&mut self, count: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.reader.read_exact(&mut bytes).map_err(|_| self.gone())?;
        Ok(bytes)
    }

    /// The connection itself, after the last line: bytes from now on.
    pub(crate) fn into_parts(self) -> (BufReader<UnixStream>, UnixStream) {
        (self.reader, self.writer)
    }

    fn gone(&self) -> Failure {
        Failure::platform(format!("instance \"{}\" ended before it answered", self.instance))
    }
}
