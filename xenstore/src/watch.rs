//! Watches: what a connection wants to hear of.

use alloc::vec::Vec;

use crate::path::Path;

/// One watch of a connection.
#[derive(Clone, Debug)]
pub struct Watch {
    /// The path or special name that is watched.
    pub path: Path,
    /// How many leading bytes of event paths the owner is not shown: it gave a relative path and gets relative ones.
    pub prefix: usize,
    /// Chosen by the owner and repeated in each event.
    pub token: Vec<u8>,
    /// How many levels below `path` count; all if there is no number.
    pub depth: Option<usize>,
}

impl Watch {
    /// Whether a change at `path` concerns this watch; `exact` changes concern only watches on that very path.
    pub fn matches(&self, path: &Path, exact: bool) -> bool {
        if exact || path.is_special() || self.path.is_special() {
            return self.path == *path;
        }
        path.depth_below(&self.path).is_some_and(|depth| self.depth.is_none_or(|most| depth <= most))
    }

    /// The payload of the event for a change at `path`.
    pub fn event(&self, path: &Path) -> Vec<u8> {
        let shown = path.as_str().get(self.prefix..).unwrap_or(path.as_str());
        [shown.as_bytes(), b"\0", &self.token, b"\0"].concat()
    }

    /// Bytes that count against the owner's memory.
    pub fn bytes(&self) -> usize {
        self.path.as_str().len() + self.token.len() + size_of::<Self>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::Special;
    use trunnion_protocol::id::DomainId;

    fn watch(text: &str, depth: Option<usize>) -> Watch {
        let parsed = Path::parse(text.as_bytes(), DomainId(3), Special::Allowed, None).unwrap();
        Watch { path: parsed.path, prefix: parsed.prefix, token: b"t".to_vec(), depth }
    }

    fn path(text: &str) -> Path {
        watch(text, None).path
    }

    #[test]
    fn matching() {
        let all = watch("/a/b", None);
        assert!(all.matches(&path("/a/b"), false) && all.matches(&path("/a/b/c/d"), false));
        assert!(!all.matches(&path("/a"), false) && !all.matches(&path("/a/bc"), false));
        assert!(all.matches(&path("/a/b"), true) && !all.matches(&path("/a/b/c"), true));
        let shallow = watch("/a", Some(1));
        assert!(shallow.matches(&path("/a/b"), false) && !shallow.matches(&path("/a/b/c"), false));
        let root = watch("/", None);
        assert!(root.matches(&path("/x"), false) && !root.matches(&path("@releaseDomain"), false));
        assert!(watch("@releaseDomain", None).matches(&path("@releaseDomain"), true));
    }

    #[test]
    fn relative_watches_report_relative_paths() {
        let relative = watch("device", None);
        assert_eq!(relative.event(&path("/local/domain/3/device/vbd")), b"device/vbd\0t\0");
        assert_eq!(watch("/a", None).event(&path("/a/b")), b"/a/b\0t\0");
    }
}
