//! What the toolstack needs of dom0 besides [building](crate::build::Host).

use crate::build::Host;
use crate::config::Nic;
use crate::control::manifest::Placed;
use crate::control::reply::{DeviceInfo, NicInfo};
use crate::control::request::{Press, View};
use crate::control::{Channel, Code, Event, Failure, Reply, summary};
use crate::plan::PlannedDisk;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use trunnion_protocol::control::{Audit, DomainCounters, DomainInfo, HostInfo, VcpuInfo};
use trunnion_protocol::errno::Errno;
use trunnion_protocol::id::{DomainId, VcpuId};
use trunnion_protocol::store::Kind;

/// What is said of a domain that is no emulated PC.
pub fn no_pc(domain: DomainId) -> Failure {
    Failure::new(
        Code::Unsupported,
        format!(
            "domain {domain} has no buttons, keys or screen: it is not of type `hvm`, or has `vga = \"none\"`"
        ),
    )
}

/// dom0, as the toolstack sees it.
#[allow(async_fn_in_trait, reason = "the executor is single-threaded, so no bound on the futures is wanted")]
pub trait Platform: Host {
    /// Nanoseconds since power-on.
    fn now_ns(&self) -> u64;
    /// The domain with the lowest number at or above (`DomainInfo`); none past the last.
    fn domain(&self, from: DomainId) -> Result<Option<DomainInfo>, Errno>;
    /// What a domain has done (`Counters`).
    fn counters(&self, domain: DomainId) -> Result<DomainCounters, Errno>;
    /// The hypervisor's report on a crashed domain, empty when there is none (`CrashReport`).
    fn crash_report(&self, domain: DomainId) -> String;
    /// What a vCPU does (`VcpuInfo`).
    fn vcpu(&self, domain: DomainId, vcpu: VcpuId) -> Result<VcpuInfo, Errno>;
    /// Has the hypervisor write to its log, of one domain (`DebugKey`).
    fn debug_key(&self, key: char, domain: DomainId) -> Result<(), Errno>;
    /// Facts of the machine (`HostInfo`).
    fn host_info(&self) -> Result<HostInfo, Errno>;
    /// What is in use, recomputed from the tables (`Audit`).
    fn audit(&self) -> Result<Audit, Errno>;
    /// Part of the hypervisor's log from a position, and where to go on (`ReadLog`).
    fn read_log(&self, from: u64) -> Result<(Vec<u8>, u64), Errno>;
    /// Ends the platform, once what is queued for tools has been sent (`PowerOff`). Returns at once.
    fn power_off(&self);
    /// Returns when some domain may have ended since the last call (`VIRQ_DOM_EXC`).
    async fn exception(&self);
    /// Rests for about a millisecond: for who waits for something of which nobody tells, so that dom0 does not spin meanwhile.
    async fn rest(&self);

    /// Tells tools.
    fn event(&self, event: Event);
    /// Opens a channel to a console, also to that of a domain that has ended and is not forgotten.
    fn attach_channel(
        &self,
        domain: DomainId,
        channel: Channel,
        replay: bool,
        hold: bool,
    ) -> Result<(), Failure>;
    /// Closes a channel; false when it was not open.
    fn detach_channel(&self, channel: Channel) -> bool;
    /// Whether some channel to a domain's console is open.
    fn is_watched(&self, domain: DomainId) -> bool;
    /// Whether a tool is connected that hears of events.
    fn has_tool(&self) -> bool;
    /// Returns when channels that hold have been sent the whole log of a console, or when nothing moves any more.
    async fn flush_console(&self, domain: DomainId);
    /// Drops a console's log, and closes its channels.
    fn forget_console(&self, domain: DomainId);

    /// A disk's figures; of one that has been detached, the last.
    fn disk_figures(&self, domain: DomainId, disk: &PlannedDisk) -> summary::Disk;
    /// A network port's figures; of one that has been detached, zeroes.
    fn nic_figures(&self, domain: DomainId, number: u32, nic: &Nic) -> summary::Nic {
        let _ = (domain, number);
        summary::Nic { mac: nic.mac.to_string(), ..summary::Nic::default() }
    }
    /// The size of an attached disk in bytes, and the serial number of the virtio disk that it stands on, if it does.
    fn disk_media(&self, domain: DomainId, number: u32) -> (u64, Option<String>) {
        let _ = (domain, number);
        (0, None)
    }
    /// Asks a guest to let go of a disk, and waits for that, but not for ever; false when it has not.
    async fn release_disk(&self, domain: DomainId, disk: &PlannedDisk) -> bool {
        let _ = (domain, disk);
        true
    }
    /// What there is to know of a domain's network ports.
    fn nics(&self, domain: DomainId) -> Vec<NicInfo> {
        let _ = domain;
        Vec::new()
    }
    /// Asks a guest to let go of a network port, and waits for that, but not for ever.
    async fn release_nic(&self, domain: DomainId, number: u32) {
        let _ = (domain, number);
    }
    /// Records a network port on a channel that this opens.
    fn capture_nic(&self, domain: DomainId, number: u32, channel: Channel) -> Result<(), Failure> {
        let _ = (domain, number, channel);
        Err(Failure::new(Code::Unsupported, "there are no networks here"))
    }
    /// Presses buttons or keys of a domain's emulated PC.
    fn press(&self, domain: DomainId, press: &Press) -> Result<(), Failure> {
        let _ = press;
        Err(no_pc(domain))
    }
    /// Changes the disc in a CD drive of a domain's emulated PC, or takes it out.
    fn change_disc(&self, domain: DomainId, drive: &str, disc: Option<&Placed>) -> Result<(), Failure> {
        let _ = (drive, disc);
        Err(no_pc(domain))
    }
    /// A look at the screen of a domain's emulated PC.
    async fn screen(&self, domain: DomainId, view: View) -> Result<Reply, Failure> {
        let _ = view;
        Err(no_pc(domain))
    }
    /// dom0's devices.
    fn devices(&self) -> Vec<DeviceInfo>;

    /// A request to the store, with dom0's rights, outside any transaction.
    fn store(&self, kind: Kind, payload: &[u8]) -> Result<Vec<u8>, Errno>;
    /// Names of a node's children, however many.
    fn store_list(&self, path: &str) -> Result<Vec<String>, Errno>;
    /// How many nodes the store has.
    fn store_nodes(&self) -> u64;
    /// Tells the store that a domain has ended, so that `@releaseDomain` fires.
    fn shut_down(&self, domain: DomainId);
    /// Reports changes below a path under a number.
    fn watch(&self, watch: u32, path: &str) -> Result<(), Errno>;
    /// Ends that; false when there was no such watch.
    fn unwatch(&self, watch: u32) -> bool;
}
