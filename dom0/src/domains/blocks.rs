//! Disks that come and go while their domain runs.

use super::create::disk_code;
use super::{Platform, Toolstack, Wish};
use crate::config::{self, VirtualDevice};
use crate::control::manifest::{Create, Placed, Source};
use crate::control::reply::DiskInfo;
use crate::control::request::DomainName;
use crate::control::{Code, Failure, Reply};
use crate::plan::{PlannedDisk, backend_disk, block, frontend_disk, planned_disk};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use trunnion_protocol::errno::Errno;
use trunnion_protocol::id::DomainId;
use trunnion_protocol::store::Kind;
use trunnion_protocol::xenbus::State;

/// Most disks of a domain.
const MOST: usize = 64;

impl<P: Platform> Toolstack<P> {
    /// The disks of a domain.
    pub(super) fn disks(&self, name: &DomainName) -> Result<Vec<DiskInfo>, Failure> {
        let id = self.find(name)?;
        if id == DomainId::DOM0 {
            return Ok(Vec::new());
        }
        let disks = self.with_disks(id, |disks| disks.clone())?;
        Ok(disks.iter().map(|disk| self.disk_info(id, disk)).collect())
    }

    fn disk_info(&self, id: DomainId, disk: &PlannedDisk) -> DiskInfo {
        let state = self.platform.store(Kind::Read, format!("{}/state\0", backend_disk(id, disk)).as_bytes());
        let (bytes, device) = self.platform.disk_media(id, disk.vdev.number);
        let counts = self.platform.disk_figures(id, disk);
        DiskInfo {
            number: disk.vdev.number,
            vdev: disk.vdev.name.clone(),
            target: disk.target.clone().unwrap_or_default(),
            device,
            bytes,
            read_only: disk.read_only,
            cdrom: disk.cdrom,
            connected: state.is_ok_and(|state| State::parse(&state) == State::Connected),
            reads: counts.reads,
            read_bytes: counts.read_bytes,
            writes: counts.writes,
            write_bytes: counts.write_bytes,
            errors: counts.errors,
        }
    }

    /// Acts on the list of a living domain's disks.
    fn with_disks<R>(
        &self,
        id: DomainId,
        act: impl FnOnce(&mut Vec<PlannedDisk>) -> R,
    ) -> Result<R, Failure> {
        let mut state = self.state.borrow_mut();
        let domain = state.entries.get_mut(&id).and_then(|entry| entry.domain.as_mut());
        domain.map(|domain| act(&mut domain.disks)).ok_or_else(gone)
    }

    /// Gives a running domain a disk.
    pub(super) async fn attach_disk(
        &self,
        name: &DomainName,
        text: &str,
        source: Source,
    ) -> Result<Reply, Failure> {
        let path = config::disk(text).ok().and_then(|disk| disk.target).unwrap_or_default();
        let files = Vec::from([Placed { path, source }]);
        let create = Create { file: String::from("block-attach"), files, ..Create::default() };
        let wish = Wish::new(create, false);
        let attached = self.attach_from(name, text, &wish).await;
        self.forget_files(&wish);
        attached
    }

    async fn attach_from(&self, name: &DomainName, text: &str, wish: &Wish) -> Result<Reply, Failure> {
        let id = self.find_guest(name)?;
        self.check_alive(id)?;
        let disk = config::disk(text).map_err(|found| {
            let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
            Failure::new(Code::Configuration, lines.join("\n"))
        })?;
        let mut disk = planned_disk(&disk);
        let Some(target) = disk.target.clone() else {
            return Err(Failure::new(
                Code::Configuration,
                "a disk that is attached needs an image: target=/path",
            ));
        };
        let source = self.source(wish, "target", &target)?;
        disk.in_memory |= !wish.create.files.iter().any(|placed| matches!(placed.source, Source::Disk(_)));
        self.begin_move(id, &disk.vdev)?;
        let attached = self.attach_planned(id, &disk, source).await;
        self.end_move(id, disk.vdev.number);
        attached?;
        log::info!("a disk is attached domain={id} disk={} target={target}", disk.vdev);
        Ok(Reply::Disks(Vec::from([self.disk_info(id, &disk)])))
    }

    async fn attach_planned(
        &self,
        id: DomainId,
        disk: &PlannedDisk,
        source: crate::build::DiskSource<'_>,
    ) -> Result<(), Failure> {
        let disks = self.with_disks(id, |disks| disks.clone())?;
        if disks.iter().any(|other| other.vdev.number == disk.vdev.number) {
            return Err(Failure::new(Code::State, format!("domain {id} has a disk {} already", disk.vdev)));
        }
        if disks.len() >= MOST {
            return Err(Failure::new(Code::Limit, format!("a domain has at most {MOST} disks")));
        }
        let attached = match self.platform.write_nodes(id, &block(id, disks.is_empty(), disk)).await {
            Ok(()) => self.platform.attach_disk(id, disk, Some(source)).await.map_err(|refusal| {
                Failure::new(disk_code(&refusal), format!("disk {}: {refusal}", disk.vdev))
            }),
            Err(errno) => Err(store(errno, &disk.vdev)),
        };
        if attached.is_err() {
            let _ = self.remove_disk_nodes(id, disk).await;
            return attached;
        }
        // A domain that has ended meanwhile did not know of this disk.
        if self.with_disks(id, |disks| disks.push(disk.clone())).is_err() {
            self.platform.detach_disk(id, disk).await;
            let _ = self.remove_disk_nodes(id, disk).await;
            return Err(gone());
        }
        Ok(())
    }

    /// Takes a disk away.
    pub(super) async fn detach_disk(
        &self,
        name: &DomainName,
        which: &str,
        force: bool,
    ) -> Result<Reply, Failure> {
        let id = self.find_guest(name)?;
        self.check_alive(id)?;
        let number = VirtualDevice::parse(which).map(|vdev| vdev.number);
        let found = self.with_disks(id, |disks| {
            disks.iter().find(|disk| disk.vdev.name == which || Some(disk.vdev.number) == number).cloned()
        })?;
        let disk = found.ok_or_else(|| {
            Failure::new(Code::State, format!("domain {id} has no disk `{which}`; `block-list` shows them"))
        })?;
        if disk.emulated {
            return Err(Failure::new(
                Code::Unsupported,
                format!("{} is a drive of the emulated PC, which keeps it as long as it runs", disk.vdev),
            ));
        }
        self.begin_move(id, &disk.vdev)?;
        let info = self.disk_info(id, &disk);
        let detached = self.detach_planned(id, &disk, force).await;
        self.end_move(id, disk.vdev.number);
        detached?;
        log::info!("a disk is detached domain={id} disk={}", disk.vdev);
        Ok(Reply::Disks(Vec::from([info])))
    }

    async fn detach_planned(&self, id: DomainId, disk: &PlannedDisk, force: bool) -> Result<(), Failure> {
        if !force && !self.platform.release_disk(id, disk).await {
            return Err(Failure::new(
                Code::State,
                format!(
                    "domain {id} has not let go of disk {} so far; it was asked to: detach it again later, or with `--force`",
                    disk.vdev
                ),
            ));
        }
        // Where the domain has ended meanwhile, its disks have gone with it.
        if self.with_disks(id, |disks| disks.retain(|other| other.vdev.number != disk.vdev.number)).is_ok() {
            self.platform.detach_disk(id, disk).await;
            self.remove_disk_nodes(id, disk).await.map_err(|errno| store(errno, &disk.vdev))?;
        }
        Ok(())
    }

    async fn remove_disk_nodes(&self, id: DomainId, disk: &PlannedDisk) -> Result<(), Errno> {
        let back = self.platform.remove_node(&backend_disk(id, disk)).await;
        self.platform.remove_node(&frontend_disk(id, disk)).await.and(back)
    }

    /// Notes that a disk is on its way: what is asked for it meanwhile is refused.
    fn begin_move(&self, id: DomainId, vdev: &VirtualDevice) -> Result<(), Failure> {
        let moving = &mut self.state.borrow_mut().moving;
        if moving.contains(&(id, vdev.number)) {
            let why = format!("disk {vdev} of domain {id} is being attached or detached");
            return Err(Failure::new(Code::State, why));
        }
        moving.push((id, vdev.number));
        Ok(())
    }

    fn end_move(&self, id: DomainId, number: u32) {
        self.state.borrow_mut().moving.retain(|moving| *moving != (id, number));
    }
}

fn gone() -> Failure {
    Failure::new(Code::State, "the domain is ending")
}

fn store(errno: Errno, vdev: &VirtualDevice) -> Failure {
    Failure::new(Code::Store, format!("{}: the nodes of disk {vdev}", errno.name()))
}
