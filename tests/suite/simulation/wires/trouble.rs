//! The faults' part of the wires: they begin, heal, and leave behind what comes late; and whether
//! all is mended.

use std::collections::{BTreeMap, BTreeSet};

use memring_pool::replica::{Record, Trust};

use super::super::faults::{Fault, Kind, Plan, Way};
use super::super::memcached::Memory;
use super::super::processes::Hall;
use super::super::world::Phase;
use super::{CALM, Event, Place, SETTLE, State};

impl Hall {
    pub(super) fn next_fault(&mut self, since: u64) {
        let ended = self.time >= self.setup.duration;
        let (kinds, row, pause) = match self.setup.plan {
            Plan::Draw { kinds, row, pause } => (kinds, row, pause * 1000),
            Plan::Calm | Plan::Script(_) => (&[] as &[Kind], 1, 0),
        };
        if self.faults > 0 || kinds.is_empty() && !ended {
            return self.after(50_000, Event::Next(self.time + 50_000));
        }
        if ended {
            self.phase = Phase::Settle;
            return self.after(SETTLE, Event::Settled(self.time + SETTLE));
        }
        if self.begun.is_multiple_of(row.max(1)) && !self.is_calm() && self.time < since + CALM {
            return self.after(50_000, Event::Next(since));
        }
        let kind = kinds[self.random.below(kinds.len())];
        let mut fault = kind.draw(self.places.len(), self.processes.len(), &mut self.random);
        if let Fault::Partition { clients, .. } = &mut fault {
            let all = 0..self.processes.len();
            let host = |process: &usize| self.processes[*process].host;
            *clients = match (self.setup.apart, &self.setup.sessions) {
                (false, _) => all.collect(),
                (true, None) => std::mem::take(clients),
                // A host's processes have one network.
                (true, Some(_)) => {
                    let hosts: BTreeSet<usize> = clients.iter().map(host).collect();
                    all.filter(|process| hosts.contains(&host(process)))
                        .collect()
                }
            };
        }
        let lasts = fault.lasts(&mut self.random);
        self.faults += 1;
        self.begun += 1;
        let rests = match (self.begun.is_multiple_of(row.max(1)), &fault) {
            // What a slow node was sent last arrives so much later: then it is over.
            (true, Fault::Slow { by, .. }) => pause + by * 1000,
            (true, _) => pause,
            (false, _) => 0,
        };
        let before = match fault {
            Fault::Old { age, .. } => age,
            _ => 0,
        };
        let next = (before + lasts) * 1000 + rests;
        self.begin(fault, lasts);
        self.after(next, Event::Next(self.time + next));
    }

    pub(super) fn begin(&mut self, fault: Fault, lasts: u64) {
        self.note(|| format!("FAULT {fault:?} for {lasts}"));
        self.turned += 1;
        self.history.turns.trouble(self.time / 1000, true);
        self.values.begins(self.time / 1000, &fault);
        match &fault {
            Fault::Crash { node } => self.crash(*node),
            Fault::Hang { node } => self.places[*node].state = State::Hung,
            Fault::Old { node, age } => {
                let place = &mut self.places[*node];
                place.dump = place.server.dump();
                return self.after(*age * 1000, Event::Strike(fault, lasts));
            }
            Fault::Flush { node } => {
                self.places[*node].server.empty();
                self.values.wiped(*node);
            }
            Fault::Evict { node } => self.places[*node].server.evict(4, &mut self.random),
            Fault::Foreign { .. } => panic!("no fault of wires"),
            Fault::Full { node } => self.places[*node].server.full = true,
            Fault::Slow { node, by } => self.places[*node].slow = by * 1000,
            Fault::Partition {
                node,
                clients,
                ways,
            } => {
                let pairs = clients
                    .iter()
                    .flat_map(|c| ways.iter().map(move |w| (*c, *w)));
                let pairs: Vec<_> = pairs.map(|(client, way)| (client, *node, way)).collect();
                self.barred.extend(pairs);
            }
            Fault::Cut { node, client } => {
                let cut = (0..self.lines.len() as u32).filter(|&socket| {
                    let line = &self.lines[socket as usize];
                    (line.process, line.node) == (*client, *node)
                });
                let cut: Vec<u32> = cut.collect();
                self.reset(&cut);
            }
            Fault::Kill { client } => {
                // In the middle of what it says next, between two nodes perhaps.
                let sends = self.random.between(0, 8);
                let script = matches!(self.setup.plan, Plan::Script(_));
                let process = &mut self.processes[*client];
                let at_once =
                    self.setup.sessions.is_some() && (script || sends > 5) && process.waits;
                match at_once {
                    // Or while it waits.
                    true => {
                        process.killed = true;
                        self.wake(*client);
                    }
                    false => process.doomed = Some(sends),
                }
            }
            Fault::Reboot { client } => {
                let host = self.processes[*client].host;
                for process in 0..self.processes.len() {
                    if self.processes[process].host == host && !self.processes[process].over {
                        self.processes[process].killed = true;
                        self.wake(process);
                    }
                }
                let life = self.random.bits();
                self.sites[host].clear(life);
            }
            Fault::Clock { client, by } => {
                let host = self.processes[*client].host;
                self.clocks[host] = (self.clocks[host] + by).clamp(-300_000, 300_000);
                self.history.turns.jump(self.time / 1000);
            }
        }
        self.after(lasts * 1000, Event::Heal(fault));
    }

    pub(super) fn heal(&mut self, fault: &Fault) {
        self.note(|| format!("HEALED {fault:?}"));
        self.faults -= 1;
        self.turned += 1;
        self.history.turns.trouble(self.time / 1000, false);
        match fault {
            Fault::Crash { node } | Fault::Old { node, .. } => {
                let place = &mut self.places[*node];
                let dump = std::mem::take(&mut place.dump);
                place.server.restart(dump);
                place.state = State::Up;
            }
            Fault::Hang { node } => {
                self.places[*node].state = State::Up;
                for socket in std::mem::take(&mut self.places[*node].parked) {
                    // What the process has given up is carried out all the same, unless the
                    // reset of its side came first.
                    if self.line(socket).closed && self.random.chance(20) {
                        self.line(socket).gone = true;
                    } else {
                        let wait = self.random.between(0, 10_000);
                        self.after(wait, Event::Step(socket));
                    }
                }
            }
            Fault::Full { node } => self.places[*node].server.full = false,
            Fault::Slow { node, .. } => self.places[*node].slow = 0,
            Fault::Partition { node, clients, .. } => {
                self.barred
                    .retain(|(client, at, _)| at != node || !clients.contains(client));
                self.let_go(*node);
            }
            _ => {}
        }
        self.values.healed(self.time / 1000, fault);
    }

    /// What the network held back is delivered after all, connection by connection, or never.
    fn let_go(&mut self, node: usize) {
        let held = std::mem::take(&mut self.held);
        let mut luck = BTreeMap::new();
        for (socket, bytes) in held {
            if self.line(socket).node != node {
                self.held.push((socket, bytes));
                continue;
            }
            if *luck.entry(socket).or_insert_with(|| self.random.chance(50)) {
                // The pauses between the tries have grown meanwhile.
                let late = self.time + self.random.between(0, 3_000_000);
                let line = self.line(socket);
                line.there = line.there.max(late);
                self.put(socket, bytes);
            } else {
                self.line(socket).gone = true;
            }
        }
    }

    /// Every node can be believed, and nobody remembers that one missed something; so it is of a
    /// cache always.
    pub(super) fn is_calm(&self) -> bool {
        let Some(sessions) = &self.setup.sessions else {
            return true;
        };
        let records = self
            .places
            .iter()
            .map(|place| place.server.record(&sessions.record_key));
        let records: Option<Vec<Record>> = records.collect();
        records.is_some_and(|records| {
            let lists = |record: &Record| sessions.names.iter().any(|name| record.lists(name));
            let calm = |record: &Record| record.trust == Trust::Trusted && !lists(record);
            records.iter().all(calm)
        })
    }

    /// Two of these nodes can be talked to by a process, answer in time, and are believed.
    pub(in super::super) fn has_two(&self, process: usize, nodes: &[usize]) -> bool {
        let Some(sessions) = &self.setup.sessions else {
            return false;
        };
        let record = |place: &Place| place.server.record(&sessions.record_key);
        let records: Vec<Record> = self.places.iter().filter_map(record).collect();
        let fit = |node: &&usize| {
            let place = &self.places[**node];
            let name = &sessions.names[**node];
            self.reaches(process, **node)
                && place.slow == 0
                && !place.server.full
                && record(place).is_some_and(|record| record.trust == Trust::Trusted)
                && !records.iter().any(|record| record.lists(name))
        };
        nodes.iter().filter(fit).count() >= 2
    }

    /// One of these nodes has a record, and this process can talk to it.
    pub(in super::super) fn is_there(&self, process: usize, nodes: &[usize]) -> bool {
        let Some(sessions) = &self.setup.sessions else {
            return false;
        };
        nodes.iter().any(|node| {
            let place = &self.places[*node];
            let known = place.server.record(&sessions.record_key).is_some();
            known && place.slow == 0 && self.reaches(process, *node)
        })
    }

    /// A node is up, and this process can talk to it.
    fn reaches(&self, process: usize, node: usize) -> bool {
        let barred = |way| self.barred.contains(&(process, node, way));
        self.places[node].state == State::Up && !barred(Way::There) && !barred(Way::Back)
    }

    pub(super) fn crash(&mut self, node: usize) {
        let open = (0..self.lines.len() as u32).filter(|&socket| {
            let line = &self.lines[socket as usize];
            line.node == node && !line.gone
        });
        let open: Vec<u32> = open.collect();
        self.reset(&open);
        let place = &mut self.places[node];
        place.server.restart(Memory::default());
        place.state = State::Down;
        place.parked.clear();
        place.slow = 0;
        self.values.wiped(node);
    }

    /// Connections that are over, of which their processes hear soon.
    fn reset(&mut self, cut: &[u32]) {
        for &socket in cut {
            let line = self.line(socket);
            line.gone = true;
            if !line.closed {
                let wait = self.delay();
                self.after(wait, Event::Reset(socket));
            }
        }
    }
}
