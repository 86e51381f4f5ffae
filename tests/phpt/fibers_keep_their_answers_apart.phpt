--TEST--
Calls of fibers that are suspended in __wakeup and go on in any order get their own answers
--SKIPIF--
<?php if (!class_exists('Fiber')) die('skip fibers are younger than this PHP'); ?>
--FILE--
<?php
$m = new Memcache;
$m->connect('127.0.0.1', (int)getenv('MEMRING_PORT1'));
class Pause { public $rest; function __wakeup() { Fiber::suspend(); } }
foreach (['a', 'b', 'c'] as $key) {
    $pause = new Pause;
    $pause->rest = array_map(fn($i) => "$key $i", range(1, 50));
    $m->set($key, [$pause, $pause->rest, $key]);
    $m->set("next $key", str_repeat($key, 5000));
}
$call = fn($key) => new Fiber(fn() => $m->get([$key, "next $key"]));
[$a, $b, $c] = [$call('a'), $call('b'), $call('c')];
$a->start();
$b->start();
$a->resume();
$c->start();
$m->get(['next a', 'next b', 'next c']);
$b->resume();
$c->resume();
foreach (['a' => $a, 'b' => $b, 'c' => $c] as $key => $fiber) {
    $got = $fiber->getReturn();
    var_dump(array_keys($got), $got[$key][2] === $key, $got[$key][1] === $got[$key][0]->rest, $got["next $key"] === str_repeat($key, 5000));
}
?>
--EXPECT--
array(2) {
  [0]=>
  string(1) "a"
  [1]=>
  string(6) "next a"
}
bool(true)
bool(true)
bool(true)
array(2) {
  [0]=>
  string(1) "b"
  [1]=>
  string(6) "next b"
}
bool(true)
bool(true)
bool(true)
array(2) {
  [0]=>
  string(1) "c"
  [1]=>
  string(6) "next c"
}
bool(true)
bool(true)
bool(true)
