//! The hosts of a simulation: each has a region of its own in one process.

use super::{Region, Slot, anonymous};
use std::cell::Cell;
use std::sync::atomic::Ordering::Relaxed;

thread_local! {
    /// Where this thread is.
    static PLAYED: Cell<Option<Site>> = const { Cell::new(None) };
}

/// The region of the host that this thread is a process of.
pub(super) fn entered() -> Option<&'static Region> {
    PLAYED.get().map(|site| site.0)
}

/// The region of a simulated host, for the threads that are its processes.
#[derive(Clone, Copy)]
pub struct Site(&'static Region);

impl std::fmt::Debug for Site {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Site")
    }
}

impl Site {
    /// A host of its own. Its memory is never given back: use it again, [`Site::clear`]ed.
    pub fn reserve() -> Option<Site> {
        anonymous().map(Site)
    }

    /// Makes this thread one of the host's processes, once it has a player.
    pub fn enter(self) {
        PLAYED.set(Some(self));
    }

    /// Forgets what was known of nodes and kept for them, and who had a turn: another life, of
    /// this name.
    pub fn clear(self, life: u64) {
        self.0.life.store(life, Relaxed);
        for slot in self.0.slot.iter().filter(|s| s.who.load(Relaxed) != 0) {
            let Slot {
                who,
                failed,
                cause,
                state,
                due,
                pause,
                since,
                server,
            } = slot;
            for word in [who, failed, cause, state, due, pause, since, server] {
                word.store(0, Relaxed);
            }
        }
        if self.0.missed.kept() > 0 {
            self.0.missed.clear();
        }
        self.0.host.tended.store(0, Relaxed);
        self.0.host.broken.store(0, Relaxed);
        self.0.host.mended.clear();
        self.0.turns.clear();
        self.0.passes.clear();
        self.0.used.clear();
    }
}
