//! The toolstack on a host that counts, from the manifest to the last domain's end.

mod verbs;

use super::*;
use crate::build::fake::{FakeHost, run};
use crate::control::manifest::{Placed, Source};
use crate::control::reply::DeviceInfo;
use crate::control::request::{DeviceRequest, ShutdownKind, StoreRequest};
use crate::control::summary::{Leaks, Outcome};
use crate::control::{Channel, Reply, Request};
use crate::image;
use crate::plan::PlannedDisk;
use alloc::vec;
use core::task::{Context, Waker};
use trunnion_protocol::control::{self, Audit, DomainCounters, HostInfo, domain_state};
use trunnion_protocol::errno::Errno;
use trunnion_protocol::id::VcpuId;
use trunnion_protocol::store::Kind;
use zerocopy::FromZeros;

const FREE: u64 = 100_000;

impl Platform for FakeHost {
    fn now_ns(&self) -> u64 {
        self.now.set(self.now.get() + 1);
        self.now.get()
    }

    fn domain(&self, from: DomainId) -> Result<Option<DomainInfo>, Errno> {
        let guests = self.guests.borrow();
        let Some((&id, guest)) = guests.range(from.0..).next() else { return Ok(None) };
        let mut info = DomainInfo::new_zeroed();
        info.domain = id;
        info.pages = guest.frames.values().map(|order| 1 << order).sum();
        (info.vcpus, info.online_vcpus) = (1, 1);
        info.first_run_ns = 1;
        info.ended_ns = 5_000_000_000;
        info.name[..guest.name.len()].copy_from_slice(guest.name.as_bytes());
        match self.down.borrow().get(&id) {
            Some(reason) => (info.state, info.shutdown_reason) = (domain_state::SHUTDOWN, *reason),
            None if guest.pauses > 0 => info.state = domain_state::PAUSED,
            None => info.state = domain_state::RUNNABLE,
        }
        Ok(Some(info))
    }

    fn counters(&self, domain: DomainId) -> Result<DomainCounters, Errno> {
        let mut counters = DomainCounters::new_zeroed();
        counters.hypercalls[32] = u64::from(domain.0);
        counters.exits[0].count = 9;
        Ok(counters)
    }

    fn vcpu(&self, domain: DomainId, vcpu: VcpuId) -> Result<control::VcpuInfo, Errno> {
        let guests = self.guests.borrow();
        let guest = guests.get(&domain.0).filter(|_| vcpu.0 == 0).ok_or(Errno::NoEnt)?;
        let (weight, cap) = guest.scheduling;
        let (activity, cpu_ns) = (control::activity::BLOCKED, 1_500_000_000);
        Ok(control::VcpuInfo { activity, cpu_ns, weight, cap, ..control::VcpuInfo::default() })
    }

    fn debug_key(&self, key: char, _: DomainId) -> Result<(), Errno> {
        if key == 'h' { Ok(()) } else { Err(Errno::Inval) }
    }

    fn crash_report(&self, _: DomainId) -> String {
        "\ntriple fault at 0x10\nrax 0\n".into()
    }

    fn host_info(&self) -> Result<HostInfo, Errno> {
        Ok(HostInfo { free_bytes: self.free_pages.get() * 4096, cpus: 1, features: 2, ..HostInfo::default() })
    }

    fn audit(&self) -> Result<Audit, Errno> {
        let guests = self.guests.borrow();
        let frames: u64 =
            guests.values().flat_map(|guest| guest.frames.values()).map(|order| 1 << order).sum();
        Ok(Audit { frames: frames + self.leaked.get(), ..Audit::default() })
    }

    fn read_log(&self, from: u64) -> Result<(Vec<u8>, u64), Errno> {
        let log = b"the hypervisor starts\n";
        Ok((log[(from as usize).min(log.len())..].to_vec(), log.len() as u64))
    }

    fn power_off(&self) {
        self.off.set(true);
    }

    async fn exception(&self) {
        // The second wait of a test has nothing to wait for.
        if self.down.borrow().is_empty() || self.guests.borrow().is_empty() {
            core::future::pending::<()>().await;
        }
    }

    async fn rest(&self) {
        // Whoever waits is told by the clock when to give up.
        self.now.set(self.now.get() + 1_000_000);
    }

    fn event(&self, event: Event) {
        self.events.borrow_mut().push(event);
    }

    fn attach_channel(&self, _: DomainId, _: Channel, _: bool, _: bool) -> Result<(), Failure> {
        Ok(())
    }

    fn detach_channel(&self, channel: Channel) -> bool {
        channel == 1
    }

    fn is_watched(&self, _: DomainId) -> bool {
        false
    }

    fn has_tool(&self) -> bool {
        false
    }

    async fn flush_console(&self, _: DomainId) {}

    fn forget_console(&self, _: DomainId) {}

    fn disk_figures(&self, _: DomainId, disk: &PlannedDisk) -> summary::Disk {
        summary::Disk { vdev: disk.vdev.name.clone(), reads: 3, ..summary::Disk::default() }
    }

    fn devices(&self) -> Vec<DeviceInfo> {
        vec![DeviceInfo { kind: "disk".into(), name: "serial".into(), bytes: 512, users: vec![1, 2] }]
    }

    fn store(&self, kind: Kind, payload: &[u8]) -> Result<Vec<u8>, Errno> {
        let end = payload.iter().position(|&b| b == 0).ok_or(Errno::Inval)?;
        let path = core::str::from_utf8(&payload[..end]).map_err(|_| Errno::Inval)?;
        let value = String::from_utf8_lossy(&payload[end + 1..]).into_owned();
        let mut nodes = self.nodes.borrow_mut();
        match kind {
            Kind::Read => nodes.get(path).map(|value| value.as_bytes().to_vec()).ok_or(Errno::NoEnt),
            Kind::GetPerms => Ok(b"n0\0".to_vec()),
            Kind::Write => {
                nodes.insert(path.into(), value);
                Ok(b"OK\0".to_vec())
            }
            // Folders that are always there are not of interest here.
            Kind::Mkdir => Ok(b"OK\0".to_vec()),
            Kind::SetPerms => {
                nodes.entry(path.into()).or_default();
                Ok(b"OK\0".to_vec())
            }
            Kind::Rm => {
                let (before, below) = (nodes.len(), format!("{path}/"));
                nodes.retain(|node, _| node != path && !node.starts_with(&below));
                if nodes.len() == before { Err(Errno::NoEnt) } else { Ok(Vec::new()) }
            }
            _ => Err(Errno::NoSys),
        }
    }

    fn store_list(&self, path: &str) -> Result<Vec<String>, Errno> {
        let top = path.trim_end_matches('/').to_string() + "/";
        let nodes = self.nodes.borrow();
        let below = nodes.keys().filter_map(|node| node.strip_prefix(&top));
        let mut names: Vec<String> =
            below.filter_map(|rest| rest.split('/').next()).map(String::from).collect();
        names.sort();
        names.dedup();
        Ok(names)
    }

    fn store_nodes(&self) -> u64 {
        self.nodes.borrow().len() as u64
    }

    fn shut_down(&self, _: DomainId) {}

    fn watch(&self, _: u32, _: &str) -> Result<(), Errno> {
        Ok(())
    }

    fn unwatch(&self, watch: u32) -> bool {
        watch == 1
    }
}

/// A bundle with one kernel, `kernels/0`, and one disk, `disks/0`.
fn bundle() -> &'static [u8] {
    let mut archive = Vec::new();
    for (name, data) in
        [("kernels/0", image::tests::simple()), ("disks/0", vec![1; 512]), ("TRAILER!!!", vec![])]
    {
        let mode = 0o100_444;
        let fields = [1, mode, 0, 0, 1, 0, data.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        archive.extend(b"070701");
        archive.extend(fields.iter().flat_map(|field: &u32| format!("{field:08x}").into_bytes()));
        archive.extend(name.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend(&data);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive.leak()
}

fn toolstack() -> Toolstack<FakeHost> {
    let toolstack = Toolstack::new(FakeHost::new(FREE), bundle());
    toolstack.ready();
    assert_eq!(toolstack.platform.nodes.take().len(), 2, "name and number of dom0");
    toolstack.state.borrow_mut().baseline = figures::Baseline::take(&toolstack.platform);
    toolstack
}

fn wish(name: &str, lines: &str) -> Create {
    let place = |path: &str, source| Placed { path: path.into(), source };
    Create {
        file: format!("{name}.cfg"),
        text: format!("name = '{name}'\nkernel = 'k'\nmemory = 64\n{lines}\n"),
        files: vec![
            place("k", Source::Bundle("kernels/0".into())),
            place("d", Source::Bundle("disks/0".into())),
            place("/img", Source::Disk("serial".into())),
        ],
        kernel: None,
    }
}

fn manifest(sequence: bool, domains: Vec<Create>) -> Manifest {
    Manifest { sequence, domains, ..Manifest::default() }
}

/// What tools heard since the last call, in short.
fn heard(toolstack: &Toolstack<FakeHost>) -> Vec<String> {
    let short = |event: Event| match event {
        Event::Ready { .. } => "ready".into(),
        Event::DomainCreated { domid, name, .. } => format!("created {name} {domid}"),
        Event::DomainUnpaused { name, .. } => format!("runs {name}"),
        Event::DomainEnded { name, outcome, detail, restarting, .. } => {
            format!("ended {name} {outcome:?} {detail}{}", if restarting { " again" } else { "" })
        }
        Event::CreateFailed { name, failure } => format!("failed {name} {:?}", failure.code),
        Event::AllEnded => "all ended".into(),
        other => format!("{other:?}"),
    };
    toolstack.platform.events.take().into_iter().map(short).collect()
}

fn end(toolstack: &Toolstack<FakeHost>, id: u16, reason: u32) {
    toolstack.platform.down.borrow_mut().insert(id, reason);
    for (id, info) in toolstack.fallen() {
        run(toolstack.ended(id, info));
    }
}

fn ask(toolstack: &Toolstack<FakeHost>, request: Request) -> Result<Reply, Failure> {
    run(toolstack.answer(request))
}

fn is_empty(toolstack: &Toolstack<FakeHost>) -> bool {
    toolstack.platform.is_empty()
        && toolstack.platform.free_pages.get() == FREE
        && toolstack.state.borrow().entries.is_empty()
}

#[test]
fn a_listed_domain_lives_and_ends() {
    let toolstack = toolstack();
    assert_eq!(heard(&toolstack), ["ready"]);
    run(toolstack.start(manifest(
        false,
        vec![wish("a", "disk = ['d,raw,xvda,w,backendtype=ram', '/img,raw,xvdb,r']")],
    )));
    assert_eq!(heard(&toolstack), ["created a 1", "runs a"]);
    assert_eq!(toolstack.platform.guests.borrow()[&1].pauses, 0);
    end(&toolstack, 1, 0);
    assert_eq!(heard(&toolstack), ["ended a Poweroff ", "all ended"]);
    assert!(is_empty(&toolstack));
    let summary = toolstack.summary();
    let a = &summary.domains[0];
    assert_eq!(
        (a.outcome, a.domid, a.hypercalls["event_channel_op"], a.exits["hypercall"]),
        (Outcome::Poweroff, 1, 1, 9)
    );
    assert_eq!((a.disks.len(), a.disks[1].vdev.as_str()), (2, "xvdb"));
    assert!(a.create_begin_ns < a.unpaused_ns && a.unpaused_ns < a.ended_ns);
    assert_eq!(summary.platform.leaks, Leaks::default());
}

#[test]
fn domains_run_one_after_the_other_when_told_so() {
    let toolstack = toolstack();
    let wrong = wish("b", "vcpus = 99");
    run(toolstack.start(manifest(true, vec![wish("a", ""), wrong, wish("c", "")])));
    end(&toolstack, 1, 0);
    end(&toolstack, 2, 0);
    let expected = [
        "ready",
        "created a 1",
        "runs a",
        "ended a Poweroff ",
        "failed b.cfg Configuration",
        "created c 2",
        "runs c",
        "ended c Poweroff ",
        "all ended",
    ];
    assert_eq!(heard(&toolstack), expected);
    assert!(is_empty(&toolstack));
}

#[test]
fn ends_have_the_consequences_that_the_configuration_names() {
    let toolstack = toolstack();
    run(toolstack.start(manifest(false, vec![wish("a", "on_crash = 'preserve'")])));
    end(&toolstack, 1, 1);
    end(&toolstack, 2, 3);
    let expected = [
        "ready",
        "created a 1",
        "runs a",
        "ended a Reboot  again",
        "created a 2",
        "runs a",
        "ended a Crash triple fault at 0x10",
        "all ended",
    ];
    assert_eq!(heard(&toolstack), expected);
    // It is kept, and can be looked at, but not let run.
    let name = || DomainName::parse("a");
    assert!(
        matches!(ask(&toolstack, Request::List(Some(name()))), Ok(Reply::Domains(all)) if all[0].domid == 2)
    );
    assert_eq!(ask(&toolstack, Request::Unpause(name())).unwrap_err().code, Code::State);
    assert_eq!(ask(&toolstack, Request::Destroy(name())), Ok(Reply::Done));
    assert!(is_empty(&toolstack));
    assert_eq!(heard(&toolstack), Vec::<String>::new());
    let outcomes: Vec<_> = toolstack.summary().domains.iter().map(|d| d.outcome).collect();
    assert_eq!(outcomes, [Outcome::Reboot, Outcome::Crash]);
}

#[test]
fn requests_do_what_they_say() {
    let toolstack = toolstack();
    let create = |domain, paused| Request::Create { domain, paused };
    let created = ask(&toolstack, create(wish("a", "frob = 1"), true));
    let warnings = vec!["a.cfg:4:1: warning: unknown key `frob`".to_string()];
    assert_eq!(created, Ok(Reply::Created { domid: 1, name: "a".into(), warnings }));
    assert_eq!(toolstack.platform.guests.borrow()[&1].pauses, 1);
    let a = || DomainName::parse("a");
    assert_eq!(ask(&toolstack, Request::Unpause(a())), Ok(Reply::Done));
    assert_eq!(ask(&toolstack, Request::Pause(a())), Ok(Reply::Done));
    assert_eq!(toolstack.platform.guests.borrow()[&1].pauses, 1);
    assert_eq!(ask(&toolstack, create(wish("a", ""), false)).unwrap_err().code, Code::NameTaken);
    ask(&toolstack, Request::Shutdown { domain: a(), kind: ShutdownKind::Reboot }).unwrap();
    assert_eq!(toolstack.platform.nodes.borrow()["/local/domain/1/control/shutdown"], "reboot");
    for name in ["b", "7"] {
        let failure = ask(&toolstack, Request::Destroy(DomainName::parse(name))).unwrap_err();
        assert_eq!(
            (failure.code, failure.message),
            (Code::NoSuchDomain, format!("there is no domain `{name}`"))
        );
    }
    assert_eq!(ask(&toolstack, Request::Destroy(DomainName::Id(0))).unwrap_err().code, Code::State);
    assert_eq!(ask(&toolstack, Request::PowerOff), Ok(Reply::Done));
    assert!(toolstack.platform.off.get() && is_empty(&toolstack));
}

#[test]
fn what_cannot_be_built_is_said_and_leaves_nothing() {
    let toolstack = toolstack();
    let refused =
        |create: Create| ask(&toolstack, Request::Create { domain: create, paused: false }).unwrap_err();
    let failure = refused(wish("a", "vcpus = 99\nmaxmem = 'x'"));
    let lines = "a.cfg:4:9: error: `vcpus` is 1 to 32 vCPUs, not 99\na.cfg:5:10: error: `maxmem` is a number from 1 to 1048576 MiB";
    assert_eq!((failure.code, failure.message.as_str()), (Code::Configuration, lines));
    let failure = refused(wish("a", "ramdisk = 'r'"));
    assert_eq!(failure.message, "a.cfg: `ramdisk` is `r`, which was not brought to dom0");
    assert_eq!(failure.code, Code::MissingFile);
    let failure = refused(wish("a", "memory = 4096"));
    assert_eq!(
        failure.message,
        "a: not enough memory: the domain takes 4105 MiB in all, and 390 MiB are free"
    );
    assert_eq!(failure.code, Code::NoMemory);
    let failure = refused(wish("a", "kernel = 'd'"));
    assert_eq!(
        (failure.code, failure.message.as_str()),
        (Code::Image, "d: the kernel is neither an ELF nor a bzImage")
    );
    toolstack.platform.fail.set(Some(toolstack.platform.calls.get() + 4));
    let failure = refused(wish("a", ""));
    assert_eq!((failure.code, failure.message.as_str()), (Code::Build, "a: giving it memory failed: EIO"));
    assert!(is_empty(&toolstack));
    assert!(toolstack.summary().domains.is_empty());
}

#[test]
fn a_streamed_kernel_is_fetched_for_every_start() {
    let toolstack = toolstack();
    let kernel = image::tests::simple();
    let size = kernel.len() as u64;
    let image = image::Image::parse(&kernel).unwrap();
    toolstack.platform.files.borrow_mut().insert(7, kernel);
    let create = |lines: &str| {
        let mut create = wish("a", lines);
        create.files[0].source = Source::Streamed { file: 7, size };
        create.kernel = Some(image.clone());
        create
    };
    let ask = |domain: Create| ask(&toolstack, Request::Create { domain, paused: false });
    assert_eq!(ask(create("cpus = [3]")).unwrap_err().code, Code::Configuration);
    assert_eq!(heard(&toolstack), ["ready", "Forget { file: 7 }"]);
    ask(create("")).unwrap();
    assert_eq!(toolstack.platform.guests.borrow()[&1].memory[&0x100_0000], b"text");
    // It is asked for again when the domain starts again, and given up when it does not.
    end(&toolstack, 1, 1);
    assert_eq!(toolstack.platform.guests.borrow().keys().copied().collect::<Vec<_>>(), [2]);
    assert!(!heard(&toolstack).iter().any(|event| event.starts_with("Forget")));
    end(&toolstack, 2, 0);
    assert!(heard(&toolstack).contains(&"Forget { file: 7 }".into()));

    let mut wrong = create("");
    wrong.kernel = None;
    assert_eq!(ask(wrong).unwrap_err().code, Code::Image);
    let mut wrong = create("");
    wrong.files[0].source = Source::Streamed { file: 7, size: 10 };
    assert_eq!(ask(wrong).unwrap_err().code, Code::Image, "the outline is a claim");
    toolstack.platform.files.take();
    let failure = ask(create("")).unwrap_err();
    assert_eq!(
        (failure.code, failure.message.as_str()),
        (Code::Build, "a: loading it failed: the tool did not send a file whole (ENOENT)")
    );
    assert!(is_empty(&toolstack));
}

#[test]
fn ends_are_dealt_with_side_by_side() {
    let toolstack = toolstack();
    run(toolstack.start(manifest(false, vec![wish("a", ""), wish("b", "")])));
    toolstack.platform.down.borrow_mut().extend([(1, 0), (2, 0)]);
    let mut forever = core::pin::pin!(toolstack.run());
    let mut context = core::task::Context::from_waker(core::task::Waker::noop());
    for _ in 0..3 {
        assert!(forever.as_mut().poll(&mut context).is_pending());
    }
    assert!(is_empty(&toolstack));
    assert_eq!(heard(&toolstack).last().unwrap(), "all ended");
}

#[test]
fn a_leak_shows() {
    let toolstack = toolstack();
    run(toolstack.start(manifest(false, vec![wish("a", "")])));
    end(&toolstack, 1, 0);
    toolstack.platform.leaked.set(3);
    toolstack.platform.nodes.borrow_mut().insert("/left".into(), String::new());
    assert_eq!(toolstack.summary().platform.leaks, Leaks { frames: 3, store_nodes: 1, ..Leaks::default() });
}

#[test]
fn a_crash_at_once_is_not_repeated_for_ever() {
    let toolstack = toolstack();
    run(toolstack.start(manifest(false, vec![wish("a", "on_crash = 'restart'")])));
    end(&toolstack, 1, 4);
    assert_eq!(toolstack.platform.guests.borrow().len(), 1, "it lived long enough");
    let mut info = toolstack.platform.domain(DomainId(2)).unwrap().unwrap();
    (info.state, info.shutdown_reason, info.ended_ns) = (domain_state::SHUTDOWN, 3, 1000);
    run(toolstack.ended(DomainId(2), info));
    assert!(is_empty(&toolstack));
}

#[test]
fn the_shell_says_it_in_words() {
    let toolstack = toolstack();
    run(toolstack.start(manifest(false, vec![wish("a", "disk = ['/img,raw,xvda,w']")])));
    let say = |line: &str| ask(&toolstack, Request::Shell { line: line.into() });
    let text = |line: &str| match say(line) {
        Ok(Reply::Text(text)) => text,
        other => format!("{other:?}"),
    };
    assert_eq!(text("list"), "Name  ID  Mem  VCPUs  State    Time(s)\na     1   64   1      running  0.0\n");
    assert_eq!(text("dmesg"), "the hypervisor starts\n");
    assert_eq!(text("devices"), "Kind  Name    Bytes  Users\ndisk  serial  512    1,2\n");
    assert_eq!(text("xenstore read /local/domain/1/name"), "a\n");
    assert_eq!(text("xenstore exists /nothing"), "no\n");
    assert!(
        text("xenstore ls /local/domain/1/device")
            .starts_with("suspend = \"\"   (n0)\n event-channel = \"\"   (n0)\nvbd = \"\"")
    );
    assert_eq!(text("destroy a"), "");
    assert_eq!(text("create a"), "a is domain 2\n");
    assert_eq!(say("create z").unwrap_err().code, Code::MissingFile);
    assert_eq!(say("frobnicate").unwrap_err().code, Code::UnknownVerb);
    assert!(text("summary").contains("leaks: 0 frames"));
    assert!(text("help").lines().all(|line| line.len() < 80));
}

#[test]
fn a_long_tree_comes_in_parts() {
    let toolstack = toolstack();
    for index in 0..1000 {
        toolstack.platform.nodes.borrow_mut().insert(format!("/t/{index:04}"), "v".into());
    }
    let mut from = Some(0);
    let mut paths = Vec::new();
    while let Some(start) = from {
        let request = Request::Xenstore(StoreRequest::Ls { path: "/t".into(), from: start });
        let Ok(Reply::Tree { nodes, next }) = ask(&toolstack, request) else { panic!() };
        paths.extend(nodes.into_iter().map(|node| node.path));
        from = next;
    }
    assert_eq!(paths.len(), 1000);
    assert!(paths.is_sorted());
}

#[test]
fn ports_that_are_asked_for_at_once_get_numbers_of_their_own() {
    let toolstack = toolstack();
    run(toolstack.start(manifest(false, vec![wish("a", "vif = ['']")])));
    let attach = || Request::NicAttach { domain: DomainName::parse("a"), specification: String::new() };
    let mut first = Box::pin(toolstack.answer(attach()));
    assert!(first.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    ask(&toolstack, attach()).unwrap();
    run(first).unwrap();
    assert_eq!(
        toolstack.platform.nics.borrow().iter().copied().collect::<Vec<_>>(),
        [(1, 0), (1, 1), (1, 2)]
    );
    end(&toolstack, 1, 0);
    assert!(is_empty(&toolstack));
}

#[test]
fn a_port_that_cannot_be_attached_leaves_nothing() {
    for step in 0..2 {
        let toolstack = toolstack();
        run(toolstack.start(manifest(false, vec![wish("a", "")])));
        let before = toolstack.platform.nodes.borrow().clone();
        toolstack.platform.fail.set(Some(toolstack.platform.calls.get() + step));
        let attach = || Request::NicAttach { domain: DomainName::parse("a"), specification: String::new() };
        assert_eq!(ask(&toolstack, attach()).unwrap_err().code, Code::Store);
        let mut after = toolstack.platform.nodes.borrow().clone();
        // The folder of the class stays.
        after.remove("/local/domain/1/device/vif");
        assert_eq!(after, before, "{step}");
        ask(&toolstack, attach()).unwrap();
        assert!(toolstack.platform.nics.borrow().contains(&(1, 0)));
        end(&toolstack, 1, 0);
        assert!(is_empty(&toolstack));
    }
}

#[test]
fn devices_between_guests_leave_nothing_in_the_list_of_the_back_end() {
    let toolstack = toolstack();
    run(toolstack.start(manifest(false, vec![wish("front", ""), wish("back", "")])));
    let (front, back) = (|| DomainName::parse("front"), || DomainName::parse("back"));
    let attach = |id| {
        let class = String::from("vrng");
        ask(&toolstack, Request::Device(DeviceRequest::Attach { front: front(), back: back(), class, id }))
    };
    let detach = |id, force| {
        let class = String::from("vrng");
        ask(&toolstack, Request::Device(DeviceRequest::Detach { front: front(), class, id, force }))
    };
    let list = || toolstack.platform.store_list("/local/domain/2/backend/vrng").unwrap();
    attach(0).unwrap();
    attach(1).unwrap();
    assert_eq!(attach(1).unwrap_err().code, Code::State);
    assert_eq!(toolstack.platform.nodes.borrow()["/local/domain/1/device/vrng/1/backend-id"], "2");
    detach(0, false).unwrap();
    assert_eq!(list(), ["1"]);
    // A back end that does not let go keeps its device until it is taken by force.
    toolstack.platform.nodes.borrow_mut().insert("/local/domain/2/backend/vrng/1/1/state".into(), "4".into());
    assert_eq!(detach(1, false).unwrap_err().code, Code::State);
    detach(1, true).unwrap();
    assert_eq!(list(), Vec::<String>::new());
    attach(2).unwrap();
    end(&toolstack, 1, 0);
    assert_eq!(list(), Vec::<String>::new());
}
