/* What the extension uses of Zend beyond the bindings that ext-php-rs makes.
 *
 * bindgen reads this file at build time (build.rs). Macros it cannot evaluate,
 * and bits that only some PHP versions have, are turned into constants here, so
 * that the Rust side never repeats a number of Zend's. */
#include "php.h"
#include "php_ini.h"
#include "zend_attributes.h"
#include "zend_exceptions.h"
#include "zend_smart_str.h"
#include "ext/session/php_session.h"
#include "ext/standard/info.h"
#include "ext/standard/php_var.h"

static const uint32_t MEMRING_ANY = MAY_BE_ANY;
static const uint32_t MEMRING_STRING = MAY_BE_STRING;
static const uint32_t MEMRING_LONG = MAY_BE_LONG;
static const uint32_t MEMRING_DOUBLE = MAY_BE_DOUBLE;
static const uint32_t MEMRING_BOOL = MAY_BE_BOOL;
static const uint32_t MEMRING_ARRAY = MAY_BE_ARRAY;
static const uint32_t MEMRING_NULL = MAY_BE_NULL;
static const uint32_t MEMRING_CALLABLE = MAY_BE_CALLABLE;
static const uint32_t MEMRING_BY_REF = 1u << _ZEND_SEND_MODE_SHIFT;
static const uint32_t MEMRING_TENTATIVE = _ZEND_IS_TENTATIVE_BIT;
/* Since PHP 8.3 a class name in an internal signature is a C string marked by a bit of its own. */
#ifdef _ZEND_TYPE_LITERAL_NAME_BIT
static const uint32_t MEMRING_CLASS = _ZEND_TYPE_LITERAL_NAME_BIT;
#else
static const uint32_t MEMRING_CLASS = _ZEND_TYPE_NAME_BIT;
#endif
/* Dynamic properties need a flag since PHP 8.2. */
#ifdef ZEND_ACC_ALLOW_DYNAMIC_PROPERTIES
static const uint32_t MEMRING_DYNAMIC = ZEND_ACC_ALLOW_DYNAMIC_PROPERTIES;
#else
static const uint32_t MEMRING_DYNAMIC = 0;
#endif
static const uint32_t MEMRING_ATTRIBUTE_PERSISTENT = ZEND_ATTRIBUTE_PERSISTENT;
static const uint32_t MEMRING_TYPE_STRING = IS_STRING_EX;
static const uint32_t MEMRING_TYPE_ARRAY = IS_ARRAY_EX;
static const uint32_t MEMRING_TYPE_RESOURCE = IS_RESOURCE_EX;
static const uint32_t MEMRING_FRAME_SLOTS = ZEND_CALL_FRAME_SLOT;
/* Where the next value of an array lies. Since PHP 8.2 a list has values only, without room for keys. */
static const uint32_t MEMRING_HASH_PACKED = HASH_FLAG_PACKED;
#if PHP_VERSION_ID >= 80200
static const uint32_t MEMRING_PACKED_STEP = sizeof(zval);
#else
static const uint32_t MEMRING_PACKED_STEP = sizeof(Bucket);
#endif
