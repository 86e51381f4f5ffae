--TEST--
String ports, null and false flags, keys of every scalar type and named arguments are taken as callers give them
--INI--
error_reporting=24575
--FILE--
<?php
$m = new Memcache;
var_dump($m->connect('127.0.0.1', getenv('MEMRING_PORT1')));
var_dump($m->addserver('127.0.0.1', getenv('MEMRING_PORT2')));
class Name { function __toString() { return 'named'; } }
foreach ([5, 1.5, true, new Name, "a b\nc"] as $key) {
    var_dump($m->set($key, 'v', false, 10), $m->set($key, 'w', null, 10), $m->get($key));
}
var_dump($m->set('abs', 'v', 0, time() + 100), $m->get('abs'));
var_dump($m->set('31days', 'v', 0, time() + 86400 * 31), $m->get('31days'));
var_dump($m->set('named', value: 'x', exptime: 60), $m->get(key: 'named'));
var_dump($m->set('user', 'v', MEMCACHE_USER1 | MEMCACHE_USER4));
$flags = $cas = null;
var_dump($m->get('user', $flags, $cas), $flags === (MEMCACHE_USER1 | MEMCACHE_USER4), is_int($cas));
$flags = 'f'; $cas = 'c';
var_dump($m->get('missing', $flags, $cas), $flags, $cas);
?>
--EXPECT--
bool(true)
bool(true)
bool(true)
bool(true)
string(1) "w"
bool(true)
bool(true)
string(1) "w"
bool(true)
bool(true)
string(1) "w"
bool(true)
bool(true)
string(1) "w"
bool(true)
bool(true)
string(1) "w"
bool(true)
string(1) "v"
bool(true)
string(1) "v"
bool(true)
string(1) "x"
bool(true)
string(1) "v"
bool(true)
bool(true)
bool(false)
string(1) "f"
string(1) "c"
