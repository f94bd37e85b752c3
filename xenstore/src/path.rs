//! Paths: checked once, absolute from then on.
//!
//! A path is `/`, or components of the letters `A-Z a-z 0-9 - _ @` each after a `/`. Special names start with `@`; they
//! lie outside the tree and are watched for domain events. A relative path is one under `/local/domain/<domid>` of its
//! sender. Source: `docs/misc/xenstore.txt`.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;

use trunnion_protocol::errno::Errno;
use trunnion_protocol::id::DomainId;
use trunnion_protocol::store::{ABSOLUTE_PATH_MAX, RELATIVE_PATH_MAX};

/// Event name: a domain was introduced.
pub const INTRODUCE_DOMAIN: &str = "@introduceDomain";
/// Event name: a domain shut down, crashed, died or was released.
pub const RELEASE_DOMAIN: &str = "@releaseDomain";

/// A valid absolute path, or a special name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path(Arc<str>);

/// A path as a request gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// The absolute form.
    pub path: Path,
    /// How many bytes of the absolute form the sender did not write: 0 for an absolute path.
    pub prefix: usize,
}

/// Whether a request accepts names that start with `@`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// Only paths of the tree.
    Refused,
    /// Also special names.
    Allowed,
}

/// The directory that relative paths of a domain lie in.
pub fn home(domain: DomainId) -> String {
    format!("/local/domain/{domain}")
}

impl Path {
    /// `/`.
    pub fn root() -> Self {
        Self(Arc::from("/"))
    }

    /// Checks a path that domain `sender` sent.
    ///
    /// `limit` is the quota on the part below the domain's home directory, for senders that have one. Every fault of
    /// the text is [`Errno::Inval`].
    pub fn parse(
        text: &[u8],
        sender: DomainId,
        special: Special,
        limit: Option<usize>,
    ) -> Result<Parsed, Errno> {
        let legal = |byte: &u8| byte.is_ascii_alphanumeric() || b"-/_@".contains(byte);
        let text = core::str::from_utf8(text).map_err(|_| Errno::Inval)?;
        if !text.as_bytes().iter().all(legal) {
            return Err(Errno::Inval);
        }
        let (path, prefix): (Arc<str>, usize) = match text.as_bytes().first() {
            Some(b'/') => (Arc::from(text), 0),
            Some(b'@') if special == Special::Allowed => (Arc::from(text), 0),
            Some(b'@') => return Err(Errno::Inval),
            _ if text.len() > RELATIVE_PATH_MAX => return Err(Errno::Inval),
            _ => {
                let mut path = home(sender);
                path.push('/');
                let prefix = path.len();
                path.push_str(text);
                (Arc::from(path), prefix)
            }
        };
        let proper = &*path == "/" || (!path.ends_with('/') && !path.contains("//"));
        let local = path.len() - home_prefix(&path);
        if !proper || path.len() > ABSOLUTE_PATH_MAX || limit.is_some_and(|limit| local > limit) {
            return Err(Errno::Inval);
        }
        Ok(Parsed { path: Self(path), prefix })
    }

    /// The special name for an event of this server.
    pub(crate) fn special(name: &'static str) -> Self {
        Self(Arc::from(name))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True for `/`.
    pub fn is_root(&self) -> bool {
        &*self.0 == "/"
    }

    /// True for a name that starts with `@`.
    pub fn is_special(&self) -> bool {
        self.0.starts_with('@')
    }

    /// The components below the root, outermost first.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|component| !component.is_empty())
    }

    /// The last component; empty for `/`.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// The path one level up; a special name and `/` have `/`.
    #[must_use]
    pub fn parent(&self) -> Self {
        match self.0.rfind('/') {
            Some(at) if at > 0 => Self(Arc::from(self.0.get(..at).unwrap_or("/"))),
            _ => Self::root(),
        }
    }

    /// The path of a child with a name that is already known to be valid.
    pub(crate) fn child(&self, name: &str) -> Self {
        let separator = if self.is_root() { "" } else { "/" };
        Self(Arc::from(format!("{}{separator}{name}", self.0)))
    }

    /// How many levels `self` lies below `ancestor`: 0 if they are equal, nothing if it does not lie below.
    pub fn depth_below(&self, ancestor: &Self) -> Option<usize> {
        if self == ancestor {
            return Some(0);
        }
        if ancestor.is_root() {
            return Some(self.components().count());
        }
        let rest = self.0.strip_prefix(&*ancestor.0)?;
        rest.starts_with('/').then(|| rest.matches('/').count())
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How many bytes of a path are the home directory of some domain, with the slash after it.
fn home_prefix(path: &str) -> usize {
    let digits = |rest: &str| rest.bytes().take_while(u8::is_ascii_digit).count();
    let Some(rest) = path.strip_prefix("/local/domain/") else { return 0 };
    let count = digits(rest);
    match rest.as_bytes().get(count) {
        Some(b'/') if (1..=5).contains(&count) => path.len() - rest.len() + count + 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Parsed, Errno> {
        Path::parse(text.as_bytes(), DomainId(7), Special::Refused, Some(2048))
    }

    #[test]
    fn good_paths() {
        for text in ["/", "/a", "/a/b-c_d@e/0", "/local/domain/3/device"] {
            let parsed = parse(text).unwrap();
            assert_eq!((parsed.path.as_str(), parsed.prefix), (text, 0));
        }
        let relative = parse("device/vbd").unwrap();
        assert_eq!(relative.path.as_str(), "/local/domain/7/device/vbd");
        assert_eq!(relative.prefix, "/local/domain/7/".len());
    }

    #[test]
    fn bad_paths() {
        for text in ["", "//", "/a/", "/a//b", "a/", "/a b", "/ä", "/a.b", "@x", "a//b", "/a\n"] {
            assert_eq!(parse(text), Err(Errno::Inval), "{text:?}");
        }
        assert!(Path::parse(b"@x", DomainId(7), Special::Allowed, None).unwrap().path.is_special());
        assert_eq!(Path::parse(b"/\xff", DomainId(7), Special::Allowed, None), Err(Errno::Inval));
    }

    #[test]
    fn length_limits() {
        let below = |count: usize| format!("/local/domain/12/{}", "x".repeat(count));
        assert!(parse(&below(2048)).is_ok());
        assert_eq!(parse(&below(2049)), Err(Errno::Inval));
        assert!(parse(&"x".repeat(2048)).is_ok());
        assert_eq!(parse(&"x".repeat(2049)), Err(Errno::Inval));
        let privileged = |count: usize| {
            Path::parse(format!("/{}", "x".repeat(count)).as_bytes(), DomainId(0), Special::Refused, None)
        };
        assert!(privileged(3071).is_ok());
        assert_eq!(privileged(3072), Err(Errno::Inval));
    }

    #[test]
    fn relations() {
        let path = |text: &str| parse(text).unwrap().path;
        assert_eq!(path("/a/b").depth_below(&path("/")), Some(2));
        assert_eq!(path("/a/b").depth_below(&path("/a")), Some(1));
        assert_eq!(path("/a/b").depth_below(&path("/a/b")), Some(0));
        assert_eq!(path("/ab").depth_below(&path("/a")), None);
        assert_eq!(path("/a").depth_below(&path("/a/b")), None);
        assert_eq!(path("/a/b").parent(), path("/a"));
        assert_eq!(path("/a").parent(), path("/"));
        assert_eq!(path("/").child("x"), path("/x"));
        assert_eq!(path("/a").child("x").name(), "x");
    }
}
