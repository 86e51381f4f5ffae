//! A page that ends in the middle of a call: memory limit, time limit, exit, exceptions. The next page of the
//! same worker, on the same persistent connections, gets right answers.

use harness::{Memcached, PhpFpm};
use std::fmt::Write;

/// Pages that end in the middle of a call; `$m` is a pool with a persistent connection.
const ENDINGS: &[(&str, &str)] = &[
    (
        "memory_in_get",
        "ini_set('memory_limit', '6M'); $m->get('big');",
    ),
    (
        "memory_in_multi_get",
        "ini_set('memory_limit', '6M'); $m->get(['k1', 'big', 'k2', 'k3']);",
    ),
    (
        "memory_in_unserialize",
        "ini_set('memory_limit', '6M'); $m->get(['k1', 'fat', 'k2']);",
    ),
    (
        "memory_in_serialize",
        "$x = new Greedy; ini_set('memory_limit', '6M'); $m->set(['s1' => 1, 's2' => $x, 's3' => 3]);",
    ),
    (
        "time_in_wakeup",
        "set_time_limit(1); $m->get(['k1', 'spin', 'k2']);",
    ),
    (
        "time_in_serialize",
        "set_time_limit(1); $m->set(['s1' => 1, 's2' => new Spin, 's3' => 3]);",
    ),
    ("exit_in_wakeup", "$m->get('quit');"),
    (
        "exit_in_wakeup_of_many",
        "$m->get(['k1', 'quit', 'k2', 'k3']);",
    ),
    (
        "exit_in_serialize",
        "$m->set(['s1' => 1, 's2' => new Quit, 's3' => 3]);",
    ),
    (
        "exit_in_failure_callback",
        "$m = dead(function () { exit; }); $m->get(many());",
    ),
    ("exception_in_wakeup", "$m->get('boom');"),
    (
        "exception_in_wakeup_of_many",
        "$m->get(['k1', 'boom', 'k2', 'k3']);",
    ),
    (
        "exception_in_serialize",
        "$m->set(['s1' => 1, 's2' => new Boom, 's3' => 3]);",
    ),
    (
        "exception_in_failure_callback",
        "$m = dead(function () { throw new Exception('x'); }); $m->set(array_combine(many(), array_map(fn($k) => 'v' . substr($k, 1), many())));",
    ),
    (
        "exception_in_error_handler",
        "set_error_handler(function () { throw new Exception('x'); }); $m->get(['k1', '', 'k2']); $m->get('corrupt');",
    ),
    ("fatal_after_open", "$m->get('k1'); no_such_function();"),
    (
        "exit_in_destructor",
        "class D { public $m; function __destruct() { $this->m->get(['k1', 'k2']); exit; } } $d = new D; $d->m = $m; $m->get('k1');",
    ),
];

const CLASSES: &str = r#"
class Quit { function __serialize(): array { if (isset($_GET['how'])) exit; return [1]; } function __unserialize(array $d): void { exit; } }
class Boom { function __serialize(): array { if (isset($_GET['how'])) throw new Exception('no'); return [1]; } function __unserialize(array $d): void { throw new Exception('no'); } }
class Spin { function __serialize(): array { if (isset($_GET['how'])) while (true); return [1]; } function __unserialize(array $d): void { while (true); } }
class Greedy { function __serialize(): array { return isset($_GET['how']) ? [str_repeat('x', 50000000)] : [1]; } }
// So many that whatever the port some are the dead node's.
function many() { return array_map(fn($i) => "k$i", range(1, 60)); }
function pool() { $m = new Memcache; $m->addServer('127.0.0.1', (int)$_SERVER['MC'], true, 1, 5, 0); return $m; }
function dead($callback) { $m = new Memcache; $m->addServer('127.0.0.1', (int)$_SERVER['MC'], true, 1, 5, 0);
    $m->addServer('127.0.0.1', 1, false, 1, 1, 0); $m->setFailureCallback($callback); return $m; }
"#;

/// Stores what the endings read. Runs in a page without `how`, where the classes behave.
const PREPARE: &str = r#"
$m = pool();
for ($i = 1; $i <= 60; $i++) $m->set("k$i", "v$i");
$m->set('n', 0); $m->set('big', random_bytes(8900000));
$m->setCompressThreshold(0); $m->set('fat', array_fill(0, 400000, 7));
$m->set('quit', new Quit); $m->set('boom', new Boom); $m->set('spin', new Spin);
echo $m->get('k60');
"#;

const CHECK: &str = r#"
$m = pool(); $bad = [];
for ($i = 1; $i <= 60; $i++) if ($m->get("k$i") !== "v$i") $bad[] = "k$i";
$keys = many();
if ($m->get($keys) !== array_combine($keys, array_map(fn($i) => "v$i", range(1, 60)))) $bad[] = 'many';
if (!$m->set('fresh', 'x') || $m->get('fresh') !== 'x') $bad[] = 'set';
if ($m->get('missing') !== false || !is_int($m->increment('n'))) $bad[] = 'increment';
echo $bad ? implode(',', $bad) : 'right', ' ', getmypid();
"#;

#[test]
fn the_page_after_a_broken_one_gets_right_answers_on_the_same_worker() {
    let server = Memcached::with(&["-I", "16m", "-m", "256"]);
    let fpm = PhpFpm::start(
        1,
        &format!(
            "env[MC] = {}\nphp_value[memory_limit] = 256M\n",
            server.port()
        ),
    );
    fpm.page("prepare.php", &format!("{CLASSES}{PREPARE}"));
    fpm.page("check.php", &format!("{CLASSES}{CHECK}"));
    assert_eq!(fpm.get("prepare.php", "", "").text(), "v60");
    let mut before = fpm.get("check.php", "", "").text();
    assert!(before.starts_with("right "), "{before}");
    let mut report = String::new();
    for (name, ending) in ENDINGS {
        fpm.page(
            &format!("{name}.php"),
            &format!("{CLASSES}\n$m = pool(); $m->get('k1');\n{ending}\necho 'went on';"),
        );
        for round in 0..3 {
            let broken = match fpm.try_get(&format!("{name}.php"), "how=now", "") {
                Ok(reply) => reply.text(),
                Err(e) => format!("the worker died: {e}"),
            };
            let after = fpm
                .try_get("check.php", "", "")
                .map(|reply| reply.text())
                .unwrap_or_else(|e| e.to_string());
            if broken.contains("went on") && !name.contains("exit_in_destructor") {
                writeln!(
                    report,
                    "{name}: the page was meant to end in the call and went on"
                )
                .unwrap();
            }
            if after != before {
                writeln!(
                    report,
                    "{name}, round {round}: page: {broken}; after it: {after}, before: {before}"
                )
                .unwrap();
            }
            before = after; // a new worker after a crash is reported once
        }
    }
    assert!(report.is_empty(), "{report}\nlog:\n{}", fpm.log());
}
