//! The part of the region about sessions: which process of this host holds which turn, and
//! a place to wait until it lets go.
//!
//! ```text
//!   bench:  bell (a futex word) · poller (until when one waiter asks the nodes for all)
//!   holder: process · where it runs · key · marks of what it holds · until
//! ```
//!
//! Nothing here decides whose a turn is: that is the token on the nodes. A wrong entry costs
//! a look at the nodes that brings nothing, or a turn taken over whose holder is then told
//! so at his write. Keys are hashes; two that fall on one bench wake each other.

use crate::transport;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::process::{Pid, getpid, test_kill_process};
use rustix::thread::futex;
use rustix::time::{ClockId, clock_gettime};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

/// Benches: sessions waited for at the same time on one host, before two share one.
const BENCHES: usize = 512;
/// Turns noted at the same time on one host; further ones are not, and end with their lease.
const HOLDERS: usize = 4096;
/// Places a key may stand in, from where its hash points.
const REACH: usize = 16;
/// Marks of one holder: of the first nodes whose token it has.
pub const MARKS: usize = 2;

/// The whole part; all zeros is an empty one.
#[derive(Debug)]
#[repr(C)]
pub struct Turns {
    bench: [Bench; BENCHES],
    holder: [Holder; HOLDERS],
}

/// Where waiters for one key sit.
#[derive(Debug)]
#[repr(C)]
pub struct Bench {
    bell: AtomicU32,
    waiting: AtomicU32,
    /// For which key somebody polls for all, and until when: 24 bits of the key's hash, 40
    /// bits of milliseconds as `shared::now`.
    poller: AtomicU64,
}

/// One turn held on this host.
#[derive(Debug)]
#[repr(C)]
pub struct Holder {
    process: AtomicU64,
    space: AtomicU64,
    key: AtomicU64,
    until: AtomicU64,
    mark: [AtomicU64; MARKS],
}

/// What stands in the table about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whose it is.
    pub process: Process,
    /// The end of its lease, milliseconds as `shared::now`.
    pub until: u64,
    /// Marks of the items whose token it holds; 0 for none.
    pub marks: [u64; MARKS],
}

/// A process, and the space its number is of (containers have their own).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Number (22 bits, as many as Linux gives) and time of its start (42 bits, ticks since boot).
    name: u64,
    space: u64,
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// A holder on this host let go.
    Rung,
    /// The time was up.
    Late,
}

impl Turns {
    /// Where waiters for `key` sit.
    pub fn bench(&self, key: u64) -> Option<&Bench> {
        self.bench.get(key as usize % BENCHES)
    }

    /// Notes that `process` holds the turn on `key`; `None` when there is no place left.
    ///
    /// The place of a process that is gone is taken.
    pub fn hold(&self, key: u64, entry: Entry) -> Option<&Holder> {
        let key = key.max(1);
        let take = |fits: &dyn Fn(&Holder) -> bool| {
            self.places(key).find(|holder| {
                let found = holder.process.load(Relaxed);
                fits(holder)
                    && holder
                        .process
                        .compare_exchange(found, entry.process.name, SeqCst, Relaxed)
                        .is_ok()
            })
        };
        // An older entry of the key first, or it would show again when this one is struck out.
        let place = take(&|holder| holder.key.load(Relaxed) == key)
            .or_else(|| take(&|holder| holder.process.load(Relaxed) == 0))
            .or_else(|| take(&|holder| holder.process().is_gone()))?;
        place.key.store(0, SeqCst);
        place.space.store(entry.process.space, SeqCst);
        place.until.store(entry.until, SeqCst);
        for (word, mark) in place.mark.iter().zip(entry.marks) {
            word.store(mark, SeqCst);
        }
        place.key.store(key, SeqCst);
        Some(place)
    }

    /// Who is noted as holding the turn on `key`.
    pub fn holder(&self, key: u64) -> Option<Entry> {
        let key = key.max(1);
        self.places(key).find_map(|holder| {
            if holder.key.load(SeqCst) != key {
                return None;
            }
            let entry = Entry {
                process: holder.process(),
                until: holder.until.load(SeqCst),
                marks: [0, 1].map(|at| {
                    let word = holder.mark.get(at);
                    word.map_or(0, |word| word.load(SeqCst))
                }),
            };
            // Still the same after all was read, so it belongs together.
            (holder.key.load(SeqCst) == key && entry.process.name != 0).then_some(entry)
        })
    }

    /// Turns noted now.
    pub fn held(&self) -> usize {
        let keys = self.holder.iter().map(|holder| holder.key.load(Relaxed));
        keys.filter(|key| *key != 0).count()
    }

    fn places(&self, key: u64) -> impl Iterator<Item = &Holder> {
        // The low bits chose the bench; the high ones choose here.
        let start = (key >> 32) as usize % HOLDERS;
        let (head, tail) = self.holder.split_at(start);
        tail.iter().chain(head).take(REACH)
    }
}

impl Holder {
    /// Moves the end of the lease, if it is still that of `process`.
    pub fn extend(&self, process: Process, until: u64) {
        if self.process() == process {
            self.until.store(until, Relaxed);
        }
    }

    /// Strikes the entry out, if it is still that of `process`.
    pub fn leave(&self, process: Process) {
        if self.process() == process {
            self.key.store(0, SeqCst);
            let _ = self
                .process
                .compare_exchange(process.name, 0, SeqCst, Relaxed);
        }
    }

    fn process(&self) -> Process {
        Process {
            name: self.process.load(SeqCst),
            space: self.space.load(SeqCst),
        }
    }
}

impl Bench {
    /// The bell's word; taken before the nodes are asked, so that no ring is missed.
    pub fn bell(&self) -> u32 {
        self.bell.load(SeqCst)
    }

    /// Wakes one waiter for `key`.
    pub fn ring(&self, key: u64) {
        self.bell.fetch_add(1, SeqCst);
        // Most sessions are waited for by nobody, and need no system call.
        if self.waiting.load(SeqCst) != 0 && transport::ring(&self.bell, class(key)).is_none() {
            let _ = futex::wake_bitset(&self.bell, futex::Flags::empty(), 1, class(key));
        }
    }

    /// Waits for a ring since `bell` was read, `limit` at most; of other keys' rings hardly
    /// any is heard.
    pub fn wait(&self, key: u64, bell: u32, limit: Duration) -> Woken {
        self.waiting.fetch_add(1, SeqCst);
        let rung = transport::listen(&self.bell, bell, class(key), limit);
        let rung = rung.unwrap_or_else(|| self.sleep(key, bell, limit));
        // A count of waiters that were killed only costs later rings a system call.
        self.waiting.fetch_sub(1, SeqCst);
        if rung { Woken::Rung } else { Woken::Late }
    }

    fn sleep(&self, key: u64, bell: u32, limit: Duration) -> bool {
        // This kind of wait takes the end and not the length of it.
        let now = clock_gettime(ClockId::Monotonic);
        let limit = futex::Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(0),
            tv_nsec: limit.subsec_nanos().into(),
        };
        let end = now.checked_add(limit);
        let waited = futex::wait_bitset(
            &self.bell,
            futex::Flags::empty(),
            bell,
            Some(&end.unwrap_or(now)),
            class(key),
        );
        matches!(waited, Ok(()) | Err(Errno::AGAIN))
    }

    /// Becomes the one who asks the nodes about `key` for all waiters of this host, from
    /// `now` to `until`. Where the bench is taken for another key, everybody asks.
    ///
    /// # Errors
    /// Until when somebody else is the one.
    pub fn poll(&self, key: u64, now: u64, until: u64) -> Result<(), u64> {
        let current = self.poller.load(SeqCst);
        if is_active(current, now) {
            return match is_of(current, key) {
                true => Err(current & UNTIL),
                false => Ok(()),
            };
        }
        self.poller
            .compare_exchange(current, claim(key, until), SeqCst, Relaxed)
            .map_or_else(
                |other| match is_of(other, key) {
                    true => Err(other & UNTIL),
                    false => Ok(()),
                },
                |_| Ok(()),
            )
    }

    /// Goes on being that one until `until`; 0 ends it.
    pub fn poll_on(&self, key: u64, until: u64) {
        let current = self.poller.load(SeqCst);
        if is_of(current, key) {
            self.poller.store(claim(key, until), SeqCst);
        }
    }
}

/// The part of a poller's word that says until when.
const UNTIL: u64 = (1 << 40) - 1;

fn claim(key: u64, until: u64) -> u64 {
    key & !UNTIL | until & UNTIL
}

fn is_of(poller: u64, key: u64) -> bool {
    poller & !UNTIL == key & !UNTIL
}

fn is_active(poller: u64, now: u64) -> bool {
    let until = poller & UNTIL;
    // A time far ahead is from before a reboot.
    until > now && until < now + 60_000
}

impl Turns {
    /// Forgets who holds what, and who waits for it.
    pub(super) fn clear(&self) {
        for bench in &self.bench {
            bench.waiting.store(0, Relaxed);
            bench.poller.store(0, Relaxed);
        }
        for holder in self
            .holder
            .iter()
            .filter(|holder| holder.process().name != 0)
        {
            holder.process.store(0, Relaxed);
            holder.key.store(0, Relaxed);
        }
    }
}

/// Which rings wake a waiter for `key`: one of 32 classes.
fn class(key: u64) -> NonZeroU32 {
    NonZeroU32::new(1 << (key >> 16 & 31)).unwrap_or(NonZeroU32::MIN)
}

impl Process {
    /// This one.
    pub fn own() -> Process {
        if let Some(name) = transport::process() {
            return Process { name, space: 1 };
        }
        let pid = getpid();
        Process {
            name: name(pid, started(pid).unwrap_or(0)),
            space: space(),
        }
    }

    /// The same as two words, to be stored.
    pub fn words(self) -> [u64; 2] {
        [self.name, self.space]
    }

    /// The process of which [`Process::words`] told.
    pub fn of_words([name, space]: [u64; 2]) -> Process {
        Process { name, space }
    }

    /// Is it surely gone? What cannot be seen from here is not.
    pub fn is_gone(self) -> bool {
        if let Some(gone) = transport::is_gone(self.name) {
            return gone;
        }
        if self.name == 0 || self.space == 0 || self.space != space() {
            return false;
        }
        let Some(pid) = i32::try_from(self.name >> 42).ok().and_then(Pid::from_raw) else {
            return false;
        };
        if test_kill_process(pid) == Err(Errno::SRCH) {
            return true;
        }
        // Its number may be another's by now; a zombie has nothing left to write with.
        started(pid).is_some_and(|started| started == 0 || name(pid, started) != self.name)
    }
}

fn name(pid: Pid, started: u64) -> u64 {
    u64::from(pid.as_raw_nonzero().get().unsigned_abs()) << 42 | started & ((1 << 42) - 1)
}

/// The space of this process's number: an inode, 0 when it cannot be told.
fn space() -> u64 {
    rustix::fs::stat("/proc/self/ns/pid").map_or(0, |stat| stat.st_ino)
}

/// When a process started, ticks since boot; 0 when it ended and nobody has waited for it
/// yet, `None` when it cannot be told (proc(5), /proc/PID/stat).
fn started(pid: Pid) -> Option<u64> {
    let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
    let file = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut bytes = [0; 1024];
    let read = rustix::io::read(&file, &mut bytes).ok()?;
    let text = String::from_utf8_lossy(bytes.get(..read)?);
    // The name in parentheses may hold anything, parentheses, too.
    let mut fields = text.rsplit_once(") ")?.1.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return Some(0);
    }
    fields.nth(18)?.parse().ok()
}

/// A part of its own, for tests.
#[cfg(test)]
pub(crate) fn empty() -> &'static Turns {
    let zero = || AtomicU64::new(0);
    Box::leak(Box::new(Turns {
        bench: std::array::from_fn(|_| Bench {
            bell: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            poller: zero(),
        }),
        holder: std::array::from_fn(|_| Holder {
            process: zero(),
            space: zero(),
            key: zero(),
            until: zero(),
            mark: [zero(), zero()],
        }),
    }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::shared::now;
    use std::process::{Command, Stdio};
    use std::time::Instant;

    fn entry(process: Process) -> Entry {
        Entry {
            process,
            until: 7,
            marks: [1, 2],
        }
    }

    #[test]
    fn a_process_is_gone_when_it_was_killed_and_not_before() {
        let mut child = Command::new("sleep")
            .arg("60")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let pid = Pid::from_child(&child);
        let process = Process {
            name: name(pid, started(pid).unwrap()),
            space: space(),
        };
        assert!(!process.is_gone() && !Process::own().is_gone());
        // The same number, started at another time, is another process.
        assert!(
            Process {
                name: process.name ^ 1,
                ..process
            }
            .is_gone()
        );
        child.kill().unwrap();
        // Not waited for yet: a zombie, and gone all the same.
        let since = Instant::now();
        while !process.is_gone() {
            assert!(since.elapsed() < Duration::from_secs(10));
            std::thread::sleep(Duration::from_millis(1));
        }
        child.wait().unwrap();
        assert!(process.is_gone());
        // Of another space nothing can be said.
        assert!(
            !Process {
                space: process.space ^ 1,
                ..process
            }
            .is_gone()
        );
    }

    #[test]
    fn an_entry_stands_until_its_process_leaves_or_is_gone() {
        let turns = empty();
        let own = Process::own();
        let key = 5 << 32 | 9;
        let held = turns.hold(key, entry(own)).unwrap();
        assert_eq!(turns.holder(key), Some(entry(own)));
        assert_eq!(turns.holder(key + 1), None);
        held.extend(Process { name: 1, ..own }, 60);
        assert_ne!(turns.holder(key).map(|entry| entry.until), Some(60));
        held.extend(own, 70);
        assert_eq!(turns.holder(key).map(|entry| entry.until), Some(70));
        held.leave(Process { name: 1, ..own });
        assert_eq!(turns.held(), 1, "only its own process strikes it out");
        held.leave(own);
        assert_eq!((turns.holder(key), turns.held()), (None, 0));
        // All places of one hash are taken: the next is not noted, and nobody is hurt.
        for number in 0..REACH as u64 {
            assert!(turns.hold(key + number, entry(own)).is_some());
        }
        assert!(turns.hold(key + 99, entry(own)).is_none());
        assert!(turns.hold(key, entry(own)).is_some(), "its own place again");
    }

    #[test]
    fn a_ring_wakes_one_waiter_and_none_is_missed() {
        let turns = empty();
        let bench = turns.bench(3).unwrap();
        let before = bench.bell();
        bench.ring(3);
        assert_eq!(bench.wait(3, before, Duration::from_secs(60)), Woken::Rung);
        let late = bench.wait(3, bench.bell(), Duration::from_millis(1));
        assert_eq!(late, Woken::Late);
        let waiter =
            std::thread::spawn(move || bench.wait(3, bench.bell(), Duration::from_secs(60)));
        while bench.waiting.load(SeqCst) == 0 {
            std::thread::yield_now();
        }
        // It counts itself before it sleeps, so one ring may come too early.
        while !waiter.is_finished() {
            bench.ring(3);
            std::thread::yield_now();
        }
        assert_eq!(waiter.join().unwrap(), Woken::Rung);
    }

    #[test]
    fn one_waiter_of_a_host_polls_for_all() {
        let turns = empty();
        let bench = turns.bench(1).unwrap();
        let now = now();
        assert_eq!(bench.poll(1, now, now + 50), Ok(()));
        assert_eq!(bench.poll(1, now + 49, now + 99), Err(now + 50));
        // Who waits for another key on the same bench is not held up, and holds nobody up.
        assert_eq!(bench.poll(1 << 50, now + 49, now + 99), Ok(()));
        bench.poll_on(1 << 50, 0);
        assert_eq!(bench.poll(1, now + 49, now + 99), Err(now + 50));
        assert_eq!(bench.poll(1, now + 50, now + 99), Ok(()), "it stopped");
        bench.poll_on(1, 0);
        assert_eq!(bench.poll(1, now + 51, now + 60), Ok(()));
    }
}
