//! What builder and toolstack ask of dom0: control hypercalls and dom0's services.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use trunnion_guest::clock;
use trunnion_guest::events::{self, Listener};
use trunnion_guest::executor::{Spawner, yield_now};
use trunnion_guest::hypercall;
use trunnion_protocol::address::{Gfn, Gpa, Gva, PAGE_SIZE};
use trunnion_protocol::control::{
    Audit, CountersCall, CreateDomain, DebugKey, DomainCounters, DomainInfo, DomainRef, HostInfo, NAME_BYTES,
    Operation, PowerOff, ReadText, Scheduling, SeedGrant, VcpuInfo, VcpuState, VcpuStateCall, create_flags,
};
use trunnion_protocol::errno::Errno;
use trunnion_protocol::hypercall::Hypercall;
use trunnion_protocol::hypercall::hvm::Param;
use trunnion_protocol::hypercall::memory::{self, Region, Reservation, SetMemoryMap};
use trunnion_protocol::id::{DomainId, GrantRef, Port, VcpuId};
use trunnion_protocol::store::Kind;
use trunnion_xenstore::local::NO_TRANSACTION;
use trunnion_xenstore::path::Path;
use zerocopy::FromZeros;

use super::capture::Capture;
use super::console::Consoles;
use super::disks::{Disks, Media};
use super::foreign::Foreign;
use super::model::{Models, Sources};
use super::nets::Nets;
use super::store::Client;
use super::wire::Wire;
use crate::build::{Cause, DiskRefusal, DiskSource, File, Host, ModelParts, Stream, WRITE_MAX};
use crate::config::{Nic, VirtualDevice};
use crate::control::manifest::{Placed, Source};
use crate::control::reply::{DeviceInfo, NicInfo};
use crate::control::request::{Press, View};
use crate::control::{Channel, Code, Event, Failure, Reply, summary};
use crate::domains::{Platform, no_pc};
use crate::plan::pc::place;
use crate::plan::{Group, Pc, Plan, PlannedDisk};

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

fn on_domain(operation: Operation, domain: DomainId) -> Result<(), Errno> {
    hypercall::control(operation, &mut DomainRef { domain: domain.0, pad: [0; 3] }).map(drop)
}

impl Host for Dom0 {
    fn create(&self, plan: &Plan) -> Result<DomainId, Errno> {
        let mut name = [0; NAME_BYTES];
        // The last byte stays 0.
        for (to, from) in name.iter_mut().take(NAME_BYTES - 1).zip(plan.name.bytes()) {
            *to = from;
        }
        let mut call = CreateDomain {
            domain: 0,
            flags: if plan.pc.is_some() { create_flags::OWN_APIC_IDS } else { 0 },
            vcpus: plan.max_vcpus,
            max_pages: plan.max_pages,
            uuid: plan.uuid,
            name,
        };
        hypercall::control(Operation::CreateDomain, &mut call)?;
        Ok(DomainId(call.domain))
    }

    fn destroy(&self, domain: DomainId) -> Result<(), Errno> {
        on_domain(Operation::DestroyDomain, domain)
    }

    fn set_scheduling(&self, domain: DomainId, weight: u32, cap: u32) -> Result<(), Errno> {
        let mut call = Scheduling { domain: domain.0, weight, cap, ..Scheduling::default() };
        hypercall::control(Operation::SetScheduling, &mut call).map(drop)
    }

    fn populate(&self, domain: DomainId, order: u32, frames: &[Gfn]) -> Result<usize, Errno> {
        let extents: Vec<u64> = frames.iter().map(|frame| frame.0).collect();
        let mut call = Reservation {
            extents: Gva(extents.as_ptr() as u64),
            count: extents.len() as u64,
            order,
            flags: 0,
            domain,
        };
        let operation = u64::from(memory::Op::PopulatePhysmap.number());
        hypercall::with(Hypercall::MemoryOp, operation, &mut call).map(|done| done as usize)
    }

    fn set_memory_map(&self, domain: DomainId, map: &[Region]) -> Result<(), Errno> {
        let bytes: Vec<u8> = map.iter().flat_map(|region| region.to_bytes()).collect();
        let mut call = SetMemoryMap { domain, count: map.len() as u32, buffer: Gva(bytes.as_ptr() as u64) };
        let operation = u64::from(memory::Op::SetMemoryMap.number());
        hypercall::with(Hypercall::MemoryOp, operation, &mut call).map(drop)
    }

    fn write(&self, domain: DomainId, address: Gpa, bytes: &[u8]) -> Result<(), Errno> {
        let offset = address.page_offset();
        let count = (offset + bytes.len()).div_ceil(PAGE_SIZE);
        let foreign = Foreign::map(domain, address.frame(), count as u32)?;
        let mut rest = bytes;
        let mut at = offset;
        for page in foreign.pages() {
            let (piece, next) = rest.split_at(rest.len().min(PAGE_SIZE - at));
            page.copy_in(at, piece).map_err(|_| Errno::Fault)?;
            rest = next;
            at = 0;
        }
        if rest.is_empty() { Ok(()) } else { Err(Errno::Fault) }
    }

    fn open_port(&self, domain: DomainId) -> Result<Port, Errno> {
        events::alloc_unbound(domain, DomainId::DOM0)
    }

    fn set_param(&self, domain: DomainId, param: Param, value: u64) -> Result<(), Errno> {
        hypercall::set_param(domain, param, value)
    }

    fn seed_grant(&self, domain: DomainId, reference: GrantRef, frame: Gfn) -> Result<(), Errno> {
        let to = DomainId::DOM0.0;
        let mut call = SeedGrant { domain: domain.0, to, reference: reference.0, gfn: frame.0 };
        hypercall::control(Operation::SeedGrant, &mut call).map(drop)
    }

    fn set_state(&self, domain: DomainId, vcpu: VcpuId, state: &VcpuState) -> Result<(), Errno> {
        let mut call = VcpuStateCall { domain: domain.0, pad: 0, vcpu: vcpu.0, state: *state };
        hypercall::control(Operation::SetVcpuState, &mut call).map(drop)
    }

    fn unpause(&self, domain: DomainId) -> Result<(), Errno> {
        on_domain(Operation::Unpause, domain)
    }

    fn pause(&self, domain: DomainId) -> Result<(), Errno> {
        on_domain(Operation::Pause, domain)
    }

    async fn breathe(&self) {
        yield_now().await;
    }

    async fn fetch(&self, stream: Stream, offset: u64, length: usize) -> Result<Vec<u8>, Errno> {
        self.wire.fetch(stream.file, offset, length).await
    }

    async fn attach_console(&self, domain: DomainId, _: &str, frame: Gfn, port: Port) -> Result<(), Errno> {
        self.consoles.connect(domain, frame, port)
    }

    async fn detach_console(&self, domain: DomainId) {
        self.consoles.disconnect(domain);
    }

    async fn write_nodes(&self, domain: DomainId, group: &Group) -> Result<(), Errno> {
        self.store.transaction(|client, store, transaction| {
            for node in &group.nodes {
                client.write(store, transaction, &node.path, node.value.as_bytes())?;
                let rights = node.rights.entries(domain);
                let rights: Vec<&str> = rights.iter().map(alloc::string::String::as_str).collect();
                client.set_perms(store, transaction, &node.path, &rights)?;
            }
            Ok(())
        })
    }

    async fn remove_node(&self, path: &str) -> Result<(), Errno> {
        match self.store.with(|client, store| client.remove(store, 0, path)) {
            Err(Errno::NoEnt) => Ok(()),
            other => other,
        }
    }

    async fn introduce(&self, domain: DomainId, frame: Gfn, port: Port) -> Result<(), Errno> {
        let payload = format!("{domain}\0{}\0{port}\0", frame.0);
        self.store
            .with(|client, store| client.request(store, Kind::Introduce, 0, payload.as_bytes()).map(drop))
    }

    async fn release(&self, domain: DomainId) {
        self.store.handle().with(|store| store.remove_domain(domain));
    }

    async fn attach_disk(
        &self,
        domain: DomainId,
        disk: &PlannedDisk,
        source: Option<DiskSource<'_>>,
    ) -> Result<(), DiskRefusal> {
        let media = self.media(disk, source).await?;
        self.disks.attach(domain, disk, media).await
    }

    async fn detach_disk(&self, domain: DomainId, disk: &PlannedDisk) {
        self.disks.detach(domain, disk).await;
    }

    async fn attach_model(
        &self,
        domain: DomainId,
        parts: ModelParts<'_>,
        floppy: Option<DiskSource<'_>>,
    ) -> Result<(), Cause> {
        let floppy = match (floppy, floppy_disk(parts.pc)) {
            (Some(source), Some(disk)) => {
                let media = self.media(&disk, Some(source)).await.map_err(Cause::Disk)?;
                Some(self.disks.open_emulated(domain, &disk, media).map_err(Cause::Disk)?)
            }
            _ => None,
        };
        let sources = Sources { disks: &self.disks, nets: &self.nets, consoles: &self.consoles, floppy };
        Ok(self.models.attach(domain, &parts, sources)?)
    }

    async fn detach_model(&self, domain: DomainId) {
        self.models.detach(domain).await;
        for number in [FLOPPY].into_iter().chain(INSERTED..INSERTED + 4) {
            self.disks.close_others(domain, number, None);
        }
    }

    fn forget_model(&self, domain: DomainId) {
        self.models.forget(domain);
    }

    async fn attach_nic(&self, domain: DomainId, number: u32, nic: &Nic) -> Result<(), Errno> {
        self.nets.attach(domain, number, nic).await
    }

    async fn detach_nic(&self, domain: DomainId, number: u32) {
        self.nets.detach(domain, number).await;
    }
}

impl Dom0 {
    /// Where a disk's content is, fetched as far as it has to be.
    async fn media<'a>(
        &self,
        disk: &PlannedDisk,
        source: Option<DiskSource<'a>>,
    ) -> Result<Media<'a>, DiskRefusal> {
        let target = disk.target.clone().unwrap_or_default();
        Ok(match source {
            None => return Err(DiskRefusal::Missing { target }),
            Some(DiskSource::Device(name)) => Media::Device(name),
            Some(DiskSource::Memory(file)) => {
                let size = file.size();
                let mut bytes = Vec::new();
                let room =
                    usize::try_from(size).ok().and_then(|size| bytes.try_reserve_exact(size).ok()).is_some();
                if !room {
                    return Err(DiskRefusal::NoMemory { target, bytes: size });
                }
                match file {
                    File::Here(content) => bytes.extend_from_slice(content),
                    File::Streamed(stream) => {
                        while (bytes.len() as u64) < size {
                            let length = WRITE_MAX.min(size as usize - bytes.len());
                            let piece = self.fetch(stream, bytes.len() as u64, length).await;
                            bytes.extend_from_slice(&piece.map_err(DiskRefusal::Failed)?);
                        }
                    }
                }
                Media::Memory(bytes)
            }
        })
    }
}

/// The number of the disk in the floppy drive among a domain's disks (`fd0`).
const FLOPPY: u32 = 2 << 8;

/// Numbers of the discs that were put into the four IDE drives while the guest ran.
const INSERTED: u32 = 1 << 31;

/// The disk in the floppy drive.
fn floppy_disk(pc: &Pc) -> Option<PlannedDisk> {
    Some(PlannedDisk {
        vdev: VirtualDevice { name: "fd0".into(), number: FLOPPY },
        target: Some(pc.floppy.clone()?),
        read_only: false,
        cdrom: false,
        in_memory: false,
        discard: false,
        emulated: true,
    })
}

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

    fn debug_key(&self, key: char) -> Result<(), Errno> {
        hypercall::control(Operation::DebugKey, &mut DebugKey { key: key.into(), pad: 0 }).map(drop)
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
