--TEST--
A session that cannot be had is refused, with what to do
--INI--
session.save_handler=memcache
session.use_cookies=0
session.cache_limiter=
memring.shared=off
--FILE--
<?php
ob_start();
$last = null;
set_error_handler(function ($number, $text) use (&$last) {
    $last ??= $text;
    return true;
});
function attempt($handler, $path) {
    global $last;
    $last = null;
    ini_set('session.save_handler', $handler);
    ini_set('session.save_path', $path);
    session_id('refused');
    echo json_encode(session_start()), ': ', $last, "\n";
    if (session_status() === PHP_SESSION_ACTIVE) session_abort();
}
attempt('memcache', '');
attempt('memcache', ' , ');
attempt('memcache', '/var/lib/php/sessions');
attempt('memcache', 'tcp://');
attempt('memcache', 'tcp://127.0.0.1:1?weight=0');
attempt('memcache', 'tcp://127.0.0.1:1?timeout=-1');
attempt('memcache', 'tcp://127.0.0.1:1?nonsense=1');
attempt('memcache', 'tcp://127.0.0.1:1?serializer=igbinary');
attempt('memcache', 'tcp://127.0.0.1:1?compression=fastlz');
attempt('memring', 'tcp://127.0.0.1:1?compression=lz4, tcp://127.0.0.1:2');
attempt('memcache', 'pool:web');
attempt('memring', 'redis-cluster://127.0.0.1:1,127.0.0.1:2/, tcp://127.0.0.1:3');
attempt('memring', 'redis-cluster://127.0.0.1:1,127.0.0.1:2/?mode=fenced');
attempt('memring', 'redis-cluster://127.0.0.1:1,127.0.0.1:2/');
attempt('memring', 'tcp://127.0.0.1:1, tcp://127.0.0.1:1');
attempt('memring', 'tcp://127.0.0.1:1, tcp://127.0.0.1:2');
attempt('memcache', 'tcp://127.0.0.1:1');

set_error_handler(function ($number, $text) { throw new Exception('thrown'); });
try {
    session_id('refused');
    session_start();
} catch (Exception $e) {
    echo $e->getMessage(), "\n";
}
var_dump(session_status() === PHP_SESSION_NONE);
set_error_handler(function () { exit("ended in the handler\n"); });
session_id('refused');
session_start();
?>
--EXPECTF--
false: session_start(): Session: session.save_path names no server. Write session.save_path = "tcp://127.0.0.1:11211"
false: session_start(): Session: session.save_path names no server. Write session.save_path = "tcp://127.0.0.1:11211"
false: session_start(): Session: session.save_path, server 1 ("/var/lib/php/sessions"): "/var/lib/php/sessions" is a path, not a server. Write session.save_path = "tcp://127.0.0.1:11211", or "unix:///var/lib/php/sessions" if that is memcached's socket
false: session_start(): Session: session.save_path, server 1 ("tcp://"): no host is named. Write tcp://HOST:PORT, with an IPv6 address in brackets
false: session_start(): Session: session.save_path, server 1 ("tcp://127.0.0.1:1"): weight must be a positive integer up to 65535, 0 is not. Write weight=1
false: session_start(): Session: session.save_path, server 1 ("tcp://127.0.0.1:1"): timeout must be more than 0 seconds, -1 is not. Write timeout=1
false: session_start(): Session: session.save_path, server 1 ("tcp://127.0.0.1:1"): option "nonsense" is unknown. Known are persistent, udp_port, weight, timeout, retry_interval, id, mode, copies, placement, session_life, drain, prefix, compression, protocol, user, password; with TLS ca, cert, key, server_name, verify; of an embedded node size; and of a Redis node auth, database (or db), client, read_timeout, resp, sentinel_auth, sentinel_user, wait
false: session_start(): Session: session.save_path, server 1 ("tcp://127.0.0.1:1"): serializer is for values, and a list is for sessions, which PHP writes itself. Set session.serialize_handler for sessions; for values write it into a pool of the file of memring.config_file, or set memring.serializer and memring.codec
false: session_start(): Session: session.save_path, server 1 ("tcp://127.0.0.1:1"): compression "fastlz" is unknown. Write compression=zlib, zstd, lz4 or none
false: session_start(): Session: session.save_path: serializer, compression and codec are for values, and sessions with copies are kept as PHP wrote them. Take them out: session.serialize_handler says how PHP writes a session
false: session_start(): Session: pool:web needs a file, and memring.config_file is empty. Set memring.config_file = /etc/memring.toml in php.ini
false: session_start(): Session: session.save_path, server 2 ("tcp://127.0.0.1:3"): a cluster is a pool by itself, and nothing can stand beside redis-cluster://. Write its hosts between commas, then a slash: redis-cluster://HOST:PORT,HOST:PORT/, and other nodes into another pool
false: session_start(): Session: session.save_path: a cluster keeps copies itself, on its replicas, so that mode and copies have no meaning. Take them out; wait=1 acknowledges a write only when a replica has it
false: session_start(): Session: 127.0.0.1:%d: Connection failed: Connection refused. The session was not started, so nothing is overwritten. Is the server running there, and reachable?
false: session_start(): Session: session.save_path: 127.0.0.1:1 and 127.0.0.1:1 are one node. Name each node once: two copies on one server are one
false: session_start(): Session: 127.0.0.1:%d and 127.0.0.1:%d: the session may exist, but fewer than two nodes that can be trusted to know it answered. The session was not started, so nothing is overwritten. Is memcached running there? memring status says who is trusted, and memring tend brings back who is not
false: session_start(): Session: 127.0.0.1:1: Connection failed: Connection refused. The session was not started, so nothing is overwritten. Is the server running there, and reachable?
thrown
bool(true)
ended in the handler
