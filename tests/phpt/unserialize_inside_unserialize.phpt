--TEST--
A get inside a Serializable's unserialize() and a value that refers to itself leave nothing dangling
--FILE--
<?php
error_reporting(E_ALL & ~E_DEPRECATED);
$m = new Memcache;
$port = (int)getenv('MEMRING_PORT1');
$m->connect('127.0.0.1', $port);
$m->set('inner', ['one', 'two', ['three']]);
class Old implements Serializable {
    public $got;
    function serialize() { return 'x'; }
    function unserialize($data) { global $m; $this->got = $m->get('inner'); }
}
// PHP counts the inner values with the outer ones: 3 is the array that get() returned.
foreach ([3, 4, 6, 7] as $n) {
    $all = unserialize('a:3:{i:0;C:3:"Old":1:{x}i:1;R:' . $n . ';i:2;i:5;}');
    echo json_encode($all), "\n";
}

$raw = fsockopen('127.0.0.1', $port);
$self = 'a:1:{i:0;R:1;}';
fwrite($raw, "set self 1 0 " . strlen($self) . "\r\n$self\r\n");
echo trim(fgets($raw)), "\n";
// What get() returns is a value and no reference: a copy changes alone.
$one = $m->get(['self']);
$two = $one;
$two['self'][] = 'more';
var_dump(count($one['self']), count($two['self']), count($m->get('self')));
// An array that holds itself is garbage only the collector finds.
unset($one, $two);
gc_collect_cycles();
?>
--EXPECT--
[{"got":["one","two",["three"]]},["one","two",["three"]],5]
[{"got":["one","two",["three"]]},"one",5]
[{"got":["one","two",["three"]]},["three"],5]
[{"got":["one","two",["three"]]},"three",5]
STORED
int(1)
int(2)
int(1)
