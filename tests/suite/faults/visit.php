<?php
// One visit to one session. `do` is what the visitor does; `v` is what is stored; the answer is what was found, whose
// it was, whether all was done, and what PHP said.
$said = [];
set_error_handler(function (int $kind, string $text) use (&$said) {
    $said[] = $text;
    return true;
});
$do = $_GET['do'];
session_id($_GET['id']);
$started = session_start($do === 'read' ? ['read_and_close' => true] : []);
$found = $_SESSION['v'] ?? null;
$owner = $_SESSION['owner'] ?? null;
$done = $started;
if ($started) {
    switch ($do) {
        case 'write':
            $_SESSION = ['v' => (int) $_GET['v'], 'owner' => $_GET['id'], 'pad' => str_repeat('x', (int) $_GET['pad'])];
            session_write_close();
            break;
        case 'touch':
            session_write_close();
            break;
        case 'abort':
            $_SESSION['v'] = -1;
            session_abort();
            break;
        case 'leave':
            $done = session_destroy();
            break;
    }
}
foreach ($said as $text) {
    $done = $done && !str_contains($text, 'Failed to write session data');
}
echo json_encode([$started, $found, $owner, $done, $said]);
