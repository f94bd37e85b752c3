//! dom0's main function: devices, services, the domains of the bundle, the end.

use alloc::boxed::Box;
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};

use trunnion_backends::device::CharDevice;
use trunnion_guest::clock;
use trunnion_guest::executor::Spawner;
use trunnion_guest::start::StartInfo;
use trunnion_protocol::control::REVISION;
use trunnion_protocol::hypercall::sched::ShutdownReason;
use virtio_drivers::transport::DeviceType;

use super::console::Consoles;
use super::disks::Disks;
use super::figures::Baseline;
use super::files::Files;
use super::life::{self, Life};
use super::server::{self, Services};
use super::store::StoreHandle;
use super::toolstack::Toolstack;
use super::wire::Wire;
use crate::control::manifest::{MEMBER, Manifest};
use crate::control::{Event, VERSION};
use crate::devices::bus::Pci;
use crate::devices::console::Line;
use crate::devices::disk::Disk;
use crate::devices::uart::Uart;

/// dom0's main function.
pub async fn run(spawner: Spawner, start: StartInfo) -> ShutdownReason {
    trunnion_guest::console::copy_to(server::log_line);
    let host = match life::host() {
        Ok(host) if host.revision == REVISION => host,
        Ok(host) => {
            log::error!("the hypervisor's control calls are of revision {}, not {REVISION}", host.revision);
            return ShutdownReason::Crash;
        }
        Err(error) => {
            log::error!("this is not dom0: {error}");
            return ShutdownReason::Crash;
        }
    };
    log::info!("dom0 starts memory={} free={}", start.memory_bytes(), host.free_bytes);
    let bundle = start.modules.first().map_or(&[][..], |module| module.data);
    let files = Rc::new(Files::new(bundle));
    let manifest = match manifest(&files) {
        Ok(manifest) => manifest,
        Err(words) => {
            log::error!("{words}");
            return ShutdownReason::Crash;
        }
    };
    let wire = Rc::new(Wire::default());
    let store = StoreHandle::start(&spawner);
    let disks = Rc::new(Disks::new(Rc::clone(&files), store.clone(), spawner.clone()));
    let consoles = Consoles::new(Rc::clone(&wire.output), spawner.clone());
    let line = devices(&disks, &spawner);
    let tools = Toolstack { store: store.client(), consoles, disks, spawner: spawner.clone() };
    let life = Life::new(tools, Rc::clone(&files), Rc::clone(&wire));
    spawner.spawn(Rc::clone(&life).watch());
    let services = Rc::new(Services {
        life,
        files,
        wire,
        baseline: RefCell::new(Baseline::default()),
        ready: Cell::new(false),
    });
    let attached = line.is_some();
    match line {
        Some(line) => spawner.spawn(server::serve(Rc::clone(&services), line)),
        None => log::warn!("there is no control connection"),
    }
    // The tasks that were just spawned open their ports first, so that the count of what is in use has them.
    trunnion_guest::executor::yield_now().await;
    let dom0_ready_ns = clock::now().as_nanos() as u64;
    services.baseline.replace(Baseline::take(&store, dom0_ready_ns));
    services.ready.set(true);
    services.wire.event(Event::Ready { hypervisor_ready_ns: host.ready_ns, dom0_ready_ns });
    log::info!("dom0 is ready domains={}", manifest.domains.len());
    while attached && manifest.wait_for_tool && !services.wire.greeted.get() {
        services.wire.greeting.next().await;
    }
    services.life.run(manifest.domains, manifest.sequence).await;
    services.wire.event(Event::AllEnded);
    log::info!("all domains have ended");
    if manifest.power_off || !attached {
        server::power_off(&services).await;
    }
    // The tool says when to end.
    core::future::pending().await
}

fn manifest(files: &Files) -> Result<Manifest, alloc::string::String> {
    let member = files.member(MEMBER).map_err(|failure| failure.message)?;
    let bytes = member.ok_or("the bundle has no member `config`")?;
    Manifest::from_bytes(bytes)
        .map_err(|_| alloc::format!("the bundle's member `config` is not of version {VERSION}"))
}

/// Finds and starts the devices; returns the line to the tool.
fn devices(disks: &Disks, spawner: &Spawner) -> Option<Box<dyn CharDevice>> {
    let mut pci = Pci::new();
    let mut line: Option<Box<dyn CharDevice>> = None;
    for found in pci.scan() {
        let function = found.function;
        let interrupt = pci.interrupt_line(function);
        let outcome = match found.kind {
            DeviceType::Block => {
                pci.open(found).and_then(|opened| Disk::open(opened, interrupt, spawner)).map(|disk| {
                    log::info!("disk function={function} name={}", disk.name());
                    disks.add(disk);
                })
            }
            DeviceType::Console if line.is_none() => {
                pci.open(found).and_then(|opened| Line::open(opened, interrupt, spawner)).map(|opened| {
                    log::info!("control connection function={function}");
                    line = Some(Box::new(opened));
                })
            }
            _ => Ok(()),
        };
        if let Err(error) = outcome {
            log::error!("{function} cannot be used: {error}");
        }
    }
    line.or_else(|| {
        let uart = Uart::open()?;
        log::info!("control connection on COM2");
        Some(Box::new(uart) as Box<dyn CharDevice>)
    })
}
