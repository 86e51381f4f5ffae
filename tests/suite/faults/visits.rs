//! The visitors and what is remembered of them: for each session the last acknowledged number, the numbers that may
//! have been stored, and whether it was destroyed.
//!
//! A visit is one page. No two visit one session at the same time, so what a visit may find is known exactly:
//!
//! | before it | it may find |
//! |---|---|
//! | a write that was acknowledged | that number, nothing older, and something |
//! | then a write that was refused or cut | the one or the other, until something is acknowledged again |
//! | a destroyed session | nothing |
//!
//! The same holds for values of a cache, but that each visit to one is judged for itself: what was missing or old may
//! be there again, and a touch acknowledges nothing.

use super::stage::Web;
use harness::wait_until;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, RwLock, RwLockWriteGuard};
use std::time::{Duration, Instant};

/// What is known of one session.
#[derive(Clone, Debug, Default)]
struct Known {
    acked: Option<u64>,
    /// Numbers that may have been stored since.
    perhaps: Vec<u64>,
    /// The newest that a visit found since, where it is not settled which of them stands.
    seen: Option<u64>,
    gone: Gone,
    /// The last number given out.
    number: u64,
    /// Once it was not as it should be, and was taken for what it was found to be.
    adopted: bool,
    /// The lap it was last visited in.
    lap: u64,
    /// What happened to it, for a failure's report.
    story: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Gone {
    #[default]
    No,
    Perhaps,
    Yes,
}

/// What came out of all visits.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) requests: u64,
    pub(super) acknowledged: u64,
    /// Found nothing where something had been acknowledged.
    pub(super) lost: u64,
    /// Found a number older than an acknowledged or seen one.
    pub(super) older: u64,
    /// Found a destroyed session.
    pub(super) revived: u64,
    /// Found another session's data, or a number never stored.
    pub(super) foreign: u64,
    /// session_start() was false.
    pub(super) refused: u64,
    /// Let in, and what was stored was not acknowledged.
    pub(super) unsure: u64,
    /// PHP gave no answer.
    pub(super) broken: u64,
    /// Warnings and notices in visits where all was done.
    pub(super) warnings: u64,
    /// Found what was acknowledged after something newer, never acknowledged, had been seen; or nothing, where a
    /// destroy had failed and the session was seen after it.
    pub(super) wavered: u64,
    pub(super) slowest: Duration,
    /// The longest wait until all nodes were trusted again.
    pub(super) mended: Duration,
    /// How long after a node's return something old was still found.
    pub(super) stale_for: Duration,
    /// What PHP said, with digits taken out, and how often.
    pub(super) said: BTreeMap<String, u64>,
    /// The stories of the first sessions that were not as they should be.
    pub(super) evidence: Vec<String>,
    /// The stories of the first that had to wait for long.
    pub(super) slow: Vec<String>,
}

impl Tally {
    /// Lost, older, revived and foreign together.
    pub(super) fn wrong(&self) -> u64 {
        self.lost + self.older + self.revived + self.foreign
    }

    /// Visits that a visitor noticed something in.
    pub(super) fn noticed(&self) -> u64 {
        self.refused + self.unsure + self.broken + self.warnings + self.wavered
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} visits: lost {}, older {}, revived {}, foreign {}; refused {}, unsure {}, broken {}, warnings {}, wavered {}; slowest {:.2} s; trusted again within {:.1} s; stale for {:.3} s",
            self.requests,
            self.lost,
            self.older,
            self.revived,
            self.foreign,
            self.refused,
            self.unsure,
            self.broken,
            self.warnings,
            self.wavered,
            self.slowest.as_secs_f64(),
            self.mended.as_secs_f64(),
            self.stale_for.as_secs_f64()
        )
    }
}

/// All sessions of one run.
pub(super) struct Sessions {
    known: Vec<Mutex<Known>>,
    tally: Mutex<Tally>,
    next: AtomicU64,
    lap: AtomicU64,
    only_read: AtomicBool,
    /// Held by every visit, and alone while nobody visits.
    open: RwLock<()>,
    begun: Instant,
    ending: AtomicBool,
    /// Bytes in a session beside its number.
    pad: usize,
    grows: bool,
    /// Values of a cache are visited.
    cache: bool,
    /// When a node came back last.
    returned: Mutex<Option<Instant>>,
}

impl Sessions {
    pub(super) fn new(count: usize, pad: usize, grows: bool, cache: bool) -> Sessions {
        Sessions {
            known: (0..count).map(|_| Mutex::default()).collect(),
            tally: Mutex::default(),
            next: AtomicU64::new(0),
            lap: AtomicU64::new(0),
            only_read: AtomicBool::new(false),
            open: RwLock::default(),
            begun: Instant::now(),
            ending: AtomicBool::new(false),
            pad,
            grows,
            cache,
            returned: Mutex::default(),
        }
    }

    /// Visits one session after the other until the run ends.
    pub(super) fn visit_until_the_end(&self, host: &Web) {
        // So that a short run leaves the machine to others.
        let pause = Duration::from_millis(if self.known.len() < 1000 { 3 } else { 0 });
        while !self.ending.load(Ordering::Relaxed) {
            let open = self.open.read().unwrap();
            self.visit_next(host);
            drop(open);
            std::thread::sleep(pause);
        }
    }

    /// Waits until every session was visited once more.
    pub(super) fn lap(&self) {
        let wanted = self.lap.fetch_add(1, Ordering::SeqCst) + 1;
        let end = Instant::now() + Duration::from_secs(120 + self.known.len() as u64 / 10);
        for known in &self.known {
            while locked(known).lap < wanted {
                assert!(
                    Instant::now() < end,
                    "not every session could be visited: {}",
                    self.tally()
                );
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// Waits until nobody visits; nobody does until the answer is dropped.
    pub(super) fn at_rest(&self) -> RwLockWriteGuard<'_, ()> {
        self.open.write().unwrap()
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.known.len()
    }

    /// Waits for so many visits.
    pub(super) fn some_visits(&self, count: u64) {
        let begin = self.next.load(Ordering::Relaxed);
        assert!(
            wait_until(Duration::from_secs(60), || {
                self.next.load(Ordering::Relaxed) > begin + count
            }),
            "no visits any more: {}",
            self.tally()
        );
    }

    /// One more lap in which nothing is changed: what does each session hold now?
    pub(super) fn look_at_all(&self) {
        self.only_read.store(true, Ordering::SeqCst);
        self.lap();
    }

    /// Notes how long it took until all nodes were trusted.
    pub(super) fn mended(&self, took: Duration) {
        let mut tally = locked(&self.tally);
        tally.mended = tally.mended.max(took);
    }

    /// Notes that a node came back.
    pub(super) fn returned(&self) {
        *locked(&self.returned) = Some(Instant::now());
    }

    /// Notes that a node comes and goes from now on: until it is back for good nothing is counted as stale.
    pub(super) fn comes_and_goes(&self) {
        *locked(&self.returned) = Some(Instant::now() + Duration::from_secs(3600));
    }

    pub(super) fn end(&self) {
        self.ending.store(true, Ordering::SeqCst);
    }

    pub(super) fn tally(&self) -> Tally {
        locked(&self.tally).clone()
    }

    fn visit_next(&self, host: &Web) {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let place = usize::try_from(turn).unwrap() % self.known.len();
        let mut known = locked(&self.known[place]);
        let lap = self.lap.load(Ordering::SeqCst);
        let act = match mixed(turn) % 100 {
            _ if known.gone == Gone::Yes || self.only_read.load(Ordering::SeqCst) => "read",
            // The first visit makes the session.
            _ if known.number == 0 => "write",
            0..60 => "write",
            60..75 => "read",
            75..88 => "touch",
            88..96 => "abort",
            _ => "leave",
        };
        self.visit(host, place, act, &mut known);
        known.lap = lap;
    }

    fn visit(&self, host: &Web, place: usize, act: &str, known: &mut Known) {
        let id = format!("fault{place:06}");
        known.number += u64::from(act == "write");
        let number = known.number;
        let begin = Instant::now();
        let more = match self.grows {
            true => number as usize * 7 % self.pad,
            false => 0,
        };
        let pad = self.pad + more;
        let answer = host.ask(&format!("do={act}&id={id}&v={number}&pad={pad}"));
        let took = begin.elapsed();
        let mut tally = locked(&self.tally);
        tally.requests += 1;
        tally.slowest = tally.slowest.max(took);
        let answer = match answer {
            Ok(text) => Answer::read(&text),
            Err(why) => Err(why),
        };
        known.tell(format!(
            "at {} ms {act} {number}: {answer:?} ({} ms)",
            (begin - self.begun).as_millis(),
            took.as_millis()
        ));
        if took > Duration::from_secs(10) && tally.slow.len() < 3 {
            tally.slow.push(known.story.join("\n      "));
        }
        let answer = match answer {
            Ok(answer) => answer,
            Err(why) => {
                tally.broken += 1;
                *tally.said.entry(without_digits(&why)).or_default() += 1;
                known.may_be(act, number);
                return;
            }
        };
        for said in &answer.said {
            *tally.said.entry(without_digits(said)).or_default() += 1;
        }
        if !answer.started {
            tally.refused += 1;
            return;
        }
        if let Some(wrong) = known.judge(answer.found) {
            match wrong {
                Wrong::Lost => tally.lost += 1,
                Wrong::Older => tally.older += 1,
                Wrong::Revived => tally.revived += 1,
                Wrong::Foreign => tally.foreign += 1,
            }
            tally.report(&id, wrong, known);
            if matches!(wrong, Wrong::Older | Wrong::Revived) {
                // Counted from the beginning where no node had been away.
                let since = locked(&self.returned).unwrap_or(self.begun);
                tally.stale_for = tally.stale_for.max(begin.saturating_duration_since(since));
            }
            if !self.cache {
                // Counted once: from here on it is what it was found to be.
                known.adopt(answer.found);
            }
        } else if answer.owner.as_ref().is_some_and(|owner| *owner != id) {
            tally.foreign += 1;
            tally.report(&id, Wrong::Foreign, known);
        }
        if !self.cache {
            tally.wavered += u64::from(known.wavers(answer.found));
            known.settle(answer.found, act == "touch" && answer.done);
        }
        if !answer.done {
            tally.unsure += 1;
            known.may_be(act, number);
            return;
        }
        tally.warnings += u64::from(!answer.said.is_empty());
        tally.acknowledged += u64::from(matches!(act, "write" | "leave"));
        match act {
            "write" => known.keep(number),
            "leave" => known.leave(),
            _ => {}
        }
    }
}

impl Tally {
    fn report(&mut self, id: &str, wrong: Wrong, known: &Known) {
        let kind = format!(" {wrong:?}:\n");
        let told = self.evidence.iter().filter(|story| story.contains(&kind));
        if told.count() < 3 {
            let story = known.story.join("\n      ");
            self.evidence.push(format!("{id}{kind}      {story}"));
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Lost,
    Older,
    Revived,
    Foreign,
}

impl Known {
    fn tell(&mut self, line: String) {
        if self.story.len() == 12 {
            self.story.remove(0);
        }
        self.story.push(line);
    }

    fn judge(&self, found: Option<u64>) -> Option<Wrong> {
        match found {
            None => (self.acked.is_some() && self.gone == Gone::No).then_some(Wrong::Lost),
            Some(number) if self.acked == Some(number) || self.perhaps.contains(&number) => None,
            Some(_) if self.gone == Gone::Yes => Some(Wrong::Revived),
            Some(number) if number < self.number => Some(Wrong::Older),
            // Acknowledged, and then a visit found something else.
            Some(number) if number == self.number && self.adopted => Some(Wrong::Older),
            Some(_) => Some(Wrong::Foreign),
        }
    }

    /// Whether it found what was acknowledged, though something newer had been seen; or nothing,
    /// though it was still seen after a destroy that failed.
    fn wavers(&self, found: Option<u64>) -> bool {
        self.gone != Gone::Yes && found < self.seen
    }

    /// What was found is there now; whether it stays is known when the visit ends well.
    fn settle(&mut self, found: Option<u64>, kept: bool) {
        // A destroy that failed may come true as late as a write that failed.
        let pending = !self.perhaps.is_empty() || self.gone == Gone::Perhaps;
        match found {
            Some(number) if kept || !pending => self.keep(number),
            Some(_) => self.seen = self.seen.max(found),
            None if kept && self.gone == Gone::Perhaps => self.leave(),
            None => {}
        }
    }

    fn adopt(&mut self, found: Option<u64>) {
        match found {
            Some(number) => self.keep(number),
            None => self.leave(),
        }
        self.gone = Gone::No;
        self.adopted = true;
    }

    /// It may have been done.
    fn may_be(&mut self, act: &str, number: u64) {
        match act {
            "write" => self.perhaps.push(number),
            "leave" if self.gone == Gone::No => self.gone = Gone::Perhaps,
            _ => {}
        }
    }

    /// It is acknowledged.
    fn keep(&mut self, number: u64) {
        *self = Known {
            acked: Some(number),
            perhaps: Vec::new(),
            seen: None,
            gone: Gone::No,
            story: std::mem::take(&mut self.story),
            ..*self
        };
    }

    /// Its end is acknowledged.
    fn leave(&mut self) {
        self.keep(0);
        self.acked = None;
        self.gone = Gone::Yes;
    }
}

/// What the page said.
#[derive(Clone, Debug)]
struct Answer {
    started: bool,
    found: Option<u64>,
    owner: Option<String>,
    done: bool,
    said: Vec<String>,
}

impl Answer {
    fn read(text: &str) -> Result<Answer, String> {
        let value: Value = serde_json::from_str(text).map_err(|_| format!("PHP: {text}"))?;
        let strings = value[4].as_array().cloned().unwrap_or_default();
        Ok(Answer {
            started: value[0] == true,
            // A number below 0 was never meant to be stored; as the largest one it is seen to be foreign.
            found: (!value[1].is_null()).then(|| value[1].as_u64().unwrap_or(u64::MAX)),
            owner: value[2].as_str().map(str::to_string),
            done: value[3] == true,
            said: strings
                .iter()
                .map(|said| said.as_str().unwrap_or_default().to_string())
                .collect(),
        })
    }
}

fn without_digits(text: &str) -> String {
    let mut out = String::new();
    for part in text.chars().take(400) {
        match part {
            '0'..='9' if out.ends_with('N') => {}
            '0'..='9' => out.push('N'),
            other => out.push(other),
        }
    }
    out
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

/// Numbers that look thrown, the same ones in every run (splitmix64, Steele and others 2014).
fn mixed(number: u64) -> u64 {
    let bits = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits ^ bits >> 31
}

#[test]
fn the_history_lets_a_destroy_that_failed_come_true_until_the_session_is_kept() {
    let after = |kept: bool| {
        let mut known = Known::default();
        known.keep(1);
        known.may_be("leave", 0);
        assert_eq!(known.judge(Some(1)), None);
        known.settle(Some(1), kept);
        (known.judge(None), known.wavers(None))
    };
    // It is no loss, and it is counted.
    assert_eq!(after(false), (None, true));
    assert_eq!(after(true).0, Some(Wrong::Lost));
}
