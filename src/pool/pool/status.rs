//! How a pool stands, as facts: what this process knows of its nodes, and, when it is asked
//! for, what their records say now. It decides nothing and mends nothing.

use super::{Declared, Pool};
use crate::call::Call;
use crate::config::{Mode, NodeSpec, Target};
use crate::embedded;
use crate::fact::Fact;
use crate::node::{Directory, Door, Node};
use crate::replica::{Standing, State, Survey};
use crate::shared::{self, Progress};
use std::time::SystemTime;

/// One value of a map: its name, and what it holds.
type Pair = (&'static str, Fact);
/// What was seen of a pool: its records, their key, and how long nodes have to wait, seconds.
type Seen<'a> = (&'a Survey, &'a [u8], &'a [Option<u64>], Missed<'a>);
/// How many keys this host keeps for a node, by its name in records.
type Missed<'a> = &'a dyn Fn(&str) -> usize;

impl Pool {
    /// Name, mode and nodes as this process knows them, nobody asked:
    /// `{pool, mode, copies, placement, epoch, two_node_lists, safe_to_touch_next, trouble, nodes, drain}`.
    /// Each node of a cluster that was asked for them has `slots`, too.
    pub fn status(&self) -> Fact {
        self.told(None)
    }

    /// The same with each node's record, read now, and why they are not this pool's
    /// ([`Pool::fits`]); marks who answers and who does not, as [`Pool::records`].
    pub fn status_now(&mut self, record_key: &[u8], call: &mut Call, missed: Missed<'_>) -> Fact {
        let survey = self.records(record_key, call);
        // Only who is joining waits; of all others nothing is asked.
        let waits = (0..survey.len()).map(|place| {
            let record = survey
                .record(place)
                .filter(|_| survey.state(place) == State::Joining)?;
            self.wait_left(place, record, record_key, call)
        });
        let waits: Vec<Option<u64>> = waits.collect();
        self.told(Some((&survey, record_key, &waits, missed)))
    }

    fn told(&self, seen: Option<Seen<'_>>) -> Fact {
        let survey = seen.map(|(survey, ..)| survey);
        let policy = self.policy();
        let wrong = survey.and_then(|survey| self.fits(survey).err());
        let safe = survey.map(|survey| wrong.is_none() && survey.is_safe());
        let name = Some(policy.name.as_str()).filter(|name| !name.is_empty());
        let nodes = (0..self.len()).map(|index| {
            let mut pairs = self.node_facts(index);
            pairs.extend(record_facts(survey, index));
            let pass = seen.and_then(|(survey, key, ..)| shared::pass(key, survey.name(index)));
            pairs.push(("pass", pass.into()));
            let waits = seen.and_then(|(_, _, waits, _)| waits.get(index).copied().flatten());
            pairs.push(("waits", waits.into()));
            let missed = seen.map(|(survey, _, _, missed)| missed(survey.name(index)));
            pairs.push(("missed_keys", self.missed_keys(index, missed).into()));
            Fact::Map(pairs)
        });
        let over = survey.filter(|_| wrong.is_none());
        let over = over.and_then(|survey| survey.is_over(policy.epoch));
        let drained = self.drained.iter().map(|node| {
            Fact::Map(vec![
                ("node", node.as_str().into()),
                ("drained", over.into()),
            ])
        });
        Fact::Map(vec![
            ("pool", name.into()),
            ("mode", policy.mode.word().into()),
            ("copies", self.copies_kept().into()),
            ("placement", policy.placement.word().into()),
            ("epoch", policy.epoch.into()),
            ("two_node_lists", self.has_window().into()),
            ("safe_to_touch_next", safe.into()),
            ("trouble", wrong.map(|error| error.to_string()).into()),
            ("nodes", nodes.collect()),
            ("drain", drained.collect()),
        ])
    }

    /// Takes the nodes that are drained, to be told with the others. Nothing else here asks them.
    pub fn drains(&mut self, nodes: &[NodeSpec]) {
        let names = nodes.iter().map(|node| open_name(&node.ring_name()));
        self.drained = names.collect();
    }

    /// Keys that this host keeps for a node with copies, which missed them; of sessions only where somebody looked.
    fn missed_keys(&self, index: usize, of_sessions: Option<usize>) -> Option<usize> {
        match self.policy.mode {
            Mode::Single => None,
            Mode::Async | Mode::Sync => self.debts().get(index).copied(),
            Mode::Fenced => of_sessions,
        }
    }

    /// Copies of each session in a copied mode; in mode single the settings say how many.
    pub(crate) fn copies_kept(&self) -> Option<usize> {
        let policy = self.policy();
        let copies = match policy.mode {
            Mode::Single => return None,
            Mode::Async | Mode::Sync => policy.copies.unwrap_or(super::cache::COPIES),
            Mode::Fenced => self.copies(),
        };
        Some(copies.min(self.len()))
    }

    fn node_facts(&self, index: usize) -> Vec<Pair> {
        let Some(member) = self.members.get(index) else {
            return Vec::new();
        };
        let mut pairs = facts_of(&member.spec, &member.node.borrow());
        if let Some(slots) = self.slots_of(index) {
            pairs.push(("slots", slots.into()));
        }
        if member.declared == Declared::Down {
            for (name, value) in &mut pairs {
                match *name {
                    "state" => *value = "declared down".into(),
                    "since" | "cause" => *value = Fact::Null,
                    _ => {}
                }
            }
        }
        pairs
    }

    /// When node `index` was ejected (seconds since 1970) and why; `None` while it is used.
    pub(crate) fn ejected(&self, index: usize) -> Option<(u64, String)> {
        let member = self.members.get(index)?;
        if member.declared == Declared::Up {
            return None;
        }
        ejected(&member.node.borrow())
    }
}

/// The persistent nodes of this process that none of `pools` has, each as a pool tells it.
pub fn other_nodes(directory: &Directory, pools: &[Pool]) -> Fact {
    let known = |door: &Door| {
        pools.iter().any(|pool| {
            let protocol = pool.policy.protocol;
            let mut members = pool.members.iter();
            members.any(|member| Door::of(&member.spec, protocol) == *door)
        })
    };
    let mut nodes: Vec<(String, Fact)> = directory
        .all()
        .into_iter()
        .filter(|(door, _)| !known(door))
        .map(|(door, node)| {
            let node = node.borrow();
            let (since, cause) = ejected(&node).unzip();
            let name = open_name(node.name());
            let mut pairs = vec![
                ("node", name.as_str().into()),
                ("address", address(&door.entrance.target).into()),
                ("state", state(since).into()),
                ("since", since.into()),
                ("cause", cause.into()),
                ("connections", u32::from(node.is_connected()).into()),
            ];
            pairs.extend(embedded_facts(&door.entrance.target));
            (name, Fact::Map(pairs))
        })
        .collect();
    nodes.sort_by(|one, other| one.0.cmp(&other.0));
    nodes.into_iter().map(|(_, fact)| fact).collect()
}

fn facts_of(spec: &NodeSpec, node: &Node) -> Vec<Pair> {
    let (since, cause) = ejected(node).unzip();
    let mut pairs = vec![
        ("node", open_name(&spec.name()).into()),
        ("address", address(&spec.target).into()),
        ("id", spec.id.as_deref().into()),
        ("weight", spec.weight.into()),
        ("state", state(since).into()),
        ("since", since.into()),
        ("cause", cause.into()),
        ("suspect", node.health.is_suspect().into()),
        ("connections", u32::from(node.is_connected()).into()),
    ];
    pairs.extend(embedded_facts(&spec.target));
    pairs
}

/// What an embedded node keeps, null where this process has not opened it.
fn embedded_facts(target: &Target) -> Option<Pair> {
    let Target::Embedded(place) = target else {
        return None;
    };
    let kept = embedded::kept(&place.directory).map(kept_facts);
    Some(("embedded", kept.unwrap_or(Fact::Null)))
}

fn kept_facts(kept: embedded::Held) -> Fact {
    Fact::Map(vec![
        ("file", kept.file.to_string_lossy().into_owned().into()),
        ("size", kept.size.into()),
        ("items", kept.items.into()),
        ("bytes", kept.bytes.into()),
        ("evictions", kept.evictions.into()),
        ("expired", kept.expired.into()),
    ])
}

fn state(since: Option<u64>) -> &'static str {
    match since {
        None => "up",
        Some(_) => "ejected",
    }
}

fn ejected(node: &Node) -> Option<(u64, String)> {
    let now = shared::now();
    let since = node.health.failed_at(now)?;
    let ago = now.saturating_sub(since) / 1000;
    let today = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let today = today.map_or(0, |time| time.as_secs());
    Some((
        today.saturating_sub(ago),
        node.health.cause().cause().to_owned(),
    ))
}

/// What the record of node `place` says; all of it null while nobody asked.
fn record_facts(survey: Option<&Survey>, place: usize) -> Vec<Pair> {
    let state = survey.map(|survey| survey.state(place));
    let record = survey.and_then(|survey| survey.record(place));
    let error = match survey.and_then(|survey| survey.standing(place)) {
        Some(Standing::Silent(error)) => Some(error.cause().to_owned()),
        _ => None,
    };
    let absent: Option<Fact> = survey.map(|survey| {
        survey
            .listings(place)
            .map(|by| {
                Fact::Map(vec![
                    ("node", by.by.into()),
                    ("host", by.host.into()),
                    ("since", by.since.into()),
                ])
            })
            .collect()
    });
    vec![
        ("answers", state.map(|state| state != State::Silent).into()),
        ("trust", state.map(State::word).into()),
        ("life", record.map(|record| u32::from(record.inc)).into()),
        ("epoch", record.map(|record| u64::from(record.epoch)).into()),
        ("absent_by", absent.unwrap_or(Fact::Null)),
        ("error", error.into()),
    ]
}

impl From<Progress> for Fact {
    fn from(pass: Progress) -> Fact {
        let left = pass.left();
        Fact::Map(vec![("seen", pass.seen.into()), ("left", left.into())])
    }
}

/// A name without what may stand between scheme and host: `user:password@`.
pub(crate) fn open_name(name: &str) -> String {
    let (scheme, rest) = match name.find("://") {
        Some(at) => name.split_at(at + 3),
        None => ("", name),
    };
    match rest.rfind('@') {
        Some(at) if !rest.starts_with('/') => {
            format!("{scheme}{}", rest.get(at + 1..).unwrap_or_default())
        }
        _ => name.to_owned(),
    }
}

fn address(target: &Target) -> String {
    match target {
        Target::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
        Target::Tcp { host, port } => format!("{host}:{port}"),
        Target::Unix(path) => path.to_string_lossy().into_owned(),
        Target::Master(watched) => watched.line(),
        Target::Embedded(place) => place.directory.to_string_lossy().into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::open_name;

    #[test]
    fn a_name_is_told_without_user_and_password() {
        assert_eq!(
            open_name("redis://me:secret@cache:6379"),
            "redis://cache:6379"
        );
        assert_eq!(open_name("me@cache:6379"), "cache:6379");
        assert_eq!(
            open_name("unix:///run/a@b.sock:0"),
            "unix:///run/a@b.sock:0"
        );
        assert_eq!(open_name("cache:11211"), "cache:11211");
    }
}
