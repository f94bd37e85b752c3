//! The ways to the running platform: the connection of `trunnion run` to dom0, and the socket on which that process answers the other verbs.

pub(crate) mod ask;
pub(crate) mod client;
pub(crate) mod dom0;
