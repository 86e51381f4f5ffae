//! Which nodes have a key's copies: the pool's ring, a rule's part of it, the backup's own ring.
//!
//! A pool has one ring of its own nodes. A rule for a prefix may name some of them, and then
//! has a ring of these; a backup's nodes stand behind the pool's own, on a ring of theirs,
//! which names the node of the last copy. A node that is in both is passed over there: two
//! copies on one node are one.

use super::Pool;
use super::cache::COPIES;
use super::round::Answer;
use crate::call::Call;
use crate::config::{Mode, Rule};
use crate::ring::{Ring, RingNode};
use std::time::Instant;

/// A ring of some of the pool's nodes.
#[derive(Debug)]
pub(super) struct Part {
    ring: Ring,
    /// The node behind each index of the ring.
    members: Vec<usize>,
}

/// Where a key's copies are, as this call sees it.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    /// Nodes that are asked, the owner first.
    pub(super) live: Vec<usize>,
    /// Nodes that are told of writes after the answer.
    pub(super) later: Vec<usize>,
    /// Nodes that would be, were they not left alone.
    pub(super) away: Vec<usize>,
    /// One copy without a version, as any pool of mode single has it.
    pub(super) plain: bool,
}

impl Plan {
    /// All nodes that may be asked, the owner first.
    pub(super) fn usable(&self) -> impl Iterator<Item = usize> {
        self.live.iter().chain(&self.later).copied()
    }

    /// Does the key have other nodes than those asked now?
    pub(super) fn has_others(&self) -> bool {
        self.live.len() + self.later.len() + self.away.len() > 1
    }

    /// Lets those answer who would have been told later, after nobody else did; false when
    /// there are none.
    pub(super) fn turn_over(&mut self, seen: &[(usize, Answer)]) -> bool {
        let silent = seen.iter().all(|(_, answer)| *answer == Answer::Lost);
        if !silent || self.later.is_empty() {
            return false;
        }
        self.away.append(&mut self.live);
        self.live = std::mem::take(&mut self.later);
        true
    }
}

/// The nodes of a key and how it is kept.
#[derive(Clone, Debug)]
pub(super) struct Homes {
    /// The nodes, owner first.
    pub(super) members: Vec<usize>,
    pub(super) mode: Mode,
}

impl Pool {
    /// The nodes of key number `entry`, owner first.
    pub(super) fn plan(&mut self, call: &Call, entry: usize, now: Instant) -> Plan {
        self.plan_to(call, entry, |pool, node| pool.allows_meanwhile(node, now))
    }

    /// The same, where `allows` says which nodes may be asked.
    pub(super) fn plan_to(
        &mut self,
        call: &Call,
        entry: usize,
        allows: impl Fn(&mut Pool, usize) -> bool,
    ) -> Plan {
        let Homes { mut members, mode } = self.homes(call.wire_key(entry));
        let away = members.extract_if(.., |member| !allows(self, *member));
        let mut plan = Plan {
            plain: mode == Mode::Single,
            away: away.collect(),
            live: members,
            ..Plan::default()
        };
        if mode == Mode::Async && plan.live.len() > 1 {
            plan.later = plan.live.split_off(1);
        }
        plan
    }

    /// The owner of key number `entry`.
    pub(super) fn owner_of(&mut self, call: &Call, entry: usize) -> usize {
        let homes = self.homes(call.wire_key(entry));
        homes.members.first().copied().unwrap_or(0)
    }

    /// True when every key of the call is kept as in mode single, and on the pool's own ring.
    pub(super) fn is_plain(&self, call: &Call) -> bool {
        let mode = self.policy.mode;
        // Most pools have no rules, and then one look is enough.
        if self.policy.rules.is_empty() {
            return mode == Mode::Single;
        }
        (0..call.entries.len()).all(|entry| self.is_alone(call.wire_key(entry)))
    }

    /// The same for one key.
    pub(super) fn is_alone(&self, key: &[u8]) -> bool {
        let mode = self.policy.mode;
        match self.rule(key) {
            Some((_, rule)) => rule.mode.unwrap_or(mode) == Mode::Single && rule.nodes.is_empty(),
            None => mode == Mode::Single,
        }
    }

    /// True when some key's owner is another than the pool's own ring names.
    pub(super) fn has_parts(&self) -> bool {
        self.policy.rules.iter().any(|rule| !rule.nodes.is_empty())
    }

    /// The nodes of a key (wire form), owner first, and its mode.
    pub(super) fn homes(&mut self, key: &[u8]) -> Homes {
        let found = self.rule(key);
        let mode = found.and_then(|(_, rule)| rule.mode);
        let copies = found.and_then(|(_, rule)| rule.copies);
        let part = found.filter(|(_, rule)| !rule.nodes.is_empty());
        let part = part.map(|(place, _)| place);
        let mode = mode.unwrap_or(self.policy.mode);
        if mode == Mode::Single {
            let members = self.on_part(part, key, 1);
            return Homes { members, mode };
        }
        let copies = copies.or(self.policy.copies).unwrap_or(COPIES);
        if self.policy.backup == 0 || part.is_some() {
            let members = self.on_part(part, key, copies);
            return Homes { members, mode };
        }
        let mut members = self.on_part(None, key, copies.saturating_sub(1));
        let backup = self.policy.rules.len();
        let others = self.on_part(Some(backup), key, usize::MAX);
        let other = others
            .into_iter()
            .find(|other| members.iter().all(|member| !self.is_same(*member, *other)));
        members.extend(other);
        Homes { members, mode }
    }

    /// The rule for a key and its place.
    fn rule(&self, key: &[u8]) -> Option<(usize, &Rule)> {
        let key = key
            .strip_prefix(self.policy.keys.prefix.as_slice())
            .unwrap_or(key);
        let rules = self.policy.rules.iter().enumerate();
        rules
            .into_iter()
            .find(|(_, rule)| key.starts_with(&rule.prefix))
    }

    /// The first `count` nodes of a key on a part's ring, or on the pool's own.
    fn on_part(&mut self, part: Option<usize>, key: &[u8], count: usize) -> Vec<usize> {
        let Some(part) = part else {
            let own = self.members.len().saturating_sub(self.policy.backup);
            return self.ring().owners(key, own, count);
        };
        if self.rings.is_empty() {
            self.rings = self.parts();
        }
        let Some(Part { ring, members }) = self.rings.get(part) else {
            return Vec::new();
        };
        ring.owners(key, members.len(), count)
            .into_iter()
            .filter_map(|index| members.get(index).copied())
            .collect()
    }

    fn parts(&self) -> Vec<Part> {
        let own = self.members.len().saturating_sub(self.policy.backup);
        let backup: Vec<usize> = (own..self.members.len()).collect();
        let lists = self.policy.rules.iter().map(|rule| rule.nodes.clone());
        lists
            .chain([backup])
            .map(|members| {
                let nodes: Vec<RingNode<'_>> = members
                    .iter()
                    .filter_map(|index| self.members.get(*index))
                    .map(|member| RingNode {
                        name: member.spec.id.as_deref().unwrap_or(&member.name),
                        weight: member.spec.weight,
                        named: member.spec.id.is_some(),
                    })
                    .collect();
                let policy = &self.policy;
                Part {
                    ring: Ring::new(&nodes, policy.placement, policy.hash, policy.tag)
                        .behind(policy.keys.prefix.len()),
                    members,
                }
            })
            .collect()
    }

    /// The pool's own ring; nodes of the list before have no part in it.
    pub(super) fn ring(&mut self) -> &Ring {
        let (members, policy, cluster) = (&self.members, &self.policy, &self.cluster);
        let window = &self.window;
        self.ring.get_or_insert_with(|| {
            if let Some(ring) = cluster.as_ref().and_then(|cluster| cluster.ring()) {
                return ring;
            }
            let current = window.as_ref().map_or(members.len(), |w| w.current());
            let own = current.saturating_sub(policy.backup);
            let nodes: Vec<RingNode<'_>> = members
                .iter()
                .take(own)
                .map(|m| RingNode {
                    name: m.spec.id.as_deref().unwrap_or(&m.name),
                    weight: m.spec.weight,
                    named: m.spec.id.is_some(),
                })
                .collect();
            Ring::new(&nodes, policy.placement, policy.hash, policy.tag)
                .behind(policy.keys.prefix.len())
        })
    }

    /// Are they one server?
    fn is_same(&self, one: usize, other: usize) -> bool {
        let target = |index: usize| self.members.get(index).map(|member| &member.spec.target);
        target(one) == target(other)
    }
}
