//! Lanes of one round: each node that is asked has exactly one.

use super::Pool;
use crate::call::Call;
use crate::fanout;

impl Pool {
    pub(super) fn lane<'c>(
        &self,
        call: &'c mut Call,
        first: usize,
        member: usize,
    ) -> Option<&'c mut fanout::Lane> {
        let index = self.lane_index(call, first, member)?;
        call.lanes.get_mut(index)
    }

    /// The lane of this round that belongs to the node of `member`, when there is one.
    pub(super) fn lane_of(&self, call: &Call, first: usize, member: usize) -> Option<usize> {
        let twin = self.members.get(member)?.twin;
        let lanes = call.lanes.get(first..call.used)?;
        let same = |l: &fanout::Lane| {
            l.member == member || self.members.get(l.member).is_some_and(|m| m.twin == twin)
        };
        lanes.iter().position(same).map(|at| first + at)
    }

    /// The lane of this round that belongs to the node of `member`, made when there is none.
    ///
    /// One node may be in a pool twice; it has one connection and so one lane.
    pub(super) fn lane_index(&self, call: &mut Call, first: usize, member: usize) -> Option<usize> {
        if let Some(known) = self.lane_of(call, first, member) {
            return Some(known);
        }
        let wanted = self.members.get(member)?;
        let index = call.used;
        call.used += 1;
        if call.lanes.len() < call.used {
            call.lanes.push(fanout::Lane::default());
            call.jobs.push(Vec::new());
        }
        let spec = &wanted.spec;
        let lane = call.lanes.get_mut(index)?;
        lane.reset(
            wanted.node.clone(),
            member,
            spec.connect_timeout,
            spec.op_timeout,
        );
        lane.engine = spec.engine();
        lane.apart = self.cluster.is_some();
        Some(index)
    }

    /// Notes who failed before any job moves on to another node: who failed in the same round
    /// is passed over without an event of its own.
    pub(super) fn know_failed(&mut self, call: &Call, first: usize) {
        let lanes = call.lanes.get(first..call.used).unwrap_or_default();
        for lane in lanes.iter().filter(|lane| lane.error.is_some()) {
            let twin = self.members.get(lane.member).map(|member| member.twin);
            if let Some(member) = twin.and_then(|twin| self.members.get_mut(twin)) {
                member.told = true;
            }
        }
    }
}
