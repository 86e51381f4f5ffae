--TEST--
The notice and the warning of a refused connection read as programs expect that parse them
--FILE--
<?php
set_error_handler(function ($n, $text) { echo [E_NOTICE => 'Notice', E_WARNING => 'Warning'][$n], ": $text\n"; return true; });
$m = new Memcache;
var_dump($m->connect('127.0.0.1', 1));
$m = new Memcache;
$m->addServer('127.0.0.1', 1, false, 1, 1, 15);
var_dump($m->get('k'), $m->get('k'));
$m = new Memcache;
$m->addServer('127.0.0.1', 1, false, 1, 1, 15, true, function (...$a) { echo json_encode($a), "\n"; });
var_dump($m->get('k'));
?>
--EXPECT--
Notice: Memcache::connect(): Server 127.0.0.1 (tcp 1, udp 0) failed with: Connection failed: Connection refused (111)
Warning: Memcache::connect(): Can't connect to 127.0.0.1:1, Connection failed: Connection refused (111)
bool(false)
Notice: MemcachePool::get(): Server 127.0.0.1 (tcp 1, udp 0) failed with: Connection failed: Connection refused (111)
bool(false)
bool(false)
["127.0.0.1",1,0,"Connection failed: Connection refused",111]
bool(false)
