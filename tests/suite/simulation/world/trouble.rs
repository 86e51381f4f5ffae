//! The faults' part of the world: they begin, heal, and leave late requests behind.

use std::collections::BTreeMap;

use memring_pool::replica::Trust;

use super::super::faults::{Fault, Kind, Plan};
use super::super::node::Memory;
use super::{CALM, Event, Phase, State, World};

impl World {
    pub(super) fn next_fault(&mut self, since: u64) {
        let (kinds, pause) = match self.setup.plan {
            Plan::Draw { kinds, .. } => (kinds, self.pause()),
            Plan::Calm | Plan::Script(_) => (&[] as &[Kind], 0),
        };
        let ended = self.time >= self.setup.duration;
        if self.faults > 0 || (kinds.is_empty() && !ended) {
            return self.after(50, Event::Next(self.time + 50));
        }
        if ended && self.phase == Phase::Work {
            self.phase = Phase::Settle;
            self.note(|| "no more faults".into());
            let settle = self.setup.settle;
            return self.after(settle, Event::Next(self.time + settle));
        }
        let waits = !self.is_calm() || ended && self.setup.calm.step.get();
        if (ended || pause > 0) && self.time < since + CALM && waits {
            return self.after(50, Event::Next(since));
        }
        if ended {
            self.note(|| "finale".into());
            self.phase = Phase::Finale;
            return;
        }
        let kind = kinds[self.random.below(kinds.len())];
        let fault = kind.draw(self.places.len(), self.seats.len(), &mut self.random);
        let lasts = fault.lasts(&mut self.random);
        self.faults += 1;
        self.begun += 1;
        self.begin(fault, lasts);
    }

    /// Between the last fault and the next: none within a row.
    fn pause(&self) -> u64 {
        match self.setup.plan {
            Plan::Draw { row, pause, .. } if self.begun.is_multiple_of(row.max(1)) => pause,
            Plan::Draw { .. } | Plan::Calm | Plan::Script(_) => 0,
        }
    }

    /// Every node can be believed, and nobody remembers that one missed something.
    fn is_calm(&self) -> bool {
        let nodes = self.setup.calm.nodes.borrow();
        nodes.iter().all(|(at, _)| {
            (self.places[*at].node.record()).is_some_and(|record| {
                record.trust == Trust::Trusted && !nodes.iter().any(|(_, name)| record.lists(name))
            })
        })
    }

    pub(super) fn begin(&mut self, fault: Fault, lasts: u64) {
        self.note(|| format!("FAULT {fault:?} for {lasts}"));
        self.turned += 1;
        self.history.turns.trouble(self.time, true);
        match &fault {
            Fault::Crash { node } => self.crash(*node),
            Fault::Hang { node } => self.places[*node].state = State::Hung,
            Fault::Old { node, age } => {
                let place = &mut self.places[*node];
                place.dump = place.node.dump();
                return self.after(*age, Event::Strike(fault, lasts));
            }
            Fault::Flush { node } => self.places[*node].node.restart(Memory::default()),
            Fault::Evict { node } => self.places[*node].node.evict(4, &mut self.random),
            Fault::Foreign { node, key } => self.places[*node].node.store_plain(self.time, *key),
            Fault::Full { node } => self.places[*node].node.full = true,
            Fault::Slow { node, by } => self.places[*node].slow = *by,
            Fault::Partition {
                node,
                clients,
                ways,
            } => {
                for (&client, &way) in clients
                    .iter()
                    .flat_map(|c| ways.iter().map(move |w| (c, w)))
                {
                    self.barred.insert((client, *node, way));
                }
            }
            Fault::Cut { node, client } => {
                let open = self.open().into_iter();
                let (node, client) = (*node, *client);
                let pipes = &self.pipes;
                let cut: Vec<usize> = open
                    .filter(|&at| (pipes[at].node, pipes[at].client) == (node, client))
                    .collect();
                self.reset(&cut);
                self.lines.remove(&(client, node));
            }
            Fault::Kill { client } => {
                // It told one node after the other: what had not left it never arrives.
                let pipes = &self.pipes;
                let unsent: Vec<usize> = self
                    .open()
                    .into_iter()
                    .filter(|&at| pipes[at].client == *client && !pipes[at].arrived)
                    .filter(|at| !self.held.contains(at))
                    .collect();
                for pipe in unsent {
                    if self.random.chance(50) {
                        self.finish(pipe);
                    }
                }
                self.with_scene(*client, |process, scene| process.killed(scene));
                let seat = &mut self.seats[*client];
                if !seat.over {
                    seat.run += 1;
                    seat.running = false;
                    let run = seat.run;
                    self.lines.retain(|(who, _), _| who != client);
                    let wait = self.random.between(1, 100);
                    self.after(wait, Event::Resume(*client, run));
                }
            }
            Fault::Reboot { .. } => panic!("no fault of machines without a host"),
            Fault::Clock { client, by } => {
                self.history.turns.jump(self.time);
                let seat = &mut self.seats[*client];
                seat.offset = (seat.offset + by).clamp(-300_000, 300_000);
                let run = seat.run;
                let now = self.now(*client);
                let seat = &mut self.seats[*client];
                if let (true, Some(process)) = (seat.running, &mut seat.client)
                    && let Some(wait) = process.machine().wait()
                {
                    self.after(wait.saturating_sub(now), Event::Wake(*client, run));
                }
            }
        }
        self.after(lasts, Event::Heal(fault));
    }

    pub(super) fn heal(&mut self, fault: &Fault) {
        self.note(|| format!("HEALED {fault:?}"));
        self.turned += 1;
        self.history.turns.trouble(self.time, false);
        self.faults -= 1;
        match fault {
            Fault::Crash { node } | Fault::Old { node, .. } => {
                let place = &mut self.places[*node];
                let dump = std::mem::take(&mut place.dump);
                place.node.restart(dump);
                place.process += 1;
                place.state = State::Up;
            }
            Fault::Hang { node } => {
                self.places[*node].state = State::Up;
                for pipe in std::mem::take(&mut self.places[*node].parked) {
                    // What the client has given up is carried out all the same, unless the
                    // reset of its side came first.
                    if self.pipes[pipe].answered && self.random.chance(20) {
                        self.finish(pipe);
                    } else {
                        let wait = self.random.between(0, 3);
                        self.after(wait, Event::Step(pipe));
                    }
                }
            }
            Fault::Full { node } => self.places[*node].node.full = false,
            Fault::Slow { node, .. } => self.places[*node].slow = 0,
            Fault::Partition { node, clients, .. } => {
                (self.barred).retain(|(client, at, _)| at != node || !clients.contains(client));
                self.let_go(*node);
            }
            Fault::Flush { .. } | Fault::Evict { .. } | Fault::Cut { .. } => {}
            Fault::Kill { .. } | Fault::Reboot { .. } | Fault::Clock { .. } => {}
            Fault::Foreign { .. } => {}
        }
        if let Plan::Draw { .. } = self.setup.plan {
            let pause = match (self.pause(), fault) {
                // What a slow node was sent last arrives so much later: then it is over.
                (pause @ 1.., Fault::Slow { by, .. }) => pause + by,
                (pause, _) => pause,
            };
            self.after(pause, Event::Next(self.time + pause));
        }
    }

    /// What the network held back is delivered after all, connection by connection, or never.
    fn let_go(&mut self, node: usize) {
        let pipes = &self.pipes;
        let (held, kept): (Vec<usize>, Vec<usize>) = self
            .held
            .iter()
            .copied()
            .partition(|&at| pipes[at].node == node);
        self.held = kept;
        let mut luck = BTreeMap::new();
        for pipe in held {
            let connection = self.pipes[pipe].connection;
            let lucky = *luck
                .entry(connection)
                .or_insert_with(|| self.random.chance(50));
            if lucky && !self.pipes[pipe].finished {
                let wait = self.delay();
                self.after(wait, Event::Arrive(pipe));
            } else {
                self.finish(pipe);
            }
        }
    }

    pub(super) fn crash(&mut self, node: usize) {
        let pipes = &self.pipes;
        let cut: Vec<usize> = self
            .open()
            .into_iter()
            .filter(|&at| pipes[at].node == node)
            .collect();
        self.reset(&cut);
        let place = &mut self.places[node];
        place.state = State::Down;
        place.parked.clear();
        place.slow = 0;
        self.lines.retain(|(_, to), _| *to != node);
    }

    /// Requests that are carried out no further, whose clients hear of it soon.
    fn reset(&mut self, cut: &[usize]) {
        for &pipe in cut {
            self.pipes[pipe].arrived = false;
        }
        for &pipe in cut {
            self.finish(pipe);
            let wait = self.delay();
            self.after(wait, Event::Reset(pipe));
        }
    }
}
