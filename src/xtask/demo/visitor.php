<?php
// One of several PHP workers on copied sessions. Each line of standard input is a visit, a session_start() and a
// close of its own, as a page does; each is answered by one line: what happened, then the number of visits found.
//   visit ID     counts one visit more
//   leave ID     destroys the session
//   read ID      only looks
$said = [];
set_error_handler(function (int $kind, string $text) use (&$said) {
    $said[] = strtr($text, "\n", ' ');
    return true;
});
while (($line = fgets(STDIN)) !== false) {
    [$what, $id] = explode(' ', trim($line));
    $said = [];
    session_id($id);
    if (!session_start(['read_and_close' => $what === 'read'])) {
        echo 'refused 0 ', implode(' · ', $said), "\n";
        continue;
    }
    $found = $_SESSION['visits'] ?? 0;
    if ($what === 'visit') {
        $_SESSION['visits'] = $found + 1;
        $_SESSION['user'] = "user of $id";
        session_write_close();
    } elseif ($what === 'leave') {
        session_destroy();
    }
    $_SESSION = [];
    echo $said ? 'unsure' : 'done', " $found ", implode(' · ', $said), "\n";
}
