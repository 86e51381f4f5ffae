//! Where the visits take place: nodes, a proxy before each where a fault needs one, and web hosts, each a php-fpm
//! with `memring tend` beside it and a state directory of its own.

use super::state::{Place, State, shared_file};
use super::visits::{Sessions, Tally};
use crate::companion;
use harness::process::Process;
use harness::{Memcached, Php, PhpFpm, Proxy, Redis, Server, TempDir, wait_until};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Pages at a time, on all hosts together.
const CLIENTS: usize = 6;

/// How many sessions a run visits: `MEMRING_FAULT_SESSIONS`, else few enough for every build.
pub(super) fn sessions() -> usize {
    let asked = std::env::var("MEMRING_FAULT_SESSIONS").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(60)
}

/// Which servers a pool is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Servers {
    /// This machine's memcached.
    Own,
    /// The one `MEMRING_MEMCACHED_NEW` names.
    Newer,
    /// One newer, the others this machine's.
    Mixed,
    /// This machine's Redis, or the server that this variable names.
    Redis(Option<&'static str>),
    /// One memcached, the others Redis.
    Both,
}

impl Servers {
    /// Memcached; or what `MEMRING_FAULT_SERVERS` picks: `own` or `newer`, `redis`, `redis-newer` or `valkey`, or
    /// `both` in one pool.
    pub(super) fn all() -> Vec<Servers> {
        match std::env::var("MEMRING_FAULT_SERVERS").as_deref() {
            Ok("redis") => vec![Servers::Redis(None)],
            Ok("redis-newer") => Servers::named("MEMRING_REDIS_NEW"),
            Ok("valkey") => Servers::named("MEMRING_VALKEY"),
            Ok("both") => vec![Servers::Both],
            _ => Servers::memcached(),
        }
    }

    /// The server that a variable names, in the words of Redis.
    fn named(variable: &'static str) -> Vec<Servers> {
        if std::env::var_os(variable).is_some() {
            return vec![Servers::Redis(Some(variable))];
        }
        harness::skip(format!("{variable} names no server"));
        Vec::new()
    }

    /// The same and Redis, too, where nothing is picked: for the faults that another kind of server can get wrong
    /// in another way.
    pub(super) fn each_kind() -> Vec<Servers> {
        let mut all = Servers::all();
        if std::env::var_os("MEMRING_FAULT_SERVERS").is_none() {
            all.push(Servers::Redis(None));
        }
        all
    }

    /// This machine's memcached, and the newer one where it is named; `MEMRING_FAULT_SERVERS` picks `own` or `newer`.
    pub(super) fn memcached() -> Vec<Servers> {
        let named = std::env::var_os("MEMRING_MEMCACHED_NEW").is_some();
        let picked = std::env::var("MEMRING_FAULT_SERVERS").unwrap_or_default();
        let mut all = Vec::new();
        if picked != "newer" {
            all.push(Servers::Own);
        }
        if named && picked != "own" {
            all.push(Servers::Newer);
        }
        let unnamed = "MEMRING_MEMCACHED_NEW names no newer memcached";
        match picked.as_str() {
            "newer" if !named => harness::skip(unnamed),
            "own" => {}
            _ if !named => harness::leave_out(unnamed),
            _ => {}
        }
        all
    }

    fn start(self, place: usize, extra: &[&str]) -> Server {
        let newer = match self {
            Servers::Redis(None) => return Server::Redis(Redis::start()),
            Servers::Redis(Some(variable)) => {
                let named = Redis::newer(variable, &[]);
                return Server::Redis(named.expect("the variable names a server"));
            }
            Servers::Both if place != 1 => return Server::Redis(Redis::start()),
            Servers::Own | Servers::Both => false,
            Servers::Newer => true,
            Servers::Mixed => place == 1,
        };
        Server::Memcached(if newer {
            Memcached::newer(extra).expect("MEMRING_MEMCACHED_NEW names a memcached")
        } else {
            Memcached::with(extra)
        })
    }
}

/// Whose session handler is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handler {
    Memring,
    /// php-memcached with one replica, as its documentation sets it up.
    PhpMemcached,
}

/// What a stage is made of.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) name: &'static str,
    pub(super) servers: Servers,
    pub(super) nodes: usize,
    /// How many nodes of each session have its value.
    pub(super) copies: usize,
    pub(super) hosts: usize,
    /// Whether a proxy stands before each node, one for each host.
    pub(super) proxies: bool,
    pub(super) handler: Handler,
    /// Arguments of each memcached; a Redis has none.
    pub(super) extra: &'static [&'static str],
    /// Bytes in each session.
    pub(super) pad: usize,
    /// Of each visit a few more than of the one before, up to twice as many.
    pub(super) grows: bool,
    pub(super) sessions: usize,
    /// Environment of each host's PHP.
    pub(super) environment: Vec<Vec<(String, String)>>,
    pub(super) state: State,
    /// Whether hosts find the nodes in a pool file (`pool:sessions`); the list of the first `Plan::nodes` of them.
    pub(super) file: bool,
    /// Nodes that run and are in no list yet.
    pub(super) spare: usize,
    /// Values of a cache in mode sync are visited in place of sessions.
    pub(super) cache: bool,
    /// Processes that serve pages, on each host.
    pub(super) workers: usize,
    /// On a busy machine 100 ms are over for a node that is well, which would be a second fault.
    pub(super) patient: bool,
}

impl Plan {
    /// Three nodes, one host.
    pub(super) fn new(name: &'static str, servers: Servers) -> Plan {
        Plan {
            name,
            servers,
            nodes: 3,
            copies: 3,
            hosts: 1,
            proxies: false,
            handler: Handler::Memring,
            extra: &[],
            pad: 100,
            grows: false,
            sessions: sessions(),
            environment: Vec::new(),
            state: State::Directory,
            file: false,
            spare: 0,
            cache: false,
            workers: CLIENTS,
            patient: false,
        }
    }

    /// The same with proxies.
    pub(super) fn proxied(name: &'static str, servers: Servers) -> Plan {
        Plan {
            proxies: true,
            ..Plan::new(name, servers)
        }
    }

    /// Its nodes and the spare ones, started.
    pub(super) fn servers(&self) -> Vec<Server> {
        (0..self.nodes + self.spare)
            .map(|place| self.servers.start(place, self.extra))
            .collect()
    }

    /// Visits every session while `script` runs, looks at all of them at the end, and tells what came out.
    pub(super) fn play(self, script: impl FnOnce(&mut Scene<'_>)) -> Tally {
        let mut nodes = self.servers();
        let hosts: Vec<Web> = (0..self.hosts)
            .map(|host| Web::start(&self, host, &nodes[..self.nodes]))
            .collect();
        let sessions = Sessions::new(self.sessions, self.pad, self.grows, self.cache);
        let tally = std::thread::scope(|scope| {
            // A script that fails must end the visits, too, or the scope waits for ever.
            let guard = Ends(&sessions);
            let mut scene = Scene {
                nodes: &mut nodes,
                hosts: &hosts,
                sessions: &sessions,
            };
            scene.trusted();
            for client in 0..CLIENTS {
                let (sessions, host) = (&sessions, &hosts[client % hosts.len()]);
                scope.spawn(move || sessions.visit_until_the_end(host));
            }
            scene.lap();
            // On a busy machine an answer may have been late by now, and a node be listed for it:
            // the fault to come is to be the only one.
            scene.trusted();
            script(&mut scene);
            sessions.look_at_all();
            drop(guard);
            sessions.tally()
        });
        println!(
            "{} · {:?} · {} nodes · {} sessions · {tally}",
            self.name, self.servers, self.nodes, self.sessions
        );
        for (said, times) in &tally.said {
            println!("   {times} x {said}");
        }
        for story in &tally.evidence {
            println!("   {story}");
        }
        for story in &tally.slow {
            println!("   waited:\n      {story}");
        }
        if tally.wrong() > 0 || tally.mended > Duration::from_secs(5) {
            for host in &hosts {
                println!("   tend:\n{}", host.tend_log());
            }
        }
        tally
    }
}

struct Ends<'run>(&'run Sessions);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// What a script acts on while the visits go on.
pub(super) struct Scene<'run> {
    pub(super) nodes: &'run mut Vec<Server>,
    pub(super) hosts: &'run [Web],
    pub(super) sessions: &'run Sessions,
}

impl Scene<'_> {
    /// Waits until every session was visited once more.
    pub(super) fn lap(&self) {
        self.sessions.lap();
    }

    /// Laps, until so much time has passed.
    pub(super) fn laps_for(&self, time: Duration) {
        let begin = Instant::now();
        self.lap();
        while begin.elapsed() < time {
            self.lap();
        }
    }

    /// Waits until every host says that the next node may be touched.
    ///
    /// Of a cache: until its nodes are in use, and have what they missed.
    pub(super) fn trusted(&self) {
        let begin = Instant::now();
        for host in self.hosts.iter().filter(|host| !host.shared.is_empty()) {
            assert!(
                wait_until(Duration::from_secs(60), || host.show("used.php", USED)
                    == "used"),
                "a node that answers is not used:\n{}",
                host.tend_log()
            );
        }
        if self.hosts.iter().any(|host| !host.shared.is_empty()) {
            // A visit that began before may leave its key to a node that is back by now.
            drop(self.sessions.at_rest());
        }
        for host in self.hosts {
            host.wait_until_all_are_trusted(self.nodes.len());
        }
        self.sessions.mended(begin.elapsed());
    }

    /// From now on nodes show what they have again that were away.
    pub(super) fn returned(&self) {
        self.sessions.returned();
    }

    /// The proxies before node `place`, one of each host.
    pub(super) fn proxies(&self, place: usize) -> impl Iterator<Item = &Proxy> {
        self.hosts.iter().map(move |host| &host.proxies[place])
    }
}

/// One web host.
pub(super) struct Web {
    fpm: PhpFpm,
    pub(super) proxies: Vec<Proxy>,
    /// What tells a companion the pool: `--list LIST` or `--config FILE`.
    pool: [String; 2],
    tend: Option<Process>,
    pub(super) state: Place,
    /// Where a cache's nodes may have missed keys, for a companion: `--state-dir DIR`.
    shared: Vec<String>,
    directory: TempDir,
}

impl Web {
    pub(super) fn start(plan: &Plan, number: usize, nodes: &[Server]) -> Web {
        let directory = TempDir::new("host");
        let proxies: Vec<Proxy> = nodes
            .iter()
            .filter(|_| plan.proxies)
            .map(|node| Proxy::start(node.port()).unrecorded())
            .collect();
        let port = |place: usize| proxies.get(place).map_or(nodes[place].port(), Proxy::port);
        // The ports differ from host to host, the nodes' names do not.
        let mut names: Vec<String> = (0..nodes.len())
            .map(|place| {
                node_name(
                    nodes[place].scheme(),
                    port(place),
                    &format!("node{place}"),
                    1,
                )
            })
            .collect();
        if plan.cache || plan.patient {
            names
                .iter_mut()
                .for_each(|name| name.push_str("&timeout=0.5"));
        }
        if plan.copies < 3 {
            names[0].push_str(&format!("&mode=fenced&copies={}", plan.copies));
        }
        let (save_path, pool) = if plan.file || plan.cache {
            let file = match plan.cache {
                true => cache_file(&names),
                false => pool_file(&names, ""),
            };
            let path = directory.file("memring.toml", file);
            let path = path.display().to_string();
            ("pool:sessions".to_string(), ["--config".to_string(), path])
        } else {
            (names.join(", "), ["--list".to_string(), names.join(", ")])
        };
        let state = plan.state.make(&directory);
        let mut php = match plan.handler {
            Handler::Memring => {
                let mut php = Php::bare()
                    .extension(readable(harness::php::extension(), &state, &directory))
                    .ini("memring.state_dir", state.path.display())
                    .ini("session.save_handler", "memring")
                    .ini("session.save_path", save_path);
                if plan.file || plan.cache {
                    php = php.ini("memring.config_file", &pool[1]);
                }
                php
            }
            Handler::PhpMemcached => php_memcached((0..nodes.len()).map(port)),
        };
        let environment = plan.environment.get(number).into_iter().flatten();
        for (name, value) in environment.clone() {
            php = php.env(name, value);
        }
        let php = php
            .ini("session.use_cookies", 0)
            .ini("session.cache_limiter", "");
        let fpm = PhpFpm::of(&php, plan.workers, "", state.user);
        let page = match plan.cache {
            true => include_str!("cache.php"),
            false => include_str!("visit.php"),
        };
        fpm.page("visit.php", page.trim_start_matches("<?php"));
        let tend = (plan.handler == Handler::Memring).then(|| {
            let log = std::fs::File::create(directory.path().join("log")).expect("a log file");
            let own = PathBuf::from(companion::program().get_program());
            let mut tend = Command::new(readable(&own, &state, &directory));
            if let Some(user) = state.user.filter(|_| rustix::process::geteuid().is_root()) {
                tend.uid(user).gid(user);
            }
            tend.envs(environment.map(|(name, value)| (name, value)))
                .args(["tend", "--interval", "0.1", "--state-dir"])
                .arg(&state.path)
                .args(&pool)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log);
            Process::start(&mut tend).expect("start memring tend")
        });
        let mut web = Web {
            fpm,
            proxies,
            pool,
            tend,
            state,
            shared: Vec::new(),
            directory,
        };
        if plan.cache {
            // What workers share in no file nobody else can see, and what a full disk has of one says nothing.
            let seen = match shared_file(&web).is_empty() {
                true => web.directory.path(),
                false => &web.state.path,
            };
            web.shared = vec!["--state-dir".to_string(), seen.display().to_string()];
        }
        web
    }

    /// One page's answer.
    pub(super) fn ask(&self, query: &str) -> Result<String, String> {
        match self.fpm.try_get("visit.php", query, "") {
            Ok(reply) => Ok(reply.text()),
            Err(why) => Err(why.to_string()),
        }
    }

    /// Answers [`Web::ask`] with another page from now on.
    pub(super) fn serve(&self, script: &str) {
        self.fpm
            .page("visit.php", script.trim_start_matches("<?php"));
    }

    /// What a page of this script prints.
    pub(super) fn show(&self, name: &str, script: &str) -> String {
        self.fpm.page(name, script);
        self.fpm.get(name, "", "").text()
    }

    /// Puts another pool file in place, whole, as an administrator should.
    pub(super) fn give(&self, file: &str) {
        let new = self.directory.file("memring.toml.new", file);
        std::fs::rename(new, &self.pool[1]).expect("put the file in place");
    }

    /// Ends the step to the nodes of its pool file: exit code and what was said.
    pub(super) fn commit(&self) -> (i32, String) {
        let (code, out, err) =
            companion::run(&["commit", &self.pool[0], &self.pool[1], "sessions"]);
        (code, out + &err)
    }

    /// The processes that serve pages.
    pub(super) fn workers(&self) -> Vec<u32> {
        let master = self.fpm.pid();
        let children = std::fs::read_to_string(format!("/proc/{master}/task/{master}/children"));
        let words = children.unwrap_or_default();
        words
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect()
    }

    /// Waits until `memring status` says that the next node may be touched.
    pub(super) fn wait_until_all_are_trusted(&self, nodes: usize) {
        if self.tend.is_none() {
            return;
        }
        let limit = Duration::from_secs(120 + sessions() as u64 / 20);
        let safe = || {
            let status = companion::program()
                .arg("status")
                .args(&self.pool)
                .args(&self.shared)
                .stdin(Stdio::null())
                .output()
                .expect("run memring status");
            status.status.success()
        };
        assert!(
            wait_until(limit, || {
                std::thread::sleep(Duration::from_millis(30));
                safe()
            }),
            "not all {nodes} nodes are trusted:\n{}",
            self.tend_log()
        );
    }

    pub(super) fn tend_log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

/// Whether this host's workers use each node of its cache: a node that answers may still have the mark of its failure.
const USED: &str = "
    $m = new Memcache;
    $m->addServer('pool:cache');
    foreach (Memring\\status()['pools'] as $pool)
        foreach ($pool['nodes'] as $node) if ($node['state'] !== 'up') die($node['state']);
    echo 'used';
";

/// A node as lists and pool files name it.
pub(super) fn node_name(scheme: &str, port: u16, id: &str, weight: u32) -> String {
    format!("{scheme}://127.0.0.1:{port}?id={id}&weight={weight}")
}

/// A file with one pool of copied sessions on these nodes; `more` is added to its table.
pub(super) fn pool_file(nodes: &[String], more: &str) -> String {
    format!("[pool.sessions]\nnodes = {nodes:?}\nmode = \"fenced\"\n{more}\n")
}

/// The same with one pool of copied values.
pub(super) fn cache_file(nodes: &[String]) -> String {
    format!("[pool.cache]\nnodes = {nodes:?}\nmode = \"sync\"\n")
}

/// The file where the user of this state directory can read it: what was built may lie below a home directory.
fn readable(file: &Path, state: &Place, directory: &TempDir) -> PathBuf {
    if state.user.is_none() {
        return file.to_path_buf();
    }
    let copy = directory
        .path()
        .join(file.file_name().expect("a file's name"));
    std::fs::copy(file, &copy).expect("copy what was built");
    copy
}

impl Drop for Web {
    fn drop(&mut self) {
        // What a faked clock leaves behind (libfaketime) when its process is killed.
        let tend = self.tend.as_ref().map(Process::pid);
        for pid in tend.into_iter().chain([self.fpm.pid()]) {
            for name in ["faketime_shm", "sem.faketime_sem"] {
                let _ = std::fs::remove_file(format!("/dev/shm/{name}_{pid}"));
            }
        }
    }
}

/// php-memcached set up for two copies of each session: one replica, as its README has it.
fn php_memcached(ports: impl Iterator<Item = u16>) -> Php {
    let list: Vec<String> = ports.map(|port| format!("127.0.0.1:{port}")).collect();
    Php::bare()
        .extension("igbinary")
        .extension("msgpack")
        .extension("memcached")
        .ini("session.save_handler", "memcached")
        .ini("session.save_path", list.join(","))
        .ini("memcached.sess_binary_protocol", 1)
        .ini("memcached.sess_consistent_hash", 1)
        .ini("memcached.sess_number_of_replicas", 1)
        .ini("memcached.sess_remove_failed_servers", 1)
        // Its lock is on one node only, and nobody is let in while that is away.
        .ini("memcached.sess_locking", 0)
        .ini("memcached.sess_connect_timeout", 1000)
}
