//! What the tests stand on: real servers on free loopback ports, PHP in all its shapes, and servers that lie.
//!
//! Everything started here belongs to a value and is stopped when that value is dropped; only processes
//! started here are ever signalled. Nothing here knows what memring should answer: that is the suite's part.
//!
//! | file | what it gives |
//! |---|---|
//! | `place` | paths, temp directories, free ports, waiting for a condition |
//! | `skip` | saying that a test cannot run here |
//! | `process` | a child that is stopped on drop |
//! | `memcached` | a real memcached: start, kill, freeze, resume |
//! | `php` | the extension under test and the PHP command line |
//! | `fastcgi` | a small FastCGI client |
//! | `certificates` | a CA of the test and what it signs |
//! | `cluster` | a real Redis Cluster |
//! | `redis` | a real Redis or Valkey, and an independent client of it |
//! | `sentinel` | real Sentinels and what they watch |
//! | `server` | either of them, for tests that hold for both |
//! | `web` | php-fpm and Apache with mod_php |
//! | `proxy` | a recording proxy that can delay, cut, repeat and swallow |
//! | `hostile` | a server that answers what a script says, and a port that swallows connections |
//! | `pecl_suite` | pecl-memcache's own test files, run with another extension |

// Test code: a missing prerequisite must stop the test with its message at once, as a panic does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

pub mod certificates;
pub mod cluster;
pub mod fastcgi;
pub mod hostile;
pub mod memcached;
pub mod pecl_suite;
pub mod php;
pub mod place;
pub mod process;
pub mod proxy;
pub mod redis;
pub mod sentinel;
pub mod server;
pub mod skip;
pub mod web;

pub use certificates::{Certificates, Issued, Valid};
pub use cluster::Cluster;
pub use fastcgi::Reply;
pub use hostile::{Act, BlackHole, Hostile};
pub use memcached::Memcached;
pub use php::{Output, Php};
pub use place::{ClosedPort, TempDir, free_port, wait_until, workspace};
pub use proxy::{Fault, Proxy};
pub use redis::Redis;
pub use sentinel::{Sentinel, Watched};
pub use server::Server;
pub use skip::{leave_out, skip};
pub use web::{Apache, PhpFpm};
