//! A real memcached on a free loopback port or a unix socket: start, kill, freeze, resume, restart empty.

use rustix::process::Signal;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::certificates::{Issued, text};
use crate::place::{TempDir, free_port, program, wait_until};
use crate::process::Process;

/// One memcached of this test, stopped on drop.
#[derive(Debug)]
pub struct Memcached {
    process: Process,
    /// Another program than the one in PATH, with its first arguments.
    program: Option<Vec<String>>,
    port: u16,
    socket: Option<PathBuf>,
    extra: Vec<String>,
    /// Its port for TLS, 0 for none; the suite's own eye stays on the plain one.
    tls_port: u16,
    /// Who this suite is there, as `user:password`.
    login: Option<String>,
    directory: Option<TempDir>,
}

impl Memcached {
    /// Starts one on a free port of 127.0.0.1.
    pub fn start() -> Memcached {
        Memcached::with(&[])
    }

    /// Starts one on a free port with further arguments, such as `["-M", "-m", "1"]`.
    pub fn with(extra: &[&str]) -> Memcached {
        for _ in 0..5 {
            if let Some(server) = Memcached::try_port(free_port(), extra) {
                return server;
            }
        }
        panic!("memcached did not start on five free ports");
    }

    /// Starts one that lets in who says one of these lines of `user:password` (`-Y`); its eye is
    /// the first of them.
    pub fn with_logins(logins: &[&str], extra: &[&str]) -> Memcached {
        let directory = TempDir::new("logins");
        let path = directory.file("logins", lines(logins));
        let path = path.display().to_string();
        let arguments = [&["-Y", path.as_str()], extra].concat();
        let start = || {
            let port = free_port();
            let mut server = Memcached::spawned(None, port, &arguments);
            server.login = logins.first().map(|login| (*login).to_owned());
            server.answers().then_some(server)
        };
        let mut server = (0..5)
            .find_map(|_| start())
            .expect("memcached did not start on five free ports");
        server.directory = Some(directory);
        server
    }

    /// Changes who is let in; returns when the server knows it.
    pub fn change_logins(&mut self, logins: &[&str]) {
        let directory = self.directory.as_ref().expect("it was started with logins");
        directory.file("logins", lines(logins));
        self.login = logins.first().map(|login| (*login).to_owned());
        self.process.signal(Signal::HUP);
        assert!(self.answers(), "memcached did not take its new logins");
    }

    /// Starts one that speaks TLS on a port of its own (`-Z`), as its certificate says. With `ours`
    /// it lets in only who has a certificate of that CA.
    pub fn with_tls(issued: &Issued, ours: Option<&Path>, extra: &[&str]) -> Memcached {
        let (cert, key) = (text(&issued.cert), text(&issued.key));
        let mut options = format!("ssl_chain_cert={cert},ssl_key={key}");
        if let Some(ca) = ours {
            options.push_str(&format!(",ssl_verify_mode=2,ssl_ca_cert={}", text(ca)));
        }
        let start = || {
            let (port, tls_port) = (free_port(), free_port());
            let plain = format!("notls:127.0.0.1:{port}");
            let arguments = [&["-Z", "-o", &options, "-l", &plain], extra].concat();
            let mut server = Memcached::spawned(None, tls_port, &arguments);
            (server.port, server.tls_port) = (port, tls_port);
            server.answers().then_some(server)
        };
        (0..5)
            .find_map(|_| start())
            .expect("memcached with TLS did not start on five free ports")
    }

    /// Its port for TLS.
    pub fn tls_port(&self) -> u16 {
        assert_ne!(self.tls_port, 0, "it speaks no TLS");
        self.tls_port
    }

    /// Starts one of another version, which `MEMRING_MEMCACHED_NEW` names: a path, or a command
    /// that ends with one (`chroot /srv/newer /usr/bin/memcached`). `None` where it is unset.
    pub fn newer(extra: &[&str]) -> Option<Memcached> {
        let words = newer_program()?;
        let server =
            (0..5).find_map(|_| Memcached::try_program(Some(words.clone()), free_port(), extra));
        Some(server.unwrap_or_else(|| {
            panic!(
                "MEMRING_MEMCACHED_NEW ({}) did not start on five free ports",
                words.join(" ")
            )
        }))
    }

    /// Starts one on this port of 127.0.0.1; for records that hash the port number.
    pub fn on(port: u16, extra: &[&str]) -> Memcached {
        Memcached::try_port(port, extra).unwrap_or_else(|| {
            panic!(
                "memcached did not start on 127.0.0.1:{port}. Does another program listen there?"
            )
        })
    }

    /// Starts one on a unix socket in a directory of its own.
    pub fn on_socket() -> Memcached {
        let directory = TempDir::new("socket");
        let socket = directory.path().join("memcached.sock");
        let arguments = [
            "-s".to_string(),
            socket.display().to_string(),
            "-a".into(),
            "0777".into(),
        ];
        let process = spawn(None, &arguments, &[]);
        let mut server = Memcached {
            process,
            program: None,
            port: 0,
            socket: Some(socket),
            extra: Vec::new(),
            tls_port: 0,
            login: None,
            directory: Some(directory),
        };
        assert!(
            server.answers(),
            "memcached did not answer on its unix socket within 5 s"
        );
        server
    }

    fn try_port(port: u16, extra: &[&str]) -> Option<Memcached> {
        Memcached::try_program(None, port, extra)
    }

    fn try_program(program: Option<Vec<String>>, port: u16, extra: &[&str]) -> Option<Memcached> {
        let mut server = Memcached::spawned(program, port, extra);
        server.answers().then_some(server)
    }

    fn spawned(program: Option<Vec<String>>, port: u16, extra: &[&str]) -> Memcached {
        let extra: Vec<String> = extra.iter().map(|argument| argument.to_string()).collect();
        let process = spawn(program.as_deref(), &port_arguments(port), &extra);
        Memcached {
            process,
            program,
            port,
            socket: None,
            extra,
            tls_port: 0,
            login: None,
            directory: None,
        }
    }

    /// Its TCP port (0 on a unix socket).
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The path of its unix socket.
    pub fn socket(&self) -> &Path {
        self.socket
            .as_deref()
            .expect("this memcached listens on TCP")
    }

    /// Ends it at once, as a crash does.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Freezes it: connections stay open, nothing is answered.
    pub fn freeze(&self) {
        self.process.freeze();
    }

    /// Lets a frozen one go on with the data it had.
    pub fn resume(&self) {
        self.process.signal(Signal::CONT);
    }

    /// Starts it again on the same port as the version `MEMRING_MEMCACHED_NEW` names, with empty memory: an
    /// upgrade. False, and nothing happens, where that is unset.
    pub fn upgrade(&mut self) -> bool {
        let Some(words) = newer_program() else {
            return false;
        };
        self.program = Some(words);
        self.restart();
        true
    }

    /// Starts it again on the same port with empty memory.
    pub fn restart(&mut self) {
        self.process.kill();
        let arguments = match &self.socket {
            Some(socket) => vec![
                "-s".to_string(),
                socket.display().to_string(),
                "-a".into(),
                "0777".into(),
            ],
            None if self.tls_port != 0 => port_arguments(self.tls_port),
            None => port_arguments(self.port),
        };
        self.process = spawn(self.program.as_deref(), &arguments, &self.extra);
        assert!(
            self.answers(),
            "memcached did not come back on {} within 5 s",
            self.address()
        );
    }

    /// Sends raw bytes and returns what comes back until `end` is seen.
    ///
    /// This is the suite's eye on the server: it shares no code with the library under test.
    pub fn raw(&self, request: impl AsRef<[u8]>, end: &str) -> Vec<u8> {
        let mut connection = self.connect().expect("connect to our memcached");
        connection
            .write_all(request.as_ref())
            .expect("write to our memcached");
        let mut reply = Vec::new();
        let mut piece = [0; 65536];
        while !reply.ends_with(end.as_bytes()) {
            match connection.read(&mut piece) {
                Ok(0) => panic!(
                    "memcached closed after {:?}",
                    String::from_utf8_lossy(&reply)
                ),
                Ok(n) => reply.extend_from_slice(&piece[..n]),
                Err(e) => panic!("memcached: {e} after {:?}", String::from_utf8_lossy(&reply)),
            }
        }
        reply
    }

    /// The flags and the raw bytes stored under `key`, or `None`.
    pub fn stored(&self, key: &str) -> Option<(u32, Vec<u8>)> {
        let mut connection = BufReader::new(self.connect().expect("connect to our memcached"));
        write!(connection.get_mut(), "get {key}\r\n").expect("write to our memcached");
        let mut line = String::new();
        connection
            .read_line(&mut line)
            .expect("a line from memcached");
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some("VALUE") {
            return None;
        }
        let flags = words
            .nth(1)
            .and_then(|word| word.parse().ok())
            .expect("flags of a VALUE line");
        let length: usize = words
            .next()
            .and_then(|word| word.parse().ok())
            .expect("length of a VALUE line");
        let mut value = vec![0; length];
        connection
            .read_exact(&mut value)
            .expect("the value memcached announced");
        Some((flags, value))
    }

    /// One number of `stats`, such as `curr_connections`.
    pub fn stat(&self, name: &str) -> u64 {
        let reply = self.raw("stats\r\n", "END\r\n");
        String::from_utf8_lossy(&reply)
            .lines()
            .find_map(|line| {
                line.strip_prefix(&format!("STAT {name} "))
                    .and_then(|value| value.trim().parse().ok())
            })
            .unwrap_or_else(|| panic!("memcached has no stat {name}"))
    }

    fn connect(&self) -> std::io::Result<Connection> {
        let limit = Some(Duration::from_secs(5));
        let mut connection: Connection = match &self.socket {
            Some(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(limit)?;
                Box::new(stream)
            }
            None => {
                let stream = TcpStream::connect(("127.0.0.1", self.port))?;
                stream.set_read_timeout(limit)?;
                Box::new(stream)
            }
        };
        if let Some(login) = &self.login {
            let said = login.replacen(':', " ", 1);
            write!(connection, "set login 0 0 {}\r\n{said}\r\n", said.len())?;
            let mut answer = [0; 64];
            let count = connection.read(&mut answer)?;
            if answer[..count] != *b"STORED\r\n" {
                return Err(std::io::ErrorKind::PermissionDenied.into());
            }
        }
        Ok(connection)
    }

    /// Waits until it answers `version` and is the process we started, not a stranger on the same port.
    fn answers(&mut self) -> bool {
        let mut ours = false;
        wait_until(Duration::from_secs(5), || {
            if self.process.ended() {
                return true;
            }
            let Ok(mut connection) = self.connect() else {
                return false;
            };
            let mut reply = [0; 512];
            if connection.write_all(b"stats\r\n").is_err() {
                return false;
            }
            let Ok(n) = connection.read(&mut reply) else {
                return false;
            };
            ours = String::from_utf8_lossy(&reply[..n])
                .contains(&format!("STAT pid {}\r\n", self.process.pid()));
            ours
        });
        ours
    }
}

/// The words of `MEMRING_MEMCACHED_NEW`, where it is set.
fn newer_program() -> Option<Vec<String>> {
    let command = std::env::var("MEMRING_MEMCACHED_NEW").ok()?;
    let words: Vec<String> = command
        .split_ascii_whitespace()
        .map(str::to_string)
        .collect();
    (!words.is_empty()).then_some(words)
}

fn lines(logins: &[&str]) -> String {
    logins.iter().map(|login| format!("{login}\n")).collect()
}

/// A byte stream of either kind of socket.
type Connection = Box<dyn Stream>;

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

fn port_arguments(port: u16) -> Vec<String> {
    ["-l", "127.0.0.1", "-p", &port.to_string()]
        .iter()
        .map(|argument| argument.to_string())
        .collect()
}

fn spawn(named: Option<&[String]>, arguments: &[String], extra: &[String]) -> Process {
    let mut command = match named {
        Some([first, rest @ ..]) => {
            let mut command = Command::new(first);
            command.args(rest);
            command
        }
        _ => Command::new(
            program(&["memcached"]).expect("memcached is not installed: apt-get install memcached"),
        ),
    };
    command.args(arguments).args(["-U", "0"]).args(extra);
    if rustix::process::geteuid().is_root() {
        command.args(["-u", "root"]); // memcached refuses to run as root without being told a user
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Process::start(&mut command).expect("start memcached")
}
