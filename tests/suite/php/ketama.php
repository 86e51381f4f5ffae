<?php
/* Prints where php-memcached puts 10,000 keys: one "case TAB key in hex TAB place of the server in its list" line each.
   getServerByKey() needs no running server. The lists come as JSON, {"form": …, "call": …, "list": [[host, port, weight], …]}. */
foreach (json_decode(stream_get_contents(STDIN), true) as $number => $case) {
    $memcached = new Memcached();
    // The option stands before the servers: adding a weight above 1 then changes the ring.
    $case['form'] === 'ketama'
        ? $memcached->setOption(Memcached::OPT_DISTRIBUTION, Memcached::DISTRIBUTION_CONSISTENT)
        : $memcached->setOption(Memcached::OPT_LIBKETAMA_COMPATIBLE, true);
    // addServer() gives a unix socket port 11211, addServers() leaves it 0: the names differ, and so do the rings.
    $case['call'] === 'addServers'
        ? $memcached->addServers($case['list'])
        : array_map(fn($server) => $memcached->addServer(...$server), $case['list']);
    $index = [];
    foreach ($memcached->getServerList() as $place => $server) {
        $index["$server[host]:$server[port]"] = $place;
    }
    for ($i = 0; $i < 10000; $i++) {
        // Plain, long and non-ASCII keys: the hash sees signed bytes.
        $key = match ($i % 4) {
            0 => "key$i",
            1 => "session:" . md5("$i"),
            2 => "schlüssel-ł$i-\xff\x80",
            3 => str_repeat('x', $i % 200) . $i,
        };
        $server = $memcached->getServerByKey($key);
        if ($server === false) {
            fwrite(STDERR, "no server for $key: " . $memcached->getResultMessage() . "\n");
            exit(1);
        }
        echo $number, "\t", bin2hex($key), "\t", $index["$server[host]:$server[port]"], "\n";
    }
}
