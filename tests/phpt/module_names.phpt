--TEST--
The module memcache is there with its classes, functions, constants and settings
--FILE--
<?php
var_dump(extension_loaded('memcache'), extension_loaded('memring'), version_compare(phpversion('memcache'), '8.2', '>='));
$r = new ReflectionExtension('memcache');
echo implode(' ', array_keys($r->getClasses())), ' ', count($r->getFunctions()), ' ', count($r->getINIEntries()), "\n";
echo json_encode($r->getConstants()), "\n";
var_dump((new ReflectionClass('Memcache'))->getExtensionName(), (new ReflectionClass('Memcache'))->getParentClass()->name);
var_dump(class_exists('Memring\Memcache'), is_subclass_of('Memring\Memcache', 'Memcache'));
?>
--EXPECT--
bool(true)
bool(true)
bool(true)
MemcachePool Memcache 24 21
{"MEMCACHE_COMPRESSED":2,"MEMCACHE_USER1":65536,"MEMCACHE_USER2":131072,"MEMCACHE_USER3":262144,"MEMCACHE_USER4":524288,"MEMCACHE_HAVE_SESSION":1}
string(8) "memcache"
string(12) "MemcachePool"
bool(true)
bool(true)
