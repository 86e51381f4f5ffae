<?php
// Sets values over the ring and reads every one back, singly and in one call; a wrong one ends the demo.
// Called with: the number of values, then ports, or nodes as addServer() takes them.
[, $count] = $argv;
$ring = new Memcache();
foreach (array_slice($argv, 2) as $node) {
    is_numeric($node) ? $ring->addServer('127.0.0.1', (int) $node) : $ring->addServer($node);
}

$value = fn (int $i) => $i % 3 === 0 ? ['id' => $i, 'name' => "item $i"] : ($i % 3 === 1 ? "text of $i" : $i);
$keys = [];
for ($i = 0; $i < $count; $i++) {
    $keys[$i] = "value:$i";
    if (!$ring->set($keys[$i], $value($i), 0, 600)) {
        fwrite(STDERR, "value:$i was not stored\n");
        exit(1);
    }
}
foreach ($keys as $i => $key) {
    if ($ring->get($key) !== $value($i)) {
        fwrite(STDERR, "$key came back as something else\n");
        exit(1);
    }
}
foreach (array_chunk($keys, 100, true) as $hundred) {
    $found = $ring->get(array_values($hundred));
    foreach ($hundred as $i => $key) {
        if (($found[$key] ?? null) !== $value($i)) {
            fwrite(STDERR, "$key is missing from a get of 100 keys\n");
            exit(1);
        }
    }
}
