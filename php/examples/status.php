<?php
// A status page: what Memring\status() knows, as HTML. Put it where only you can open it.
//   status.php                 every pool this process knows, nobody asked
//   status.php?pool=sessions   one pool of the file, and what its nodes say of themselves now
// On the command line: php -d extension=memring examples/status.php [pool]

function cell(mixed $value): string
{
    $text = match (true) {
        $value === null => '-',
        is_bool($value) => $value ? 'yes' : 'no',
        is_array($value) => $value === [] ? '-' : json_encode($value, JSON_UNESCAPED_SLASHES),
        default => (string) $value,
    };
    return '<td>' . htmlspecialchars($text, ENT_QUOTES | ENT_SUBSTITUTE) . '</td>';
}

function table(string $title, array $rows): string
{
    $html = '<h2>' . htmlspecialchars($title) . "</h2>\n<table>\n";
    if ($rows !== []) {
        $html .= '<tr><th>' . implode('</th><th>', array_map('htmlspecialchars', array_keys($rows[0]))) . "</th></tr>\n";
    }
    foreach ($rows as $row) {
        $html .= '<tr>' . implode('', array_map('cell', $row)) . "</tr>\n";
    }
    return $html . "</table>\n";
}

$pool = PHP_SAPI === 'cli' ? ($argv[1] ?? null) : ($_GET['pool'] ?? null);
try {
    $status = Memring\status(is_string($pool) ? $pool : null);
} catch (ValueError $error) {
    http_response_code(404);
    exit('<p>' . htmlspecialchars($error->getMessage()) . "</p>\n");
}

echo "<!doctype html><meta charset=utf-8><title>memring</title>\n";
echo "<style>table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.2em .5em}</style>\n";
echo '<h1>memring ', htmlspecialchars($status['version']), "</h1>\n";
echo table('This host', [$status['host']]);
echo table('Counted on this host', [$status['counters']]);
foreach ($status['pools'] as $pool) {
    $nodes = array_map(function (array $node): array {
        $node['since'] = $node['since'] === null ? null : gmdate('Y-m-d H:i:s \U\T\C', $node['since']);
        return $node;
    }, $pool['nodes']);
    echo table("Pool {$pool['pool']} ({$pool['source']}), mode {$pool['mode']}", $nodes);
    if ($pool['safe_to_touch_next'] !== null) {
        echo '<p>Safe to touch the next node: ', $pool['safe_to_touch_next'] ? 'yes' : 'no', "</p>\n";
    }
    if ($pool['trouble'] !== null) {
        echo '<p>', htmlspecialchars($pool['trouble']), "</p>\n";
    }
}
if ($status['other_nodes'] !== []) {
    echo table('Nodes of no named pool', $status['other_nodes']);
}
foreach ($status['trouble'] as $text) {
    echo '<p>', htmlspecialchars($text), "</p>\n";
}
