//! Memory: a process that does the same thing many times stays as large as it was.
//!
//! Resident size is read from the kernel inside the child, after a warm-up in which the allocator takes what it
//! needs once.

use harness::{ClosedPort, Memcached, Php};
use std::time::Duration;

/// What a process may grow by, in bytes: the bar of the project for 100,000 rounds.
const ALLOWED: i64 = 64 * 1024;

/// Runs `body` `rounds` times after a warm-up and returns the growth in bytes.
#[track_caller]
fn growth(setup: &str, body: &str, rounds: u32) -> i64 {
    let script = format!(
        "function resident() {{ return (int)explode(' ', file_get_contents('/proc/self/statm'))[1] * 4096; }}\n\
         error_reporting(0);\n{setup}\n\
         resident(); // the first reading loads code of its own\n\
         for ($i = 0; $i < {warm}; $i++) {{ {body} }}\n\
         gc_collect_cycles(); resident(); gc_collect_cycles(); $before = resident();\n\
         for ($i = 0; $i < {rounds}; $i++) {{ {body} }}\n\
         gc_collect_cycles(); echo resident() - $before;",
        warm = (rounds / 10).max(2000),
    );
    let text = Php::new()
        .ini("memory_limit", "256M")
        .limit(Duration::from_secs(300))
        .run(&script)
        .ok();
    text.parse()
        .unwrap_or_else(|_| panic!("php printed {text}"))
}

#[track_caller]
fn stays(what: &str, setup: &str, body: &str, rounds: u32) {
    let grown = growth(setup, body, rounds);
    assert!(
        grown < ALLOWED,
        "{rounds} × {what} grew the process by {grown} bytes; {ALLOWED} are allowed"
    );
}

#[test]
fn a_hundred_thousand_objects_with_connections_of_their_own_leave_nothing() {
    // A unix socket: 100,000 TCP connections would use up the ports of this machine.
    let server = Memcached::on_socket();
    let body = format!(
        "$m = new Memcache; $m->addServer('unix://{}', 0, false); $m->get('k'); $m->close();",
        server.socket().display()
    );
    stays("new, addServer, get, close", "", &body, 100_000);
}

#[test]
fn a_hundred_thousand_objects_on_a_persistent_connection_leave_nothing() {
    let server = Memcached::start();
    let body = format!(
        "$m = new Memcache; $m->addServer('127.0.0.1', {}); $m->get('k'); $m->close();",
        server.port()
    );
    stays(
        "new, addServer, get, close (persistent)",
        "",
        &body,
        100_000,
    );
    assert!(
        server.stat("total_connections") < 20,
        "a persistent connection was opened again and again"
    );
}

#[test]
fn objects_that_are_never_closed_leave_nothing() {
    let server = Memcached::on_socket();
    let body = format!(
        "$m = new Memcache; $m->connect('unix://{}', 0); $m->x = [$m->get('k')]; unset($m);",
        server.socket().display()
    );
    stays("new, connect, get, unset", "", &body, 20_000);
    assert!(
        server.stat("curr_connections") < 20,
        "connections were left open"
    );
}

#[test]
fn every_kind_of_call_leaves_nothing() {
    let server = Memcached::start();
    let setup = format!(
        "$m = new Memcache; $m->addServer('127.0.0.1', {}); $long = str_repeat('ab', 20000);\n\
         class W {{ public $x = 1; function __wakeup() {{ global $m; $m->get('a'); }} }}\n\
         class T {{ public $x = 1; function __wakeup() {{ throw new Exception('no'); }} }}",
        server.port()
    );
    let body = "
        $m->set('a', [1, ['x' => 2.5]]); $f = $c = null; $m->get('a', $f, $c); $m->cas('a', 'b', 0, 60, $c);
        $m->set('long', $long); $m->get('long'); $m->set(['p' => 1, 'q' => 'two', 3 => null]);
        $m->get(['p', 'q', 3, 'miss', \"odd key\"], $f, $c); $m->increment('p'); $m->increment(['p', 'miss']);
        $m->decrement('miss'); $m->add('p', 1); $m->replace('miss', 1); $m->append('q', 'x'); $m->prepend('q', 'x');
        $m->delete('q'); $m->delete(['p', 'miss']); $m->set('w', new W); $m->get('w');
        $m->set('t', new T); try { $m->get('t'); } catch (Exception $e) {}
        try { $m->set('n', function () {}); } catch (Exception $e) {}
        try { $m->set(new stdClass, 1); } catch (Error $e) {}
        $m->get(''); $m->set('f', 1, 1); $m->getVersion(); $m->getStats(); $m->getExtendedStats();
        $m->getServerStatus('127.0.0.1', 1); $m->findServer('a'); $m->setFailureCallback(function () {});
        $s = clone $m; $s->get('a'); unset($s);";
    stays("a call of each kind", &setup, body, 5_000);
}

#[test]
fn failures_leave_nothing() {
    let closed = ClosedPort::new();
    let setup = format!("$port = {};", closed.port());
    let body = "
        $m = new Memcache; $m->addServer('127.0.0.1', $port, false, 1, 1, 0);
        $m->setFailureCallback(function ($h, $p) use (&$n) { $n++; }); $m->get('a'); $m->set('a', 1);
        $m->get(['a', 'b']); $m->connect('127.0.0.1', $port); $m->close();
        $m = new Memcache; $m->addServer('127.0.0.1', $port, false, 1, 1, 0);
        $m->setFailureCallback(function () { throw new Exception('no'); });
        try { $m->get('a'); } catch (Exception $e) {}";
    stays("a refused connection", &setup, body, 10_000);
}

#[test]
fn subclasses_leave_nothing() {
    let server = Memcached::start();
    let setup = format!(
        "$port = {}; class Sub extends Memcache {{ public $list = []; public $me;\n\
         function __construct() {{ $this->me = $this; }}\n\
         function get(array|string $key, mixed &$flags = null, mixed &$cas = null): mixed {{ return parent::get($key, $flags, $cas); }} }}",
        server.port()
    );
    stays(
        "a subclass in a cycle",
        &setup,
        "$s = new Sub; $s->addServer('127.0.0.1', $port); $s->list[] = $s->get('a'); if ($i % 100 == 0) gc_collect_cycles();",
        20_000,
    );
}
