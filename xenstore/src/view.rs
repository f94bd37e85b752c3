//! What one request may see and do: the tree, or a transaction's, through the eyes of one domain.
//!
//! Here are the rules: permissions on each access, errors that do not tell a domain what it may not know, quotas, and
//! which watches hear of a change.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use trunnion_protocol::errno::Errno;

use crate::path::Path;
use crate::perms::{Perms, Rights, Subject};
use crate::quota::{Quotas, node_size};
use crate::transaction::{Change, Transaction};
use crate::tree::{Node, Tree};

/// The tree that a request works on.
#[derive(Debug)]
pub enum Place<'a> {
    /// The one that everybody sees.
    Main(&'a mut Tree),
    /// A transaction's.
    Transaction(&'a mut Transaction),
}

/// One request's access.
#[derive(Debug)]
pub struct View<'a> {
    /// Where it works.
    pub place: Place<'a>,
    /// For whom.
    pub subject: Subject,
    /// The limits of unprivileged domains.
    pub quotas: &'a Quotas,
    /// The store's generation count.
    pub generation: &'a mut u64,
    /// Bytes that the connection holds besides nodes and this transaction.
    pub held: usize,
    /// The mistake to make.
    #[cfg(feature = "planted")]
    pub planted: Option<crate::planted::Bug>,
    /// Changes to tell watches of, outside transactions.
    pub changes: Vec<Change>,
}

impl View<'_> {
    fn tree(&self) -> &Tree {
        match &self.place {
            Place::Main(tree) => tree,
            Place::Transaction(transaction) => transaction.tree(),
        }
    }

    fn touch(&mut self, path: &Path) -> Result<(), Errno> {
        let limit = (!self.subject.is_privileged()).then_some(self.quotas.transaction_nodes);
        if let Place::Transaction(transaction) = &mut self.place {
            transaction.touch(path, limit)?;
            self.check_memory(0)?;
        }
        Ok(())
    }

    fn modify(&mut self, paths: &[Path], bytes: usize) -> (&mut Tree, u64) {
        *self.generation += 1;
        let tree = match &mut self.place {
            Place::Main(tree) => tree,
            Place::Transaction(transaction) => transaction.modify(paths, bytes),
        };
        (tree, *self.generation)
    }

    /// Tells watches of a change at `path`; `before` are the permissions that it has or had.
    fn fire(&mut self, path: &Path, exact: bool, before: &[&Perms]) {
        if let Place::Transaction(transaction) = &mut self.place {
            transaction.fire(path, exact);
            return;
        }
        let mut readable: Vec<Perms> = before.iter().map(|&perms| perms.clone()).collect();
        let tree = self.tree();
        readable.extend(tree.get(path).map(|node| node.perms.clone()));
        if !path.is_special() {
            readable.extend(tree.get(&path.parent()).map(|node| node.perms.clone()));
        }
        self.changes.push(Change { path: path.clone(), exact, readable });
    }

    /// The node at `path`, if the domain has all of `need` on it.
    ///
    /// [`Errno::NoEnt`] where there is none and the nearest node above grants some of `need`; [`Errno::Acces`]
    /// otherwise, so that a domain learns nothing of nodes that are hidden from it.
    pub fn find(&mut self, path: &Path, need: Rights) -> Result<Arc<Node>, Errno> {
        self.touch(path)?;
        if let Some(node) = self.tree().get_arc(path) {
            if node.perms.rights(&self.subject).contains(need) {
                return Ok(node.clone());
            }
            return Err(Errno::Acces);
        }
        let mut place = path.clone();
        loop {
            place = place.parent();
            self.touch(&place)?;
            if let Some(node) = self.tree().get(&place) {
                let told = node.perms.rights(&self.subject).meets(need) || planted!(self, ToldMissing);
                return Err(if told { Errno::NoEnt } else { Errno::Acces });
            }
            if place.is_root() {
                return Err(Errno::Acces);
            }
        }
    }

    /// Sets the value of a node, creating it and the missing ones above it.
    pub fn write(&mut self, path: &Path, value: &[u8]) -> Result<(), Errno> {
        match self.find(path, Rights::WRITE) {
            Ok(node) => {
                self.check_size(node_size(node.perms.count(), value.len(), node.names_size()))?;
                self.check_memory(value.len().saturating_sub(node.value.len()))?;
            }
            Err(Errno::NoEnt) => self.create(path, value.len())?,
            Err(error) => return Err(error),
        }
        let value = Arc::from(value);
        let (tree, generation) = self.modify(core::slice::from_ref(path), 2 * path.as_str().len() + 64);
        tree.change(path, generation, |node| node.value = value);
        self.fire(path, false, &[]);
        Ok(())
    }

    /// Creates a node without a value, if there is none.
    pub fn mkdir(&mut self, path: &Path) -> Result<(), Errno> {
        match self.find(path, Rights::WRITE) {
            Ok(_) => Ok(()),
            Err(Errno::NoEnt) => {
                self.create(path, 0)?;
                self.fire(path, false, &[]);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Creates a node that [`find`](Self::find) did not, for a value of `length` bytes.
    fn create(&mut self, path: &Path, length: usize) -> Result<(), Errno> {
        let mut paths = Vec::new();
        let mut place = path.clone();
        let parent = loop {
            if let Some(node) = self.tree().get_arc(&place) {
                break node.clone();
            }
            paths.push(place.clone());
            place = place.parent();
        };
        let perms = parent.perms.count();
        let mut bytes = length;
        let mut below = None;
        for path in &paths {
            let (value, names) = below.map_or((length, 0), |name: usize| (0, name + 1));
            self.check_size(node_size(perms, value, names))?;
            bytes += node_size(perms, 0, path.name().len() + 1) + path.as_str().len();
            below = Some(path.name().len());
        }
        self.check_size(parent.size() + below.unwrap_or(0) + 1)?;
        let owned = self.tree().usage(self.subject.domain).nodes;
        if !self.subject.is_privileged() && owned + paths.len() > self.quotas.nodes {
            return Err(Errno::NoSpc);
        }
        self.check_memory(bytes)?;
        paths.push(place);
        let mut subject = self.subject;
        if planted!(self, InheritedOwner) {
            subject.domain = trunnion_protocol::id::DomainId::DOM0;
        }
        let (tree, generation) = self.modify(&paths, bytes);
        tree.create(path, &subject, generation);
        Ok(())
    }

    /// Removes a node with all below it. A node that is missing is no fault if the one above it exists.
    pub fn remove(&mut self, path: &Path) -> Result<(), Errno> {
        let parent = path.parent();
        match self.find(path, Rights::WRITE) {
            Ok(_) if path.is_root() => return Err(Errno::Inval),
            Ok(_) => {}
            Err(Errno::NoEnt) => {
                self.touch(&parent)?;
                return self.tree().get(&parent).map(|_| ()).ok_or(Errno::NoEnt);
            }
            Err(error) => return Err(error),
        }
        self.touch(&parent)?;
        let mut paths = Vec::new();
        if let Place::Transaction(_) = self.place {
            for (path, _) in self.tree().below(path) {
                self.touch(&path)?;
                paths.push(path);
            }
        }
        paths.push(parent.clone());
        self.remove_now(path, &parent, &paths);
        Ok(())
    }

    /// Removes a node that exists, whoever may: what is left to do when its owner is gone.
    pub(crate) fn remove_now(&mut self, path: &Path, parent: &Path, paths: &[Path]) {
        let gone = self.tree().below_last(path);
        let perms: BTreeMap<&Path, &Perms> = gone.iter().map(|(path, node)| (path, &node.perms)).collect();
        let above = self.tree().get(parent).map(|node| node.perms.clone());
        let (tree, generation) = self.modify(paths, 0);
        tree.remove(path, generation);
        for (place, node) in &gone {
            let above = perms.get(&place.parent()).copied().or(above.as_ref());
            self.fire_removed(place, place != path, &node.perms, above);
        }
    }

    fn fire_removed(&mut self, path: &Path, exact: bool, before: &Perms, above: Option<&Perms>) {
        match &mut self.place {
            Place::Transaction(transaction) => transaction.fire(path, exact),
            Place::Main(_) => {
                let readable = [before].into_iter().chain(above).cloned().collect();
                self.changes.push(Change { path: path.clone(), exact, readable });
            }
        }
    }

    /// Replaces the permissions of a node or a special name; only its owner may, and only domain 0 may change the owner.
    pub fn set_perms(&mut self, path: &Path, perms: Perms) -> Result<(), Errno> {
        let node = self.find(path, Rights::OWN)?;
        if !self.subject.is_privileged() && perms.owner() != node.perms.owner() {
            return Err(Errno::Perm);
        }
        self.check_size(node_size(perms.count(), node.value.len(), node.names_size()))?;
        self.check_memory(8 * perms.count())?;
        let (tree, generation) = self.modify(core::slice::from_ref(path), 64);
        tree.change(path, generation, |node| node.perms = perms);
        self.fire(path, false, &[&node.perms]);
        Ok(())
    }

    fn check_size(&self, size: usize) -> Result<(), Errno> {
        let fits = self.subject.is_privileged() || size <= self.quotas.node_size;
        if fits { Ok(()) } else { Err(Errno::NoSpc) }
    }

    fn check_memory(&self, more: usize) -> Result<(), Errno> {
        if self.subject.is_privileged() {
            return Ok(());
        }
        let transaction = match &self.place {
            Place::Main(_) => 0,
            Place::Transaction(transaction) => transaction.bytes(),
        };
        let owned = self.tree().usage(self.subject.domain).bytes;
        let fits = owned + transaction + self.held + more <= self.quotas.memory;
        if fits { Ok(()) } else { Err(Errno::NoMem) }
    }
}
