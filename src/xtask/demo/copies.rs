//! The promise on real processes: three nodes, each killed and brought back empty in turn while PHP workers write.
//!
//! The workers only say what they found; what they should have found is remembered here, so that a session that
//! forgot cannot vouch for itself. Any worker serves any session, as behind a load balancer.

use super::Stage;
use crate::run::{self, Running};
use crate::servers::Memcached;
use crate::{Stop, failed};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const NODES: usize = 3;
const SESSIONS: usize = 200;
/// PHP processes that write all the while.
const WORKERS: usize = 8;
/// Visitors who leave while a node is away: it must not bring them back.
const LEAVE: usize = 20;
/// A node is away, and empty, for at least so long and for a visit to every session.
const AWAY: Duration = Duration::from_millis(600);
/// The longest wait for something that should take a second.
const LIMIT: Duration = Duration::from_secs(60);

/// Shows it on three nodes of its own.
///
/// # Errors
/// When something does not start, a node is not trusted again, or anything was lost.
pub(super) fn show(stage: &Stage<'_>, companion: &Path) -> Result<(), Stop> {
    run::headline(&format!(
        "{SESSIONS} sessions on copies: each node killed and back empty in turn while {WORKERS} PHP workers write"
    ));
    let mut nodes = (0..NODES)
        .map(|_| Memcached::start())
        .collect::<Result<Vec<_>, _>>()?;
    let list = nodes
        .iter()
        .map(|node| format!("tcp://127.0.0.1:{}", node.port))
        .collect::<Vec<_>>()
        .join(", ");
    let keeper = Keeper::start(companion, &list, stage.folder)?;
    keeper.wait_until_all_are_trusted()?;
    let visits = Visits::new();
    let rows = std::thread::scope(|scope| {
        let workers = (0..WORKERS)
            .map(|_| Worker::start(stage, &list))
            .collect::<Result<Vec<_>, _>>();
        let running: Vec<_> = workers?
            .into_iter()
            .map(|mut worker| {
                let visits = &visits;
                scope.spawn(move || {
                    let mut outcome = Ok(());
                    while outcome.is_ok() && !visits.ending.load(Ordering::Relaxed) {
                        outcome = visits.next(&mut worker);
                    }
                    // Without one of them the others show nothing any more, and nobody waits for the rest.
                    visits.ending.store(true, Ordering::Relaxed);
                    outcome
                })
            })
            .collect();
        let rows = Worker::start(stage, &list)
            .and_then(|mut guide| phases(&mut nodes, &keeper, &visits, &mut guide));
        visits.ending.store(true, Ordering::Relaxed);
        for worker in running {
            worker
                .join()
                .unwrap_or_else(|_| Err(Stop::Failed("a worker panicked".to_owned())))?;
        }
        rows
    })?;
    // Once more, by a process that has seen none of it.
    let mut last = Worker::start(stage, &list)?;
    visits.all(&mut last)?;
    table(&rows, &visits)
}

/// One node's way: killed, back with nothing, trusted.
struct Row {
    node: String,
    killed: Duration,
    back: Duration,
    trusted: Duration,
    sessions: usize,
    requests: u64,
    errors: u64,
}

fn phases(
    nodes: &mut [Memcached],
    keeper: &Keeper,
    visits: &Visits,
    guide: &mut Worker,
) -> Result<Vec<Row>, Stop> {
    let begin = Instant::now();
    visits.wait_for_everyone("with all nodes there")?;
    run::say(&format!(
        "   {:>5.1} s  every session is there; {} requests so far",
        begin.elapsed().as_secs_f64(),
        visits.requests.load(Ordering::Relaxed)
    ));
    let mut rows = Vec::new();
    for (turn, node) in nodes.iter_mut().enumerate() {
        let name = format!("127.0.0.1:{}", node.port);
        let progress = |text: String| {
            run::say(&format!(
                "   {:>5.1} s  {name} {text}",
                begin.elapsed().as_secs_f64()
            ));
        };
        let (requests, errors) = visits.sums();
        visits.begin_phase();
        visits.come(turn, guide)?;
        node.kill();
        let killed = begin.elapsed();
        progress("killed".to_owned());
        visits.leave(turn, guide)?;
        visits.wait_for_everyone("with a node away")?;
        node.start_again()?;
        let back = begin.elapsed();
        progress("is back, with nothing in it".to_owned());
        keeper.wait_until_all_are_trusted()?;
        let trusted = begin.elapsed();
        progress(format!(
            "is trusted again after {:.1} s",
            (trusted - back).as_secs_f64()
        ));
        visits.wait_for_everyone("after a node came back")?;
        let (requests_now, errors_now) = visits.sums();
        rows.push(Row {
            node: name,
            killed,
            back,
            trusted,
            sessions: visits.seen_in_phase(),
            requests: requests_now - requests,
            errors: errors_now - errors,
        });
    }
    Ok(rows)
}

/// Prints a row per node, and fails when anything was lost.
fn table(rows: &[Row], visits: &Visits) -> Result<(), Stop> {
    run::say(
        "   node              killed at     back   trusted again   sessions  requests  errors",
    );
    for row in rows {
        run::say(&format!(
            "   {:<17} {:>7.1} s {:>6.1} s  after {:>6.1} s  {:>8}  {:>8}  {:>6}",
            row.node,
            row.killed.as_secs_f64(),
            row.back.as_secs_f64(),
            (row.trusted - row.back).as_secs_f64(),
            row.sessions,
            row.requests,
            row.errors
        ));
    }
    for line in visits.said().iter().take(5) {
        run::say(&format!("   PHP said: {line}"));
    }
    let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
    let (lost, older, revived) = (
        count(&visits.lost),
        count(&visits.older),
        count(&visits.revived),
    );
    run::say(&format!(
        "   {SESSIONS} sessions, {} visits acknowledged; {} visitors left: older {older}, alive again {revived}, lost {lost}",
        visits.acknowledged(),
        LEAVE * NODES
    ));
    if lost + older + revived == 0 {
        return Ok(());
    }
    Err(Stop::Failed(format!(
        "{} sessions were not as the visit before left them",
        lost + older + revived
    )))
}

/// What is known of one session.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Visits that were acknowledged.
    visits: u64,
    /// A visit more may have been stored though it was not acknowledged.
    perhaps: bool,
    /// The last phase it was visited in.
    phase: usize,
    /// Visits of it since somebody began to wait for everyone.
    round: usize,
}

/// All sessions, and what came out of the visits.
struct Visits {
    known: Vec<Mutex<Known>>,
    next: AtomicUsize,
    phase: AtomicUsize,
    round: AtomicUsize,
    requests: AtomicU64,
    errors: AtomicU64,
    lost: AtomicU64,
    older: AtomicU64,
    revived: AtomicU64,
    said: Mutex<Vec<String>>,
    /// The workers visit no more.
    ending: AtomicBool,
}

impl Visits {
    fn new() -> Self {
        Self {
            known: (0..SESSIONS).map(|_| Mutex::default()).collect(),
            next: AtomicUsize::new(0),
            phase: AtomicUsize::new(0),
            round: AtomicUsize::new(0),
            requests: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            older: AtomicU64::new(0),
            revived: AtomicU64::new(0),
            said: Mutex::default(),
            ending: AtomicBool::new(false),
        }
    }

    /// Visits the session whose turn it is.
    fn next(&self, worker: &mut Worker) -> Result<(), Stop> {
        let number = self.next.fetch_add(1, Ordering::Relaxed) % SESSIONS;
        self.visit(number, worker)
    }

    fn visit(&self, number: usize, worker: &mut Worker) -> Result<(), Stop> {
        let Some(known) = self.known.get(number) else {
            return Ok(());
        };
        // Held over the visit: its answer belongs to what is known now. A visit ends within LIMIT, and so does every
        // wait for this.
        let mut known = locked(known);
        let answer = worker.ask("visit", &format!("copied{number:026}"))?;
        self.requests.fetch_add(1, Ordering::Relaxed);
        known.phase = self.phase.load(Ordering::Relaxed);
        known.round = self.round.load(Ordering::Relaxed);
        if answer.what == Happened::Refused {
            self.complain(&answer);
            return Ok(());
        }
        let wanted = [known.visits, known.visits + u64::from(known.perhaps)];
        if !wanted.contains(&answer.found) {
            let counter = if answer.found == 0 {
                &self.lost
            } else {
                &self.older
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
        known.visits = answer.found;
        known.perhaps = false;
        if answer.what == Happened::Done {
            known.visits += 1;
        } else {
            known.perhaps = true;
            self.complain(&answer);
        }
        Ok(())
    }

    /// Every session once more, and every visitor who left.
    fn all(&self, worker: &mut Worker) -> Result<(), Stop> {
        for number in 0..SESSIONS {
            self.visit(number, worker)?;
        }
        for turn in 0..NODES {
            for visitor in 0..LEAVE {
                let answer = worker.ask("read", &left(turn, visitor))?;
                if answer.found > 0 {
                    self.revived.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }

    /// Visitors who will leave in this turn come.
    fn come(&self, turn: usize, worker: &mut Worker) -> Result<(), Stop> {
        self.each_who_leaves("visit", turn, worker)
    }

    /// They leave: their sessions are destroyed.
    fn leave(&self, turn: usize, worker: &mut Worker) -> Result<(), Stop> {
        self.each_who_leaves("leave", turn, worker)
    }

    fn each_who_leaves(&self, what: &str, turn: usize, worker: &mut Worker) -> Result<(), Stop> {
        for visitor in 0..LEAVE {
            // Who was not let go tries again, as a person does.
            for _ in 0..3 {
                let answer = worker.ask(what, &left(turn, visitor))?;
                self.requests.fetch_add(1, Ordering::Relaxed);
                if answer.what == Happened::Done {
                    break;
                }
                self.complain(&answer);
            }
        }
        Ok(())
    }

    /// Waits until every session was visited since now, and a while has passed.
    fn wait_for_everyone(&self, when: &str) -> Result<(), Stop> {
        let begin = Instant::now();
        let round = self.round.fetch_add(1, Ordering::Relaxed) + 1;
        let visited = || self.known.iter().all(|known| locked(known).round >= round);
        while begin.elapsed() < AWAY || !visited() {
            if self.ending.load(Ordering::Relaxed) {
                return Err(Stop::Failed(format!("a PHP worker ended {when}")));
            }
            if begin.elapsed() > LIMIT {
                return Err(Stop::Failed(format!(
                    "not every session could be visited within {} s {when}",
                    LIMIT.as_secs()
                )));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn begin_phase(&self) {
        self.phase.fetch_add(1, Ordering::Relaxed);
    }

    fn seen_in_phase(&self) -> usize {
        let phase = self.phase.load(Ordering::Relaxed);
        let seen = |known: &&Mutex<Known>| locked(known).phase == phase;
        self.known.iter().filter(seen).count()
    }

    fn sums(&self) -> (u64, u64) {
        (
            self.requests.load(Ordering::Relaxed),
            self.errors.load(Ordering::Relaxed),
        )
    }

    fn acknowledged(&self) -> u64 {
        self.known.iter().map(|known| locked(known).visits).sum()
    }

    fn complain(&self, answer: &Answer) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        locked(&self.said).push(answer.said.clone());
    }

    fn said(&self) -> Vec<String> {
        locked(&self.said).clone()
    }
}

fn left(turn: usize, visitor: usize) -> String {
    format!("left{turn}n{visitor:026}")
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a visit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Happened {
    Done,
    /// It was let in, and what it stored was not acknowledged.
    Unsure,
    /// session_start() was false.
    Refused,
}

struct Answer {
    what: Happened,
    /// The number of visits before this one, 0 for a new session.
    found: u64,
    said: String,
}

/// A PHP process that visits when asked.
struct Worker {
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
    _running: Running,
}

impl Worker {
    fn start(stage: &Stage<'_>, list: &str) -> Result<Self, Stop> {
        let mut command = Command::new(&stage.php.cli);
        command.arg("-c").arg(&stage.ini).args([
            "-d",
            "session.use_cookies=0",
            "-d",
            "session.cache_limiter=",
            "-d",
            "session.save_handler=memring",
            "-d",
            &format!("session.save_path=\"{list}\""),
        ]);
        command
            .args(["-d", &state_dir(stage.folder)])
            .arg(stage.folder.join("visitor.php"))
            .env("PHP_INI_SCAN_DIR", "");
        Self::talk_to(&mut command)
    }

    fn talk_to(command: &mut Command) -> Result<Self, Stop> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut running = Running::start_in_group(command)?;
        match running.pipes() {
            Some((asks, answers)) => Ok(Self {
                asks,
                answers: BufReader::new(answers),
                _running: running,
            }),
            None => Err(Stop::Failed("a PHP worker has no pipes".to_owned())),
        }
    }

    fn ask(&mut self, what: &str, id: &str) -> Result<Answer, Stop> {
        let gone = |why| failed("a PHP worker ended", why);
        writeln!(self.asks, "{what} {id}").map_err(gone)?;
        let line = self.line(&format!("{what} {id}"), LIMIT)?;
        let mut words = line.trim_end().splitn(3, ' ');
        let what = match words.next() {
            Some("done") => Happened::Done,
            Some("unsure") => Happened::Unsure,
            Some("refused") => Happened::Refused,
            _ => return Err(Stop::Failed(format!("a PHP worker said \"{line}\""))),
        };
        let found = words.next().and_then(|word| word.parse().ok());
        Ok(Answer {
            what,
            found: found.unwrap_or_default(),
            said: words.next().unwrap_or_default().to_owned(),
        })
    }

    /// The line that answers `asked`, or an error when it is not whole after `limit`.
    fn line(&mut self, asked: &str, limit: Duration) -> Result<String, Stop> {
        let gone = |why: std::io::Error| failed("a PHP worker ended", why);
        let end = Instant::now() + limit;
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            if self.answers.buffer().is_empty()
                && !readable(self.answers.get_ref(), end).map_err(gone)?
            {
                return Err(Stop::Failed(format!(
                    "a PHP worker has not answered \"{asked}\" after {} s. Does it wait for a node? It was killed",
                    limit.as_secs()
                )));
            }
            // What is there, and no more: the rest of a line may never come.
            let there = self.answers.fill_buf().map_err(gone)?;
            let taken = there
                .iter()
                .position(|byte| *byte == b'\n')
                .map_or(there.len(), |at| at + 1);
            if taken == 0 {
                return Err(Stop::Failed(format!(
                    "a PHP worker ended instead of answering \"{asked}\""
                )));
            }
            line.extend(there.iter().take(taken));
            self.answers.consume(taken);
        }
        Ok(String::from_utf8_lossy(&line).into_owned())
    }
}

/// Waits until something can be read; false when nothing could until `end`.
fn readable(pipe: &ChildStdout, end: Instant) -> std::io::Result<bool> {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = rustix::event::Timespec::try_from(left).map_err(std::io::Error::other)?;
        let mut fds = [PollFd::new(pipe, PollFlags::IN)];
        match poll(&mut fds, Some(&left)) {
            Err(Errno::INTR) => {}
            found => return Ok(found? > 0),
        }
    }
}

/// `memring tend` beside the workers.
struct Keeper<'run> {
    companion: &'run Path,
    list: &'run str,
    log: std::path::PathBuf,
    _running: Running,
}

impl<'run> Keeper<'run> {
    fn start(companion: &'run Path, list: &'run str, folder: &Path) -> Result<Self, Stop> {
        let log = folder.join("tend.log");
        let file = std::fs::File::create(&log).map_err(|why| failed(log.display(), why))?;
        let mut command = Command::new(companion);
        command
            .args(["tend", "--list", list, "--state-dir"])
            .arg(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file);
        Ok(Self {
            companion,
            list,
            log,
            _running: Running::start_in_group(&mut command)?,
        })
    }

    /// Asks `memring status` until it says that the next node may be touched.
    fn wait_until_all_are_trusted(&self) -> Result<(), Stop> {
        let begin = Instant::now();
        while begin.elapsed() < LIMIT {
            let mut command = Command::new(self.companion);
            command.args(["status", "--list", self.list]);
            let (status, _) = run::merged(&mut command, b"", Some(LIMIT))?;
            if status.success() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        Err(Stop::Failed(format!(
            "not every node is trusted after {} s. memring tend said:\n{log}",
            LIMIT.as_secs()
        )))
    }
}

/// The setting that makes PHP share with this tend what it knows of the nodes.
fn state_dir(folder: &Path) -> String {
    format!("memring.state_dir=\"{}\"", folder.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(script: &str, limit: Duration) -> Result<String, Stop> {
        let mut worker = Worker::talk_to(Command::new("sh").args(["-c", script]))?;
        worker.line("visit s", limit)
    }

    #[test]
    fn a_worker_that_never_ends_its_answer_is_waited_for_only_so_long() {
        let begin = Instant::now();
        for script in ["sleep 30", "printf 'done 1'; sleep 30"] {
            let outcome = heard(script, Duration::from_millis(300));
            let told = "has not answered \"visit s\"";
            assert!(matches!(outcome, Err(Stop::Failed(text)) if text.contains(told)));
        }
        assert!(begin.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn an_answer_in_pieces_is_whole_and_a_worker_that_ends_is_told_apart() {
        let line = heard("printf 'done '; sleep 0.05; echo 1; sleep 30", LIMIT);
        assert!(matches!(line, Ok(line) if line == "done 1\n"));
        let ended = heard("printf 'done '", LIMIT);
        assert!(matches!(ended, Err(Stop::Failed(text)) if text.contains("ended instead")));
    }
}
