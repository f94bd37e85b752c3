//! The store: tree, transactions, watches, permissions, quotas, wire server.
#![cfg_attr(not(test), no_std)]
