<?php
// One of several PHP workers: visits sessions, each visit a session_start() and a close of its own, as a page does.
// Called with: "own" and the first and last number of the sessions to visit, or "shared" and the number of visits
// to the one session all workers share.
[, $what, $first, $last] = $argv;

function visit(string $id): int
{
    session_id($id);
    if (!session_start()) {
        fwrite(STDERR, "session $id did not start\n");
        exit(1);
    }
    $_SESSION['visits'] = ($_SESSION['visits'] ?? 0) + 1;
    $_SESSION['user'] = "user of $id";
    $visits = $_SESSION['visits'];
    session_write_close();
    return $visits;
}

$name = fn (int $i) => sprintf('demo%028d', $i);
if ($what === 'shared') {
    for ($i = 0; $i < $first; $i++) {
        visit('demoshared0000000000000000000000');
    }
    exit(0);
}
for ($i = $first; $i <= $last; $i++) {
    echo visit($name((int) $i)), "\n";
}
