//! Whom to leave alone, and until when. Time is an argument; nothing here waits.
//!
//! A node's mark is the host's where there is a shared region, so that one worker's
//! failure spares all others theirs; else it is this process's own. When the pause after
//! a failure is over, one try is due: the first who claims it asks the node, and for
//! everybody else the pause begins anew.
//!
//! So it is in mode single, as in pecl-memcache. A node of a copied pool is tried again by a
//! prober, off the path of requests, since another copy answers at once:
//!
//! ```text
//!        refused, closed, nonsense          probe fails: the back-off grows
//!   up ───────────────────────────► out ◄──────────────────────────────┐
//!    │ timeout                       │ probe answers                    │
//!    └────────► suspect ─────────────┴──────────► up                    │
//!                  └────────────────────────────────────────────────────┘
//! ```
//!
//! A suspect is passed over like one that is out; its probe is due at once. Who comes back
//! for less than [`STABLE`] goes on with the back-off it had, so flapping makes it grow.

use crate::config::Care;
use crate::counters::Counter;
use crate::error::{Error, Kind};
use crate::shared::{self, Seat, Slot};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// First pause between probes, milliseconds.
const PAUSE_FIRST: u64 = 100;
/// Longest pause between the probes of workers, milliseconds.
const PAUSE_MOST: u64 = 15_000;
/// Who was up for less than this flaps, milliseconds.
pub const STABLE: u64 = 10_000;
/// A node that tend found failed is tend's for so long, milliseconds: it looks each second.
const TENDED: u64 = 5000;

/// Who found a node failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A call, which wanted something else of it.
    Call,
    /// A probe of a worker.
    Probe,
    /// tend, which asks again by itself.
    Tend,
}

/// How a node changed, for the host or, without a shared region, for this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It failed, and was up before.
    Down,
    /// The same, of a node that a prober looks after.
    Out,
    /// It fell silent once; a prober decides.
    Suspect,
    /// It failed again soon after it came back.
    Flaps,
    /// It answered, and was failed before.
    Up,
}

impl Change {
    /// The change as those are told of it whose pool has this care.
    pub fn told(self, care: Care) -> Change {
        match (care, self) {
            // Who tries again after an interval knows up and down only.
            (Care::Interval, Change::Suspect | Change::Flaps) => Change::Down,
            (Care::Probed, Change::Down) => Change::Out,
            (_, change) => change,
        }
    }
}

/// How a node stands with those who have it probed, as `Slot::state` keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Up = 0,
    Suspect = 1,
    Out = 2,
}

/// What is known of one node.
#[derive(Debug, Default)]
pub struct Health {
    seat: Seat,
    /// What a slot holds, where there is none.
    own: Slot,
    /// When it failed this process last, milliseconds as `shared::now`; 0 when it did not.
    failed: u64,
    cause: u64,
}

impl Health {
    /// A node nobody complained of yet, shared through the slot of `seat`, if it has one.
    pub fn new(seat: Seat) -> Health {
        Health {
            seat,
            own: Slot::default(),
            failed: 0,
            cause: 0,
        }
    }

    /// Told of each exchange with the node: who uses its slot keeps it.
    #[inline]
    pub fn used(&self) {
        self.seat.used(self.failed == 0);
    }

    /// True when no mark of the past stands at `now`.
    pub fn is_up(&self, now: u64) -> bool {
        match self.seat.slot() {
            Some(slot) => slot.failed_at(now).is_none(),
            None => self.failed == 0,
        }
    }

    /// For how long no mark has stood at `now`, milliseconds; `None` while one does.
    pub fn up_for(&self, now: u64) -> Option<u64> {
        let since = self.marks().since.load(Relaxed);
        self.is_up(now).then(|| now.saturating_sub(since))
    }

    /// True when no mark at all stands, which needs no clock to say.
    pub fn is_unmarked(&self) -> bool {
        self.failed == 0 && self.seat.slot().is_none_or(|slot| !slot.is_marked())
    }

    /// May the node be asked at `now`, when a failed one is left alone for `pause` seconds?
    ///
    /// 0 tries at once, a negative pause never again (pecl-memcache memcache_pool.c
    /// mmc_server_valid). True after a pause means the caller has claimed the try that
    /// is due and must make it.
    pub fn may_ask(&mut self, pause: i64, now: u64) -> bool {
        let since = self.since(pause, now);
        since.is_none_or(|since| {
            is_over(since, pause, now)
                && (pause == 0 || self.seat.slot().is_none_or(|slot| slot.claim(since, now)))
        })
    }

    /// The same for who will not ask: nothing is claimed.
    pub fn is_due(&self, pause: i64, now: u64) -> bool {
        self.since(pause, now)
            .is_none_or(|since| is_over(since, pause, now))
    }

    /// When it failed, for somebody with this pause.
    fn since(&self, pause: i64, now: u64) -> Option<u64> {
        let own = Some(self.failed).filter(|t| *t != 0);
        match self.seat.slot() {
            // Only the shared mark counts: others may have seen the node come back. For who
            // never tries again his own failure is final.
            Some(slot) => slot.failed_at(now).or(own.filter(|_| pause < 0)),
            None => own,
        }
    }

    /// When it failed, milliseconds as `shared::now`; `None` while it is up.
    pub fn failed_at(&self, now: u64) -> Option<u64> {
        match self.seat.slot() {
            Some(slot) => slot.failed_at(now),
            None => Some(self.failed).filter(|at| *at != 0),
        }
    }

    /// Notes a failure; what changed by it, as far as the mark reaches. Who is no call has asked
    /// in order to know, so that his word is the last.
    pub fn fail(&mut self, now: u64, error: &Error, asker: Asker) -> Option<Change> {
        let prober = asker != Asker::Call;
        self.cause = pack(error);
        let before = std::mem::replace(&mut self.failed, now);
        let fresh = self
            .seat
            .slot()
            .map_or(before == 0, |slot| slot.fail(now, self.cause));
        let marks = self.marks();
        let stood = marks.state.load(Relaxed);
        let state = match error.kind() {
            Kind::Timeout if !prober => State::Suspect,
            _ => State::Out,
        };
        if !fresh {
            let confirmed = prober && stood == State::Suspect as u64;
            if prober {
                marks.state.store(State::Out as u64, Relaxed);
                self.put_off(now, asker);
            }
            return confirmed.then_some(Change::Down);
        }
        shared::count(Counter::Ejections);
        let came_back = marks.since.swap(now, Relaxed);
        let flaps = came_back != 0 && now.saturating_sub(came_back) < STABLE;
        if !flaps {
            marks.pause.store(PAUSE_FIRST, Relaxed);
        }
        marks.state.store(state as u64, Relaxed);
        match state {
            State::Suspect => marks.due.store(now, Relaxed),
            _ => self.put_off(now, asker),
        }
        Some(match state {
            _ if flaps => Change::Flaps,
            State::Suspect => Change::Suspect,
            _ => Change::Down,
        })
    }

    /// Puts the next probe of a worker off by the back-off, which doubles; of a node that tend
    /// looks at, until tend has not done so for a while.
    fn put_off(&self, now: u64, asker: Asker) {
        let marks = self.marks();
        if asker == Asker::Tend {
            marks.due.store(now + TENDED, Relaxed);
            return;
        }
        let pause = marks.pause.load(Relaxed).clamp(PAUSE_FIRST, PAUSE_MOST);
        // Hosts that saw a node fail at the same moment must not ask it at the same moment.
        let jitter = shared::throw() % (pause / 2 + 1);
        marks.due.store(now + pause / 2 + jitter, Relaxed);
        marks.pause.store((pause * 2).min(PAUSE_MOST), Relaxed);
    }

    /// Notes an answer; true when the node was failed before, as far as the mark reaches.
    pub fn recover(&mut self) -> bool {
        let before = std::mem::take(&mut self.failed);
        if !self.seat.slot().map_or(before != 0, Slot::is_marked) {
            return false;
        }
        // First: who sees it up by now must see since when.
        self.marks().since.store(shared::now(), Relaxed);
        let fresh = self.seat.slot().map_or(before != 0, Slot::recover);
        if fresh {
            self.marks().state.store(State::Up as u64, Relaxed);
        }
        fresh
    }

    /// Takes the probe that is due at `now`: true for one caller of the host, who must make
    /// it. Not of a node that tend looks at.
    pub fn claim_probe(&self, now: u64) -> bool {
        let pause = self.marks().pause.load(Relaxed).max(PAUSE_FIRST);
        self.claim(now, now + pause)
    }

    /// Takes what is due at `now`; it is due again at `next`.
    fn claim(&self, now: u64, next: u64) -> bool {
        let word = &self.marks().due;
        let due = word.load(Relaxed);
        // A time far ahead is from before a reboot.
        let is_due = due <= now || due > now + 2 * PAUSE_MOST;
        is_due && word.compare_exchange(due, next, Relaxed, Relaxed).is_ok()
    }

    /// Which server stands behind the node's name, as far as this host's processes know; 0 when
    /// nobody does. For nodes whose server changes: see `finder::sentinel`.
    #[inline]
    pub fn server(&self) -> u64 {
        self.marks().server.load(Relaxed)
    }

    /// Notes which server that is, and that it is time to look again in `next`.
    pub fn set_server(&self, server: u64, next: Duration) {
        let marks = self.marks();
        marks.server.store(server, Relaxed);
        marks.due.store(shared::now() + millis(next), Relaxed);
    }

    /// Is it time to look again? True for one caller of the host, who must do it; for the
    /// others the time begins anew, and lasts for `next`.
    pub fn claim_look(&self, next: Duration) -> bool {
        let now = shared::now();
        self.claim(now, now + millis(next))
    }

    /// True when it fell silent once and nobody has asked it since.
    pub fn is_suspect(&self) -> bool {
        self.marks().state.load(Relaxed) == State::Suspect as u64
    }

    fn marks(&self) -> &Slot {
        self.seat.slot().unwrap_or(&self.own)
    }

    /// Why it was marked, in the words of whoever marked it.
    pub fn cause(&self) -> Error {
        unpack(self.seat.slot().map_or(self.cause, Slot::cause))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Is a pause of `pause` seconds since `since` over? A negative one never is.
fn is_over(since: u64, pause: i64, now: u64) -> bool {
    u64::try_from(pause).is_ok_and(|pause| now.saturating_sub(since) >= pause.saturating_mul(1000))
}

/// A cause as one word of shared memory: which kind, and the number shown with it.
fn pack(error: &Error) -> u64 {
    let kind = Kind::ALL
        .iter()
        .position(|k| *k == error.kind())
        .unwrap_or(0) as u64;
    kind << 32 | u64::from(error.number().cast_unsigned())
}

fn unpack(cause: u64) -> Error {
    let kind = Kind::ALL
        .get((cause >> 32) as usize)
        .copied()
        .unwrap_or(Kind::Connect);
    // The low half is the number, as `pack` put it there.
    let number = (cause as u32).cast_signed();
    let text = match kind {
        // pecl-memcache's words (memcache_pool.c mmc_select_failure, mmc_server_connect).
        Kind::Timeout => "Network timeout".to_owned(),
        Kind::Connect if number != 0 => format!("Connection failed: {}", strerror(number)),
        Kind::Connect | Kind::Resolve => "Connection failed".to_owned(),
        Kind::Closed => "Connection closed by the server".to_owned(),
        Kind::Auth => "the server refuses the password, user or database".to_owned(),
        Kind::Tls => "no connection in TLS came about".to_owned(),
        _ => "Malformed server response".to_owned(),
    };
    Error::new(kind, text).code(number)
}

/// The operating system's words for an errno, without Rust's "(os error N)".
pub fn strerror(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    match text.find(" (os error") {
        Some(end) => text.get(..end).unwrap_or(&text).to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> Error {
        Error::new(Kind::Connect, "Connection failed: Connection refused").code(111)
    }

    fn silent() -> Error {
        Error::new(Kind::Timeout, "Network timeout")
    }

    fn failed(at: u64) -> Health {
        let mut health = Health::default();
        assert_eq!(health.fail(at, &refused(), Asker::Call), Some(Change::Down));
        assert!(!health.is_up(at) && !health.is_unmarked());
        health
    }

    #[test]
    fn a_failed_node_is_asked_again_after_its_pause_and_not_before() {
        let mut health = failed(5000);
        assert!(!health.may_ask(2, 6999) && !health.is_due(2, 6999));
        assert!(health.is_due(2, 7000) && health.may_ask(2, 7000));
        assert!(health.recover());
        assert!(health.is_up(7001) && health.is_unmarked() && health.may_ask(2, 7001));
    }

    #[test]
    fn zero_means_at_once_and_negative_means_never() {
        let mut health = failed(5000);
        assert!(health.may_ask(0, 5000));
        assert!(!health.may_ask(-1, u64::MAX));
        assert!(Health::default().may_ask(-1, 5000));
    }

    #[test]
    fn only_the_first_failure_and_the_first_answer_are_changes() {
        let mut health = failed(5000);
        assert_eq!(health.fail(6000, &refused(), Asker::Call), None);
        assert!(health.recover());
        assert!(!health.recover());
    }

    #[test]
    fn a_mark_keeps_the_words_of_its_cause() {
        let cause = failed(5000).cause();
        assert_eq!(
            (cause.cause(), cause.number()),
            ("Connection failed: Connection refused", 111)
        );
        let mut health = Health::default();
        health.fail(1, &silent(), Asker::Call);
        assert_eq!(health.cause().cause(), "Network timeout");
    }

    #[test]
    fn the_first_timeout_makes_a_suspect_whose_probe_is_due_at_once_and_one_takes_it() {
        let mut health = Health::default();
        assert_eq!(
            health.fail(5000, &silent(), Asker::Call),
            Some(Change::Suspect)
        );
        assert!(health.is_suspect());
        assert_eq!(health.fail(5001, &silent(), Asker::Call), None);
        assert!(health.claim_probe(5001) && !health.claim_probe(5001));
        assert_eq!(
            health.fail(5002, &silent(), Asker::Probe),
            Some(Change::Down)
        );
        assert!(!health.is_suspect() && !health.claim_probe(5002));
        assert_eq!(health.fail(5200, &silent(), Asker::Probe), None);
    }

    #[test]
    fn a_node_that_tend_looks_at_is_tends_and_the_workers_again_when_tend_is_gone() {
        let mut health = failed(5000);
        for look in [6000, 7000, 8000] {
            health.fail(look, &refused(), Asker::Tend);
            assert!(!health.claim_probe(look + 1000));
        }
        assert!(health.claim_probe(8000 + TENDED));
    }

    #[test]
    fn the_back_off_grows_with_each_probe_that_fails_and_never_past_its_most() {
        let mut health = failed(1_000_000);
        let mut now = 1_000_000;
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let begin = now;
            while !health.claim_probe(now) {
                now += 1;
            }
            pauses.push(now - begin);
            health.fail(now, &refused(), Asker::Probe);
        }
        let (first, last) = (pauses.first().copied(), pauses.last().copied());
        assert!(
            first.is_some_and(|pause| (50..=101).contains(&pause)),
            "{pauses:?}"
        );
        assert!(
            last.is_some_and(|pause| (PAUSE_MOST / 2..=PAUSE_MOST + 1).contains(&pause)),
            "{pauses:?}"
        );
    }

    #[test]
    fn who_fails_soon_after_it_came_back_goes_on_with_its_back_off_and_a_calm_time_ends_that() {
        let now = shared::now() + STABLE;
        let mut health = failed(now);
        for _ in 0..5 {
            health.fail(now, &refused(), Asker::Probe);
        }
        let grown = health.own.pause.load(Relaxed);
        assert!(health.recover());
        let back = health.own.since.load(Relaxed);
        assert_eq!(
            health.fail(back + 100, &refused(), Asker::Call),
            Some(Change::Flaps)
        );
        assert!(health.own.pause.load(Relaxed) > grown);
        assert!(health.recover());
        let back = health.own.since.load(Relaxed);
        let later = back + STABLE;
        assert_eq!(
            health.fail(later, &refused(), Asker::Call),
            Some(Change::Down)
        );
        assert_eq!(health.own.pause.load(Relaxed), 2 * PAUSE_FIRST);
    }
}
