//! A pool that is a Redis Cluster: its nodes, and who has which slot.
//!
//! The nodes that are written (seeds) and those that the cluster names are members like any
//! other. Beside them there is only the table, which all pools of a thread share: it is asked
//! for when there is none, when a node spoke against it (`redirect`), and while one of its
//! masters is left alone as failed; never more often than each [`PAUSE`].

use super::Pool;
use crate::call::Call;
use crate::config::{NodeSpec, Placement, Target};
use crate::error::Error;
use crate::fanout;
use crate::node::{ClusterRef, Nodes};
use crate::ring::Ring;
use crate::ring::slots::{self, Table};
use crate::shared;
use crate::transport;
use crate::wire::Reply;
use crate::wire::redis::cluster;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Time between two questions for the table.
const PAUSE: Duration = Duration::from_millis(200);
/// So many nodes are asked for it at the same time: one of them may be gone, and one behind.
const ASKED: usize = 3;

/// A pool's hold on its cluster.
#[derive(Debug)]
pub(super) struct Hold {
    known: ClusterRef,
    /// Makes the nodes that are not written.
    nodes: Nodes,
    /// The table whose nodes are members.
    table: Option<Rc<Table>>,
    edition: u64,
    /// The member behind each node of the table.
    masters: Vec<usize>,
    /// Members that are written.
    seeds: usize,
}

impl Hold {
    fn new((known, nodes): (ClusterRef, Nodes)) -> Hold {
        Hold {
            known,
            nodes,
            table: None,
            edition: 0,
            masters: Vec::new(),
            seeds: 0,
        }
    }

    /// The ring of its table, if it has one.
    pub(super) fn ring(&self) -> Option<Ring> {
        let table = self.table.clone()?;
        Some(Ring::cluster(table, &self.masters))
    }

    /// May nodes be asked for a table, so soon after the last time?
    fn is_due(&self) -> bool {
        let asked = self.known.borrow().asked;
        asked.is_none_or(|at| transport::since(at) >= PAUSE)
    }
}

impl Pool {
    /// Counts one more node that is written of a cluster; `known` is what this thread knows of it.
    pub(super) fn seed(&mut self, known: impl FnOnce() -> (ClusterRef, Nodes)) {
        if self.policy.placement == Placement::Slots {
            let hold = || Box::new(Hold::new(known()));
            self.cluster.get_or_insert_with(hold).seeds += 1;
        }
    }

    /// Is this pool a Redis Cluster?
    pub fn is_cluster(&self) -> bool {
        self.cluster.is_some()
    }

    /// The nodes that have keys: of a cluster its masters, which are asked for where nobody knows
    /// them yet, else all.
    pub fn serving(&mut self, call: &mut Call) -> Vec<usize> {
        self.renew(call);
        match &self.cluster {
            Some(hold) if hold.table.is_some() => hold.masters.clone(),
            _ => (0..self.len()).collect(),
        }
    }

    /// Is it known who has which slot?
    pub(super) fn has_table(&self) -> bool {
        self.cluster
            .as_ref()
            .is_some_and(|hold| hold.table.is_some())
    }

    /// What a cluster knows of a key (wire form): its slot.
    pub(super) fn slot(&self, key: &[u8]) -> Option<u16> {
        self.is_cluster().then(|| slots::slot(key))
    }

    /// The slots that member `index` has, as in "0-5460 9000".
    pub(super) fn slots_of(&self, index: usize) -> Option<String> {
        let hold = self.cluster.as_ref()?;
        let table = hold.table.as_ref()?;
        let node = hold.masters.iter().position(|master| *master == index);
        let runs = node.map_or(Vec::new(), |node| table.runs(node));
        let run = |(first, last): &(u16, u16)| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        };
        Some(runs.iter().map(run).collect::<Vec<_>>().join(" "))
    }

    /// Sees to it that the pool has the table of this thread, and that there is one nobody spoke
    /// against.
    pub(super) fn prepare(&mut self, call: &mut Call) {
        let Some(hold) = &self.cluster else { return };
        let wanted = {
            let known = hold.known.borrow();
            known.table.is_none() || known.stale
        };
        if wanted && hold.is_due() {
            self.ask_table(call);
        }
        self.adopt();
    }

    /// The same, and a new table where one of its masters failed.
    pub(super) fn renew(&mut self, call: &mut Call) {
        self.prepare(call);
        let Some(hold) = &self.cluster else { return };
        let failed = |index: &usize| {
            let member = self.members.get(*index);
            member.is_some_and(|member| !member.node.borrow().health.is_unmarked())
        };
        if hold.masters.iter().any(failed) && hold.is_due() {
            self.ask_table(call);
            self.adopt();
        }
    }

    /// The same for who has no call; why nobody could be asked, where that is so.
    pub(crate) fn find_masters(&mut self) -> Option<Error> {
        let mut call = Call::new();
        self.renew(&mut call);
        call.events.pop().map(|event| event.error)
    }

    /// Makes the nodes of this thread's table members.
    pub(super) fn adopt(&mut self) {
        let Some(hold) = &mut self.cluster else {
            return;
        };
        let (table, edition) = {
            let known = hold.known.borrow();
            if known.edition == hold.edition {
                return;
            }
            (known.table.clone(), known.edition)
        };
        (hold.table, hold.edition) = (table.clone(), edition);
        let nodes = table.iter().flat_map(|table| table.nodes());
        let masters: Vec<usize> = nodes
            .map(|(host, port)| self.member_at(host, *port))
            .collect();
        if let Some(hold) = &mut self.cluster {
            hold.masters = masters;
        }
        self.ring = None;
    }

    /// The member at that address, made like the first one when there is none.
    pub(super) fn member_at(&mut self, host: &str, port: u16) -> usize {
        let target = Target::Tcp {
            host: host.to_owned(),
            port,
        };
        let same = |member: &super::Member| member.spec.target == target;
        if let Some(known) = self.members.iter().position(same) {
            return known;
        }
        let (Some(hold), Some(first)) = (&self.cluster, self.members.first()) else {
            return 0;
        };
        let spec = NodeSpec {
            // As it would be written.
            host: match host.contains(':') {
                true => format!("[{host}]"),
                false => host.to_owned(),
            },
            port,
            target,
            ..first.spec.clone()
        };
        let node = hold.nodes.node(&spec, self.policy.protocol);
        self.join(spec, node)
    }

    /// Asks some of its nodes who has which slot; those that are left alone as failed only where
    /// nobody else answers.
    fn ask_table(&mut self, call: &mut Call) {
        let Some(hold) = &self.cluster else { return };
        let begin = transport::now();
        let turn = {
            let mut known = hold.known.borrow_mut();
            known.turn = known.turn.wrapping_add(1);
            known.turn
        };
        let mut asked: Vec<usize> = hold.masters.clone();
        let skip = turn % asked.len().max(1);
        asked.rotate_left(skip);
        asked.extend((0..hold.seeds).filter(|seed| !hold.masters.contains(seed)));
        let (well, failed): (Vec<usize>, Vec<usize>) = asked
            .into_iter()
            .partition(|index| self.is_unmarked(*index));
        if !self.ask_each(call, &well, Pool::is_unmarked, begin) {
            self.ask_each(call, &failed, Pool::claims, begin);
        }
        if let Some(hold) = &self.cluster {
            // From its end on: whoever waited in vain must not wait again in the same call.
            hold.known.borrow_mut().asked = Some(transport::now());
        }
    }

    /// Asks those of `nodes` that `may` be asked by then, a few at the same time: those that are
    /// gone must not keep the others from being asked. True when one of them had a table. The
    /// question as a whole has one limit, from its `begin` on.
    fn ask_each(
        &mut self,
        call: &mut Call,
        nodes: &[usize],
        may: fn(&mut Pool, usize) -> bool,
        begin: Instant,
    ) -> bool {
        let limit = self.spec(0).map_or(Duration::ZERO, |spec| spec.op_timeout);
        let (first, told) = (call.used, call.events.len());
        let mut left = nodes.iter().copied();
        while transport::since(begin) <= limit {
            let few: Vec<usize> = (left.by_ref())
                .filter(|index| may(self, *index))
                .take(ASKED)
                .collect();
            if few.is_empty() {
                break;
            }
            let answered = self.exchange_lanes(&few, call, |lane| {
                lane.ask_redis(cluster::ask_slots);
            });
            let tables = answered.into_iter().filter_map(|(member, lane)| {
                let lane = call.lanes.get(lane)?;
                self.table_in(lane, 0, member)
            });
            // Who does not yet know of a failure names a master that we know to be gone.
            let best = tables.min_by_key(|table| self.failed_in(table));
            self.drop_lanes(call, first);
            if let Some(table) = best {
                self.learn_table(table);
                self.untell(call, told);
                return true;
            }
        }
        false
    }

    /// Takes back what was told of nodes that were asked for the table in vain: whoever did not
    /// answer is somebody's who has keys for him, and is told of then.
    fn untell(&mut self, call: &mut Call, first: usize) {
        for event in call.events.drain(first..) {
            let twin = self.members.get(event.node).map(|member| member.twin);
            if let Some(member) = twin.and_then(|twin| self.members.get_mut(twin)) {
                member.told = false;
            }
        }
    }

    /// Is there no mark on this node, whoever set it?
    fn is_unmarked(&mut self, index: usize) -> bool {
        let member = self.members.get(index);
        member.is_some_and(|member| member.node.borrow().health.is_unmarked())
            && self.seems_usable(index)
    }

    /// Takes the try that is due of a node with a mark; false where none is.
    fn claims(&mut self, index: usize) -> bool {
        self.seems_usable(index)
            && self.members.get(index).is_some_and(|member| {
                let pause = member.spec.retry_interval;
                let mut node = member.node.borrow_mut();
                node.health.may_ask(pause, shared::now())
            })
    }

    /// Is the table in doubt, and may nodes be asked for another one? Who is told so asks.
    pub(super) fn takes_table(&self) -> bool {
        let hold = self.cluster.as_ref();
        let Some(hold) = hold.filter(|hold| hold.is_due() && hold.known.borrow().stale) else {
            return false;
        };
        hold.known.borrow_mut().asked = Some(transport::now());
        true
    }

    /// The table in answer number `place` of a lane, if it names anybody.
    pub(super) fn table_in(
        &self,
        lane: &fanout::Lane,
        place: usize,
        member: usize,
    ) -> Option<Table> {
        let Some(Reply::List(list)) = lane.answers.get(place) else {
            return None;
        };
        let host = match &self.members.get(member)?.spec.target {
            Target::Tcp { host, .. } => host.as_str(),
            _ => "",
        };
        let table = cluster::table(lane.received(), *list, host)?;
        (!table.nodes().is_empty()).then_some(table)
    }

    /// How many of its nodes are known to have failed.
    fn failed_in(&self, table: &Table) -> usize {
        let failed = |(host, port): &&(String, u16)| {
            self.members.iter().any(|member| {
                let same = matches!(&member.spec.target, Target::Tcp { host: h, port: p } if h == host && p == port);
                same && !member.node.borrow().health.is_unmarked()
            })
        };
        table.nodes().iter().filter(failed).count()
    }

    pub(super) fn learn_table(&mut self, table: Table) {
        if let Some(hold) = &self.cluster {
            let mut known = hold.known.borrow_mut();
            known.table = Some(Rc::new(table));
            known.edition += 1;
            known.stale = false;
        }
    }

    /// Notes that the table may be wrong.
    pub(super) fn doubt(&self) {
        if let Some(hold) = &self.cluster {
            hold.known.borrow_mut().stale = true;
        }
    }

    /// Notes that a slot has another owner.
    pub(super) fn slot_moved(&self, slot: u16, host: &str, port: u16) {
        if let Some(hold) = &self.cluster {
            let mut known = hold.known.borrow_mut();
            if let Some(table) = &mut known.table {
                Rc::make_mut(table).hand_over(slot, host, port);
                known.edition += 1;
            }
            known.stale = true;
        }
    }

    /// The host, or that of the node which did not name one.
    pub(super) fn host_or(&self, host: &str, member: usize) -> String {
        match self.spec(member).map(|spec| &spec.target) {
            Some(Target::Tcp { host: own, .. }) if host.is_empty() => own.clone(),
            _ => host.to_owned(),
        }
    }

    /// Lets go of the lanes from `first` on.
    pub(super) fn drop_lanes(&self, call: &mut Call, first: usize) {
        for lane in call.lanes.get_mut(first..call.used).unwrap_or_default() {
            lane.release();
        }
        for jobs in call.jobs.get_mut(first..call.used).unwrap_or_default() {
            jobs.clear();
        }
        call.used = first;
    }
}
