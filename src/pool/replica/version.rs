//! Which of two values is newer.

/// Bits of the random tag.
const TAG_BITS: u32 = 20;
/// Low bits of the tag that are 0 in a copied session's version. On a server with `E`, where
/// the version is the cas value, they name the node's memory life there.
const LIFE: u64 = 0xff;
/// So often at most is the turn on one value taken over, for all that is believed of it.
const TICKS: u64 = 32;
/// Bits of the milliseconds.
const CLOCK_BITS: u32 = 42;

/// A hybrid clock in 64 bits: domain (2, here 0) · milliseconds since 1970 (42) · random tag (20).
///
/// The tag keeps two writers apart that read the same version in the same millisecond, or
/// while one of their clocks is behind: no two values share a version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

impl Version {
    /// A version above `seen`, from this host's clock (milliseconds since 1970) and 20 random bits.
    ///
    /// A clock that is behind counts on from what it saw, so versions grow whatever the clocks say.
    #[must_use]
    pub fn next(now: u64, seen: Version, random: u32) -> Version {
        let clock = now.max(seen.milliseconds() + 1) & ((1 << CLOCK_BITS) - 1);
        Version(clock << TAG_BITS | u64::from(random) & ((1 << TAG_BITS) - 1))
    }

    /// A version for a write that looked at nothing first, where `last` was this process's one
    /// before: of two writes within a millisecond the later has the higher. A clock that was set
    /// back by a second or more is followed.
    #[must_use]
    pub fn blind(now: u64, last: Version, random: u32) -> Version {
        let fresh = Version::next(now, Version(0), random);
        let ahead = last.milliseconds().saturating_sub(fresh.milliseconds());
        if fresh > last || ahead >= 1000 {
            return fresh;
        }
        // Still by chance, so that another process's row of writes does not meet this one.
        Version(last.0.saturating_add(1 + u64::from(random % 1024)))
    }

    /// The same for a copied session, of which every write has seen what it goes over.
    ///
    /// Two whose clocks are behind count on from the same value. The random bits for which the
    /// tag has no room here say how far, or they would meet once in 4096 times.
    #[must_use]
    pub fn fenced(now: u64, seen: Version, random: u32) -> Version {
        let step = 1 + (u64::from(random) & LIFE);
        let now = if now > seen.milliseconds() {
            now
        } else {
            seen.milliseconds() + step
        };
        Version(Version::next(now, seen, random).0 & !LIFE)
    }

    /// The smallest version above this one: of the same value, after its turn was taken over.
    #[must_use]
    pub fn tick(self) -> Version {
        Version(self.0.saturating_add(LIFE + 1))
    }

    /// Are these one write's, but for turns on it that were taken over?
    ///
    /// Two that wrote in one millisecond, which only happens to a turn that changed hands, look
    /// alike once in 64 times.
    #[must_use]
    pub fn is_of_write(self, other: Version) -> bool {
        self.milliseconds() == other.milliseconds() && self.0.abs_diff(other.0) < (LIFE + 1) * TICKS
    }

    /// The cas value that stands for this version on a server with `E`, in the node's memory
    /// life `inc`.
    ///
    /// A value is stored again when its node begins a new life with what it had. Did its cas
    /// value stay, who read it before that could write over it, in a life that is over: what
    /// is believed would be gone, and a hint in its place.
    pub fn cas(self, inc: u16) -> u64 {
        self.0 & !LIFE | u64::from(inc) & LIFE
    }

    /// The same in the life in which the cas value `other` was given.
    pub fn cas_beside(self, other: u64) -> u64 {
        self.0 & !LIFE | other & LIFE
    }

    /// The version that a cas value stands for.
    #[must_use]
    pub fn of_cas(cas: u64) -> Version {
        Version(cas & !LIFE)
    }

    /// Milliseconds since 1970 of the clock that made it, or more.
    pub fn milliseconds(self) -> u64 {
        self.0 >> TAG_BITS & ((1 << CLOCK_BITS) - 1)
    }
}

/// What an item says beside its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Which write it is of.
    pub version: Version,
    /// Memory life of the node when it was written there, 1 to 4095.
    pub inc: u16,
    /// A remembered delete.
    pub tombstone: bool,
    /// Brought by who mended the node: turns that others took before are not known here.
    pub mended: bool,
    /// Only word of the write: its value lies on nodes the key prefers to this one.
    pub witness: bool,
}

impl Stamp {
    /// Is there a value with it, neither mere word nor a remembered delete?
    pub fn has_value(self) -> bool {
        !self.witness && !self.tombstone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_behind_still_counts_up() {
        let seen = Version::next(1_000_000, Version::default(), 7);
        let next = Version::next(10, seen, 0);
        assert!(next > seen);
        assert_eq!(next.milliseconds(), 1_000_001);
        assert!(seen.tick() > seen && seen.tick() < next);
    }

    #[test]
    fn sessions_written_by_clocks_that_are_behind_use_all_random_bits() {
        let seen = Version::fenced(1_000_000, Version::default(), 7);
        let (one, other) = (0x100, 0x101);
        let next = |now, random| Version::fenced(now, seen, random);
        assert_ne!(next(10, one), next(10, other));
        assert_eq!(next(10, other).milliseconds(), 1_000_002);
        // A clock that is not behind is believed.
        assert_eq!(next(1_000_001, other).milliseconds(), 1_000_001);
    }

    #[test]
    fn blind_writes_of_one_process_go_up_until_its_clock_is_set_back() {
        let mut last = Version::next(5000, Version(0), u32::MAX);
        for random in [0, 1023, 1024, u32::MAX, 5] {
            let next = Version::blind(5000, last, random);
            assert!(next > last && next.0 - last.0 <= 1024);
            last = next;
        }
        assert_eq!(last.milliseconds(), 5001);
        assert_eq!(Version::blind(4001, last, 3).milliseconds(), 4001);
        assert_eq!(Version::blind(6000, last, 3), Version::next(6000, last, 3));
    }

    #[test]
    fn a_value_has_another_cas_value_in_the_next_life_of_its_node_and_one_version() {
        let version = Version::fenced(9, Version::default(), u32::MAX);
        let (one, next) = (version.cas(4000), version.cas(4001));
        assert_ne!(one, next);
        assert_eq!(Version::of_cas(one), version);
        assert_eq!(Version::of_cas(next), version);
        assert_eq!(version.tick().cas_beside(one), one + 256);
        assert!(Version::of_cas(version.tick().cas(1)) > version);
    }

    #[test]
    fn a_value_is_the_same_whose_turn_was_taken_over() {
        let version = Version::fenced(9, Version::default(), 0x8000);
        assert!(version.is_of_write(version.tick().tick()));
        assert!(version.tick().is_of_write(version));
        let last = Version::fenced(9, Version::default(), u32::MAX);
        let next = Version::fenced(9, last, 0);
        assert!(!last.is_of_write(next) && !next.is_of_write(last));
        let other = Version::fenced(9, Version::default(), 0x100);
        assert!(!version.is_of_write(other));
    }

    #[test]
    fn writers_of_one_millisecond_differ_by_their_tags() {
        let seen = Version::next(5, Version::default(), 1);
        assert_ne!(Version::next(9, seen, 1), Version::next(9, seen, 2));
        // More than the tag's bits do not reach the clock.
        assert_eq!(Version::next(9, seen, u32::MAX).milliseconds(), 9);
    }
}
