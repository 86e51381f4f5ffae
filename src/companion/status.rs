//! memring status: how the nodes of copied pools stand, as a table for people or JSON for
//! machines. It changes nothing, not even what this host knows of the nodes' health.

use crate::cache::Standing;
use crate::host::Host;
use crate::wish::{Asked, Kept, which_pools};
use crate::words::{self, time};
use crate::{Stop, say, tell};
use memring_pool::config::{Mode, NodeSpec};
use memring_pool::error::Error;
use memring_pool::fact::Fact;
use memring_pool::handoff;
use memring_pool::pool::resync::wait::Mute;
use memring_pool::replica::{Standing as Record, State, Survey};
use memring_pool::shared::{self, Progress};
use std::fmt::Write;
use std::process::ExitCode;

/// What --help prints.
pub(crate) const HELP: &str = concat!(
    "\
memring status [--config FILE] [--list SAVE_PATH] [--state-dir DIR] [--json] [POOL…]

Asks every node of copied pools for its record, of a cache with copies whether it answers, and says whether
the next node may be stopped.

",
    which_pools!(),
    " or a cache's with copies
  --state-dir DIR   memring.state_dir of PHP, where it is not /dev/shm: which keys this host keeps for nodes
                    that missed them; only the user PHP runs as can see that
  --json            the same for machines

  trust   trusted: has all that was acknowledged · joining: is being mended · absent: another node says that
          it missed writes · bare: no record · strange: a record of an unknown format · silent: no answer
  life    number of the node's memory life · epoch  highest one of the configuration seen

Exit code 0 when every node is trusted (of a cache: answers, and missed nothing) and the file is the one that the
records speak of, 1 when not."
);

/// The command.
///
/// # Errors
/// When it was asked wrongly.
pub(crate) fn main(parser: lexopt::Parser) -> Result<ExitCode, Stop> {
    let asked = Asked::read(parser, &["json", "state-dir"])?;
    let (mut looked, mut caches): (Vec<Looked>, Vec<Standing>) = Default::default();
    for kept in asked.tended()? {
        if kept.topology.policy.mode == Mode::Fenced {
            looked.push(Looked::at(kept));
        } else {
            caches.push(Standing::of(kept));
        }
    }
    // Only now: what was just seen of the nodes is nobody else's.
    let blind = match shared::look(&asked.state_dir) {
        Ok(others) if others.is_empty() => None,
        Ok(others) => {
            let others: Vec<String> = others.into_iter().map(user).collect();
            let (others, dir) = (others.join(" or "), asked.state_dir.display());
            Some(format!(
                "which keys nodes missed is unknown: what this host keeps for them in {dir} is of {others}. Run memring status as that user"
            ))
        }
        Err(error) => Some(error.to_string()),
    };
    if let Some(why) = &blind {
        tell(&format!("memring status: {why}"));
    }
    let blind = blind.is_some();
    let caches = caches.into_iter().map(|cache| cache.blind(blind));
    let caches: Vec<Standing> = caches.collect();
    let safe = looked.iter().all(Looked::is_safe) && caches.iter().all(Standing::is_safe);
    if asked.json {
        say(&json(&looked, &caches, blind, safe));
    } else {
        for looked in &looked {
            say(&table(looked));
        }
        for cache in &caches {
            say(&cache.table());
        }
        let word = if safe { "yes" } else { "no" };
        say(&format!("safe to touch the next node: {word}"));
    }
    Ok(ExitCode::from(u8::from(!safe)))
}

/// The name of a user, or his number.
fn user(number: u32) -> String {
    let all = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = all.lines().find_map(|line| {
        let mut words = line.split(':');
        let (name, is) = (words.next()?, words.nth(1)?.parse() == Ok(number));
        is.then(|| name.to_owned())
    });
    named.unwrap_or_else(|| format!("user {number}"))
}

/// A pool of sessions, looked at once.
struct Looked {
    kept: Kept,
    survey: Survey,
    /// Why the records say nothing of the pool in the file.
    wrong: Option<Error>,
    /// The nodes that list their keys to nobody.
    mute: Vec<Mute>,
    /// How long nodes have to wait for that, seconds, by place.
    waits: Vec<Option<u64>>,
}

impl Looked {
    fn at(kept: Kept) -> Looked {
        let mut host = Host::new(&kept);
        let survey = host.survey();
        let mute = host.pool.mute(None, &mut host.call).unwrap_or_default();
        let waits = (0..survey.len()).map(|place| {
            let record = survey.record(place).filter(|_| !mute.is_empty())?;
            let listed = survey.listings(place).next().is_some();
            let (key, call) = (&host.record_key, &mut host.call);
            let left = host.pool.wait_left(place, record, key, call)?;
            (!listed).then_some(left)
        });
        let waits = waits.collect();
        Looked {
            wrong: host.fits(&survey).err(),
            kept,
            survey,
            mute,
            waits,
        }
    }

    fn is_safe(&self) -> bool {
        self.wrong.is_none() && self.survey.is_safe()
    }

    /// Do the records say that the file's node list is the only one? `None` where they do not
    /// say it.
    fn is_over(&self) -> Option<bool> {
        let epoch = self.kept.topology.policy.epoch;
        match &self.wrong {
            Some(_) => None,
            None => self.survey.is_over(epoch),
        }
    }
}

fn table(looked: &Looked) -> String {
    let Looked {
        kept,
        survey,
        wrong,
        ..
    } = looked;
    let head = ["node", "answers", "trust", "life", "epoch", "absent by"].map(str::to_owned);
    let mut rows = vec![head];
    for place in 0..survey.len() {
        let state = survey.state(place);
        let record = survey.record(place);
        let number = |number: Option<u64>| number.map_or("-".to_owned(), |n| n.to_string());
        let by: Vec<String> = survey
            .listings(place)
            .map(|by| format!("{} (host {}, since {})", by.by, by.host, time(by.since)))
            .collect();
        rows.push([
            survey.name(place).to_owned(),
            if state == State::Silent { "no" } else { "yes" }.to_owned(),
            state.word().to_owned(),
            number(record.map(|record| u64::from(record.inc))),
            number(record.map(|record| u64::from(record.epoch))),
            if by.is_empty() {
                "-".to_owned()
            } else {
                by.join(", ")
            },
        ]);
    }
    let over = looked.is_over();
    for node in &kept.topology.drained {
        // While its epoch lasts it has a row like all others.
        if over == Some(true) {
            let dash = || "-".to_owned();
            let row = [dash(), "drained".to_owned(), dash(), dash(), dash()];
            let [answers, trust, life, epoch, absent] = row;
            rows.push([node.ring_name().into(), answers, trust, life, epoch, absent]);
        }
    }
    let mut widths = [0; 6];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = kept.label.clone();
    for (number, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        let _ = write!(text, "\n  {}", cells.join("  ").trim_end());
        let place = number.checked_sub(1);
        if let Some(why) = place.and_then(|place| trouble(survey, place)) {
            let _ = write!(text, "\n      {why}");
        }
        if let Some(pass) = place.and_then(|place| pass(kept, survey, place)) {
            let _ = match pass.left() {
                Some(left) => write!(
                    text,
                    "\n      a pass of this host mends it: {} of {} keys looked at, {left} left",
                    pass.seen, pass.all
                ),
                None => write!(
                    text,
                    "\n      a pass of this host mends it: the other nodes' keys are being listed"
                ),
            };
        }
        for line in place.map_or_else(Vec::new, |place| listing(looked, place)) {
            let _ = write!(text, "\n      {line}");
        }
        let left = place.map_or(0, |place| left(kept, survey, place));
        if left > 0 {
            let _ = write!(
                text,
                "\n      {left} keys that it missed are kept on this host"
            );
        }
    }
    let drained: Vec<_> = kept
        .topology
        .drained
        .iter()
        .map(NodeSpec::ring_name)
        .collect();
    let drained = drained.join(", ");
    if let Some(error) = wrong {
        let _ = write!(text, "\n  {error}");
    }
    if over == Some(false) {
        let _ = write!(
            text,
            "\n  epoch {} of the file is not committed, so both node lists are in use: memring commit {}",
            kept.topology.policy.epoch, kept.written
        );
    }
    if !drained.is_empty() {
        let _ = match over {
            Some(true) => write!(text, "\n  {drained}: safe to stop"),
            Some(false) => write!(text, "\n  {drained}: draining, not safe to stop"),
            None => write!(
                text,
                "\n  {drained}: no record of this pool says whether it is drained, not safe to stop"
            ),
        };
    }
    text
}

/// What is to be said of a node that lists its keys to nobody, and of one that waits for that.
fn listing(looked: &Looked, place: usize) -> Vec<String> {
    let mut mute = looked.mute.iter().filter(|mute| mute.place == place);
    let mute = mute.next().map(|mute| {
        format!(
            "it {}: another node that loses its memory may have to wait until all sessions of before have ended. {}",
            words::mute(mute),
            words::remedy(mute)
        )
    });
    let left = looked.waits.get(place).copied().flatten();
    let waits = left.map(|left| {
        format!(
            "it waits until all that it may lack has ended, since a node does not list its keys: {} left",
            words::span(left)
        )
    });
    mute.into_iter().chain(waits).collect()
}

/// How many keys this host keeps for a node.
fn left(kept: &Kept, survey: &Survey, place: usize) -> usize {
    handoff::left(&kept.record_key, survey.name(place))
}

/// How far a pass of this host over a node is.
fn pass(kept: &Kept, survey: &Survey, place: usize) -> Option<Progress> {
    shared::pass(&kept.record_key, survey.name(place))
}

/// What a node that is not to be used says for itself, or what can be done.
fn trouble(survey: &Survey, place: usize) -> Option<String> {
    match survey.standing(place)? {
        Record::Silent(error) => Some(error.cause().to_owned()),
        Record::Strange => Some(
            "its record was written by another version of memring and is left as it is".to_owned(),
        ),
        Record::Bare => Some("no record; memring tend gives it one".to_owned()),
        Record::Known(_) => None,
    }
}

/// The same for machines. Names of fields are only ever added.
fn json(looked: &[Looked], caches: &[Standing], blind: bool, safe: bool) -> String {
    let mut pools: Vec<Fact> = caches.iter().map(Standing::fact).collect();
    for looked in looked {
        let Looked {
            kept,
            survey,
            wrong,
            ..
        } = looked;
        let over = looked.is_over();
        let drained = |node: &NodeSpec| {
            Fact::Map(vec![
                ("node", node.ring_name().as_ref().into()),
                ("drained", (over == Some(true)).into()),
            ])
        };
        let nodes = (0..survey.len()).map(|place| node(looked, blind, place));
        let drained = kept.topology.drained.iter().map(drained);
        pools.push(Fact::Map(vec![
            ("pool", kept.name.as_deref().into()),
            ("mode", kept.topology.policy.mode.word().into()),
            ("safe", looked.is_safe().into()),
            ("trouble", wrong.as_ref().map(Error::to_string).into()),
            ("epoch", kept.topology.policy.epoch.into()),
            ("committed", over.into()),
            ("nodes", nodes.collect()),
            ("drain", drained.collect()),
        ]));
    }
    Fact::Map(vec![("safe", safe.into()), ("pools", Fact::List(pools))]).json()
}

fn node(looked: &Looked, blind: bool, place: usize) -> Fact {
    let Looked { kept, survey, .. } = looked;
    let state = survey.state(place);
    let record = survey.record(place);
    let by = survey.listings(place).map(|by| {
        Fact::Map(vec![
            ("node", by.by.into()),
            ("host", by.host.into()),
            ("since", by.since.into()),
        ])
    });
    let error = match survey.standing(place) {
        Some(Record::Silent(error)) => error.cause().into(),
        _ => Fact::Null,
    };
    let id = record.map(|record| format!("{:016x}", record.id));
    let missed = (!blind).then(|| left(kept, survey, place));
    let mute = looked.mute.iter().any(|mute| mute.place == place);
    let lists = (state != State::Silent).then_some(!mute);
    Fact::Map(vec![
        ("node", survey.name(place).into()),
        ("answers", (state != State::Silent).into()),
        ("trust", state.word().into()),
        ("life", record.map(|record| u32::from(record.inc)).into()),
        ("id", id.as_deref().into()),
        ("epoch", record.map(|record| record.epoch).into()),
        ("absent_by", by.collect()),
        ("missed_keys", missed.into()),
        ("pass", pass(kept, survey, place).into()),
        ("waits", looked.waits.get(place).copied().flatten().into()),
        ("lists_keys", lists.into()),
        ("error", error),
    ])
}
