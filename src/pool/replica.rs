//! HOW MANY: copied reads and writes as state machines. No I/O, no clock, no chance.
//!
//! A machine is told what time it is, what a node replied, and random bits; it says what to
//! send next and when it has decided. So the same code runs on sockets and in a simulation
//! with a virtual clock and faulty nodes, and every schedule can be played again.
//!
//! ```text
//!            ┌──────────── heard(now, place, replies) ─────────────┐
//!   start ─► machine ─► [Send: one pipeline to one node] ─► driver ─┘
//!            │   ▲
//!            │   └──── wake(now), when `wait()` is past
//!            └──► outcome
//! ```
//!
//! A key has up to three preferred nodes, named here by their place (0 is the owner). The
//! protocol is an ABD register: a write is on two of them before it is acknowledged, a read
//! believes two trusted answers, takes the newest version, and repairs before it returns. Two
//! things are added. Each node keeps a [`Record`] that says whether it can be trusted to have
//! missed nothing, and counts its memory lives; each item carries the life it was written in,
//! so that what a node stored before it went missing is a hint and no more. And the turn of
//! a session is memcached's own win token on the item, so there are no lock keys. A node that
//! lost its memory lost its tokens, too: what a mend brought there is marked, and counts for a
//! turn only while no other node says that somebody has it.
//!
//! With two copies of three the third node is a witness: it takes part in everything, and has word
//! of each write in place of its value, which it gets when one of the two is away.
//!
//! | file | what it decides |
//! |---|---|
//! | `version` | which of two values is newer |
//! | `record` | what a node says of itself |
//! | `view` | what one machine knows of each node |
//! | `open` | a read: newest, trusted, repaired; in its folder the turn, whom it mistrusts, what it waits for |
//! | `ending` | how a read can end |
//! | `close` | a write, a touch, a destroy |
//! | `found` | the first records of a pool |
//! | `keep` | what records say of a node that missed a write |
//! | `resync` | a node that came back, key by key |
//! | `wait` | a node that cannot be given what it lacks |
//! | `withdraw` | a record's word taken back, when the keys are mended |
//! | `distrust` | a node that is another process with an old memory |
//! | `commit` | one node list after another |
//! | `lists` | both of them at once |
//! | `survey` | what all records say together |

mod close;
mod commit;
mod distrust;
mod ending;
mod found;
mod grips;
mod keep;
mod lists;
mod open;
mod record;
mod resync;
mod survey;
mod vacate;
mod version;
mod view;
mod wait;
mod withdraw;
pub mod words;

pub use close::Close;
pub use commit::{Commit, Committing};
pub use distrust::Distrust;
pub use ending::{Closed, Ending};
pub use found::{Founded, Founding};
pub use grips::Grips;
pub use keep::{Keep, Kept};
pub use lists::{Fit, Lists};
pub use open::{Found, Neighbour, Open, Opened, Turn, Wish};
pub use record::{Absent, Epochs, Record, Trust, record_key};
pub use resync::{Mend, Resync, Resynced};
pub use survey::{Listing, Standing, State, Survey};
pub use vacate::{Vacate, Vacated};
pub use version::{Stamp, Version};
pub use view::{LEASE_SLACK, Watch};
pub use wait::{Moment, Waiting};
pub use withdraw::{Withdraw, Withdrawn};

use std::sync::Arc;

/// Nodes a key prefers, at most.
pub const PREFERRED: usize = 3;

/// Seconds a placeholder lives that a read leaves on a node without the item, so that it can
/// hold a token (memcached `mg … N30`).
pub const PLACEHOLDER_LIFE: u32 = 30;

/// Seconds a tombstone outlives the session it stands for: no copy of the session, however
/// late it was written, may expire after it.
pub const TOMBSTONE_EXTRA: u32 = 120;

/// One command of a pipeline, about the machine's key or about the node's record.
///
/// In memcached's meta words (doc/protocol.txt, 1.6.27): see `wire::fenced`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// What the node says of itself: `mg ~r v c u`.
    ReadRecord,
    /// The first record of a node without one: `add ~r`, answered without a cas value.
    AddRecord(Record),
    /// A changed record, over the one whose cas value this is: `cas ~r`, answered without a cas value.
    SetRecord {
        /// Cas value of the record that was read.
        cas: u64,
        /// What it becomes.
        record: Record,
    },
    /// The node is not trusted any more, in a way that needs no memory: `md ~r I C<cas>`. A record
    /// so marked reads as [`Record::doubted`].
    DoubtRecord {
        /// Cas value of the record that was read.
        cas: u64,
    },
    /// The item: `mg K c f t`, with `v` and `N30 R2147483647` as asked.
    Read {
        /// Its value, too. A server without `E` sends it anyway.
        value: bool,
        /// Take the token. A missing item becomes a placeholder that can hold it.
        token: bool,
    },
    /// Store the item: `ms K C<cas> E<version> F… T…`, or `ME` in place of `C`. Frees the token.
    Write {
        /// Over what.
        over: Over,
        /// Version, life and kind.
        stamp: Stamp,
        /// Seconds to live, never 0: a token cannot be held on an item without an end.
        life: u32,
        /// The value, empty for a tombstone.
        data: Arc<[u8]>,
    },
    /// Free the token and set the version: `md K I C<cas> E<version> T<life>`.
    Unlock {
        /// Cas value of the item as it was read.
        cas: u64,
        /// The version it gets; where the server has no `E` it keeps its own.
        version: Version,
        /// A new life in seconds, or the old one.
        life: Option<u32>,
    },
    /// Give what is there a new life and leave its token with whoever has it: `mg K c f t T<life>`.
    Touch {
        /// Seconds.
        life: u32,
    },
    /// Take the item away: `md K C<cas>`.
    Remove {
        /// Cas value of the item as it was read.
        cas: u64,
    },
}

/// Over what a write goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// The item with this cas value and no other.
    Cas(u64),
    /// Nothing: there must be no item.
    Nothing,
}

/// What one command came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A record and its cas value.
    Record {
        /// As stored.
        record: Record,
        /// For `SetRecord`.
        cas: u64,
    },
    /// The node has no record: it lost its memory, or never had one.
    NoRecord,
    /// The record is of a format this version does not know; it is never overwritten.
    StrangeRecord,
    /// An item, or the placeholder that was just made for it.
    Item(Item),
    /// No item, and none was made.
    Miss,
    /// Stored, unlocked or removed. The item's or record's new cas value, where the server
    /// said it.
    Done {
        /// New cas value.
        cas: u64,
    },
    /// There is another item or record than the one the cas value was of (EX).
    Exists,
    /// There is none (NF).
    NotFound,
    /// There is one already (NS).
    NotStored,
    /// The node refuses, as when its memory is full.
    Refused,
}

/// An item as a node showed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The server's cas value.
    pub cas: u64,
    /// Version, life, kind; none for a placeholder, and for an item of somebody else's.
    pub stamp: Option<Stamp>,
    /// Its value, where it was asked for.
    pub data: Option<Arc<[u8]>>,
    /// Seconds left to live.
    pub left: u32,
    /// Whose the token is.
    pub token: Token,
}

/// Whose the token of an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// Ours, by this read (W).
    Won,
    /// Somebody else's (Z).
    Taken,
    /// Nobody's, and this read did not ask for it.
    Free,
}

/// A node did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The pipeline may have been carried out, now or later.
    pub maybe_done: bool,
}

/// One pipeline to one node. Its replies come back together, in order, to
/// `heard(now, place, …)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Send {
    /// Place of the node in the key's preference list.
    pub place: usize,
    /// What to say, in order; each is carried out on its own, others' commands may come between.
    pub commands: Vec<Command>,
}

/// The protective rules, each of which the simulation switches off to see that it is needed.
/// Everybody else uses [`Rules::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Items of an earlier life are hints.
    pub incarnation: bool,
    /// Versions end in random bits.
    pub tag: bool,
    /// A joining node becomes trusted only if its record did not change during the pass.
    pub cas_on_trust: bool,
    /// A write that went without a node says so to those that took it.
    pub absent: bool,
    /// What is read is on two nodes before it is returned.
    pub repair: bool,
    /// A third node is asked when one of two is down or joining.
    pub third_read: bool,
    /// Writes go only over what was read.
    pub fence: bool,
    /// A destroyed session leaves a tombstone.
    pub tombstone: bool,
    /// A tombstone outlives every copy of its session.
    pub tombstone_life: bool,
    /// A node that came back gets what it missed before it is trusted.
    pub resync: bool,
    /// A trusted node with an older value than two others is said to have missed something.
    pub behind: bool,
    /// A node that lost its memory since it was read, or that changed and where the turn was not
    /// held, is written to last, if nobody else wrote meanwhile.
    pub late: bool,
    /// A turn on what a mend brought is none while another node says that somebody has it.
    pub elders: bool,
    /// A turn that is taken over is taken over on every node that answers.
    pub takeover: bool,
    /// Whose turn it is is asked once more before it is taken from him, where the answer is old.
    pub fresh: bool,
    /// What lies on one node alone, newer than what others have, is given a moment before it is
    /// read.
    pub moment: bool,
    /// Where cas values are a server's own count, an ending that may come after its turn was taken
    /// over looks first, whether what it read is still there and in the same life of its node.
    pub confirm: bool,
    /// Where a node fails that was to have the value, one that has word of it gets it.
    pub fill: bool,
    /// Word goes over a value last, when the others have taken theirs; and where they did not, the
    /// value does.
    pub word_last: bool,
    /// Word of a write that may have been acknowledged stands against an older value, and against
    /// none.
    pub word: bool,
    /// While a node list follows another, a key is on the nodes of both.
    pub double_list: bool,
    /// A node that is another process than the one that was trusted is trusted no more.
    pub process: bool,
    /// What has no version counts for nothing.
    pub foreign: bool,
    /// A pool is new only for whoever stored all of its first records himself.
    pub founding: bool,
    /// A host whose node list is older than one that was announced is let in nowhere.
    pub admits: bool,
    /// A node that had no room and dropped what it had is trusted no more.
    pub dropped: bool,
    /// A turn that a node gave away unheard is ended.
    pub vacate: bool,
    /// What a mender stores under a turn that was had for less than half a lease is not taken for another's turn.
    pub sure: bool,
}

impl Rules {
    /// All of them.
    pub const ALL: Rules = Rules {
        incarnation: true,
        tag: true,
        cas_on_trust: true,
        absent: true,
        repair: true,
        third_read: true,
        fence: true,
        tombstone: true,
        tombstone_life: true,
        resync: true,
        behind: true,
        late: true,
        elders: true,
        takeover: true,
        fresh: true,
        moment: true,
        confirm: true,
        fill: true,
        word_last: true,
        word: true,
        double_list: true,
        process: true,
        foreign: true,
        founding: true,
        admits: true,
        dropped: true,
        vacate: true,
        sure: true,
    };
}

/// What every machine of this room has in common, for whoever drives it.
pub trait Machine {
    /// Takes what a pipeline came to; what is to be sent next is appended to `out`.
    ///
    /// `now` is this host's clock in milliseconds. Each [`Send`] is answered exactly once.
    fn heard(
        &mut self,
        now: u64,
        place: usize,
        replies: Result<Vec<Reply>, Lost>,
        out: &mut Vec<Send>,
    );

    /// When the machine wants to be woken though nobody answered, if at all.
    fn wait(&self) -> Option<u64> {
        None
    }

    /// True while it waits with something that others wait for: then nobody else may be left to
    /// ask in its place.
    fn holds(&self) -> bool {
        false
    }

    /// Lets it go on now, before [`Machine::wait`] is past, with what is known of a neighbour
    /// whose turn it waits for; [`Machine::wake`] follows.
    fn hurry(&mut self, now: u64, neighbour: Option<Neighbour>) {
        let _ = (now, neighbour);
    }

    /// Goes on after [`Machine::wait`] is past.
    fn wake(&mut self, now: u64, out: &mut Vec<Send>) {
        let _ = (now, out);
    }

    /// True when the outcome stands. Pipelines still unanswered then are of no interest to it.
    fn is_done(&self) -> bool;
}
