//! zend_class_entry and zend_function_entry: what PHP is told about classes and functions.
//!
//! The tables come from `signature`; here they take the shape Zend reads. They live
//! as long as the process and are made once, however often the module starts.

use super::args::Door;
use super::object::Class;
use super::sys;
use crate::signature::{Entry, Param, Signature};
use ext_php_rs::ffi::{
    HashTable, ZEND_ACC_PUBLIC, zend_class_entry, zend_function_entry, zend_hash_str_find_ptr_lc,
    zend_internal_arg_info, zend_internal_function, zend_string_init_interned, zend_type,
};
use std::ffi::{CStr, c_void};
use std::sync::{Mutex, PoisonError};

/// Which parameters and results PHP may hold against a child class.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Result {
    /// A method: a child may leave the type out (with a deprecation until it does).
    Tentative,
    /// A function: nobody overrides it.
    Real,
}

/// The tables made so far, by the name of their module or class: Zend points into them for
/// as long as it runs, and a module that starts again finds them here.
static TABLES: Mutex<Vec<Kept>> = Mutex::new(Vec::new());

struct Kept {
    owner: &'static CStr,
    rows: *const zend_function_entry,
}

// SAFETY: the rows are never written to after they were made.
unsafe impl Send for Kept {}

/// Builds the function table of a module.
pub(super) fn functions(module: &'static CStr, entries: &[Entry]) -> *const zend_function_entry {
    table(module, entries, 0, Result::Real)
}

/// Registers `class` under `name` with `methods`, as a child of `parent` or as a base class with the property `connection`.
pub(super) fn register(
    class: Class,
    name: &'static CStr,
    methods: &[Entry],
    parent: Option<Class>,
) -> bool {
    // SAFETY: called from MINIT. An all-zero class entry with a name and a function table is what INIT_CLASS_ENTRY
    // makes; Zend copies it. The parent is registered already.
    unsafe {
        let mut entry: zend_class_entry = std::mem::zeroed();
        let Some(intern) = zend_string_init_interned else {
            return false;
        };
        entry.name = intern(name.as_ptr(), name.to_bytes().len(), true);
        entry.info.internal.builtin_functions =
            table(name, methods, ZEND_ACC_PUBLIC, Result::Tentative);
        let parent = parent.map_or(std::ptr::null_mut(), Class::entry);
        let registered = sys::zend_register_internal_class_ex(&raw mut entry, parent);
        if registered.is_null() {
            return false;
        }
        (*registered).ce_flags |= sys::MEMRING_DYNAMIC;
        if parent.is_null() {
            const CONNECTION: &CStr = c"connection";
            let length = CONNECTION.to_bytes().len();
            sys::zend_declare_property_null(
                registered,
                CONNECTION.as_ptr(),
                length,
                ZEND_ACC_PUBLIC as i32,
            );
        }
        conceal(&raw mut (*registered).function_table, methods);
        class.remember(registered);
    }
    true
}

/// Keeps what may hold a password out of backtraces: a node or a list may be written with one, redis://:PASSWORD@HOST. PHP 8.2 and
/// later heed the attribute SensitiveParameter, earlier ones do not know it.
///
/// # Safety
/// Called from MINIT, with a table in which Zend has registered all of `entries`.
pub(super) unsafe fn conceal(table: *mut HashTable, entries: &[Entry]) {
    const NAME: &CStr = c"SensitiveParameter";
    for entry in entries {
        let params = (0..).zip(entry.signature.params);
        for (offset, _) in params.filter(|(_, param)| SECRET.contains(&param.name)) {
            let name = entry.name;
            // SAFETY: the table is Zend's own and holds functions; zend_add_attribute keeps a reference of its own to the
            // interned name, and makes the list of attributes where there is none. Parameters count from 1 there.
            unsafe {
                let found = zend_hash_str_find_ptr_lc(table, name.as_ptr(), name.to_bytes().len());
                let function = found.cast::<zend_internal_function>();
                if let (false, Some(intern)) = (function.is_null(), zend_string_init_interned) {
                    sys::zend_add_attribute(
                        &raw mut (*function).attributes,
                        intern(NAME.as_ptr(), NAME.to_bytes().len(), true),
                        0,
                        sys::MEMRING_ATTRIBUTE_PERSISTENT,
                        offset + 1,
                        0,
                    );
                }
            }
        }
    }
}

/// Parameters of this name may hold a password.
const SECRET: [&CStr; 3] = [c"host", c"password", c"pool"];

/// A function table, ended by an all-zero entry; made once per owner.
fn table(
    owner: &'static CStr,
    entries: &[Entry],
    flags: u32,
    result: Result,
) -> *const zend_function_entry {
    let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(kept) = tables.iter().find(|kept| kept.owner == owner) {
        return kept.rows;
    }
    let mut rows: Vec<zend_function_entry> = Vec::with_capacity(entries.len() + 1);
    for entry in entries {
        // SAFETY: all zero bytes are valid for this plain C struct; what matters is set below.
        let mut row: zend_function_entry = unsafe { std::mem::zeroed() };
        row.fname = entry.name.as_ptr();
        row.handler = Some(handler(entry.door));
        row.arg_info = arguments(entry.signature, result);
        row.num_args = u32::try_from(entry.signature.params.len()).unwrap_or(0);
        row.flags = flags;
        rows.push(row);
    }
    // SAFETY: as above; the zero row ends the table.
    rows.push(unsafe { std::mem::zeroed() });
    let rows = Box::leak(rows.into_boxed_slice()).as_ptr();
    tables.push(Kept { owner, rows });
    rows
}

/// A door as the pointer type Zend keeps.
fn handler(
    door: Door,
) -> unsafe extern "C" fn(*mut ext_php_rs::ffi::zend_execute_data, *mut ext_php_rs::ffi::zval) {
    // SAFETY: same ABI and arguments; Zend passes a live frame and a live result slot, which are the references' promises.
    unsafe { std::mem::transmute(door) }
}

/// The argument table: its first row tells the required count and the result.
fn arguments(signature: &Signature, result: Result) -> *const zend_internal_arg_info {
    let mut rows = Vec::with_capacity(signature.params.len() + 1);
    let tentative = signature.result != 0 && result == Result::Tentative;
    rows.push(zend_internal_arg_info {
        // Zend reads this word as zend_internal_function_info.required_num_args.
        name: std::ptr::without_provenance(signature.required),
        type_: kind(
            signature.result | if tentative { sys::MEMRING_TENTATIVE } else { 0 },
            None,
        ),
        default_value: std::ptr::null(),
    });
    for param in signature.params {
        rows.push(argument(param));
    }
    Box::leak(rows.into_boxed_slice()).as_ptr()
}

fn argument(param: &Param) -> zend_internal_arg_info {
    let reference = if param.by_ref { sys::MEMRING_BY_REF } else { 0 };
    zend_internal_arg_info {
        name: param.name.as_ptr(),
        type_: kind(param.mask | reference, param.class),
        default_value: param.default.map_or(std::ptr::null(), CStr::as_ptr),
    }
}

fn kind(mask: u32, class: Option<&'static CStr>) -> zend_type {
    match class {
        // Zend makes a string of its own from it, in a copy of the table, when it registers the function.
        Some(name) => zend_type {
            ptr: name.as_ptr().cast_mut().cast::<c_void>(),
            type_mask: mask | sys::MEMRING_CLASS,
        },
        None => zend_type {
            ptr: std::ptr::null_mut(),
            type_mask: mask,
        },
    }
}

/// The type bits of a signature, in Zend's numbers.
pub(crate) mod mask {
    use super::sys;

    /// Any type, and said so (`mixed`).
    pub(crate) const MIXED: u32 = sys::MEMRING_ANY;
    /// string
    pub(crate) const STRING: u32 = sys::MEMRING_STRING;
    /// int
    pub(crate) const INT: u32 = sys::MEMRING_LONG;
    /// float
    pub(crate) const FLOAT: u32 = sys::MEMRING_DOUBLE;
    /// bool
    pub(crate) const BOOL: u32 = sys::MEMRING_BOOL;
    /// array
    pub(crate) const ARRAY: u32 = sys::MEMRING_ARRAY;
    /// null
    pub(crate) const NULL: u32 = sys::MEMRING_NULL;
    /// callable
    pub(crate) const CALLABLE: u32 = sys::MEMRING_CALLABLE;
}
