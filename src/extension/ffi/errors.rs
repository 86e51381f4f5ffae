//! PHP's diagnostics: warnings, notices, and whether an exception is under way.

use super::string::OwnedText;
use super::sys;
use ext_php_rs::ffi::{
    E_NOTICE, E_WARNING, ext_php_rs_executor_globals, ext_php_rs_process_globals, php_error_docref,
    zend_ce_type_error, zend_ce_value_error, zend_throw_error,
};
use std::ffi::c_int;

/// An exception is set (or a call was refused): the handler must return at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Thrown;

/// Raises a warning, "function(): text".
pub(crate) fn warning(text: &str) {
    raise(E_WARNING, text.as_bytes());
}

/// Raises a notice, "function(): text".
pub(crate) fn notice(text: &str) {
    raise(E_NOTICE, text.as_bytes());
}

/// The same for a text made for the occasion: it moves into request memory first, because
/// an error handler of userland may end the request without coming back here.
pub(crate) fn warning_of(text: String) {
    let text = moved(text);
    raise(E_WARNING, text.bytes());
}

/// The same as a notice.
pub(crate) fn notice_of(text: String) {
    let text = moved(text);
    raise(E_NOTICE, text.bytes());
}

/// Writes a line to PHP's error log, unless log_errors is off.
pub(crate) fn log_of(text: String) {
    if !crate::ini::read(|values| values.log) {
        return;
    }
    /// syslog.h LOG_NOTICE, for a log that goes there.
    const NOTICE: c_int = 5;
    // Writing a log runs no userland, so the Rust heap may be held.
    let mut line = text.into_bytes();
    line.retain(|byte| *byte != 0);
    line.push(0);
    // SAFETY: the globals exist while PHP runs; the line ends with its only NUL and lives as long as the call,
    // which copies it.
    unsafe {
        if (*ext_php_rs_process_globals()).log_errors {
            sys::php_log_err_with_severity(line.as_ptr().cast(), NOTICE);
        }
    }
}

fn moved(text: String) -> OwnedText {
    OwnedText::new(text.as_bytes())
}

/// Raises a notice while the module starts.
pub(crate) fn startup_notice(text: &str) {
    raise(E_NOTICE, text.as_bytes());
}

/// "Wrong parameter count for Class::method()", as an ArgumentCountError.
pub(crate) fn wrong_count() -> Thrown {
    // SAFETY: called inside a call from PHP, whose frame names the function.
    unsafe { sys::zend_wrong_param_count() };
    Thrown
}

/// A TypeError "Class::method(): text", as zend_fetch_resource words it.
pub(crate) fn type_error(text: &str) -> Thrown {
    // SAFETY: the active function is asked inside a call from PHP; %.*s takes length and pointer of one slice,
    // and the name strings are NUL-terminated and owned by Zend.
    unsafe {
        let mut space = c"".as_ptr();
        let class = sys::get_active_class_name(&raw mut space);
        let function = sys::get_active_function_name();
        zend_throw_error(
            zend_ce_type_error,
            c"%s%s%s(): %.*s".as_ptr(),
            class,
            space,
            function,
            c_int::try_from(text.len()).unwrap_or(0),
            text.as_ptr(),
        );
    }
    Thrown
}

/// A ValueError with this text, for what pecl-memcache has nothing like.
pub(crate) fn value_error(text: String) -> Thrown {
    let text = moved(text);
    // SAFETY: inside a call from PHP; %.*s takes length and pointer of one slice.
    unsafe {
        zend_throw_error(
            zend_ce_value_error,
            c"%.*s".as_ptr(),
            c_int::try_from(text.bytes().len()).unwrap_or(0),
            text.bytes().as_ptr(),
        );
    }
    Thrown
}

/// Nothing, unless an exception is under way: what was just raised may have become one.
///
/// # Errors
/// There is one.
pub(crate) fn check() -> Result<(), Thrown> {
    if pending() { Err(Thrown) } else { Ok(()) }
}

/// True while an exception is under way.
pub(crate) fn pending() -> bool {
    // SAFETY: the executor globals of this thread always exist inside a module.
    unsafe { !(*ext_php_rs_executor_globals()).exception.is_null() }
}

/// Hands `text` to PHP without copying it: the text must only live as long as the call.
fn raise(level: u32, text: &[u8]) {
    let Ok(length) = c_int::try_from(text.len()) else {
        return;
    };
    // SAFETY: %.*s takes length and pointer of one slice and reads no further.
    unsafe {
        php_error_docref(
            std::ptr::null(),
            level as c_int,
            c"%.*s".as_ptr(),
            length,
            text.as_ptr(),
        );
    }
}
