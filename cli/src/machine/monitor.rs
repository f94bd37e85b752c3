//! QEMU's monitor (QMP, `docs/interop/qmp-spec.txt` of QEMU), for disks that come while the machine runs.

use crate::failure::{Failure, Result};
use crate::machine::qemu;
use crate::run::disks::Disk;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A connection to the monitor, of which there is one at a time.
pub(crate) struct Monitor {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Monitor {
    /// Connects and leaves the negotiation behind.
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        let connected = UnixStream::connect(socket).and_then(|writer| {
            writer.set_read_timeout(Some(Duration::from_secs(20)))?;
            Ok((writer.try_clone()?, writer))
        });
        let (reader, writer) = connected.map_err(|e| {
            Failure::platform(format!("QEMU's monitor cannot be reached: {}", crate::failure::reason(&e)))
        })?;
        let mut monitor = Self { reader: BufReader::new(reader), writer };
        monitor.line()?;
        monitor.command("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    /// Plugs in a disk as the device number `number` of this machine, which began with `first` of them.
    pub(crate) fn plug(&mut self, disk: &Disk, number: usize, first: usize) -> Result<()> {
        let node = format!("disk{number}");
        let Some(slot) = qemu::slot_for_later(number, first) else {
            return Err(Failure::usage(format!(
                "the machine has no free slot for the disk {}: it has {number} already; give `trunnion run` the domains that need them",
                disk.path.display()
            )));
        };
        let block = json!({"driver": "raw", "node-name": node, "read-only": !disk.writable, "discard": "unmap",
                           "file": {"driver": "file", "filename": disk.path}});
        self.command("blockdev-add", &block)?;
        let device = json!({"driver": "virtio-blk-pci", "drive": node, "serial": disk.serial, "werror": "report", "rerror": "report", "disable-legacy": "on", "num-queues": 1,
                            "queue-size": 256, "addr": format!("{slot:#x}")});
        self.command("device_add", &device).inspect_err(|_| {
            let _ = self.command("blockdev-del", &json!({"node-name": node}));
        })
    }

    fn command(&mut self, name: &str, arguments: &Value) -> Result<()> {
        let line = json!({"execute": name, "arguments": arguments});
        writeln!(self.writer, "{line}").map_err(|_| gone())?;
        loop {
            let answer = self.line()?;
            if let Some(why) = answer.get("error").and_then(|error| error.get("desc")).and_then(Value::as_str)
            {
                return Err(Failure::platform(format!("QEMU refuses {name}: {why}")));
            }
            // Events come in between.
            if answer.get("return").is_some() {
                return Ok(());
            }
        }
    }

    fn line(&mut self) -> Result<Value> {
        let mut text = String::new();
        match self.reader.read_line(&mut text) {
            Ok(1..) => serde_json::from_str(&text).map_err(|_| gone()),
            _ => Err(gone()),
        }
    }
}

fn gone() -> Failure {
    Failure::platform("QEMU's monitor does not answer")
}
