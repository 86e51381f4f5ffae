--TEST--
addServer() shows eight parameters and takes a ninth, the timeout in milliseconds
--SKIPIF--
<?php if (PHP_DEBUG) echo 'skip a debug PHP stops at an argument that Reflection does not show';
--FILE--
<?php
echo (new ReflectionMethod('Memcache', 'addServer'))->getNumberOfParameters(), "\n";
$silent = stream_socket_server('tcp://127.0.0.1:0');
$port = (int)substr(strrchr(stream_socket_get_name($silent, false), ':'), 1);
$m = new Memcache;
var_dump($m->addServer('127.0.0.1', $port, false, 1, 10, 15, true, null, 200));
$start = microtime(true);
var_dump(@$m->get('k'));
$took = microtime(true) - $start;
echo $took >= 0.15 && $took < 2 ? "200 ms counted\n" : "took $took\n";
try {
    $m->addServer('127.0.0.1', $port, false, 1, 1, 15, true, null, 200, 10);
} catch (ArgumentCountError $e) {
    echo get_class($e), "\n";
}
?>
--EXPECT--
8
bool(true)
bool(false)
200 ms counted
ArgumentCountError
