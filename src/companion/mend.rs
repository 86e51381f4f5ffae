//! What is done about what a look found: a new pool is founded, nodes that missed something
//! are passed over until they are trusted.

use crate::host::{Host, name};
use crate::memory::{Known, Memory};
use crate::wish::Kept;
use crate::words;
use memring_pool::handoff::{self, Handed};
use memring_pool::pool::resync::Way as Run;
use memring_pool::pool::resync::wait::{Mute, Wait};
use memring_pool::replica::{Founded, Resynced, State, Survey};
use memring_pool::shared;
use std::time::{Duration, Instant};

/// How long another host may take to hand over the keys it keeps.
const OTHERS: Duration = Duration::from_secs(10);

/// Why a node is not trusted yet.
#[derive(Debug)]
pub(crate) struct Stuck {
    /// As a sentence for the log.
    pub(crate) why: String,
    /// For so long nothing can be done but to wait, if all stays as it is.
    pub(crate) pause: Duration,
}

impl From<String> for Stuck {
    fn from(why: String) -> Stuck {
        Stuck {
            why,
            pause: Duration::ZERO,
        }
    }
}

/// How a node gets what it missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The keys this host keeps, in the life of that name.
    Keys(u64),
    /// Another host keeps keys for it and will hand them over.
    Wait,
    /// Every key.
    Full,
}

fn way(kept: &Kept, survey: &Survey, target: usize, memory: &Memory, host: &mut Host) -> Way {
    if !kept.topology.previous.is_empty() {
        // While nodes change a key has two lists, and its keeper may have seen either.
        return Way::Full;
    }
    let Some(known) = memory.of(target) else {
        return Way::Full;
    };
    let same_life = survey.state(target) == State::Listed
        && survey
            .record(target)
            .is_some_and(|record| record.id == known.id);
    if !same_life || survey.absences(target).any(|absent| !absent.is_kept()) {
        return Way::Full;
    }
    if handoff::process(&mut host.pool, target, &mut host.call) != Some(known.process) {
        return Way::Full;
    }
    let own = handoff::tag(&name());
    if survey.absences(target).any(|absent| absent.host == own) {
        return Way::Keys(known.id);
    }
    let since = known.waits.unwrap_or_else(Instant::now);
    memory.set(
        target,
        Some(Known {
            waits: Some(since),
            ..known
        }),
    );
    match since.elapsed() > OTHERS {
        true => Way::Full,
        false => Way::Wait,
    }
}

/// Hands node `target` what this host kept for it; false when it takes a full pass.
fn keys(
    host: &mut Host,
    memory: &Memory,
    target: usize,
    id: u64,
    who: &str,
    say: &dyn Fn(&str),
) -> bool {
    let own = handoff::tag(&name());
    let (pool, call) = (&mut host.pool, &mut host.call);
    match handoff::hand_over(pool, target, id, &host.record_key, &own, call) {
        Handed::Done { keys } => {
            say(&format!(
                "{who} got the {keys} keys it missed, and goes on with what it had"
            ));
            true
        }
        Handed::Later => true,
        Handed::Full => {
            // Not again by keys before it was trusted again.
            memory.set(target, None);
            false
        }
    }
}

/// Passes over one node before a new look is taken at the whole pool.
const PASSES: u32 = 10;
/// A node that waits is looked after once in so long.
const PATIENCE: Duration = Duration::from_secs(10);
/// A pass that takes longer says how far it is, and so again after each such time.
const NEWS: Duration = Duration::from_secs(1);

/// Is there anything to do about `survey`?
pub(crate) fn has_work(survey: &Survey) -> bool {
    survey.all(State::Bare).next().is_some() || survey.to_mend().next().is_some()
}

/// Why nothing can be done though there is something to do; `None` when there is no reason.
pub(crate) fn waits(kept: &Kept, survey: &Survey) -> Option<String> {
    let blocker = survey.blocker().filter(|_| has_work(survey))?;
    let (who, strange) = (
        survey.name(blocker),
        survey.state(blocker) == State::Strange,
    );
    let answers = if strange {
        "has a record that cannot be read"
    } else {
        "does not answer"
    };
    let names = |state| {
        let names: Vec<&str> = survey.all(state).map(|place| survey.name(place)).collect();
        names.join(", ")
    };
    let known = (0..survey.len()).any(|place| survey.record(place).is_some());
    if !known && !strange {
        return Some(format!(
            "the pool is not founded: {who} {answers}, so nobody can say whether the pool is new. Start that node; if it is gone for good and no session is worth keeping: memring trust {}",
            kept.written
        ));
    }
    let waiting: Vec<String> = [State::Bare, State::Joining, State::Listed]
        .map(names)
        .into_iter()
        .filter(|names| !names.is_empty())
        .collect();
    Some(format!(
        "{} cannot be mended while {who} {answers}: what is missing may lie there. It is done as soon as that is over",
        waiting.join(", ")
    ))
}

/// Founds the pool where it is new, and passes over each node that is not trusted.
///
/// # Errors
/// Why a node is not trusted yet.
pub(crate) fn mend(
    kept: &Kept,
    host: &mut Host,
    memory: &Memory,
    say: &dyn Fn(&str),
) -> Result<(), Stuck> {
    let survey = host.survey();
    // With another node list than the pool's own, who is said to be whole would not be.
    host.fits(&survey).map_err(|error| error.to_string())?;
    if let Some(why) = waits(kept, &survey) {
        return Err(why.into());
    }
    if survey.all(State::Bare).next().is_some() {
        match host
            .pool
            .found(&host.record_key, shared::throw(), &mut host.call)
        {
            Founded::New => say("the pool is new: its nodes got their first records"),
            Founded::Nothing | Founded::Joined => {}
            Founded::Again => return Err("another host is founding the pool".to_owned().into()),
            Founded::Stopped { place } => return Err(stopped(host, place).into()),
        }
    }
    let survey = host.survey();
    // Only now two names of one server show where the pool was new.
    host.fits(&survey).map_err(|error| error.to_string())?;
    let mut trouble = Ok(());
    for target in survey.to_mend() {
        // One that cannot be mended now keeps no other one from it.
        let mended = mend_node(kept, host, &survey, target, memory, say);
        trouble = trouble.and(mended);
    }
    trouble
}

/// Ends the turns that were left on nodes which are trusted: nobody has them, and nobody gives them back.
pub(crate) fn end_turns(kept: &Kept, host: &mut Host, survey: &Survey, say: &dyn Fn(&str)) {
    if !kept.topology.previous.is_empty() {
        // Who has the other list may have the turn on nodes that are not asked here.
        return;
    }
    for target in survey.all(State::Trusted) {
        let (pool, call) = (&mut host.pool, &mut host.call);
        let ended = handoff::end_turns(pool, target, &host.record_key, call);
        if ended > 0 {
            say(&format!(
                "{}: turns that nobody had any more were ended there: {ended}",
                survey.name(target)
            ));
        }
    }
}

/// Gives one node what it missed.
fn mend_node(
    kept: &Kept,
    host: &mut Host,
    survey: &Survey,
    target: usize,
    memory: &Memory,
    say: &dyn Fn(&str),
) -> Result<(), Stuck> {
    let who = survey.name(target);
    match way(kept, survey, target, memory, host) {
        Way::Keys(id) if keys(host, memory, target, id, who, say) => return Ok(()),
        Way::Wait => return Ok(()),
        Way::Keys(_) | Way::Full => {}
    }
    // The same for this process if it begins anew in between.
    let runner = format!("{}/{}", name(), std::process::id());
    let held = host
        .pool
        .take_turn(target, &host.record_key, &runner, &mut host.call)
        .map_err(|other| format!("{who} is being mended by {other}"))?;
    let mended = passes(host, who, target, held.then_some(&*runner), say);
    host.pool
        .give_turn(target, &host.record_key, &runner, &mut host.call);
    mended?;
    handoff::forget(&host.record_key, who);
    Ok(())
}

fn passes(
    host: &mut Host,
    who: &str,
    target: usize,
    runner: Option<&str>,
    say: &dyn Fn(&str),
) -> Result<(), Stuck> {
    let mut last = String::new();
    for number in 1..=PASSES {
        let begin = Instant::now();
        let mut said = begin;
        let mut progress = |done: usize, all: usize| {
            if said.elapsed() >= NEWS {
                said = Instant::now();
                say(&format!("{who}, pass {number}: {done} of {all} keys"));
            }
        };
        let mute = match host.pool.mute(Some(target), &mut host.call) {
            Ok(mute) => mute,
            Err(place) => return Err(stopped(host, place).into()),
        };
        let run = Run {
            runner,
            mute: &mute,
            ..Run::default()
        };
        let pass = host.pool.resync_told(
            target,
            &host.record_key,
            run,
            shared::throw(),
            &mut host.call,
            &mut progress,
        );
        if pass.lost {
            let why = format!(
                "{who} is being mended by somebody else: this host gave no sign for too long. It is looked at again"
            );
            return Err(why.into());
        }
        if let Some(wait) = pass.wait {
            return Err(Stuck {
                why: waiting(host, who, &mute, wait),
                pause: PATIENCE.min(Duration::from_secs(wait.left)),
            });
        }
        if begin.elapsed() >= NEWS {
            say(&format!(
                "{who}, pass {number}: {} of its keys looked at in {:.1} s, {} not mended",
                pass.keys,
                begin.elapsed().as_secs_f64(),
                pass.failed
            ));
        }
        match pass.end {
            Resynced::Nothing | Resynced::Trusted => return Ok(()),
            Resynced::Copy | Resynced::Again => {
                last = match pass.failed {
                    0 => "other hosts write, or mend it, too".to_owned(),
                    failed => format!(
                        "{failed} of {} keys could not be stored there{}",
                        pass.keys,
                        host.call.events().last().map_or_else(
                            || ". Is its memory full?".to_owned(),
                            |event| format!(" ({})", event.error)
                        )
                    ),
                };
            }
            Resynced::Stopped { place } => return Err(stopped(host, place).into()),
        }
    }
    let why = format!("{who} is not trusted after {PASSES} passes: {last}. It is tried again");
    Err(why.into())
}

/// Why node `who` waits; the same words as long as it does.
fn waiting(host: &Host, who: &str, mute: &[Mute], wait: Wait) -> String {
    let silent: Vec<String> = mute
        .iter()
        .map(|mute| {
            let name = host.pool.ring_name(mute.place);
            format!("{name} {}", words::mute(mute))
        })
        .collect();
    let mut remedies: Vec<&str> = mute.iter().map(words::remedy).collect();
    remedies.dedup();
    let life = match host.pool.policy().session_life {
        Some(_) => "",
        None => {
            " It is so long because nobody said how long sessions live: write session_life = SECONDS into the pool, the longest session.gc_maxlifetime of all hosts."
        }
    };
    format!(
        "{}, so what {who} lacks cannot be copied. It is trusted when all that it may lack has ended, {} after the last write that missed it; memring status says how long yet.{life} {}",
        silent.join(", "),
        words::span(wait.whole),
        remedies.join(". ")
    )
}

/// Why node `place` kept a founding or a pass from its end.
fn stopped(host: &Host, place: usize) -> String {
    let who = host.pool.ring_name(place);
    let is_redis = (host.pool.spec(place)).is_some_and(|spec| spec.redis.is_some());
    let said = host
        .call
        .events()
        .iter()
        .rev()
        .find(|event| event.node == place);
    match said {
        Some(event) if event.fault => format!(
            "{who} went away meanwhile: {}. It goes on as soon as that node answers",
            event.error.cause()
        ),
        Some(event) if event.error.cause().contains("BUSY") => {
            format!("{who} is listing its keys for somebody else. It is tried again")
        }
        Some(event) if event.error.cause().contains("out of memory") => format!(
            "{who} is full ({}). Give it more room (memcached: -m, Redis: maxmemory), or no other node can be mended until some of its items end",
            event.error.cause().trim_end()
        ),
        Some(event) if is_redis => format!(
            "{who} does not list its keys ({}). Its user has to be allowed SCAN and scripts (ACL LIST of that server), or no other node can be mended",
            event.error.cause().trim_end()
        ),
        Some(event) => format!(
            "{who} does not list its keys ({}). Start memcached there without -X and without -o no_lru_crawler, or no other node can be mended",
            event.error.cause().trim_end()
        ),
        None => format!("{who} does not answer as it should. It is asked again"),
    }
}
