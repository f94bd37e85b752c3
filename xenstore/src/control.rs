//! CONTROL: commands to the server itself, for domain 0.

use alloc::format;
use alloc::vec::Vec;

use trunnion_protocol::errno::Errno;

use crate::requests::strings;
use crate::server::Store;

impl Store {
    /// `command|arguments|…`: `check` and `help`, and `quota`, which prints the limits. Others are [`Errno::Inval`].
    pub(crate) fn control(&self, payload: &[u8]) -> Result<Vec<u8>, Errno> {
        let strings = strings(payload);
        match strings.split_first() {
            Some((&b"check", [])) => Ok(b"OK\0".to_vec()),
            Some((&b"help", [])) => Ok(b"Supported commands:\n\tcheck\n\thelp\n\tquota\n\0".to_vec()),
            Some((&b"quota", [])) => {
                let quotas = &self.quotas;
                let text = format!(
                    "nodes {}\nwatches {}\ntransactions {}\ntransaction-nodes {}\nnode-permissions {}\nnode-size {}\n\
                     path-max {}\noutstanding {}\nmemory {}\n\0",
                    quotas.nodes,
                    quotas.watches,
                    quotas.transactions,
                    quotas.transaction_nodes,
                    quotas.perms,
                    quotas.node_size,
                    quotas.path,
                    quotas.outstanding,
                    quotas.memory,
                );
                Ok(text.into_bytes())
            }
            _ => Err(Errno::Inval),
        }
    }
}
