//! What a tool may ask of dom0.

use super::Channel;
use super::manifest::{Create, Placed, Source};
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// A domain as a person names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DomainName {
    /// By number.
    Id(u16),
    /// By the configuration's `name`.
    Name(String),
}

impl DomainName {
    /// As `xl(1)` reads it: a number is a domain's number, anything else its name.
    pub fn parse(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Name(text.into()), Self::Id)
    }
}

impl core::fmt::Display for DomainName {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// How a domain is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShutdownKind {
    /// Power off.
    Poweroff,
    /// Start again.
    Reboot,
}

/// A request. Each is answered exactly once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// First words of a tool; answered by [`super::Reply::Hello`].
    Hello {
        /// The tool's [`super::VERSION`].
        version: u16,
    },
    /// Builds and starts a domain; answered by [`super::Reply::Created`].
    Create {
        /// The configuration and its files.
        domain: Create,
        /// Leaves it paused.
        paused: bool,
    },
    /// All domains, or one; answered by [`super::Reply::Domains`].
    List(Option<DomainName>),
    /// Ends a domain without asking it.
    Destroy(DomainName),
    /// Asks a domain to end, through the store.
    Shutdown {
        /// Which.
        domain: DomainName,
        /// How.
        kind: ShutdownKind,
    },
    /// Stops a domain's vCPUs.
    Pause(DomainName),
    /// Lets a paused domain run.
    Unpause(DomainName),
    /// Facts of the host; answered by [`super::Reply::Info`].
    Info,
    /// The hypervisor's log; answered by [`super::Reply::Dmesg`], in parts.
    Dmesg {
        /// Bytes to skip; 0 first, then what the reply says.
        from: u64,
    },
    /// The vCPUs of all domains, or of one; answered by [`super::Reply::Vcpus`].
    VcpuList(Option<DomainName>),
    /// Opens a channel to a domain's console. Nothing is sent on it before [`super::Down::Credit`].
    ConsoleAttach {
        /// Which.
        domain: DomainName,
        /// Number of the channel, not in use.
        channel: Channel,
        /// Sends what the console's log holds first.
        replay: bool,
        /// The guest's console waits while this channel has no credit, so that not one byte is lost.
        hold: bool,
    },
    /// Closes a channel.
    ConsoleDetach {
        /// Which.
        channel: Channel,
    },
    /// An operation on the store, with dom0's rights.
    Xenstore(StoreRequest),
    /// All figures; answered by [`super::Reply::Summary`].
    Summary,
    /// A line for dom0's shell; answered by [`super::Reply::Text`]. A verb that dom0 does not have is [`super::Code::UnknownVerb`].
    Shell {
        /// The line.
        line: String,
    },
    /// Ends the platform. Domains that still run are destroyed; the reply comes before.
    PowerOff,
    /// What dom0 itself is, and how it is; answered by [`super::Reply::Devices`].
    Devices,
    /// The network ports of a domain; answered by [`super::Reply::Nics`].
    NicList(DomainName),
    /// Gives a running domain a network port; answered by [`super::Reply::Nics`] with that one.
    NicAttach {
        /// Which.
        domain: DomainName,
        /// As in a configuration's `vif`.
        specification: String,
    },
    /// Takes a network port away, when the guest has let go of it.
    NicDetach {
        /// Which.
        domain: DomainName,
        /// Number or address of the port.
        nic: String,
    },
    /// A device of any class between two guests.
    Device(DeviceRequest),
    /// Presses buttons or keys of an emulated PC.
    Press {
        /// Whose.
        domain: DomainName,
        /// Which.
        press: Press,
    },
    /// Changes the disc in a CD drive of an emulated PC, or takes it out.
    ChangeDisc {
        /// Whose.
        domain: DomainName,
        /// The drive, as the configuration names it: `hdc`.
        drive: String,
        /// A disc of the machine's disks, and where it is.
        disc: Option<Placed>,
    },
    /// A look at the screen of an emulated PC; answered by [`super::Reply::Screen`] or [`super::Reply::ScreenText`].
    Screen {
        /// Whose.
        domain: DomainName,
        /// At what.
        view: View,
    },
    /// Records a network port from now on, as a libpcap file on a channel that is opened with it.
    NicCapture {
        /// Whose.
        domain: DomainName,
        /// Number of the port; it may be attached later.
        nic: u32,
        /// Number of the channel, not in use.
        channel: Channel,
    },
    /// The disks of a domain; answered by [`super::Reply::Disks`].
    DiskList(DomainName),
    /// Gives a running domain a disk; answered by [`super::Reply::Disks`] with that one.
    DiskAttach {
        /// Which.
        domain: DomainName,
        /// As in a configuration's `disk`.
        specification: String,
        /// Where its content is. A file that was left with the tool is given up before the reply.
        source: Source,
    },
    /// Takes a disk away, when the guest has let go of it; answered by [`super::Reply::Disks`] with it as it was.
    DiskDetach {
        /// Which.
        domain: DomainName,
        /// Name or number of the disk.
        disk: String,
        /// Takes it at once.
        force: bool,
    },
    /// Gives a domain another name.
    Rename {
        /// Which.
        domain: DomainName,
        /// The new name.
        name: String,
    },
    /// Presses a key of Linux's system request, through the store.
    Sysrq {
        /// Whose.
        domain: DomainName,
        /// The key.
        key: char,
    },
    /// Asks a domain's balloon driver for another amount of memory, through the store.
    SetMemory {
        /// Which.
        domain: DomainName,
        /// How much it is to have, in KiB.
        kib: u64,
    },
    /// Asks a domain to use so many vCPUs, through the store.
    SetVcpus {
        /// Which.
        domain: DomainName,
        /// How many.
        count: u32,
    },
    /// Sets a domain's weight and cap, or those that are given; answered by [`super::Reply::Scheduling`], for all domains when none is
    /// named.
    Schedule {
        /// Which.
        domain: Option<DomainName>,
        /// Share of the processor against others.
        weight: Option<u32>,
        /// Most per cent of one processor; 0 is no limit.
        cap: Option<u32>,
    },
    /// Writes parts of the hypervisor's state to its log, one a character.
    DebugKeys(String),
}

/// What is seen of a screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum View {
    /// Its characters.
    Text,
    /// Its pixels from a line on, as many lines as a reply takes.
    Lines(u32),
}

/// What a person does to an emulated PC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Press {
    /// The power button.
    Power,
    /// The sleep button.
    Sleep,
    /// The reset button.
    Reset,
    /// The button for a non-maskable interrupt.
    Nmi,
    /// Keys, one after the other: the scan codes of set 2 that each sends.
    Keys(Vec<Vec<u8>>),
    /// The mouse.
    Mouse {
        /// To the right, in counts.
        x: i16,
        /// Upwards, in counts.
        y: i16,
        /// Buttons that are down: bit 0 left, 1 right, 2 middle.
        buttons: u8,
    },
}

/// What becomes of a device between two guests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceRequest {
    /// Makes one.
    Attach {
        /// The domain that gets it.
        front: DomainName,
        /// The domain that serves it.
        back: DomainName,
        /// Its class: a directory's name in the store.
        class: String,
        /// Its number in the class.
        id: u32,
    },
    /// Asks the back end to let go, and removes it.
    Detach {
        /// The domain that has it.
        front: DomainName,
        /// Its class.
        class: String,
        /// Its number in the class.
        id: u32,
        /// Removes it at once.
        force: bool,
    },
}

/// An operation on the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoreRequest {
    /// The tree below a path with values, in depth-first order; answered by [`super::Reply::Tree`].
    Ls {
        /// The top.
        path: String,
        /// Where to go on: 0 first, then as the reply says.
        from: u32,
    },
    /// A value; answered by [`super::Reply::Value`].
    Read(String),
    /// Sets a value.
    Write {
        /// Absolute, or relative to dom0's own folder.
        path: String,
        /// The bytes.
        value: Vec<u8>,
    },
    /// Removes a node and all below it.
    Rm(String),
    /// Names of children; answered by [`super::Reply::Names`].
    List(String),
    /// Whether a node exists; answered by [`super::Reply::Exists`].
    Exists(String),
    /// Sets permissions.
    Chmod {
        /// The node.
        path: String,
        /// As `n0`, `r1`.
        permissions: Vec<String>,
        /// Also everything below it.
        recursive: bool,
    },
    /// Reports changes below a path as [`super::Event::Store`].
    Watch {
        /// A path, or `@introduceDomain`, `@releaseDomain`.
        path: String,
        /// Number of the watch, chosen by the tool.
        watch: u32,
    },
    /// Ends a watch.
    Unwatch {
        /// Its number.
        watch: u32,
    },
}
