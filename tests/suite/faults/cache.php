<?php
// One visit to one value of a cache with two copies, answered as a visit to a session is.
$said = [];
set_error_handler(function (int $kind, string $text) use (&$said) {
    $said[] = $text;
    return true;
});
$id = $_GET['id'];
$m = new Memring\Memcache;
$m->addServer('pool:cache');
$found = $m->get($id);
switch ($_GET['do']) {
    case 'write':
        $value = ['v' => (int) $_GET['v'], 'owner' => $id, 'pad' => str_repeat('x', (int) $_GET['pad'])];
        $done = $m->set($id, $value, 0, 3600);
        break;
    case 'touch':
        $done = $m->touch($id, 3600) || $found === false;
        break;
    case 'leave':
        $done = $m->delete($id) || ($found === false && $said === []);
        break;
    default:
        $done = true;
}
echo json_encode([true, $found['v'] ?? null, $found['owner'] ?? null, $done, $said]);
