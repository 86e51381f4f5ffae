//! A child process that leads a group of its own and is stopped, with all it forked, when the value is dropped.
//!
//! Signals go only to that group; no process is ever found by name.

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use rustix::process::{kill_process, kill_process_group, waitid};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use crate::place::wait_until;

/// A running child and its group.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// How it ended, once it is collected; from then on its id belongs to nobody.
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts the command as the leader of a new process group.
    pub fn start(command: &mut Command) -> std::io::Result<Process> {
        Ok(Process {
            child: command.process_group(0).spawn()?,
            status: None,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The child, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal to the child alone.
    pub fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            let _ = kill_process(self.id(), signal);
        }
    }

    /// Stops it (SIGSTOP), and returns when its last thread stands still: one that was running may answer once more.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        let tasks = PathBuf::from(format!("/proc/{}/task", self.pid()));
        let stands = |task: &Path| {
            std::fs::read_to_string(task.join("stat"))
                .is_ok_and(|text| text.rsplit(") ").next().is_some_and(|s| s.starts_with('T')))
        };
        assert!(
            wait_until(Duration::from_secs(5), || {
                std::fs::read_dir(&tasks)
                    .is_ok_and(|found| found.flatten().all(|task| stands(&task.path())))
            }),
            "process {} did not stop within 5 s",
            self.pid()
        );
    }

    /// Whether it has ended.
    pub fn ended(&self) -> bool {
        // Left uncollected, so that its id, and the group's, stay taken until `kill` has used them.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        self.status.is_some() || matches!(waitid(WaitId::Pid(self.id()), options), Ok(Some(_)))
    }

    /// Waits for its end, then ends what it left behind in its group; `None` when it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        if wait_until(limit, || self.ended()) {
            self.kill();
        }
        self.status
    }

    /// Kills it as a crash would (SIGKILL), with everything it forked, and collects it.
    pub fn kill(&mut self) {
        if self.status.is_none() {
            let _ = kill_process_group(self.id(), Signal::KILL);
            self.status = self.child.wait().ok();
        }
    }

    /// Asks it to end (SIGTERM) and kills what is left after three seconds.
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        let _ = self.wait(Duration::from_secs(3));
        self.kill();
    }

    fn id(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
