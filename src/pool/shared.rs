//! What the processes of a host see of each other: which nodes failed, what was counted,
//! which keys a node missed, and whether this process was forked.
//!
//! With `lmdb` beside it the pool's only room with `unsafe`. One region of memory holds a head, counters, and
//! 1,024 slots, one per node. It is either a file of one user, so that web workers, cron
//! jobs and a second PHP of that user share it, or anonymous memory that only the children
//! of this process share. It is never unmapped, so a slot is `'static`.
//!
//! ```text
//!   head      magic, layout, slots, slots asked for in vain, name of this life, boot
//!   counters  64 of them (`counters`)
//!   host      when tend looked last, which pools it mends, which ones this host cannot use
//!   slot      who (hash of the node's address) · failed (ms, 0 = up) · cause · state · …
//!   missed    65,536 keys that nodes missed (`missed`)
//!   turns     sessions held and waited for on this host (`turns`)
//!   passes    how far passes over nodes are (`passes`)
//!   used      when each slot was asked for last (`seats`)
//! ```
//!
//! Times are milliseconds of the monotonic clock, which all processes of a host share
//! and no administrator sets. A file that outlived a reboot holds times of the future,
//! which count as "up", and keys that may be too few, which are thrown away.
#![allow(
    unsafe_code,
    reason = "memory mapped from the kernel; every block is argued"
)]

pub(crate) mod lmdb;
mod mended;
pub mod missed;
mod passes;
mod seats;
mod site;
pub mod turns;

use mended::Mended;
pub use missed::{Kept, Miss, Missed, Withdrawal};
use passes::Passes;
pub use passes::{Progress, pass};
pub(crate) use passes::{note_pass, pass_of};
pub use seats::Seat;
use seats::Used;
pub use site::Site;

use crate::chance;
use crate::counters::{COUNTERS, Counter};
use crate::error::{Error, Kind};
use crate::transport;
use rustix::fs::{FallocateFlags, FileType, Mode, OFlags, fallocate, fstat, open};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous};
use rustix::process::geteuid;
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use turns::Turns;

/// Nodes one region can hold; further ones keep their health to their own process.
pub const SLOTS: usize = 1024;

/// "memring" and a zero byte.
const MAGIC: u64 = u64::from_le_bytes(*b"memring\0");
/// Changes with the shape of the region; a part of the file's name, too.
pub const LAYOUT: u64 = 5;

/// What is known of one node on this host; what the words mean is for `health` to say.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Slot {
    who: AtomicU64,
    failed: AtomicU64,
    cause: AtomicU64,
    /// How the node stands with those who have it probed.
    pub state: AtomicU64,
    /// When the next probe is due, milliseconds.
    pub due: AtomicU64,
    /// How long probes pause, milliseconds.
    pub pause: AtomicU64,
    /// When the state changed last, milliseconds.
    pub since: AtomicU64,
    /// Which server stands behind the node's name, where that changes; 0 unknown.
    pub server: AtomicU64,
}

/// What the host's processes know of themselves.
#[derive(Debug)]
#[repr(C, align(64))]
struct Host {
    /// When tend looked last.
    tended: AtomicU64,
    /// Pools, by the hash of their record's key, that this host alone cannot use.
    broken: AtomicU64,
    mended: Mended,
}

#[repr(C, align(64))]
struct Region {
    magic: AtomicU64,
    layout: AtomicU64,
    slots: AtomicU64,
    overflow: AtomicU64,
    /// Random name of this memory; another one after a reboot.
    life: AtomicU64,
    boot: AtomicU64,
    spare: [AtomicU64; 2],
    counters: [AtomicU64; COUNTERS],
    host: Host,
    slot: [Slot; SLOTS],
    missed: Missed,
    turns: Turns,
    passes: Passes,
    used: Used,
}

/// Who shares the region (`memring.shared`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// All processes of one user, through a file.
    #[default]
    User,
    /// The children of one master process.
    Master,
    /// Nobody: each process learns for itself.
    Off,
}

impl Sharing {
    /// As it is written in `memring.shared`.
    pub const fn word(self) -> &'static str {
        match self {
            Sharing::User => "user",
            Sharing::Master => "master",
            Sharing::Off => "off",
        }
    }
}

/// The path of the region, when it is a file.
static FILE: OnceLock<PathBuf> = OnceLock::new();
static REGION: OnceLock<Option<&'static Region>> = OnceLock::new();

/// Opens the region, once per process; later calls do nothing.
///
/// With [`Sharing::User`] it is the file `memring-UID.5` in `dir`; with [`Sharing::Master`]
/// the memory that [`prepare`] set aside.
///
/// # Errors
/// `State` when the file cannot be used: not ours, a symbolic link, readable by others, of
/// another layout, or no room. Anonymous memory then takes its place, so that a process
/// and its children still share.
pub fn start(sharing: Sharing, dir: &Path) -> Result<(), Error> {
    let mut trouble = None;
    REGION.get_or_init(|| match sharing {
        Sharing::Off => None,
        Sharing::Master => reserve(),
        Sharing::User => match file(dir) {
            Ok(region) => {
                let _ = FILE.set(path_in(dir));
                Some(region)
            }
            Err(error) => {
                trouble = Some(error);
                reserve()
            }
        },
    });
    trouble.map_or(Ok(()), Err)
}

/// Opens the file of this user in `dir` as [`start`] does, if there is one, and makes none.
///
/// Where there is none: the other users who have one there.
///
/// # Errors
/// As [`start`].
pub fn look(dir: &Path) -> Result<Vec<u32>, Error> {
    if path_in(dir).symlink_metadata().is_ok() {
        return start(Sharing::User, dir).map(|()| Vec::new());
    }
    let ending = format!(".{LAYOUT}");
    let user = |name: &str| {
        let name = name.strip_prefix("memring-")?.strip_suffix(&ending)?;
        name.parse().ok()
    };
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    Ok(files
        .filter_map(|file| user(file.file_name().to_str()?))
        .collect())
}

/// Adds one to a counter of this host; nothing without a region.
pub fn count(counter: Counter) {
    count_many(counter, 1);
}

/// Adds to a counter of this host; nothing without a region.
pub fn count_many(counter: Counter, by: u64) {
    if let Some(word) = region().and_then(|region| region.counters.get(counter.index())) {
        word.fetch_add(by, Relaxed);
    }
}

/// What a counter of this host stands at, since the region was made; 0 without one.
pub fn counted(counter: Counter) -> u64 {
    region()
        .and_then(|region| region.counters.get(counter.index()))
        .map_or(0, |word| word.load(Relaxed))
}

/// The keys that nodes missed, as far as this host wrote them; `None` without a region.
pub fn missed() -> Option<&'static Missed> {
    region().map(|region| &region.missed)
}

/// The random name of this region's life; `None` without a region.
pub fn life() -> Option<u64> {
    region().map(|region| region.life.load(Relaxed))
}

/// Notes that a tend looks at `now`, whatever pools it has.
pub fn tend(now: u64) {
    if let Some(region) = region() {
        region.host.tended.store(now, Relaxed);
    }
}

/// When tend looked last; `None` when it never did, or before a reboot.
pub fn tended(now: u64) -> Option<u64> {
    let at = region()?.host.tended.load(Relaxed);
    (at != 0 && at <= now).then_some(at)
}

/// Notes that a tend of this host mends the pool of that name.
pub(crate) fn mend(pool: &[u8], now: u64) {
    if let Some(region) = region() {
        region.host.mended.note(pool, now);
    }
}

/// When a tend of this host noted that it mends the pool; `None` when none did, or before a reboot.
pub(crate) fn mended(pool: &[u8], now: u64) -> Option<u64> {
    region()?.host.mended.at(pool, now)
}

/// Notes whether this host counts itself broken for the pool of that record key; true when
/// that is new.
pub fn set_broken(record_key: &[u8], broken: bool) -> bool {
    let Some(region) = region() else {
        return broken;
    };
    let (word, name) = (&region.host.broken, name_of(record_key));
    match broken {
        true => word.swap(name, Relaxed) != name,
        false => {
            word.load(Relaxed) == name && word.compare_exchange(name, 0, Relaxed, Relaxed).is_ok()
        }
    }
}

fn region() -> Option<&'static Region> {
    if transport::is_played() {
        return site::entered();
    }
    REGION.get().copied().flatten()
}

/// The region this process sees.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// With whom it is shared.
    pub sharing: Sharing,
    /// Its file, when it is one.
    pub file: Option<PathBuf>,
    /// Nodes it has slots for.
    pub nodes: usize,
}

/// Which region this process sees, and how much of it is used.
pub fn state() -> State {
    let Some(region) = region() else {
        return State {
            sharing: Sharing::Off,
            ..State::default()
        };
    };
    let file = FILE.get().cloned();
    State {
        sharing: match file {
            Some(_) => Sharing::User,
            None => Sharing::Master,
        },
        file,
        nodes: region
            .slot
            .iter()
            .filter(|slot| slot.who.load(Relaxed) != 0)
            .count(),
    }
}

/// The part about sessions; `None` without a region.
pub fn turns() -> Option<&'static Turns> {
    region().map(|region| &region.turns)
}

/// How often a node found no slot, on this host; 0 without a region.
pub fn overflow() -> u64 {
    region().map_or(0, |region| region.overflow.load(Relaxed))
}

/// Milliseconds of the monotonic clock; never 0.
pub fn now() -> u64 {
    transport::monotonic()
}

impl Slot {
    /// When the node failed, milliseconds as [`now`]; `None` when it is up.
    pub fn failed_at(&self, now: u64) -> Option<u64> {
        Some(self.failed.load(Relaxed)).filter(|t| *t != 0 && *t <= now)
    }

    /// True when any mark stands, even one from before a reboot.
    pub fn is_marked(&self) -> bool {
        self.failed.load(Relaxed) != 0
    }

    /// Why it failed, as [`Slot::fail`] was told.
    pub fn cause(&self) -> u64 {
        self.cause.load(Relaxed)
    }

    /// Marks it failed; true when it was up before.
    pub fn fail(&self, now: u64, cause: u64) -> bool {
        self.cause.store(cause, Relaxed);
        let before = self.failed.swap(now, Relaxed);
        before == 0 || before > now
    }

    /// Marks it up; true when it was failed before.
    pub fn recover(&self) -> bool {
        // A load first: this runs after every exchange, and a plain store would make the
        // line travel between the processors of all workers.
        self.failed.load(Relaxed) != 0 && self.failed.swap(0, Relaxed) != 0
    }

    /// Takes the one try that is due since the failure at `since`: true for one caller,
    /// for whom the next try is a whole interval away again.
    pub fn claim(&self, since: u64, now: u64) -> bool {
        self.failed
            .compare_exchange(since, now, Relaxed, Relaxed)
            .is_ok()
    }
}

/// 64-bit FNV-1a, so that all processes agree on a node's name; never 0.
pub(crate) fn name_of(address: &[u8]) -> u64 {
    let hash = address.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3)
    });
    hash.max(1)
}

/// Sets memory aside that this process and its later children share. A master process
/// calls it before it makes workers; whether it is used, each worker decides ([`start`]).
pub fn prepare() {
    reserve();
}

fn reserve() -> Option<&'static Region> {
    static RESERVED: OnceLock<Option<&'static Region>> = OnceLock::new();
    *RESERVED.get_or_init(anonymous)
}

fn anonymous() -> Option<&'static Region> {
    // SAFETY: a fresh shared anonymous mapping at an address of the kernel's choice touches
    // no memory that anything else knows of.
    let memory = unsafe {
        mmap_anonymous(
            std::ptr::null_mut(),
            size_of::<Region>(),
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
        )
    }
    .ok()?;
    // SAFETY: the mapping is page-aligned, at least as long as a Region, zeroed by the kernel
    // (all-zero atomics are valid) and never unmapped; it is reached through atomics only.
    let region = unsafe { &*memory.cast::<Region>() };
    region.live();
    Some(region)
}

impl Region {
    /// Gives the region its name; after a reboot another one, and what it kept of missed
    /// keys is gone: whether all of them reached the disk nobody knows.
    fn live(&self) {
        let boot = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let (boot, before) = (name_of(&boot), self.boot.load(Relaxed));
        if before == boot {
            return;
        }
        if before != 0 {
            self.missed.clear();
        }
        self.life.store(chance::seed(), Relaxed);
        self.boot.store(boot, Relaxed);
    }
}

/// Random bits, other ones each time, and in a forked child other ones than in its parent.
pub fn throw() -> u64 {
    if let Some(bits) = transport::throw() {
        return bits;
    }
    thread_local! {
        /// Whose they are ([`generation`]), where they began, and how many were thrown.
        static DICE: Cell<[u64; 3]> = const { Cell::new([0; 3]) };
    }
    let own = generation();
    let [owner, mut seed, mut thrown] = DICE.get();
    if owner != own {
        (seed, thrown) = (chance::seed(), 0);
    }
    DICE.set([own, seed, thrown + 1]);
    chance::mix(seed, thrown)
}

fn path_in(dir: &Path) -> PathBuf {
    dir.join(format!("memring-{}.{LAYOUT}", geteuid().as_raw()))
}

/// Maps the file of this user in `dir`, making it when there is none.
fn file(dir: &Path) -> Result<&'static Region, Error> {
    let user = geteuid().as_raw();
    let path = path_in(dir);
    let refuse = |cause: String, hint: &str| {
        Error::new(
            Kind::State,
            format!(
                "{}: {cause}; workers share node health only with their own master",
                path.display()
            ),
        )
        .hint(hint.to_owned())
    };
    let system = |e: rustix::io::Errno| {
        let hint =
            "Set memring.state_dir to a directory this user can write, or memring.shared = master";
        refuse(std::io::Error::from(e).to_string(), hint)
    };
    // NOFOLLOW: in a directory that others may write to, a link could point anywhere.
    let flags =
        OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = open(&path, flags, Mode::RUSR | Mode::WUSR).map_err(system)?;
    let stat = fstat(&fd).map_err(system)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(refuse("not a regular file".to_owned(), "Remove it"));
    }
    if stat.st_uid != user {
        return Err(refuse(
            format!("owned by user {}, not {user}", stat.st_uid),
            "Remove it, or set memring.state_dir",
        ));
    }
    if stat.st_mode & 0o077 != 0 {
        return Err(refuse(
            "open to other users".to_owned(),
            "Remove it, or chmod it to 600",
        ));
    }
    // Reserved, not merely truncated to size: a full disk must be an error now and not a
    // signal (SIGBUS) at the first store.
    let length = size_of::<Region>() as u64;
    fallocate(&fd, FallocateFlags::empty(), 0, length).map_err(system)?;
    // SAFETY: a fresh shared mapping at an address of the kernel's choice; the file was just
    // made at least as long as a Region.
    let memory = unsafe {
        mmap(
            std::ptr::null_mut(),
            size_of::<Region>(),
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
            &fd,
            0,
        )
    }
    .map_err(system)?;
    // SAFETY: page-aligned, long enough, never unmapped. The file is this user's alone (0600,
    // owner checked), so only processes of this user write to it; every word is an atomic and
    // any bit pattern of one is valid, so a damaged file costs wrong marks and nothing more.
    // A process that shortens the file would bring the others a SIGBUS; only this user can.
    let region = unsafe { &*memory.cast::<Region>() };
    let fresh = region
        .magic
        .compare_exchange(0, MAGIC, Relaxed, Relaxed)
        .map_or_else(|found| found == MAGIC, |_| true);
    let same = |word: &AtomicU64, wanted: u64| {
        word.compare_exchange(0, wanted, Relaxed, Relaxed)
            .map_or_else(|found| found == wanted, |_| true)
    };
    if !(fresh && same(&region.layout, LAYOUT) && same(&region.slots, SLOTS as u64)) {
        return Err(refuse("of another layout".to_owned(), "Remove it"));
    }
    region.live();
    Ok(region)
}

/// Where the file lies unless told otherwise: memory that ends with a reboot.
pub fn default_dir() -> PathBuf {
    PathBuf::from("/dev/shm")
}

/// A number that stays the same in one process and differs in its forked children.
///
/// A connection inherited over fork() must never be used by parent and child both, and
/// asking getpid() would be a third system call per operation; a page the kernel wipes in
/// the child (MADV_WIPEONFORK, Linux 4.14) answers with one load.
pub fn generation() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    static PAGE: OnceLock<Option<&'static AtomicU64>> = OnceLock::new();
    let Some(word) = PAGE.get_or_init(wiped_on_fork) else {
        // No such page on this kernel: the process id does, at the price of a system call.
        return rustix::process::getpid()
            .as_raw_nonzero()
            .get()
            .unsigned_abs()
            .into();
    };
    match word.load(Relaxed) {
        // First use, or first use in a child: NEXT was copied by fork, so the child's is new to it.
        0 => {
            let fresh = NEXT.fetch_add(1, Relaxed);
            // Another thread may have been first; both then use its number.
            word.compare_exchange(0, fresh, Relaxed, Relaxed)
                .err()
                .unwrap_or(fresh)
        }
        current => current,
    }
}

/// One page that reads as zeros in a forked child; `None` where the kernel has no such thing.
fn wiped_on_fork() -> Option<&'static AtomicU64> {
    const PAGE: usize = 4096;
    // SAFETY: a fresh private anonymous mapping at an address of the kernel's choice
    // touches no memory that anything else knows of.
    let page = unsafe {
        mmap_anonymous(
            std::ptr::null_mut(),
            PAGE,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
    }
    .ok()?;
    // SAFETY: `page` is the mapping just made, PAGE bytes long and page-aligned; the
    // advice changes what a child sees of it and nothing in this process.
    unsafe { madvise(page, PAGE, Advice::LinuxWipeOnFork) }.ok()?;
    // SAFETY: the mapping is aligned for a u64, zeroed by the kernel, never unmapped, and
    // reached only through this atomic.
    Some(unsafe { AtomicU64::from_ptr(page.cast()) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests;
