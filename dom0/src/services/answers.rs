//! Answers to requests that take no time.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use trunnion_guest::clock;
use trunnion_guest::hypercall;
use trunnion_protocol::control::{self as calls, DomainRef, Operation, domain_state};
use trunnion_protocol::errno::Errno;
use trunnion_protocol::id::DomainId;
use trunnion_xenstore::local::NO_TRANSACTION;
use trunnion_xenstore::path::{Path, Special};

use super::figures;
use super::life;
use super::server::Services;
use crate::control::reply::{DomainInfo, DomainState, HostInfo, StoreNode};
use crate::control::request::{DomainName, ShutdownKind, StoreRequest};
use crate::control::{Code, Failure, Reply, Request, Summary};

/// Bytes of a part of the store's tree in one reply.
const TREE_PART: usize = 24 * 1024;

type Answer = Result<Reply, Failure>;

/// Answers a request.
pub(crate) fn answer(services: &Services, request: Request) -> Answer {
    let life = &services.life;
    match request {
        Request::Upload { file, total, offset, data } => {
            services.files.upload(file, total, offset, &data).map(|()| Reply::Done)
        }
        Request::DropUpload { file } => {
            services.files.drop_upload(file);
            Ok(Reply::Done)
        }
        Request::List(which) => list(services, which.as_ref()),
        Request::Destroy(name) => {
            life.find(&name).and_then(|domain| life.destroy(domain)).map(|()| Reply::Done)
        }
        Request::Shutdown { domain, kind } => shutdown(services, &domain, kind),
        Request::Pause(name) => {
            let domain = life.find(&name)?;
            let mut call = DomainRef { domain: domain.0, pad: [0; 3] };
            hypercall::control(Operation::Pause, &mut call).map_err(refused).map(|_| Reply::Done)
        }
        Request::Unpause(name) => {
            let domain = life.find(&name)?;
            life.unpause(domain).map_err(refused).map(|()| Reply::Done)
        }
        Request::Info => life::host().map_err(refused).map(|host| Reply::Info(host_info(&host))),
        Request::Dmesg { from } => {
            let (text, next) = figures::read_text(Operation::ReadLog, from);
            Ok(Reply::Dmesg { text: text.into_bytes(), next })
        }
        Request::Xenstore(request) => store(services, request),
        Request::Summary => Ok(Reply::Summary(summary(services))),
        Request::Devices => Ok(Reply::Devices(life.tools().disks.devices())),
        Request::VcpuList(_) => {
            Err(Failure::new(Code::Unsupported, "the hypervisor does not tell about single vCPUs yet"))
        }
        Request::Shell { line } => {
            let verb = line.split_ascii_whitespace().next().unwrap_or_default();
            Err(Failure::new(Code::UnknownVerb, format!("dom0's shell has no verb `{verb}`")))
        }
        _ => Err(Failure::new(Code::Unsupported, "this cannot be asked here")),
    }
}

fn refused(errno: Errno) -> Failure {
    Failure::new(Code::Hypervisor, format!("the hypervisor refused: {errno}"))
}

pub(crate) fn store_failure(errno: Errno, path: &str) -> Failure {
    Failure::new(Code::Store, format!("{}: {path}", errno.name()))
}

fn host_info(host: &calls::HostInfo) -> HostInfo {
    let features = [(1, "vmx"), (2, "svm"), (4, "invariant-tsc")];
    let features = features.iter().filter(|(bit, _)| host.features & bit != 0);
    HostInfo {
        version: env!("CARGO_PKG_VERSION").into(),
        hardware: features.map(|(_, name)| *name).collect::<Vec<_>>().join(" "),
        cpus: host.cpus,
        tsc_khz: host.tsc_khz,
        memory_bytes: host.memory_bytes,
        free_bytes: host.free_bytes,
        hypervisor_bytes: host.hypervisor_bytes,
        dom0_bytes: host.dom0_bytes,
        uptime_ns: clock::now().as_nanos() as u64,
    }
}

fn list(services: &Services, which: Option<&DomainName>) -> Answer {
    let wanted = which.map(|name| services.life.find(name)).transpose()?;
    let mut domains = services.life.alive();
    domains.insert(0, (DomainId::DOM0, "Domain-0".into()));
    let listed = domains.into_iter().filter(|(domain, _)| wanted.is_none_or(|wanted| wanted == *domain));
    Ok(Reply::Domains(listed.filter_map(|(domain, name)| domain_info(domain, name)).collect()))
}

fn domain_info(domain: DomainId, name: String) -> Option<DomainInfo> {
    let info = life::info(domain)?;
    let state = if info.state & domain_state::DYING != 0 {
        DomainState::Dying
    } else if info.state & domain_state::SHUTDOWN != 0 {
        if info.shutdown_reason == 3 { DomainState::Crashed } else { DomainState::Shutdown }
    } else if info.state & domain_state::PAUSED != 0 {
        DomainState::Paused
    } else if info.state & domain_state::RUNNABLE != 0 {
        DomainState::Running
    } else {
        DomainState::Blocked
    };
    Some(DomainInfo {
        domid: domain.0,
        name,
        uuid: uuid(&info.uuid),
        memory_bytes: info.pages.saturating_mul(4096),
        vcpus: info.online_vcpus,
        state,
        cpu_ns: info.cpu_ns,
    })
}

fn uuid(bytes: &[u8; 16]) -> String {
    let mut text = String::new();
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text += &format!("{byte:02x}");
    }
    text
}

fn shutdown(services: &Services, name: &DomainName, kind: ShutdownKind) -> Answer {
    let domain = services.life.find(name)?;
    let path = format!("/local/domain/{domain}/control/shutdown");
    let word: &[u8] = match kind {
        ShutdownKind::Poweroff => b"poweroff",
        ShutdownKind::Reboot => b"reboot",
    };
    let client = &services.life.tools().store;
    let written = client.with(|client, store| client.write(store, NO_TRANSACTION, &path, word));
    written.map_err(|errno| store_failure(errno, &path)).map(|()| Reply::Done)
}

fn summary(services: &Services) -> Summary {
    let domains = services.life.summaries();
    let alive = services.life.alive().len();
    let baseline = *services.baseline.borrow();
    Summary { platform: baseline.platform(services.life.tools().store.handle(), alive), domains }
}

fn store(services: &Services, request: StoreRequest) -> Answer {
    let client = &services.life.tools().store;
    match request {
        StoreRequest::Ls { path, from } => ls(services, &path, from),
        StoreRequest::Read(path) => client
            .with(|client, store| client.read(store, NO_TRANSACTION, &path))
            .map(Reply::Value)
            .map_err(|errno| store_failure(errno, &path)),
        StoreRequest::Write { path, value } => client
            .with(|client, store| client.write(store, NO_TRANSACTION, &path, &value))
            .map(|()| Reply::Done)
            .map_err(|errno| store_failure(errno, &path)),
        StoreRequest::Rm(path) => client
            .with(|client, store| client.remove(store, NO_TRANSACTION, &path))
            .map(|()| Reply::Done)
            .map_err(|errno| store_failure(errno, &path)),
        StoreRequest::List(path) => client
            .with(|client, store| client.list(store, NO_TRANSACTION, &path))
            .map(Reply::Names)
            .map_err(|errno| store_failure(errno, &path)),
        StoreRequest::Exists(path) => {
            match client.with(|client, store| client.read(store, NO_TRANSACTION, &path)) {
                Ok(_) => Ok(Reply::Exists(true)),
                Err(Errno::NoEnt) => Ok(Reply::Exists(false)),
                Err(errno) => Err(store_failure(errno, &path)),
            }
        }
        StoreRequest::Chmod { path, permissions, recursive } => {
            chmod(services, &path, &permissions, recursive)
        }
        StoreRequest::Watch { .. } | StoreRequest::Unwatch { .. } => {
            Err(Failure::new(Code::Unsupported, "watches belong to the connection"))
        }
    }
}

/// The nodes at and below a path, in depth-first order.
fn below(services: &Services, path: &str) -> Result<Vec<StoreNode>, Failure> {
    let handle = services.life.tools().store.handle();
    handle.with(|store| {
        let top = Path::parse(path.as_bytes(), DomainId::DOM0, Special::Refused, None)
            .map_err(|errno| store_failure(errno, path))?
            .path;
        if store.tree().get(&top).is_none() {
            return Err(store_failure(Errno::NoEnt, path));
        }
        let nodes = store.tree().below(&top).into_iter().map(|(path, node)| {
            let wire = node.perms.to_wire();
            let entries = wire.split(|&byte| byte == 0).filter(|entry| !entry.is_empty());
            StoreNode {
                path: path.as_str().to_string(),
                value: node.value.to_vec(),
                permissions: entries.map(|entry| String::from_utf8_lossy(entry).into_owned()).collect(),
            }
        });
        Ok(nodes.collect())
    })
}

fn ls(services: &Services, path: &str, from: u32) -> Answer {
    let all = below(services, path)?;
    let total = all.len();
    let mut size = 0;
    let rest = all.into_iter().skip(from as usize);
    let nodes: Vec<StoreNode> = rest
        .take_while(|node| {
            size += node.path.len() + node.value.len() + node.permissions.len() * 8 + 16;
            size <= TREE_PART
        })
        .collect();
    let end = from as usize + nodes.len();
    let next = (end < total && !nodes.is_empty()).then_some(end as u32);
    Ok(Reply::Tree { nodes, next })
}

fn chmod(services: &Services, path: &str, permissions: &[String], recursive: bool) -> Answer {
    let paths = if recursive {
        below(services, path)?.into_iter().map(|node| node.path).collect()
    } else {
        Vec::from([String::from(path)])
    };
    let entries: Vec<&str> = permissions.iter().map(String::as_str).collect();
    let client = &services.life.tools().store;
    for path in paths {
        client
            .with(|client, store| client.set_perms(store, NO_TRANSACTION, &path, &entries))
            .map_err(|errno| store_failure(errno, &path))?;
    }
    Ok(Reply::Done)
}
