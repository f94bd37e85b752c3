//! The domains that a tool asks for: the bundle's member `config`, and what a later create request carries.
//!
//! A configuration names files by their paths on the machine where the tool runs. dom0 cannot open them, so each path
//! comes with a place where dom0 finds the content.

use crate::image::Image;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Name of the bundle's member that holds a [`Manifest`].
pub const MEMBER: &str = "config";

/// What to run from power-on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`super::VERSION`] of the tool.
    pub version: u16,
    /// Each domain starts when the one before it has ended.
    pub sequence: bool,
    /// dom0 waits with the first domain until a tool has said [`super::Request::Hello`], so that no console byte is missed.
    pub wait_for_tool: bool,
    /// Powers the machine off when the last domain has ended and no tool is there to say so.
    pub power_off: bool,
    /// Seconds since 1970 when the machine was started, for the domains' wall clocks; 0 when the machine's own clock is right.
    pub unix_seconds: u64,
    /// dom0's own address: `dhcp`, `none`, or as in `10.0.2.1/24`.
    pub address: String,
    /// What opens the control server on TCP; without one it does not listen.
    pub token: String,
    /// A person sits at the hypervisor's console, and no tool is connected.
    pub terminal: bool,
    /// In order.
    pub domains: Vec<Create>,
}

/// A domain's configuration with its files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Create {
    /// Name of the configuration file, for messages.
    pub file: String,
    /// Its text.
    pub text: String,
    /// Where the files it names are, by path exactly as written in it.
    pub files: Vec<Placed>,
    /// What is in a kernel that is [`Source::Streamed`]. dom0 reads the headers of others itself; this is checked the same.
    pub kernel: Option<Image>,
}

impl Create {
    /// Where a path's content is.
    pub fn source(&self, path: &str) -> Option<&Source> {
        self.files.iter().find(|placed| placed.path == path).map(|placed| &placed.source)
    }
}

/// A path with the place of its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// As the configuration writes it.
    pub path: String,
    /// Where dom0 finds it.
    pub source: Source,
}

/// Where dom0 finds the content of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// A member of the boot bundle, by name (`kernels/0`).
    Bundle(String),
    /// With the tool, which is asked for pieces by [`super::Event::Want`] until [`super::Event::Forget`] names it.
    Streamed {
        /// Number of the file, chosen by the tool.
        file: u32,
        /// Bytes.
        size: u64,
    },
    /// A virtio disk of the machine, by serial number.
    Disk(String),
}

impl Manifest {
    /// The member's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Writing into a vector cannot fail.
        postcard::to_allocvec(self).unwrap_or_default()
    }

    /// Reads the member.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, super::wire::Malformed> {
        match postcard::from_bytes::<Self>(bytes) {
            Ok(manifest) if manifest.version == super::VERSION => Ok(manifest),
            _ => Err(super::wire::Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn a_manifest_goes_both_ways() {
        let manifest = Manifest {
            version: super::super::VERSION,
            domains: vec![Create {
                file: "a.cfg".into(),
                text: "name = 'a'".into(),
                files: vec![Placed { path: "vmlinuz".into(), source: Source::Bundle("kernels/0".into()) }],
                kernel: None,
            }],
            ..Manifest::default()
        };
        let read = Manifest::from_bytes(&manifest.to_bytes()).unwrap();
        assert_eq!(read, manifest);
        assert_eq!(read.domains[0].source("vmlinuz"), Some(&Source::Bundle("kernels/0".into())));
        assert!(Manifest::from_bytes(&[9, 9]).is_err());
    }
}
