//! Where a key would go, and why: the words behind `route`. Nothing is sent, and no try
//! that is due is claimed.
//!
//! It asks the same ring, the same walk and the same health as the calls themselves, so it
//! tells what the next call would do as long as no node changes.

use super::Pool;
use super::rings::Homes;
use super::status::open_name;
use crate::call::Limits;
use crate::config::{Engine, Mode, Placement};
use crate::error::Error;
use crate::fact::{Fact, shown};
use crate::item::{KEY_MAX, KeyRule, LongKeys};
use crate::replica::{Lists, PREFERRED};

/// What would be done with the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Read a value.
    Get,
    /// Store a value.
    Set,
    /// Remove a value.
    Delete,
    /// Open and close a session; the key is its id.
    Session,
}

impl Op {
    /// All of them.
    pub const ALL: [Op; 4] = [Op::Get, Op::Set, Op::Delete, Op::Session];

    /// As it is written.
    pub const fn word(self) -> &'static str {
        match self {
            Op::Get => "get",
            Op::Set => "set",
            Op::Delete => "delete",
            Op::Session => "session",
        }
    }

    /// What `word` stands for.
    pub fn of(word: &[u8]) -> Option<Op> {
        Op::ALL.into_iter().find(|op| op.word().as_bytes() == word)
    }
}

/// One place of a key.
struct Place {
    node: usize,
    role: &'static str,
    reads: bool,
    writes: bool,
    why: String,
}

/// The places of a key in order, and the sentence that sums them up.
struct Plan {
    places: Vec<Place>,
    reason: String,
}

/// What `previous_nodes` adds to a sentence.
const PREVIOUS: &str =
    ", and what it was on before is read and written beside it until previous_nodes goes";

impl Pool {
    /// Explains what `op` on `key` would do: `{pool, mode, op, key, wire_key, long_key,
    /// placed_by, placement, owner, reads, writes, nodes, reason}`, and of a cluster the `slot`.
    /// A cluster is asked who has it, where this thread does not know.
    ///
    /// `rule` makes the wire key; `limits` are those of a call, whose `copies` are the
    /// settings' copies of a value or of a session, and count in mode single only.
    ///
    /// # Errors
    /// `Key` for an empty key; `Config` for a pool without nodes.
    pub fn route(
        &mut self,
        op: Op,
        key: &[u8],
        rule: &KeyRule,
        limits: &Limits,
    ) -> Result<Fact, Error> {
        let mut wire = Vec::new();
        match op {
            // As `session::words` makes the keys of sessions there.
            Op::Session if self.is_cluster() => wire = [rule.prefix.as_slice(), key].concat(),
            _ => _ = rule.append(key, &mut wire)?,
        }
        if self.is_empty() {
            return Err(Error::new(
                crate::error::Kind::Config,
                "the pool has no nodes, so no key has a place in it",
            ));
        }
        self.find_masters();
        let placed_by = shown(self.ring().hashed(&wire));
        let plan = match (self.policy.mode, op) {
            (Mode::Fenced, _) => self.copied_plan(op, &wire),
            (_, Op::Get | Op::Set | Op::Delete) if !self.is_alone(&wire) => {
                self.cache_plan(op, &wire)
            }
            (Mode::Single, Op::Session) => self.session_plan(&wire, limits),
            (Mode::Single, _) => self.single_plan(op, &wire, limits),
            (Mode::Async | Mode::Sync, _) => self.cache_plan(op, &wire),
        };
        let long = rule.prefix.len() + key.len() > KEY_MAX;
        let long = long && !(op == Op::Session && self.is_cluster());
        let long_key = long.then_some(match rule.long {
            LongKeys::Cut => "cut",
            LongKeys::Hash => "hashed",
        });
        let named = |wanted: fn(&Place) -> bool| -> Fact {
            let places = plan.places.iter().filter(|place| wanted(place));
            places.map(|place| self.shown_name(place.node)).collect()
        };
        let policy = self.policy();
        let mut pairs = vec![
            (
                "pool",
                Some(policy.name.as_str())
                    .filter(|name| !name.is_empty())
                    .into(),
            ),
            ("mode", policy.mode.word().into()),
            ("op", op.word().into()),
            ("key", shown(key).into()),
            ("wire_key", shown(&wire).into()),
            ("long_key", long_key.into()),
            ("placed_by", placed_by.into()),
            ("placement", policy.placement.word().into()),
            (
                "owner",
                plan.places
                    .first()
                    .map(|place| self.shown_name(place.node))
                    .into(),
            ),
            ("reads", named(|place| place.reads)),
            ("writes", named(|place| place.writes)),
            (
                "nodes",
                plan.places
                    .iter()
                    .map(|place| self.place_fact(place))
                    .collect(),
            ),
            ("reason", plan.reason.into()),
        ];
        if let Some(slot) = self.slot(&wire) {
            pairs.push(("slot", u64::from(slot).into()));
        }
        Ok(Fact::Map(pairs))
    }

    fn place_fact(&self, place: &Place) -> Fact {
        let (since, cause) = self.ejected(place.node).unzip();
        let state = if self.is_up(place.node) {
            "up"
        } else if since.is_some() {
            "ejected"
        } else {
            "declared down"
        };
        Fact::Map(vec![
            ("node", self.shown_name(place.node).into()),
            ("role", place.role.into()),
            ("state", state.into()),
            ("since", since.into()),
            ("cause", cause.into()),
            ("reads", place.reads.into()),
            ("writes", place.writes.into()),
            ("why", place.why.as_str().into()),
        ])
    }

    /// A value in mode single: the owner or who stands in for it, and its copies.
    fn single_plan(&mut self, op: Op, key: &[u8], limits: &Limits) -> Plan {
        let owner = self.ring().owner(key);
        let (used, usable) = self.walk(key, limits, |pool, index| pool.seems_usable(index));
        let (reads, writes) = (op == Op::Get, op != Op::Get);
        let placement = self.policy.placement.word();
        let mut places = vec![Place {
            node: owner,
            role: "owner",
            reads: reads && used == owner && usable,
            writes: writes && used == owner && usable,
            why: match self.slot(key) {
                Some(slot) => format!("it has slot {slot}"),
                None => format!("{placement} names it for this key"),
            },
        }];
        let mut reason = format!(
            "{} goes to {}, which {placement} names as the owner",
            op.word(),
            self.shown_name(owner)
        );
        if used != owner {
            places.push(Place {
                node: used,
                role: "failover",
                reads: reads && usable,
                writes: writes && usable,
                why: format!(
                    "next after {}, which is not asked now",
                    self.shown_name(owner)
                ),
            });
            reason = format!(
                "{} goes to {}, the next one that is asked after the owner {}{}",
                op.word(),
                self.shown_name(used),
                self.shown_name(owner),
                self.because(owner)
            );
        }
        if !usable {
            reason = format!(
                "{} goes nowhere: the owner {} is not asked now{}, and {}",
                op.word(),
                self.shown_name(owner),
                self.because(owner),
                if limits.failover {
                    "neither is any node after it"
                } else {
                    "memcache.allow_failover is off"
                }
            );
        }
        let copies = usize::try_from(limits.copies).unwrap_or(1).min(self.len());
        if copies > 1 && !self.is_cluster() {
            let row = self.copies_after(key, used, copies, limits.attempts);
            let mut told = 0;
            for node in row {
                if places.iter().any(|place| place.node == node) {
                    continue;
                }
                told += 1;
                places.push(Place {
                    node,
                    role: "copy",
                    reads: false,
                    writes: writes && self.seems_usable(node),
                    why: format!(
                        "copy {} of {copies} (memcache.redundancy); read only after a failure",
                        told + 1
                    ),
                });
            }
            if writes && told > 0 {
                reason.push_str(&format!(
                    ", and to {told} more for memcache.redundancy = {copies}"
                ));
            }
        }
        if let Some(before) = self.owner_before(key) {
            places.push(self.previous(before, (reads, writes)));
            reason.push_str(PREVIOUS);
        }
        Plan { places, reason }
    }

    /// A node that a key was on by the list before, as long as that is used.
    fn previous(&self, node: usize, (reads, writes): (bool, bool)) -> Place {
        let usable = self.seems_usable(node);
        Place {
            node,
            role: "previous",
            reads: reads && usable,
            writes: writes && usable,
            why: "previous_nodes names it for this key".to_owned(),
        }
    }

    /// A session in mode single: pecl's row of nodes, which leaves out the owner of the bare id.
    fn session_plan(&mut self, key: &[u8], limits: &Limits) -> Plan {
        let row = self.session_places(key, limits.copies, limits.attempts);
        let count = row.len();
        let slot = self.slot(key);
        let before = self.session_places_before(key, limits.copies, limits.attempts, &row);
        let mut before = before.unwrap_or_default();
        before.retain(|node| !row.contains(node));
        let mut places: Vec<Place> = (1..)
            .zip(row)
            .map(|(number, node)| {
                let usable = self.seems_usable(node);
                Place {
                    node,
                    role: if number == 1 { "owner" } else { "copy" },
                    reads: usable,
                    writes: usable,
                    why: match (self.policy.placement, slot) {
                        (_, Some(slot)) => format!("it has slot {slot}"),
                        (Placement::Phpredis, _) => "the first four bytes of the id lead here".to_owned(),
                        _ => format!(
                            "\"KEY-{}\" leads here: copy {number} of {count} (memcache.session_redundancy)",
                            number - 1
                        ),
                    },
                }
            })
            .collect();
        let used: Vec<String> = places
            .iter()
            .filter(|place| place.reads)
            .map(|place| self.shown_name(place.node))
            .collect();
        let reason = if used.is_empty() {
            "none of the session's nodes is asked now, so session_start() would fail".to_owned()
        } else {
            let is = |engine| places.iter().any(|place| self.engine(place.node) == engine);
            let turn = match () {
                () if slot.is_some() => "{KEY}_LOCK there, in the same slot",
                () if is(Engine::Embedded) => "kept there with its owner",
                () if is(Engine::Redis) => {
                    "KEY_LOCK on a Redis, the counter KEY.lock on a memcached"
                }
                () => "the counter KEY.lock there",
            };
            format!(
                "the session is read from the first of {} that has it, and written to all of them; its turn is {turn}",
                used.join(", ")
            )
        };
        let mut reason = reason;
        if !before.is_empty() {
            reason.push_str(PREVIOUS);
        }
        places.extend(
            before
                .into_iter()
                .map(|node| self.previous(node, (true, true))),
        );
        Plan { places, reason }
    }

    /// A key in a copied mode: its preferred nodes.
    fn copied_plan(&mut self, op: Op, key: &[u8]) -> Plan {
        let Lists { nodes, parts } = self.lists(key);
        // While two node lists are used, what the new one has stands first, and all are asked.
        let current = parts.first().map_or(nodes.len(), Vec::len);
        let (reads, writes) = match op {
            Op::Get => (true, false),
            Op::Set | Op::Delete => (false, true),
            Op::Session => (true, true),
        };
        let usable: Vec<bool> = nodes.iter().map(|node| self.seems_usable(*node)).collect();
        let live = usable.iter().filter(|usable| **usable).count();
        // One that is away is made up for by the next.
        let mut copies = self.copies();
        let count = nodes.len();
        let places: Vec<Place> = (1..)
            .zip(&nodes)
            .zip(&usable)
            .map(|((number, node), usable)| {
                let word = copies == 0;
                copies -= usize::from(*usable && !word);
                let (role, why) = if number > current {
                    let epoch = self.policy.epoch;
                    (
                        "previous",
                        format!("preferred by the node list before epoch {epoch}, which counts until memring commit"),
                    )
                } else {
                    let placement = self.policy.placement.word();
                    let why = format!("preferred node {number} of {current} by {placement}");
                    match number {
                        1 => ("owner", why),
                        _ if word => ("witness", format!("{why}: has word of writes, not the value")),
                        _ => ("copy", why),
                    }
                };
                Place {
                    node: *node,
                    role,
                    reads: reads && *usable,
                    writes: writes && *usable,
                    why,
                }
            })
            .collect();
        let needed = if current >= PREFERRED { 2 } else { 1 };
        let mode = self.policy.mode.word();
        let reason = if live < needed {
            format!(
                "{live} of its {count} nodes can be asked and {needed} are needed, so nothing is decided"
            )
        } else {
            let mut parts = Vec::new();
            if reads {
                parts.push(
                    "the newest of what trusted nodes have is read, and repaired on the others",
                );
            }
            if writes {
                parts.push(
                    "all nodes that answer are written, and two of them make it acknowledged",
                );
            }
            let away = match count - live {
                0 => String::new(),
                away => format!("; {away} not asked now: listed as absent, and mended when back"),
            };
            format!("mode {mode}: {}{away}", parts.join("; "))
        };
        Plan { places, reason }
    }

    /// A value in mode sync: all copies are written, the owner is read.
    fn cache_plan(&mut self, op: Op, key: &[u8]) -> Plan {
        let Homes {
            members: nodes,
            mode,
        } = self.homes(key);
        let (reads, writes) = (op == Op::Get, op != Op::Get);
        let mut read = false;
        let mut places = Vec::with_capacity(nodes.len());
        for (number, node) in (1..).zip(&nodes) {
            let usable = self.seems_usable(*node);
            places.push(Place {
                node: *node,
                role: if number == 1 { "owner" } else { "copy" },
                reads: reads && usable && !read,
                writes: writes && usable,
                why: format!(
                    "copy {number} of {} by {}",
                    nodes.len(),
                    self.policy.placement.word()
                ),
            });
            read |= usable;
        }
        let word = mode.word();
        let reason = if !read {
            format!("none of its {} nodes can be asked", nodes.len())
        } else if mode == Mode::Single {
            format!("mode {word}: one node has it")
        } else if reads {
            format!("mode {word}: the owner is read, a copy on an error or a miss")
        } else if mode == Mode::Async {
            format!("mode {word}: the first node that can be asked answers, the copies follow")
        } else {
            format!(
                "mode {word}: every copy that can be asked is written before the caller is told"
            )
        };
        Plan { places, reason }
    }

    /// ": why", when the node was ejected.
    fn because(&self, node: usize) -> String {
        self.ejected(node)
            .map_or_else(String::new, |(_, cause)| format!(" ({cause})"))
    }

    fn shown_name(&self, node: usize) -> String {
        open_name(self.name(node))
    }
}
