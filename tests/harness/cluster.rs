//! A real Redis Cluster on free loopback ports: masters that share the slots, and replicas of them.

use crate::place::{free_port, wait_until};
use crate::{Certificates, Redis};
use std::collections::HashSet;
use std::time::Duration;

/// Slots of a cluster.
const SLOTS: u16 = 16_384;

/// A cluster of this test, stopped on drop.
#[derive(Debug)]
pub struct Cluster {
    /// The masters as it was made, then a replica of each where it has some.
    pub nodes: Vec<Redis>,
    masters: usize,
    tls: bool,
}

impl Cluster {
    /// Three masters without replicas.
    pub fn start() -> Cluster {
        Cluster::with(3, 0, &[])
    }

    /// The same with a replica of each.
    pub fn with_replicas() -> Cluster {
        Cluster::with(3, 3, &[])
    }

    /// Three masters that speak TLS with each other, and with who knows their CA.
    pub fn with_tls(made: &Certificates) -> Cluster {
        let (issued, ca) = (made.server(), made.ca());
        let usual = ["--tls-cluster", "yes", "--tls-auth-clients", "no"];
        Cluster::of(3, 0, true, &|own| {
            Redis::with_tls(&issued, Some(&ca), &[own, &usual].concat())
        })
    }

    /// So many masters and replicas (none, or as many), each with further arguments.
    pub fn with(masters: usize, replicas: usize, extra: &[&str]) -> Cluster {
        Cluster::of(masters, replicas, false, &|own| {
            Redis::with(&[own, extra].concat())
        })
    }

    fn of(masters: usize, replicas: usize, tls: bool, node: &dyn Fn(&[&str]) -> Redis) -> Cluster {
        // Its nodes' own talk needs a second port, by default 10,000 higher, where there may be none.
        let bus: Vec<u16> = (0..masters + replicas).map(|_| free_port()).collect();
        let nodes: Vec<Redis> = bus
            .iter()
            .map(|port| {
                let port = port.to_string();
                let own = [
                    "--cluster-enabled",
                    "yes",
                    "--cluster-node-timeout",
                    "1000",
                    "--cluster-port",
                    &port,
                    "--repl-diskless-sync-delay",
                    "0",
                ];
                node(&own)
            })
            .collect();
        let cluster = Cluster {
            nodes,
            masters,
            tls,
        };
        cluster.meet(&bus);
        cluster
    }

    /// Makes the nodes one cluster, and waits until each of them says so.
    fn meet(&self, bus: &[u16]) {
        let share = usize::from(SLOTS) / self.masters;
        for (place, node) in self.nodes.iter().enumerate() {
            let mut client = self.client(place);
            let epoch = place + 1;
            say(
                &mut client,
                &["CLUSTER", "SET-CONFIG-EPOCH", &epoch.to_string()],
            );
            if place < self.masters {
                let first = place * share;
                let last = match place + 1 == self.masters {
                    true => usize::from(SLOTS) - 1,
                    false => first + share - 1,
                };
                let range = [first, last].map(|slot| slot.to_string());
                say(
                    &mut client,
                    &["CLUSTER", "ADDSLOTSRANGE", &range[0], &range[1]],
                );
            }
            if place > 0 {
                let port = self.port(0).to_string();
                say(
                    &mut client,
                    &["CLUSTER", "MEET", "127.0.0.1", &port, &bus[0].to_string()],
                );
            }
            assert!(node.port() > 0);
        }
        for place in self.masters..self.nodes.len() {
            let master = self.id(place - self.masters);
            let known = wait_until(Duration::from_secs(20), || {
                let said = redis::cmd("CLUSTER")
                    .arg("REPLICATE")
                    .arg(&master)
                    .query::<String>(&mut self.client(place));
                said.is_ok()
            });
            assert!(
                known,
                "a replica did not come to know its master within 20 s"
            );
        }
        assert!(
            wait_until(Duration::from_secs(30), || self.is_well()),
            "the cluster did not come together within 30 s: {}",
            self.said(0, &["CLUSTER", "NODES"])
        );
    }

    /// Does every living node find all slots served, by the nodes that were told to, and each replica linked?
    fn is_well(&self) -> bool {
        let all = self.nodes.len().to_string();
        (0..self.nodes.len()).all(|place| {
            let about = self.said(place, &["CLUSTER", "INFO"]);
            let replica = place >= self.masters;
            let nodes = self.said(place, &["CLUSTER", "NODES"]);
            about.contains("cluster_state:ok")
                && about.contains(&format!("cluster_known_nodes:{all}\r"))
                && nodes.matches(" slave ").count() + nodes.matches(",slave ").count()
                    == self.nodes.len() - self.masters
                && (!replica || self.nodes[place].info("master_link_status") == "up")
        })
    }

    /// `redis-cluster://HOST:PORT,…/` of all its nodes.
    pub fn url(&self) -> String {
        self.url_as("", "")
    }

    /// The same, entered as `who` ("user:password@") with `options` behind a "?".
    pub fn url_as(&self, who: &str, options: &str) -> String {
        let host = |place| format!("127.0.0.1:{}", self.port(place));
        let hosts: Vec<String> = (0..self.nodes.len()).map(host).collect();
        let query = if options.is_empty() { "" } else { "?" };
        let scheme = if self.tls { "rediss" } else { "redis" };
        format!(
            "{scheme}-cluster://{who}{}/{query}{options}",
            hosts.join(",")
        )
    }

    /// The port of a node for its clients, who speak TLS where it does.
    fn port(&self, place: usize) -> u16 {
        let node = &self.nodes[place];
        match self.tls {
            true => node.tls_port(),
            false => node.port(),
        }
    }

    /// The id of a node.
    pub fn id(&self, place: usize) -> String {
        self.said(place, &["CLUSTER", "MYID"])
    }

    /// The slot of a key, as a server computes it.
    pub fn slot(&self, key: &str) -> u16 {
        let living = (0..self.nodes.len()).find(|place| self.try_said(*place, &["PING"]).is_ok());
        redis::cmd("CLUSTER")
            .arg("KEYSLOT")
            .arg(key)
            .query(&mut self.client(living.expect("a node lives")))
            .expect("CLUSTER KEYSLOT")
    }

    /// The place of the master that has a slot, as the masters that live say.
    pub fn owner(&self, slot: u16) -> usize {
        (0..self.nodes.len())
            .find(|place| self.has(*place, slot))
            .unwrap_or_else(|| panic!("nobody has slot {slot}"))
    }

    /// Is this node the master that has a slot, as it says itself?
    pub fn has(&self, place: usize, slot: u16) -> bool {
        let Ok(said) = self.try_said(place, &["CLUSTER", "NODES"]) else {
            return false;
        };
        let own = said.lines().find(|line| line.contains("myself"));
        let own = own.filter(|line| line.contains("master"));
        own.into_iter()
            .flat_map(|line| line.split(' ').skip(8))
            .any(|run| is_in(run, slot))
    }

    /// Do all masters that answer say that a slot is this node's, and is no claim as new as
    /// another? Of two that are, one is made newer, and brings back what that node had before.
    fn agrees(&self, slot: u16, owner: usize) -> bool {
        let id = self.id(owner);
        (0..self.masters)
            .filter_map(|place| self.try_said(place, &["CLUSTER", "NODES"]).ok())
            .all(|said| {
                let lines = said.lines().map(|line| line.split(' ').collect::<Vec<_>>());
                let masters: Vec<_> = lines.filter(|words| words[2].contains("master")).collect();
                let epochs: HashSet<_> = masters.iter().map(|words| words[6]).collect();
                let owns = |words: &Vec<&str>| {
                    words[0] == id && words.iter().skip(8).any(|run| is_in(run, slot))
                };
                epochs.len() == masters.len() && masters.iter().any(owns)
            })
    }

    /// A key of that name and a number whose slot is this node's.
    pub fn key_at(&self, place: usize, name: &str) -> String {
        (0..)
            .map(|number| format!("{name}{number}"))
            .find(|key| self.has(place, self.slot(key)))
            .expect("some key is there")
    }

    /// An independent client of one node, which follows no redirect.
    pub fn client(&self, place: usize) -> redis::Connection {
        self.nodes[place].client()
    }

    /// What a node answers to a command.
    pub fn said(&self, place: usize, words: &[&str]) -> String {
        self.try_said(place, words)
            .unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    fn try_said(&self, place: usize, words: &[&str]) -> redis::RedisResult<String> {
        let client = redis::Client::open(format!("redis://{}/", self.nodes[place].address()))?;
        let mut connection = client.get_connection()?;
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(word);
        }
        command.query(&mut connection)
    }

    /// Opens a move of `slot` from one node to another: keys may be on either from now on.
    pub fn begin_move(&self, slot: u16, from: usize, to: usize) {
        let (slot, ids) = (slot.to_string(), [self.id(from), self.id(to)]);
        self.said(to, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &ids[0]]);
        self.said(from, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &ids[1]]);
    }

    /// Carries one key over.
    pub fn migrate(&self, key: &str, from: usize, to: usize) {
        let port = self.port(to).to_string();
        let said = self.said(from, &["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]);
        assert_eq!(said, "OK", "{key}");
    }

    /// Has one node believe that `owner` has a slot, whatever the others do.
    pub fn assign(&self, place: usize, slot: u16, owner: usize) {
        let (slot, id) = (slot.to_string(), self.id(owner));
        self.said(place, &["CLUSTER", "SETSLOT", &slot, "NODE", &id]);
    }

    /// Ends a move: the slot is the other node's.
    pub fn end_move(&self, slot: u16, from: usize, to: usize) {
        for place in [to, from] {
            self.assign(place, slot, to);
        }
        // As redis-cli does: a master that is not told may believe an older word of a third one.
        let (slot, id) = (slot.to_string(), self.id(to));
        for place in (0..self.masters).filter(|place| ![to, from].contains(place)) {
            // One that is gone hears of it when it is back.
            let _ = self.try_said(place, &["CLUSTER", "SETSLOT", &slot, "NODE", &id]);
        }
    }

    /// Moves a slot with all its keys. Waits first until all masters that answer know whose it is.
    pub fn move_slot(&self, slot: u16, from: usize, to: usize) {
        let agreed = wait_until(Duration::from_secs(20), || self.agrees(slot, from));
        assert!(
            agreed,
            "not all masters say that slot {slot} is node {from}'s"
        );
        self.begin_move(slot, from, to);
        let keys: Vec<String> = redis::cmd("CLUSTER")
            .arg("GETKEYSINSLOT")
            .arg(slot)
            .arg(100_000)
            .query(&mut self.client(from))
            .expect("CLUSTER GETKEYSINSLOT");
        for key in keys {
            self.migrate(&key, from, to);
        }
        self.end_move(slot, from, to);
    }
}

/// Is a slot in one of the runs that `CLUSTER NODES` names?
fn is_in(run: &str, slot: u16) -> bool {
    let (first, last) = run.split_once('-').unwrap_or((run, run));
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first), Ok(last)) => (first..=last).contains(&slot),
        _ => false,
    }
}

fn say(client: &mut redis::Connection, words: &[&str]) {
    let mut command = redis::cmd(words[0]);
    for word in &words[1..] {
        command.arg(word);
    }
    command
        .exec(client)
        .unwrap_or_else(|error| panic!("{words:?}: {error}"));
}
