--TEST--
Calls from inside __sleep, __wakeup, a failure callback and an error handler of the same pool get right answers
--FILE--
<?php
$m = new Memcache;
$m->connect('127.0.0.1', (int)getenv('MEMRING_PORT1'));
for ($i = 0; $i < 30; $i++) $m->set("k$i", "v$i");
class Inner {
    public $i = 0;
    function __construct($i) { $this->i = $i; }
    function __sleep() { global $m; if ($m->get("k$this->i") !== "v$this->i") echo "wrong in __sleep\n"; $m->set("slept$this->i", 1); return ['i']; }
    function __wakeup() { global $m; if ($m->get(["k$this->i", 'k29']) !== ["k$this->i" => "v$this->i", 'k29' => 'v29']) echo "wrong in __wakeup\n"; }
}
$all = [];
for ($i = 0; $i < 20; $i++) $all["o$i"] = new Inner($i);
var_dump($m->set($all));
$got = $m->get(array_keys($all));
var_dump(count($got), $got == $all, array_keys($got) === array_keys($all), count($m->get(array_map(fn($i) => "slept$i", range(0, 19)))));

$port = (int)getenv('MEMRING_PORT1');
$two = new Memcache;
$two->addServer('127.0.0.1', $port);
$two->addServer('127.0.0.1', 1, false, 1, 1, 15);
$two->setFailureCallback(function ($host, $port) { global $two, $m; echo "failed: $host:$port "; var_dump($m->get('k1'), $two->findServer('k1') !== ''); });
$values = $two->get(array_map(fn($i) => "k$i", range(0, 29)));
ksort($values, SORT_NATURAL);
var_dump($values === array_combine(array_map(fn($i) => "k$i", range(0, 29)), array_map(fn($i) => "v$i", range(0, 29))));
set_error_handler(function ($n, $text) use ($m) { echo $text, ': ', $m->get('k2'), "\n"; return true; });
var_dump($m->get(['k1', '', 'k3']));
?>
--EXPECT--
bool(true)
int(20)
bool(true)
bool(true)
int(20)
failed: 127.0.0.1:1 string(2) "v1"
bool(true)
bool(true)
MemcachePool::get(): Invalid key: v2
array(2) {
  ["k1"]=>
  string(2) "v1"
  ["k3"]=>
  string(2) "v3"
}
