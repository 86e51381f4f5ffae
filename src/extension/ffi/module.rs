//! zend_module_entry: the module `memring`, and the second module `memcache` it brings
//! along where the original is absent.
//!
//! ```text
//! PHP ─ get_module ─► memring ─ MINIT ─► is "memcache" in the registry?
//!                                          no  ─► register the module memcache: its own
//!                                                 classes, functions, constants, settings
//!                                          yes ─► leave it alone, say so once
//! ```
//!
//! A module of its own, so that Reflection, extension_loaded('memcache'),
//! phpversion('memcache') and ini_get_all('memcache') see what they saw before.

use super::class;
use super::errors;
use super::object::Class;
use super::resource;
use super::scratch;
use super::sys;
use crate::info;
use crate::ini;
use crate::registry;
use crate::signature;
use ext_php_rs::ffi::{
    CONST_CS, CONST_PERSISTENT, MODULE_TEMPORARY, USING_ZTS, ZEND_DEBUG, ZEND_MODULE_API_NO,
    ext_php_rs_compiler_globals, ext_php_rs_executor_globals, ext_php_rs_php_build_id,
    zend_function_entry, zend_hash_str_find, zend_module_entry, zend_register_long_constant,
    zend_result,
};
use std::ffi::{CStr, c_int};
use std::panic::catch_unwind;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicU8, Ordering};

/// The version of memring: the workspace's.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The same, as Zend wants it.
const VERSION_C: &CStr =
    match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(text) => text,
        Err(_) => c"",
    };
/// What phpversion('memcache') says: above every version that callers test for.
const MEMCACHE_VERSION: &CStr = c"8.3.0";

const SUCCESS: zend_result = ext_php_rs::ffi::ZEND_RESULT_CODE_SUCCESS;
const FAILURE: zend_result = ext_php_rs::ffi::ZEND_RESULT_CODE_FAILURE;

/// Who provides class Memcache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Provider {
    /// We do, through the second module.
    Memring,
    /// Another extension named memcache.
    Other,
}

static PROVIDER: AtomicU8 = AtomicU8::new(0);

/// Who provides class Memcache in this process.
pub(crate) fn provider() -> Provider {
    if PROVIDER.load(Ordering::Acquire) == 1 {
        Provider::Other
    } else {
        Provider::Memring
    }
}

/// The module `memring` as PHP's registry holds it, while the modules start.
static SELF: AtomicPtr<zend_module_entry> = AtomicPtr::new(std::ptr::null_mut());

/// True when this PHP has sessions.
pub(crate) fn has_sessions() -> bool {
    // SAFETY: a look-up by name in what is loaded; the pointer is only compared with null.
    unsafe { !libc::dlsym(libc::RTLD_DEFAULT, c"php_session_register_module".as_ptr()).is_null() }
}

/// A module entry Zend may write to, made once.
struct Entry(*mut zend_module_entry);
// SAFETY: Zend alone writes to it, while modules are loaded, in one thread.
unsafe impl Send for Entry {}
// SAFETY: as above.
unsafe impl Sync for Entry {}

/// Where PHP enters: the entry of module `memring`.
// SAFETY: no other symbol of this library has this name, and PHP calls it once per load.
#[unsafe(no_mangle)]
extern "C" fn get_module() -> *mut zend_module_entry {
    memring()
}

/// The entry of the module `memring`.
fn memring() -> *mut zend_module_entry {
    static MEMRING: OnceLock<Entry> = OnceLock::new();
    MEMRING
        .get_or_init(|| {
            let mut entry = blank(
                c"memring",
                VERSION_C,
                class::functions(c"memring", &signature::OWN_FUNCTIONS),
            );
            entry.module_startup_func = Some(start);
            entry.module_shutdown_func = Some(stop);
            entry.info_func = Some(describe);
            entry.request_startup_func = Some(before_request);
            entry.post_deactivate_func = Some(after_request);
            Entry(Box::into_raw(Box::new(entry)))
        })
        .0
}

/// The entry of the second module.
fn memcache() -> *mut zend_module_entry {
    static MEMCACHE: OnceLock<Entry> = OnceLock::new();
    MEMCACHE
        .get_or_init(|| {
            let mut entry = blank(
                c"memcache",
                MEMCACHE_VERSION,
                class::functions(c"memcache", &signature::FUNCTIONS),
            );
            entry.module_startup_func = Some(start_memcache);
            entry.module_shutdown_func = Some(stop);
            entry.info_func = Some(describe_memcache);
            Entry(Box::into_raw(Box::new(entry)))
        })
        .0
}

/// STANDARD_MODULE_HEADER and STANDARD_MODULE_PROPERTIES.
fn blank(
    name: &'static CStr,
    version: &'static CStr,
    functions: *const zend_function_entry,
) -> zend_module_entry {
    // SAFETY: all zero bytes are a valid entry (no functions, no globals); the build id is a static string.
    let mut entry: zend_module_entry = unsafe { std::mem::zeroed() };
    entry.size = u16::try_from(size_of::<zend_module_entry>()).unwrap_or(0);
    entry.zend_api = ZEND_MODULE_API_NO;
    entry.zend_debug = u8::from(ZEND_DEBUG != 0);
    entry.zts = u8::from(USING_ZTS != 0);
    entry.name = name.as_ptr();
    entry.version = version.as_ptr();
    entry.functions = functions;
    // SAFETY: a static string of the PHP we were compiled for.
    entry.build_id = unsafe { ext_php_rs_php_build_id() };
    entry
}

/// MINIT of memring.
unsafe extern "C" fn start(kind: c_int, number: c_int) -> zend_result {
    catch_unwind(|| {
        if kind == MODULE_TEMPORARY as c_int {
            // A module of dl() is torn down with its request; the second module, the settings and the session
            // handlers would stay behind and point into what is gone.
            errors::warning(
                "memring cannot be loaded while a script runs. Write extension=memring into php.ini",
            );
            return FAILURE;
        }
        start_memring(number)
    })
    .unwrap_or(FAILURE)
}

fn start_memring(number: c_int) -> zend_result {
    // A panic is reported through PHP by its door; the default hook would print to stderr, which in a web server
    // is somebody else's stream.
    std::panic::set_hook(Box::new(|_| {}));
    resource::register(number);
    memring_pool::shared::prepare();
    super::ini::register(ini::MEMRING, number);
    crate::registry::read_ahead();
    // SAFETY: inside MINIT, and the functions of a module are registered before its MINIT.
    unsafe {
        let functions = (*ext_php_rs_compiler_globals()).function_table;
        class::conceal(functions, &signature::OWN_FUNCTIONS);
    }
    if let Some(other) = loaded(c"memcache") {
        PROVIDER.store(1, Ordering::Release);
        errors::startup_notice(&format!(
            "memring: the memcache extension {other} is loaded too and keeps class Memcache, the memcache_* \
             functions and its session handler; memring provides Memring\\Memcache only. Disable the memcache \
             extension to let memring take its place"
        ));
        let alone = class::register(
            Class::Pool,
            Class::Memring.name(),
            &signature::alone(),
            None,
        );
        Class::Memcache.remember(Class::Pool.entry());
        Class::Memring.remember(Class::Pool.entry());
        return if alone && super::session::register(false) {
            SUCCESS
        } else {
            FAILURE
        };
    }
    PROVIDER.store(0, Ordering::Release);
    // SAFETY: inside MINIT. Registering a module leaves EG(current_module) null, and what is registered after that
    // would belong to nobody, so it is put back.
    let registered = unsafe {
        let globals = ext_php_rs_executor_globals();
        let current = (*globals).current_module;
        SELF.store(current, Ordering::Release);
        let entry = sys::zend_register_internal_module(memcache());
        (*globals).current_module = current;
        !entry.is_null()
    };
    if registered && super::session::register(true) {
        SUCCESS
    } else {
        FAILURE
    }
}

/// MINIT of the second module.
unsafe extern "C" fn start_memcache(_kind: c_int, number: c_int) -> zend_result {
    catch_unwind(|| {
        super::ini::register(ini::MEMCACHE, number);
        for (name, value) in signature::constants() {
            // SAFETY: inside MINIT; the name is a static string, which Zend copies.
            unsafe {
                zend_register_long_constant(
                    name.as_ptr(),
                    name.to_bytes().len(),
                    value,
                    (CONST_CS | CONST_PERSISTENT) as c_int,
                    number,
                );
            }
        }
        // SAFETY: inside MINIT, and the functions of a module are registered before its MINIT.
        unsafe {
            let functions = (*ext_php_rs_compiler_globals()).function_table;
            class::conceal(functions, &signature::FUNCTIONS);
        }
        let done = class::register(Class::Pool, Class::Pool.name(), &signature::POOL, None)
            && class::register(
                Class::Memcache,
                Class::Memcache.name(),
                &signature::MEMCACHE,
                Some(Class::Pool),
            )
            && register_memring();
        if done { SUCCESS } else { FAILURE }
    })
    .unwrap_or(FAILURE)
}

/// Registers `Memring\Memcache`, a child of what the second module just brought, as memring's own.
fn register_memring() -> bool {
    // SAFETY: inside MINIT. Zend attributes a class to EG(current_module), which is put back below; the entry
    // stored at the start of memring is the one in the registry, where it stays.
    unsafe {
        let globals = ext_php_rs_executor_globals();
        let current = (*globals).current_module;
        (*globals).current_module = SELF.load(Ordering::Acquire);
        let done = class::register(
            Class::Memring,
            Class::Memring.name(),
            &signature::MEMRING,
            Some(Class::Memcache),
        );
        (*globals).current_module = current;
        done
    }
}

/// MSHUTDOWN of both.
unsafe extern "C" fn stop(_kind: c_int, number: c_int) -> zend_result {
    super::ini::unregister(number);
    let _ = catch_unwind(registry::end);
    SUCCESS
}

/// RINIT.
unsafe extern "C" fn before_request(_kind: c_int, _number: c_int) -> zend_result {
    let _ = catch_unwind(crate::session::note_prefix);
    SUCCESS
}

/// After the request, when Zend memory is gone already: only our own heap is touched.
unsafe extern "C" fn after_request() -> zend_result {
    catch_unwind(|| {
        super::session::forgotten();
        crate::session::forget_prefix();
        registry::after_request();
        scratch::clear();
        SUCCESS
    })
    .unwrap_or(FAILURE)
}

unsafe extern "C" fn describe(module: *mut zend_module_entry) {
    let _ = catch_unwind(|| {
        info::memring();
        super::ini::display(module);
    });
}

unsafe extern "C" fn describe_memcache(module: *mut zend_module_entry) {
    let _ = catch_unwind(|| {
        info::memcache();
        super::ini::display(module);
    });
}

/// The version of the module `name`, when it is loaded.
fn loaded(name: &CStr) -> Option<String> {
    // SAFETY: the registry exists while modules start; its values point to module entries.
    unsafe {
        let registry = &raw const sys::module_registry;
        let found = zend_hash_str_find(registry, name.as_ptr(), name.to_bytes().len());
        if found.is_null() {
            return None;
        }
        let entry = (*found).value.ptr.cast::<zend_module_entry>();
        let version = (*entry).version;
        if version.is_null() {
            return Some(String::new());
        }
        Some(CStr::from_ptr(version).to_string_lossy().into_owned())
    }
}
