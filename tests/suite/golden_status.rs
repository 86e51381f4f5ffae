//! The names in `Memring\status()`: what stands in scripts that watch a pool, so none may vanish or change.

use crate::golden;
use harness::{Memcached, Php, TempDir};

/// Prints the path of each value of an array once, the items of a list as one.
const NAMES: &str = r#"
function names($value, $path) {
    if (!is_array($value) || $value === []) return [$path];
    $all = [];
    foreach ($value as $name => $each) {
        $step = array_is_list($value) ? '[]' : ($path === '' ? $name : ".$name");
        $all = array_merge($all, names($each, $path . $step));
    }
    return array_unique($all);
}
function show($head, $status) {
    $all = names($status, '');
    // What is null or empty in one pool, or of one node, and not in another.
    $has_more = fn($path) => preg_grep('/^' . preg_quote($path, '/') . '(\.|\[)/', $all);
    echo "* $head\n", implode("\n", array_filter($all, fn($path) => !$has_more($path))), "\n";
}
"#;

#[test]
fn every_name_in_the_status_of_a_pool_is_the_recorded_one() {
    let mut nodes: Vec<Memcached> = (0..3).map(|_| Memcached::start()).collect();
    let stranger = Memcached::start();
    let (directory, database) = (TempDir::new("names"), TempDir::new("database"));
    let urls: Vec<String> = (nodes.iter())
        .map(|node| format!("memcached://{}", node.address()))
        .collect();
    let pool = |name: &str, more: &str| format!("[pool.{name}]\nnodes = {urls:?}\n{more}\n");
    let embedded = format!(
        "[pool.embedded]\nnodes = [\"embedded://{}\"]\n",
        database.path().display()
    );
    let file = [
        pool("plain", ""),
        pool("copied", "mode = \"sync\""),
        pool("sessions", "mode = \"fenced\""),
        embedded,
    ];
    let file = directory.file("memring.toml", file.concat());
    let php = Php::new()
        .ini("memring.config_file", file.display())
        .ini("session.save_handler", "memring")
        .ini("session.save_path", "pool:sessions")
        .ini("session.use_cookies", 0)
        .ini("session.cache_limiter", "");
    let visit =
        "session_id('s'); session_start(); $_SESSION['n'] = hrtime(true); session_write_close();";
    php.run(visit).ok();
    // So that the others list it.
    nodes[2].kill();
    let text = php.run(&format!(
        "ob_start(); {visit} {NAMES}
        foreach (['plain', 'copied', 'embedded'] as $name) {{ $m = new Memcache; $m->addServer(\"pool:$name\"); @$m->set('k', 1); }}
        $m = new Memcache; $m->addServer('127.0.0.1', {}); $m->set('k', 1);
        show('nobody asked', Memring\\status());
        foreach (['plain', 'copied', 'sessions', 'embedded'] as $name) show($name, Memring\\status($name)['pools'][0]);",
        stranger.port()
    ));
    golden::compare(&golden::read("status-names.txt"), &text.ok(), &[]);
}
