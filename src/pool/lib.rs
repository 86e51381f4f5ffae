//! memring-pool: bytes, places, waiting, copies. Knows neither PHP nor MySQL.
//!
//! The files form a staircase: each may use only those above it in this list
//! (`tests/suite/stairs.rs` checks it).
//!
//! | file | the one question it answers |
//! |---|---|
//! | `error` | what went wrong |
//! | `fact` | what is told of pools, for PHP arrays and JSON |
//! | `item` | WHAT is stored: key, flags, expiry |
//! | `codec` | values ⇄ bytes |
//! | `config` | WISH: nodes and policy as asked for |
//! | `ring` | WHERE a key lives |
//! | `wire` | HOW IT IS SAID, no I/O |
//! | `transport` | WHAT CARRIES: sockets and clocks, the machine's or a simulation's |
//! | `chance` | random bits, and bits made of others |
//! | `replica` | HOW MANY: copied reads and writes as state machines |
//! | `counters` | what is counted on a host |
//! | `shared` | what the workers of a host see together |
//! | `embedded` | a node without a server: words carried out on a database of this host |
//! | `health` | whom to leave alone, and until when |
//! | `finder` | WHERE IT LISTENS: names resolved, masters looked up |
//! | `node` | WHO: one server and its socket |
//! | `probe` | is it back? asked off the path of requests |
//! | `copier` | LATER: copies that follow the answer |
//! | `fanout` | WAITING: many nodes, one deadline |
//! | `call` | one call of the API: inputs, outcomes |
//! | `request` | one job as words, its answer as an outcome |
//! | `pool` | THE DOOR: one call of the Memcache API |
//! | `lease` | WHOSE TURN: what this host knows of it, and waiting for it |
//! | `handoff` | WHAT WAS MISSED while a node was away |
//! | `slices` | WHO MENDS where no tend runs: passes by workers |
//! | `session` | open, read, write, touch, destroy |

pub mod call;
pub mod chance;
pub mod codec;
pub mod config;
pub mod copier;
pub mod counters;
pub mod embedded;
pub mod error;
pub mod fact;
pub mod fanout;
pub mod finder;
pub mod handoff;
pub mod health;
pub mod item;
pub mod lease;
pub mod node;
pub mod pool;
pub mod probe;
pub mod replica;
mod request;
pub mod ring;
pub mod session;
pub mod shared;
pub mod slices;
pub mod transport;
pub mod wire;
