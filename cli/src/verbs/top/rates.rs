//! Figures of two moments, and what happened in between.
#![expect(clippy::cast_precision_loss, reason = "rates are shown with a digit or two")]

use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// The head of the table whose lines are [`Rates::line`].
pub(super) const HEAD: &str =
    "Name                ID   CPU%   Exits/s  Events/s  Disk KiB/s r      w  Net KiB/s rx      tx   Pkt/s";

/// What there was at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    /// The platform's time.
    pub at_ns: u64,
    domains: Vec<Figures>,
}

#[derive(Clone, Debug, Default)]
struct Figures {
    name: String,
    domid: u64,
    cpu_ns: u64,
    events: u64,
    disk: [u64; 2],
    net: [u64; 2],
    packets: u64,
    exits: BTreeMap<String, u64>,
}

/// What a domain did in a second, on average.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Rates {
    pub name: String,
    pub domid: u64,
    /// Of one processor.
    pub cpu_percent: f64,
    pub events: f64,
    /// Bytes.
    pub disk_read: f64,
    pub disk_written: f64,
    pub net_received: f64,
    pub net_sent: f64,
    pub packets: f64,
    /// By kind; kinds that did not occur are left out.
    pub exits: BTreeMap<String, f64>,
}

impl Sample {
    /// From `summary.json`, as a running platform gives it.
    pub(super) fn of(at_ns: u64, summary: &Value) -> Self {
        let mut dom0 = Figures::of(&summary["dom0"]);
        dom0.name = "Domain-0".into();
        let living = |domain: &&Value| domain["outcome"] == "running";
        let domains = summary["domains"].as_array().into_iter().flatten().filter(living);
        Self { at_ns, domains: std::iter::once(dom0).chain(domains.map(Figures::of)).collect() }
    }

    /// What happened since an earlier moment. A domain that was not there then did all of it since.
    pub(super) fn since(&self, before: &Self) -> Vec<Rates> {
        let span = self.at_ns.saturating_sub(before.at_ns).max(1) as f64 / 1e9;
        let nothing = Figures::default();
        let rates = |now: &Figures| {
            let old = before.domains.iter().find(|old| (old.domid, &old.name) == (now.domid, &now.name));
            now.since(old.unwrap_or(&nothing), span)
        };
        self.domains.iter().map(rates).collect()
    }
}

impl Figures {
    fn of(domain: &Value) -> Self {
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        let sum = |list: &Value, key: &str| {
            list.as_array().into_iter().flatten().map(|entry| number(&entry[key])).sum::<u64>()
        };
        let (disks, nics) = (&domain["disks"], &domain["nics"]);
        let exits = domain["exits"].as_object().into_iter().flatten();
        Self {
            name: domain["name"].as_str().unwrap_or_default().into(),
            domid: number(&domain["domid"]),
            cpu_ns: number(&domain["cpu_ns"]),
            events: number(&domain["events"]["sent"]),
            disk: [sum(disks, "read_bytes"), sum(disks, "write_bytes")],
            net: [sum(nics, "rx_bytes"), sum(nics, "tx_bytes")],
            packets: sum(nics, "rx_packets") + sum(nics, "tx_packets"),
            exits: exits.map(|(kind, count)| (kind.clone(), number(count))).collect(),
        }
    }

    fn since(&self, old: &Self, span: f64) -> Rates {
        let rate = |now: u64, old: u64| now.saturating_sub(old) as f64 / span;
        let exits = self.exits.iter().map(|(kind, count)| {
            (kind.clone(), rate(*count, old.exits.get(kind).copied().unwrap_or_default()))
        });
        Rates {
            name: self.name.clone(),
            domid: self.domid,
            cpu_percent: rate(self.cpu_ns, old.cpu_ns) / 1e7,
            events: rate(self.events, old.events),
            disk_read: rate(self.disk[0], old.disk[0]),
            disk_written: rate(self.disk[1], old.disk[1]),
            net_received: rate(self.net[0], old.net[0]),
            net_sent: rate(self.net[1], old.net[1]),
            packets: rate(self.packets, old.packets),
            exits: exits.filter(|(_, rate)| *rate > 0.0).collect(),
        }
    }
}

impl Rates {
    /// Exits of all kinds.
    pub(super) fn all_exits(&self) -> f64 {
        self.exits.values().sum()
    }

    /// A line below [`HEAD`].
    pub(super) fn line(&self) -> String {
        format!(
            "{:<18.18} {:>3} {:>6.1} {:>9.0} {:>9.0} {:>13.0} {:>6.0} {:>13.0} {:>7.0} {:>7.0}",
            self.name,
            self.domid,
            self.cpu_percent,
            self.all_exits(),
            self.events,
            self.disk_read / 1024.0,
            self.disk_written / 1024.0,
            self.net_received / 1024.0,
            self.net_sent / 1024.0,
            self.packets
        )
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    /// A moment at which a domain `a` has done `n` of everything.
    pub(crate) fn sample(at_s: u64, n: u64) -> Sample {
        let domain = json!({
            "name": "a", "domid": 1, "outcome": "running", "cpu_ns": n * 1_000_000,
            "exits": {"hypercall": n, "port": 7}, "events": {"sent": n},
            "disks": [{"read_bytes": n * 1024, "write_bytes": 0}],
            "nics": [{"rx_bytes": n * 2048, "tx_bytes": 0, "rx_packets": n, "tx_packets": n}],
        });
        let gone = json!({"name": "b", "domid": 2, "outcome": "poweroff"});
        Sample::of(at_s * 1_000_000_000, &json!({"dom0": {"cpu_ns": 0}, "domains": [domain, gone]}))
    }

    #[test]
    fn two_moments_become_rates() {
        let rates = sample(12, 300).since(&sample(10, 100));
        assert_eq!(rates.len(), 2, "a domain that ended is not shown");
        assert_eq!(rates[0].name, "Domain-0");
        let a = &rates[1];
        assert_eq!((a.cpu_percent, a.events, a.packets), (10.0, 100.0, 200.0));
        assert_eq!((a.disk_read, a.net_received), (102_400.0, 204_800.0));
        assert_eq!(a.exits, BTreeMap::from([("hypercall".to_string(), 100.0)]));
        assert_eq!(
            a.line(),
            "a                    1   10.0       100       100           100      0           200       0     200"
        );
        assert_eq!(HEAD.len(), a.line().len());
    }
}
