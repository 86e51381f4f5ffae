//! One binary of all tests that drive the products from outside.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)] // test code
mod ketama;

mod bailout;
mod cache_copies;
mod cache_php;
mod cache_places;
mod cache_tend;
mod cluster;
mod cluster_moves;
mod cluster_php;
mod cluster_tables;
mod cluster_transactions;
mod companion;
mod contract;
mod copies;
mod demo;
mod embedded;
mod epochs;
mod evictions;
mod faults;
mod fenced;
mod fenced_words;
mod fork;
mod fuzz;
mod golden;
mod golden_api;
mod golden_cluster;
mod golden_session;
mod golden_status;
mod golden_wire;
mod handoff;
mod harness_itself;
mod health;
mod hostile;
mod jedis;
mod late_copies;
mod late_entrances;
mod late_faults;
mod leaks;
mod licences;
mod lies;
mod limits;
mod login;
mod long_lists;
mod migrate;
mod modules;
mod moving;
mod mute;
mod named_pools;
mod old_servers;
mod oracle;
mod php_memcached;
mod pool;
mod redis;
mod redis_copies;
mod redis_lies;
mod redis_sessions;
mod redundancy;
mod reload;
mod replicas;
mod secrets;
mod sentinel;
mod serializers;
mod session;
mod session_nodes;
mod sessions;
mod settings;
mod simulation;
mod sizes;
mod slices;
mod slots;
mod stairs;
mod status;
mod strangers;
mod stubs;
mod syscalls;
mod tend;
mod tls;
mod transactions;
mod turns;
mod unreachable;
