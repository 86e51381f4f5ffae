//! A process's own machine: what a player of `memring_pool::transport` says for a seat in the hall.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::panic::resume_unwind;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use memring_pool::transport::Player;
use rustix::event::PollFlags;
use rustix::io::Errno;

use super::super::wires::Stage;
use super::super::world::Phase;
use super::{Hall, Killed, Process, Seat};

impl Player for Seat {
    fn now(&self) -> Duration {
        self.with(|hall| Duration::from_micros(hall.time))
    }

    fn clock(&self) -> u64 {
        self.with(|hall| hall.clock(hall.processes[self.own].host))
    }

    fn throw(&self) -> u64 {
        self.with(|hall| hall.random.bits())
    }

    fn pause(&self, time: Duration) {
        self.think(time.as_micros() as u64);
    }

    fn host(&self) -> Box<str> {
        let host = self.with(|hall| hall.processes[self.own].host);
        format!("host{host}").into()
    }

    fn process(&self) -> u64 {
        self.with(|hall| hall.number(self.own))
    }

    fn is_gone(&self, process: u64) -> bool {
        self.with(|hall| {
            let place = (process >> 24) as usize;
            let place = place.checked_sub(1).filter(|at| *at < hall.processes.len());
            place.is_some_and(|at| hall.number(at) != process || hall.processes[at].over)
        })
    }

    fn listen(&self, bell: &AtomicU32, classes: NonZeroU32, limit: Duration) -> bool {
        let listens = (std::ptr::from_ref(bell).addr(), classes.get(), false);
        let until = self.with(|hall| {
            hall.processes[self.own].listens = Some(listens);
            hall.time + limit.as_micros() as u64
        });
        let rung = self.wait(&[], Some(until), |hall| {
            let (.., rung) = hall.processes[self.own].listens?;
            rung.then_some(())
        });
        self.with(|hall| hall.processes[self.own].listens = None);
        rung.is_some()
    }

    fn ring(&self, bell: &AtomicU32, classes: NonZeroU32) {
        let rung = std::ptr::from_ref(bell).addr();
        self.with(|hall| {
            let hears = |process: &Process| {
                let hears = |(bell, own, heard): (usize, u32, bool)| {
                    bell == rung && own & classes.get() != 0 && !heard
                };
                process.listens.is_some_and(hears)
            };
            let all = 0..hall.processes.len();
            let mut who: Vec<usize> = all.filter(|at| hears(&hall.processes[*at])).collect();
            if !who.is_empty() {
                let one = who.swap_remove(hall.random.below(who.len()));
                if let Some((.., heard)) = &mut hall.processes[one].listens {
                    *heard = true;
                }
                hall.wake(one);
            }
        });
    }

    fn connect(&self, to: SocketAddr) -> u32 {
        self.with(|hall| hall.connect(self.own, usize::from(to.port()) - 1))
    }

    fn connected(&self, socket: u32) -> Result<(), Errno> {
        self.with(|hall| match hall.lines[socket as usize].stage {
            Stage::Open => Ok(()),
            _ => Err(Errno::CONNREFUSED),
        })
    }

    fn send(&self, socket: u32, bytes: &[u8]) -> Result<usize, Errno> {
        let (dies, stops) = self.with(|hall| {
            let stops = hall.random.chance(10).then(|| hall.random.between(1, 400));
            let process = &mut hall.processes[self.own];
            let dies = process.doomed == Some(0);
            process.doomed = process.doomed.map(|sends| sends.saturating_sub(1));
            (dies, stops)
        });
        if dies {
            self.with(|hall| {
                hall.note(|| format!("process {} is killed", self.own));
                hall.processes[self.own].ends = true;
            });
            resume_unwind(Box::new(Killed));
        }
        if let Some(stops) = stops {
            // The processor is somebody else's for a while.
            self.think(stops);
        }
        self.with(|hall| hall.send(socket, bytes))
    }

    fn receive(
        &self,
        socket: u32,
        room: &mut [u8],
        limit: Duration,
        peek: bool,
    ) -> Result<usize, Errno> {
        let until = self.with(|hall| hall.time) + limit.as_micros() as u64;
        self.wait(&[socket], Some(until), |hall| hall.take(socket, room, peek))
            .unwrap_or(Err(Errno::AGAIN))
    }

    fn poll(&self, wishes: &[(u32, PollFlags)], limit: Option<Duration>) -> Vec<bool> {
        let sockets: Vec<u32> = wishes.iter().map(|(socket, _)| *socket).collect();
        let now = self.with(|hall| hall.time);
        let until = limit.map(|limit| now + limit.as_micros() as u64);
        let ready = |hall: &mut Hall| {
            let ready: Vec<bool> = wishes
                .iter()
                .map(|(socket, flags)| hall.lines[*socket as usize].is_ready(*flags))
                .collect();
            ready.contains(&true).then_some(ready)
        };
        self.wait(&sockets, until, ready)
            .unwrap_or_else(|| vec![false; wishes.len()])
    }

    fn close(&self, socket: u32, abort: bool) {
        self.with(|hall| {
            // Who ends frees his memory in an order of its own: what is open then is closed in
            // the hall's.
            if !hall.processes[self.own].ends && hall.phase != Phase::Finale {
                hall.hang_up(socket, abort);
            }
        });
    }
}
