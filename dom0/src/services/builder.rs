//! What the builder asks of dom0: control hypercalls and dom0's services.

use alloc::format;
use alloc::vec::Vec;

use trunnion_guest::events;
use trunnion_guest::executor::yield_now;
use trunnion_guest::hypercall;
use trunnion_protocol::address::{Gfn, Gpa, Gva, PAGE_SIZE};
use trunnion_protocol::control::{
    CreateDomain, DomainRef, NAME_BYTES, Operation, Scheduling, SeedGrant, VcpuState, VcpuStateCall,
};
use trunnion_protocol::errno::Errno;
use trunnion_protocol::hypercall::Hypercall;
use trunnion_protocol::hypercall::hvm::Param;
use trunnion_protocol::hypercall::memory::{self, Region, Reservation, SetMemoryMap};
use trunnion_protocol::id::{DomainId, GrantRef, Port, VcpuId};
use trunnion_protocol::store::Kind;

use super::disks::{Media, Memory};
use super::foreign::Foreign;
use super::model::Sources;
use super::platform::{Dom0, INSERTED};
use crate::build::{Cause, DiskRefusal, DiskSource, File, Host, ModelParts, Stream, WRITE_MAX};
use crate::config::{Nic, VirtualDevice};
use crate::plan::{Group, Pc, Plan, PlannedDisk};

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
            flags: 0,
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
                let mut memory = Memory::new(size).ok_or(DiskRefusal::NoMemory { target, bytes: size })?;
                let bytes = memory.as_mut();
                match file {
                    File::Here(content) => bytes.copy_from_slice(content),
                    File::Streamed(stream) => {
                        for (index, piece) in bytes.chunks_mut(WRITE_MAX).enumerate() {
                            let from = (index * WRITE_MAX) as u64;
                            let fetched = self.fetch(stream, from, piece.len()).await;
                            piece.copy_from_slice(&fetched.map_err(DiskRefusal::Failed)?);
                        }
                    }
                }
                Media::Memory(memory)
            }
        })
    }
}

/// The number of the disk in the floppy drive among a domain's disks (`fd0`).
const FLOPPY: u32 = 2 << 8;

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
