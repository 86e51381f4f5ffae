//! Real Sentinels on free loopback ports, and the masters they watch.

use crate::certificates::Certificates;
use crate::place::{TempDir, free_port, program, wait_until};
use crate::process::Process;
use crate::redis::Redis;
use std::process::{Command, Stdio};
use std::time::Duration;

/// After so long of silence a master counts as down, milliseconds.
const DOWN_AFTER: u32 = 500;

/// One Sentinel, stopped on drop.
#[derive(Debug)]
pub struct Sentinel {
    process: Process,
    port: u16,
    tls_port: u16,
    password: String,
    _directory: TempDir,
}

impl Sentinel {
    /// One that watches `masters` (name, host, port) and needs `quorum` others of its opinion to
    /// switch one; with further lines of its configuration.
    pub fn start(masters: &[(&str, &str, u16)], quorum: usize, extra: &str) -> Sentinel {
        (0..5)
            .find_map(|_| Sentinel::on(free_port(), masters, quorum, extra))
            .expect("redis-server --sentinel did not start on five free ports")
    }

    fn on(
        port: u16,
        masters: &[(&str, &str, u16)],
        quorum: usize,
        extra: &str,
    ) -> Option<Sentinel> {
        let directory = TempDir::new("sentinel");
        let mut text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel resolve-hostnames yes\n{extra}\n",
            directory.path().display()
        );
        let tls_port = match extra.contains("tls-cert-file") {
            true => free_port(),
            false => 0,
        };
        text.push_str(&format!("tls-port {tls_port}\n"));
        for (name, host, master) in masters {
            text.push_str(&format!(
                "sentinel monitor {name} {host} {master} {quorum}\nsentinel down-after-milliseconds {name} {DOWN_AFTER}\nsentinel failover-timeout {name} 2000\n"
            ));
        }
        let file = directory.file("sentinel.conf", text);
        let mut command = Command::new(
            program(&["redis-server"])
                .expect("redis-server is not installed: apt-get install redis-server"),
        );
        command
            .arg(file)
            .args(["--sentinel", "--daemonize", "no"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = Process::start(&mut command).expect("start redis-server --sentinel");
        let password = extra
            .lines()
            .find_map(|line| line.strip_prefix("requirepass "));
        let sentinel = Sentinel {
            process,
            port,
            tls_port,
            password: password.unwrap_or_default().to_owned(),
            _directory: directory,
        };
        let pid = format!("process_id:{}", sentinel.process.pid());
        let ours = || {
            let text = sentinel.try_say(&["INFO", "server"]);
            text.is_ok_and(|text: String| text.lines().any(|line| line == pid))
        };
        wait_until(Duration::from_secs(5), || {
            sentinel.process.ended() || ours()
        });
        ours().then_some(sentinel)
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The same of its port for TLS.
    pub fn tls_address(&self) -> String {
        assert_ne!(self.tls_port, 0, "it speaks no TLS");
        format!("127.0.0.1:{}", self.tls_port)
    }

    /// What it answers to these words.
    pub fn say<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let said = self.try_say(words);
        said.unwrap_or_else(|error| panic!("{words:?} at our Sentinel: {error}"))
    }

    fn try_say<T: redis::FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let who = match self.password.as_str() {
            "" => String::new(),
            password => format!(":{password}@"),
        };
        let client = redis::Client::open(format!("redis://{who}127.0.0.1:{}/", self.port))?;
        let mut command = redis::Cmd::new();
        words.iter().for_each(|word| {
            command.arg(word);
        });
        command.query(&mut client.get_connection()?)
    }

    /// The port of the master it names.
    pub fn names(&self, master: &str) -> u16 {
        let place: Vec<String> = self.say(&["SENTINEL", "get-master-addr-by-name", master]);
        place[1].parse().expect("a port")
    }

    /// Ends it at once, as a crash does.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}

/// A master with one replica, and three Sentinels that watch it under the name `m`.
#[derive(Debug)]
pub struct Watched {
    /// The two servers; which of them is the master changes.
    pub servers: [Redis; 2],
    /// Who watches them.
    pub sentinels: Vec<Sentinel>,
    tls: bool,
}

impl Watched {
    /// All of them, once each has found the others.
    pub fn start() -> Watched {
        Watched::with("127.0.0.1", "")
    }

    /// The same, the master named by `host`, and with further lines for the Sentinels.
    pub fn with(host: &str, lines: &str) -> Watched {
        let master = Redis::start();
        let replica = Redis::with(&["--replicaof", host, &master.port().to_string()]);
        Watched::of([master, replica], false, host, lines)
    }

    /// All of them speak TLS with each other, and with who knows their CA.
    pub fn with_tls(made: &Certificates) -> Watched {
        let (issued, ca) = (made.server(), made.ca());
        let usual = ["--tls-replication", "yes", "--tls-auth-clients", "no"];
        let server = |more: &[&str]| Redis::with_tls(&issued, Some(&ca), &[&usual, more].concat());
        let master = server(&[]);
        let replica = server(&["--replicaof", "127.0.0.1", &master.tls_port().to_string()]);
        let lines = format!(
            "tls-cert-file {}\ntls-key-file {}\ntls-ca-cert-file {}\ntls-auth-clients no\ntls-replication yes",
            issued.cert.display(),
            issued.key.display(),
            ca.display()
        );
        Watched::of([master, replica], true, "127.0.0.1", &lines)
    }

    fn of(servers: [Redis; 2], tls: bool, host: &str, lines: &str) -> Watched {
        let limit = Duration::from_secs(20);
        let [master, replica] = &servers;
        let linked = wait_until(limit, || replica.info("master_link_status") == "up");
        assert!(linked, "the replica did not find its master");
        let port = Watched::port_of(master, tls);
        let sentinel = || Sentinel::start(&[("m", host, port)], 2, lines);
        let sentinels: Vec<Sentinel> = (0..3).map(|_| sentinel()).collect();
        let met = |sentinel: &Sentinel| {
            let facts: std::collections::HashMap<String, String> =
                sentinel.say(&["SENTINEL", "MASTER", "m"]);
            facts["num-slaves"] == "1" && facts["num-other-sentinels"] == "2"
        };
        let met = wait_until(limit, || sentinels.iter().all(met));
        assert!(
            met,
            "three Sentinels did not find each other and the replica"
        );
        Watched {
            servers,
            sentinels,
            tls,
        }
    }

    /// The port of a server that Sentinels know.
    fn port_of(server: &Redis, tls: bool) -> u16 {
        match tls {
            true => server.tls_port(),
            false => server.port(),
        }
    }

    /// The node, with this behind it.
    pub fn node(&self, options: &str) -> String {
        let (scheme, address): (_, fn(&Sentinel) -> String) = match self.tls {
            true => ("rediss-sentinel", Sentinel::tls_address),
            false => ("redis-sentinel", Sentinel::address),
        };
        let by: Vec<String> = self.sentinels.iter().map(address).collect();
        format!("{scheme}://{}/m{options}", by.join(","))
    }

    /// Which of the servers all Sentinels name.
    pub fn master(&self) -> Option<usize> {
        let named: Vec<u16> = self.sentinels.iter().map(|s| s.names("m")).collect();
        let is_named = |server: &Redis| Watched::port_of(server, self.tls) == named[0];
        let place = self.servers.iter().position(is_named);
        place.filter(|_| named.iter().all(|port| *port == named[0]))
    }

    /// Waits until all Sentinels name server `place`.
    pub fn await_master(&self, place: usize) {
        let switched = wait_until(Duration::from_secs(30), || self.master() == Some(place));
        assert!(switched, "no switch within 30 s");
    }
}
