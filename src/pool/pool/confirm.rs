//! A second look at writes that were long under way, and at what reads gave back late: a copy may have
//! lost its memory meanwhile, or have been written by others.
//!
//! ```text
//!   write     the first node took it; the second is slow
//!   flush     the first is emptied, or dies and is back
//!   a read    finds nothing there, and gives it what the second still has
//!   write     the second took it, too: acknowledged; the first shows what was before
//! ```

use super::Pool;
use super::cache::{COPIES, by_entry, look, newest};
use super::round::Answer;
use crate::call::Call;
use std::cell::Cell;
use std::time::{Duration, Instant};

/// A write that took longer than this may have been unusual.
const UNUSUAL: Duration = Duration::from_millis(2);
/// It was when it took so many times longer than others.
const TIMES: u32 = 2;
/// How often is looked again where somebody else changed a copy meanwhile: he may not have seen the newest.
const AGAIN: usize = 3;

thread_local! {
    /// How long writes take, of late.
    static USUAL: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Did a write take much longer than those before it? From far nodes all answers are late.
fn is_unusual(took: Duration) -> bool {
    let usual = USUAL.get();
    USUAL.set(match usual {
        Duration::ZERO => took,
        // A first one that was late is soon forgotten …
        _ if took < usual => (usual + took) / 2,
        // … and one that is late does not make the next late one usual.
        _ => (usual * 7 + took.min(usual.max(UNUSUAL / TIMES) * TIMES)) / 8,
    });
    took > UNUSUAL && took > usual * TIMES
}

impl Pool {
    /// Looks at the copies of these keys again, or of all, a write of which `took` unusually long, and
    /// gives each the newest of them.
    pub(super) fn confirm(
        &mut self,
        call: &mut Call,
        entries: Option<Vec<usize>>,
        took: Duration,
        now: Instant,
    ) {
        if !is_unusual(took) || !self.rules.confirm {
            return;
        }
        let differ = |seen: &[(usize, Answer)]| {
            let version = |answer: &Answer| match answer {
                Answer::Found(copy) => Some(copy.version),
                _ => None,
            };
            let mut answers = seen.iter().filter(|(_, answer)| *answer != Answer::Lost);
            let first = answers.next().map(|(_, answer)| version(answer));
            answers.any(|(_, answer)| Some(version(answer)) != first)
        };
        let mut open = entries.unwrap_or_else(|| (0..call.entries.len()).collect());
        for _ in 0..AGAIN {
            let seen = self.look_at_copies(call, &open, false, now);
            let apart = seen.into_iter().filter(|(_, seen)| differ(seen));
            let apart: Vec<usize> = apart.map(|(entry, _)| entry).collect();
            let mut repairs = Vec::new();
            for (entry, seen) in self.look_at_copies(call, &apart, true, now) {
                if let Some((_, copy)) = newest(&seen) {
                    repairs.extend(self.repairs(call, entry, &seen, copy));
                }
            }
            let answers = self.repair(call, &repairs, now);
            let changed = |answer: &Answer| matches!(answer, Answer::Exists | Answer::NotStored);
            let again = repairs.iter().zip(answers);
            let again = again.filter(|(_, answer)| changed(answer));
            open = again.map(|(line, _)| line.entry).collect();
            open.dedup();
            if open.is_empty() {
                return;
            }
        }
    }

    /// What the nodes of these keys have that answer the caller, by key.
    fn look_at_copies(
        &mut self,
        call: &mut Call,
        entries: &[usize],
        value: bool,
        now: Instant,
    ) -> Vec<(usize, Vec<(usize, Answer)>)> {
        let mut lines = Vec::with_capacity(entries.len() * COPIES);
        for entry in entries {
            let plan = self.plan(call, *entry, now);
            if !plan.plain && plan.live.len() > 1 {
                lines.extend(plan.live.iter().map(|member| look(*entry, *member, value)));
            }
        }
        if lines.is_empty() {
            return Vec::new();
        }
        let answers = self.round(call, &lines, now);
        let found = by_entry(&lines, &answers, call.entries.len());
        found.into_iter().enumerate().collect()
    }
}
