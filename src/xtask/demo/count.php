<?php
// Prints how often the session was visited whose id it is called with.
session_id($argv[1]);
session_start(['read_and_close' => true]);
echo $_SESSION['visits'] ?? 0, "\n";
