//! The PHP face of memring: translates, decides nothing.
//!
//! ```text
//!   PHP ──► ffi/args (guard) ──► memcache ──► value ──► memring_pool ──► nodes
//!                                   │  ▲                     │
//!                                   │  └────── report ◄──────┘ outcomes, events
//!                                   └── registry (what outlives a request)
//! ```
//!
//! | file | the one question it answers |
//! |---|---|
//! | `ini` | which settings, and what they hold now |
//! | `signature` | what PHP sees: classes, methods, functions, constants |
//! | `registry` | which nodes outlive a request |
//! | `serializer` | which functions make text of arrays and objects |
//! | `value` | zval ⇄ item |
//! | `memcache` | the methods on keys |
//! | `transaction` | watch, multi, exec, discard |
//! | `nodes` | the methods on nodes |
//! | `login` | setSaslAuthData(): who an object is at its nodes |
//! | `pools` | what a pool that addServer() begins is made of |
//! | `whole` | whole pools where a host stands |
//! | `status` | Memring\status(): what this process and its host know |
//! | `route` | Memring\route(): where a key would go |
//! | `stats` | getStats: the question, and what becomes of a server's lines |
//! | `procedural` | the functions that are no methods |
//! | `report` | failure → notice, warning, callback |
//! | `session` | what the session callbacks mean to the pool |
//! | `trace` | a line per key and call, when asked for |
//! | `info` | phpinfo |
//! | `ffi` | all unsafe code, one file per Zend subject |

#[allow(unsafe_code, reason = "the one folder where Zend's C is spoken to")]
mod ffi;
mod info;
mod ini;
mod login;
mod memcache;
mod nodes;
mod pools;
mod procedural;
mod registry;
mod report;
mod route;
mod serializer;
mod session;
mod signature;
mod stats;
mod status;
mod trace;
mod transaction;
mod value;
mod whole;
