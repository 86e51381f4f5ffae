//! A TCP proxy before a real server: it records every byte of both directions, and disturbs replies on request.
//!
//! One pair of threads per connection; this is for tests of behaviour, not of speed.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::place::wait_until;

/// What the proxy does to the replies of the server, from the moment it is set.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// Pass everything on.
    None,
    /// Hold every piece of a reply back for this long.
    Delay(Duration),
    /// Hold every piece of a request back for this long.
    DelayRequests(Duration),
    /// Send replies one byte at a time, with this pause after each.
    Bytes(Duration),
    /// After this many bytes of replies (counted per connection from now on) close the connection.
    CloseAfter(usize),
    /// The same, with a reset instead of an end of file.
    ResetAfter(usize),
    /// Send every piece of a reply twice.
    Twice,
    /// Swallow replies; connections stay open.
    Swallow,
    /// Accept connections and let nothing through in either direction, as a firewall does that drops packets.
    BlackHole,
    /// Hold every piece of a reply back for a while of its own: so long at least, and up to so much longer.
    Jitter(Duration, Duration),
    /// A line that means nothing in place of every piece of a reply.
    Garbage,
    /// These bytes before every piece of a reply: an answer nobody asked for.
    Before(&'static [u8]),
    /// Values announced this much longer (or shorter) than they are, a Redis' texts, too.
    Length(i64),
    /// Replies that name another key: one byte of each echoed key is changed. A Redis echoes none.
    OtherKey,
    /// The connection's reply before, whole, in place of each piece: an answer to somebody else's question.
    Previous,
    /// Accept connections and close them at once.
    Refuse,
}

/// Who sent a recorded piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The client: a request.
    Client,
    /// The server: a reply.
    Server,
}

/// One piece of bytes as it passed.
#[derive(Clone, Debug)]
pub struct Event {
    /// Connections are numbered from 0 in the order they were accepted.
    pub connection: usize,
    /// Its direction.
    pub from: From,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// When it passed.
    pub at: Instant,
}

/// A running proxy; dropping it closes everything.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    upstream: u16,
    events: Mutex<Vec<Event>>,
    fault: Mutex<Disturbance>,
    streams: Mutex<Vec<TcpStream>>,
    accepted: Mutex<usize>,
    recording: AtomicBool,
    pieces: AtomicU64,
    ending: AtomicBool,
}

#[derive(Clone, Debug)]
struct Disturbance {
    fault: Fault,
    /// Only every so many pieces of replies are disturbed.
    every: u64,
    /// Changes with every set, so that counters start again.
    epoch: u64,
}

impl Proxy {
    /// Starts one on a free port before the server on `upstream` (a port of 127.0.0.1).
    pub fn start(upstream: u16) -> Proxy {
        Proxy::on(0, upstream)
    }

    /// The same on a given port; for records that hash the port number.
    pub fn on(port: u16, upstream: u16) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", port))
            .unwrap_or_else(|e| panic!("proxy on port {port}: {e}"));
        let port = listener
            .local_addr()
            .expect("a bound socket has an address")
            .port();
        let shared = Arc::new(Shared {
            upstream,
            events: Mutex::default(),
            fault: Mutex::new(Disturbance {
                fault: Fault::None,
                every: 1,
                epoch: 0,
            }),
            streams: Mutex::default(),
            accepted: Mutex::default(),
            recording: AtomicBool::new(true),
            pieces: AtomicU64::new(0),
            ending: AtomicBool::new(false),
        });
        let inside = Arc::clone(&shared);
        let acceptor = std::thread::spawn(move || accept(&listener, &inside));
        Proxy {
            port,
            shared,
            acceptor: Some(acceptor),
        }
    }

    /// The port clients connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Disturbs replies from now on, on open connections too.
    pub fn fault(&self, fault: Fault) {
        self.fault_every(1, fault);
    }

    /// Disturbs one in so many pieces of replies from now on; what concerns connections (refusals, black holes)
    /// holds for all.
    pub fn fault_every(&self, every: u64, fault: Fault) {
        let mut current = self.shared.fault.lock().unwrap();
        *current = Disturbance {
            fault,
            every: every.max(1),
            epoch: current.epoch + 1,
        };
    }

    /// Records nothing from now on: a long run would fill the memory.
    pub fn unrecorded(self) -> Proxy {
        self.shared.recording.store(false, Ordering::Relaxed);
        self
    }

    /// Everything recorded so far.
    pub fn events(&self) -> Vec<Event> {
        self.shared.events.lock().unwrap().clone()
    }

    /// Forgets what was recorded.
    pub fn clear(&self) {
        self.shared.events.lock().unwrap().clear();
    }

    /// The number of connections accepted so far.
    pub fn connections(&self) -> usize {
        *self.shared.accepted.lock().unwrap()
    }

    /// All requests as one stream: connections in the order they were opened, each joined.
    pub fn requests(&self) -> Vec<u8> {
        let events = self.events();
        let count = events
            .iter()
            .map(|event| event.connection + 1)
            .max()
            .unwrap_or(0);
        (0..count)
            .flat_map(|number| {
                events
                    .iter()
                    .filter(move |e| e.connection == number && e.from == From::Client)
            })
            .flat_map(|event| event.bytes.iter().copied())
            .collect()
    }

    /// All requests in the order they passed, whatever their connection.
    pub fn requests_in_time(&self) -> Vec<u8> {
        self.events()
            .iter()
            .filter(|event| event.from == From::Client)
            .flat_map(|e| e.bytes.clone())
            .collect()
    }

    /// Cuts every open connection with an end of file, as a server does that drops idle clients.
    pub fn cut(&self) {
        for stream in self.shared.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Waits until nothing has passed for `quiet`; the recording is then complete.
    pub fn settle(&self, quiet: Duration) {
        let quiet_now = || {
            let events = self.shared.events.lock().unwrap();
            events
                .last()
                .is_none_or(|event| event.at.elapsed() >= quiet)
        };
        assert!(
            wait_until(Duration::from_secs(10), quiet_now),
            "the proxy never came to rest"
        );
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port)); // wakes accept()
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        self.cut();
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        if shared.ending.load(Ordering::SeqCst) {
            return;
        }
        let Ok(client) = client else { continue };
        let connection = {
            let mut accepted = shared.accepted.lock().unwrap();
            *accepted += 1;
            *accepted - 1
        };
        if shared.fault.lock().unwrap().fault == Fault::Refuse {
            continue;
        }
        // A server that is down shows as a connection that ends at once.
        let Ok(server) = TcpStream::connect(("127.0.0.1", shared.upstream)) else {
            continue;
        };
        let _ = client.set_nodelay(true);
        let _ = server.set_nodelay(true);
        let copies = (
            client.try_clone(),
            server.try_clone(),
            client.try_clone(),
            server.try_clone(),
        );
        let (Ok(client_in), Ok(server_in), Ok(client_kept), Ok(server_kept)) = copies else {
            continue;
        };
        let mut streams = shared.streams.lock().unwrap();
        // Of those that ended only the descriptors are left.
        streams.retain(|stream| stream.peer_addr().is_ok());
        streams.extend([client_kept, server_kept]);
        drop(streams);
        let requests = Arc::clone(shared);
        std::thread::spawn(move || forward_requests(&requests, connection, client_in, server));
        let replies = Arc::clone(shared);
        std::thread::spawn(move || forward_replies(&replies, connection, server_in, client));
    }
}

fn record(shared: &Shared, connection: usize, from: From, bytes: &[u8]) {
    if !shared.recording.load(Ordering::Relaxed) {
        return;
    }
    shared.events.lock().unwrap().push(Event {
        connection,
        from,
        bytes: bytes.to_vec(),
        at: Instant::now(),
    });
}

fn forward_requests(
    shared: &Shared,
    connection: usize,
    mut client: TcpStream,
    mut server: TcpStream,
) {
    let mut buffer = vec![0; 65536];
    while let Ok(n) = client.read(&mut buffer) {
        if n == 0 {
            break;
        }
        record(shared, connection, From::Client, &buffer[..n]);
        let fault = shared.fault.lock().unwrap().fault.clone();
        match fault {
            Fault::BlackHole => continue,
            Fault::DelayRequests(pause) => std::thread::sleep(pause),
            _ => {}
        }
        if server.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = server.shutdown(Shutdown::Write);
}

fn forward_replies(
    shared: &Shared,
    connection: usize,
    mut server: TcpStream,
    mut client: TcpStream,
) {
    let mut buffer = vec![0; 65536];
    let (mut sent, mut epoch) = (0, 0);
    let mut before: Vec<u8> = Vec::new();
    while let Ok(n) = server.read(&mut buffer) {
        if n == 0 {
            break;
        }
        record(shared, connection, From::Server, &buffer[..n]);
        let current = shared.fault.lock().unwrap().clone();
        if current.epoch != epoch {
            (sent, epoch) = (0, current.epoch);
        }
        let number = shared.pieces.fetch_add(1, Ordering::Relaxed);
        let spared = !number.is_multiple_of(current.every) && current.fault != Fault::BlackHole;
        let fault = if spared { Fault::None } else { current.fault };
        let piece = &buffer[..n];
        let written = match fault {
            Fault::None | Fault::Refuse | Fault::DelayRequests(_) => client.write_all(piece),
            Fault::Delay(pause) => {
                std::thread::sleep(pause);
                client.write_all(piece)
            }
            Fault::Bytes(pause) => piece.iter().try_for_each(|byte| {
                let written = client.write_all(&[*byte]);
                std::thread::sleep(pause);
                written
            }),
            Fault::Twice => client
                .write_all(piece)
                .and_then(|()| client.write_all(piece)),
            Fault::Swallow | Fault::BlackHole => Ok(()),
            Fault::Jitter(least, more) => {
                // Any numbers do that do not repeat soon.
                let share = number.wrapping_mul(0x9e37_79b9) % 1000;
                std::thread::sleep(least + more * share as u32 / 1000);
                client.write_all(piece)
            }
            Fault::Garbage => client.write_all(b"\x00\xffnothing a client knows\r\n"),
            Fault::Before(bytes) => client.write_all(&[bytes, piece].concat()),
            Fault::Length(more) => client.write_all(&announced(piece, more)),
            Fault::OtherKey => client.write_all(&misnamed(piece)),
            Fault::Previous => client.write_all(&before),
            Fault::CloseAfter(limit) | Fault::ResetAfter(limit) => {
                let rest = limit.saturating_sub(sent).min(n);
                let written = client.write_all(&piece[..rest]);
                sent += rest;
                if sent >= limit {
                    if matches!(fault, Fault::ResetAfter(_)) {
                        reset(&client);
                    }
                    let _ = client.shutdown(Shutdown::Both);
                    let _ = server.shutdown(Shutdown::Both);
                    return;
                }
                written
            }
        };
        if written.is_err() {
            break;
        }
        before.clear();
        before.extend_from_slice(&buffer[..n]);
    }
    let _ = client.shutdown(Shutdown::Both);
}

/// The same bytes with another length in each `VA`, `VALUE` and `$` line.
fn announced(piece: &[u8], more: i64) -> Vec<u8> {
    let mut out = Vec::with_capacity(piece.len() + 8);
    for line in piece.split_inclusive(|byte| *byte == b'\n') {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end();
        let mut words: Vec<&str> = match text.strip_prefix('$') {
            Some(length) => vec!["$", length],
            None => text.split(' ').collect(),
        };
        let (place, between) = match words.first() {
            Some(&"$") => (1, ""),
            Some(&"VA") => (1, " "),
            Some(&"VALUE") => (3, " "),
            _ => (usize::MAX, ""),
        };
        match words.get(place).and_then(|word| word.parse::<i64>().ok()) {
            // Nothing at all (`$-1`) has no length.
            Some(length) if length >= 0 => {
                let other = (length + more).max(0).to_string();
                words[place] = &other;
                out.extend_from_slice(words.join(between).as_bytes());
                out.extend_from_slice(b"\r\n");
            }
            _ => out.extend_from_slice(line),
        }
    }
    out
}

/// The same bytes with another last letter in each key a `VALUE` line or a meta command's answer echoes.
fn misnamed(piece: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(piece.len());
    for line in piece.split_inclusive(|byte| *byte == b'\n') {
        let text = String::from_utf8_lossy(line);
        let mut words: Vec<String> = text.trim_end().split(' ').map(str::to_string).collect();
        let answer = matches!(words[0].as_str(), "VA" | "HD" | "EN" | "NF" | "NS" | "EX");
        let value = words[0] == "VALUE";
        let mut changed = false;
        for (place, word) in words.iter_mut().enumerate().skip(1) {
            let echoed = answer && word.len() > 1 && word.starts_with('k');
            if echoed || (value && place == 1) {
                let last = word.pop();
                word.push(if last == Some('1') { '2' } else { '1' });
                changed = true;
            }
        }
        if changed {
            out.extend_from_slice(words.join(" ").as_bytes());
            out.extend_from_slice(b"\r\n");
        } else {
            out.extend_from_slice(line);
        }
    }
    out
}

/// Ends the connection with a reset: the peer sees ECONNRESET instead of an end of file.
///
/// Dissolving the association does that at once, however many copies of the descriptor are open; a zero linger
/// time would act only when the last of them is closed.
pub(crate) fn reset(stream: &TcpStream) {
    let _ = rustix::net::connect_unspec(stream);
}
