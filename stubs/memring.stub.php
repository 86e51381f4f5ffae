<?php

/**
 * What memring adds to the API of module memcache, for editors and analysers.
 *
 * Where another extension provides class Memcache, Memring\Memcache extends nothing and
 * has all its methods itself.
 */

namespace Memring;

/** Memcache with memring's own methods; always memring's, whoever provides class Memcache. */
#[\AllowDynamicProperties]
class Memcache extends \Memcache
{
    /** Gives a stored value a new expiry; false when it, or one of several, was not there. */
    public function touch(array|string $key, int $exptime = 0): bool {}

    /** Reads a value as get() does, and gives it a new expiry. */
    public function getAndTouch(array|string $key, int $exptime = 0, mixed &$flags = null, mixed &$cas = null): mixed {}
}
