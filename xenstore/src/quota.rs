//! Limits on what one unprivileged domain may hold.

/// The limits. Domain 0 has none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// Nodes that a domain may own when it creates one more.
    pub nodes: usize,
    /// Watches.
    pub watches: usize,
    /// Open transactions.
    pub transactions: usize,
    /// Nodes that one transaction may touch.
    pub transaction_nodes: usize,
    /// Entries in a permission list.
    pub perms: usize,
    /// Bytes of a node: [`node_size`].
    pub node_size: usize,
    /// Bytes of a path below the domain's home directory.
    pub path: usize,
    /// Replies that may wait to be taken before no further request is read.
    pub outstanding: usize,
    /// Bytes in nodes, watches, transactions and waiting messages together.
    pub memory: usize,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            nodes: 1000,
            watches: 128,
            transactions: 10,
            transaction_nodes: 1024,
            perms: 5,
            node_size: 2048,
            path: 2048,
            outstanding: 20,
            memory: 2 * 1024 * 1024 + 512 * 1024,
        }
    }
}

/// Bytes that a node counts: a head of 24, 8 for each permission, its value, and its children's names each with a NUL.
/// The numbers are those of Xen's daemon, so that what fits there fits here.
pub const fn node_size(perms: usize, value: usize, names: usize) -> usize {
    24 + 8 * perms + value + names
}

/// What a domain owns in a tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Nodes.
    pub nodes: usize,
    /// Bytes of these nodes and of their paths.
    pub bytes: usize,
}
