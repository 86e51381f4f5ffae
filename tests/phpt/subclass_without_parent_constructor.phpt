--TEST--
Subclasses with a constructor, properties and dynamic properties work, and no property is deprecated
--FILE--
<?php
class Cache extends Memcache {
    private $list = [];
    public function __construct(array $ports) {
        foreach ($ports as $port) $this->addServer('127.0.0.1', (int)$port);
    }
    public function remember($key, $make) {
        $value = $this->get($key);
        if ($value === false) $this->set($key, $value = $this->list[] = $make(), 0, 60);
        return $value;
    }
}
class Lazy extends MemcachePool {
    public $connection = 'mine';
}
$c = new Cache([getenv('MEMRING_PORT1'), getenv('MEMRING_PORT2')]);
var_dump($c->remember('x', fn() => [1]), $c->remember('x', fn() => [2]), is_object($c->connection) || is_resource($c->connection));
$c->connection = 'overwritten';
var_dump(@$c->get('x'));
$m = new Memcache;
$m->connection = null;
$m->extra = 1;
var_dump($m->extra, isset($m->connection));
var_dump((new Lazy)->connection);
?>
--EXPECTF--
array(1) {
  [0]=>
  int(1)
}
array(1) {
  [0]=>
  int(1)
}
bool(true)
bool(false)
%Aint(1)
bool(false)
string(4) "mine"
