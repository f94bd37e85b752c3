//! The PC of a guest: its drives on dom0's storage, its cards on the bridges, its serial line on a console.

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;

use trunnion_backends::bridge::{Bridge, PortId};
use trunnion_backends::device::CharDevice;
use trunnion_devices::board::{Board, Nic, Parts};
use trunnion_devices::e1000::E1000;
use trunnion_devices::ide::Kind;
use trunnion_devices::ne2000::Ne2000;
use trunnion_guest::clock;
use trunnion_protocol::id::DomainId;

use super::line::Line;
use super::memory::Ram;
use super::outlet::Outlet;
use crate::build::ModelParts;
use crate::config;
use crate::model::firmware;
use crate::services::console::Consoles;
use crate::services::disks::{Device, Disks};
use crate::services::nets::Nets;

/// What a model serves its guest from.
pub struct Sources<'a> {
    /// The drives' storage.
    pub disks: &'a Disks,
    /// The cards' networks.
    pub nets: &'a Nets,
    /// Where the serial port leads.
    pub consoles: &'a Rc<Consoles>,
    /// What is in the floppy drive.
    pub floppy: Option<Device>,
}

/// The ports of bridges that a guest's cards have.
pub(super) type Joined = Vec<(Rc<Bridge>, PortId)>;

/// The PC with all that is in it.
pub(super) fn board(
    domain: DomainId,
    parts: &ModelParts<'_>,
    sources: &mut Sources<'_>,
) -> (Board<Ram>, Joined) {
    let pc = parts.pc;
    let mut joined = Vec::new();
    let mut nics = Vec::new();
    for nic in parts.nics.iter().filter(|nic| nic.emulated) {
        let bridge = sources.nets.bridge(nic.bridge_name());
        let outlet = Outlet::new(Rc::clone(&bridge));
        let way = Some(Rc::<Outlet>::clone(&outlet) as _);
        let (card, inbox) = match nic.model {
            config::Model::E1000 => {
                let card = E1000::new(nic.mac.0, way);
                let inbox = card.inbox();
                (Nic::E1000(card), inbox)
            }
            config::Model::Ne2000 => {
                let card = Ne2000::new(nic.mac.0, way);
                let inbox = card.inbox();
                (Nic::Ne2000(card), inbox)
            }
        };
        let id = bridge.join(inbox, clock::now());
        outlet.joined(id);
        joined.push((bridge, id));
        nics.push(card);
    }
    let line = pc.serial.then(|| sources.consoles.line(domain)).map(|line| {
        let line: Box<dyn CharDevice> = Box::new(Line(line));
        line
    });
    let mut board = Board::new(Parts {
        memory: Ram::new(domain, pc.memory()),
        ram: pc.ram,
        cpus: parts.vcpus as u16,
        epoch: clock::unix_time().as_secs(),
        vga_rom: Some(parts.screen.clone()),
        hpet: pc.hpet,
        platform: pc.platform,
        serial: [line, None],
        nics,
    });
    for drive in &pc.drives {
        let kind = if drive.cdrom { Kind::Cd } else { Kind::Disk };
        let storage = drive.disk.and_then(|number| sources.disks.take_emulated(domain, number));
        let serial = format!("TR{:05}", drive.disk.unwrap_or(0));
        board.ide.attach(usize::from(drive.place >> 1), usize::from(drive.place & 1), kind, storage, &serial);
    }
    if let Some(floppy) = sources.floppy.take() {
        board.insert_floppy(0, Some(floppy));
    }
    firmware::furnish(&mut board, pc, parts.vcpus, parts.uuid);
    (board, joined)
}
