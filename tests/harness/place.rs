//! Where things are and when they are ready: paths, temp directories, free ports, waiting for a condition.
//!
//! No sleep-and-hope: whoever waits says for what and until when.

use rustix::net::{AddressFamily, SocketType};
use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The workspace root: the directory above this crate.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests crate lies in the workspace")
        .to_path_buf()
}

/// The directory of recorded answers of pecl-memcache.
pub fn golden() -> PathBuf {
    workspace().join("tests/golden")
}

/// A port of 127.0.0.1 that nobody listened on a moment ago and that this process did not hand out before.
///
/// Another process can still take it in between: who starts a server on it tries again with another one.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    for _ in 0..1000 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free loopback port");
        let port = listener
            .local_addr()
            .expect("a bound socket has an address")
            .port();
        let mut given = GIVEN.lock().unwrap();
        if given.get_or_insert_default().insert(port) {
            return port;
        }
    }
    panic!("no free loopback port in 1000 tries");
}

/// A port of 127.0.0.1 that refuses connections for as long as this lives: it is bound, so nobody else gets it, and
/// nobody listens.
pub struct ClosedPort {
    _bound: OwnedFd,
    port: u16,
}

impl ClosedPort {
    /// Takes one.
    pub fn new() -> ClosedPort {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None);
        let bound = socket.expect("a socket");
        let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        rustix::net::bind(&bound, &any).expect("a free loopback port");
        let own = rustix::net::getsockname(&bound).expect("a bound socket has an address");
        let own = SocketAddr::try_from(own).expect("an address of the internet");
        ClosedPort {
            port: own.port(),
            _bound: bound,
        }
    }

    /// Its number.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Default for ClosedPort {
    fn default() -> ClosedPort {
        ClosedPort::new()
    }
}

/// Waits until `condition` holds and says whether it came true before `limit` passed.
pub fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether somebody accepts connections on this port of 127.0.0.1.
pub fn listens(port: u16) -> bool {
    TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), Duration::from_millis(500)).is_ok()
}

/// The first of `names` that stands in PATH or in a system directory.
pub fn program(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let directories: Vec<&str> = path
        .split(':')
        .chain(["/usr/sbin", "/usr/local/sbin", "/sbin"])
        .collect();
    names
        .iter()
        .flat_map(|name| {
            directories
                .iter()
                .map(move |directory| Path::new(directory).join(name))
        })
        .find(|candidate| candidate.is_file())
}

/// A directory of its own that is removed when the value is dropped.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// Makes a new empty directory; `purpose` becomes part of its name.
    pub fn new(purpose: &str) -> TempDir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("memring-{purpose}-{}-{number}", std::process::id()));
        // A leftover of a killed process with the same pid is not ours to reuse.
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path)
            .unwrap_or_else(|e| panic!("cannot make {}: {e}", path.display()));
        TempDir(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A file of this name inside, written with `text`.
    pub fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)
                .unwrap_or_else(|e| panic!("cannot make {}: {e}", parent.display()));
        }
        std::fs::write(&path, text)
            .unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
        path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
