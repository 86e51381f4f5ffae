//! What all records of a pool say together: whom to believe, whom to mend, whom one may touch.
//!
//! Each node is looked at once, and nothing is decided here but from what it answered. It
//! changes nothing: founding is `found`, mending is `resync`.

use super::{Epochs, Record, Trust};
use crate::error::Error;

/// What one node answered to the question for its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing, or nothing that can be read.
    Silent(Error),
    /// It has no record: it lost its memory, or never had one.
    Bare,
    /// It has one of a format this version does not know; it is never overwritten.
    Strange,
    /// This.
    Known(Record),
}

/// What follows for one node from all answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It does not answer.
    Silent,
    /// It has no record.
    Bare,
    /// It has a record nobody here can read.
    Strange,
    /// It says itself that it may have missed something.
    Joining,
    /// Another node says that it missed something.
    Listed,
    /// It has all that was acknowledged.
    Trusted,
}

impl State {
    /// The state as one lower-case word, as it stands in status.
    pub const fn word(self) -> &'static str {
        match self {
            State::Silent => "silent",
            State::Bare => "bare",
            State::Strange => "strange",
            State::Joining => "joining",
            State::Listed => "absent",
            State::Trusted => "trusted",
        }
    }
}

/// Who says of a node that it missed a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listing<'a> {
    /// The node whose record says so.
    pub by: &'a str,
    /// The host that wrote without it.
    pub host: &'a str,
    /// When first, seconds since 1970.
    pub since: u64,
}

/// One look at every node of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    nodes: Vec<(Box<str>, Standing)>,
}

impl Survey {
    /// Of these nodes, in the pool's order: the name each has in records, and its answer.
    pub fn new(nodes: Vec<(Box<str>, Standing)>) -> Survey {
        Survey { nodes }
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// True for a pool without nodes.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The name of node `place`; empty when there is none.
    pub fn name(&self, place: usize) -> &str {
        self.nodes.get(place).map_or("", |(name, _)| name)
    }

    /// What node `place` answered.
    pub fn standing(&self, place: usize) -> Option<&Standing> {
        self.nodes.get(place).map(|(_, standing)| standing)
    }

    /// The record of node `place`, if it has one that can be read.
    pub fn record(&self, place: usize) -> Option<&Record> {
        match self.standing(place) {
            Some(Standing::Known(record)) => Some(record),
            _ => None,
        }
    }

    /// Did node `place` answer?
    pub fn answers(&self, place: usize) -> bool {
        !matches!(self.standing(place), None | Some(Standing::Silent(_)))
    }

    /// What all records say of the pool's node lists; `None` when there is none.
    pub fn epochs(&self) -> Option<Epochs> {
        (0..self.len())
            .filter_map(|place| self.record(place))
            .map(Record::epochs)
            .reduce(Epochs::joined)
    }

    /// Do the records say that the node list of `epoch` is the only one? `None` where they do not say it.
    pub fn is_over(&self, epoch: u32) -> Option<bool> {
        match self.epochs() {
            Some(seen) => Some(seen.committed >= epoch),
            // There was none before the first one.
            None => (epoch == 0).then_some(true),
        }
    }

    /// What follows for node `place`.
    pub fn state(&self, place: usize) -> State {
        match self.standing(place) {
            None | Some(Standing::Silent(_)) => State::Silent,
            Some(Standing::Bare) => State::Bare,
            Some(Standing::Strange) => State::Strange,
            Some(Standing::Known(record)) if record.trust == Trust::Joining => State::Joining,
            Some(Standing::Known(_)) if self.listings(place).next().is_some() => State::Listed,
            Some(Standing::Known(_)) => State::Trusted,
        }
    }

    /// Who says of node `place` that it missed a write.
    pub fn listings(&self, place: usize) -> impl Iterator<Item = Listing<'_>> {
        let name = self.name(place);
        self.nodes
            .iter()
            .filter_map(|(by, standing)| match standing {
                Standing::Known(record) => Some((by, record)),
                _ => None,
            })
            .flat_map(|(by, record)| record.absent.iter().map(move |absent| (by, absent)))
            .filter(move |(_, absent)| *absent.node == *name)
            .map(|(by, absent)| Listing {
                by,
                host: absent.people(),
                since: absent.since,
            })
    }

    /// The same as it stands in the records.
    pub fn absences(&self, place: usize) -> impl Iterator<Item = &super::Absent> {
        let name = self.name(place);
        let records = (0..self.len()).filter_map(|by| self.record(by));
        records
            .flat_map(|record| &record.absent)
            .filter(move |absent| *absent.node == *name)
    }

    /// The nodes in this state.
    pub fn all(&self, state: State) -> impl Iterator<Item = usize> {
        (0..self.len()).filter(move |place| self.state(*place) == state)
    }

    /// Two of the first `list` nodes that have the very same record: two names for one server,
    /// on which two copies are one. A node that is renamed has its old name behind the list.
    pub fn twins(&self, list: usize) -> Option<(&str, &str)> {
        let id = |place: usize| self.record(place).map(|record| record.id);
        (0..self.len().min(list)).find_map(|place| {
            let twin = (0..place).find(|other| id(place).is_some() && id(*other) == id(place))?;
            Some((self.name(twin), self.name(place)))
        })
    }

    /// True when every node is trusted and nobody lists it: any one of them may be stopped.
    pub fn is_safe(&self) -> bool {
        !self.is_empty() && self.all(State::Trusted).count() == self.len()
    }

    /// A node without whose answer no other can be mended: all are sources of all.
    pub fn blocker(&self) -> Option<usize> {
        (0..self.len()).find(|place| matches!(self.state(*place), State::Silent | State::Strange))
    }

    /// The nodes a pass over which would make them trusted.
    pub fn to_mend(&self) -> impl Iterator<Item = usize> {
        (0..self.len()).filter(|place| matches!(self.state(*place), State::Joining | State::Listed))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Absent;
    use super::*;
    use crate::error::Kind;

    fn survey(standings: Vec<Standing>) -> Survey {
        let names = ["a:1", "b:1", "c:1"].map(Box::from);
        Survey::new(names.into_iter().zip(standings).collect())
    }

    fn trusted() -> Record {
        Record::new(3, 7).trusted()
    }

    fn silent() -> Standing {
        Standing::Silent(Error::new(Kind::Connect, "Connection refused"))
    }

    #[test]
    fn a_pool_is_safe_when_all_are_trusted_and_nobody_is_listed() {
        let known = || Standing::Known(trusted());
        assert!(survey(vec![known(), known(), known()]).is_safe());
        assert!(!survey(vec![]).is_safe());
        for other in [silent(), Standing::Bare, Standing::Strange] {
            assert!(!survey(vec![known(), other, known()]).is_safe());
        }
        let joining = Standing::Known(Record::new(1, 1));
        let looked = survey(vec![known(), joining, known()]);
        assert!(!looked.is_safe());
        assert_eq!(looked.to_mend().collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn who_is_listed_is_mended_whatever_his_own_record_says() {
        let mut says = trusted();
        says.absent.push(Absent {
            node: "c:1".into(),
            host: "web4".into(),
            since: 9,
        });
        let known = || Standing::Known(trusted());
        let looked = survey(vec![Standing::Known(says.clone()), known(), known()]);
        assert_eq!(looked.state(2), State::Listed);
        assert_eq!(looked.state(0), State::Trusted);
        assert_eq!(looked.to_mend().collect::<Vec<_>>(), [2]);
        let (by, host, since) = ("a:1", "web4", 9);
        assert_eq!(
            looked.listings(2).collect::<Vec<_>>(),
            [Listing { by, host, since }]
        );
        // A silent one is silent first, and keeps all others from being mended.
        let looked = survey(vec![Standing::Known(says), known(), silent()]);
        assert_eq!(looked.state(2), State::Silent);
        assert_eq!(looked.blocker(), Some(2));
        assert_eq!(looked.to_mend().count(), 0);
    }

    #[test]
    fn two_names_for_one_server_show_by_their_record() {
        let other = Standing::Known(Record::new(3, 8).trusted());
        let looked = survey(vec![Standing::Known(trusted()), other.clone(), silent()]);
        assert_eq!(looked.twins(3), None);
        let same = || Standing::Known(trusted());
        assert_eq!(
            survey(vec![same(), other.clone(), same()]).twins(3),
            Some(("a:1", "c:1"))
        );
        assert_eq!(survey(vec![same(), other, same()]).twins(2), None);
    }
}
