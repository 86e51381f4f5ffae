--TEST--
Values come back with their type and all their digits, from get() and from a get() of many
--FILE--
<?php
$m = new Memcache;
$m->connect('127.0.0.1', (int)getenv('MEMRING_PORT1'));
$values = ['one' => 1, 'min' => PHP_INT_MIN, 'max' => PHP_INT_MAX, 'yes' => true, 'no' => false, 'third' => 1 / 3,
    'sum' => 0.1 + 0.2, 'huge' => 1e300, 'tiny' => 5e-324, 'inf' => INF, 'minus' => -0.0, 'text' => "a\0b\r\nEND\r\n", 'empty' => '',
    'list' => [1, [2.5, null]], 'object' => (object)['a' => 1], 'digits' => '123', 'float' => 100000.0];
var_dump($m->set($values));
$many = $m->get(array_keys($values));
foreach ($values as $key => $value) {
    $one = $m->get($key);
    $same = is_object($value) ? $one == $value && $many[$key] == $value : $one === $value && $many[$key] === $value;
    if (!$same) {
        echo "$key differs: ", var_export($one, true), "\n";
    }
}
$m->set('nan', NAN);
var_dump(is_nan($m->get('nan')));
$m->set('null', null);
var_dump($m->get('null'), $m->get(['null']));
?>
--EXPECT--
bool(true)
bool(true)
bool(false)
array(1) {
  ["null"]=>
  NULL
}
