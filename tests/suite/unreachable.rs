//! A node that is gone, behind php-fpm with 20 workers: only requests already in flight pay for it.

use harness::{BlackHole, ClosedPort, Memcached, Php, PhpFpm, TempDir, wait_until};
use rustix::fd::OwnedFd;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketType};
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The timeout of the node that is gone, in seconds.
const TIMEOUT: f64 = 0.5;

/// A page that asks both nodes for many keys and prints how long that took, in seconds.
fn page(live: u16, gone: u16) -> String {
    format!(
        "$m = new Memcache; $m->addServer('127.0.0.1', {live}); $m->addServer('127.0.0.1', {gone}, true, 1, {TIMEOUT}, 15);\n\
         $t = microtime(true); for ($i = 0; $i < 20; $i++) @$m->get(\"k$i\"); echo round(microtime(true) - $t, 3);"
    )
}

/// Asks for the page `count` times from 20 threads and returns the seconds each took.
fn ask(fpm: &PhpFpm, count: usize) -> Vec<f64> {
    let times = Mutex::new(Vec::new());
    let left = Mutex::new(count);
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                while {
                    let mut left = left.lock().unwrap();
                    let more = *left > 0;
                    *left = left.saturating_sub(1);
                    more
                } {
                    let text = fpm.get("page.php", "", "").text();
                    times.lock().unwrap().push(
                        text.parse::<f64>()
                            .unwrap_or_else(|_| panic!("the page printed {text}")),
                    );
                }
            });
        }
    });
    times.into_inner().unwrap()
}

/// What a page takes at most when no timeout is part of it.
const AT_ONCE: f64 = 0.25;

#[test]
fn workers_that_arrive_after_the_first_failure_pay_nothing() {
    let live = Memcached::start();
    let (hole, closed) = (BlackHole::start(), ClosedPort::new());
    for (name, gone) in [("refused", closed.port()), ("black-holed", hole.port())] {
        let fpm = PhpFpm::start(20, "");
        fpm.page("page.php", &page(live.port(), gone));
        ask(&fpm, 1);
        // 200 pages over 20 workers, most of which never saw the node fail themselves.
        let late: Vec<f64> = ask(&fpm, 200)
            .into_iter()
            .filter(|seconds| *seconds > AT_ONCE)
            .collect();
        assert!(
            late.is_empty(),
            "{name}: {} of 200 later pages paid: {late:?}",
            late.len()
        );
    }
}

#[test]
fn a_hung_node_costs_one_timeout_per_request_in_flight_and_later_ones_nothing() {
    let live = Memcached::start();
    let hung = Memcached::start();
    let fpm = PhpFpm::start(20, "");
    fpm.page("page.php", &page(live.port(), hung.port()));
    assert!(
        ask(&fpm, 40).iter().all(|seconds| *seconds < AT_ONCE),
        "pages are slow before anything happened"
    );
    hung.freeze();
    let start = Instant::now();
    let first = ask(&fpm, 20);
    let most = first.iter().copied().fold(0.0, f64::max);
    assert!(
        most < TIMEOUT + AT_ONCE,
        "a request in flight paid {most} s, one timeout is {TIMEOUT} s"
    );
    assert!(start.elapsed() < Duration::from_secs(5));
    let late: Vec<f64> = ask(&fpm, 200)
        .into_iter()
        .filter(|seconds| *seconds > AT_ONCE)
        .collect();
    assert!(
        late.is_empty(),
        "{} of 200 later pages paid: {late:?}",
        late.len()
    );
}

/// A unix socket with room for one connection, which is taken.
fn full_socket(directory: &TempDir) -> (PathBuf, OwnedFd, UnixStream) {
    let path = directory.path().join("full.sock");
    let socket = net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    net::bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    net::listen(&socket, 0).unwrap();
    let first = UnixStream::connect(&path).unwrap();
    (path, socket, first)
}

/// A script that says what became of a `set()` and how long it took.
fn set_over(path: &Path, marker: &Path) -> String {
    format!(
        "$m = new Memcache; $m->addServer('unix://{}', 0); touch('{}'); $t = microtime(true);\n\
         $done = @$m->set('k', 'v'); echo json_encode($done), ' ', microtime(true) - $t, ' ', error_get_last()['message'] ?? '';",
        path.display(),
        marker.display()
    )
}

#[test]
fn a_socket_whose_queue_of_connections_is_full_is_tried_until_there_is_room() {
    let (server, directory) = (Memcached::start(), TempDir::new("full"));
    let (path, socket, first) = full_socket(&directory);
    let marker = directory.path().join("begun");
    let php = Php::new().start(&set_over(&path, &marker));
    assert!(wait_until(Duration::from_secs(30), || marker.exists()));
    // The moment in which nobody is let in.
    std::thread::sleep(Duration::from_millis(300));
    drop(first);
    // The thread never ends, and so must not own the server.
    let port = server.port();
    std::thread::spawn(move || {
        let listener = UnixListener::from(socket);
        for client in listener.incoming().map_while(Result::ok) {
            let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            let (mut from, mut to) = (server, client);
            std::thread::spawn(move || std::io::copy(&mut from, &mut to));
        }
    });
    let text = php.finish().ok();
    let mut words = text.split(' ');
    assert_eq!(words.next(), Some("true"), "{text}");
    let took: f64 = words.next().unwrap().parse().unwrap();
    assert!(took > 0.25, "it found room at once: {text}");
}

#[test]
fn a_socket_whose_queue_stays_full_fails_when_its_time_is_over() {
    let directory = TempDir::new("full");
    let (path, _socket, _first) = full_socket(&directory);
    let marker = directory.path().join("begun");
    let text = Php::new().run(&set_over(&path, &marker)).ok();
    let mut words = text.splitn(3, ' ');
    assert_eq!(words.next(), Some("false"), "{text}");
    let took: f64 = words.next().unwrap().parse().unwrap();
    assert!((0.9..5.0).contains(&took), "{text}");
    assert!(text.contains("queue of connections is full"), "{text}");
}
