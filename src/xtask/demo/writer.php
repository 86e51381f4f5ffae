<?php
// Writes values until it is killed, and prints the number of each when it is stored; or, called with a number, reads
// back all up to that one and prints how many are missing, how many items there are, and in how many bytes.
// Called with: the node, then nothing or that number.
[, $node] = $argv;
$m = new Memcache();
$m->addServer($node);
for ($i = 0; !isset($argv[2]); $i++) {
    if (!$m->set("written:$i", "number $i", 0, 600)) {
        exit(1);
    }
    echo "$i\n";
}
$missing = 0;
for ($i = 0; $i <= (int) $argv[2]; $i++) {
    $missing += $m->get("written:$i") === "number $i" ? 0 : 1;
}
$stats = current($m->getExtendedStats());
echo "$missing {$stats['curr_items']} {$stats['bytes']}\n";
