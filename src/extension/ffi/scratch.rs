//! The Rust heap of calls from PHP: one desk per depth of re-entrancy.
//!
//! A handler sits down at the desk of its depth; a handler that PHP starts from
//! inside of it (`__wakeup`, a failure callback) gets the next one, so neither sees
//! the other's bytes. When PHP longjmps out of a handler nobody gets up from the
//! desk: the end of the request clears the room, and the heap is used again.

use super::string::OwnedText;
use memring_pool::call::Call;
use std::cell::{Cell, RefCell};

/// What one handler works on.
#[derive(Default)]
pub(crate) struct Desk {
    /// The call to the pool.
    pub(crate) call: Call,
    /// The caller's keys, as many as the call has entries.
    pub(crate) names: Vec<OwnedText>,
    /// An inflated or otherwise assembled text.
    pub(crate) bytes: Vec<u8>,
}

/// Buffers above this many bytes are given back to the allocator after use.
const KEEP: usize = 1 << 20;

/// The desks of one thread, freed with it.
struct Room {
    desks: Vec<*mut Desk>,
}

impl Drop for Room {
    fn drop(&mut self) {
        for desk in self.desks.drain(..) {
            // SAFETY: each pointer came from Box::into_raw and is freed once, when nobody sits any more.
            unsafe {
                (*desk).forget_names();
                drop(Box::from_raw(desk));
            }
        }
    }
}

thread_local! {
    static ROOM: RefCell<Room> = const { RefCell::new(Room { desks: Vec::new() }) };
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// A place at a desk, left on drop.
pub(crate) struct Seat {
    desk: *mut Desk,
}

impl Seat {
    /// Sits down at the desk of this depth.
    pub(crate) fn take() -> Seat {
        let depth = DEPTH.get();
        let desk = ROOM.with_borrow_mut(|room| {
            room.desks.get(depth).copied().unwrap_or_else(|| {
                let desk = Box::into_raw(Box::<Desk>::default());
                room.desks.push(desk);
                desk
            })
        });
        DEPTH.set(depth + 1);
        Seat { desk }
    }

    /// The desk. Userland may run while it is borrowed: a nested handler has another one.
    pub(crate) fn desk(&mut self) -> &mut Desk {
        // SAFETY: the pointer lives until the thread ends; only the seat of this depth uses it, and `&mut self`
        // keeps that to one borrow at a time.
        unsafe { &mut *self.desk }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let desk = self.desk();
        desk.names.clear();
        desk.bytes.clear();
        desk.bytes.shrink_to(KEEP);
        DEPTH.set(DEPTH.get().saturating_sub(1));
    }
}

impl Desk {
    /// Drops the list without touching the strings: their memory went with the request.
    fn forget_names(&mut self) {
        for name in self.names.drain(..) {
            std::mem::forget(name);
        }
    }
}

/// Clears the room at the end of a request, after a longjmp as after a good end.
///
/// Zend memory is gone by then, so nothing of it is touched.
pub(crate) fn clear() {
    DEPTH.set(0);
    ROOM.with_borrow_mut(|room| {
        for desk in &room.desks {
            // SAFETY: the request is over, so no seat is taken and nobody else borrows a desk.
            let desk = unsafe { &mut **desk };
            desk.forget_names();
            desk.bytes = Vec::new();
        }
    });
}
