<?php
// Several keys of a Redis node changed together, or not at all: watch, read, multi, exec. Run it with
//   php -d extension=memring examples/transaction.php [redis://host:port]

$node = $argv[1] ?? (getenv('MEMRING_REDIS') ?: 'redis://127.0.0.1');
$memcache = new Memring\Memcache;
if (!$memcache->addServer($node) || !$memcache->set(['show:seats' => 2, 'show:sold' => 0])) {
    fwrite(STDERR, "No Redis at $node. Start one: redis-server --port 6379\n");
    exit(1);
}

// In a pool of several nodes, keys that share a tag are on the same one: tag = "{}" and {show}:seats.
function book(Memring\Memcache $memcache, string $who, ?callable $meanwhile = null): bool
{
    for ($try = 0; $try < 10; $try++) {
        if (!$memcache->watch(['show:seats', 'show:sold'])) {
            return false;   // a notice says why
        }
        $seats = $memcache->get('show:seats');
        if ($seats < 1) {
            $memcache->discard();
            echo "$who: no seat left\n";
            return false;
        }
        if ($meanwhile) {
            $meanwhile();
            $meanwhile = null;
        }
        $memcache->multi();
        $memcache->set('show:seats', $seats - 1);
        $memcache->increment('show:sold');
        $done = $memcache->exec();   // [true, 1]; false when one of the two changed since watch()
        if ($done) {
            echo "$who has a seat, ", $seats - 1, " left\n";
            return true;
        }
        if ($done === null) {   // the answer was lost: to try again may book twice
            echo "$who: ask us whether you have a seat\n";
            return false;
        }
        echo "anna was there meanwhile: once more\n";
    }
    return false;
}

// Another process comes between Ben's look and his booking.
book($memcache, 'ben', function () use ($node) {
    $other = new Memring\Memcache;
    $other->addServer($node);
    book($other, 'anna');
});
book($memcache, 'cara');
