//! Ends: noticed, asked for, forced; and what follows.

use super::{Entry, Platform, State, Status, Toolstack, Wish};
use crate::build;
use crate::config::Action;
use crate::control::summary::Outcome;
use crate::control::{Code, Event, Failure};
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use trunnion_protocol::control::{DomainInfo, domain_state};
use trunnion_protocol::hypercall::sched::ShutdownReason;
use trunnion_protocol::id::DomainId;

/// A domain that is started again after a crash must have lived that long, in nanoseconds; one that crashes at once would do nothing else.
const RESTART_AFTER_NS: u64 = 1_000_000_000;
/// How long the end of a domain waits for a tool to open its console, in nanoseconds: one that lived for a moment only may have ended before the tool
/// that heard of it could ask. The machine's time may run far ahead of the tool's while the machine idles.
const WATCH_PATIENCE_NS: u64 = 600_000_000_000;
/// Ended domains whose console logs are kept for tools that come late.
const LOGS_KEPT: usize = 4;

impl<P: Platform> Toolstack<P> {
    /// Domains that have ended and that nobody deals with yet.
    pub(super) fn fallen(&self) -> Vec<(DomainId, DomainInfo)> {
        let mut infos = match self.domains() {
            Ok(infos) => infos,
            Err(failure) => {
                log::error!("domains cannot be looked at reason={failure}");
                return Vec::new();
            }
        };
        let state = self.state.borrow();
        let alive = |info: &DomainInfo| {
            state.entries.get(&DomainId(info.domain)).is_some_and(|entry| entry.status == Status::Alive)
        };
        infos.retain(|info| info.state & domain_state::SHUTDOWN != 0 && alive(info));
        infos.into_iter().map(|info| (DomainId(info.domain), info)).collect()
    }

    /// A domain has shut down or crashed.
    pub(super) async fn ended(&self, id: DomainId, info: DomainInfo) {
        let Some((mut domain, wish)) = self.take(id) else { return };
        let (outcome, detail) = self.outcome(id, &info);
        log::info!(
            "a domain ended domain={id} name={} outcome={outcome:?} detail={detail}",
            domain.plan.name
        );
        self.platform.shut_down(id);
        self.read_dry(id, &mut domain).await;
        let ended_ns = if info.ended_ns == 0 { self.platform.now_ns() } else { info.ended_ns };
        self.note_end(id, &domain, outcome, &detail, ended_ns);
        let action = match outcome {
            Outcome::Poweroff => domain.plan.on_poweroff,
            Outcome::Reboot => domain.plan.on_reboot,
            Outcome::Crash | Outcome::Watchdog
                if lived(&info) < RESTART_AFTER_NS && domain.plan.on_crash == Action::Restart =>
            {
                log::warn!("a domain that crashes at once is not started again domain={id}");
                Action::Destroy
            }
            Outcome::Crash | Outcome::Watchdog => domain.plan.on_crash,
            Outcome::Suspend | Outcome::Destroyed | Outcome::Running => Action::Destroy,
        };
        let restarting = action == Action::Restart;
        let name = domain.plan.name.clone();
        let event =
            Event::DomainEnded { domid: id.0, name: name.clone(), outcome, detail, ended_ns, restarting };
        if action == Action::Preserve {
            self.keep(id, domain);
        } else {
            self.remove(id, domain).await;
        }
        self.platform.event(event);
        if restarting {
            match self.build(&wish, false).await {
                Ok(_) => return,
                Err((_, failure)) => {
                    log::error!("a domain could not be started again name={name} reason={failure}");
                    self.platform.event(Event::CreateFailed { name, failure });
                }
            }
        }
        self.over(&wish).await;
    }

    /// Ends a domain without asking it.
    pub(super) async fn destroy(&self, id: DomainId) -> Result<(), Failure> {
        let kept = self.state.borrow().entries.get(&id).is_some_and(|entry| entry.status == Status::Kept);
        if !kept {
            self.check_alive(id)?;
        }
        let Some((mut domain, wish)) = self.take(id) else {
            return Err(Failure::new(Code::State, "the domain is ending"));
        };
        if kept {
            self.remove(id, domain).await;
            return Ok(());
        }
        if let Err(errno) = self.platform.pause(id) {
            log::warn!("pausing failed domain={id} error={}", errno.name());
        }
        self.platform.shut_down(id);
        self.read_dry(id, &mut domain).await;
        let ended_ns = self.platform.now_ns();
        let detail = String::from("by request");
        self.note_end(id, &domain, Outcome::Destroyed, &detail, ended_ns);
        let name = domain.plan.name.clone();
        self.remove(id, domain).await;
        let outcome = Outcome::Destroyed;
        self.platform.event(Event::DomainEnded {
            domid: id.0,
            name,
            outcome,
            detail,
            ended_ns,
            restarting: false,
        });
        self.over(&wish).await;
        Ok(())
    }

    /// Ends all domains, for the end of the platform.
    pub(super) async fn destroy_all(&self) {
        self.state.borrow_mut().waiting.clear();
        let ids: Vec<DomainId> = self.state.borrow().entries.keys().copied().collect();
        for id in ids {
            if let Err(failure) = self.destroy(id).await {
                log::info!("a domain was not destroyed domain={id} reason={failure}");
            }
        }
    }

    /// Reads a console to its last byte, and waits until tools have it.
    async fn read_dry(&self, id: DomainId, domain: &mut build::Domain) {
        domain.drain(&self.platform).await;
        let until = self.platform.now_ns().saturating_add(WATCH_PATIENCE_NS);
        while self.platform.has_tool() && !self.platform.is_watched(id) && self.platform.now_ns() < until {
            self.platform.rest().await;
        }
        self.platform.flush_console(id).await;
    }

    /// Takes a domain out of its entry; whoever has it ends it.
    fn take(&self, id: DomainId) -> Option<(build::Domain, Rc<Wish>)> {
        let mut state = self.state.borrow_mut();
        let entry = state.entries.get_mut(&id)?;
        let domain = entry.domain.take()?;
        entry.status = Status::Ending;
        Some((domain, Rc::clone(&entry.wish)))
    }

    fn keep(&self, id: DomainId, domain: build::Domain) {
        if let Some(entry) = self.state.borrow_mut().entries.get_mut(&id) {
            *entry = Entry {
                status: Status::Kept,
                domain: Some(domain),
                wish: Rc::clone(&entry.wish),
                figure: entry.figure,
            };
        }
    }

    async fn remove(&self, id: DomainId, domain: build::Domain) {
        self.unlink(id);
        domain.end(&self.platform).await;
        let late = {
            let State { entries, figures, .. } = &mut *self.state.borrow_mut();
            entries.remove(&id);
            let gone = figures.iter().rev().filter(|figure| !entries.contains_key(&DomainId(figure.domid)));
            gone.map(|figure| DomainId(figure.domid)).nth(LOGS_KEPT)
        };
        if let Some(late) = late {
            self.platform.forget_console(late);
        }
    }

    /// A domain will not come back: its files are not needed, and the manifest goes on.
    async fn over(&self, wish: &Wish) {
        self.forget_files(wish);
        if wish.listed {
            {
                let mut state = self.state.borrow_mut();
                state.listed = state.listed.saturating_sub(1);
            }
            self.advance().await;
        }
    }

    fn note_end(&self, id: DomainId, domain: &build::Domain, outcome: Outcome, detail: &str, ended_ns: u64) {
        let State { entries, figures, .. } = &mut *self.state.borrow_mut();
        if let Some(figure) = entries.get(&id).and_then(|entry| figures.get_mut(entry.figure)) {
            figure.outcome = outcome;
            figure.detail = detail.to_string();
            figure.ended_ns = ended_ns;
            self.fill(figure, domain);
        }
    }

    /// How a domain ended, and more about it.
    fn outcome(&self, id: DomainId, info: &DomainInfo) -> (Outcome, String) {
        match ShutdownReason::from_number(info.shutdown_reason) {
            Some(ShutdownReason::PowerOff) => (Outcome::Poweroff, String::new()),
            Some(ShutdownReason::Reboot) => (Outcome::Reboot, String::new()),
            Some(ShutdownReason::SoftReset) => (Outcome::Reboot, "for a new kernel".into()),
            Some(ShutdownReason::Suspend) => {
                (Outcome::Suspend, "suspended domains cannot be resumed yet".into())
            }
            Some(ShutdownReason::Watchdog) => (Outcome::Watchdog, "its watchdog ran out".into()),
            Some(ShutdownReason::Crash) => {
                let report = self.platform.crash_report(id);
                for line in report.lines() {
                    log::warn!("domain={id} {line}");
                }
                let first =
                    report.lines().find(|line| !line.trim().is_empty()).unwrap_or("it said so itself");
                (Outcome::Crash, first.trim().to_string())
            }
            None => (Outcome::Crash, alloc::format!("for reason {}", info.shutdown_reason)),
        }
    }
}

fn lived(info: &DomainInfo) -> u64 {
    info.ended_ns.saturating_sub(info.first_run_ns)
}
