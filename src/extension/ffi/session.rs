//! ps_module: our two session handlers, as PHP's session module calls them.
//!
//! The handler table is bound from ext/session's own header, so that a PHP with another
//! shape of it does not compile. The session module may be a shared library of its own;
//! its functions are looked up when we start, never linked. Its globals (php_ps_globals)
//! differ between PHP versions and are not touched.
//!
//! Each callback works on the [`Keeper`] behind `mod_data` first, and speaks to Zend
//! (new string, warning) when no reference to it is left.

use super::errors;
use super::sys;
use super::value::{Kind, Value};
use crate::session::{Handler, Keeper, is_news};
use ext_php_rs::ffi::{
    ZEND_RESULT_CODE_FAILURE as FAILURE, ZEND_RESULT_CODE_SUCCESS as SUCCESS,
    ext_php_rs_executor_globals, ext_php_rs_zend_string_init, zend_execute_data,
    zend_hash_str_find, zend_result, zend_string, zval,
};
use memring_pool::error::Error;
use memring_pool::shared::generation;
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

type ModData = *mut *mut c_void;

/// A handler table Zend keeps a pointer to.
struct Table(sys::ps_module);
// SAFETY: never written to; its pointers are functions and a static string.
unsafe impl Sync for Table {}

const fn table(
    name: &'static CStr,
    open: unsafe extern "C" fn(ModData, *const c_char, *const c_char) -> zend_result,
) -> Table {
    Table(sys::ps_module {
        s_name: name.as_ptr(),
        s_open: Some(open),
        s_close: Some(close),
        s_read: Some(read),
        s_write: Some(write),
        s_destroy: Some(destroy),
        s_gc: Some(gc),
        s_create_sid: Some(create_sid),
        s_validate_sid: Some(validate_sid),
        s_update_timestamp: Some(update_timestamp),
    })
}

thread_local! {
    /// The keeper of this thread, from open to close.
    static OPEN: Cell<Option<*mut Keeper>> = const { Cell::new(None) };
    /// The process that opened it (`shared::generation`).
    static OPENER: Cell<u64> = const { Cell::new(0) };
}

static MEMRING: Table = table(c"memring", open_memring);
static MEMCACHE: Table = table(c"memcache", open_memcache);

/// Registers `session.save_handler = memring`, and `memcache` when `both`; false when the
/// session module refused. Without a session module there is nothing to do.
pub(crate) fn register(both: bool) -> bool {
    // SAFETY: a look-up by name; the function's type is that of ext/session's header.
    let register = unsafe {
        let found = libc::dlsym(libc::RTLD_DEFAULT, c"php_session_register_module".as_ptr());
        if found.is_null() {
            return true;
        }
        std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*const sys::ps_module) -> zend_result>(
            found,
        )
    };
    // SAFETY: both tables are static.
    unsafe {
        register(&raw const MEMRING.0) == SUCCESS
            && (!both || register(&raw const MEMCACHE.0) == SUCCESS)
    }
}

/// The keeper behind `mod_data`.
///
/// # Safety
/// `data` is what PHP passes to a callback; the reference must end before Zend is called.
unsafe fn keeper<'a>(data: ModData) -> Option<&'a mut Keeper> {
    // SAFETY: only a pointer of our own making is taken for a keeper: SessionHandler::create_sid() of userland
    // brings us whatever another handler has in its place. Ours lives from open to close.
    unsafe {
        let open = (*data).cast::<Keeper>();
        if OPEN.get() == Some(open) {
            open.as_mut()
        } else {
            None
        }
    }
}

/// Was what is open opened by this process? A forked child has it, too, and the turn is its parent's.
fn is_ours() -> bool {
    OPENER.get() == generation()
}

/// The bytes of a string PHP passed.
///
/// # Safety
/// `text` is a live zend_string that outlives the call.
unsafe fn bytes<'a>(text: *const zend_string) -> &'a [u8] {
    // SAFETY: `val` holds `len` bytes.
    unsafe { std::slice::from_raw_parts((&raw const (*text).val).cast(), (*text).len) }
}

/// Runs one callback; a panic is a failure that says so.
fn guard(work: impl FnOnce() -> zend_result) -> zend_result {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        errors::warning(
            "memring stopped at an internal error; the session was left alone. Please report it",
        );
        FAILURE
    })
}

/// Says what went wrong, as a warning, and fails.
fn refuse(error: Error) -> zend_result {
    let text = format!("Session: {error}");
    drop(error);
    errors::warning_of(text);
    FAILURE
}

/// Turns the outcome of keeper work into PHP's.
fn settle(outcome: Result<(), Error>) -> zend_result {
    match outcome {
        Ok(()) => SUCCESS,
        Err(error) => refuse(error),
    }
}

unsafe extern "C" fn open_memring(
    data: ModData,
    path: *const c_char,
    _name: *const c_char,
) -> zend_result {
    // SAFETY: as PHP calls it.
    unsafe { open(data, path, Handler::Memring) }
}

unsafe extern "C" fn open_memcache(
    data: ModData,
    path: *const c_char,
    _name: *const c_char,
) -> zend_result {
    // SAFETY: as PHP calls it.
    unsafe { open(data, path, Handler::Memcache) }
}

unsafe fn open(data: ModData, path: *const c_char, handler: Handler) -> zend_result {
    guard(|| {
        // SAFETY: PHP passes a NUL-terminated path, or null.
        let path = unsafe {
            if path.is_null() {
                c""
            } else {
                CStr::from_ptr(path)
            }
        };
        let prefix = crate::session::prefix();
        // session_reset() opens again without a close. What is open stays so, with its turn: a second keeper
        // would wait for the first. A forked child has no turn, and waits for its parent's.
        // SAFETY: PHP passes a place; only a pointer of our own making is taken for a keeper, and the reference
        // ends here.
        let same = is_ours()
            && unsafe {
                OPEN.get().is_some_and(|open| {
                    open == (*data).cast() && (*open).serves(handler, path.to_bytes(), &prefix)
                })
            };
        if same {
            return SUCCESS;
        }
        forgotten();
        match Keeper::open(handler, path.to_bytes(), prefix) {
            Ok((keeper, notices)) => {
                let keeper = Box::into_raw(Box::new(keeper));
                OPEN.set(Some(keeper));
                OPENER.set(generation());
                // SAFETY: mod_data is ours from here until close.
                unsafe { *data = keeper.cast() };
                // To the log and not to the page: a list that was read for years must not begin
                // to print into every page.
                for notice in notices {
                    if is_news(&notice) {
                        errors::log_of(format!("memring: {notice}"));
                    }
                }
                SUCCESS
            }
            Err(error) => {
                // SAFETY: as above; null means "not open".
                unsafe { *data = std::ptr::null_mut() };
                refuse(error)
            }
        }
    })
}

/// Gives back the turn a class of userland left, by a close() that does not call its parent's.
///
/// Also called after the request, when Zend has no memory any more: nothing is logged here.
pub(super) fn forgotten() {
    if let Some(left) = OPEN.take() {
        // SAFETY: made by `open` and not closed since; PHP no longer has it, for it opens another one or its
        // request is over.
        let mut left = unsafe { Box::from_raw(left) };
        if is_ours() {
            left.release();
        }
    }
}

unsafe extern "C" fn close(data: ModData) -> zend_result {
    guard(|| {
        // SAFETY: the box that `open` made, if mod_data holds that; it is taken out before it is dropped.
        // Writing the log runs no userland.
        unsafe {
            let open = (*data).cast::<Keeper>();
            *data = std::ptr::null_mut();
            if OPEN.get() == Some(open) {
                OPEN.set(None);
                let mut keeper = Box::from_raw(open);
                if is_ours() {
                    keeper.release();
                }
                for line in keeper.take_log() {
                    errors::log_of(format!("memring: {line}"));
                }
            }
        }
        SUCCESS
    })
}

unsafe extern "C" fn read(
    data: ModData,
    id: *mut zend_string,
    value: *mut *mut zend_string,
    life: i64,
) -> zend_result {
    guard(|| {
        let lock = !reads_and_closes();
        // SAFETY: as PHP calls it; the keeper's reference ends with this block, its buffer stays where it is
        // until the next callback.
        let found = unsafe {
            let Some(keeper) = keeper(data) else {
                return FAILURE;
            };
            keeper
                .read(bytes(id), lock, life)
                .map(|data| (data.as_ptr(), data.len()))
        };
        match found {
            Ok((at, len)) => {
                // SAFETY: pointer and length of the keeper's buffer; PHP owns the new string. Where its memory is
                // used up, the call does not come back, and PHP would store the session as it has it: empty.
                unsafe {
                    *value = ext_php_rs_zend_string_init(at.cast(), len, false);
                    if let Some(keeper) = keeper(data) {
                        keeper.delivered();
                    }
                }
                SUCCESS
            }
            Err(error) => refuse(error),
        }
    })
}

unsafe extern "C" fn write(
    data: ModData,
    id: *mut zend_string,
    value: *mut zend_string,
    life: i64,
) -> zend_result {
    // SAFETY: as PHP calls it.
    unsafe { keep(data, |keeper| keeper.write(bytes(id), bytes(value), life)) }
}

unsafe extern "C" fn update_timestamp(
    data: ModData,
    id: *mut zend_string,
    value: *mut zend_string,
    life: i64,
) -> zend_result {
    // SAFETY: as PHP calls it.
    unsafe { keep(data, |keeper| keeper.touch(bytes(id), bytes(value), life)) }
}

/// Lets `work` keep what PHP has of a session, if that is its value.
///
/// # Safety
/// `data` is what PHP passes to a callback.
unsafe fn keep(data: ModData, work: impl FnOnce(&mut Keeper) -> Result<(), Error>) -> zend_result {
    if !is_ours() {
        errors::warning(
            "Session: a forked process does not store the session that its parent has open. Call session_write_close() before pcntl_fork()",
        );
        return FAILURE;
    }
    // SAFETY: the caller's promise; the keeper's reference ends before a warning is given.
    guard(|| match unsafe { keeper(data) } {
        Some(keeper) => match keeper.has_value() {
            true => settle(work(keeper)),
            false => FAILURE,
        },
        None => FAILURE,
    })
}

unsafe extern "C" fn destroy(data: ModData, id: *mut zend_string) -> zend_result {
    // SAFETY: as PHP calls it.
    guard(|| unsafe {
        match keeper(data) {
            Some(keeper) => settle(keeper.destroy(bytes(id))),
            None => FAILURE,
        }
    })
}

/// Nodes expire items themselves; there is nothing to collect.
unsafe extern "C" fn gc(_data: ModData, _life: i64, collected: *mut i64) -> i64 {
    // SAFETY: PHP passes a place for the count.
    unsafe { *collected = 0 };
    0
}

unsafe extern "C" fn create_sid(data: ModData) -> *mut zend_string {
    // SAFETY: a look-up by name in the session module that calls us; the type is its header's.
    let create = unsafe {
        let found = libc::dlsym(libc::RTLD_DEFAULT, c"php_session_create_id".as_ptr());
        if found.is_null() {
            return std::ptr::null_mut();
        }
        std::mem::transmute::<*mut c_void, unsafe extern "C" fn(ModData) -> *mut zend_string>(found)
    };
    // SAFETY: as PHP calls it; the new id is a live string, and the keeper's reference ends here.
    unsafe {
        let id = create(data);
        if !id.is_null() && !data.is_null() {
            let _ = catch_unwind(AssertUnwindSafe(|| {
                if let Some(keeper) = keeper(data) {
                    keeper.made(bytes(id));
                }
            }));
        }
        id
    }
}

/// SUCCESS means "known". PHP makes a new session of an unknown id without a word, so
/// anything but proven absence is "known", and the read that follows will fail.
unsafe extern "C" fn validate_sid(data: ModData, id: *mut zend_string) -> zend_result {
    // SAFETY: as PHP calls it.
    guard(|| unsafe {
        let lock = !reads_and_closes();
        match keeper(data).map(|keeper| keeper.exists(bytes(id), lock)) {
            Some(true) => SUCCESS,
            _ => FAILURE,
        }
    })
}

/// Did the script say `session_start(['read_and_close' => true])`?
///
/// The session module does not tell its handler, so the frames of the running calls are
/// walked up to the internal session_start(). None found (auto_start) means no.
fn reads_and_closes() -> bool {
    const OPTION: &CStr = c"read_and_close";
    // SAFETY: inside a request the chain of frames is valid up to null; a frame's function is live, and its
    // arguments stand behind the frame, as many as it counts.
    unsafe {
        let mut frame: *mut zend_execute_data =
            (*ext_php_rs_executor_globals()).current_execute_data;
        while !frame.is_null() {
            if is_session_start(frame) {
                if (*frame).This.u2.num_args == 0 {
                    return false;
                }
                let mut options = frame.cast::<zval>().add(sys::MEMRING_FRAME_SLOTS as usize);
                if (*options).u1.v.type_ == ext_php_rs::ffi::IS_REFERENCE as u8 {
                    options = &raw mut (*(*options).value.ref_).val;
                }
                if (*options).u1.v.type_ != ext_php_rs::ffi::IS_ARRAY as u8 {
                    return false;
                }
                let found = zend_hash_str_find(
                    (*options).value.arr,
                    OPTION.as_ptr(),
                    OPTION.to_bytes().len(),
                );
                return !found.is_null() && is_above_zero(found);
            }
            frame = (*frame).prev_execute_data;
        }
        false
    }
}

/// Is an option's value a number above 0, as session_start() takes it (session.c)? What may be
/// taken for either is none: a turn that is taken and not needed goes back at once.
///
/// # Safety
/// `value` is live.
unsafe fn is_above_zero(value: *const zval) -> bool {
    // SAFETY: the caller's promise.
    let value = unsafe { Value::new(value.cast_mut()) }.deref();
    match value.kind() {
        Kind::Bool(set) => set,
        Kind::Long(number) => number > 0,
        Kind::Text(text) => {
            let text = std::str::from_utf8(text.bytes()).ok();
            text.and_then(|text| text.trim().parse::<i64>().ok())
                .is_some_and(|number| number > 0)
        }
        _ => false,
    }
}

/// # Safety
/// `frame` is a live frame of the running request.
unsafe fn is_session_start(frame: *const zend_execute_data) -> bool {
    /// zend_compile.h ZEND_INTERNAL_FUNCTION.
    const INTERNAL: c_int = 1;
    // SAFETY: the caller's promise; `common` is the part all kinds of functions share.
    unsafe {
        let function = (*frame).func;
        if function.is_null() || c_int::from((*function).type_) != INTERNAL {
            return false;
        }
        let common = &raw const (*function).common;
        let name = (*common).function_name;
        (*common).scope.is_null() && !name.is_null() && bytes(name) == b"session_start"
    }
}
