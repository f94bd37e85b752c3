//! The steps, in order.

use super::host::{POPULATE_MAX, WRITE_MAX};
use super::{Cause, Domain, Error, Files, Host, Step};
use crate::plan::{self, CONSOLE_FRAME, Content, Extent, Ports, STORE_FRAME};
use alloc::vec::Vec;
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
        let bytes = match &write.content {
            Content::Kernel(range) => files.kernel.get(range.clone()).ok_or(Cause::Files).at(Step::Load)?,
            Content::Ramdisk => files.ramdisk,
            Content::Bytes(bytes) => bytes,
        };
        load(host, id, write.address, bytes).await.at(Step::Load)?;
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
        domain.disks = index + 1;
    }
    Ok(())
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

async fn load<H: Host>(host: &H, domain: DomainId, address: Gpa, bytes: &[u8]) -> Result<(), Errno> {
    let mut at = address;
    for piece in bytes.chunks(WRITE_MAX) {
        host.write(domain, at, piece)?;
        at = at.checked_add(piece.len() as u64).ok_or(Errno::Inval)?;
        host.breathe().await;
    }
    Ok(())
}
