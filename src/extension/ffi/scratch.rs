//! The Rust heap of calls from PHP: one desk per call under way.
//!
//! A handler sits down at a free desk; a handler that PHP starts from inside of it
//! (`__wakeup`, a failure callback) finds that one taken and gets another, so neither
//! sees the other's bytes. The free desks are a list and not a depth, because a Fiber
//! that is suspended in `__wakeup` gets up later than who sat down after it. When PHP
//! longjmps out of a handler nobody gets up from the desk: the end of the request
//! clears the room, and the heap is used again.

use super::string::OwnedText;
use memring_pool::call::Call;
use memring_pool::fact::Fact;
use std::cell::RefCell;

/// What one handler works on.
#[derive(Default)]
pub(crate) struct Desk {
    /// The call to the pool.
    pub(crate) call: Call,
    /// The caller's keys, as many as the call has entries; none when they are elements of his own list.
    pub(crate) names: Vec<OwnedText>,
    /// An inflated or otherwise assembled text.
    pub(crate) bytes: Vec<u8>,
    /// What is told of pools, while it becomes an array.
    pub(crate) told: Option<Fact>,
    /// `memring.trace` names a file.
    pub(crate) traced: bool,
}

/// Buffers above this many bytes are given back to the allocator after use.
const KEEP: usize = 1 << 20;

/// The desks of one thread, freed with it.
struct Room {
    desks: Vec<*mut Desk>,
    /// Those nobody sits at; the one left last is the next to be taken, while it is warm.
    free: Vec<*mut Desk>,
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
    static ROOM: RefCell<Room> = const { RefCell::new(Room { desks: Vec::new(), free: Vec::new() }) };
}

/// A place at a desk, left on drop.
pub(crate) struct Seat {
    desk: *mut Desk,
}

impl Seat {
    /// Sits down at a free desk.
    pub(crate) fn take() -> Seat {
        let desk = ROOM.with_borrow_mut(|room| {
            room.free.pop().unwrap_or_else(|| {
                let desk = Box::into_raw(Box::<Desk>::default());
                room.desks.push(desk);
                desk
            })
        });
        Seat { desk }
    }

    /// The desk. Userland may run while it is borrowed: a nested handler has another one.
    pub(crate) fn desk(&mut self) -> &mut Desk {
        // SAFETY: the pointer lives until the thread ends; it is on the list of free desks only while no seat has it,
        // so this seat alone uses it, and `&mut self` keeps that to one borrow at a time.
        unsafe { &mut *self.desk }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let desk = self.desk();
        desk.names.clear();
        desk.bytes.clear();
        desk.bytes.shrink_to(KEEP);
        desk.call.let_go();
        let desk = self.desk;
        ROOM.with_borrow_mut(|room| room.free.push(desk));
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
    ROOM.with_borrow_mut(|room| {
        room.free.clear();
        for desk in &room.desks {
            // SAFETY: the request is over, so no seat is taken and nobody else borrows a desk.
            let desk = unsafe { &mut **desk };
            desk.forget_names();
            desk.bytes = Vec::new();
            desk.call.let_go();
            desk.told = None;
        }
        room.free.extend(room.desks.iter().rev());
    });
}
