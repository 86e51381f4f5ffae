//! Running other programs: with something on the screen while they run, and nothing left of them afterwards.
//!
//! Every child is written down by pid until it is reaped, so that Ctrl-C, TERM and an early error can end exactly
//! the processes this one started and no other. It is no job scheduler: two threads at most call it at once.

use crate::{Stop, failed};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A silent step says that it is still alive this often; CI systems end a job that is silent for minutes.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long a server may take to end after TERM before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// Prints a line at once, so that it keeps its place between the lines of child programs.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // A closed stdout is no reason to stop the work.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Prints the headline of a step.
pub(crate) fn headline(text: &str) {
    say(&format!("== {text}"));
}

/// While it lives, says every [`HEARTBEAT`] that the step is still running.
pub(crate) struct Heartbeat {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Heartbeat {
    /// Starts the beat for a step with this name.
    pub(crate) fn start(label: &str) -> Self {
        let (end, ended) = channel();
        let label = label.to_owned();
        let thread = std::thread::spawn(move || {
            let begin = Instant::now();
            while ended.recv_timeout(HEARTBEAT) == Err(RecvTimeoutError::Timeout) {
                say(&format!("   … {label}: {} s", begin.elapsed().as_secs()));
            }
        });
        Self {
            end: Some(end),
            thread: Some(thread),
        }
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.end.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs a command whose own output goes to the screen.
///
/// # Errors
/// When it cannot be started or ends with anything but success.
pub(crate) fn shown(label: &str, command: &mut Command) -> Result<(), Stop> {
    headline(label);
    let _beat = Heartbeat::start(label);
    let mut child = Running::start(command.stdin(Stdio::null()))?;
    let status = child.wait()?;
    told(label, command, status)
}

/// Runs a command and hands every line of its stdout to `each`; stderr goes to the screen.
///
/// # Errors
/// When it cannot be started; its exit status is the answer, good or bad.
pub(crate) fn lines(
    label: &str,
    command: &mut Command,
    mut each: impl FnMut(&str),
) -> Result<ExitStatus, Stop> {
    headline(label);
    let _beat = Heartbeat::start(label);
    let mut child = Running::start(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
    if let Some(out) = child.child.stdout.take() {
        let mut reader = BufReader::new(out);
        let mut line = Vec::new();
        while reader
            .read_until(b'\n', &mut line)
            .is_ok_and(|read| read > 0)
        {
            each(String::from_utf8_lossy(&line).trim_end());
            line.clear();
        }
    }
    child.wait()
}

/// Runs a command quietly and returns its stdout; what it printed is shown when it fails.
///
/// # Errors
/// When it cannot be started or ends with anything but success.
pub(crate) fn quiet(label: &str, command: &mut Command) -> Result<String, Stop> {
    let _beat = Heartbeat::start(label);
    let (status, output) = merged(command, b"", None)?;
    let text = String::from_utf8_lossy(&output).into_owned();
    if !status.success() {
        say(text.trim_end());
    }
    told(label, command, status)?;
    Ok(text)
}

/// Runs a command with `input` on its stdin and returns status and output, stdout and stderr in one stream as they
/// came. Past `limit` the child is killed and the status says so.
///
/// # Errors
/// When it cannot be started or its output cannot be read.
pub(crate) fn merged(
    command: &mut Command,
    input: &[u8],
    limit: Option<Duration>,
) -> Result<(ExitStatus, Vec<u8>), Stop> {
    let name = command.get_program().to_owned();
    let broken = |error: std::io::Error| failed(format!("talking to {}", name.display()), error);
    let (mut reader, writer) = std::io::pipe().map_err(broken)?;
    let second = writer.try_clone().map_err(broken)?;
    command.stdin(Stdio::piped()).stdout(writer).stderr(second);
    let started = Running::start_in_group(command);
    // The command holds both write ends; without this the reader below would never see an end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = started?;
    if let Some(mut stdin) = child.child.stdin.take() {
        // A child that does not read its input has closed the pipe: its own affair.
        let _ = stdin.write_all(input);
    }
    let pid = child.pid();
    let watchdog = limit.map(|limit| {
        let (end, ended) = channel::<()>();
        let thread = std::thread::spawn(move || {
            if ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                signal(pid, true, Signal::KILL);
            }
        });
        (end, thread)
    });
    let mut output = Vec::new();
    let read = reader.read_to_end(&mut output);
    // End the watchdog before the child is reaped: until then its pid cannot belong to anybody else.
    if let Some((end, thread)) = watchdog {
        drop(end);
        let _ = thread.join();
    }
    let status = child.wait()?;
    read.map_err(broken)?;
    Ok((status, output))
}

fn told(label: &str, command: &Command, status: ExitStatus) -> Result<(), Stop> {
    if status.success() {
        return Ok(());
    }
    Err(Stop::Failed(format!(
        "{label} did not work: {} ended with {status}",
        command.get_program().display()
    )))
}

/// A child process that does not outlive this value: TERM on drop, then KILL after a grace of five seconds.
pub(crate) struct Running {
    child: Child,
    program: OsString,
    /// Whether it leads a process group of its own.
    group: bool,
    reaped: bool,
}

impl Running {
    /// Starts the command in our own process group, where the terminal's Ctrl-C reaches it and sudo can ask.
    ///
    /// # Errors
    /// When the program cannot be started; the message names it.
    pub(crate) fn start(command: &mut Command) -> Result<Self, Stop> {
        Self::spawn(command, false)
    }

    /// Starts the command as the leader of a process group, which is then signalled as a whole. Servers must be
    /// started so: Apache ends its whole group when it ends, and that would be us.
    ///
    /// # Errors
    /// When the program cannot be started; the message names it.
    pub(crate) fn start_in_group(command: &mut Command) -> Result<Self, Stop> {
        Self::spawn(command.process_group(0), true)
    }

    fn spawn(command: &mut Command, group: bool) -> Result<Self, Stop> {
        let program = command.get_program().to_owned();
        // Held over the spawn: a signal that arrives in between finds the child in the list.
        let mut list = children();
        let child = command
            .spawn()
            .map_err(|error| failed(format!("cannot start {}", program.display()), error))?;
        list.insert(child.id(), group);
        drop(list);
        Ok(Self {
            child,
            program,
            group,
            reaped: false,
        })
    }

    /// The child's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its standard input and output, once, where both were asked for as pipes.
    pub(crate) fn pipes(&mut self) -> Option<(ChildStdin, ChildStdout)> {
        Some((self.child.stdin.take()?, self.child.stdout.take()?))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When the system refuses to wait for it.
    pub(crate) fn wait(&mut self) -> Result<ExitStatus, Stop> {
        let status = self
            .child
            .wait()
            .map_err(|error| failed(self.program.display(), error))?;
        self.forget();
        Ok(status)
    }

    /// Ends it at once, with its group; for what has nothing to put in order.
    pub(crate) fn kill(&mut self) {
        if !self.reaped {
            signal(self.pid(), self.group, Signal::KILL);
            let _ = self.wait();
        }
    }

    /// Whether it has ended by itself.
    pub(crate) fn ended(&mut self) -> bool {
        let ended = !matches!(self.child.try_wait(), Ok(None));
        if ended {
            self.forget();
        }
        ended
    }

    fn forget(&mut self) {
        self.reaped = true;
        children().remove(&self.child.id());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.reaped {
            return;
        }
        signal(self.pid(), self.group, Signal::TERM);
        let begin = Instant::now();
        while !self.ended() {
            if begin.elapsed() > GRACE {
                signal(self.pid(), self.group, Signal::KILL);
                let _ = self.child.wait();
                self.forget();
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The pids of the children not yet reaped, and whether each leads a group.
static CHILDREN: Mutex<BTreeMap<u32, bool>> = Mutex::new(BTreeMap::new());

fn children() -> MutexGuard<'static, BTreeMap<u32, bool>> {
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn signal(pid: u32, group: bool, signal: Signal) {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return;
    };
    // It may have ended meanwhile; then there is nothing to do.
    let _ = if group {
        kill_process_group(pid, signal)
    } else {
        kill_process(pid, signal)
    };
}

/// Ends every child that still runs: TERM, and after a third of a second KILL for the servers among them. While
/// the answer is held, no thread of ours can start another one.
pub(crate) fn stop_children() -> MutexGuard<'static, BTreeMap<u32, bool>> {
    let children = children();
    for (pid, group) in children.iter() {
        signal(*pid, *group, Signal::TERM);
    }
    if children.values().any(|group| *group) {
        std::thread::sleep(Duration::from_millis(300));
    }
    for (pid, _) in children.iter().filter(|(_, group)| **group) {
        signal(*pid, true, Signal::KILL);
    }
    children
}

/// On INT, TERM or HUP: ends the children, removes the scratch directories, and exits with 128 + the signal.
pub(crate) fn stop_children_on_signals() {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]) else {
        return;
    };
    std::thread::spawn(move || {
        if let Some(number) = signals.forever().next() {
            let _no_more = stop_children();
            let scratches = SCRATCHES
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            for path in scratches {
                // A thread that has not noticed yet may be writing a file in it.
                for _ in 0..5 {
                    let _ = std::fs::remove_dir_all(&path);
                    if !path.exists() {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            std::process::exit(128 + number);
        }
    });
}

static SCRATCHES: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A directory of our own under the system's temporary directory, removed on drop.
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes one; servers that drop root may enter it, nobody but us may write in it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn new(name: &str) -> Result<Self, Stop> {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // Short: the path of a unix socket in it may have 107 bytes.
        let path =
            std::env::temp_dir().join(format!("memring-{name}-{}-{number}", std::process::id()));
        // create_dir refuses a name that exists, so a symlink laid there beforehand is not followed.
        std::fs::create_dir(&path)
            .map_err(|error| failed(format!("cannot make {}", path.display()), error))?;
        SCRATCHES
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(path.clone());
        Ok(Self { path })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
        SCRATCHES
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.path);
    }
}

/// The root of the work tree.
pub(crate) fn root() -> PathBuf {
    // Set by `cargo run`; the built-in value serves when the binary is called directly.
    let own = std::env::var_os("CARGO_MANIFEST_DIR")
        .unwrap_or_else(|| OsString::from(env!("CARGO_MANIFEST_DIR")));
    Path::new(&own)
        .ancestors()
        .nth(2)
        .map_or_else(PathBuf::new, Path::to_path_buf)
}

/// The target directory, as cargo sees it.
pub(crate) fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(path) => root().join(path),
        None => root().join("target"),
    }
}

/// The cargo that runs us, in the root of the work tree.
pub(crate) fn cargo<S: AsRef<OsStr>>(words: impl IntoIterator<Item = S>) -> Command {
    let mut command =
        Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.current_dir(root()).args(words);
    command
}

/// Writes a file, or says which one could not be written.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn write(path: &Path, text: impl AsRef<[u8]>) -> Result<(), Stop> {
    std::fs::write(path, text)
        .map_err(|error| failed(format!("cannot write {}", path.display()), error))
}

/// Makes a directory and its parents, or says which one could not be made.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn make_dir(path: &Path) -> Result<(), Stop> {
    std::fs::create_dir_all(path)
        .map_err(|error| failed(format!("cannot make {}", path.display()), error))
}

/// Copies a file, or says which one could not be copied.
///
/// # Errors
/// When it cannot be read or written.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<(), Stop> {
    std::fs::copy(from, to).map(drop).map_err(|error| {
        failed(
            format!("cannot copy {} to {}", from.display(), to.display()),
            error,
        )
    })
}

/// Finds a program in PATH and in the sbin directories, which an ordinary user's PATH lacks.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// Whether we are root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
