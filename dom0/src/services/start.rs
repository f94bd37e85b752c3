//! dom0's main function: devices, services, the domains of the bundle, the end.

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;

use trunnion_backends::device::CharDevice;
use trunnion_guest::events::{self, Listener};
use trunnion_guest::executor::Spawner;
use trunnion_guest::start::StartInfo;
use trunnion_protocol::control::REVISION;
use trunnion_protocol::hypercall::sched::ShutdownReason;
use trunnion_protocol::id::Virq;
use virtio_drivers::transport::DeviceType;

use super::console::Consoles;
use super::disks::Disks;
use super::keyboard::Keyboard;
use super::model::Models;
use super::nets::Nets;
use super::platform::{Dom0, host_info};
use super::remote::Remote;
use super::server;
use super::stack;
use super::store::StoreHandle;
use super::wire::Wire;
use crate::config::Mac;
use crate::control::VERSION;
use crate::control::manifest::{MEMBER, Manifest};
use crate::cpio::Archive;
use crate::devices::bus::Pci;
use crate::devices::console::Line;
use crate::devices::uart::Uart;
use crate::devices::uplink::Uplink;
use crate::domains::Toolstack;

/// dom0's main function.
pub async fn run(spawner: Spawner, start: StartInfo) -> ShutdownReason {
    trunnion_guest::console::copy_to(server::log_line);
    let host = match host_info() {
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
    let manifest = match manifest(bundle) {
        Ok(manifest) => manifest,
        Err(words) => {
            log::error!("{words}");
            return ShutdownReason::Crash;
        }
    };
    let exceptions = match events::bind_virq(Virq::DOM_EXC) {
        Ok(port) => Listener::new(port),
        Err(error) => {
            log::error!("ends of domains cannot be heard: {error}");
            return ShutdownReason::Crash;
        }
    };
    let wire = Rc::new(Wire::default());
    let store = StoreHandle::start(&spawner);
    let disks = Rc::new(Disks::new(store.clone(), spawner.clone()));
    let consoles = Consoles::new(Rc::clone(&wire.output), spawner.clone());
    let nets = Rc::new(Nets::new(store.clone(), spawner.clone()));
    let mut line = devices(&disks, &nets, &spawner, manifest.terminal);
    if manifest.terminal {
        line = Some(Box::new(Keyboard::default()));
    }
    let attached = line.is_some();
    let platform = Dom0 {
        store: store.client(),
        consoles,
        disks,
        nets: Rc::clone(&nets),
        models: Models::new(spawner.clone()),
        wire: Rc::clone(&wire),
        spawner: spawner.clone(),
        exceptions,
        ends_by_itself: manifest.power_off || !attached,
    };
    let toolstack = Rc::new(Toolstack::new(platform, bundle));
    let remote = Remote::new(&manifest.token, &toolstack, &spawner);
    stack::start(&nets, &manifest.address, remote, &spawner);
    match line {
        Some(line) => spawner.spawn(server::serve(Rc::clone(&toolstack), line)),
        None => log::warn!("there is no control connection"),
    }
    toolstack.ready();
    log::info!("dom0 is ready domains={}", manifest.domains.len());
    while attached && manifest.wait_for_tool && !wire.greeted.get() {
        wire.greeting.next().await;
    }
    let starter = Rc::clone(&toolstack);
    spawner.spawn(async move { starter.start(manifest).await });
    toolstack.run().await;
    // Ends are heard of for ever; the platform is switched off by a control call.
    ShutdownReason::Crash
}

fn manifest(bundle: &[u8]) -> Result<Manifest, String> {
    let member = Archive::new(bundle).get(MEMBER).map_err(|damaged| format!("{damaged}"))?;
    let bytes = member.ok_or("the bundle has no member `config`")?;
    Manifest::from_bytes(bytes)
        .map_err(|_| format!("the bundle's member `config` is not of version {VERSION}"))
}

/// Finds and starts the devices; returns the line to the tool, if one may be there.
fn devices(disks: &Disks, nets: &Nets, spawner: &Spawner, alone: bool) -> Option<Box<dyn CharDevice>> {
    let mut pci = Pci::new();
    let mut line: Option<Box<dyn CharDevice>> = None;
    for found in pci.scan() {
        let function = found.function;
        let interrupt = pci.interrupt_line(function);
        let outcome = match found.kind {
            DeviceType::Block => disks.open(&mut pci, found),
            DeviceType::Network => {
                pci.open(found).and_then(|opened| Uplink::open(opened, interrupt, spawner)).map(|uplink| {
                    log::info!("uplink function={function} address={}", Mac(uplink.address()));
                    Rc::new(uplink).join(&nets.first_bridge(), spawner);
                })
            }
            DeviceType::Console if line.is_none() && !alone => {
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
        if alone {
            return None;
        }
        let uart = Uart::open(spawner)?;
        log::info!("control connection on COM2");
        Some(Box::new(uart) as Box<dyn CharDevice>)
    })
}
