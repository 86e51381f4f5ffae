<?php
// One of several visits to one session at the same time: it counts. Answered are whether it was let in, its number,
// whether that was stored, and what PHP said.
$said = [];
set_error_handler(function (int $kind, string $text) use (&$said) {
    $said[] = $text;
    return true;
});
$look = isset($_GET['look']);
session_id($_GET['id']);
$started = session_start(['read_and_close' => $look]);
$n = ($_SESSION['n'] ?? 0) + ($look ? 0 : 1);
$_SESSION['n'] = $n;
$closed = $look || session_write_close();
echo json_encode([$started, $n, $closed, $said]);
