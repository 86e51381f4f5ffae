--TEST--
status=false with a closure callback, getServerStatus, setServerParams and getExtendedStats of a dead node
--FILE--
<?php
$live = (int)getenv('MEMRING_PORT1');
$m = new Memcache;
$m->addServer('127.0.0.1', $live);
$m->addServer('127.0.0.1', 1, false, 1, 1, -1, false, function ($host, $port) { echo "callback for $host:$port\n"; });
for ($i = 0; $i < 20; $i++) if (!$m->set("k$i", $i) || $m->get("k$i") !== $i) echo "k$i failed\n";
var_dump($m->getServerStatus('127.0.0.1', $live), $m->getServerStatus('127.0.0.1', 1));
var_dump($m->setServerParams('127.0.0.1', 1, 1, 15, true), $m->getServerStatus('127.0.0.1', 1));
$m->setServerParams('127.0.0.1', 1, 1, -1, false);
$stats = @$m->getExtendedStats();
var_dump(array_map('gettype', array_values($stats)), end($stats));
var_dump(@$m->getServerStatus('10.9.9.9', 1));
?>
--EXPECTF--
int(1)
int(0)
bool(true)
int(1)
%Aarray(2) {
  [0]=>
  string(5) "array"
  [1]=>
  string(7) "boolean"
}
bool(false)
bool(false)
