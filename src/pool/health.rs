//! Whom to leave alone, and until when. Time is an argument; nothing here waits.
//!
//! A node's mark is the host's where there is a shared region, so that one worker's
//! failure spares all others theirs; else it is this process's own. When the pause after
//! a failure is over, one try is due: the first who claims it asks the node, and for
//! everybody else the pause begins anew.

use crate::counters::Counter;
use crate::error::{Error, Kind};
use crate::shared::{self, Slot};

/// What is known of one node.
#[derive(Debug, Default)]
pub struct Health {
    slot: Option<&'static Slot>,
    /// When it failed this process last, milliseconds as `shared::now`; 0 when it did not.
    failed: u64,
    cause: u64,
}

impl Health {
    /// A node nobody complained of yet, shared through `slot`.
    pub fn new(slot: Option<&'static Slot>) -> Health {
        Health {
            slot,
            failed: 0,
            cause: 0,
        }
    }

    /// True when no mark of the past stands at `now`.
    pub fn is_up(&self, now: u64) -> bool {
        match self.slot {
            Some(slot) => slot.failed_at(now).is_none(),
            None => self.failed == 0,
        }
    }

    /// True when no mark at all stands, which needs no clock to say.
    pub fn is_unmarked(&self) -> bool {
        self.failed == 0 && self.slot.is_none_or(|slot| !slot.is_marked())
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
                && (pause == 0 || self.slot.is_none_or(|slot| slot.claim(since, now)))
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
        match self.slot {
            // Only the shared mark counts: others may have seen the node come back. For who
            // never tries again his own failure is final.
            Some(slot) => slot.failed_at(now).or(own.filter(|_| pause < 0)),
            None => own,
        }
    }

    /// When it failed, milliseconds as `shared::now`; `None` while it is up.
    pub fn failed_at(&self, now: u64) -> Option<u64> {
        match self.slot {
            Some(slot) => slot.failed_at(now),
            None => Some(self.failed).filter(|at| *at != 0),
        }
    }

    /// Notes a failure; true when the node was up before, as far as the mark reaches.
    pub fn fail(&mut self, now: u64, error: &Error) -> bool {
        self.cause = pack(error);
        let before = std::mem::replace(&mut self.failed, now);
        let fresh = self
            .slot
            .map_or(before == 0, |slot| slot.fail(now, self.cause));
        if fresh {
            shared::count(Counter::Ejections);
        }
        fresh
    }

    /// Notes an answer; true when the node was failed before, as far as the mark reaches.
    pub fn recover(&mut self) -> bool {
        let before = std::mem::take(&mut self.failed);
        self.slot.map_or(before != 0, Slot::recover)
    }

    /// Why it was marked, in the words of whoever marked it.
    pub fn cause(&self) -> Error {
        unpack(self.slot.map_or(self.cause, Slot::cause))
    }
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

    fn failed(at: u64) -> Health {
        let mut health = Health::default();
        assert!(health.fail(at, &refused()));
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
        assert!(!health.fail(6000, &refused()));
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
        health.fail(1, &Error::new(Kind::Timeout, "Network timeout"));
        assert_eq!(health.cause().cause(), "Network timeout");
    }
}
