--TEST--
setSaslAuthData() warns once that nothing is authenticated yet
--FILE--
<?php
$m = new Memcache;
$m->connect('127.0.0.1', (int)getenv('MEMRING_PORT1'));
$count = 0;
set_error_handler(function ($n, $text) use (&$count) { $count++; return true; });
$m->setSaslAuthData('user', 'secret');
$m->setSaslAuthData('user', 'secret');
$m->get('k');
echo $count, "\n";
?>
--EXPECT--
1
