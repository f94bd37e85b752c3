//! The store as plainly as it can be said: maps of strings, copied whole for each transaction. Written from the protocol
//! description alone, so that it shares no mistake with the server.

use std::collections::{BTreeMap, BTreeSet};

use super::talk::Op;

/// A permission list: letter and domain, and whether the entry still counts.
type Perms = Vec<(char, u16, bool)>;

#[derive(Clone, Debug)]
pub(crate) struct Node {
    value: Vec<u8>,
    perms: Perms,
    /// Number of the last change to the node or to its list of children.
    version: u64,
}

type Nodes = BTreeMap<String, Node>;

struct Watch {
    path: String,
    given: String,
    token: String,
    depth: Option<usize>,
}

struct Transaction {
    start: Nodes,
    now: Nodes,
    touched: BTreeSet<String>,
    changed: BTreeSet<String>,
    /// Where watches are told, and whether only exact ones.
    fired: BTreeMap<String, bool>,
    failed: bool,
    stale: bool,
}

/// One connection of the model.
pub(crate) struct Party {
    pub(crate) domain: u16,
    target: Option<u16>,
    watches: Vec<Watch>,
    transactions: BTreeMap<u32, Transaction>,
    next: u32,
}

impl Party {
    /// The transaction that was opened last, if it is still open.
    pub(crate) fn newest(&self) -> Option<u32> {
        self.transactions.keys().copied().max()
    }
}

/// The limits, small enough to be met.
pub(crate) struct Limits {
    pub(crate) nodes: usize,
    pub(crate) watches: usize,
    pub(crate) transactions: usize,
    pub(crate) touched: usize,
    pub(crate) perms: usize,
    pub(crate) size: usize,
}

pub(crate) struct Plain {
    nodes: Nodes,
    pub(crate) parties: Vec<Option<Party>>,
    version: u64,
    limits: Limits,
    /// Events of the request at hand: party, path, token.
    pub(crate) events: BTreeSet<(usize, String, String)>,
}

type Answer = Result<Vec<u8>, &'static str>;

fn above(path: &str) -> String {
    match path.rfind('/') {
        Some(0) | None => "/".into(),
        Some(at) => path[..at].into(),
    }
}

fn is_below(path: &str, top: &str) -> bool {
    path == top || top == "/" && path.starts_with('/') || path.starts_with(&format!("{top}/"))
}

fn depth(path: &str) -> usize {
    if path == "/" { 0 } else { path.matches('/').count() }
}

fn children(nodes: &Nodes, path: &str) -> Vec<String> {
    let is_child = |other: &&String| other.as_str() != "/" && other.starts_with('/') && above(other) == path;
    nodes.keys().filter(is_child).map(|child| child.rsplit('/').next().unwrap().to_owned()).collect()
}

fn size(nodes: &Nodes, path: &str) -> usize {
    let node = &nodes[path];
    let names: usize = children(nodes, path).iter().map(|name| name.len() + 1).sum();
    24 + 8 * node.perms.len() + node.value.len() + names
}

impl Plain {
    pub(crate) fn new(limits: Limits) -> Self {
        let node = Node { value: Vec::new(), perms: vec![('n', 0, true)], version: 1 };
        let names = ["/", "/tool", "/tool/xenstored", "@introduceDomain", "@releaseDomain"];
        let nodes = names.iter().map(|name| ((*name).to_owned(), node.clone())).collect();
        Self { nodes, parties: Vec::new(), version: 1, limits, events: BTreeSet::new() }
    }

    pub(crate) fn join(&mut self, domain: u16) -> usize {
        let (watches, transactions) = (Vec::new(), BTreeMap::new());
        self.parties.push(Some(Party { domain, target: None, watches, transactions, next: 1 }));
        self.parties.len() - 1
    }

    fn party(&mut self, party: usize) -> &mut Party {
        self.parties[party].as_mut().unwrap()
    }

    /// Letters of what a party may do: r, w, o.
    fn rights(party: &Party, perms: &Perms) -> &'static str {
        let is = |domain: u16| party.domain == domain || party.target == Some(domain);
        if party.domain == 0 || is(perms[0].1) {
            return "rwo";
        }
        let letter =
            perms[1..].iter().find(|entry| entry.2 && is(entry.1)).map_or(perms[0].0, |entry| entry.0);
        match letter {
            'r' => "r",
            'w' => "w",
            'b' => "rw",
            _ => "",
        }
    }

    fn path(domain: u16, text: &str, special: bool) -> Result<String, &'static str> {
        let legal = |letter: char| letter.is_ascii_alphanumeric() || "-/_@".contains(letter);
        let full = match text.chars().next() {
            Some('@') if special => {
                return if text.chars().all(legal) { Ok(text.into()) } else { Err("EINVAL") };
            }
            None | Some('@') => return Err("EINVAL"),
            Some('/') => text.to_owned(),
            Some(_) => format!("/local/domain/{domain}/{text}"),
        };
        let good = full.chars().all(legal) && !full.contains("//") && (full == "/" || !full.ends_with('/'));
        if good { Ok(full) } else { Err("EINVAL") }
    }

    fn view(&self, party: usize, transaction: u32) -> &Nodes {
        let party = self.parties[party].as_ref().unwrap();
        party.transactions.get(&transaction).map_or(&self.nodes, |transaction| &transaction.now)
    }

    fn view_mut(&mut self, party: usize, transaction: u32) -> &mut Nodes {
        let party = self.parties[party].as_mut().unwrap();
        match party.transactions.get_mut(&transaction) {
            Some(transaction) => &mut transaction.now,
            None => &mut self.nodes,
        }
    }

    fn touch(&mut self, party: usize, transaction: u32, path: &str) -> Result<(), &'static str> {
        let most = self.limits.touched;
        let party = self.party(party);
        let privileged = party.domain == 0;
        let Some(transaction) = party.transactions.get_mut(&transaction) else { return Ok(()) };
        if !transaction.touched.contains(path) && !privileged && transaction.touched.len() >= most {
            transaction.failed = true;
            return Err("ENOSPC");
        }
        transaction.touched.insert(path.into());
        Ok(())
    }

    /// Finds a node on which the party has all of `need`.
    fn find(&mut self, party: usize, transaction: u32, path: &str, need: &str) -> Result<Node, &'static str> {
        self.touch(party, transaction, path)?;
        let me = self.parties[party].as_ref().unwrap();
        if let Some(node) = self.view(party, transaction).get(path) {
            let rights = Self::rights(me, &node.perms);
            return if need.chars().all(|right| rights.contains(right)) {
                Ok(node.clone())
            } else {
                Err("EACCES")
            };
        }
        let mut place = path.to_owned();
        loop {
            place = above(&place);
            self.touch(party, transaction, &place)?;
            let me = self.parties[party].as_ref().unwrap();
            if let Some(node) = self.view(party, transaction).get(&place) {
                let rights = Self::rights(me, &node.perms);
                return Err(if need.chars().any(|right| rights.contains(right)) {
                    "ENOENT"
                } else {
                    "EACCES"
                });
            }
        }
    }

    fn changed(&mut self, party: usize, transaction: u32, path: &str) {
        self.version += 1;
        let version = self.version;
        if let Some(node) = self.view_mut(party, transaction).get_mut(path) {
            node.version = version;
        }
        if let Some(transaction) = self.party(party).transactions.get_mut(&transaction) {
            transaction.changed.insert(path.into());
        }
    }

    /// Tells watches: those whose owners can read the node as it was or is, or its parent.
    fn fire(&mut self, path: &str, exact: bool, readable: &[Perms]) {
        for (number, party) in self.parties.iter().enumerate() {
            let Some(party) = party else { continue };
            if !readable.iter().any(|perms| Self::rights(party, perms).contains('r')) {
                continue;
            }
            for watch in &party.watches {
                let hit = if exact || path.starts_with('@') {
                    watch.path == path
                } else {
                    let levels = depth(path).saturating_sub(depth(&watch.path));
                    is_below(path, &watch.path) && watch.depth.is_none_or(|most| levels <= most)
                };
                if hit {
                    let hidden = watch.path.len() - watch.given.len();
                    self.events.insert((number, path[hidden..].to_owned(), watch.token.clone()));
                }
            }
        }
    }

    /// Tells watches now, or when the transaction ends.
    fn fire_in(&mut self, party: usize, transaction: u32, path: &str, exact: bool, before: &[Perms]) {
        if let Some(transaction) = self.party(party).transactions.get_mut(&transaction) {
            let all = transaction.fired.entry(path.into()).or_insert(true);
            *all = *all && exact;
            return;
        }
        let mut readable = before.to_vec();
        readable.extend(self.nodes.get(path).map(|node| node.perms.clone()));
        if !path.starts_with('@') {
            readable.extend(self.nodes.get(&above(path)).map(|node| node.perms.clone()));
        }
        self.fire(path, exact, &readable);
    }

    fn owned(nodes: &Nodes, domain: u16) -> usize {
        nodes.values().filter(|node| node.perms[0].1 == domain).count()
    }

    fn create(
        &mut self,
        party: usize,
        transaction: u32,
        path: &str,
        value: &[u8],
    ) -> Result<(), &'static str> {
        let me = self.parties[party].as_ref().unwrap();
        let (domain, privileged) = (me.domain, me.domain == 0);
        let nodes = self.view(party, transaction);
        let mut missing = Vec::new();
        let mut place = path.to_owned();
        while !nodes.contains_key(&place) {
            missing.push(place.clone());
            place = above(&place);
        }
        let mut after = nodes.clone();
        for path in missing.iter().rev() {
            let mut perms = after[&above(path)].perms.clone();
            if !privileged {
                perms[0].1 = domain;
            }
            after.insert(path.clone(), Node { value: Vec::new(), perms, version: 0 });
        }
        after.get_mut(path).unwrap().value = value.to_vec();
        let too_big = missing.iter().chain([&place]).any(|path| size(&after, path) > self.limits.size);
        let too_many = Self::owned(nodes, domain) + missing.len() > self.limits.nodes;
        if !privileged && (too_big || too_many) {
            return Err("ENOSPC");
        }
        *self.view_mut(party, transaction) = after;
        for path in missing.iter().chain([&place]) {
            self.changed(party, transaction, path);
        }
        Ok(())
    }

    /// Carries out a request. A transaction number of 0 means none.
    pub(crate) fn ask(&mut self, number: usize, tx: u32, op: &Op) -> Answer {
        self.events.clear();
        let me = self.parties[number].as_ref().unwrap();
        let (domain, privileged) = (me.domain, me.domain == 0);
        match op {
            Op::IsIntroduced(_) | Op::SetTarget(..) if !privileged => return Err("EACCES"),
            Op::Watch(..) | Op::Unwatch(..) => {}
            _ if tx != 0 && !me.transactions.contains_key(&tx) => return Err("ENOENT"),
            _ => {}
        }
        match op {
            Op::Read(path) => {
                let path = Self::path(domain, path, false)?;
                return self.find(number, tx, &path, "r").map(|node| node.value);
            }
            Op::Directory(path) => {
                let path = Self::path(domain, path, false)?;
                self.find(number, tx, &path, "r")?;
                let names = children(self.view(number, tx), &path);
                return Ok(names.iter().flat_map(|name| name.bytes().chain([0])).collect());
            }
            Op::GetPerms(path) => {
                let path = Self::path(domain, path, true)?;
                let node = self.find(number, tx, &path, "r")?;
                let text = node.perms.iter().map(|(letter, domain, _)| format!("{letter}{domain}\0"));
                return Ok(text.collect::<String>().into_bytes());
            }
            Op::Write(path, value) => {
                let path = Self::path(domain, path, false)?;
                match self.find(number, tx, &path, "w") {
                    Ok(_) => {
                        let mut after = self.view(number, tx).clone();
                        after.get_mut(&path).unwrap().value.clone_from(value);
                        if !privileged && size(&after, &path) > self.limits.size {
                            return Err("ENOSPC");
                        }
                        *self.view_mut(number, tx) = after;
                        self.changed(number, tx, &path);
                    }
                    Err("ENOENT") => self.create(number, tx, &path, value)?,
                    Err(error) => return Err(error),
                }
                self.fire_in(number, tx, &path, false, &[]);
            }
            Op::Mkdir(path) => {
                let path = Self::path(domain, path, false)?;
                match self.find(number, tx, &path, "w") {
                    Ok(_) => {}
                    Err("ENOENT") => {
                        self.create(number, tx, &path, b"")?;
                        self.fire_in(number, tx, &path, false, &[]);
                    }
                    Err(error) => return Err(error),
                }
            }
            Op::Rm(path) => {
                let path = Self::path(domain, path, false)?;
                self.rm(number, tx, &path)?;
            }
            Op::SetPerms(path, perms) => {
                if perms.is_empty() {
                    return Err("EINVAL");
                }
                if !privileged && perms.len() > self.limits.perms {
                    return Err("ENOSPC");
                }
                let path = Self::path(domain, path, true)?;
                let node = self.find(number, tx, &path, "wo")?;
                if !privileged && perms[0].1 != node.perms[0].1 {
                    return Err("EPERM");
                }
                let mut after = self.view(number, tx).clone();
                let perms: Perms = perms.iter().map(|&(letter, domain)| (letter, domain, true)).collect();
                after.get_mut(&path).unwrap().perms = perms;
                if !privileged && size(&after, &path) > self.limits.size {
                    return Err("ENOSPC");
                }
                *self.view_mut(number, tx) = after;
                self.changed(number, tx, &path);
                self.fire_in(number, tx, &path, false, &[node.perms]);
            }
            Op::Watch(given, token, depth) => {
                let path = Self::path(domain, given, true)?;
                let (given, token, most) = (given.clone(), token.clone(), self.limits.watches);
                let party = self.party(number);
                if party.watches.iter().any(|watch| watch.path == path && watch.token == token) {
                    return Err("EEXIST");
                }
                if !privileged && party.watches.len() >= most {
                    return Err("E2BIG");
                }
                party.watches.push(Watch { path, given: given.clone(), token: token.clone(), depth: *depth });
                self.events.insert((number, given, token));
            }
            Op::Unwatch(path, token) => {
                let path = Self::path(domain, path, true)?;
                let watches = &mut self.party(number).watches;
                let at = watches.iter().position(|watch| watch.path == path && watch.token == *token);
                watches.remove(at.ok_or("ENOENT")?);
            }
            Op::Start => {
                if tx != 0 {
                    return Err("EBUSY");
                }
                let (nodes, most) = (self.nodes.clone(), self.limits.transactions);
                let party = self.party(number);
                if !privileged && party.transactions.len() >= most {
                    return Err("ENOSPC");
                }
                let id = party.next;
                party.next += 1;
                party.transactions.insert(
                    id,
                    Transaction {
                        start: nodes.clone(),
                        now: nodes,
                        touched: BTreeSet::new(),
                        changed: BTreeSet::new(),
                        fired: BTreeMap::new(),
                        failed: false,
                        stale: false,
                    },
                );
                return Ok(format!("{id}\0").into_bytes());
            }
            Op::End(commit) => self.end(number, tx, *commit)?,
            Op::Reset => {
                let party = self.party(number);
                party.watches.clear();
                party.transactions.clear();
            }
            Op::IsIntroduced(domain) => {
                let there =
                    *domain == 0 || self.parties.iter().flatten().any(|party| party.domain == *domain);
                return Ok(if there { b"T\0".to_vec() } else { b"F\0".to_vec() });
            }
            Op::SetTarget(domain, target) => {
                let there = |wanted: u16| {
                    wanted != 0 && self.parties.iter().flatten().any(|party| party.domain == wanted)
                };
                if !there(*domain) || !there(*target) {
                    return Err("ENOENT");
                }
                for party in self.parties.iter_mut().flatten().filter(|party| party.domain == *domain) {
                    party.target = Some(*target);
                }
            }
        }
        Ok(b"OK\0".to_vec())
    }

    fn rm(&mut self, number: usize, tx: u32, path: &str) -> Result<(), &'static str> {
        let parent = above(path);
        match self.find(number, tx, path, "w") {
            Ok(_) if path == "/" => return Err("EINVAL"),
            Ok(_) => {}
            Err("ENOENT") => {
                let there = self.view(number, tx).contains_key(&parent);
                return if there { Ok(()) } else { Err("ENOENT") };
            }
            Err(error) => return Err(error),
        }
        self.touch(number, tx, &parent)?;
        let nodes = self.view(number, tx).clone();
        let mut below: Vec<_> = nodes.keys().filter(|other| is_below(other, path)).cloned().collect();
        below.sort_by_key(|path| depth(path));
        if tx != 0 {
            for path in &below {
                self.touch(number, tx, path)?;
            }
        }
        for gone in &below {
            self.view_mut(number, tx).remove(gone);
            self.changed(number, tx, gone);
        }
        self.changed(number, tx, &parent);
        for gone in &below {
            let readable = [nodes[gone].perms.clone(), nodes[&above(gone)].perms.clone()];
            if tx == 0 {
                self.fire(gone, gone != path, &readable);
            } else {
                self.fire_in(number, tx, gone, gone != path, &[]);
            }
        }
        Ok(())
    }

    fn end(&mut self, number: usize, tx: u32, commit: bool) -> Result<(), &'static str> {
        let party = self.party(number);
        let (domain, privileged) = (party.domain, party.domain == 0);
        let transaction = party.transactions.remove(&tx).ok_or("ENOENT")?;
        if !commit {
            return Ok(());
        }
        if transaction.failed {
            return Err("ENOMEM");
        }
        let version = |nodes: &Nodes, path: &String| nodes.get(path).map(|node| node.version);
        let conflict = |path: &String| version(&transaction.start, path) != version(&self.nodes, path);
        if transaction.stale || transaction.touched.iter().any(conflict) {
            return Err("EAGAIN");
        }
        let mut after = self.nodes.clone();
        self.version += 1;
        for path in &transaction.changed {
            if let Some(node) = transaction.now.get(path) {
                after.insert(path.clone(), Node { version: self.version, ..node.clone() });
            } else {
                after.remove(path);
            }
        }
        let (before, now) = (Self::owned(&self.nodes, domain), Self::owned(&after, domain));
        if !privileged && now > self.limits.nodes && now > before {
            return Err("ENOSPC");
        }
        self.nodes = after;
        for (path, exact) in transaction.fired {
            let mut readable: Vec<Perms> = Vec::new();
            readable.extend(transaction.start.get(&path).map(|node| node.perms.clone()));
            if let Some(node) = self.nodes.get(&path) {
                readable.push(node.perms.clone());
                readable.extend(self.nodes.get(&above(&path)).map(|node| node.perms.clone()));
            }
            self.fire(&path, exact, &readable);
        }
        Ok(())
    }

    /// A domain joins by its ring.
    pub(crate) fn introduce(&mut self, domain: u16) -> usize {
        self.events.clear();
        let number = self.join(domain);
        let perms = self.nodes["@introduceDomain"].perms.clone();
        self.fire("@introduceDomain", true, &[perms]);
        number
    }

    /// A domain is gone.
    pub(crate) fn remove(&mut self, domain: u16) {
        self.events.clear();
        for party in &mut self.parties {
            if party.as_ref().is_some_and(|party| party.domain == domain) {
                *party = None;
            }
            let Some(party) = party else { continue };
            party.target = party.target.filter(|target| *target != domain);
            for transaction in party.transactions.values_mut() {
                transaction.stale = true;
            }
        }
        for node in self.nodes.values_mut() {
            for entry in node.perms.iter_mut().skip(1).filter(|entry| entry.1 == domain) {
                entry.2 = false;
            }
        }
        let owned = |nodes: &Nodes| {
            let mut owned: Vec<_> = nodes
                .iter()
                .filter(|(path, node)| path.starts_with('/') && *path != "/" && node.perms[0].1 == domain)
                .map(|(path, _)| path.clone())
                .collect();
            owned.sort_by_key(|path| depth(path));
            owned.first().cloned()
        };
        let mut gone = Vec::new();
        while let Some(top) = owned(&self.nodes) {
            let below: Vec<_> = self.nodes.keys().filter(|path| is_below(path, &top)).cloned().collect();
            for path in &below {
                let readable = vec![self.nodes[path].perms.clone(), self.nodes[&above(path)].perms.clone()];
                gone.push((path.clone(), *path != top, readable));
            }
            for path in &below {
                self.nodes.remove(path);
            }
            self.version += 1;
            let version = self.version;
            self.nodes.get_mut(&above(&top)).unwrap().version = version;
        }
        for (path, exact, readable) in gone {
            self.fire(&path, exact, &readable);
        }
        for special in ["/", "@introduceDomain", "@releaseDomain"] {
            let node = self.nodes.get_mut(special).unwrap();
            if node.perms[0].1 == domain {
                node.perms = vec![('n', 0, true)];
            }
        }
        let perms = self.nodes["@releaseDomain"].perms.clone();
        self.fire("@releaseDomain", true, &[perms]);
    }
}
