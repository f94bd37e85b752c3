//! Devices of any class between two guests: the back end is a guest too, and dom0 only makes the nodes by which the halves
//! find each other. What the two do with them is theirs.

use super::{Platform, Toolstack};
use crate::control::request::{DeviceRequest, DomainName};
use crate::control::{Code, Failure, Reply};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use trunnion_protocol::id::DomainId;
use trunnion_protocol::store::Kind;

/// How long a back end may take to let a device go, in nanoseconds.
const PATIENCE_NS: u64 = 10_000_000_000;
/// Classes that dom0 serves itself, or that are no devices.
const OWN: [&str; 5] = ["vbd", "vif", "console", "suspend", "pci"];
/// Most devices of this kind.
const MOST: usize = 256;

/// A device between two guests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    front: DomainId,
    back: DomainId,
    class: String,
    id: u32,
}

impl Link {
    fn front_path(&self) -> String {
        format!("/local/domain/{}/device/{}/{}", self.front, self.class, self.id)
    }

    /// Below it are the back end's halves of all the front end's devices of the class.
    fn back_folder(&self) -> String {
        format!("/local/domain/{}/backend/{}/{}", self.back, self.class, self.front)
    }

    fn back_path(&self) -> String {
        format!("{}/{}", self.back_folder(), self.id)
    }

    fn place(&self) -> (DomainId, &str, u32) {
        (self.front, &self.class, self.id)
    }
}

impl<P: Platform> Toolstack<P> {
    /// Makes a device, or takes one away.
    pub(super) async fn device(&self, request: &DeviceRequest) -> Result<Reply, Failure> {
        match request {
            DeviceRequest::Attach { front, back, class, id } => self.attach(front, back, class, *id),
            DeviceRequest::Detach { front, class, id, force } => self.detach(front, class, *id, *force).await,
        }
    }

    fn attach(&self, front: &DomainName, back: &DomainName, class: &str, id: u32) -> Result<Reply, Failure> {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if class.is_empty() || class.len() > 16 || !class.bytes().all(fits) {
            return Err(refused(format!("`{class}` is no class: 1 to 16 of a-z, 0-9 and -")));
        }
        if OWN.contains(&class) {
            return Err(refused(format!("class {class} has verbs and a back end of its own")));
        }
        let (front, back) = (self.find_guest(front)?, self.find_guest(back)?);
        self.check_alive(front)?;
        self.check_alive(back)?;
        if front == back {
            return Err(refused("a domain cannot serve itself".into()));
        }
        let link = Link { front, back, class: class.to_string(), id };
        {
            let state = self.state.borrow();
            if state.links.iter().any(|other| other.place() == link.place()) {
                return Err(refused(format!("domain {front} has a {class} device {id} already")));
            }
            if state.links.len() >= MOST {
                return Err(refused(format!("there are {MOST} such devices already")));
            }
        }
        self.write_link(&link).inspect_err(|_| self.remove_link(&link))?;
        log::info!("a device is attached class={class} id={id} front={front} back={back}");
        self.state.borrow_mut().links.push(link);
        Ok(Reply::Done)
    }

    /// The nodes of a device. What the halves wait for comes last: `online` for the back end, `backend` for the front end.
    fn write_link(&self, link: &Link) -> Result<(), Failure> {
        let Link { front, back, class, .. } = link;
        let (front_path, back_path) = (link.front_path(), link.back_path());
        let folder = |domain: &DomainId| format!("n0\0r{domain}");
        let (theirs, ours) = (format!("n{front}\0r{back}"), format!("n{back}\0r{front}"));
        let home = format!("/local/domain/{back}/backend");
        let nodes = [
            (home.clone(), String::new(), folder(back)),
            (format!("{home}/{class}"), String::new(), folder(back)),
            (link.back_folder(), String::new(), folder(back)),
            (back_path.clone(), String::new(), ours.clone()),
            (format!("{back_path}/frontend"), front_path.clone(), ours.clone()),
            (format!("{back_path}/frontend-id"), front.to_string(), ours.clone()),
            (format!("{back_path}/state"), "1".into(), ours.clone()),
            (format!("/local/domain/{front}/device/{class}"), String::new(), folder(front)),
            (front_path.clone(), String::new(), theirs.clone()),
            (format!("{front_path}/backend-id"), back.to_string(), theirs.clone()),
            (format!("{front_path}/state"), "1".into(), theirs.clone()),
            (format!("{back_path}/online"), "1".into(), ours),
            (format!("{front_path}/backend"), back_path, theirs),
        ];
        for (path, value, rights) in nodes {
            let tell = |errno: trunnion_protocol::errno::Errno| {
                Failure::new(Code::Store, format!("{}: {path}", errno.name()))
            };
            // The rights are there before the value that others wait for.
            self.platform.store(Kind::Mkdir, format!("{path}\0").as_bytes()).map_err(tell)?;
            self.platform.store(Kind::SetPerms, format!("{path}\0{rights}\0").as_bytes()).map_err(tell)?;
            if !value.is_empty() {
                self.platform.store(Kind::Write, format!("{path}\0{value}").as_bytes()).map_err(tell)?;
            }
        }
        Ok(())
    }

    async fn detach(&self, front: &DomainName, class: &str, id: u32, force: bool) -> Result<Reply, Failure> {
        let front = self.find_guest(front)?;
        let place = (front, class, id);
        let link = self.state.borrow().links.iter().find(|link| link.place() == place).cloned();
        let link = link.ok_or_else(|| refused(format!("domain {front} has no {class} device {id}")))?;
        let until = self.platform.now_ns().saturating_add(PATIENCE_NS);
        if !force {
            let online = format!("{}/online\x000", link.back_path());
            let _ = self.platform.store(Kind::Write, online.as_bytes());
            let state = format!("{}/state\0", link.back_path());
            // A back end that is gone, or was never there, has nothing to let go.
            while !matches!(
                self.platform.store(Kind::Read, state.as_bytes()).as_deref(),
                Ok(b"6" | b"1") | Err(_)
            ) {
                if self.platform.now_ns() > until {
                    return Err(refused(format!(
                        "the back end, domain {}, does not let {class} device {id} go; `--force` takes it away",
                        link.back
                    )));
                }
                self.platform.rest().await;
            }
        }
        self.remove_link(&link);
        log::info!("a device is detached class={class} id={id} front={front} back={}", link.back);
        Ok(Reply::Done)
    }

    fn remove_link(&self, link: &Link) {
        let folder = link.back_folder();
        let last = {
            let links = &mut self.state.borrow_mut().links;
            links.retain(|other| other.place() != link.place());
            !links.iter().any(|other| other.back_folder() == folder)
        };
        // Back ends read the list of these folders: an empty one would stay in it for as long as they run.
        for path in [link.front_path(), if last { folder } else { link.back_path() }] {
            // Gone already where its domain is.
            let _ = self.platform.store(Kind::Rm, format!("{path}\0").as_bytes());
        }
    }

    /// Takes the devices of a domain that has ended away from the other halves.
    pub(super) fn unlink(&self, id: DomainId) {
        let links: Vec<Link> = self.state.borrow().links.clone();
        links
            .iter()
            .filter(|link| link.front == id || link.back == id)
            .for_each(|link| self.remove_link(link));
    }
}

fn refused(why: String) -> Failure {
    Failure::new(Code::State, why)
}
