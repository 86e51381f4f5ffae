//! One binary of all tests that drive the products from outside.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)] // test code
mod ketama;

mod bailout;
mod fork;
mod fuzz;
mod golden;
mod golden_api;
mod golden_cluster;
mod golden_wire;
mod harness_itself;
mod hostile;
mod leaks;
mod modules;
mod oracle;
mod stairs;
mod syscalls;
mod pool;
mod licences;
mod settings;
