//! The server behind the name of a master: which one a connection is to, and what becomes of it
//! when it is that no more. `finder::sentinel` knows how it is found.

use super::{Node, Open};
use crate::config::Target;
use crate::error::{Error, Kind};
use crate::finder;
use crate::finder::sentinel::{self, Place, Search, Step};
use crate::transport::{self, Address};
use rustix::io::Errno;
use std::time::{Duration, Instant};

/// The server behind the name of a master that Sentinels watch. Empty for all other nodes.
#[derive(Debug, Default)]
pub(super) struct Behind {
    /// Where it is asked for, from the first Sentinel until it says itself that it is the master.
    pub(super) search: Option<Box<Search>>,
    /// The server that is connected to.
    pub(super) at: Option<Place>,
    /// The number of the server that was the master when this connection began, or proved to be
    /// it; 0 for none.
    pub(super) server: u64,
    /// When this connection was last found to be the right one.
    looked: Option<Instant>,
}

impl Node {
    /// Is the open connection still to the master, as far as this host knows, and need not be
    /// looked at again?
    pub(super) fn is_master(&mut self, now: Instant) -> bool {
        let Target::Master(wanted) = &self.target else {
            return true;
        };
        let looked = *self.behind.looked.get_or_insert(now);
        if now.saturating_duration_since(looked) >= sentinel::LOOK {
            self.behind.looked = Some(now);
        }
        self.health.server() == self.behind.server
            && (self.stays || !sentinel::is_due(wanted, &self.health, looked))
    }

    /// Begins to connect to the master; `None` where no Sentinels watch the node.
    pub(super) fn open_master(&mut self, limit: Duration) -> Option<Result<Open, Error>> {
        let Target::Master(wanted) = &self.target else {
            return None;
        };
        self.behind.server = self.health.server();
        Some(match sentinel::known(wanted, &self.health) {
            Some(at) => self.open_at(at, limit),
            None => self.search(limit),
        })
    }

    /// How many Sentinels and masters a connect under way may still have to wait for.
    pub(super) fn sentinels_left(&self) -> usize {
        match (&self.behind.search, &self.target) {
            // Behind the Sentinel that is asked is the master itself.
            (Some(search), _) => search.left() + usize::from(self.opening.is_none()),
            (None, Target::Master(wanted)) => wanted.by.len(),
            _ => 0,
        }
    }

    /// Notes that the server says that it is the master.
    pub(super) fn believe(&mut self) {
        let Some(at) = &self.behind.at else { return };
        self.behind.server = sentinel::number(at);
        self.behind.looked = Some(transport::now());
        match self.behind.search.take() {
            Some(search) => search.confirm(at.clone(), &self.health),
            None if self.health.server() == 0 => {
                self.health.set_server(self.behind.server, sentinel::LOOK);
            }
            None => {}
        }
    }

    /// Connects to the server that is taken for the master.
    fn open_at(&mut self, at: Place, limit: Duration) -> Result<Open, Error> {
        let found = finder::resolve(&at.0, at.1);
        self.behind.at = Some(at);
        match found {
            Ok(found) => {
                let addresses = found.into_iter().map(Address::Ip).collect();
                self.open_next(addresses, Errno::ADDRNOTAVAIL, limit)
            }
            Err(cause) => self.elsewhere(self.refused(Kind::Resolve, &cause, 0), limit),
        }
    }

    /// Goes on with asking Sentinels, or begins with it.
    pub(super) fn search(&mut self, limit: Duration) -> Result<Open, Error> {
        let step = self.searching().map(Search::step);
        match step {
            Some(Step::Waiting) => Ok(Open::Waiting),
            Some(Step::Found(at)) => self.open_at(at, limit),
            Some(Step::Nobody(error)) => Err(error.at(&self.name)),
            None => Err(self.refused(Kind::Resolve, "it is behind no Sentinels", 0)),
        }
    }

    fn searching(&mut self) -> Option<&mut Search> {
        let (Target::Master(wanted), Some(redis)) = (&self.target, &self.redis) else {
            return None;
        };
        let server = self.health.server();
        let begin = || Box::new(Search::new(wanted, redis, self.tls.as_ref(), server));
        Some(self.behind.search.get_or_insert_with(begin))
    }

    /// What becomes of a connect that failed: Sentinels may name another server.
    pub(super) fn elsewhere(&mut self, why: Error, limit: Duration) -> Result<Open, Error> {
        let Some(at) = self.behind.at.take() else {
            return Err(why);
        };
        // It may have another address by now.
        finder::forget(&at.0, at.1);
        let told = format!("{} (Sentinels name {}:{})", why.cause(), at.0, at.1);
        let why = Error::new(why.kind(), told).code(why.number());
        if let Some(search) = self.searching() {
            search.reject(at, why);
        }
        self.search(limit)
    }

    /// Gives up the open connection: the server behind it is no master.
    ///
    /// # Errors
    /// As [`Node::open`], when no other server is named.
    pub fn open_elsewhere(&mut self, limit: Duration) -> Result<Open, Error> {
        self.socket = None;
        let why = "it says that it is a replica: a switch is under way, or they are wrong";
        self.elsewhere(self.refused(Kind::Connect, why, 0), limit)
    }

    /// Is this a node whose server another one may take the place of?
    pub fn is_watched(&self) -> bool {
        self.behind.server != 0
    }

    /// Closes the connection; before the next one a master, or the address of a name, is looked for.
    pub fn demoted(&mut self) {
        self.close();
        match &self.target {
            Target::Master(wanted) => sentinel::look_again(wanted),
            Target::Tcp { host, port } => finder::forget(host, *port),
            _ => {}
        }
    }

    /// Does a failure say nothing of the server that is the master now? Who loses his connection
    /// looks for it again, and another process may have found it since this one looked.
    pub(super) fn has_moved(&self, error: &Error) -> bool {
        let Target::Master(_) = &self.target else {
            return false;
        };
        let lost = self.socket.as_ref().is_some_and(|socket| socket.greeted);
        (lost && error.kind() == Kind::Closed) || self.health.server() != self.behind.server
    }
}
