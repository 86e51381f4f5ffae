--TEST--
An exception out of the failure callback, __wakeup or __sleep reaches the caller, and the pool works on
--FILE--
<?php
class Bad { public $x = 1; function __wakeup() { throw new Exception('wakeup'); } }
class Worse { public $x = 1; function __sleep() { throw new Exception('sleep'); } }
$m = new Memcache;
$m->connect('127.0.0.1', (int)getenv('MEMRING_PORT1'));
$m->set(['a' => 1, 'bad' => new Bad, 'b' => 2]);
function attempt($what) { try { var_dump($what()); } catch (Exception $e) { echo get_class($e), ': ', $e->getMessage(), "\n"; } }
attempt(fn() => $m->get('bad'));
attempt(fn() => $m->get(['a', 'bad', 'b']));
attempt(fn() => $m->set('w', new Worse));
attempt(fn() => $m->set(['a' => 1, 'w' => new Worse]));
attempt(fn() => $m->set('c', function () {}));
attempt(fn() => $m->get(['a', 'b']));
$dead = new Memcache;
$dead->addServer('127.0.0.1', 1, false, 1, 1, -1, true, function () { throw new Exception('callback'); });
attempt(fn() => $dead->get('a'));
attempt(fn() => $m->get('b'));
?>
--EXPECTF--
Exception: wakeup
Exception: wakeup

Warning: MemcachePool::set(): Failed to serialize value in %s on line %d
Exception: sleep

Warning: MemcachePool::set(): Failed to serialize value in %s on line %d
Exception: sleep

Warning: MemcachePool::set(): Failed to serialize value in %s on line %d
Exception: Serialization of 'Closure' is not allowed
array(2) {
  ["a"]=>
  int(1)
  ["b"]=>
  int(2)
}
Exception: callback
int(2)
