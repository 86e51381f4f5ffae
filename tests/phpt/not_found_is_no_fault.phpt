--TEST--
cas(), replace() and append() on a missing key are false, and the node stays in use
--FILE--
<?php
foreach (['ascii', 'binary'] as $protocol) {
    ini_set('memcache.protocol', $protocol);
    $port = (int)getenv($protocol == 'ascii' ? 'MEMRING_PORT1' : 'MEMRING_PORT2');
    $m = new Memcache;
    $m->addServer('127.0.0.1', $port);
    $m->set('there', 'v');
    $m->setFailureCallback(function () { echo "a failure was reported\n"; });
    var_dump($m->cas('missing', 'v', 0, 0, 7), $m->replace('missing', 'v'), $m->append('missing', 'v'), $m->prepend('missing', 'v'));
    var_dump($m->getServerStatus('127.0.0.1', $port), $m->get('there'));
}
?>
--EXPECT--
bool(false)
bool(false)
bool(false)
bool(false)
int(1)
string(1) "v"
bool(false)
bool(false)
bool(false)
bool(false)
int(1)
string(1) "v"
