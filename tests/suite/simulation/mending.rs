//! memring tend for sessions, as `companion::{tend, mend, memory}` have it: looks each second,
//! takes the trust from nodes that are another process than they were, hands over missed keys,
//! and passes over nodes.
//!
//! Not as there: one thread looks and mends, and there is nobody to tell of it.

use std::collections::HashMap;

use memring_pool::call::Call;
use memring_pool::config::Care;
use memring_pool::handoff::{self, Handed};
use memring_pool::node::Directory;
use memring_pool::pool::Pool;
use memring_pool::pool::copies::host_name;
use memring_pool::pool::resync::Way;
use memring_pool::replica::{Resynced, State, Survey};
use memring_pool::shared;
use memring_pool::slices;

use super::processes::Seat;
use super::requests::{Service, record};
use super::world::Phase;

/// How long another host may take to hand over the keys it keeps, milliseconds.
const OTHERS: u64 = 10_000;
/// Passes over one node before a new look is taken at the whole pool.
const PASSES: u32 = 10;

/// A node that was trusted: in which life, which process it was then, and since when it is
/// waited for another host's keys, milliseconds.
#[derive(Clone, Copy, Debug)]
struct Known {
    id: u64,
    process: u64,
    waits: Option<u64>,
}

/// Works until the end of the run.
pub(super) fn tend(service: &Service, seat: &Seat) {
    let mut directory = Directory::new();
    let mut tend = Tend {
        seat,
        pool: service.pool(Care::Prober, &mut directory),
        call: Call::new(),
        record_key: record(),
        now: HashMap::new(),
        lives: HashMap::new(),
        seen: None,
        compares: service.rules.machines.process,
    };
    let first = seat.with(|hall| hall.random.between(0, 1_000_000));
    seat.think(first);
    while seat.with(|hall| hall.phase) != Phase::Finale {
        let begin = seat.with(|hall| hall.time);
        let survey = tend.look();
        if service.rules.machines.resync {
            tend.mend(survey);
        }
        let took = seat.with(|hall| hall.time) - begin;
        seat.think(1_000_000u64.saturating_sub(took));
    }
}

struct Tend<'a> {
    seat: &'a Seat,
    pool: Pool,
    call: Call,
    record_key: Vec<u8>,
    now: HashMap<usize, Known>,
    /// Which process a node was in each life in which it was trusted.
    lives: HashMap<(usize, u64), u64>,
    seen: Option<Survey>,
    compares: bool,
}

impl Tend<'_> {
    fn survey(&mut self) -> Survey {
        self.pool.records(&self.record_key, &mut self.call)
    }

    fn process(&mut self, place: usize) -> Option<u64> {
        handoff::process(&mut self.pool, place, &mut self.call)
    }

    fn note(&self, words: impl FnOnce() -> String) {
        let own = self.seat.own;
        (self.seat).with(|hall| hall.note(|| format!("tend {own}: {}", words())));
    }

    fn look(&mut self) -> Survey {
        shared::tend(shared::now());
        let before = match self.seen.take() {
            Some(seen) => seen,
            None => self.survey(),
        };
        let answered = (0..before.len()).map(|place| before.state(place) != State::Silent);
        let answered: Vec<bool> = answered.collect();
        let asked = (0..).zip(answered);
        let processes: Vec<Option<u64>> = asked
            .map(|(place, answered)| if answered { self.process(place) } else { None })
            .collect();
        let mut survey = self.survey();
        let trusted: Vec<usize> = survey.all(State::Trusted).collect();
        for place in trusted {
            let id = survey.record(place).map(|record| record.id);
            let process = processes.get(place).copied().flatten();
            let (Some(id), Some(process)) = (id, process) else {
                continue;
            };
            let was = *self.lives.entry((place, id)).or_insert(process);
            if was != process && self.compares {
                let call = &mut self.call;
                let done = self.pool.distrust(place, id, &self.record_key, call);
                self.note(|| format!("trust taken from {place}: {done}"));
                if done {
                    survey = self.survey();
                }
            } else if self.now.get(&place).is_none_or(|now| now.id != id) {
                let known = Known {
                    id,
                    process,
                    waits: None,
                };
                self.now.insert(place, known);
            }
        }
        if self.pool.fits(&survey).is_ok() {
            slices::leave_to_tend(&self.pool, &self.record_key);
            for place in survey.all(State::Trusted) {
                handoff::end_turns(&mut self.pool, place, &self.record_key, &mut self.call);
            }
        }
        self.seen = Some(survey.clone());
        survey
    }

    fn mend(&mut self, survey: Survey) {
        let has_work = |survey: &Survey| {
            survey.all(State::Bare).next().is_some() || survey.to_mend().next().is_some()
        };
        if self.pool.fits(&survey).is_err() || !has_work(&survey) || survey.blocker().is_some() {
            return;
        }
        let survey = self.survey();
        if survey.blocker().is_some() {
            return;
        }
        if survey.all(State::Bare).next().is_some() {
            let random = shared::throw();
            let founded = self.pool.found(&self.record_key, random, &mut self.call);
            self.note(|| format!("founding: {founded:?}"));
        }
        let survey = self.survey();
        let targets: Vec<usize> = survey.to_mend().collect();
        for target in targets {
            self.mend_node(&survey, target);
        }
    }

    /// In which life the node is to be given the keys this host keeps; else whether it is to be
    /// passed over.
    fn keeps(&mut self, survey: &Survey, target: usize) -> Result<u64, bool> {
        let known = self.now.get(&target).copied().ok_or(true)?;
        let same_life = survey.state(target) == State::Listed
            && survey
                .record(target)
                .is_some_and(|record| record.id == known.id);
        if !same_life || survey.absences(target).any(|absent| !absent.is_kept()) {
            return Err(true);
        }
        if self.process(target) != Some(known.process) {
            return Err(true);
        }
        let own = handoff::tag(&host_name());
        if survey.absences(target).any(|absent| absent.host == own) {
            return Ok(known.id);
        }
        let since = known.waits.unwrap_or_else(shared::now);
        let waits = Some(since);
        self.now.insert(target, Known { waits, ..known });
        Err(shared::now() > since + OTHERS)
    }

    fn mend_node(&mut self, survey: &Survey, target: usize) {
        match self.keeps(survey, target) {
            Ok(id) => {
                let own = handoff::tag(&host_name());
                let (pool, call) = (&mut self.pool, &mut self.call);
                let handed = handoff::hand_over(pool, target, id, &self.record_key, &own, call);
                self.note(|| format!("handing over to {target}: {handed:?}"));
                match handed {
                    Handed::Done { .. } | Handed::Later => return,
                    Handed::Full => self.now.remove(&target),
                };
            }
            Err(false) => return,
            Err(true) => {}
        }
        let runner = format!("{}/{}", host_name(), self.seat.own);
        let (pool, call) = (&mut self.pool, &mut self.call);
        let Ok(held) = pool.take_turn(target, &self.record_key, &runner, call) else {
            return;
        };
        let mended = self.passes(target, held.then_some(&*runner));
        let call = &mut self.call;
        self.pool.give_turn(target, &self.record_key, &runner, call);
        if mended {
            handoff::forget(&self.record_key, survey.name(target));
        }
    }

    fn passes(&mut self, target: usize, runner: Option<&str>) -> bool {
        for _ in 0..PASSES {
            let random = shared::throw();
            let call = &mut self.call;
            let nobody = &mut |_, _| {};
            let way = runner.map_or_else(Way::default, Way::of);
            let pass = (self.pool).resync_told(target, &self.record_key, way, random, call, nobody);
            self.note(|| format!("pass over {target}: {pass:?}"));
            match pass.end {
                _ if pass.lost => return false,
                Resynced::Nothing | Resynced::Trusted => return true,
                Resynced::Copy | Resynced::Again => {}
                Resynced::Stopped { .. } => return false,
            }
        }
        false
    }
}
