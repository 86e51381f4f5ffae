//! Calling userland.

use super::value::{Fresh, Owned, Value};
use ext_php_rs::ffi::{_call_user_function_impl, zend_is_callable};

/// True when PHP can call `value`.
pub(crate) fn is_callable(value: Value<'_>) -> bool {
    // SAFETY: live zval; no name is asked for.
    unsafe { zend_is_callable(value.raw(), 0, std::ptr::null_mut()) }
}

/// Calls `function` with `arguments`; what it throws stays pending, and what it returns is then undefined.
pub(crate) fn call<const N: usize>(function: &Fresh, arguments: [Fresh; N]) -> Fresh {
    let mut arguments: [Owned; N] = arguments.map(Fresh::into_raw);
    // SAFETY: `function` and the arguments are live for the call; the result is written by Zend, or left
    // undefined, and both can be released.
    let result = unsafe {
        let mut result: Owned = std::mem::zeroed();
        _call_user_function_impl(
            std::ptr::null_mut(),
            function.value().raw(),
            &raw mut *result,
            u32::try_from(N).unwrap_or(0),
            arguments.as_mut_ptr().cast(),
            std::ptr::null_mut(),
        );
        Fresh::adopt(result)
    };
    for argument in arguments {
        // SAFETY: each argument's reference is ours again after the call.
        drop(unsafe { Fresh::adopt(argument) });
    }
    result
}

/// The function `name` of PHP or of an extension, when there is one in this request.
pub(crate) fn function(name: &str) -> Option<Fresh> {
    let function = Fresh::text(name.as_bytes());
    is_callable(function.value()).then_some(function)
}
