//! Servers that outlived the test that started them. Whoever starts one stops it; a test that hands it to a thread
//! without an end does not, and nobody would notice.
//!
//! This process adopts what loses its parent below it, so what a test binary leaves behind is found as our child.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// What tests start, as Linux calls a process (the first 15 bytes of the program's name). Anything else that lost its
/// parent, say a compiler's cache, is somebody's own business.
const SERVERS: &[&str] = &[
    "memcached",
    "redis-server",
    "redis-sentinel",
    "valkey-server",
    "php",
    "apache2",
    "memring",
];

/// One that was stopped on its way out gets so long to be gone.
const GRACE: Duration = Duration::from_secs(5);

/// From now on this process is told of children whose own parent is gone.
pub(crate) fn adopt() {
    // Where Linux refuses, nothing is found: no test is worse for it.
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
}

/// The servers that are left, as command lines; each is ended, and so are the workers of those, which
/// are ours only then.
pub(crate) fn end_all() -> Vec<String> {
    let mut ended = Vec::new();
    let mut begin = Instant::now();
    loop {
        let left = children();
        if left.is_empty() {
            return ended;
        }
        if begin.elapsed() >= GRACE {
            for (pid, line) in left {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
                ended.push(line);
            }
            begin = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Servers whose parent we are.
fn children() -> Vec<(Pid, String)> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            (is_server_of(own, &stat)).then_some(())?;
            Some((Pid::from_raw(pid)?, command_line(&entry.path())))
        })
        .collect()
}

/// Is this the `stat` of a live server whose parent is `own`? (proc(5): pid, name in brackets, state, parent.)
fn is_server_of(own: i32, stat: &str) -> bool {
    let read = || {
        let (before, after) = stat.rsplit_once(')')?;
        let (_, name) = before.split_once('(')?;
        let mut fields = after.split_whitespace();
        let state = fields.next()?;
        let parent: i32 = fields.next()?.parse().ok()?;
        let is_server = SERVERS.iter().any(|server| name.starts_with(server));
        Some(parent == own && !matches!(state, "Z" | "X") && is_server)
    };
    read().unwrap_or(false)
}

fn command_line(process: &Path) -> String {
    let words = std::fs::read(process.join("cmdline")).unwrap_or_default();
    let words = words.split(|byte| *byte == 0);
    let words: Vec<String> = words
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    words.join(" ").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_known_by_its_parent_its_name_and_that_it_lives() {
        assert!(is_server_of(7, "41 (memcached) S 7 41 41 0"));
        assert!(is_server_of(7, "41 (php8.2) R 7 41 41 0"));
        assert!(!is_server_of(7, "41 (memcached) S 1 41 41 0"));
        assert!(!is_server_of(7, "41 (memcached) Z 7 41 41 0"));
        assert!(!is_server_of(7, "41 (a (memcached)) S 7 41 41 0"));
        assert!(!is_server_of(7, "41 (sccache) S 7 41 41 0"));
        assert!(!is_server_of(7, ""));
    }
}
