//! What processes see of each other: today, whether this one was forked.
//!
//! The pool's only file with `unsafe`. A connection inherited over fork() must never
//! be used by parent and child both, and asking getpid() would be a third system call
//! per operation; a page the kernel wipes in the child (MADV_WIPEONFORK, Linux 4.14)
//! answers with one load.
#![allow(
    unsafe_code,
    reason = "memory mapped from the kernel; every block is argued"
)]

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number that stays the same in one process and differs in its forked children.
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
mod tests {
    use super::*;

    #[test]
    fn the_generation_stays_within_one_process() {
        let first = generation();
        assert_ne!(first, 0);
        assert_eq!(first, generation());
    }
}
