//! Servers that lie: one that answers what a script says, and a port that swallows connection attempts.
//!
//! The script is a closure: it is asked once per request (a command line and, for storage commands, its data
//! block; or the words of one of Redis) and returns the acts to carry out. So a test states its whole attack in one place.

use rustix::net::{AddressFamily, SocketType, bind, connect, listen, socket_with};
use rustix::net::{SocketAddrV4, SocketFlags};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::place::wait_until;
use crate::proxy::reset;

/// One thing a hostile server does.
#[derive(Clone, Debug)]
pub enum Act {
    /// Send these bytes.
    Say(Vec<u8>),
    /// Send these bytes one at a time with this pause after each.
    Drip(Vec<u8>, Duration),
    /// Wait before the next act.
    Pause(Duration),
    /// Close with an end of file.
    Close,
    /// Close with a reset.
    Reset,
    /// Keep the connection open and never answer again.
    Hang,
}

impl Act {
    /// [`Act::Say`] from anything that is bytes.
    pub fn say(bytes: impl AsRef<[u8]>) -> Act {
        Act::Say(bytes.as_ref().to_vec())
    }
}

/// A request as the hostile server saw it.
#[derive(Clone, Debug)]
pub struct Request {
    /// Connections are numbered from 0.
    pub connection: usize,
    /// Requests are numbered from 0 over all connections.
    pub number: usize,
    /// The command line without its CR LF; of a Redis the words up to the first that is no plain word.
    pub line: String,
    /// The data block of a storage command, without its CR LF; of a Redis the last word.
    pub data: Vec<u8>,
}

impl Request {
    /// The command word.
    pub fn verb(&self) -> &str {
        self.line.split(' ').next().unwrap_or("")
    }

    /// The last word: the key of a command that has one and no more.
    pub fn last(&self) -> &str {
        self.line.rsplit(' ').next().unwrap_or("")
    }

    /// The n-th word after the command word.
    pub fn word(&self, n: usize) -> &str {
        self.line.split(' ').nth(n + 1).unwrap_or("")
    }
}

type Script = dyn Fn(&Request) -> Vec<Act> + Send + Sync;

/// A server that answers what its script says; dropping it closes everything.
#[derive(Debug)]
pub struct Hostile {
    port: u16,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    script: Box<Script>,
    requests: Mutex<Vec<Request>>,
    /// Per connection: the stream, and whether the client has closed it.
    connections: Mutex<Vec<(TcpStream, bool)>>,
    ending: AtomicBool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("requests", &self.requests)
            .finish_non_exhaustive()
    }
}

impl Hostile {
    /// Starts one on a free port of 127.0.0.1.
    pub fn start(script: impl Fn(&Request) -> Vec<Act> + Send + Sync + 'static) -> Hostile {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free loopback port");
        let port = listener
            .local_addr()
            .expect("a bound socket has an address")
            .port();
        let shared = Arc::new(Shared {
            script: Box::new(script),
            requests: Mutex::default(),
            connections: Mutex::default(),
            ending: AtomicBool::new(false),
        });
        let inside = Arc::clone(&shared);
        let acceptor = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if inside.ending.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let Ok(kept) = stream.try_clone() else {
                    continue;
                };
                let connection = {
                    let mut connections = inside.connections.lock().unwrap();
                    connections.push((kept, false));
                    connections.len() - 1
                };
                let server = Arc::clone(&inside);
                std::thread::spawn(move || {
                    serve(&server, connection, stream);
                    server.connections.lock().unwrap()[connection].1 = true;
                });
            }
        });
        Hostile {
            port,
            shared,
            acceptor: Some(acceptor),
        }
    }

    /// The port clients connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Every request seen so far.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// The number of connections accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.lock().unwrap().len()
    }

    /// Waits until this connection has ended, by the client's hand or the script's.
    pub fn ended(&self, connection: usize) -> bool {
        wait_until(Duration::from_secs(5), || {
            self.shared
                .connections
                .lock()
                .unwrap()
                .get(connection)
                .is_some_and(|entry| entry.1)
        })
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port)); // wakes accept()
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        for (stream, _) in self.shared.connections.lock().unwrap().iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn serve(shared: &Shared, connection: usize, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let Ok(input) = stream.try_clone() else {
        return;
    };
    let mut input = BufReader::new(input);
    let mut output = stream;
    while let Some((line, data)) = request(&mut input) {
        let request = {
            let mut requests = shared.requests.lock().unwrap();
            let request = Request {
                connection,
                number: requests.len(),
                line,
                data,
            };
            requests.push(request.clone());
            request
        };
        for act in (shared.script)(&request) {
            let done = match act {
                Act::Say(bytes) => output.write_all(&bytes),
                Act::Drip(bytes, pause) => bytes.iter().try_for_each(|byte| {
                    let written = output.write_all(&[*byte]);
                    std::thread::sleep(pause);
                    written
                }),
                Act::Pause(pause) => {
                    std::thread::sleep(pause);
                    Ok(())
                }
                Act::Close => {
                    let _ = output.shutdown(Shutdown::Both);
                    return;
                }
                Act::Reset => {
                    reset(&output);
                    return;
                }
                Act::Hang => {
                    let mut rest = Vec::new();
                    let _ = input.read_to_end(&mut rest);
                    return;
                }
            };
            if done.is_err() {
                return;
            }
        }
    }
}

/// Reads one request of the classic protocol or of RESP; `None` at the end of the connection.
fn request(input: &mut impl BufRead) -> Option<(String, Vec<u8>)> {
    let mut line = Vec::new();
    if input.read_until(b'\n', &mut line).ok()? == 0 {
        return None;
    }
    let line = String::from_utf8_lossy(&line)
        .trim_end_matches(['\r', '\n'])
        .to_string();
    if let Some(count) = line.strip_prefix('*') {
        return words(input, count.parse().ok()?);
    }
    let words: Vec<&str> = line.split(' ').collect();
    let length = match words.first().copied() {
        Some("set" | "add" | "replace" | "append" | "prepend" | "cas") => {
            words.get(4).and_then(|word| word.parse().ok())
        }
        Some("ms") => words.get(2).and_then(|word| word.parse().ok()),
        _ => None,
    };
    let mut data = Vec::new();
    if let Some(length) = length {
        let length: usize = length;
        data.resize(length + 2, 0);
        input.read_exact(&mut data).ok()?;
        data.truncate(length);
    }
    Some((line, data))
}

/// The rest of a request of so many words.
fn words(input: &mut impl BufRead, count: usize) -> Option<(String, Vec<u8>)> {
    let mut words = Vec::new();
    for _ in 0..count {
        let mut head = String::new();
        input.read_line(&mut head).ok()?;
        let length: usize = head.strip_prefix('$')?.trim_end().parse().ok()?;
        let mut word = vec![0; length + 2];
        input.read_exact(&mut word).ok()?;
        word.truncate(length);
        words.push(word);
    }
    let plain = |word: &&Vec<u8>| word.iter().all(u8::is_ascii_graphic);
    let line: Vec<_> = (words.iter().take_while(plain))
        .map(|word| String::from_utf8_lossy(word))
        .collect();
    let line = line.join(" ");
    Some((line, words.pop().unwrap_or_default()))
}

/// A listening port whose queue is full: connection attempts get no answer at all.
#[derive(Debug)]
pub struct BlackHole {
    port: u16,
    _listener: OwnedFd,
    _waiting: Vec<OwnedFd>,
}

impl BlackHole {
    /// Starts one on a free port of 127.0.0.1 and fills its queue.
    pub fn start() -> BlackHole {
        let flags = SocketFlags::CLOEXEC;
        let listener =
            socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).expect("a socket");
        bind(&listener, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).expect("a free loopback port");
        listen(&listener, 0).expect("listen");
        let address = rustix::net::getsockname(&listener).expect("a bound socket has an address");
        let port = SocketAddrV4::try_from(address)
            .expect("an IPv4 address")
            .port();
        let target = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        // A queue of length 0 holds one connection on Linux; some spare attempts make sure it is full.
        let waiting = (0..8)
            .map(|_| {
                let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
                let client = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)
                    .expect("a socket");
                let _ = connect(&client, &target); // in progress is what we want
                client
            })
            .collect();
        let hole = BlackHole {
            port,
            _listener: listener,
            _waiting: waiting,
        };
        let swallowed = || {
            TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), Duration::from_millis(100))
                .is_err()
        };
        assert!(
            wait_until(Duration::from_secs(5), swallowed),
            "the queue of the black hole never filled"
        );
        hole
    }

    /// The port that swallows connection attempts.
    pub fn port(&self) -> u16 {
        self.port
    }
}
