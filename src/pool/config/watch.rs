//! The pool file of a running process: looked at once a second, read again when it changed.
//!
//! ```text
//!   look ─► a stat, at most one a second ─► changed? ─► read whole ─► used from now on
//!                                                          └─ refused: as it was, one line of news
//! ```
//!
//! A file that is being written, cut off or spoilt changes nothing: what was read last goes on
//! serving, and [`Watched::take_news`] says so once for each change. Nothing is ever taken of
//! a file in parts. Who has read no good file yet has nothing to go on with, and is told why.

use super::Entrance;
use super::file::{self, File};
use crate::error::{Error, Kind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Between two looks: what a change may take to be known everywhere.
const LOOK: Duration = Duration::from_secs(1);

/// What differs when a file was written, replaced, or its permissions changed: inode, bytes,
/// and the times of the last change of content and of inode in nanoseconds.
type Stamp = (u64, u64, i128, i128);

/// One pool file, as far as this process knows it.
#[derive(Debug)]
pub struct Watched {
    path: PathBuf,
    file: Option<File>,
    /// Why what is there now is not used.
    refused: Option<Error>,
    seen: Option<Stamp>,
    looked: Option<Instant>,
    news: Option<String>,
    gone: Vec<Entrance>,
}

impl Watched {
    /// The file at `path`, not read yet.
    pub fn new(path: &Path) -> Watched {
        Watched {
            path: path.to_owned(),
            file: None,
            refused: None,
            seen: None,
            looked: None,
            news: None,
            gone: Vec::new(),
        }
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The pools as they are now, after a look at the file if the last one was a second ago.
    ///
    /// # Errors
    /// `Kind::Config`, as [`file::load`], when no good file was read so far.
    pub fn file(&mut self, now: Instant) -> Result<&File, Error> {
        let fresh = |looked: Instant| now.saturating_duration_since(looked) < LOOK;
        if !self.looked.is_some_and(fresh) {
            self.look(now, false);
        }
        match (&self.file, &self.refused) {
            (Some(file), _) => Ok(file),
            (None, Some(refused)) => Err(refused.clone()),
            // A look ends with one of the two; this is only for the compiler.
            (None, None) => Err(Error::new(Kind::Config, "the file was not read yet")),
        }
    }

    /// Looks at the file now, however short ago the last look was. With `behind` the pool's
    /// own records say that there is a newer one: then whatever is good and in place counts,
    /// for this process may have slept through steps in between.
    pub fn look(&mut self, now: Instant, behind: bool) {
        self.looked = Some(now);
        let stamp = stamp_of(&self.path);
        if stamp.is_some() && stamp == self.seen && !(behind && self.refused.is_some()) {
            return;
        }
        // Who writes a file in several steps may do the next one within the same tick of the
        // file system's clock: a young one is read once more.
        self.seen = stamp.filter(|stamp| !is_young(stamp));
        let before = self.file.as_ref().filter(|_| !behind);
        let loaded = file::load(&self.path).and_then(|file| match before {
            Some(before) => file.follows(before).map(|()| file),
            None => Ok(file),
        });
        match loaded {
            Ok(file) => {
                if let Some(before) = &self.file {
                    self.gone.extend(before.without(&file));
                }
                self.file = Some(file);
                self.refused = None;
            }
            Err(error) => {
                if self.file.is_some() && self.refused.as_ref() != Some(&error) {
                    self.news = Some(format!("{error}. The pools stay as they were before"));
                }
                self.refused = Some(error);
            }
        }
    }

    /// What is to be told of the last change, once.
    pub fn take_news(&mut self) -> Option<String> {
        self.news.take()
    }

    /// Servers that no pool of the file names any more, or enters in that way; each told once.
    pub fn take_gone(&mut self) -> Vec<Entrance> {
        std::mem::take(&mut self.gone)
    }
}

fn stamp_of(path: &Path) -> Option<Stamp> {
    let about = std::fs::metadata(path).ok()?;
    let nanoseconds =
        |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
    Some((
        about.ino(),
        about.len(),
        nanoseconds(about.mtime(), about.mtime_nsec()),
        nanoseconds(about.ctime(), about.ctime_nsec()),
    ))
}

/// Was the file changed less than a look ago?
fn is_young((.., changed): &Stamp) -> bool {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.map_or(0, |time| i128::try_from(time.as_nanos()).unwrap_or(0));
    (now - changed).unsigned_abs() < LOOK.as_nanos()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::super::Target;
    use super::*;

    const GOOD: &str = "[pool.a]\nnodes = [\"tcp://10.0.0.1\"]\n";
    const OTHER: &str = "[pool.a]\nnodes = [\"tcp://10.0.0.2\"]\n";

    struct Bench {
        path: PathBuf,
        watched: Watched,
        now: Instant,
    }

    impl Bench {
        fn new(name: &str) -> Bench {
            let own = std::process::id();
            let path = std::env::temp_dir().join(format!("memring-watch-{own}-{name}.toml"));
            let watched = Watched::new(&path);
            let now = Instant::now();
            Bench { path, watched, now }
        }

        fn write(&self, bytes: &[u8]) {
            std::fs::write(&self.path, bytes).unwrap();
        }

        /// The host of the one node, `after` the last look.
        fn host(&mut self, after: Duration) -> Result<String, Error> {
            self.now += after;
            let file = self.watched.file(self.now)?;
            Ok(file.pool("a")?.nodes.first().unwrap().host.clone())
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    #[test]
    fn a_changed_file_counts_after_a_second_and_not_before() {
        let mut bench = Bench::new("changed");
        bench.write(GOOD.as_bytes());
        assert_eq!(bench.host(Duration::ZERO).unwrap(), "10.0.0.1");
        bench.write(OTHER.as_bytes());
        assert_eq!(bench.host(LOOK / 2).unwrap(), "10.0.0.1");
        assert_eq!(bench.host(LOOK).unwrap(), "10.0.0.2");
        assert_eq!(bench.watched.take_news(), None);
        let gone = bench.watched.take_gone();
        assert_eq!(gone.len(), 1);
        assert!(
            matches!(&gone[..], [Entrance { target: Target::Tcp { host, .. }, .. }] if host == "10.0.0.1")
        );
        // A changed password is another way in.
        for (password, gone) in [("old", 1), ("new", 1), ("new", 0)] {
            let text = format!("[pool.a]\nnodes = [\"redis://:{password}@10.0.0.2\"]\n");
            bench.write(text.as_bytes());
            bench.host(LOOK).unwrap();
            assert_eq!(bench.watched.take_gone().len(), gone, "{password}");
        }
    }

    #[test]
    fn a_spoilt_file_leaves_all_as_it_was_and_is_told_once() {
        let mut bench = Bench::new("spoilt");
        bench.write(GOOD.as_bytes());
        bench.host(Duration::ZERO).unwrap();
        for spoilt in [
            GOOD.as_bytes().split_at(GOOD.len() - 5).0,
            b"\x00\xff\xfe\x01",
            b"",
        ] {
            bench.write(spoilt);
            for _ in 0..3 {
                assert_eq!(bench.host(LOOK).unwrap(), "10.0.0.1");
            }
            let news = bench.watched.take_news().unwrap();
            assert!(news.contains(&bench.path.display().to_string()), "{news}");
            assert!(news.contains("stay as they were"), "{news}");
            bench.host(LOOK).unwrap();
            assert_eq!(bench.watched.take_news(), None);
        }
        std::fs::remove_file(&bench.path).unwrap();
        assert_eq!(bench.host(LOOK).unwrap(), "10.0.0.1");
        assert!(
            bench
                .watched
                .take_news()
                .unwrap()
                .contains("cannot be read")
        );
        bench.write(OTHER.as_bytes());
        assert_eq!(bench.host(LOOK).unwrap(), "10.0.0.2");
    }

    #[test]
    fn without_any_good_file_so_far_the_reason_is_given_until_there_is_one() {
        let mut bench = Bench::new("none");
        assert!(bench.host(Duration::ZERO).is_err());
        bench.write(b"[pool.a]\nnodes = 3\n");
        let error = bench.host(LOOK).unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
        assert_eq!(bench.watched.take_news(), None);
        bench.write(GOOD.as_bytes());
        assert_eq!(bench.host(LOOK).unwrap(), "10.0.0.1");
    }
}
