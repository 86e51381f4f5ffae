//! zend_ini_entry: settings registered from the table in `ini`, checked and cached on every change.

use super::string::Text;
use super::sys;
use crate::ini::{Scope, Setting, change};
use ext_php_rs::ffi::{
    PHP_INI_ALL, PHP_INI_SYSTEM, ext_php_rs_executor_globals, zend_hash_str_find, zend_ini_entry,
    zend_ini_entry_def, zend_module_entry, zend_register_ini_entries, zend_string,
};
use std::ffi::{CStr, c_int, c_void};
use std::panic::catch_unwind;
use std::time::Duration;

/// Registers `settings` for the module `number`.
pub(super) fn register(settings: &'static [Setting], number: c_int) {
    // SAFETY: all-zero rows are valid; the last one ends the table. Zend copies names and defaults, and keeps
    // mh_arg1, which points into a static table.
    unsafe {
        let mut rows: Vec<zend_ini_entry_def> = Vec::with_capacity(settings.len() + 1);
        for setting in settings {
            let mut row: zend_ini_entry_def = std::mem::zeroed();
            row.name = setting.name.as_ptr();
            row.name_length = u16::try_from(setting.name.to_bytes().len()).unwrap_or(0);
            if let Some(value) = setting.default {
                row.value = value.as_ptr();
                row.value_length = u32::try_from(value.to_bytes().len()).unwrap_or(0);
            }
            row.on_modify = Some(on_modify);
            row.mh_arg1 = std::ptr::from_ref(setting).cast_mut().cast();
            row.modifiable = match setting.scope {
                Scope::All => PHP_INI_ALL as u8,
                Scope::System => PHP_INI_SYSTEM as u8,
            };
            if setting.is_switch() {
                row.displayer = Some(sys::zend_ini_boolean_displayer_cb);
            }
            rows.push(row);
        }
        rows.push(std::mem::zeroed());
        zend_register_ini_entries(rows.as_ptr(), number);
    }
}

/// Takes the settings of the module `number` away.
pub(super) fn unregister(number: c_int) {
    // SAFETY: called from MSHUTDOWN.
    unsafe { sys::zend_unregister_ini_entries(number) }
}

/// Prints the settings of `module` into phpinfo.
pub(super) fn display(module: *mut zend_module_entry) {
    // SAFETY: Zend passed this entry to the info function we are in.
    unsafe { sys::display_ini_entries(module) }
}

/// The value of any setting of PHP at this moment, empty where there is none of that name.
pub(crate) fn text(name: &CStr) -> Vec<u8> {
    // SAFETY: the table of settings exists while PHP runs; its values are entries, whose value is null or a live
    // string, copied before anything else happens.
    unsafe {
        let table = (*ext_php_rs_executor_globals()).ini_directives;
        if table.is_null() {
            return Vec::new();
        }
        let found = zend_hash_str_find(table, name.as_ptr(), name.to_bytes().len());
        if found.is_null() {
            return Vec::new();
        }
        let entry = (*found).value.ptr.cast::<zend_ini_entry>();
        let value = (*entry).value;
        if value.is_null() {
            Vec::new()
        } else {
            Text::new(value).bytes().to_vec()
        }
    }
}

/// `max_execution_time` as it is now, set_time_limit() included; 0 for none.
pub(crate) fn time_limit() -> Duration {
    // SAFETY: the executor globals of this thread always exist inside a module.
    let seconds = unsafe { (*ext_php_rs_executor_globals()).timeout_seconds };
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// Zend's hook before a setting changes: FAILURE keeps the old value.
unsafe extern "C" fn on_modify(
    _entry: *mut zend_ini_entry,
    new: *mut zend_string,
    setting: *mut c_void,
    _unused: *mut c_void,
    _unused_too: *mut c_void,
    _stage: c_int,
) -> c_int {
    // SAFETY: `setting` is the static row registered above; the new value is null or a live string.
    let (setting, value) = unsafe {
        let Some(setting) = setting.cast::<Setting>().as_ref() else {
            return ext_php_rs::ffi::ZEND_RESULT_CODE_FAILURE as c_int;
        };
        (setting, (!new.is_null()).then(|| Text::new(new).bytes()))
    };
    let kept = catch_unwind(|| change(setting, value)).unwrap_or(false);
    if kept {
        ext_php_rs::ffi::ZEND_RESULT_CODE_SUCCESS as c_int
    } else {
        ext_php_rs::ffi::ZEND_RESULT_CODE_FAILURE as c_int
    }
}
