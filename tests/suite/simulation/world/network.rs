//! The network's part of the world: a request on its way to a node, command by command, and
//! its answer on the way back.

use std::collections::VecDeque;

use memring_pool::replica::{Command, Lost, Reply, Send};

use super::super::faults::Way;
use super::{EPOCH, Event, Pipe, State, World};

impl World {
    pub(super) fn delay(&mut self) -> u64 {
        match self.random.below(32) {
            0 => self.random.between(3, 25),
            _ => self.random.between(0, 2),
        }
    }

    pub(super) fn slow(&mut self, node: usize) -> u64 {
        match self.places[node].slow {
            0 => 0,
            by => self.random.between(by / 2, by),
        }
    }

    pub(super) fn send(&mut self, client: usize, send: Send) {
        let (key, run) = (self.seats[client].key, self.seats[client].run);
        let node = self.seats[client].places[send.place];
        let there = self.barred.contains(&(client, node, Way::There));
        let back = self.barred.contains(&(client, node, Way::Back));
        let line = self.lines.get(&(client, node)).copied();
        let connection = line.unwrap_or_else(|| {
            self.connections.push(VecDeque::new());
            self.connections.len() - 1
        });
        let pipe = self.pipes.len();
        self.note(|| {
            let said = &send.commands;
            format!("client {client} → node {node} #{pipe} key {key}: {said:?}")
        });
        self.pipes.push(Pipe {
            client,
            run,
            place: send.place,
            node,
            connection,
            key,
            commands: send.commands,
            replies: Vec::new(),
            maybe_done: true,
            arrived: false,
            finished: false,
            answered: false,
        });
        let delay = self.delay();
        let refused = self.places[node].state == State::Down;
        let deadline = (self.time + self.setup.timeout, self.random.bits(), pipe);
        self.deadlines.push_back(deadline);
        if line.is_none() && (refused || there || back) {
            // No connection comes about: refused at once, or no answer to the first packet.
            self.pipes[pipe].maybe_done = false;
            self.pipes[pipe].finished = true;
            if !there && !back {
                self.after(delay, Event::Reset(pipe));
            }
            return;
        }
        self.lines.insert((client, node), connection);
        self.connections[connection].push_back(pipe);
        if there {
            self.held.push(pipe);
        } else {
            let slow = self.slow(node);
            self.after(delay + slow, Event::Arrive(pipe));
        }
    }

    /// The first request of a connection is carried out once it is there; the others wait.
    pub(super) fn step_if_first(&mut self, connection: usize) {
        if let Some(&first) = self.connections[connection].front()
            && self.pipes[first].arrived
        {
            self.after(0, Event::Step(first));
        }
    }

    pub(super) fn step(&mut self, at: usize) {
        let pipe = &mut self.pipes[at];
        if pipe.finished {
            return;
        }
        let place = &mut self.places[pipe.node];
        if place.state == State::Hung {
            place.parked.push(at);
            return;
        }
        if let Some(command) = pipe.commands.get(pipe.replies.len()) {
            let reply = (place.node).apply(self.time, pipe.key, command, &mut self.random);
            if let (Command::Write { .. } | Command::Unlock { .. }, Some(held)) =
                (command, place.node.peek(pipe.key))
            {
                self.history.stored(self.time, pipe.key, held);
            }
            if self.trace {
                let (node, key) = (pipe.node, pipe.key);
                eprintln!("{:>8} node {node} #{at} key {key}: {reply:?}", self.time);
            }
            pipe.replies.push(reply);
        }
        if pipe.replies.len() < pipe.commands.len() {
            let wait = self.random.between(0, 4) / 3;
            return self.after(wait, Event::Step(at));
        }
        let node = pipe.node;
        self.finish(at);
        let wait = self.delay() + self.slow(node) / 2;
        self.after(wait, Event::Answer(at));
    }

    /// Nothing more of this request is carried out; the next on its connection follows.
    pub(super) fn finish(&mut self, at: usize) {
        let pipe = &mut self.pipes[at];
        pipe.finished = true;
        pipe.commands = Vec::new();
        let connection = pipe.connection;
        let queue = &mut self.connections[connection];
        if queue.front() == Some(&at) {
            queue.pop_front();
            self.step_if_first(connection);
        } else {
            queue.retain(|&other| other != at);
        }
    }

    /// Requests that are not finished, in the order in which they were sent.
    pub(super) fn open(&self) -> Vec<usize> {
        let mut open: Vec<usize> = self.connections.iter().flatten().copied().collect();
        open.sort_unstable();
        open
    }

    /// The client closes the connection, and with it all that it still waited for on it.
    pub(super) fn hang_up(&mut self, at: usize) {
        let Pipe {
            client,
            node,
            connection,
            answered,
            ..
        } = self.pipes[at];
        if answered {
            return;
        }
        if self.lines.get(&(client, node)) == Some(&connection) {
            self.lines.remove(&(client, node));
        }
        let queue = self.connections[connection].iter().copied();
        let also: Vec<usize> = queue.filter(|&other| other != at).collect();
        for pipe in std::iter::once(at).chain(also) {
            let maybe_done = self.pipes[pipe].maybe_done;
            self.deliver(pipe, Err(Lost { maybe_done }));
        }
    }

    pub(super) fn deliver(&mut self, at: usize, replies: Result<Vec<Reply>, Lost>) {
        let pipe = &mut self.pipes[at];
        let (client, run, place) = (pipe.client, pipe.run, pipe.place);
        if std::mem::replace(&mut pipe.answered, true) {
            return;
        }
        if let Err(lost) = &replies {
            let (node, maybe) = (pipe.node, lost.maybe_done);
            self.note(|| format!("client {client} ⇍ node {node} #{at}: lost, maybe done: {maybe}"));
        }
        let seat = &mut self.seats[client];
        if seat.run != run || !seat.running {
            return;
        }
        let now = EPOCH
            .saturating_add(self.time)
            .saturating_add_signed(seat.offset);
        let mut out = Vec::new();
        if let Some(client) = &mut seat.client {
            client.machine().heard(now, place, replies, &mut out);
        }
        self.go_on(client, out);
    }
}
