--TEST--
Arrays come back under the keys the caller gave, with prefixes, odd keys and misses
--INI--
memcache.prefix_static_key=pre_
--FILE--
<?php
$m = new Memcache;
$m->connect('127.0.0.1', (int)getenv('MEMRING_PORT1'));
var_dump($m->set(['a b' => 1, 7 => 2, 'plain' => 3]));
var_dump($m->get(['a b', 7, 'plain', 'missing']));
var_dump($m->increment(['plain', 'missing']));
$flags = $cas = null;
$m->get(['a b', 7], $flags, $cas);
echo json_encode([$flags, array_keys($cas)]), "\n";
ini_set('memcache.prefix_static_key', '');
$raw = new Memcache;
$raw->connect('127.0.0.1', (int)getenv('MEMRING_PORT1'));
var_dump($raw->get('pre_a_b'), $m->get('plain'), $raw->get('plain'));
// A minus and then no digit is no number, whatever follows.
foreach (['-x', '-72', '-', '-a12', '-7', '--1', '-01'] as $key) $raw->set($key, "of $key");
echo json_encode($raw->get(['-x', '-72', '-', '-a12', '-7', '--1', '-01'])), "\n";
?>
--EXPECT--
bool(true)
array(3) {
  ["a b"]=>
  int(1)
  [7]=>
  int(2)
  ["plain"]=>
  int(3)
}
array(2) {
  ["plain"]=>
  int(4)
  ["missing"]=>
  bool(false)
}
[{"a b":768,"7":768},["a b",7]]
int(1)
int(4)
bool(false)
{"-x":"of -x","-72":"of -72","-":"of -","-a12":"of -a12","-7":"of -7","--1":"of --1","-01":"of -01"}
