//! `--pcap`: network ports that are recorded, each into a file that Wireshark reads.

use crate::control::dom0::Dom0;
use crate::failure::{Failure, Result};
use crate::say;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use trunnion_dom0::control::request::DomainName;
use trunnion_dom0::control::{Channel, Request};

/// How much dom0 may send before it hears that the host has taken it.
const CREDIT: usize = 256 * 1024;
/// The first channel of a capture: far from those of consoles.
const FIRST: Channel = 0x4000;

/// A port that is to be recorded: `NAME=FILE`, or `NAME:N=FILE` for the port number N.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    domain: String,
    nic: u32,
    file: PathBuf,
}

impl Wish {
    /// Reads an option's value.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let wrong = || {
            Failure::usage(format!(
                "--pcap {text}: expected NAME=FILE, or NAME:N=FILE for the domain's network port N"
            ))
        };
        let (port, file) = text.split_once('=').filter(|(_, file)| !file.is_empty()).ok_or_else(wrong)?;
        let (domain, nic) = match port.split_once(':') {
            None => (port, 0),
            Some((domain, nic)) => (domain, nic.parse().map_err(|_| wrong())?),
        };
        if domain.is_empty() {
            return Err(wrong());
        }
        Ok(Self { domain: domain.to_string(), nic, file: file.into() })
    }
}

/// The captures of a run.
pub(crate) struct Captures {
    dom0: Dom0,
    wishes: Vec<(Wish, Option<File>)>,
    next: Channel,
    /// The file of each channel.
    open: Vec<(Channel, usize)>,
}

impl Captures {
    /// Makes the files, so that a wrong path is noticed before anything starts.
    pub(crate) fn new(dom0: Dom0, wishes: &[Wish]) -> Result<Self> {
        let make = |wish: &Wish| {
            let file = File::create(&wish.file).map_err(|e| Failure::file("write", &wish.file, &e))?;
            Ok((wish.clone(), Some(file)))
        };
        let wishes = wishes.iter().map(make).collect::<Result<_>>()?;
        Ok(Self { dom0, wishes, next: FIRST, open: Vec::new() })
    }

    /// Asks for the ports of a domain that was just created. One that is started again begins its files anew.
    pub(crate) fn begin(&mut self, name: &str, domid: u16) -> Result<()> {
        for index in 0..self.wishes.len() {
            let Some((wish, file)) = self.wishes.get_mut(index).filter(|(wish, _)| wish.domain == name)
            else {
                continue;
            };
            if self.open.iter().any(|(_, place)| *place == index) {
                self.open.retain(|(_, place)| *place != index);
                *file = File::create(&wish.file).ok();
            }
            let channel = self.next;
            self.next += 1;
            let request = Request::NicCapture { domain: DomainName::Id(domid), nic: wish.nic, channel };
            let reply = self.dom0.begin(request)?;
            // Not waited for here, where the news are handled.
            let words = format!("port {} of domain {name} is not recorded", wish.nic);
            std::thread::spawn(move || {
                if let Ok(Err(refusal)) = reply.recv() {
                    say::warning(&format!("{words}: {refusal}"));
                }
            });
            self.dom0.allow(channel, CREDIT);
            self.open.push((channel, index));
        }
        Ok(())
    }

    /// Bytes on a channel; false when it is no capture's.
    pub(crate) fn take(&mut self, channel: Channel, bytes: &[u8]) -> bool {
        if channel < FIRST {
            return false;
        }
        let place = self.open.iter().find(|(open, _)| *open == channel);
        if let Some((wish, file)) = place.and_then(|(_, index)| self.wishes.get_mut(*index))
            && let Some(open) = file
            && let Err(error) = open.write_all(bytes)
        {
            say::warning(&format!("{} is not written any further: {error}", wish.file.display()));
            *file = None;
        }
        self.dom0.allow(channel, bytes.len());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_read() {
        let wish = |text| Wish::parse(text).ok();
        let is = |domain: &str, nic, file: &str| Some(Wish { domain: domain.into(), nic, file: file.into() });
        assert_eq!(wish("web=out.pcap"), is("web", 0, "out.pcap"));
        assert_eq!(wish("web:1=/tmp/a=b"), is("web", 1, "/tmp/a=b"));
        for wrong in ["web", "=file", "web=", "web:x=file", ":1=file"] {
            assert_eq!(wish(wrong), None, "{wrong}");
        }
    }
}
