--TEST--
A subclass that copies the original's signature of every method is no error
--FILE--
<?php
class Pool extends MemcachePool {
    function connect($host, $tcp_port = 1, $udp_port = 0, $persistent = true, $weight = 1, $timeout = 1.0, $retry_interval = 15) { return parent::connect($host, $tcp_port); }
    function addserver($host, $tcp_port = 1, $udp_port = 0, $persistent = true, $weight = 1, $timeout = 1.0, $retry_interval = 15, $status = true): bool { return parent::addserver($host, $tcp_port); }
    function setserverparams(string $host, int $tcp_port = 1, float $timeout = 1, int $retry_interval = 1, bool $status = true, $failure_callback = null): bool { return true; }
    function setfailurecallback(?callable $failure_callback): bool { return true; }
    function getserverstatus(string $host, int $tcp_port = 1): int|bool { return true; }
    function findserver(string $key): string|bool { return true; }
    function getversion(): string|bool { return parent::getversion(); }
    function add(array|string $key, mixed $value = null, int $flags = 0, int $exptime = 0, int $cas = 0): bool { return true; }
    function set(array|string $key, mixed $value = null, int $flags = 0, int $exptime = 0, int $cas = 0): bool { return parent::set($key, "pool:$value"); }
    function replace(array|string $key, mixed $value = null, int $flags = 0, int $exptime = 0, int $cas = 0): bool { return true; }
    function cas(array|string $key, mixed $value = null, int $flags = 0, int $exptime = 0, int $cas = 0): bool { return true; }
    function append(array|string $key, mixed $value = null, int $flags = 0, int $exptime = 0, int $cas = 0): bool { return true; }
    function prepend(array|string $key, mixed $value = null, int $flags = 0, int $exptime = 0, int $cas = 0): bool { return true; }
    function get(array|string $key, mixed &$flags = null, mixed &$cas = null): mixed { return parent::get($key, $flags, $cas); }
    function delete(array|string $key, int $exptime = 0): array|bool { return parent::delete($key); }
    function getstats(string $type = '', int $slabid = 0, int $limit = 0): array|bool { return true; }
    function getextendedstats(string $type = '', int $slabid = 0, int $limit = 0): array|bool { return true; }
    function setcompressthreshold(int $threshold, float $min_savings = 0.2): bool { return true; }
    function increment(array|string $key, int $value = 1, int $defval = 0, int $exptime = 0): array|int|bool { return true; }
    function decrement(array|string $key, int $value = 1, int $defval = 0, int $exptime = 0): array|int|bool { return true; }
    function close(): bool { return parent::close(); }
    function flush(int $delay = 0): bool { return true; }
    function setSaslAuthData(string $username, string $password): bool { return true; }
}
class Cache extends Memcache {
    function connect($host, $port = 1, $timeout = 1, $unused4 = 0, $unused5 = 0, $unused6 = 0, $unused7 = 0, $unugsed8 = 0) { return parent::connect($host, $port); }
    function pconnect($host, $port = 1, $timeout = 1, $unused4 = 0, $unused5 = 0, $unused6 = 0, $unused7 = 0, $unugsed8 = 0) { return parent::pconnect($host, $port); }
    function addserver($host, $tcp_port = 1, $persistent = true, $weight = 1, $timeout = 1, $retry_interval = 1, $status = true, $failure_callback = null): bool { return parent::addserver($host, $tcp_port); }
}
// As much older code writes them: no types at all.
class Old extends Memcache {
    #[ReturnTypeWillChange]
    function get($key, &$flags = null, &$cas = null) { return 'old:' . parent::get($key, $flags, $cas); }
    #[ReturnTypeWillChange]
    function set($key, $value = null, $flags = 0, $exptime = 0, $cas = 0) { return parent::set($key, $value, $flags, $exptime); }
    #[ReturnTypeWillChange]
    function addServer($host, $tcp_port = 11211, $persistent = true, $weight = 1, $timeout = 1, $retry_interval = 15, $status = true, $failure_callback = null) { return parent::addServer($host, $tcp_port); }
}
$port = (int)getenv('MEMRING_PORT1');
foreach (['Pool', 'Cache', 'Old'] as $class) {
    $m = new $class;
    var_dump($m->addServer('127.0.0.1', $port), $m->set('k', 'v'), $m->get('k'), $m->delete('k'), $m->connect('127.0.0.1', $port), $m->close());
}
?>
--EXPECT--
bool(true)
bool(true)
string(6) "pool:v"
bool(true)
bool(true)
bool(true)
bool(true)
bool(true)
string(1) "v"
bool(true)
bool(true)
bool(true)
bool(true)
bool(true)
string(5) "old:v"
bool(true)
bool(true)
bool(true)
