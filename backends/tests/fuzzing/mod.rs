//! The fuzz targets of the back ends' rings: a case is a front end of malice whose every choice comes from a [`Source`]. The loop of
//! `whole/fuzz.rs` drives them by seeds on the stable compiler, `fuzz/` by coverage.
#![allow(dead_code, unreachable_pub, reason = "each user takes a part of it")]

pub mod block;
pub mod net;
pub mod source;

pub use source::Source;
