<?php

/**
 * The API of module memcache as memring provides it, for editors and analysers.
 *
 * PHP shows most method names in lower case, as pecl-memcache does; they are written here
 * as the manual writes them. Where the extension has no default of its own (it reads a
 * setting, or tells "left out" from every value) the default here is what usually results.
 */

/** Compress this value whatever its size. */
const MEMCACHE_COMPRESSED = 2;
/** A flag bit for uses of your own. */
const MEMCACHE_USER1 = 65536;
/** A flag bit for uses of your own. */
const MEMCACHE_USER2 = 131072;
/** A flag bit for uses of your own. */
const MEMCACHE_USER3 = 262144;
/** A flag bit for uses of your own. */
const MEMCACHE_USER4 = 524288;
/** 1 when this PHP has sessions, 0 otherwise. */
const MEMCACHE_HAVE_SESSION = 1;

/** Nodes used together: keys are spread over them. */
#[AllowDynamicProperties]
class MemcachePool
{
    /** @var resource|null the pool, once there is a node */
    public $connection = null;

    /**
     * Adds a node and connects to it at once.
     *
     * @param string $host a name, an address, or unix:///path with port 0
     * @param int $tcp_port left out, memcache.default_port
     * @param int $udp_port accepted and shown, never used
     * @return bool
     */
    public function connect(#[\SensitiveParameter] $host, $tcp_port = 11211, $udp_port = 0, $persistent = true, $weight = 1, $timeout = 1.0, $retry_interval = 15) {}

    /**
     * Adds a node; a connection is made when a key needs it.
     *
     * @param string $host a name, an address, or unix:///path with port 0
     * @param int $tcp_port left out, memcache.default_port
     * @param float $timeout seconds, for connecting and for each exchange
     * @param int $retry_interval seconds a failed node is left alone; 0 tries at once, -1 never again
     * @param bool $status false keeps the node in the ring but marked as failed
     */
    public function addServer(#[\SensitiveParameter] $host, $tcp_port = 11211, $udp_port = 0, $persistent = true, $weight = 1, $timeout = 1.0, $retry_interval = 15, $status = true): bool {}

    /**
     * Changes a node's limits and marks it up or failed.
     *
     * @param callable|null $failure_callback null takes the present one away; left out, it stays
     */
    public function setServerParams(#[\SensitiveParameter] string $host, int $tcp_port = 11211, float $timeout = 1.0, int $retry_interval = 15, bool $status = true, $failure_callback = null): bool {}

    /**
     * Names the function that is called for each failure of a node, in place of a notice.
     *
     * It gets host, TCP port, UDP port, message and number.
     */
    public function setFailureCallback(?callable $failure_callback): bool {}

    /** 1 when the node is up, 0 when it is marked as failed, false when the pool has no such node. */
    public function getServerStatus(#[\SensitiveParameter] string $host, int $tcp_port = 11211): int|bool {}

    /** "host:port" of the node that `$key` lives on. */
    public function findServer(string $key): string|bool {}

    /** The version of the first node that answers. */
    public function getVersion(): string|bool {}

    /**
     * Stores a value where none is stored yet.
     *
     * With an array of key => value pairs all are stored and `$value` means nothing.
     * @param int $flags MEMCACHE_COMPRESSED, or bits 16 to 31 for uses of your own
     * @param int $exptime seconds up to 30 days, above that a Unix time; 0 is never
     */
    public function add(array|string $key, mixed $value = null, int $flags = 0, int $exptime = 0, int $cas = 0): bool {}

    /**
     * Stores a value.
     *
     * With an array of key => value pairs all are stored and `$value` means nothing.
     * @param int $flags MEMCACHE_COMPRESSED, or bits 16 to 31 for uses of your own
     * @param int $exptime seconds up to 30 days, above that a Unix time; 0 is never
     */
    public function set(array|string $key, mixed $value = null, int $flags = 0, int $exptime = 0, int $cas = 0): bool {}

    /**
     * Stores a value where one is stored already.
     *
     * With an array of key => value pairs all are stored and `$value` means nothing.
     * @param int $flags MEMCACHE_COMPRESSED, or bits 16 to 31 for uses of your own
     * @param int $exptime seconds up to 30 days, above that a Unix time; 0 is never
     */
    public function replace(array|string $key, mixed $value = null, int $flags = 0, int $exptime = 0, int $cas = 0): bool {}

    /**
     * Stores a value if nobody changed it since its cas value was read.
     *
     * With an array of key => value pairs all are stored and `$value` means nothing.
     * @param int $flags MEMCACHE_COMPRESSED, or bits 16 to 31 for uses of your own
     * @param int $exptime seconds up to 30 days, above that a Unix time; 0 is never
     * @param int $cas as get() gave it
     */
    public function cas(array|string $key, mixed $value = null, int $flags = 0, int $exptime = 0, int $cas = 0): bool {}

    /**
     * Puts bytes behind a stored value.
     *
     * With an array of key => value pairs all are stored and `$value` means nothing.
     * @param int $flags MEMCACHE_COMPRESSED, or bits 16 to 31 for uses of your own; never compressed
     * @param int $exptime seconds up to 30 days, above that a Unix time; 0 is never
     */
    public function append(array|string $key, mixed $value = null, int $flags = 0, int $exptime = 0, int $cas = 0): bool {}

    /**
     * Puts bytes before a stored value.
     *
     * With an array of key => value pairs all are stored and `$value` means nothing.
     * @param int $flags MEMCACHE_COMPRESSED, or bits 16 to 31 for uses of your own; never compressed
     * @param int $exptime seconds up to 30 days, above that a Unix time; 0 is never
     */
    public function prepend(array|string $key, mixed $value = null, int $flags = 0, int $exptime = 0, int $cas = 0): bool {}

    /**
     * Reads a value, or false.
     *
     * With an array of keys: the array of those found, under the keys as passed and in their order.
     * `$flags` and `$cas` stay as they are on a miss, and become arrays for an array of keys.
     */
    public function get(array|string $key, mixed &$flags = null, mixed &$cas = null): mixed {}

    /**
     * Removes a value; false when it, or one of several, was not there.
     *
     * @param int $exptime read and ignored
     */
    public function delete(array|string $key, int $exptime = 0): array|bool {}

    /**
     * Figures of the first node that answers.
     *
     * @param string $type reset, malloc, slabs, cachedump, items or sizes; left out, the general ones
     */
    public function getStats(string $type = '', int $slabid = 0, int $limit = 100): array|bool {}

    /** Figures of every node, under "host:port"; false for one that does not answer. */
    public function getExtendedStats(string $type = '', int $slabid = 0, int $limit = 100): array|bool {}

    /** From how many bytes on values are compressed (0 never), and what share that must save. */
    public function setCompressThreshold(int $threshold, float $min_savings = 0.2): bool {}

    /**
     * Adds to a counter; its new value, or false.
     *
     * With an array of keys: an array of both.
     * @param int $defval passed at all, it is where a missing counter begins
     */
    public function increment(array|string $key, int $value = 1, int $defval = 0, int $exptime = 0): array|int|bool {}

    /**
     * Takes from a counter, not below 0; its new value, or false.
     *
     * @param int $defval passed at all, it is where a missing counter begins
     */
    public function decrement(array|string $key, int $value = 1, int $defval = 0, int $exptime = 0): array|int|bool {}

    /** Takes all nodes out of the pool and closes the connections that do not persist. */
    public function close(): bool {}

    /**
     * Empties all nodes.
     *
     * @param int $delay seconds
     */
    public function flush(int $delay = 0): bool {}

    /**
     * Says who we are to every memcached of the object that was not told by its address (`memcached -Y`).
     *
     * @return bool false when one of the two is empty or has a blank
     */
    public function setSaslAuthData(string $username, #[\SensitiveParameter] string $password): bool {}
}

/** MemcachePool with the parameters of the older class. */
#[AllowDynamicProperties]
class Memcache extends MemcachePool
{
    /**
     * Adds a node and connects to it at once; the connection ends with the request.
     *
     * Only three arguments are taken.
     * @param int|null $port left out, memcache.default_port
     * @param float $timeout seconds
     * @return bool
     */
    public function connect(#[\SensitiveParameter] $host, $port = 11211, $timeout = 1.0, $unused4 = null, $unused5 = null, $unused6 = null, $unused7 = null, $unugsed8 = null) {}

    /**
     * Adds a node and connects to it at once; the connection is kept for later requests.
     *
     * Only three arguments are taken.
     * @return bool
     */
    public function pconnect(#[\SensitiveParameter] $host, $port = 11211, $timeout = 1.0, $unused4 = null, $unused5 = null, $unused6 = null, $unused7 = null, $unugsed8 = null) {}

    /**
     * Adds a node; a connection is made when a key needs it.
     *
     * A ninth argument is taken too: the timeout in milliseconds.
     * @param callable|null $failure_callback see setFailureCallback()
     */
    public function addServer(#[\SensitiveParameter] $host, $tcp_port = 11211, $persistent = true, $weight = 1, $timeout = 1.0, $retry_interval = 15, $status = true, $failure_callback = null): bool {}
}

/**
 * A new Memcache with one node, connected; or false.
 *
 * @return Memcache|false
 */
function memcache_connect(#[\SensitiveParameter] $host, $port = 11211, $timeout = 1.0, $unused4 = null, $unused5 = null, $unused6 = null, $unused7 = null, $unugsed8 = null) {}

/**
 * The same, the connection kept for later requests.
 *
 * @return Memcache|false
 */
function memcache_pconnect(#[\SensitiveParameter] $host, $port = 11211, $timeout = 1.0, $unused4 = null, $unused5 = null, $unused6 = null, $unused7 = null, $unugsed8 = null) {}

/**
 * Memcache::addServer() of a Memcache object.
 *
 * The names are pecl-memcache's and stand one place too far: the arguments are read by position as
 * host, port, persistent, weight, timeout, retry interval, status, failure callback, timeout in ms.
 * @param Memcache $memcache
 */
function memcache_add_server(MemcachePool $memcache, #[\SensitiveParameter] $host, $port = 11211, $tcp_port = true, $persistent = 1, $weight = 1.0, $timeout = 15, $retry_interval = true, $status = null, $failure_callback = null): bool {}

/** MemcachePool::setServerParams() of `$memcache`. */
function memcache_set_server_params(MemcachePool $memcache, #[\SensitiveParameter] string $host, int $tcp_port = 11211, float $timeout = 1.0, int $retry_interval = 15, bool $status = true, $failure_callback = null): bool {}

/** MemcachePool::setFailureCallback() of `$memcache`. */
function memcache_set_failure_callback(MemcachePool $memcache, ?callable $failure_callback): bool {}

/** MemcachePool::getServerStatus() of `$memcache`. */
function memcache_get_server_status(MemcachePool $memcache, #[\SensitiveParameter] string $host, int $tcp_port = 11211): int|bool {}

/** MemcachePool::getVersion() of `$memcache`. */
function memcache_get_version(MemcachePool $memcache): string|bool {}

/** MemcachePool::add() of `$memcache`. */
function memcache_add(MemcachePool $memcache, array|string $key, mixed $value = null, int $flags = 0, int $exptime = 0, int $cas = 0): bool {}

/** MemcachePool::set() of `$memcache`. */
function memcache_set(MemcachePool $memcache, array|string $key, mixed $value = null, int $flags = 0, int $exptime = 0, int $cas = 0): bool {}

/** MemcachePool::replace() of `$memcache`. */
function memcache_replace(MemcachePool $memcache, array|string $key, mixed $value = null, int $flags = 0, int $exptime = 0, int $cas = 0): bool {}

/** MemcachePool::cas() of `$memcache`. */
function memcache_cas(MemcachePool $memcache, array|string $key, mixed $value = null, int $flags = 0, int $exptime = 0, int $cas = 0): bool {}

/** MemcachePool::append() of `$memcache`. */
function memcache_append(MemcachePool $memcache, array|string $key, mixed $value = null, int $flags = 0, int $exptime = 0, int $cas = 0): bool {}

/** MemcachePool::prepend() of `$memcache`. */
function memcache_prepend(MemcachePool $memcache, array|string $key, mixed $value = null, int $flags = 0, int $exptime = 0, int $cas = 0): bool {}

/** MemcachePool::get() of `$memcache`. */
function memcache_get(MemcachePool $memcache, $key, &$flags = null, &$cas = null): mixed {}

/** MemcachePool::delete() of `$memcache`. */
function memcache_delete(MemcachePool $memcache, $key, $exptime = 0): array|bool {}

/** Does nothing but warn that it does nothing. */
function memcache_debug($on_off): bool {}

/** MemcachePool::getStats() of `$memcache`. */
function memcache_get_stats(MemcachePool $memcache, string $type = '', int $slabid = 0, int $limit = 100): array|bool {}

/** MemcachePool::getExtendedStats() of `$memcache`. */
function memcache_get_extended_stats(MemcachePool $memcache, string $type = '', int $slabid = 0, int $limit = 100): array|bool {}

/** MemcachePool::setCompressThreshold() of `$memcache`. */
function memcache_set_compress_threshold(MemcachePool $memcache, int $threshold, float $min_savings = 0.2): bool {}

/** MemcachePool::increment() of `$memcache`. */
function memcache_increment(MemcachePool $memcache, array|string $key, int $value = 1, int $defval = 0, int $exptime = 0): array|int|bool {}

/** MemcachePool::decrement() of `$memcache`. */
function memcache_decrement(MemcachePool $memcache, array|string $key, int $value = 1, int $defval = 0, int $exptime = 0): array|int|bool {}

/** MemcachePool::close() of `$memcache`. */
function memcache_close(MemcachePool $memcache): bool {}

/** MemcachePool::flush() of `$memcache`. */
function memcache_flush(MemcachePool $memcache, int $delay = 0): bool {}

/** MemcachePool::setSaslAuthData() of `$memcache`. */
function memcache_set_sasl_auth_data(MemcachePool $memcache, string $username, #[\SensitiveParameter] string $password): bool {}
