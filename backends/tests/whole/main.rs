//! The back ends whole, against front ends of every kind: one program, because linking each file by itself takes the compiler longer
//! than the tests run. What is not in this folder is shared with `fuzz/`.

mod block;
mod fuzz;
#[path = "../fuzzing/mod.rs"]
mod fuzzing;
mod memory;
mod net;
mod netservice;
mod service;
#[path = "../support/mod.rs"]
mod support;
#[path = "../wire/mod.rs"]
mod wire;
mod withdrawn;
