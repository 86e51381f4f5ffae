<?php

/**
 * What memring adds to the API of module memcache, for editors and analysers.
 *
 * Where another extension provides class Memcache, Memring\Memcache extends nothing and
 * has all its methods itself.
 */

namespace Memring {

/** Memcache with memring's own methods; always memring's, whoever provides class Memcache. */
#[\AllowDynamicProperties]
class Memcache extends \Memcache
{
    /** Gives a stored value a new expiry; false when it, or one of several, was not there. */
    public function touch(array|string $key, int $exptime = 0): bool {}

    /** Reads a value as get() does, and gives it a new expiry. */
    public function getAndTouch(array|string $key, int $exptime = 0, mixed &$flags = null, mixed &$cas = null): mixed {}

    /**
     * Has a Redis node watch keys: exec() does nothing when one of them changes before. All keys of a transaction are
     * on one node; false, with a warning that names both, when they are not.
     */
    public function watch(array|string $key): bool {}

    /** From now on set(), delete(), increment() and their like wait for exec(), and return true. */
    public function multi(): bool {}

    /**
     * Carries out what waits since multi(), with nobody in between.
     *
     * @return list<bool|int>|false|null the result of each key, in order; false when nothing was done, since a watched
     *                                   key changed or, with a notice, the node did not do it; null, with a notice,
     *                                   when it may be done or not: the node was told to, and its answer was lost
     */
    public function exec(): array|bool|null {}

    /** Forgets what is watched, and what waits since multi(). */
    public function discard(): bool {}

    /**
     * Explains where `$op` ("get", "set" or "delete") on `$key` would go with this object, as Memring\route() does.
     *
     * @return array<string, mixed>
     * @throws \ValueError for another operation
     */
    public function route(string $op, string $key): array {}
}

/**
 * What this process and its host know: version, shared region, counters, pools and their nodes.
 *
 * With the name of a pool (NAME, pool:NAME or a list as in session.save_path) that pool alone, and what its nodes say of
 * themselves at this moment. It holds no secrets, and json_encode() takes all of it; names are added, never changed.
 *
 * @return array<string, mixed>
 * @throws \ValueError when there is no such pool
 */
function status(#[\SensitiveParameter] ?string $pool = null): array {}

/**
 * Explains where `$op` ("get", "set", "delete" or "session") on `$key` would go, and why. Nothing is sent.
 *
 * @return array<string, mixed>
 * @throws \ValueError when there is no such pool or operation
 */
function route(#[\SensitiveParameter] string $pool, string $op, string $key): array {}

}

namespace {

/**
 * Memring\status() under a name without a namespace.
 *
 * @return array<string, mixed>
 */
function memring_status(#[\SensitiveParameter] ?string $pool = null): array {}

/**
 * Memring\route() under a name without a namespace.
 *
 * @return array<string, mixed>
 */
function memring_route(#[\SensitiveParameter] string $pool, string $op, string $key): array {}

}
