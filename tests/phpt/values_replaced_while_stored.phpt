--TEST--
__sleep and __serialize may assign through a reference in the array being stored; the value stored is the one of before
--FILE--
<?php
$m = new Memcache;
$m->connect('127.0.0.1', (int)getenv('MEMRING_PORT1'));
function replace() { global $x, $y, $junk; $x = null; $y = 5; for ($i = 0; $i < 50; $i++) $junk[] = range(100, 101 + $i % 9); }
class Sleeps { public $v = 'v'; function __sleep() { replace(); return ['v']; } }
class Tells { public $v = 'v'; function __serialize(): array { replace(); return ['v' => 'v']; } }
foreach (['Sleeps', 'Tells'] as $class) {
    $x = [1, new $class, 3, str_repeat('q', 5), range(1, 3)];
    $y = new $class;
    var_dump($m->set(['x' => &$x, 'y' => &$y, 'z' => 5]));
    echo json_encode($m->get(['x', 'z'])), "\n";
    var_dump($m->get('y'), $y, $x);
    unset($x, $y);
}
?>
--EXPECT--
bool(true)
{"x":[1,{"v":"v"},3,"qqqqq",[1,2,3]],"z":5}
int(5)
int(5)
NULL
bool(true)
{"x":[1,{"v":"v"},3,"qqqqq",[1,2,3]],"z":5}
int(5)
int(5)
NULL
