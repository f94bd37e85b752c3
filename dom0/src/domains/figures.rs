//! The summary.

use super::{Platform, State, Toolstack};
use crate::build;
use crate::control::summary::{self, Activity, Counts, Leaks, Outcome, Summary};
use alloc::string::ToString;
use trunnion_protocol::control::{Audit, ExitKind};
use trunnion_protocol::id::DomainId;

/// What was in use when dom0 was ready.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Baseline {
    audit: Audit,
    store_nodes: u64,
    free_bytes: u64,
    pub(super) hypervisor_ready_ns: u64,
    pub(super) dom0_ready_ns: u64,
}

impl Baseline {
    pub(super) fn take(platform: &impl Platform) -> Self {
        let host = platform.host_info().unwrap_or_default();
        Self {
            audit: platform.audit().unwrap_or_default(),
            store_nodes: platform.store_nodes(),
            free_bytes: host.free_bytes,
            hypervisor_ready_ns: host.ready_ns,
            dom0_ready_ns: platform.now_ns(),
        }
    }
}

impl<P: Platform> Toolstack<P> {
    /// All figures as they are now. The tool adds the machine's name and how the run went.
    pub(super) fn summary(&self) -> Summary {
        let host = self.platform.host_info().unwrap_or_default();
        let State { entries, figures, baseline, .. } = &mut *self.state.borrow_mut();
        for entry in entries.values() {
            if let (Some(domain), Some(figure)) = (&entry.domain, figures.get_mut(entry.figure))
                && figure.outcome == Outcome::Running
            {
                self.fill(figure, domain);
            }
        }
        // What domains hold is no leak. Only when none is left can everything be compared.
        let leaks = if entries.is_empty() { self.leaks(baseline) } else { Leaks::default() };
        Summary {
            platform: summary::Platform {
                memory_bytes: host.memory_bytes,
                hypervisor_bytes: host.hypervisor_bytes,
                dom0_bytes: host.dom0_bytes,
                hypervisor_ready_ns: baseline.hypervisor_ready_ns,
                dom0_ready_ns: baseline.dom0_ready_ns,
                free_bytes_at_start: baseline.free_bytes,
                free_bytes_at_end: host.free_bytes,
                leaks,
                ..summary::Platform::default()
            },
            dom0: self.activity(DomainId(0)).unwrap_or_default(),
            domains: figures.clone(),
        }
    }

    /// What the hypervisor counted of a domain.
    fn activity(&self, id: DomainId) -> Option<Activity> {
        let counters = self.platform.counters(id).ok()?;
        let exits = ExitKind::NAMES.iter().zip(&counters.exits);
        Some(Activity {
            cpu_ns: counters.cpu_ns,
            exits: exits.map(|(name, tally)| (name.to_string(), tally.count)).collect(),
            hypercalls: hypercalls(&counters.hypercalls),
            events: summary::Events { sent: counters.events_sent, delivered: counters.events_delivered },
            grants: summary::Grants {
                mapped: counters.grants_mapped,
                unmapped: counters.grants_unmapped,
                copied: counters.grants_copied,
            },
        })
    }

    fn leaks(&self, baseline: &Baseline) -> Leaks {
        let Ok(now) = self.platform.audit() else {
            log::error!("the hypervisor's tables could not be audited");
            return Leaks { frames: -1, grants: -1, ports: -1, store_nodes: -1 };
        };
        let more = |now: u64, then: u64| now as i64 - then as i64;
        if now.mismatches > 0 {
            log::error!("the hypervisor's tables disagree frames={}", now.mismatches);
        }
        Leaks {
            frames: more(now.frames, baseline.audit.frames) + now.mismatches as i64,
            grants: more(now.grants, baseline.audit.grants),
            ports: more(now.ports, baseline.audit.ports),
            store_nodes: more(self.platform.store_nodes(), baseline.store_nodes),
        }
    }

    /// Fills in what the hypervisor and the back ends know of a domain.
    pub(super) fn fill(&self, figure: &mut summary::Domain, domain: &build::Domain) {
        let id = DomainId(figure.domid);
        if let Ok(counters) = self.platform.counters(id) {
            for (name, tally) in ExitKind::NAMES.iter().zip(&counters.exits) {
                figure.exit_cycles.insert(name.to_string(), tally.cycles);
                figure.exit_cycles_max.insert(name.to_string(), tally.longest);
            }
        }
        if let Some(Activity { cpu_ns, exits, hypercalls, events, grants }) = self.activity(id) {
            (figure.cpu_ns, figure.exits, figure.hypercalls) = (cpu_ns, exits, hypercalls);
            (figure.events, figure.grants) = (events, grants);
        }
        let disk = |disk| self.platform.disk_figures(id, disk);
        figure.disks = domain.disks.iter().map(disk).collect();
        let nic = |(number, nic): &(u32, _)| self.platform.nic_figures(id, *number, nic);
        figure.nics = domain.nics.iter().map(nic).collect();
    }
}

/// Counts by the names of the ABI; numbers that were never called are left out.
fn hypercalls(counts: &[u64]) -> Counts {
    const NAMES: [(usize, &str); 25] = [
        (7, "platform_op"),
        (12, "memory_op"),
        (13, "multicall"),
        (15, "set_timer_op"),
        (17, "xen_version"),
        (18, "console_io"),
        (20, "grant_table_op"),
        (21, "vm_assist"),
        (24, "vcpu_op"),
        (26, "mmuext_op"),
        (27, "xsm_op"),
        (29, "sched_op"),
        (32, "event_channel_op"),
        (33, "physdev_op"),
        (34, "hvm_op"),
        (35, "sysctl"),
        (36, "domctl"),
        (39, "argo_op"),
        (40, "xenpmu_op"),
        (41, "dm_op"),
        (42, "hypfs_op"),
        (48, "control"),
        (49, "arch_1"),
        (50, "arch_2"),
        (51, "arch_3"),
    ];
    let named = |number: usize| {
        let known = NAMES.iter().find(|(known, _)| *known == number);
        known.map_or_else(|| alloc::format!("unknown_{number}"), |(_, name)| name.to_string())
    };
    counts
        .iter()
        .enumerate()
        .filter(|(_, count)| **count > 0)
        .map(|(number, count)| (named(number), *count))
        .collect()
}
