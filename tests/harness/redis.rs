//! A real Redis or Valkey on a free loopback port or a unix socket, and an independent client to look into it.

use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::certificates::{Issued, text};
use crate::place::{TempDir, free_port, program, wait_until};
use crate::process::Process;

/// One Redis of this test, stopped on drop. It keeps nothing on disk unless it is told to.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    /// Another program than the one in PATH, with its first arguments.
    program: Option<Vec<String>>,
    port: u16,
    /// Its port for TLS, 0 for none; the suite's own eye stays on the plain one.
    tls_port: u16,
    extra: Vec<String>,
    directory: TempDir,
}

impl Redis {
    /// Starts one on a free port of 127.0.0.1, and on a unix socket.
    pub fn start() -> Redis {
        Redis::with(&[])
    }

    /// The same with further arguments, such as `["--requirepass", "x"]`.
    pub fn with(extra: &[&str]) -> Redis {
        (0..5)
            .find_map(|_| Redis::try_program(None, free_port(), extra))
            .expect("redis-server did not start on five free ports")
    }

    /// One that speaks TLS on a port of its own, as its certificate says. With `ours` it lets in only
    /// who has a certificate of that CA.
    pub fn with_tls(issued: &Issued, ours: Option<&Path>, extra: &[&str]) -> Redis {
        let (cert, key) = (text(&issued.cert), text(&issued.key));
        let ca = ours.map_or_else(|| cert.clone(), text);
        let asks = if ours.is_some() { "yes" } else { "no" };
        let start = || {
            let tls_port = free_port();
            let number = tls_port.to_string();
            let files = [
                "--tls-cert-file",
                &cert,
                "--tls-key-file",
                &key,
                "--tls-ca-cert-file",
                &ca,
            ];
            let tls = ["--tls-port", &number, "--tls-auth-clients", asks];
            let arguments = [&tls, &files[..], extra].concat();
            let mut server = Redis::try_program(None, free_port(), &arguments)?;
            server.tls_port = tls_port;
            Some(server)
        };
        (0..5)
            .find_map(|_| start())
            .expect("redis-server with TLS did not start on five free ports")
    }

    /// Its port for TLS.
    pub fn tls_port(&self) -> u16 {
        assert_ne!(self.tls_port, 0, "it speaks no TLS");
        self.tls_port
    }

    /// One of another version, or a Valkey: `variable` names a path, or a command that ends
    /// with one (`chroot /srv/newer /usr/bin/valkey-server`). `None` where it is unset.
    pub fn newer(variable: &str, extra: &[&str]) -> Option<Redis> {
        let command = std::env::var(variable).ok()?;
        let words: Vec<String> = command
            .split_ascii_whitespace()
            .map(str::to_owned)
            .collect();
        let server =
            (0..5).find_map(|_| Redis::try_program(Some(words.clone()), free_port(), extra));
        Some(
            server.unwrap_or_else(|| {
                panic!("{variable} ({command}) did not start on five free ports")
            }),
        )
    }

    fn try_program(program: Option<Vec<String>>, port: u16, extra: &[&str]) -> Option<Redis> {
        let extra: Vec<String> = extra.iter().map(|argument| argument.to_string()).collect();
        let directory = TempDir::new("redis");
        let process = spawn(program.as_deref(), port, directory.path(), &extra);
        let mut server = Redis {
            process,
            program,
            port,
            tls_port: 0,
            extra,
            directory,
        };
        server.answers().then_some(server)
    }

    /// Its TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The path of its unix socket; only of one that sees this machine's folders.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    /// Ends it at once, as a crash does.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Freezes it: connections stay open, nothing is answered.
    pub fn freeze(&self) {
        self.process.freeze();
    }

    /// Lets a frozen one go on.
    pub fn resume(&self) {
        self.process.signal(Signal::CONT);
    }

    /// Starts it again on the same port with empty memory.
    pub fn restart(&mut self) {
        self.process.kill();
        let program = self.program.as_deref();
        self.process = spawn(program, self.port, self.directory.path(), &self.extra);
        let address = self.address();
        assert!(
            self.answers(),
            "redis-server did not come back on {address} within 5 s"
        );
    }

    /// A connection of a client that shares no code with the library under test.
    pub fn client(&self) -> redis::Connection {
        self.client_as("")
    }

    /// The same, entered as an URL says: `user:password@`.
    pub fn client_as(&self, who: &str) -> redis::Connection {
        let url = format!("redis://{who}127.0.0.1:{}/", self.port);
        let client = redis::Client::open(url).expect("a URL of our Redis");
        client.get_connection().expect("connect to our Redis")
    }

    /// One number or word of `INFO`.
    pub fn info(&self, name: &str) -> String {
        let text: String = redis::cmd("INFO")
            .query(&mut self.client())
            .expect("INFO of our Redis");
        text.lines()
            .find_map(|line| line.strip_prefix(&format!("{name}:")))
            .unwrap_or_else(|| panic!("Redis has no {name}"))
            .trim()
            .to_owned()
    }

    /// Waits until it is the process we started that answers, not a stranger on the same port.
    fn answers(&mut self) -> bool {
        let pid = format!("process_id:{}", self.process.pid());
        let mut ours = false;
        wait_until(Duration::from_secs(5), || {
            if self.process.ended() {
                return true;
            }
            let url = format!("redis://127.0.0.1:{}/", self.port);
            let connected = redis::Client::open(url).and_then(|client| client.get_connection());
            let Ok(mut connection) = connected else {
                return false;
            };
            match redis::cmd("INFO")
                .arg("server")
                .query::<String>(&mut connection)
            {
                Ok(text) => ours = text.lines().any(|line| line == pid),
                // It wants a password first: nobody else's here does.
                Err(error) => ours = error.code() == Some("NOAUTH"),
            }
            ours
        });
        ours
    }
}

fn spawn(named: Option<&[String]>, port: u16, directory: &Path, extra: &[String]) -> Process {
    let mut command = match named {
        Some([first, rest @ ..]) => {
            let mut command = Command::new(first);
            command.args(rest);
            command
        }
        _ => {
            let mut command = Command::new(
                program(&["redis-server"])
                    .expect("redis-server is not installed: apt-get install redis-server"),
            );
            // One in a folder of its own does not see ours.
            command.arg("--dir").arg(directory);
            command
                .arg("--unixsocket")
                .arg(directory.join("redis.sock"));
            command
        }
    };
    command
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
        .args(extra)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Process::start(&mut command).expect("start redis-server")
}
