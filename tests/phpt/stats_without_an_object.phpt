--TEST--
The functions of statistics throw when called without their object, as every other does
--FILE--
<?php
foreach (['memcache_get_stats', 'memcache_get_extended_stats'] as $function) {
    try { var_dump($function()); } catch (ArgumentCountError $e) { echo $e->getMessage(), "\n"; }
}
?>
--EXPECT--
memcache_get_stats() expects at least 1 argument, 0 given
memcache_get_extended_stats() expects at least 1 argument, 0 given
