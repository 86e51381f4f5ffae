//! The wires between processes and nodes: bytes on their way, and what goes wrong on it.
//!
//! Both directions of a connection keep their order and nothing else does: every command of one
//! connection may fall between any two of another's. Whoever closes takes nothing back: what is
//! in the network or in a hung server's buffers is carried out when it gets there (ghosts).

use rustix::event::PollFlags;
use rustix::io::Errno;

use super::faults::{Fault, Way};
use super::memcached::{Memcached, Memory};
use super::processes::{EPOCH, Hall};
use super::world::Phase;

mod trouble;

/// From the last fault to the last reads, microseconds.
const SETTLE: u64 = 4_000_000;

/// A calm that does not come is not waited for longer than this, microseconds.
const CALM: u64 = 60_000_000;

/// The longest that bytes are on their way, microseconds.
const FAR: u64 = 20_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Up,
    Down,
    Hung,
}

/// One node.
pub(super) struct Place {
    pub(super) server: Memcached,
    pub(super) state: State,
    /// Its answers take up to so much longer, microseconds.
    pub(super) slow: u64,
    /// Connections that wait for it to go on.
    pub(super) parked: Vec<u32>,
    pub(super) dump: Memory,
}

/// How far a connection is, for the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Opening,
    Open,
    Refused,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) process: usize,
    pub(super) node: usize,
    pub(super) stage: Stage,
    /// Bytes at the node, not carried out.
    input: Vec<u8>,
    /// Answers of commands that were carried out in one go.
    output: Vec<u8>,
    /// A step is under way.
    steps: bool,
    /// The node has no more to do with it.
    gone: bool,
    /// The process has closed it.
    closed: bool,
    /// From when on nothing of it is under way any more, since nobody sends it again.
    abort: Option<u64>,
    /// Bytes at the process.
    inbox: Vec<u8>,
    /// How it ended for the process.
    end: Option<Errno>,
    /// An answer of it was lost on its way: none comes after it.
    mute: bool,
    /// When the last bytes of each direction arrive.
    there: u64,
    back: u64,
}

/// What happens next.
#[derive(Debug)]
pub(super) enum Event {
    Start(usize),
    Wake(usize, u64),
    /// Bytes at the node, or that there are none any more.
    Arrive(u32, Option<Vec<u8>>),
    /// A connect at the node.
    Knock(u32),
    Step(u32),
    /// Bytes at the process.
    Answer(u32, Vec<u8>),
    Opened(u32, Stage),
    Reset(u32),
    /// Time for the next fault of the plan.
    /// Since when it waits for calm.
    Next(u64),
    /// The same of the last reads.
    Settled(u64),
    Begin(Fault, u64),
    Strike(Fault, u64),
    Heal(Fault),
}

impl Line {
    /// Is one of these there?
    pub(super) fn is_ready(&self, flags: PollFlags) -> bool {
        match self.stage {
            Stage::Opening => false,
            Stage::Refused => true,
            Stage::Open => {
                flags.contains(PollFlags::OUT) || !self.inbox.is_empty() || self.end.is_some()
            }
        }
    }
}

impl Hall {
    pub(super) fn handle(&mut self, event: Event) {
        match event {
            Event::Start(process) => self.start(process),
            Event::Wake(process, wait) => self.ring(process, wait),
            Event::Knock(socket) => self.knock(socket),
            Event::Opened(socket, stage) => {
                self.line(socket).stage = stage;
                self.stir(socket);
            }
            Event::Arrive(socket, bytes) => self.arrive(socket, bytes),
            Event::Step(socket) => self.step(socket),
            Event::Answer(socket, bytes) => self.answered(socket, bytes),
            Event::Reset(socket) => {
                self.line(socket).end.get_or_insert(Errno::CONNRESET);
                self.stir(socket);
            }
            Event::Next(since) => self.next_fault(since),
            Event::Settled(since) => {
                if !self.is_calm() && self.time < since + CALM {
                    return self.after(50_000, Event::Settled(since));
                }
                self.note(|| "finale".into());
                self.phase = Phase::Finale;
            }
            Event::Begin(fault, lasts) => self.begin(fault, lasts),
            Event::Strike(fault, lasts) => {
                if let Fault::Old { node, .. } = fault {
                    self.crash(node);
                }
                self.after(lasts * 1000, Event::Heal(fault));
            }
            Event::Heal(fault) => self.heal(&fault),
        }
    }

    fn line(&mut self, socket: u32) -> &mut Line {
        &mut self.lines[socket as usize]
    }

    fn delay(&mut self) -> u64 {
        match self.random.below(40) {
            0 => self.random.between(1000, FAR),
            _ => self.random.between(20, 300),
        }
    }

    fn slow(&mut self, node: usize) -> u64 {
        match self.places[node].slow {
            0 => 0,
            by => self.random.between(by / 2, by),
        }
    }

    fn bars(&self, socket: u32, way: Way) -> bool {
        let line = &self.lines[socket as usize];
        self.barred.contains(&(line.process, line.node, way))
    }

    pub(super) fn connect(&mut self, process: usize, node: usize) -> u32 {
        let socket = self.lines.len() as u32;
        self.note(|| format!("process {process} → node {node} connection {socket}"));
        self.lines.push(Line {
            process,
            node,
            stage: Stage::Opening,
            input: Vec::new(),
            output: Vec::new(),
            steps: false,
            gone: false,
            closed: false,
            abort: None,
            inbox: Vec::new(),
            end: None,
            mute: false,
            there: 0,
            back: 0,
        });
        let delay = self.delay();
        self.after(delay, Event::Knock(socket));
        socket
    }

    /// A stopped process's system still takes connections; a silent network takes none.
    fn knock(&mut self, socket: u32) {
        if self.bars(socket, Way::There) || self.bars(socket, Way::Back) {
            return;
        }
        let node = self.line(socket).node;
        let stage = match self.places[node].state {
            State::Down => Stage::Refused,
            State::Up | State::Hung => Stage::Open,
        };
        self.line(socket).gone = stage == Stage::Refused;
        let delay = self.delay();
        self.after(delay, Event::Opened(socket, stage));
    }

    pub(super) fn send(&mut self, socket: u32, bytes: &[u8]) -> Result<usize, Errno> {
        let line = self.line(socket);
        if line.stage != Stage::Open {
            return Err(Errno::NOTCONN);
        }
        if let Some(errno) = line.end {
            return Err(errno);
        }
        let (process, node) = (line.process, line.node);
        self.note(|| {
            let text = String::from_utf8_lossy(bytes).replace("\r\n", "⏎");
            format!("process {process} → node {node} connection {socket}: {text}")
        });
        self.put(socket, Some(bytes.to_vec()));
        Ok(bytes.len())
    }

    /// Gives bytes, or the end of a connection, to the network.
    fn put(&mut self, socket: u32, bytes: Option<Vec<u8>>) {
        let after_held = self.held.iter().any(|(other, _)| *other == socket);
        if self.bars(socket, Way::There) || after_held {
            self.held.push((socket, bytes));
            return;
        }
        let delay = self.delay();
        let at = (self.time + delay).max(self.line(socket).there + 1);
        self.line(socket).there = at;
        self.after(at - self.time, Event::Arrive(socket, bytes));
    }

    fn arrive(&mut self, socket: u32, bytes: Option<Vec<u8>>) {
        let time = self.time;
        let line = self.line(socket);
        if line.gone || line.abort.is_some_and(|abort| abort < time) {
            return;
        }
        if let Some(bytes) = bytes {
            self.line(socket).input.extend_from_slice(&bytes);
        }
        self.step_soon(socket);
    }

    fn step_soon(&mut self, socket: u32) {
        let line = self.line(socket);
        if !line.steps && !line.input.is_empty() {
            line.steps = true;
            let wait = self.random.between(1, 30);
            self.after(wait, Event::Step(socket));
        }
    }

    /// The node carries out one command of a connection.
    fn step(&mut self, socket: u32) {
        let Line { node, gone, .. } = *self.line(socket);
        if gone {
            return;
        }
        let (time, date) = (self.time / 1000, (EPOCH + self.time / 1000) / 1000);
        let random = &mut self.random;
        let place = &mut self.places[node];
        if place.state == State::Hung {
            place.parked.push(socket);
            return;
        }
        let line = &mut self.lines[socket as usize];
        if let Some(carried) = place.server.hear(time, date, &line.input, random) {
            line.input.drain(..carried.used);
            line.output.extend_from_slice(&carried.answer);
            match (carried.stored, &self.setup.sessions) {
                (Some(key), None) => {
                    if let Some(held) = place.server.peek(&key) {
                        self.values.stored(time, &key, held);
                    }
                }
                (Some(key), Some(sessions)) => {
                    if let (Some(number), Some(held)) =
                        ((sessions.number)(&key), place.server.session(&key))
                    {
                        self.history.stored(time, number, held);
                    }
                }
                (None, _) => {}
            }
            if carried.flushed {
                self.values.wiped(node);
            }
            self.note(|| {
                let text = String::from_utf8_lossy(&carried.answer).replace("\r\n", "⏎");
                format!("node {node} connection {socket}: {text}")
            });
            if !self.line(socket).input.is_empty() {
                let wait = self.random.between(1, 40);
                return self.after(wait, Event::Step(socket));
            }
        }
        let line = self.line(socket);
        line.steps = false;
        let output = std::mem::take(&mut line.output);
        if output.is_empty() {
            return;
        }
        if self.random.below(16) == 0 && output.len() > 1 {
            // In two pieces.
            let cut = 1 + self.random.below(output.len() - 1);
            let (one, two) = output.split_at(cut);
            self.put_back(socket, one.to_vec());
            self.put_back(socket, two.to_vec());
        } else {
            self.put_back(socket, output);
        }
    }

    fn put_back(&mut self, socket: u32, bytes: Vec<u8>) {
        let node = self.line(socket).node;
        let delay = self.delay() + self.slow(node);
        let at = (self.time + delay).max(self.line(socket).back + 1);
        self.line(socket).back = at;
        self.after(at - self.time, Event::Answer(socket, bytes));
    }

    fn answered(&mut self, socket: u32, bytes: Vec<u8>) {
        if self.bars(socket, Way::Back) {
            self.line(socket).mute = true;
        }
        let line = self.line(socket);
        if line.mute || line.closed || line.end.is_some() {
            return;
        }
        line.inbox.extend_from_slice(&bytes);
        self.stir(socket);
    }

    /// Bytes for the process; nothing while it has to wait for them.
    pub(super) fn take(
        &mut self,
        socket: u32,
        room: &mut [u8],
        peek: bool,
    ) -> Option<Result<usize, Errno>> {
        let line = self.line(socket);
        if line.inbox.is_empty() {
            return line.end.map(Err);
        }
        let count = room.len().min(line.inbox.len());
        room[..count].copy_from_slice(&line.inbox[..count]);
        if !peek {
            line.inbox.drain(..count);
        }
        Some(Ok(count))
    }

    /// The process closes a connection; who aborts it takes back what has not left his host, or
    /// was lost on its way.
    pub(super) fn hang_up(&mut self, socket: u32, abort: bool) {
        if abort && !self.setup.deaf {
            let reach = self.time + FAR;
            self.line(socket).abort.get_or_insert(reach);
            self.held.retain(|(other, _)| *other != socket);
        }
        let line = self.line(socket);
        if !std::mem::replace(&mut line.closed, true) {
            line.inbox = Vec::new();
            if line.stage == Stage::Open {
                self.put(socket, None);
            }
        }
    }

    /// The process is gone.
    pub(super) fn hang_up_all(&mut self, process: usize) {
        for socket in 0..self.lines.len() {
            if self.lines[socket].process == process {
                self.hang_up(socket as u32, false);
            }
        }
    }
}
