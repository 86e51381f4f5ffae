//! memring tend: one small daemon per host. It looks at every node every second, says what
//! changed, and has it mended.
//!
//! ```text
//!   main: is the file still the same? ── changed ─► the whole program begins anew
//!    └─ a thread per pool: look ─► say ─► look …      the host's health follows each look
//!        └─ a thread while there is work: found, passes; none for a cache (`cache`)
//! ```
//!
//! Every key is mended in one command of the server, so the daemon may be ended at any
//! moment; what a pass left undone, the next one does.

use crate::cache::Cache;
use crate::host::Host;
use crate::memory::Memory;
use crate::mend::{self, Stuck};
use crate::wish::{Asked, Kept, which_pools};
use crate::words::{self, Seen};
use crate::{Stop, tell};
use memring_pool::config::Mode;
use memring_pool::handoff;
use memring_pool::replica::{State, Survey};
use memring_pool::shared::{self, Sharing};
use memring_pool::slices;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::ExitCode;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What --help prints.
pub(crate) const HELP: &str = concat!(
    "\
memring tend [--config FILE] [--list SAVE_PATH] [--interval SECONDS] [--state-dir DIR] [--once] [POOL…]

Looks after copied pools: asks every node for its record, founds a new pool, and gives nodes that came
back what they missed, until they are trusted. Nodes of a cache with copies give up what they missed as soon
as they answer. Each change is one line on stderr. Run it on every host, as the user PHP runs as: what it knows
of the nodes' health is then known to the workers, too.

",
    which_pools!(),
    " or a cache's with copies
  --interval SECONDS  between two looks, 1 unless said otherwise
  --state-dir DIR   memring.state_dir of PHP, where it is not /dev/shm
  --once            mend what can be mended now, then end

With --once: exit code 0 when every node is trusted (of a cache: answers, and owes nothing), 1 when not. Otherwise
it waits for a file that it can use, takes each change of it, and runs until it is ended (TERM)."
);

/// Rounds of --once: a pool that changes all the while is left to the next call.
const ROUNDS: u32 = 20;

/// The command.
///
/// # Errors
/// When it was asked wrongly.
pub(crate) fn main(parser: lexopt::Parser) -> Result<ExitCode, Stop> {
    let known = ["once", "interval", "state-dir"];
    let asked = Asked::read(parser, &known)?;
    if asked.once {
        let kept = asked.tended()?;
        share(&asked);
        let mut safe = true;
        for kept in kept {
            safe &= match kept.topology.policy.mode {
                Mode::Fenced => once(Watch::new(kept)),
                _ => Cache::new(&kept).once(),
            };
        }
        return Ok(ExitCode::from(u8::from(!safe)));
    }
    let (file, kept) = pools(&asked)?;
    share(&asked);
    Ok(stay(&asked, file, kept))
}

fn share(asked: &Asked) {
    if let Err(error) = shared::start(Sharing::User, &asked.state_dir) {
        tell(&format!("memring tend: {error}"));
    }
}

/// The pools, and what the file said when it was read, or before: a later word is news. Waits for
/// a file that can be used.
fn pools(asked: &Asked) -> Result<(Option<Vec<u8>>, Vec<Kept>), Stop> {
    let mut said = String::new();
    loop {
        let file = content(asked);
        match asked.tended() {
            Err(Stop::Wish(text)) if asked.file().is_some() => {
                if said != text {
                    tell(&format!(
                        "memring tend: {text}. It waits for a file that it can use"
                    ));
                    said = text;
                }
                std::thread::sleep(asked.interval);
            }
            kept => return Ok((file, kept?)),
        }
    }
}

/// Mends what can be mended now; true when every node is trusted.
fn once(mut watch: Watch) -> bool {
    for _ in 0..ROUNDS {
        let survey = watch.look();
        if let Err(error) = watch.host.fits(&survey) {
            watch.say(&error.to_string());
            return false;
        }
        if survey.is_safe() {
            return true;
        }
        if !mend::has_work(&survey) {
            return false;
        }
        let label = watch.kept.label.clone();
        let say = |line: &str| tell(&format!("memring tend: {label}: {line}"));
        if let Err(stuck) = mend::mend(&watch.kept, &mut watch.host, &watch.memory, &say) {
            say(&stuck.why);
            return false;
        }
    }
    false
}

/// Stays until it is ended, or until a thread has gone, which none does.
fn stay(asked: &Asked, mut file: Option<Vec<u8>>, kept: Vec<Kept>) -> ExitCode {
    let threads: Vec<JoinHandle<()>> = kept
        .into_iter()
        .map(|kept| {
            let interval = asked.interval;
            std::thread::spawn(move || match kept.topology.policy.mode {
                Mode::Fenced => Watch::new(kept).run(interval),
                _ => Cache::new(&kept).run(interval),
            })
        })
        .collect();
    while !threads.iter().any(JoinHandle::is_finished) {
        std::thread::sleep(asked.interval);
        let Some(path) = asked.file() else { continue };
        let now = content(asked);
        if now == file {
            continue;
        }
        file = now;
        match asked.tended() {
            Ok(_) => return begin_anew(path),
            Err(Stop::Wish(text) | Stop::Usage(text)) => tell(&format!(
                "memring tend: {text}. The pools are tended as they were"
            )),
        }
    }
    tell("memring tend: a pool's thread ended; so does the program, to be started anew");
    ExitCode::from(1)
}

/// What the file says. It is small, and its times do not tell of every change.
fn content(asked: &Asked) -> Option<Vec<u8>> {
    std::fs::read(asked.file()?).ok()
}

/// The same program with the same words in the same process: it reads the file as it is now.
fn begin_anew(path: &Path) -> ExitCode {
    tell(&format!(
        "memring tend: {} changed; the pools are tended as it says now",
        path.display()
    ));
    let mut words = std::env::args_os();
    let own = words.next().unwrap_or_default();
    let program = std::env::current_exe().unwrap_or_else(|_| own.into());
    // How Linux marks a file that is gone: where it was lies the one installed since.
    let bytes = program.as_os_str().as_bytes();
    let program = OsStr::from_bytes(bytes.strip_suffix(b" (deleted)").unwrap_or(bytes));
    let error = std::process::Command::new(program).args(words).exec();
    tell(&format!(
        "memring tend: {} cannot be begun anew ({error}), so it ends. Start it as it is installed now",
        program.display()
    ));
    ExitCode::from(1)
}

/// One pool, looked at again and again.
struct Watch {
    kept: Kept,
    host: Host,
    seen: Option<Vec<Seen>>,
    memory: Memory,
    mending: Option<JoinHandle<Result<(), Stuck>>>,
    /// Until when nothing can be mended, if the nodes stand as they did.
    rests: Option<(Instant, Survey)>,
    /// What was last said to stand in the way.
    trouble: Option<String>,
}

impl Watch {
    fn new(kept: Kept) -> Watch {
        Watch {
            host: Host::new(&kept),
            kept,
            seen: None,
            memory: Memory::default(),
            mending: None,
            rests: None,
            trouble: None,
        }
    }

    fn run(mut self, interval: Duration) {
        loop {
            let begin = Instant::now();
            let survey = self.look();
            self.have_mended(&survey);
            std::thread::sleep(interval.saturating_sub(begin.elapsed()));
        }
    }

    /// Looks at every node and says what changed since the last look.
    fn look(&mut self) -> Survey {
        shared::tend(shared::now());
        let processes = self.processes();
        let mut survey = self.host.survey();
        for (place, id) in self.memory.learn(&survey, &processes) {
            let host = &mut self.host;
            if host
                .pool
                .distrust(place, id, &host.record_key, &mut host.call)
            {
                self.say(&format!(
                    "{} is another process than it was, with the record and the memory of an earlier moment: it joins and gets what was written since",
                    survey.name(place)
                ));
                survey = self.host.survey();
            }
        }
        // Who cannot mend leaves it to the workers.
        if self.host.fits(&survey).is_ok() {
            slices::leave_to_tend(&self.host.pool, &self.host.record_key);
            let label = &self.kept.label;
            let say = |line: &str| tell(&format!("memring tend: {label}: {line}"));
            mend::end_turns(&self.kept, &mut self.host, &survey, &say);
        }
        if self.seen.is_none() {
            self.say(&words::count(&survey));
        }
        for place in 0..survey.len() {
            let before = self.seen.as_ref().and_then(|seen| seen.get(place)).copied();
            if let Some(line) = words::change(before, &survey, place) {
                self.say(&line);
            }
        }
        self.seen = Some(
            (0..survey.len())
                .map(|place| Seen::of(&survey, place))
                .collect(),
        );
        survey
    }

    /// Which process each node is, of those that answered at the last look.
    fn processes(&mut self) -> Vec<Option<u64>> {
        let answering: Vec<bool> = match &self.seen {
            Some(seen) => seen.iter().map(|seen| seen.answers()).collect(),
            None => {
                let survey = self.host.survey();
                let states = (0..survey.len()).map(|place| survey.state(place));
                states.map(|state| state != State::Silent).collect()
            }
        };
        let host = &mut self.host;
        (0..)
            .zip(answering)
            .map(|(place, answers)| {
                let asked =
                    answers.then(|| handoff::process(&mut host.pool, place, &mut host.call));
                asked.flatten()
            })
            .collect()
    }

    /// Mending may take minutes, and the looks must go on meanwhile: it has a thread.
    fn have_mended(&mut self, survey: &Survey) {
        if let Some(thread) = self.mending.take_if(|thread| thread.is_finished()) {
            match thread.join() {
                Ok(Ok(())) => self.trouble = None,
                Ok(Err(stuck)) => {
                    self.rests = Some((Instant::now() + stuck.pause, survey.clone()));
                    self.complain(stuck.why);
                }
                Err(_) => self.complain("mending broke off in a way it should not".to_owned()),
            }
            // What it did is for the next look to see.
            return;
        }
        let rests = self.rests.as_ref();
        let rests = rests.is_some_and(|(end, stood)| Instant::now() < *end && stood == survey);
        if self.mending.is_some() || rests {
            return;
        }
        if let Err(error) = self.host.fits(survey) {
            self.complain(error.to_string());
        } else if let Some(why) = mend::waits(&self.kept, survey) {
            self.complain(why);
        } else if mend::has_work(survey) {
            let (kept, memory) = (self.kept.clone(), self.memory.clone());
            self.mending = Some(std::thread::spawn(move || {
                let say = |line: &str| tell(&format!("memring tend: {}: {line}", kept.label));
                mend::mend(&kept, &mut Host::new(&kept), &memory, &say)
            }));
        } else {
            self.trouble = None;
        }
    }

    /// Says what stands in the way, once.
    fn complain(&mut self, why: String) {
        if self.trouble.as_ref() != Some(&why) {
            self.say(&why);
            self.trouble = Some(why);
        }
    }

    fn say(&self, line: &str) {
        tell(&format!("memring tend: {}: {line}", self.kept.label));
    }
}
