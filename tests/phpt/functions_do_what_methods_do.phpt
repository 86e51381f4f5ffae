--TEST--
Each memcache_* function does what its method does
--FILE--
<?php
$m = memcache_connect('127.0.0.1', (int)getenv('MEMRING_PORT1'));
echo get_class($m), "\n";
var_dump(memcache_add_server($m, '127.0.0.1', (int)getenv('MEMRING_PORT2')), memcache_set($m, 'k', 5), memcache_get($m, 'k'));
var_dump(memcache_add($m, 'k', 1), memcache_replace($m, 'k', 6), memcache_increment($m, 'k', 2), memcache_decrement($m, 'k'));
var_dump(memcache_set($m, 's', 'b'), memcache_append($m, 's', 'c'), memcache_prepend($m, 's', 'a'), memcache_get($m, ['s', 'k']));
$flags = $cas = null;
memcache_get($m, 's', $flags, $cas);
var_dump(memcache_cas($m, 's', 'new', 0, 0, $cas), memcache_delete($m, 's'));
var_dump(memcache_get_server_status($m, '127.0.0.1', (int)getenv('MEMRING_PORT1')), is_string(memcache_get_version($m)));
var_dump(is_array(memcache_get_stats($m)), count(memcache_get_extended_stats($m)), memcache_set_compress_threshold($m, 100, 0.3));
var_dump(memcache_set_server_params($m, '127.0.0.1', (int)getenv('MEMRING_PORT1'), 1, 15, true), memcache_set_failure_callback($m, null));
var_dump(memcache_flush($m), memcache_close($m), count(get_extension_funcs('memcache')));
try { memcache_get(new stdClass, 'k'); } catch (TypeError $e) { echo $e->getMessage(), "\n"; }
?>
--EXPECT--
Memcache
bool(true)
bool(true)
int(5)
bool(false)
bool(true)
int(8)
int(7)
bool(true)
bool(true)
bool(true)
array(2) {
  ["s"]=>
  string(3) "abc"
  ["k"]=>
  int(7)
}
bool(true)
bool(true)
int(1)
bool(true)
bool(true)
int(2)
bool(true)
bool(true)
bool(true)
bool(true)
bool(true)
int(24)
memcache_get(): Argument #1 ($memcache) must be of type MemcachePool, stdClass given
