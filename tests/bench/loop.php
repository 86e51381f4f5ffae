<?php
/* One contender of `cargo xtask bench`: waits for "row count" on a socket, runs the row that often, answers with
 * nanoseconds. With a row and a count as further arguments it runs them once and ends, to be counted from outside.
 *
 *   php loop.php <contender> <ports> <socket>
 *   php loop.php <contender> <ports> once <row> <count>
 *
 * A contender without servers has the address of its database in place of ports.
 */
[, $who, $ports] = $argv;
$ports = $who === 'memring-embedded' ? [$ports] : array_map('intval', explode(',', $ports));
$keys = [];
for ($i = 0; $i < 100; $i++) {
    $keys[] = "bench:$i";
}
$small = str_repeat('x', 100);
// Bytes that no client finds worth compressing.
mt_srand(1);
$large = '';
while (strlen($large) < 10240) {
    $large .= chr(mt_rand(1, 255));
}

/** A client on the given nodes, with no setting but those that make the contenders do the same work. */
function client(string $who, array $ports, bool $lasting = true): object
{
    switch ($who) {
        case 'phpredis':
            $client = new Redis;
            $client->connect('127.0.0.1', $ports[0]);
            return $client;
        case 'php-memcached':
            $client = new Memcached;
            $client->setOption(Memcached::OPT_COMPRESSION, false);
            $client->setOption(Memcached::OPT_TCP_NODELAY, true);
            foreach ($ports as $port) {
                $client->addServer('127.0.0.1', $port);
            }
            return $client;
        case 'memring-embedded':
            $client = new Memcache;
            $client->addServer($ports[0]);
            return $client;
        default:
            $client = new Memcache;
            $scheme = $who === 'memring-redis' ? 'redis://' : '';
            foreach ($ports as $port) {
                $client->addServer("{$scheme}127.0.0.1", $port, $lasting);
            }
            return $client;
    }
}

function many(object $client, array $keys): array
{
    return match (get_class($client)) {
        'Redis' => $client->mGet($keys),
        'Memcached' => $client->getMulti($keys),
        default => $client->get($keys),
    };
}

/** Resident memory of this process, bytes. */
function resident(): int
{
    return (int) explode(' ', file_get_contents('/proc/self/statm'))[1] * 4096;
}

/** What each of $count clients costs; $use connects it. */
function memory(string $who, array $ports, int $count, bool $use): int
{
    $clients = [client($who, $ports, false)];
    $before = resident();
    for ($i = 0; $i < $count; $i++) {
        $clients[] = $client = client($who, $ports, false);
        if ($use) {
            $client->get('bench:small');
        }
    }
    return intdiv(resident() - $before, $count);
}

$one = client($who, [$ports[0]]);
$all = client($who, $who === 'phpredis' ? [$ports[0]] : $ports);
/** A client that keeps each value on the first two nodes. */
function copying(string $who, array $ports, string $pool = 'bench'): object
{
    $two = array_slice($ports, 0, 2);
    switch ($who) {
        case 'memring':
            $client = new Memcache;
            $client->addServer("pool:$pool");
            return $client;
        case 'php-memcached':
            $client = client($who, $two);
            $client->setOption(Memcached::OPT_BINARY_PROTOCOL, true);
            $client->setOption(Memcached::OPT_NUMBER_OF_REPLICAS, 1);
            return $client;
        default:
            return client($who, $two);
    }
}

/** Runs $job as pecl-memcache keeps copies: a setting of the whole process. */
function redundantly(string $who, callable $job): mixed
{
    if ($who === 'pecl-memcache') {
        ini_set('memcache.redundancy', '2');
    }
    $result = $job();
    ini_restore('memcache.redundancy');
    return $result;
}

$copies = str_contains($who, 'redis') || $who === 'memring-embedded' ? null : copying($who, $ports);
$fill = function () use ($who, $one, $all, $copies, $keys, $small, $large) {
    foreach ($keys as $key) {
        $one->set($key, $small);
        $all->set($key, $small);
    }
    $one->set('bench:small', $small);
    $one->set('bench:large', $large);
    $one->set('bench:number', 1);
    redundantly($who, fn() => $copies?->set('bench:copied', $small));
};

$rows = [
    'get' => function (int $n) use ($one) { for ($i = 0; $i < $n; $i++) { $r = $one->get('bench:small'); } return strlen($r) === 100; },
    'set' => function (int $n) use ($one, $small) { for ($i = 0; $i < $n; $i++) { $r = $one->set('bench:small', $small); } return $r; },
    'miss' => function (int $n) use ($one) { for ($i = 0; $i < $n; $i++) { $r = $one->get('bench:missing'); } return $r === false; },
    'get-10k' => function (int $n) use ($one, $large) { for ($i = 0; $i < $n; $i++) { $r = $one->get('bench:large'); } return $r === $large; },
    'set-10k' => function (int $n) use ($one, $large) { for ($i = 0; $i < $n; $i++) { $r = $one->set('bench:large', $large); } return $r; },
    'multi-1' => function (int $n) use ($one, $keys) { for ($i = 0; $i < $n; $i++) { $r = many($one, $keys); } return count($r) === 100; },
    'multi-4' => function (int $n) use ($all, $keys) { for ($i = 0; $i < $n; $i++) { $r = many($all, $keys); } return count($r) === 100; },
    'increment' => function (int $n) use ($one) {
        $redis = $one instanceof Redis;
        for ($i = 0; $i < $n; $i++) { $r = $redis ? $one->incr('bench:number') : $one->increment('bench:number'); }
        return $r > 1;
    },
    // As configured by default: a connection for each session.
    'session' => $session = function (int $n, string $id = 'bench') use ($small, $who) {
        // Of its own: the clients store it under the same key, in ways of their own.
        $id = str_replace('-', '', "$id$who");
        for ($i = 0; $i < $n; $i++) {
            session_id($id);
            if (!session_start()) {
                return false;
            }
            $_SESSION['number'] = $i;
            $_SESSION['text'] = $small;
            session_write_close();
        }
        return true;
    },
    'session-kept' => function (int $n) use ($session, $who) {
        $path = ini_get('session.save_path');
        if ($who === 'php-memcached') {
            ini_set('memcached.sess_persistent', '1');
        } else {
            ini_set('session.save_path', "$path?persistent=1");
        }
        $good = $session($n);
        ini_set('session.save_path', $path);
        ini_restore('memcached.sess_persistent');
        return $good;
    },
    'set-copied' => fn(int $n) => redundantly($who, function () use ($n, $copies, $small) {
        for ($i = 0; $i < $n; $i++) { $r = $copies->set('bench:copied', $small); }
        return $r;
    }),
    'set-async' => function (int $n) use ($who, $ports, $small) {
        static $later;
        $later ??= copying($who, $ports, 'later');
        for ($i = 0; $i < $n; $i++) { $r = $later->set('bench:later', $small); }
        return $r;
    },
    'get-copied' => function (int $n) use ($copies) { for ($i = 0; $i < $n; $i++) { $r = $copies->get('bench:copied'); } return strlen($r) === 100; },
    // On three nodes, over kept connections, each client as its documentation says.
    'session-copied' => function (int $n) use ($session, $who, $ports) {
        $three = array_slice($ports, 0, 3);
        $list = fn(string $before, string $behind) => implode(',', array_map(fn($port) => "{$before}127.0.0.1:$port$behind", $three));
        $settings = match ($who) {
            'memring' => ['session.save_handler' => 'memring', 'session.save_path' => $list('tcp://', '?persistent=1')],
            'php-memcached' => ['session.save_path' => $list('', ''), 'memcached.sess_persistent' => '1',
                'memcached.sess_number_of_replicas' => '2', 'memcached.sess_randomize_replica_read' => '0'],
            default => ['session.save_path' => $list('tcp://', '?persistent=1'), 'memcache.session_redundancy' => '3'],
        };
        $before = array_map('ini_get', array_combine(array_keys($settings), array_keys($settings)));
        array_walk($settings, fn($value, $name) => ini_set($name, $value));
        $good = $session($n, 'copied');
        array_walk($before, fn($value, $name) => ini_set($name, $value));
        return $good;
    },
];

if ($argv[3] === 'once') {
    $fill();
    if ($argv[5] > 0 && !$rows[$argv[4]]((int) $argv[5])) {
        exit(1);
    }
    exit(0);
}
$bench = stream_socket_client("unix://$argv[3]");
$extension = ['php-memcached' => 'memcached', 'phpredis' => 'redis'][$who] ?? 'memcache';
if (str_starts_with($who, 'memring')) {
    $extension = 'memring';
}
fwrite($bench, PHP_VERSION . ' ' . phpversion($extension) . ' ' . gmdate('Y-m-d') . "\n");
while (($line = fgets($bench)) !== false) {
    [$row, $count] = explode(' ', trim($line));
    $count = (int) $count;
    switch ($row) {
        case 'fill':
            $fill();
            $answer = 0;
            break;
        case 'places':
            // The node of each key, for a bare loop that goes the same ways.
            $answer = implode(' ', array_map(fn($key) => explode(':', $all->findServer($key))[1], $keys));
            break;
        case 'object':
        case 'connection':
            $answer = memory($who, [$ports[0]], $count, $row === 'connection');
            break;
        default:
            $run = $rows[$row];
            $start = hrtime(true);
            $good = $run($count);
            $answer = hrtime(true) - $start;
            if (!$good) {
                $answer = 'failed';
            }
    }
    fwrite($bench, "$answer\n");
}
