--TEST--
A weight beyond 65535 is refused at once, and does not stop the page for minutes
--FILE--
<?php
$port = (int)getenv('MEMRING_PORT1');
$m = new Memcache;
foreach ([65536, 1000000000, PHP_INT_MAX] as $weight) var_dump($m->addServer('127.0.0.1', $port, false, $weight));
$pool = new MemcachePool;
var_dump($pool->connect('127.0.0.1', $port, 0, false, PHP_INT_MAX));
var_dump($m->addServer('127.0.0.1', $port, false, 65535), $m->set('k', 'v'), $m->get('k'));
?>
--EXPECTF--
Warning: Memcache::addserver(): weight must be a positive integer up to 65535 in %s on line %d
bool(false)

Warning: Memcache::addserver(): weight must be a positive integer up to 65535 in %s on line %d
bool(false)

Warning: Memcache::addserver(): weight must be a positive integer up to 65535 in %s on line %d
bool(false)

Warning: MemcachePool::connect(): weight must be a positive integer up to 65535 in %s on line %d
bool(false)
bool(true)
bool(true)
string(1) "v"
