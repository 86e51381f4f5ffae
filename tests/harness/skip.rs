//! What cannot run on this machine says so here, and why.
//!
//! libtest calls a test that returns early passed and swallows what it printed; so it is also written into the file
//! that `MEMRING_SKIPS` names, from which `cargo xtask test` counts it as skipped.

use std::io::Write;
use std::panic::Location;

/// Says that nothing of this test can run here; the caller returns then.
#[track_caller]
pub fn skip(reason: impl AsRef<str>) {
    note("", reason.as_ref(), Location::caller());
}

/// Says that a part of this test, such as one kind of server, cannot run here; the rest of it runs.
#[track_caller]
pub fn leave_out(reason: impl AsRef<str>) {
    note(" (in part)", reason.as_ref(), Location::caller());
}

fn note(how_much: &str, reason: &str, place: &Location<'_>) {
    println!("skipped{how_much}: {reason}");
    let Some(file) = std::env::var_os("MEMRING_SKIPS") else {
        return;
    };
    // libtest names the thread of a test after it; a thread that a test started has no such name.
    let thread = std::thread::current();
    let name = match thread.name() {
        Some(name) if name != "main" => name.to_owned(),
        _ => format!("{}:{}", place.file(), place.line()),
    };
    let line = format!("{name}{how_much}: {reason}\n");
    // One write at the end of the file, so that the lines of tests that run at the same time stay whole.
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&file)
        .and_then(|mut file| file.write_all(line.as_bytes()))
        .unwrap_or_else(|e| panic!("MEMRING_SKIPS {}: {e}", file.display()));
}
