//! What the toolstack asks of dom0: control hypercalls and dom0's services.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use trunnion_guest::clock;
use trunnion_guest::events::Listener;
use trunnion_guest::executor::Spawner;
use trunnion_guest::hypercall;
use trunnion_protocol::control::{
    Audit, CountersCall, DebugKey, DomainCounters, DomainInfo, HostInfo, Operation, PowerOff, ReadText,
    VcpuInfo,
};
use trunnion_protocol::errno::Errno;
use trunnion_protocol::id::{DomainId, VcpuId};
use trunnion_protocol::store::Kind;
use trunnion_xenstore::local::NO_TRANSACTION;
use trunnion_xenstore::path::Path;
use zerocopy::FromZeros;

use super::capture::Capture;
use super::console::Consoles;
use super::disks::{Disks, Media};
use super::model::Models;
use super::nets::Nets;
use super::store::Client;
use super::wire::Wire;
use crate::config::{Nic, VirtualDevice};
use crate::control::manifest::{Placed, Source};
use crate::control::reply::{DeviceInfo, NicInfo};
use crate::control::request::{Press, View};
use crate::control::{Channel, Code, Event, Failure, Reply, summary};
use crate::domains::{Platform, no_pc};
use crate::plan::PlannedDisk;
use crate::plan::pc::place;

/// How long a tool may take to read the last bytes of a console.
const LAST_BYTES: Duration = Duration::from_mins(10);
/// How often somebody who waits for others looks again.
const TURN: Duration = Duration::from_millis(1);
/// Bytes of a text of the hypervisor's in one go.
const TEXT: usize = 4096;

/// dom0, as builder and toolstack use it.
pub struct Dom0 {
    /// The store, with dom0's rights.
    pub store: Client,
    /// The consoles.
    pub consoles: Rc<Consoles>,
    /// The disks.
    pub disks: Rc<Disks>,
    /// The networks.
    pub nets: Rc<Nets>,
    /// The device models.
    pub models: Models,
    /// The queue to the tool.
    pub wire: Rc<Wire>,
    /// For tasks.
    pub spawner: Spawner,
    /// Hears of ends of domains.
    pub exceptions: Listener,
    /// The platform ends when the last domain has, unless a tool is there to say so.
    pub ends_by_itself: bool,
}

/// Text of the hypervisor's from a position on, and the position behind it.
fn read_text(operation: Operation, position: u64) -> Result<(Vec<u8>, u64), Errno> {
    let mut bytes = vec![0; TEXT];
    let mut call = ReadText { position, buffer: bytes.as_mut_ptr() as u64, length: TEXT as u64 };
    hypercall::control(operation, &mut call)?;
    bytes.truncate(call.length as usize);
    Ok((bytes, call.position))
}

/// Numbers of the discs that were put into the four IDE drives while the guest ran.
pub(super) const INSERTED: u32 = 1 << 31;

impl Platform for Dom0 {
    fn press(&self, domain: DomainId, press: &Press) -> Result<(), Failure> {
        match self.models.press(domain, press) {
            Some(true) => Ok(()),
            Some(false) => Err(Failure::new(Code::Limit, "too many keys wait to be typed")),
            None => Err(no_pc(domain)),
        }
    }

    fn change_disc(&self, domain: DomainId, drive: &str, disc: Option<&Placed>) -> Result<(), Failure> {
        let place = VirtualDevice::parse(drive).and_then(|vdev| place(vdev.number));
        let place = place.filter(|place| self.models.has_cd(domain, *place)).ok_or_else(|| {
            Failure::new(Code::State, format!("domain {domain} has no CD drive `{drive}` of an emulated PC"))
        })?;
        let number = INSERTED | u32::from(place);
        let storage = match disc {
            None => None,
            Some(Placed { path, source: Source::Disk(serial) }) => {
                let disk = PlannedDisk {
                    vdev: VirtualDevice { name: drive.into(), number },
                    target: Some(path.clone()),
                    read_only: true,
                    cdrom: true,
                    in_memory: false,
                    discard: false,
                    emulated: false,
                };
                let opened = self.disks.open_emulated(domain, &disk, Media::Device(serial));
                Some(opened.map_err(|refusal| Failure::new(Code::Disk, refusal.to_string()))?)
            }
            Some(Placed { path, .. }) => {
                let why = format!("the disc {path} is no disk of the machine");
                return Err(Failure::new(Code::Unsupported, why));
            }
        };
        let keep = disc.and_then(|disc| match &disc.source {
            Source::Disk(serial) => Some(serial.as_str()),
            _ => None,
        });
        self.disks.close_others(domain, number, keep);
        self.models.change_disc(domain, place, storage);
        Ok(())
    }

    async fn screen(&self, domain: DomainId, view: View) -> Result<Reply, Failure> {
        self.models.look(domain, view).await.ok_or_else(|| no_pc(domain))
    }

    fn now_ns(&self) -> u64 {
        clock::now().as_nanos() as u64
    }

    fn domain(&self, from: DomainId) -> Result<Option<DomainInfo>, Errno> {
        let mut info = DomainInfo::new_zeroed();
        info.domain = from.0;
        match hypercall::control(Operation::DomainInfo, &mut info) {
            Ok(_) => Ok(Some(info)),
            Err(Errno::NoEnt) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn counters(&self, domain: DomainId) -> Result<DomainCounters, Errno> {
        let mut call = CountersCall { domain: domain.0, pad: [0; 3], counters: DomainCounters::default() };
        hypercall::control(Operation::Counters, &mut call)?;
        Ok(call.counters)
    }

    fn vcpu(&self, domain: DomainId, vcpu: VcpuId) -> Result<VcpuInfo, Errno> {
        let mut info = VcpuInfo { domain: domain.0, vcpu: vcpu.0, ..VcpuInfo::default() };
        hypercall::control(Operation::VcpuInfo, &mut info)?;
        Ok(info)
    }

    fn debug_key(&self, key: char, domain: DomainId) -> Result<(), Errno> {
        let mut call = DebugKey { key: key.into(), domain: domain.0, pad: 0 };
        hypercall::control(Operation::DebugKey, &mut call).map(drop)
    }

    fn crash_report(&self, domain: DomainId) -> String {
        let report = read_text(Operation::CrashReport, u64::from(domain.0));
        let report = report.map(|(text, _)| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default();
        match (trunnion_manual::explain(&report), report.split_once('\n')) {
            (Some(broken), Some((first, rest))) => alloc::format!("{first}: {broken}\n{rest}"),
            _ => report,
        }
    }

    fn host_info(&self) -> Result<HostInfo, Errno> {
        host_info()
    }

    fn audit(&self) -> Result<Audit, Errno> {
        let mut audit = Audit::default();
        hypercall::control(Operation::Audit, &mut audit)?;
        // A disk stays plugged in when its domain ends, and so does its interrupt.
        audit.ports = audit.ports.saturating_sub(self.disks.later_ports());
        Ok(audit)
    }

    fn read_log(&self, from: u64) -> Result<(Vec<u8>, u64), Errno> {
        read_text(Operation::ReadLog, from)
    }

    fn power_off(&self) {
        self.spawner.spawn(power_off(Rc::clone(&self.wire)));
    }

    async fn exception(&self) {
        if !self.exceptions.next().await {
            // The port is closed by nobody; without it no end is heard of.
            core::future::pending::<()>().await;
        }
    }

    async fn rest(&self) {
        clock::sleep(TURN).await;
    }

    fn event(&self, event: Event) {
        let last = event == Event::AllEnded;
        self.wire.event(event);
        if last && self.ends_by_itself && !self.has_tool() {
            self.power_off();
        }
    }

    fn attach_channel(
        &self,
        domain: DomainId,
        channel: Channel,
        replay: bool,
        hold: bool,
    ) -> Result<(), Failure> {
        if !self.wire.with(|outbox| outbox.open(channel)) {
            return Err(Failure::new(Code::Channel, format!("channel {channel} is in use")));
        }
        if self.consoles.attach(domain, channel, replay, hold) {
            return Ok(());
        }
        self.wire.with(|outbox| outbox.close(channel));
        Err(Failure::new(Code::State, format!("domain {domain} has no console")))
    }

    fn detach_channel(&self, channel: Channel) -> bool {
        self.consoles.detach(channel);
        self.wire.with(|outbox| outbox.close(channel))
    }

    fn is_watched(&self, domain: DomainId) -> bool {
        !self.consoles.channels(domain).is_empty()
    }

    fn has_tool(&self) -> bool {
        self.wire.greeted.get()
    }

    async fn flush_console(&self, domain: DomainId) {
        let deadline = clock::now() + LAST_BYTES;
        loop {
            self.wire.output.raise();
            let channels = self.consoles.channels(domain);
            let waiting: usize =
                self.wire.with(|outbox| channels.iter().map(|&channel| outbox.waiting(channel)).sum());
            if (waiting == 0 && self.consoles.is_flushed(domain)) || clock::now() > deadline {
                return;
            }
            self.rest().await;
        }
    }

    fn forget_console(&self, domain: DomainId) {
        for channel in self.consoles.forget(domain) {
            self.wire.with(|outbox| outbox.close(channel));
            self.wire.event(Event::ConsoleClosed { channel });
        }
    }

    fn disk_figures(&self, domain: DomainId, disk: &PlannedDisk) -> summary::Disk {
        let counts = self.disks.statistics(domain, disk.vdev.number);
        summary::Disk {
            vdev: disk.vdev.name.clone(),
            path: summary::DevicePath::Pv,
            reads: counts.reads,
            read_bytes: counts.read_bytes,
            writes: counts.writes,
            write_bytes: counts.write_bytes,
            flushes: counts.flushes,
            errors: counts.errors,
        }
    }

    fn disk_media(&self, domain: DomainId, number: u32) -> (u64, Option<String>) {
        self.disks.media(domain, number)
    }

    async fn release_disk(&self, domain: DomainId, disk: &PlannedDisk) -> bool {
        self.disks.release(domain, disk).await
    }

    fn nic_figures(&self, domain: DomainId, number: u32, nic: &Nic) -> summary::Nic {
        let counts = self.nets.statistics(domain, number);
        summary::Nic {
            mac: nic.mac.to_string(),
            path: summary::DevicePath::Pv,
            rx_packets: counts.rx_packets,
            rx_bytes: counts.rx_bytes,
            tx_packets: counts.tx_packets,
            tx_bytes: counts.tx_bytes,
            dropped: counts.dropped(),
        }
    }

    fn nics(&self, domain: DomainId) -> Vec<NicInfo> {
        self.nets.list(domain)
    }

    fn capture_nic(&self, domain: DomainId, number: u32, channel: Channel) -> Result<(), Failure> {
        let capture = Capture::new(channel, Rc::clone(&self.wire.output))
            .ok_or_else(|| Failure::new(Code::NoMemory, "not enough memory for a record of the port"))?;
        if !self.wire.with(|outbox| outbox.open(channel)) {
            return Err(Failure::new(Code::Channel, format!("channel {channel} is in use")));
        }
        self.nets.capture(domain, number, capture);
        self.wire.output.raise();
        Ok(())
    }

    async fn release_nic(&self, domain: DomainId, number: u32) {
        self.nets.release(domain, number).await;
    }

    fn devices(&self) -> Vec<DeviceInfo> {
        self.disks.devices()
    }

    fn store(&self, kind: Kind, payload: &[u8]) -> Result<Vec<u8>, Errno> {
        self.store.with(|client, store| client.request(store, kind, NO_TRANSACTION, payload))
    }

    fn store_list(&self, path: &str) -> Result<Vec<String>, Errno> {
        self.store.with(|client, store| client.list(store, NO_TRANSACTION, path))
    }

    fn store_nodes(&self) -> u64 {
        self.store.handle().with(|store| store.tree().below(&Path::root()).len() as u64)
    }

    fn shut_down(&self, domain: DomainId) {
        self.store.handle().with(|store| store.shut_down(domain));
    }

    fn watch(&self, watch: u32, path: &str) -> Result<(), Errno> {
        if self.wire.watches.borrow().contains_key(&watch) {
            return Err(Errno::Exist);
        }
        let client = self.store.handle().client();
        client.with(|client, store| client.watch(store, path, "tool"))?;
        self.wire.watches.borrow_mut().insert(watch, client);
        self.wire.output.raise();
        Ok(())
    }

    fn unwatch(&self, watch: u32) -> bool {
        self.wire.watches.borrow_mut().remove(&watch).is_some()
    }
}

/// What the hypervisor says of the host.
pub(crate) fn host_info() -> Result<HostInfo, Errno> {
    let mut host = HostInfo::default();
    hypercall::control(Operation::HostInfo, &mut host)?;
    Ok(host)
}

/// Lets what is queued for the tool leave, and ends the platform.
async fn power_off(wire: Rc<Wire>) {
    log::info!("powering off");
    for _ in 0..200 {
        wire.output.raise();
        clock::sleep(TURN).await;
        if wire.is_idle() {
            break;
        }
    }
    // The last frame is with the device; it needs a moment to be on its way.
    clock::sleep(TURN * 5).await;
    if let Err(error) = hypercall::control(Operation::PowerOff, &mut PowerOff::default()) {
        log::error!("the platform cannot be powered off: {error}");
    }
}
