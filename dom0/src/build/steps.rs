//! The steps, in order.

use super::host::{POPULATE_MAX, WRITE_MAX};
use super::{Cause, Domain, Error, File, Files, Host, ModelParts, Step};
use crate::plan::{self, CONSOLE_FRAME, Content, Extent, Ports, STORE_FRAME};
use alloc::vec::Vec;
use core::ops::Range;
use trunnion_protocol::address::{Gfn, Gpa};
use trunnion_protocol::errno::Errno;
use trunnion_protocol::hypercall::hvm::Param;
use trunnion_protocol::id::{DomainId, GrantRef, VcpuId};

/// Says where an error happened.
trait At<T> {
    fn at(self, step: Step) -> Result<T, Error>;
}

impl<T, E: Into<Cause>> At<T> for Result<T, E> {
    fn at(self, step: Step) -> Result<T, Error> {
        self.map_err(|cause| Error { step, cause: cause.into() })
    }
}

pub(super) async fn all<H: Host>(domain: &mut Domain, files: &Files<'_>, host: &H) -> Result<(), Error> {
    let id = host.create(&domain.plan).at(Step::Create)?;
    domain.id = Some(id);
    let plan = &domain.plan;
    host.set_scheduling(id, plan.weight, plan.cap).at(Step::Schedule)?;
    for extent in &plan.extents {
        populate(host, id, *extent).await.at(Step::Populate)?;
    }
    host.set_memory_map(id, &plan.memory_map).at(Step::MemoryMap)?;
    for write in &plan.writes {
        let (file, range) = match &write.content {
            Content::Kernel(range) => (files.kernel, range.start as u64..range.end as u64),
            Content::Ramdisk => (files.ramdisk, 0..files.ramdisk.size()),
            Content::Firmware(range) => (files.firmware, range.clone()),
            Content::Bytes(bytes) => (File::Here(bytes), 0..bytes.len() as u64),
        };
        load(host, id, write.address, file, range).await.at(Step::Load)?;
    }

    // The ports belong to the new domain: they go with it.
    let ports =
        Ports { store: host.open_port(id).at(Step::Ports)?, console: host.open_port(id).at(Step::Ports)? };
    for (param, value) in [
        (Param::StorePfn, STORE_FRAME.0),
        (Param::StoreEvtchn, ports.store.0.into()),
        (Param::ConsolePfn, CONSOLE_FRAME.0),
        (Param::ConsoleEvtchn, ports.console.0.into()),
    ] {
        host.set_param(id, param, value).at(Step::Params)?;
    }
    host.seed_grant(id, GrantRef::CONSOLE, CONSOLE_FRAME).at(Step::Grants)?;
    host.seed_grant(id, GrantRef::STORE, STORE_FRAME).at(Step::Grants)?;
    host.set_state(id, VcpuId(0), &plan.state()).at(Step::State)?;

    host.attach_console(id, &plan.name, CONSOLE_FRAME, ports.console).await.at(Step::Console)?;
    domain.console = true;
    for group in plan::tree(&domain.plan, id, ports) {
        domain.nodes = true;
        host.write_nodes(id, &group).await.at(Step::Store(group.name.clone()))?;
    }
    host.introduce(id, STORE_FRAME, ports.store).await.at(Step::Introduce)?;
    domain.introduced = true;
    for (index, disk) in domain.plan.disks.iter().enumerate() {
        let source = files.disks.get(index).copied().flatten();
        host.attach_disk(id, disk, source)
            .await
            .map_err(Cause::Disk)
            .at(Step::Disk(disk.vdev.name.clone()))?;
        domain.disks.push(disk.clone());
    }
    for (number, nic) in (0..).zip(&domain.plan.nics) {
        host.attach_nic(id, number, nic).await.at(Step::Nic(alloc::format!("{}", nic.mac)))?;
        domain.nics.push((number, nic.clone()));
    }
    if let Some(pc) = &domain.plan.pc {
        let screen = whole(host, files.screen).await.at(Step::Model)?;
        let parts = ModelParts {
            pc,
            nics: &domain.plan.nics,
            vcpus: domain.plan.max_vcpus,
            uuid: domain.plan.uuid,
            screen,
        };
        // Even a failed start may have given the hypervisor pages.
        domain.model = true;
        host.attach_model(id, parts, files.floppy).await.at(Step::Model)?;
    }
    Ok(())
}

/// A small file, all of it.
async fn whole<H: Host>(host: &H, file: File<'_>) -> Result<Vec<u8>, Cause> {
    match file {
        File::Here(bytes) => Ok(bytes.to_vec()),
        File::Streamed(stream) if stream.size <= WRITE_MAX as u64 => {
            host.fetch(stream, 0, stream.size as usize).await.map_err(Cause::Stream)
        }
        File::Streamed(_) => Err(Cause::Files),
    }
}

/// Populates an extent, with smaller pieces where the host has no large ones left.
async fn populate<H: Host>(host: &H, domain: DomainId, extent: Extent) -> Result<(), Errno> {
    let mut todo: Vec<Extent> = alloc::vec![extent];
    while let Some(extent) = todo.pop() {
        let frames: Vec<Gfn> = extent.frames().take(POPULATE_MAX).collect();
        let done = host.populate(domain, extent.order, &frames)?.min(frames.len());
        let rest = Extent {
            first: Gfn(extent.first.0 + ((done as u64) << extent.order)),
            count: extent.count - done as u64,
            ..extent
        };
        if done == frames.len() {
            if rest.count > 0 {
                todo.push(rest);
            }
        } else {
            // From here on, the next smaller size.
            let step = match rest.order {
                0 => return Err(Errno::NoMem),
                order => 9.min(order),
            };
            todo.push(Extent { first: rest.first, order: rest.order - step, count: rest.count << step });
        }
        host.breathe().await;
    }
    Ok(())
}

/// Puts a range of a file into the domain's memory, a piece at a time.
async fn load<H: Host>(
    host: &H,
    domain: DomainId,
    address: Gpa,
    file: File<'_>,
    range: Range<u64>,
) -> Result<(), Cause> {
    let mut at = range.start;
    while at < range.end {
        let length = usize::try_from(range.end - at).unwrap_or(WRITE_MAX).min(WRITE_MAX);
        let to = address.checked_add(at - range.start).ok_or(Errno::Inval)?;
        match file {
            File::Here(bytes) => {
                let start = usize::try_from(at).map_err(|_| Cause::Files)?;
                let piece = bytes.get(start..).and_then(|rest| rest.get(..length)).ok_or(Cause::Files)?;
                host.write(domain, to, piece)?;
            }
            File::Streamed(stream) => {
                let piece = host.fetch(stream, at, length).await.map_err(Cause::Stream)?;
                host.write(domain, to, &piece)?;
            }
        }
        at += length as u64;
        host.breathe().await;
    }
    Ok(())
}
