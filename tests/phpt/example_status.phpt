--TEST--
the status page shows pools and nodes, escaped, and takes no tag from a pool's name
--SKIPIF--
<?php if (PHP_SAPI !== 'cli') echo 'skip the page is asked with arguments of the command line';
--INI--
session.save_handler=memring
session.save_path="127.0.0.1:1,127.0.0.1:2?id=<b>two</b>"
--FILE--
<?php
ob_start();
require __DIR__ . '/../../php/examples/status.php';
$page = ob_get_clean();
var_dump(substr_count($page, '<table>') === substr_count($page, '</table>'));
var_dump(str_contains($page, 'Pool  (session.save_path), mode fenced'));
var_dump(str_contains($page, '<td>127.0.0.1:1</td>'));
var_dump(str_contains($page, '<b>'), str_contains($page, '&lt;b&gt;two&lt;/b&gt;'));
try {
    Memring\status('no<such>pool');
} catch (ValueError $error) {
    echo $error->getMessage(), "\n";
}
?>
--EXPECTF--
bool(true)
bool(true)
bool(true)
bool(false)
bool(true)
pool:no<such>pool needs a file%s
