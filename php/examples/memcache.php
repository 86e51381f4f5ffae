<?php
// The Memcache API from connect to close. Run it with
//   php -d extension=memring examples/memcache.php [host] [port]
// against a memcached that holds nothing you need: the last step empties it.

$host = $argv[1] ?? getenv('MEMRING_HOST') ?: '127.0.0.1';
$port = (int) ($argv[2] ?? getenv('MEMRING_PORT1') ?: 11211);

$memcache = new Memcache;
if (!$memcache->connect($host, $port)) {
    fwrite(STDERR, "No memcached at $host:$port. Start one: memcached -l 127.0.0.1 -p $port\n");
    exit(1);
}

// Kept for 60 seconds. Flags 0 and MEMCACHE_COMPRESSED work as ever.
$memcache->set('greeting', 'hello', 0, 60);
echo $memcache->get('greeting'), "\n";

$memcache->replace('greeting', 'good morning', 0, 60);
echo $memcache->get('greeting'), "\n";

// Arrays and objects are serialized on the way; types come back as they were.
$memcache->set('cart', ['items' => [17, 4], 'total' => 12.3], 0, 60);
var_dump($memcache->get('cart') === ['items' => [17, 4], 'total' => 12.3]);

// Many keys in one round trip per node, hits under the keys asked for.
echo implode(' ', array_keys($memcache->get(['greeting', 'cart', 'nobody']))), "\n";

$memcache->delete('greeting');
var_dump($memcache->get('greeting'));

$memcache->flush();
var_dump($memcache->get('cart'));

$memcache->close();
