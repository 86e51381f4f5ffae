--TEST--
A session: stored, reset, given a new id, read without its turn, refused, destroyed
--INI--
session.save_handler=memcache
session.use_cookies=0
session.cache_limiter=
memring.shared=off
session.gc_probability=0
--FILE--
<?php
ob_start();
$id = 'life' . bin2hex(random_bytes(8));
ini_set('session.save_path', 'tcp://127.0.0.1:' . getenv('MEMRING_PORT1') . ', tcp://127.0.0.1:' . getenv('MEMRING_PORT2'));

session_id($id);
var_dump(session_start());
$_SESSION['n'] = 1;
$_SESSION['long'] = str_repeat('a', 30000);
session_write_close();

session_id($id);
session_start();
$_SESSION['n'] = 2;
var_dump(session_reset(), $_SESSION['n'], strlen($_SESSION['long']));
session_regenerate_id(true);
$new = session_id();
var_dump($new !== $id, strlen(session_create_id('p-')) > 20);
session_write_close();

ini_set('session.use_strict_mode', '1');
session_id($id);
session_start();
var_dump(session_id() !== $id, $_SESSION);
session_abort();

session_id($new);
session_start(['read_and_close' => true]);
var_dump($_SESSION['n']);

class Careless extends SessionHandler {
    public function close(): bool { return true; }
}
session_set_save_handler(new Careless, true);
for ($i = 0; $i < 2; $i++) {
    $before = microtime(true);
    session_id($new);
    session_start();
    session_abort();
    var_dump(microtime(true) - $before < 1);
}

session_set_save_handler(new SessionHandler, true);
session_id($new);
session_start();
var_dump(session_gc(), session_destroy());
ini_set('session.use_strict_mode', '0');
session_id($new);
session_start();
var_dump($_SESSION);
session_destroy();
?>
--EXPECT--
bool(true)
bool(true)
int(1)
int(30000)
bool(true)
bool(true)
bool(true)
array(0) {
}
int(1)
bool(true)
bool(true)
int(0)
bool(true)
array(0) {
}
