//! The store for people: the verbs of the `xenstore-*` tools.

use super::{Platform, Toolstack};
use crate::control::reply::StoreNode;
use crate::control::request::StoreRequest;
use crate::control::{Code, Failure, Reply};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use trunnion_protocol::errno::Errno;
use trunnion_protocol::store::Kind;

/// Nodes of a tree in one reply, and bytes of them, so that it fits into a frame.
const NODES_MAX: usize = 256;
const BYTES_MAX: usize = 32 * 1024;

/// Folders that outlive domains. They are made first, so that what a domain leaves behind can be counted.
const FOLDERS: [&str; 7] = [
    "/tool",
    "/vm",
    "/libxl",
    "/local/domain/0/backend/vbd",
    "/local/domain/0/backend/vif",
    "/local/domain/0/backend/console",
    "/local/domain/0/device",
];

impl<P: Platform> Toolstack<P> {
    /// Makes the nodes that the store always has.
    pub(super) fn furnish(&self) {
        let folders = FOLDERS.iter().map(|path| (Kind::Mkdir, terminated(path)));
        let values = [("name", "Domain-0"), ("domid", "0")];
        let values = values
            .map(|(name, value)| (Kind::Write, format!("/local/domain/0/{name}\0{value}").into_bytes()));
        for (kind, payload) in folders.chain(values) {
            if let Err(errno) = self.platform.store(kind, &payload) {
                log::error!("the store's first nodes cannot be written error={}", errno.name());
            }
        }
    }

    pub(super) fn store_request(&self, request: &StoreRequest) -> Result<Reply, Failure> {
        match request {
            StoreRequest::Ls { path, from } => self.tree(path, *from),
            StoreRequest::Read(path) => self.ask(path, Kind::Read, &[]).map(Reply::Value),
            StoreRequest::Write { path, value } => self.ask(path, Kind::Write, value).map(|_| Reply::Done),
            StoreRequest::Rm(path) => self.ask(path, Kind::Rm, &[]).map(|_| Reply::Done),
            StoreRequest::List(path) => self.children(path).map(Reply::Names),
            StoreRequest::Exists(path) => match self.platform.store(Kind::Read, &terminated(path)) {
                Ok(_) => Ok(Reply::Exists(true)),
                Err(Errno::NoEnt) => Ok(Reply::Exists(false)),
                Err(errno) => Err(refused(path, errno)),
            },
            StoreRequest::Chmod { path, permissions, recursive } => {
                self.chmod(path, &permissions.join("\0"), *recursive)?;
                Ok(Reply::Done)
            }
            StoreRequest::Watch { path, watch } => {
                self.platform.watch(*watch, path).map_err(|errno| refused(path, errno))?;
                Ok(Reply::Done)
            }
            StoreRequest::Unwatch { watch } => {
                if self.platform.unwatch(*watch) {
                    Ok(Reply::Done)
                } else {
                    Err(Failure::new(Code::Store, format!("there is no watch {watch}")))
                }
            }
        }
    }

    fn ask(&self, path: &str, kind: Kind, rest: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut payload = terminated(path);
        payload.extend_from_slice(rest);
        self.platform.store(kind, &payload).map_err(|errno| refused(path, errno))
    }

    fn children(&self, path: &str) -> Result<Vec<String>, Failure> {
        self.platform.store_list(path).map_err(|errno| refused(path, errno))
    }

    fn chmod(&self, top: &str, permissions: &str, recursive: bool) -> Result<(), Failure> {
        let mut todo = Vec::from([String::from(top)]);
        while let Some(path) = todo.pop() {
            let mut payload = permissions.as_bytes().to_vec();
            payload.push(0);
            self.ask(&path, Kind::SetPerms, &payload)?;
            if recursive {
                todo.extend(self.children(&path)?.iter().map(|name| below(&path, name)));
            }
        }
        Ok(())
    }

    /// Part of a tree: nodes from number `from` of a walk. A tree that changes between two parts may show a node twice or not at all, as with `xenstore-ls`.
    fn tree(&self, top: &str, from: u32) -> Result<Reply, Failure> {
        let mut nodes = Vec::new();
        let mut bytes = 0;
        let mut number = 0;
        let mut todo: Vec<String> = self.below_all(top, top)?;
        while let Some(path) = todo.pop() {
            if number >= from {
                if nodes.len() >= NODES_MAX || bytes >= BYTES_MAX {
                    return Ok(Reply::Tree { nodes, next: Some(number) });
                }
                // A node that went away since its parent was listed is left out.
                if let Ok(node) = self.node(&path) {
                    bytes += node.path.len() + node.value.len() + 16;
                    nodes.push(node);
                }
            }
            number += 1;
            todo.extend(self.below_all(&path, top).unwrap_or_default());
        }
        Ok(Reply::Tree { nodes, next: None })
    }

    /// Children, last first, so that they come off a stack in order.
    fn below_all(&self, path: &str, top: &str) -> Result<Vec<String>, Failure> {
        let mut names = self.children(path).map_err(|failure| if path == top { failure } else { gone() })?;
        names.sort_unstable_by(|a, b| b.cmp(a));
        Ok(names.iter().map(|name| below(path, name)).collect())
    }

    fn node(&self, path: &str) -> Result<StoreNode, Failure> {
        let value = self.ask(path, Kind::Read, &[])?;
        let permissions = self.ask(path, Kind::GetPerms, &[])?;
        let permissions = permissions.split(|&byte| byte == 0).filter(|entry| !entry.is_empty());
        let permissions = permissions.map(|entry| String::from_utf8_lossy(entry).into_owned()).collect();
        Ok(StoreNode { path: path.into(), value, permissions })
    }
}

fn gone() -> Failure {
    Failure::new(Code::Store, "the node went away")
}

fn below(path: &str, name: &str) -> String {
    if path == "/" { format!("/{name}") } else { format!("{path}/{name}") }
}

fn terminated(path: &str) -> Vec<u8> {
    let mut payload = path.as_bytes().to_vec();
    payload.push(0);
    payload
}

fn refused(path: &str, errno: Errno) -> Failure {
    Failure::new(Code::Store, format!("{}: {path}", errno.name()))
}
