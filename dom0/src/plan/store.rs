//! The nodes of a domain in the store: what a guest, a back end and people's tools find, with the permissions that keep them apart. The layout is
//! that of Xen's `docs/misc/xenstore-paths.pandoc`; back ends run in domain 0.

use super::{Plan, PlannedDisk};
use crate::config::Nic;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use trunnion_protocol::id::{DomainId, Port};

/// Event channels that the guest finds already open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// To the store.
    pub store: Port,
    /// To the console.
    pub console: Port,
}

/// Who may do what with a node, for guest G and back end 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// `n0,rG`: the guest reads.
    GuestReads,
    /// `nG`: the guest's own.
    GuestOwns,
    /// `nG,r0`: a front end's folder.
    FrontEnd,
    /// `n0`: the toolstack's own.
    Private,
}

impl Rights {
    /// As the store's messages have them.
    pub fn entries(self, guest: DomainId) -> Vec<String> {
        match self {
            Self::GuestReads => vec!["n0".into(), format!("r{guest}")],
            Self::GuestOwns => vec![format!("n{guest}")],
            Self::FrontEnd => vec![format!("n{guest}"), "r0".into()],
            Self::Private => vec!["n0".into()],
        }
    }
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Absolute path.
    pub path: String,
    /// Value.
    pub value: String,
    /// Permissions.
    pub rights: Rights,
}

/// Nodes that appear together, in one transaction, parents first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// What it is, for messages.
    pub name: String,
    /// The nodes.
    pub nodes: Vec<Node>,
}

impl Group {
    fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), nodes: Vec::new() }
    }

    fn node(&mut self, path: impl Into<String>, value: &(impl ToString + ?Sized), rights: Rights) {
        self.nodes.push(Node { path: path.into(), value: value.to_string(), rights });
    }

    fn folder(&mut self, path: &str, rights: Rights, values: &[(&str, &dyn ToString)]) {
        self.node(path, "", rights);
        for (name, value) in values {
            self.node(format!("{path}/{name}"), *value, rights);
        }
    }
}

/// The folder of a disk's back end.
pub fn backend_disk(domain: DomainId, disk: &PlannedDisk) -> String {
    format!("/local/domain/0/backend/vbd/{domain}/{}", disk.vdev.number)
}

/// The folder of a disk's front end.
pub fn frontend_disk(domain: DomainId, disk: &PlannedDisk) -> String {
    format!("/local/domain/{domain}/device/vbd/{}", disk.vdev.number)
}

/// Topmost nodes of everything that a domain has in the store, also of what its devices added; removing them removes all.
pub fn roots(domain: DomainId, uuid: &[u8; 16]) -> Vec<String> {
    let backend = |kind: &str| format!("/local/domain/0/backend/{kind}/{domain}");
    vec![
        backend("vbd"),
        backend("vif"),
        backend("console"),
        format!("/local/domain/{domain}"),
        format!("/vm/{}", uuid_text(uuid)),
        format!("/libxl/{domain}"),
    ]
}

/// All groups, in the order in which they are written: the domain itself, then a group for each device.
pub fn tree(plan: &Plan, domain: DomainId, ports: Ports) -> Vec<Group> {
    let mut groups = vec![basics(plan, domain, ports)];
    groups.extend(plan.disks.iter().enumerate().map(|(index, disk)| block(domain, index == 0, disk)));
    groups.extend((0..).zip(&plan.nics).map(|(number, nic)| network(domain, number, nic)));
    groups
}

/// The folder of a network port's back end.
pub fn backend_nic(domain: DomainId, number: u32) -> String {
    format!("/local/domain/0/backend/vif/{domain}/{number}")
}

/// The folder of a network port's front end.
pub fn frontend_nic(domain: DomainId, number: u32) -> String {
    format!("/local/domain/{domain}/device/vif/{number}")
}

/// The nodes of a network port.
pub fn network(domain: DomainId, number: u32, nic: &Nic) -> Group {
    let mut group = Group::new(format!("network {}", nic.mac));
    let (front, back) = (frontend_nic(domain, number), backend_nic(domain, number));
    if number == 0 {
        group.node(format!("/local/domain/{domain}/device/vif"), "", Rights::GuestReads);
    }
    group.folder(
        &front,
        Rights::FrontEnd,
        &[
            ("backend", &back),
            ("backend-id", &0),
            ("state", &1),
            ("handle", &number),
            ("mac", &nic.mac),
            ("trusted", &1),
        ],
    );
    group.folder(
        &back,
        Rights::GuestReads,
        &[
            ("frontend", &front),
            ("frontend-id", &domain),
            ("online", &1),
            ("state", &1),
            ("handle", &number),
            ("mac", &nic.mac),
            ("bridge", &nic.bridge_name()),
            ("type", &"vif"),
            ("hotplug-status", &"connected"),
        ],
    );
    if let Some(ip) = &nic.ip {
        group.node(format!("{back}/ip"), ip, Rights::GuestReads);
    }
    group
}

fn basics(plan: &Plan, domain: DomainId, ports: Ports) -> Group {
    use Rights::{GuestOwns, GuestReads, Private};
    let mut group = Group::new("domain");
    let home = format!("/local/domain/{domain}");
    let uuid = uuid_text(&plan.uuid);
    let vm = format!("/vm/{uuid}");
    group.folder(&home, GuestReads, &[("vm", &vm), ("name", &plan.name), ("domid", &domain)]);
    group.node(format!("{home}/cpu"), "", GuestReads);
    for vcpu in 0..plan.max_vcpus {
        let cpu = format!("{home}/cpu/{vcpu}");
        let state = if vcpu < plan.vcpus { "online" } else { "offline" };
        group.folder(&cpu, GuestReads, &[("availability", &state)]);
    }
    // Maximum and target are the same: a guest that starts with less than its maximum would wait for the rest (Linux, 180 s).
    let kib = plan.ram_pages * 4;
    group.folder(
        &format!("{home}/memory"),
        GuestReads,
        &[("static-max", &kib), ("target", &kib), ("videoram", &0)],
    );
    group.folder(
        &format!("{home}/store"),
        GuestReads,
        &[("port", &ports.store), ("ring-ref", &super::STORE_FRAME.0)],
    );
    let backend = format!("/local/domain/0/backend/console/{domain}/0");
    group.folder(
        &format!("{home}/console"),
        GuestReads,
        &[
            ("backend", &backend),
            ("backend-id", &0),
            ("limit", &1_048_576),
            ("type", &"xenconsoled"),
            ("output", &"pty"),
            ("tty", &""),
            ("port", &ports.console),
            ("ring-ref", &super::CONSOLE_FRAME.0),
        ],
    );
    group.node(format!("{home}/device"), "", GuestReads);
    group.node(format!("{home}/device/suspend"), "", GuestReads);
    group.node(format!("{home}/device/suspend/event-channel"), "", GuestOwns);
    group.folder(
        &format!("{home}/control"),
        GuestReads,
        &[("platform-feature-multiprocessor-suspend", &1), ("platform-feature-xs_reset_watches", &1)],
    );
    for name in ["shutdown", "sysrq", "feature-poweroff", "feature-reboot", "feature-suspend"] {
        group.node(format!("{home}/control/{name}"), "", GuestOwns);
    }
    for name in ["data", "drivers", "feature", "attr", "error"] {
        group.node(format!("{home}/{name}"), "", GuestOwns);
    }
    group.folder(
        &backend,
        GuestReads,
        &[
            ("frontend", &format!("{home}/console")),
            ("frontend-id", &domain),
            ("online", &1),
            ("state", &1),
            ("protocol", &"vt100"),
        ],
    );
    group.folder(&vm, GuestReads, &[("uuid", &uuid), ("name", &plan.name)]);
    let private = format!("/libxl/{domain}");
    group.folder(&private, Private, &[("type", &if plan.pc.is_some() { "hvm" } else { "pvh" })]);
    group
}

/// The nodes of a disk; those of a domain's first are made with the folder above, which belongs to no one device.
pub fn block(domain: DomainId, first: bool, disk: &PlannedDisk) -> Group {
    let number = disk.vdev.number;
    let mut group = Group::new(format!("disk {}", disk.vdev));
    let (front, back) = (frontend_disk(domain, disk), backend_disk(domain, disk));
    let kind = if disk.cdrom { "cdrom" } else { "disk" };
    if first {
        group.node(format!("/local/domain/{domain}/device/vbd"), "", Rights::GuestReads);
    }
    group.folder(
        &front,
        Rights::FrontEnd,
        &[
            ("backend", &back),
            ("backend-id", &0),
            ("state", &1),
            ("virtual-device", &number),
            ("device-type", &kind),
            ("trusted", &1),
        ],
    );
    group.folder(
        &back,
        Rights::GuestReads,
        &[
            ("frontend", &front),
            ("frontend-id", &domain),
            ("online", &1),
            ("removable", &u8::from(disk.cdrom)),
            ("bootable", &u8::from(first)),
            ("state", &1),
            ("dev", &disk.vdev),
            ("type", &"phy"),
            ("mode", &if disk.read_only { "r" } else { "w" }),
            ("device-type", &kind),
            ("params", &disk.target.as_deref().unwrap_or_default()),
            ("discard-enable", &u8::from(disk.discard && !disk.read_only)),
        ],
    );
    group
}

/// Lower-case hex with dashes.
pub(crate) fn uuid_text(uuid: &[u8; 16]) -> String {
    let mut text = String::new();
    for (index, byte) in uuid.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        for digit in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(digit.into(), 16));
        }
    }
    text
}
