//! What serves PHP: the request's `$_SERVER` as PHP's own symbol table has it, and PHP_SAPI.

use super::array::Array;
use super::string::OwnedText;
use super::sys;
use super::value::{Kind, Value};
use ext_php_rs::ffi::{ext_php_rs_executor_globals, zend_hash_str_find};

/// `$_SERVER["SERVER_NAME"]`, when the request has one.
pub(crate) fn server_name() -> Option<OwnedText> {
    const SERVER: &str = "_SERVER";
    // SAFETY: inside a request; asking for the auto global makes PHP fill it. The table lives for the request.
    let server = unsafe {
        sys::zend_is_auto_global_str(SERVER.as_ptr().cast(), SERVER.len());
        let symbols = &raw mut (*ext_php_rs_executor_globals()).symbol_table;
        let found = zend_hash_str_find(symbols, SERVER.as_ptr().cast(), SERVER.len());
        if found.is_null() {
            return None;
        }
        Value::new(found)
    };
    let table: Array<'_> = match server.deref().kind() {
        Kind::Array(array) => array,
        _ => return None,
    };
    match table.find(b"SERVER_NAME")?.deref().kind() {
        Kind::Text(text) => Some(text.keep()),
        _ => None,
    }
}

/// Does a script run by itself, and not for a web server (`PHP_SAPI` is "cli" or "phpdbg")?
pub(crate) fn is_script() -> bool {
    const NAME: &str = "PHP_SAPI";
    // SAFETY: inside a request; the name is read before the call returns. The constant is PHP's own and lasts.
    let found = unsafe { sys::zend_get_constant_str(NAME.as_ptr().cast(), NAME.len()) };
    if found.is_null() {
        return true;
    }
    // SAFETY: it is a value, as was just seen.
    let sapi = unsafe { Value::new(found) };
    match sapi.deref().kind() {
        Kind::Text(text) => matches!(text.bytes(), b"cli" | b"phpdbg"),
        _ => true,
    }
}
