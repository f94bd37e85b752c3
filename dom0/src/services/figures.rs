//! The figures of the summary: counters of the hypervisor and of the back ends, leaks by recount.

use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use trunnion_guest::hypercall;
use trunnion_protocol::control::{Audit, CountersCall, DomainCounters, ExitKind, Operation, ReadText};
use trunnion_protocol::hypercall::Hypercall;
use trunnion_protocol::id::DomainId;
use trunnion_xenstore::path::Path;

use super::disks::Disks;
use super::life::host;
use super::store::StoreHandle;
use crate::build::Domain;
use crate::control::summary::{self, Counts, DevicePath, Leaks};

/// Bytes of a crash report that are passed on.
const REPORT: usize = 4096;

/// What was in use when dom0 was ready.
#[derive(Clone, Copy, Debug, Default)]
pub struct Baseline {
    audit: Audit,
    nodes: usize,
    free_bytes: u64,
    /// When dom0 was ready to build domains.
    pub dom0_ready_ns: u64,
}

impl Baseline {
    /// Counts now.
    pub fn take(store: &StoreHandle, dom0_ready_ns: u64) -> Self {
        let free_bytes = host().map_or(0, |host| host.free_bytes);
        Self { audit: audit(), nodes: nodes(store), free_bytes, dom0_ready_ns }
    }

    /// The platform's part of the summary. Leaks are counted when no domain exists; what a domain uses is no leak.
    pub fn platform(&self, store: &StoreHandle, domains: usize) -> summary::Platform {
        let host = host().unwrap_or_default();
        let now = audit();
        let leaks = if domains == 0 {
            Leaks {
                frames: difference(now.frames + now.mismatches, self.audit.frames + self.audit.mismatches),
                grants: difference(now.grants, self.audit.grants),
                ports: difference(now.ports, self.audit.ports),
                store_nodes: difference(nodes(store) as u64, self.nodes as u64),
            }
        } else {
            Leaks::default()
        };
        summary::Platform {
            memory_bytes: host.memory_bytes,
            hypervisor_bytes: host.hypervisor_bytes,
            dom0_bytes: host.dom0_bytes,
            hypervisor_ready_ns: host.ready_ns,
            dom0_ready_ns: self.dom0_ready_ns,
            free_bytes_at_start: self.free_bytes,
            free_bytes_at_end: host.free_bytes,
            leaks,
            ..summary::Platform::default()
        }
    }
}

const fn difference(now: u64, before: u64) -> i64 {
    now.wrapping_sub(before) as i64
}

fn audit() -> Audit {
    let mut audit = Audit::default();
    if let Err(error) = hypercall::control(Operation::Audit, &mut audit) {
        log::error!("the hypervisor does not recount: {error}");
    }
    audit
}

fn nodes(store: &StoreHandle) -> usize {
    store.with(|store| store.tree().below(&Path::root()).len())
}

/// Fills in what has been counted for a domain that still exists.
pub(crate) fn fill(summary: &mut summary::Domain, domain: Option<&Domain>, disks: &Disks) {
    let mut call = CountersCall { domain: summary.domid, pad: [0; 3], counters: DomainCounters::default() };
    if hypercall::control(Operation::Counters, &mut call).is_ok() {
        count(summary, &call.counters);
    }
    let id = DomainId(summary.domid);
    let Some(domain) = domain else { return };
    summary.disks = domain
        .plan
        .disks
        .iter()
        .map(|disk| {
            let counts = disks.statistics(id, disk.vdev.number);
            summary::Disk {
                vdev: disk.vdev.name.clone(),
                path: DevicePath::Pv,
                reads: counts.reads,
                read_bytes: counts.read_bytes,
                writes: counts.writes,
                write_bytes: counts.write_bytes,
                flushes: counts.flushes,
                errors: counts.errors,
            }
        })
        .collect();
}

fn count(summary: &mut summary::Domain, counters: &DomainCounters) {
    let named = |value: fn(&trunnion_protocol::control::ExitTally) -> u64| -> Counts {
        let tallies = ExitKind::NAMES.iter().zip(&counters.exits);
        tallies.map(|(name, tally)| (name.to_string(), value(tally))).collect()
    };
    summary.exits = named(|tally| tally.count);
    summary.exit_cycles = named(|tally| tally.cycles);
    summary.exit_cycles_max = named(|tally| tally.longest);
    let called = counters.hypercalls.iter().enumerate().filter(|(_, count)| **count > 0);
    summary.hypercalls = called.map(|(number, count)| (hypercall_name(number as u32), *count)).collect();
    summary.events = summary::Events { sent: counters.events_sent, delivered: counters.events_delivered };
    summary.grants = summary::Grants {
        mapped: counters.grants_mapped,
        unmapped: counters.grants_unmapped,
        copied: counters.grants_copied,
    };
    summary.cpu_ns = counters.cpu_ns;
}

/// The name in snake case, as the headers have it; the bare number for one that has no name.
fn hypercall_name(number: u32) -> String {
    let Some(call) = Hypercall::from_number(number) else { return number.to_string() };
    let mut name = String::new();
    for letter in alloc::format!("{call:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

/// The hypervisor's report of a crash; empty when there is none.
pub(crate) fn crash_report(domain: DomainId) -> String {
    read_text(Operation::CrashReport, u64::from(domain.0)).0
}

/// Text of the hypervisor's, and the position behind it.
pub(crate) fn read_text(operation: Operation, position: u64) -> (String, u64) {
    let mut bytes: Vec<u8> = vec![0; REPORT];
    let mut call = ReadText { position, buffer: bytes.as_mut_ptr() as u64, length: REPORT as u64 };
    if hypercall::control(operation, &mut call).is_err() {
        return (String::new(), position);
    }
    bytes.truncate(call.length as usize);
    (String::from_utf8_lossy(&bytes).into_owned(), call.position)
}
