--TEST--
the example of the Memcache API runs from connect to close
--FILE--
<?php
require __DIR__ . '/../../php/examples/memcache.php';
?>
--EXPECT--
hello
good morning
bool(true)
greeting cart
bool(false)
bool(false)
