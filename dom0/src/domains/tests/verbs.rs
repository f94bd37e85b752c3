//! Verbs that change living domains.

use super::*;
use crate::control::reply::DiskInfo;

fn a() -> DomainName {
    DomainName::parse("a")
}

fn attach(toolstack: &Toolstack<FakeHost>, text: &str, source: Source) -> Result<Vec<DiskInfo>, Failure> {
    match ask(toolstack, Request::DiskAttach { domain: a(), specification: text.into(), source })? {
        Reply::Disks(disks) => Ok(disks),
        other => panic!("{other:?}"),
    }
}

fn detach(toolstack: &Toolstack<FakeHost>, disk: &str) -> Result<Reply, Failure> {
    ask(toolstack, Request::DiskDetach { domain: a(), disk: disk.into(), force: false })
}

fn names(toolstack: &Toolstack<FakeHost>) -> Vec<String> {
    let Ok(Reply::Disks(disks)) = ask(toolstack, Request::DiskList(a())) else { panic!() };
    disks.into_iter().map(|disk| disk.vdev).collect()
}

#[test]
fn disks_come_and_go() {
    let toolstack = toolstack();
    run(toolstack.start(manifest(false, vec![wish("a", "disk = ['/img,raw,xvda,r']")])));
    let before = toolstack.platform.nodes.borrow().clone();
    heard(&toolstack);
    toolstack.platform.files.borrow_mut().insert(7, vec![0; 512]);
    let memory = || Source::Streamed { file: 7, size: 512 };
    let disks = attach(&toolstack, "target=/x,vdev=xvdb,access=ro,backendtype=ram", memory()).unwrap();
    assert_eq!((disks[0].number, disks[0].read_only, disks[0].target.as_str()), (51728, true, "/x"));
    // The file is given up at once: a RAM disk is filled when it is made.
    assert_eq!(heard(&toolstack), ["Forget { file: 7 }"]);
    attach(&toolstack, "/y,raw,xvdc,rw", Source::Disk("serial".into())).unwrap();
    assert_eq!(names(&toolstack), ["xvda", "xvdb", "xvdc"]);
    let node = |node: &str| toolstack.platform.nodes.borrow()[node].clone();
    assert_eq!(node("/local/domain/1/device/vbd/51744/backend"), "/local/domain/0/backend/vbd/1/51744");
    assert_eq!(node("/local/domain/0/backend/vbd/1/51728/mode"), "r");
    detach(&toolstack, "51744").unwrap();
    detach(&toolstack, "xvdb").unwrap();
    assert_eq!(*toolstack.platform.nodes.borrow(), before);
    assert_eq!(detach(&toolstack, "xvdb").unwrap_err().code, Code::State);
    // One that is left goes with the domain.
    attach(&toolstack, "/y,raw,xvdd,rw", Source::Disk("serial".into())).unwrap();
    end(&toolstack, 1, 0);
    assert!(is_empty(&toolstack));
}

#[test]
fn a_disk_that_cannot_be_attached_leaves_nothing() {
    let toolstack = toolstack();
    run(toolstack.start(manifest(false, vec![wish("a", "disk = ['/img,raw,xvda,r']")])));
    let before = toolstack.platform.nodes.borrow().clone();
    let disk = || Source::Disk("serial".into());
    for (text, code) in [
        ("/y,raw,xvda,rw", Code::State),
        ("/y,raw,vda,rw", Code::Configuration),
        ("vdev=xvdb,devtype=cdrom", Code::Configuration),
    ] {
        assert_eq!(attach(&toolstack, text, disk()).unwrap_err().code, code, "{text}");
    }
    let missing = Source::Bundle("disks/9".into());
    assert_eq!(attach(&toolstack, "/y,raw,xvdb,rw", missing).unwrap_err().code, Code::MissingFile);
    for (step, code) in [(0, Code::Store), (1, Code::Disk)] {
        toolstack.platform.fail.set(Some(toolstack.platform.calls.get() + step));
        assert_eq!(attach(&toolstack, "/y,raw,xvdb,rw", disk()).unwrap_err().code, code);
        assert_eq!(*toolstack.platform.nodes.borrow(), before);
    }
    assert_eq!(names(&toolstack), ["xvda"]);
    attach(&toolstack, "/y,raw,xvdb,rw", disk()).unwrap();
    end(&toolstack, 1, 0);
    assert!(is_empty(&toolstack));
}

#[test]
fn a_domain_keeps_its_new_name() {
    let toolstack = toolstack();
    run(toolstack.start(manifest(false, vec![wish("a", ""), wish("b", "")])));
    let rename = |name: &str| ask(&toolstack, Request::Rename { domain: a(), name: name.into() });
    assert_eq!(rename("b").unwrap_err().code, Code::NameTaken);
    for wrong in ["", "7", "a b", "Domain-0", ".x"] {
        assert_eq!(rename(wrong).unwrap_err().code, Code::Configuration, "{wrong}");
    }
    assert_eq!(rename("a"), Ok(Reply::Done));
    heard(&toolstack);
    assert_eq!(rename("c"), Ok(Reply::Done));
    let renamed = r#"DomainRenamed { domid: 1, before: "a", name: "c" }"#;
    assert_eq!(heard(&toolstack), [renamed]);
    assert_eq!(toolstack.platform.nodes.borrow()["/local/domain/1/name"], "c");
    assert_eq!(rename("d").unwrap_err().code, Code::NoSuchDomain);
    let Ok(Reply::Domains(domains)) = ask(&toolstack, Request::List(None)) else { panic!() };
    let names: Vec<_> = domains.iter().map(|domain| domain.name.as_str()).collect();
    assert_eq!(names, ["c", "b"]);
    assert!(domains.iter().all(|domain| domain.up_ns > 0));
    // Also when it is started again.
    end(&toolstack, 1, 1);
    assert!(heard(&toolstack).contains(&"created c 3".into()));
    end(&toolstack, 3, 0);
    assert_eq!(toolstack.summary().domains[0].name, "c");
    end(&toolstack, 2, 0);
    assert!(is_empty(&toolstack));
}

#[test]
fn guests_are_told_in_the_store() {
    let toolstack = toolstack();
    run(toolstack.start(manifest(false, vec![wish("a", "maxvcpus = 3")])));
    let node = |node: &str| toolstack.platform.nodes.borrow()[&format!("/local/domain/1/{node}")].clone();
    let memory = |kib| ask(&toolstack, Request::SetMemory { domain: a(), kib });
    memory(48 << 10).unwrap();
    assert_eq!(node("memory/target"), "49152");
    for wrong in [0, (64 << 10) + 1] {
        assert_eq!(memory(wrong).unwrap_err().code, Code::Configuration);
    }
    let vcpus = |count| ask(&toolstack, Request::SetVcpus { domain: a(), count });
    vcpus(2).unwrap();
    let all = || [0, 1, 2].map(|cpu| node(&format!("cpu/{cpu}/availability")));
    assert_eq!(all(), ["online", "online", "offline"]);
    for wrong in [0, 4] {
        assert_eq!(vcpus(wrong).unwrap_err().code, Code::Configuration);
    }
    assert_eq!(all(), ["online", "online", "offline"]);
    let sysrq = |key| ask(&toolstack, Request::Sysrq { domain: a(), key });
    sysrq('h').unwrap();
    assert_eq!(node("control/sysrq"), "h");
    assert_eq!(sysrq('\0').unwrap_err().code, Code::Configuration);
}

#[test]
fn shares_are_set_and_shown() {
    let toolstack = toolstack();
    run(toolstack.start(manifest(false, vec![wish("a", "cpu_weight = 100"), wish("b", "cap = 30")])));
    let set = |domain, weight, cap| match ask(&toolstack, Request::Schedule { domain, weight, cap }) {
        Ok(Reply::Scheduling(all)) => {
            Ok(all.into_iter().map(|one| (one.domid, one.weight, one.cap)).collect())
        }
        Ok(other) => panic!("{other:?}"),
        Err(failure) => Err(failure.code),
    };
    assert_eq!(set(None, None, None), Ok(vec![(1, 100, 0), (2, 256, 30)]));
    assert_eq!(set(Some(a()), Some(512), None), Ok(vec![(1, 512, 0)]));
    assert_eq!(set(Some(a()), None, Some(50)), Ok(vec![(1, 512, 50)]));
    for (domain, weight, cap) in [
        (None, Some(1), None),
        (Some(a()), Some(0), None),
        (Some(a()), Some(65536), None),
        (Some(a()), None, Some(101)),
    ] {
        assert_eq!(set(domain, weight, cap), Err(Code::Configuration));
    }
    assert_eq!(set(Some(DomainName::Id(0)), None, Some(5)), Err(Code::Unsupported));
    let Ok(Reply::Vcpus(vcpus)) = ask(&toolstack, Request::VcpuList(Some(a()))) else { panic!() };
    assert_eq!((vcpus.len(), vcpus[0].state.as_str(), vcpus[0].name.as_str()), (1, "blocked", "a"));
    assert_eq!(ask(&toolstack, Request::DebugKeys("hh".into())), Ok(Reply::Done));
    assert!(ask(&toolstack, Request::DebugKeys("hx".into())).unwrap_err().message.contains("`x`"));
}
