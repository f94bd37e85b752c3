//! Permissions: who may read, write and own a node.
//!
//! A node has a list of entries. The first names the owner, who may do everything, and with its letter what everybody
//! may do who is not listed; each further entry is for one domain. Domain 0 may do everything. A domain with a target
//! (see SET_TARGET) has the target's rights too. Source: `docs/misc/xenstore.txt`.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write as _;

use trunnion_protocol::errno::Errno;
use trunnion_protocol::id::DomainId;
use trunnion_protocol::planted::{self, Bug};

/// What one entry allows; the letters of the wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// `n`.
    None,
    /// `r`.
    Read,
    /// `w`.
    Write,
    /// `b`.
    Both,
}

/// One entry of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whom it is for; in the first entry the owner.
    pub domain: DomainId,
    /// What it allows; in the first entry to all that are not listed.
    pub access: Access,
    /// The domain did not exist when the entry was made, or has died since. The entry is shown but gives nothing,
    /// so that a later domain of the same number inherits nothing.
    pub void: bool,
}

/// A set of rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights(u8);

impl Rights {
    /// No right.
    pub const NONE: Self = Self(0);
    /// Reading value, children and permissions.
    pub const READ: Self = Self(1);
    /// Changing the value, removing, creating children.
    pub const WRITE: Self = Self(2);
    /// What changing permissions needs: to be the owner.
    pub const OWN: Self = Self(6);
    /// Everything.
    pub const ALL: Self = Self(7);

    /// True if all of `needed` is held.
    pub const fn contains(self, needed: Self) -> bool {
        self.0 & needed.0 == needed.0
    }

    /// True if some of `needed` is held.
    pub const fn meets(self, needed: Self) -> bool {
        self.0 & needed.0 != 0
    }
}

impl Access {
    const fn rights(self) -> Rights {
        match self {
            Self::None => Rights::NONE,
            Self::Read => Rights::READ,
            Self::Write => Rights::WRITE,
            Self::Both => Rights(3),
        }
    }

    const fn letter(self) -> char {
        match self {
            Self::None => 'n',
            Self::Read => 'r',
            Self::Write => 'w',
            Self::Both => 'b',
        }
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The domain of the connection.
    pub domain: DomainId,
    /// The domain whose rights it has besides its own.
    pub target: Option<DomainId>,
}

impl Subject {
    /// True for domain 0.
    pub fn is_privileged(&self) -> bool {
        self.domain == DomainId::DOM0
    }

    fn is(self, domain: DomainId) -> bool {
        self.domain == domain || self.target == Some(domain)
    }
}

/// The permissions of a node: at least one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Perms {
    owner: Entry,
    others: Arc<[Entry]>,
}

impl Perms {
    /// A list of the owner alone, with nothing for others.
    pub fn owned_by(domain: DomainId) -> Self {
        Self { owner: Entry { domain, access: Access::None, void: false }, others: Arc::from([]) }
    }

    /// Reads a list from its wire form, NUL-terminated strings such as `n0`, `r7`. Faults of the text are
    /// [`Errno::Inval`]. Entries whose domain does not exist are void; an owner that does not is [`Errno::NoEnt`].
    pub fn parse<'a>(
        strings: impl Iterator<Item = &'a [u8]>,
        exists: impl Fn(DomainId) -> bool,
    ) -> Result<Self, Errno> {
        let mut entries = Vec::new();
        for string in strings {
            entries.push(entry(string)?);
        }
        for entry in &mut entries {
            entry.void = entry.domain != DomainId::DOM0 && !exists(entry.domain);
        }
        let (owner, others) = entries.split_first().ok_or(Errno::Inval)?;
        if owner.void {
            return Err(Errno::NoEnt);
        }
        Ok(Self { owner: *owner, others: Arc::from(others) })
    }

    /// The wire form.
    pub fn to_wire(&self) -> Vec<u8> {
        let mut text = alloc::string::String::new();
        for entry in self.entries() {
            // Writing to a string does not fail.
            let _ = write!(text, "{}{}\0", entry.access.letter(), entry.domain);
        }
        text.into_bytes()
    }

    /// All entries, the owner's first.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        core::iter::once(&self.owner).chain(self.others.iter())
    }

    /// How many entries there are.
    pub fn count(&self) -> usize {
        self.others.len() + 1
    }

    /// The owner.
    pub fn owner(&self) -> DomainId {
        self.owner.domain
    }

    /// What `who` may do.
    pub fn rights(&self, who: &Subject) -> Rights {
        if who.is_privileged() || who.is(self.owner.domain) || planted::is(Bug::OpenStore) {
            return Rights::ALL;
        }
        let listed = self.others.iter().find(|entry| !entry.void && who.is(entry.domain));
        listed.unwrap_or(&self.owner).access.rights()
    }

    /// The permissions of a node that `who` creates below a node with these.
    #[must_use]
    pub fn inherited_by(&self, who: &Subject) -> Self {
        let mut perms = self.clone();
        if !who.is_privileged() {
            perms.owner.domain = who.domain;
        }
        perms
    }

    /// True if an entry other than the owner's gives something to `domain`.
    pub fn names(&self, domain: DomainId) -> bool {
        self.others.iter().any(|entry| entry.domain == domain && !entry.void)
    }

    /// The same list, with nothing left for `domain`.
    #[must_use]
    pub fn without(&self, domain: DomainId) -> Self {
        let voided = |entry: &Entry| Entry { void: entry.void || entry.domain == domain, ..*entry };
        Self { owner: self.owner, others: self.others.iter().map(voided).collect() }
    }
}

fn entry(string: &[u8]) -> Result<Entry, Errno> {
    let (letter, digits) = string.split_first().ok_or(Errno::Inval)?;
    let access = match letter {
        b'n' => Access::None,
        b'r' => Access::Read,
        b'w' => Access::Write,
        b'b' => Access::Both,
        _ => return Err(Errno::Inval),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Errno::Inval);
    }
    let number = core::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
    Ok(Entry { domain: DomainId(number.ok_or(Errno::Inval)?), access, void: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn perms(text: &[&str]) -> Result<Perms, Errno> {
        Perms::parse(text.iter().map(|string| string.as_bytes()), |domain| domain.0 < 100)
    }

    fn subject(domain: u16) -> Subject {
        Subject { domain: DomainId(domain), target: None }
    }

    #[test]
    fn wire_form_goes_both_ways() {
        let list = perms(&["n0", "r7", "w8", "b9", "r1000"]).unwrap();
        assert_eq!(list.to_wire(), b"n0\0r7\0w8\0b9\0r1000\0");
        assert_eq!(list.count(), 5);
    }

    #[test]
    fn faults() {
        for text in ["", "n", "x1", "r-1", "r1x", "r65536", "1", "r 1", "r+1"] {
            assert_eq!(perms(&[text]), Err(Errno::Inval), "{text:?}");
        }
        assert_eq!(perms(&[]), Err(Errno::Inval));
        assert_eq!(perms(&["n100"]), Err(Errno::NoEnt));
    }

    #[test]
    fn rights_of_owner_listed_and_others() {
        let list = perms(&["r1", "w2", "n3", "b4"]).unwrap();
        assert_eq!(list.rights(&subject(0)), Rights::ALL);
        assert_eq!(list.rights(&subject(1)), Rights::ALL);
        assert_eq!(list.rights(&subject(2)), Rights::WRITE);
        assert_eq!(list.rights(&subject(3)), Rights::NONE);
        assert_eq!(list.rights(&subject(4)), Rights(3));
        assert_eq!(list.rights(&subject(5)), Rights::READ);
        let targeting = Subject { domain: DomainId(5), target: Some(DomainId(1)) };
        assert_eq!(list.rights(&targeting), Rights::ALL);
    }

    #[test]
    fn void_entries_give_nothing() {
        let list = perms(&["n1", "b200"]).unwrap();
        assert_eq!(list.rights(&subject(200)), Rights::NONE);
        let list = perms(&["n1", "b2"]).unwrap().without(DomainId(2));
        assert_eq!(list.rights(&subject(2)), Rights::NONE);
        assert_eq!(list.to_wire(), b"n1\0b2\0");
        assert!(!list.names(DomainId(2)));
    }

    #[test]
    fn inheritance_replaces_the_owner_for_guests_only() {
        let list = perms(&["r1", "w2"]).unwrap();
        assert_eq!(list.inherited_by(&subject(0)).to_wire(), b"r1\0w2\0");
        assert_eq!(list.inherited_by(&subject(9)).to_wire(), b"r9\0w2\0");
    }
}
