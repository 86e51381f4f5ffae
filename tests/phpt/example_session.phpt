--TEST--
the example of a session counts the visits
--SKIPIF--
<?php if (PHP_SAPI !== 'cli') echo 'skip the example counts three visits on the command line only';
--FILE--
<?php
require __DIR__ . '/../../php/examples/session.php';
?>
--EXPECT--
Visit 1
Visit 2
Visit 3
