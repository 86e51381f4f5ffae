//! One binary of all tests that drive the products from outside.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)] // test code
mod ketama;

mod harness_itself;
mod stairs;
mod pool;
mod licences;
