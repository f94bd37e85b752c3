//! The tree, as a persistent structure: a copy costs three pointers, and a change copies only the nodes between the
//! root and the place of the change that somebody else still holds. Snapshots for transactions are such copies.
//!
//! The tree enforces no permissions and no quotas; it keeps the count of what each domain owns. Nodes can lie some
//! thousand levels deep, so that nothing here recurses.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use trunnion_protocol::id::DomainId;

use crate::path::{INTRODUCE_DOMAIN, Path, RELEASE_DOMAIN};
use crate::perms::{Perms, Subject};
use crate::quota::{Usage, node_size};

/// One node.
#[derive(Clone, Debug)]
pub struct Node {
    name: Arc<str>,
    /// The value.
    pub value: Arc<[u8]>,
    /// Who may do what.
    pub perms: Perms,
    /// Changes with each change of value, permissions or list of children; never 0.
    pub generation: u64,
    children: Vec<Arc<Node>>,
}

impl Node {
    fn new(name: &str, perms: Perms, generation: u64) -> Self {
        Self { name: Arc::from(name), value: Arc::from([]), perms, generation, children: Vec::new() }
    }

    /// Names of the children, in the order of their creation.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.children.iter().map(|child| &*child.name)
    }

    /// Bytes of the children's names, each with a NUL.
    pub fn names_size(&self) -> usize {
        self.names().map(|name| name.len() + 1).sum()
    }

    /// Bytes that count against the quota of a node.
    pub fn size(&self) -> usize {
        node_size(self.perms.count(), self.value.len(), self.names_size())
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.children.iter().position(|child| &*child.name == name)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Taken apart with a list, since the nesting is as deep as a path is long.
        let mut orphans = core::mem::take(&mut self.children);
        while let Some(orphan) = orphans.pop() {
            if let Some(mut node) = Arc::into_inner(orphan) {
                orphans.append(&mut node.children);
            }
        }
    }
}

type Place = (Path, Arc<Node>);
type Children<'a> = dyn DoubleEndedIterator<Item = Place> + 'a;

/// The nodes, and the two special names.
#[derive(Clone, Debug)]
pub struct Tree {
    root: Arc<Node>,
    specials: [Arc<Node>; 2],
    usage: BTreeMap<DomainId, Usage>,
}

impl Tree {
    /// The tree of a fresh store: `/tool/xenstored` and the special names, all domain 0's.
    pub fn new(generation: u64) -> Self {
        let perms = Perms::owned_by(DomainId::DOM0);
        let node = |name| Node::new(name, perms.clone(), generation);
        let (mut root, mut tool) = (node(""), node("tool"));
        tool.children.push(Arc::new(node("xenstored")));
        root.children.push(Arc::new(tool));
        let specials = [INTRODUCE_DOMAIN, RELEASE_DOMAIN].map(|name| Arc::new(node(name)));
        Self { root: Arc::new(root), specials, usage: BTreeMap::new() }
    }

    /// The node at `path`.
    pub fn get(&self, path: &Path) -> Option<&Node> {
        if path.is_special() {
            return self.specials.iter().find(|node| &*node.name == path.as_str()).map(Arc::as_ref);
        }
        let mut node = &*self.root;
        for name in path.components() {
            node = node.children.get(node.find(name)?)?;
        }
        Some(node)
    }

    /// The generation of the node at `path`, 0 if there is none.
    pub fn generation(&self, path: &Path) -> u64 {
        self.get(path).map_or(0, |node| node.generation)
    }

    /// What `domain` owns. Domain 0 is not counted.
    pub fn usage(&self, domain: DomainId) -> Usage {
        self.usage.get(&domain).copied().unwrap_or_default()
    }

    /// The domains that own nodes, without domain 0.
    pub fn owners(&self) -> impl Iterator<Item = DomainId> {
        self.usage.keys().copied()
    }

    /// Changes value or permissions of a node that exists; does nothing where there is none.
    pub fn change(&mut self, path: &Path, generation: u64, change: impl FnOnce(&mut Node)) {
        let Some(node) = self.get_mut(path) else { return };
        let before = (node.perms.owner(), node.size());
        change(node);
        node.generation = generation;
        let after = (node.perms.owner(), node.size());
        self.recount(path, Some(before), Some(after));
    }

    /// Creates the node at `path` and the missing ones above it. Permissions are inherited, as `who` creates them.
    /// Does nothing to nodes that exist, and nothing for special names.
    pub fn create(&mut self, path: &Path, who: &Subject, generation: u64) {
        if path.is_special() {
            return;
        }
        let mut missing = Vec::new();
        let mut place = path.clone();
        while self.get(&place).is_none() {
            missing.push(place.clone());
            place = place.parent();
        }
        for path in missing.iter().rev() {
            let Some(parent) = self.get(&path.parent()) else { return };
            let node = Node::new(path.name(), parent.perms.inherited_by(who), generation);
            let after = (node.perms.owner(), node.size());
            self.change(&path.parent(), generation, |parent| parent.children.push(Arc::new(node)));
            self.recount(path, None, Some(after));
        }
    }

    /// Removes the node at `path` with all below it.
    pub fn remove(&mut self, path: &Path, generation: u64) {
        if path.is_root() || path.is_special() {
            return;
        }
        for (path, node) in self.below(path) {
            self.recount(&path, Some((node.perms.owner(), node.size())), None);
        }
        self.change(&path.parent(), generation, |parent| {
            parent.children.retain(|child| &*child.name != path.name());
        });
    }

    /// True if nothing has changed between the two.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let specials = self.specials.iter().zip(&other.specials);
        Arc::ptr_eq(&self.root, &other.root) && specials.into_iter().all(|(a, b)| Arc::ptr_eq(a, b))
    }

    /// Puts the children of a node into the order that they have in `other`; names that are not there go last.
    pub(crate) fn order_like(&mut self, path: &Path, other: &Self) {
        let (Some(mine), Some(model)) = (self.get(path), other.get(path)) else { return };
        if mine.names().eq(model.names()) {
            return;
        }
        let places: BTreeMap<&str, usize> = model.names().zip(0..).collect();
        if let Some(node) = self.get_mut(path) {
            node.children.sort_by_key(|child| places.get(&*child.name).copied().unwrap_or(usize::MAX));
        }
    }

    /// The node at `path` and all below it, each before its children.
    pub fn below(&self, path: &Path) -> Vec<(Path, Arc<Node>)> {
        self.walk(path, |open, children| open.extend(children.rev()))
    }

    /// The node at `path` and all below it, each after its children.
    pub fn below_last(&self, path: &Path) -> Vec<(Path, Arc<Node>)> {
        let mut found = self.walk(path, |open, children| open.extend(children));
        found.reverse();
        found
    }

    fn walk(&self, path: &Path, descend: impl Fn(&mut Vec<Place>, &mut Children<'_>)) -> Vec<Place> {
        let mut found = Vec::new();
        let mut open = Vec::new();
        open.extend(self.get_arc(path).map(|node| (path.clone(), node.clone())));
        while let Some((path, node)) = open.pop() {
            let mut children = node.children.iter().map(|child| (path.child(&child.name), child.clone()));
            descend(&mut open, &mut children);
            drop(children);
            found.push((path, node));
        }
        found
    }

    /// The node at `path`, to be held beyond the next change.
    pub fn get_arc(&self, path: &Path) -> Option<&Arc<Node>> {
        if path.is_special() {
            return self.specials.iter().find(|node| &*node.name == path.as_str());
        }
        let mut node = &self.root;
        for name in path.components() {
            node = node.children.get(node.find(name)?)?;
        }
        Some(node)
    }

    /// The node at `path`, with a private copy of every node on the way that somebody else holds.
    fn get_mut(&mut self, path: &Path) -> Option<&mut Node> {
        if path.is_special() {
            let special = self.specials.iter_mut().find(|node| &*node.name == path.as_str());
            return special.map(Arc::make_mut);
        }
        let mut node = Arc::make_mut(&mut self.root);
        for name in path.components() {
            let at = node.find(name)?;
            node = Arc::make_mut(node.children.get_mut(at)?);
        }
        Some(node)
    }

    fn recount(&mut self, path: &Path, before: Option<(DomainId, usize)>, after: Option<(DomainId, usize)>) {
        let length = path.as_str().len();
        if let Some((owner, size)) = before.filter(|(owner, _)| *owner != DomainId::DOM0) {
            let usage = self.usage.entry(owner).or_default();
            usage.nodes = usage.nodes.saturating_sub(1);
            usage.bytes = usage.bytes.saturating_sub(size + length);
            if usage.nodes == 0 {
                self.usage.remove(&owner);
            }
        }
        if let Some((owner, size)) = after.filter(|(owner, _)| *owner != DomainId::DOM0) {
            let usage = self.usage.entry(owner).or_default();
            usage.nodes += 1;
            usage.bytes += size + length;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::Special;

    fn path(text: &str) -> Path {
        Path::parse(text.as_bytes(), DomainId::DOM0, Special::Allowed, None).unwrap().path
    }

    fn guest(domain: u16) -> Subject {
        Subject { domain: DomainId(domain), target: None }
    }

    #[test]
    fn create_change_remove() {
        let mut tree = Tree::new(1);
        tree.create(&path("/a/b/c"), &guest(5), 2);
        assert_eq!(tree.usage(DomainId(5)).nodes, 3);
        assert_eq!(tree.get(&path("/")).unwrap().names().collect::<Vec<_>>(), ["tool", "a"]);
        assert_eq!(tree.generation(&path("/")), 2);
        tree.change(&path("/a/b"), 3, |node| node.value = Arc::from(*b"value"));
        assert_eq!(tree.generation(&path("/a/b")), 3);
        assert_eq!(tree.generation(&path("/a")), 2);
        tree.remove(&path("/a/b"), 4);
        assert!(tree.get(&path("/a/b/c")).is_none());
        assert_eq!(tree.usage(DomainId(5)).nodes, 1);
        tree.remove(&path("/a"), 5);
        assert_eq!(tree.usage(DomainId(5)), Usage::default());
        assert_eq!(tree.owners().count(), 0);
    }

    #[test]
    fn a_copy_does_not_change() {
        let mut tree = Tree::new(1);
        tree.create(&path("/a/b"), &guest(0), 2);
        let copy = tree.clone();
        tree.change(&path("/a/b"), 3, |node| node.value = Arc::from(*b"x"));
        tree.create(&path("/a/c"), &guest(0), 4);
        tree.remove(&path("/tool"), 5);
        assert_eq!(copy.get(&path("/a/b")).unwrap().value.len(), 0);
        assert!(copy.get(&path("/a/c")).is_none());
        assert!(copy.get(&path("/tool/xenstored")).is_some());
    }

    #[test]
    fn below_is_in_preorder_and_depth_does_not_matter() {
        let mut tree = Tree::new(1);
        for text in ["/a/x", "/a/y/1", "/a/y/2", "/a/z"] {
            tree.create(&path(text), &guest(0), 2);
        }
        let names: Vec<_> =
            tree.below(&path("/a")).iter().map(|(path, _)| path.as_str().to_owned()).collect();
        assert_eq!(names, ["/a", "/a/x", "/a/y", "/a/y/1", "/a/y/2", "/a/z"]);
        let names: Vec<_> =
            tree.below_last(&path("/a")).iter().map(|(path, _)| path.as_str().to_owned()).collect();
        assert_eq!(names, ["/a/x", "/a/y/1", "/a/y/2", "/a/y", "/a/z", "/a"]);
        let deep = "/d".repeat(1500);
        tree.create(&path(&deep), &guest(0), 3);
        let copy = tree.clone();
        tree.remove(&path("/d"), 4);
        drop(copy);
    }
}
