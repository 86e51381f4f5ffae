--TEST--
Memring\Memcache: touch(), getAndTouch() and arrays in the caller's order
--FILE--
<?php
foreach (['ascii', 'binary'] as $protocol) {
    ini_set('memcache.protocol', $protocol);
    $m = new Memring\Memcache;
    $m->addServer('127.0.0.1', (int)getenv('MEMRING_PORT1'));
    $m->addServer('127.0.0.1', (int)getenv('MEMRING_PORT2'));
    $m->set('k', [1, 2], 0, 1);
    var_dump($m->touch('k', 100), $m->touch('missing', 100));
    $flags = $cas = null;
    var_dump($m->getAndTouch('k', 200, $flags, $cas) === [1, 2], $flags, is_int($cas), $m->getAndTouch('missing', 5));
    $keys = array_map(fn($i) => "key$i", range(1, 40));
    shuffle($keys);
    $m->set(array_combine($keys, $keys));
    var_dump(array_keys($m->get($keys)) === $keys);
}
usleep(1500000);
var_dump($m->get('k'));
?>
--EXPECT--
bool(true)
bool(false)
bool(true)
int(1)
bool(true)
bool(false)
bool(true)
bool(true)
bool(false)
bool(true)
int(1)
bool(true)
bool(false)
bool(true)
array(2) {
  [0]=>
  int(1)
  [1]=>
  int(2)
}
