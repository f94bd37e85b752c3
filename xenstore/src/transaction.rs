//! Transactions: a snapshot, and a list of what was touched.
//!
//! A transaction works on a copy of the tree that is made when it starts. It commits if no node that it read or wrote
//! has changed in the meantime, missing nodes included; then its changes are put into the tree as it is now, so that
//! transactions about different nodes do not disturb each other.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use trunnion_protocol::errno::Errno;
use trunnion_protocol::id::DomainId;
use trunnion_protocol::planted::{self, Bug};

use crate::path::Path;
use crate::perms::{Perms, Subject};
use crate::tree::Tree;

/// A change that watches are told about.
#[derive(Clone, Debug)]
pub struct Change {
    /// Where.
    pub path: Path,
    /// Tell only watches on this very path; those above hear of it by another change.
    pub exact: bool,
    /// Permissions that let a connection know of the change, if they let it read: those of the node before and after,
    /// and those of its parent, which shows the names of its children.
    pub readable: Vec<Perms>,
}

#[derive(Debug)]
struct Touched {
    path: Path,
    modified: bool,
    /// Watches are told at commit; the value says whether only exact ones.
    fire: Option<bool>,
    before: Option<Perms>,
}

/// An open transaction.
#[derive(Debug)]
pub struct Transaction {
    base: Tree,
    tree: Tree,
    touched: Vec<Touched>,
    index: BTreeMap<Path, usize>,
    failed: bool,
    stale: bool,
    bytes: usize,
}

impl Transaction {
    /// A transaction on a snapshot of `tree`.
    pub fn new(tree: &Tree) -> Self {
        Self {
            base: tree.clone(),
            tree: tree.clone(),
            touched: Vec::new(),
            index: BTreeMap::new(),
            failed: false,
            stale: false,
            bytes: 0,
        }
    }

    /// The tree as the transaction sees it.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Bytes that the transaction holds besides the nodes that exist without it.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes the transaction fail with [`Errno::Again`] when it ends: a domain died, and with it nodes and rights that
    /// the snapshot still shows.
    pub fn invalidate(&mut self) {
        self.stale = true;
    }

    /// Notes that a node was looked at, whether or not it exists. Past `limit` nodes the transaction has failed.
    pub fn touch(&mut self, path: &Path, limit: Option<usize>) -> Result<(), Errno> {
        if self.index.contains_key(path) {
            return Ok(());
        }
        if limit.is_some_and(|limit| self.touched.len() >= limit) {
            self.failed = true;
            return Err(Errno::NoSpc);
        }
        let before = self.base.get(path).map(|node| node.perms.clone());
        self.index.insert(path.clone(), self.touched.len());
        self.touched.push(Touched { path: path.clone(), modified: false, fire: None, before });
        self.bytes += path.as_str().len() + 2 * size_of::<Touched>();
        Ok(())
    }

    /// The tree for a change to nodes that were touched before; `bytes` more are held because of it.
    pub fn modify(&mut self, paths: &[Path], bytes: usize) -> &mut Tree {
        for path in paths {
            if let Some(touched) = self.index.get(path).and_then(|&at| self.touched.get_mut(at)) {
                touched.modified = true;
            }
        }
        self.bytes += bytes;
        &mut self.tree
    }

    /// Lets a commit pass over nodes that were only read: a mistake to be planted.
    #[cfg(feature = "planted")]
    pub(crate) fn forget_reads(mut self) -> Self {
        self.touched.retain(|touched| touched.modified);
        self
    }

    /// Tells watches of a change when the transaction commits. An exact notice does not replace a wide one.
    pub fn fire(&mut self, path: &Path, exact: bool) {
        if let Some(touched) = self.index.get(path).and_then(|&at| self.touched.get_mut(at)) {
            touched.fire = Some(exact && touched.fire.unwrap_or(true));
        }
    }

    /// The tree `now` with this transaction's changes, and what watches are told in the order the nodes were first
    /// touched. [`Errno::Again`] on a conflict.
    pub fn commit(self, now: &Tree, generation: u64) -> Result<(Tree, Vec<Change>), Errno> {
        if self.failed {
            return Err(Errno::NoMem);
        }
        let changed = |path: &Path| self.base.generation(path) != now.generation(path);
        if planted::is(Bug::IgnoredConflict) {
            // Every conflict passes.
        } else if self.stale || self.touched.iter().any(|touched| changed(&touched.path)) {
            return Err(Errno::Again);
        }
        let tree = if self.base.is_same(now) { self.tree.clone() } else { self.merge(now, generation) };
        let fired = |touched: &Touched| {
            let exact = touched.fire?;
            let mut readable: Vec<Perms> = touched.before.iter().cloned().collect();
            if let Some(node) = tree.get(&touched.path) {
                readable.push(node.perms.clone());
                readable.extend(tree.get(&touched.path.parent()).map(|node| node.perms.clone()));
            }
            Some(Change { path: touched.path.clone(), exact, readable })
        };
        let changes = self.touched.iter().filter_map(fired).collect();
        Ok((tree, changes))
    }

    fn merge(&self, now: &Tree, generation: u64) -> Tree {
        let mut tree = now.clone();
        let mut modified: Vec<&Path> =
            self.touched.iter().filter(|touched| touched.modified).map(|touched| &touched.path).collect();
        // A path sorts before those below it, so that parents exist when their children are made.
        modified.sort();
        for path in modified.iter().filter(|path| self.tree.get(path).is_none()) {
            if tree.get(path).is_some() {
                tree.remove(path, generation);
            }
        }
        let maker = Subject { domain: DomainId::DOM0, target: None };
        for path in &modified {
            let Some(source) = self.tree.get(path) else { continue };
            tree.create(path, &maker, generation);
            tree.change(path, generation, |node| {
                node.value = source.value.clone();
                node.perms = source.perms.clone();
            });
        }
        for path in &modified {
            tree.order_like(path, &self.tree);
        }
        tree
    }
}
