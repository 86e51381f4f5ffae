--TEST--
increment() and decrement() of a missing key store the default they are given (as text with protocol=binary)
--FILE--
<?php
foreach (['ascii', 'binary'] as $protocol) {
    ini_set('memcache.protocol', $protocol);
    $m = new Memcache;
    $m->addServer('127.0.0.1', (int)getenv($protocol == 'ascii' ? 'MEMRING_PORT1' : 'MEMRING_PORT2'));
    var_dump($m->increment('a'), $m->increment('a', 1, 10, 60), $m->get('a'), $m->increment('a', 5), $m->decrement('a', 100));
    var_dump($m->decrement('b', 1, 3), $m->decrement('b', 1, 3), $m->get('b'));
}
?>
--EXPECT--
bool(false)
int(10)
int(10)
int(15)
int(0)
int(3)
int(2)
int(2)
bool(false)
int(10)
string(2) "10"
int(15)
int(0)
int(3)
int(2)
string(1) "2"
