<?php
// A counter that lives in memcached. Behind a web server three lines of php.ini do it:
//   extension = memring
//   session.save_handler = memcache
//   session.save_path = "tcp://127.0.0.1:11211"
// On the command line this script sets them itself: php -d extension=memring examples/session.php

if (PHP_SAPI === 'cli') {
    $port = getenv('MEMRING_PORT1') ?: 11211;
    ini_set('session.save_handler', 'memcache');
    ini_set('session.save_path', "tcp://127.0.0.1:$port");
    ini_set('session.use_cookies', '0');
    ini_set('session.cache_limiter', '');
    session_id($argv[1] ?? 'example-' . getmypid());
}

for ($visit = 1; $visit <= (PHP_SAPI === 'cli' ? 3 : 1); $visit++) {
    if (!session_start()) {
        exit("No session. The warning above says which node is missing and what to do.\n");
    }
    $_SESSION['visits'] = ($_SESSION['visits'] ?? 0) + 1;
    echo "Visit {$_SESSION['visits']}\n";
    session_write_close();
}
