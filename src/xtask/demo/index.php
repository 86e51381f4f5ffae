<?php
// The page of `cargo xtask demo --serve`: a session counter, and what lies on which node.
$ports = explode(',', getenv('MEMRING_PORTS'));
session_start();
$_SESSION['visits'] = ($_SESSION['visits'] ?? 0) + 1;
session_write_close();

$ring = new Memcache();
foreach ($ports as $port) {
    $ring->addServer('127.0.0.1', (int) $port);
}
if (isset($_GET['key'])) {
    $ring->set($_GET['key'], 'set by this page', 0, 600);
}
header('Content-Type: text/html; charset=utf-8');
?>
<!doctype html>
<title>memring demo</title>
<style>body { font: 16px/1.5 sans-serif; max-width: 40em; margin: 2em auto } td, th { padding: 0 1em; text-align: right }</style>
<h1>memring demo</h1>
<p>This session (<code><?= htmlspecialchars(session_id()) ?></code>) was opened <b><?= $_SESSION['visits'] ?></b> times. Reload the page.</p>
<table>
<tr><th>node</th><th>items</th><th>reads</th><th>hits</th><th>connections</th></tr>
<?php foreach ($ring->getExtendedStats() as $node => $stats): ?>
<tr><td><?= htmlspecialchars($node) ?></td>
<?php if ($stats === false): ?><td colspan="4">down</td><?php else: ?>
<td><?= $stats['curr_items'] ?></td><td><?= $stats['cmd_get'] ?></td><td><?= $stats['get_hits'] ?></td><td><?= $stats['curr_connections'] ?></td>
<?php endif ?></tr>
<?php endforeach ?>
</table>
<form><label>Where does a key go? <input name="key" value="<?= htmlspecialchars($_GET['key'] ?? '') ?>"></label>
<?php if (isset($_GET['key'])): ?>→ <b><?= htmlspecialchars($ring->findServer($_GET['key'])) ?></b><?php endif ?></form>
