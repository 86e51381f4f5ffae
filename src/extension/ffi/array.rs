//! HashTable: walking one that PHP owns, and building a new one.

use super::string::{OwnedText, Text};
use super::sys;
use super::value::{Fresh, Kind, Owned, Value};
use ext_php_rs::ffi::{
    _zend_new_array, Bucket, HashTable, IS_UNDEF, zend_array, zend_array_destroy, zend_hash_find,
    zend_hash_get_current_data_ex, zend_hash_get_current_key_zval_ex, zend_hash_index_find,
    zend_hash_index_update, zend_hash_move_forward_ex, zend_hash_next_index_insert,
    zend_hash_str_find, zend_hash_update, zval,
};
use std::marker::PhantomData;

/// An array that PHP owns for `'a`.
#[derive(Clone, Copy)]
pub(crate) struct Array<'a> {
    raw: *mut zend_array,
    life: PhantomData<&'a zend_array>,
}

/// The key of an array element.
pub(crate) enum Key {
    /// An integer key.
    Index(i64),
    /// A string key, held by a reference of our own.
    Name(OwnedText),
}

impl<'a> Array<'a> {
    /// A view of `raw`.
    ///
    /// # Safety
    /// `raw` is a live HashTable that is not changed for `'a`.
    pub(super) unsafe fn new(raw: *mut zend_array) -> Array<'a> {
        Array {
            raw,
            life: PhantomData,
        }
    }

    /// The element under the string `name`.
    pub(crate) fn find(self, name: &[u8]) -> Option<Value<'a>> {
        // SAFETY: live table, pointer and length of one slice; the result lives in the table.
        unsafe {
            let found = zend_hash_str_find(self.raw, name.as_ptr().cast(), name.len());
            (!found.is_null()).then(|| Value::new(found))
        }
    }

    /// The elements in order, without their keys.
    pub(crate) fn values(self) -> Values<'a> {
        // SAFETY: the table is live and unchanged for 'a. Its first `nNumUsed` places are initialised and of one size:
        // that of a zval in a list, and of a Bucket, which begins with its zval, in any other table.
        unsafe {
            let table = &*self.raw;
            Values {
                next: table.__bindgen_anon_1.arData.cast(),
                left: table.nNumUsed,
                step: if table.u.flags & sys::MEMRING_HASH_PACKED != 0 {
                    sys::MEMRING_PACKED_STEP as usize
                } else {
                    size_of::<Bucket>()
                },
                life: PhantomData,
            }
        }
    }

    /// The elements in order.
    pub(crate) fn iter(self) -> Iter<'a> {
        Iter { array: self, at: 0 }
    }
}

/// Walks the values of an array where they lie, without a call into Zend for each.
pub(crate) struct Values<'a> {
    next: *mut zval,
    left: u32,
    step: usize,
    life: PhantomData<&'a zend_array>,
}

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    #[inline]
    fn next(&mut self) -> Option<Value<'a>> {
        while self.left > 0 {
            let value = self.next;
            self.left -= 1;
            // SAFETY: `values` found `left` initialised places of `step` bytes from `next` on, which stay so for 'a;
            // the step past the last one ends where the table does. Free places are undefined.
            unsafe {
                self.next = value.byte_add(self.step);
                if u32::from((*value).u1.v.type_) != IS_UNDEF {
                    return Some(Value::new(value));
                }
            }
        }
        None
    }
}

/// Walks an array by a position of its own.
pub(crate) struct Iter<'a> {
    array: Array<'a>,
    at: u32,
}

impl<'a> Iterator for Iter<'a> {
    type Item = (Key, Value<'a>);

    fn next(&mut self) -> Option<(Key, Value<'a>)> {
        // SAFETY: the table is live and unchanged for 'a, so the position stays meaningful; the key zval is
        // written by Zend before it is read, and a string key comes with a reference for us.
        unsafe {
            let value = zend_hash_get_current_data_ex(self.array.raw, &raw mut self.at);
            if value.is_null() {
                return None;
            }
            let mut key: Owned = std::mem::zeroed();
            zend_hash_get_current_key_zval_ex(self.array.raw, &raw mut *key, &raw const self.at);
            let key = Fresh::adopt(key);
            let key = match key.value().kind() {
                Kind::Text(text) => Key::Name(text.keep()),
                Kind::Long(index) => Key::Index(index),
                _ => Key::Index(0),
            };
            zend_hash_move_forward_ex(self.array.raw, &raw mut self.at);
            Some((key, Value::new(value)))
        }
    }
}

/// A new array that we own until it becomes a [`Fresh`].
pub(crate) struct Table {
    raw: *mut HashTable,
}

impl Table {
    /// An empty array with room for `capacity` elements.
    pub(crate) fn new(capacity: usize) -> Table {
        // SAFETY: allocates and initialises; never null (Zend bails out instead).
        let raw = unsafe { _zend_new_array(u32::try_from(capacity).unwrap_or(0)) };
        Table { raw }
    }

    /// Puts `value` under `key`; a decimal key becomes an integer one, as `$a["5"]` does in PHP.
    pub(crate) fn put(&mut self, key: Text<'_>, value: Fresh) {
        let mut value = value.into_raw();
        // SAFETY: a valid zval whose reference is ours to give.
        unsafe { self.update(key, &raw mut *value) }
    }

    /// Puts a new string holding `bytes` under `key`. Its zval is written where Zend reads
    /// it: moving it there as one piece right after it was written in two stalls the CPU.
    #[inline(always)] // a get has a hundred
    pub(crate) fn put_text(&mut self, key: Text<'_>, bytes: &[u8]) {
        let text = OwnedText::new(bytes);
        // SAFETY: all zero bytes are a valid zval, which then becomes that of the string, reference included.
        unsafe {
            let mut value: Owned = std::mem::zeroed();
            value.u1.type_info = text.type_info();
            value.value.str_ = text.into_raw();
            self.update(key, &raw mut *value);
        }
    }

    /// Moves `value` into the table under `key`.
    ///
    /// # Safety
    /// `value` is a valid zval whose reference the caller gives up.
    #[inline(always)]
    unsafe fn update(&mut self, key: Text<'_>, value: *mut zval) {
        let mut index: u64 = 0;
        let bytes = key.bytes();
        // SAFETY: the table is ours; `bytes` is NUL-terminated as every zend_string; the zval moves into the table.
        unsafe {
            if looks_numeric(bytes)
                && sys::_zend_handle_numeric_str_ex(
                    bytes.as_ptr().cast(),
                    bytes.len(),
                    &raw mut index,
                )
            {
                zend_hash_index_update(self.raw, index, value);
            } else {
                zend_hash_update(self.raw, key.raw(), value);
            }
        }
    }

    /// Puts `value` under the key `bytes`, with the same rule for decimal keys.
    pub(crate) fn put_bytes(&mut self, key: &[u8], value: Fresh) {
        let key = OwnedText::new(key);
        self.put(key.text(), value);
    }

    /// Lets `fill` write into the array under `key`, which is made when there is none yet.
    pub(crate) fn nest(&mut self, key: &[u8], fill: impl FnOnce(&mut Table)) {
        let name = OwnedText::new(key);
        let mut index: u64 = 0;
        // SAFETY: the table is ours and `name` is NUL-terminated; what is found lives in the table.
        let found = unsafe {
            if looks_numeric(key)
                && sys::_zend_handle_numeric_str_ex(
                    name.bytes().as_ptr().cast(),
                    key.len(),
                    &raw mut index,
                )
            {
                zend_hash_index_find(self.raw, index)
            } else {
                zend_hash_find(self.raw, name.text().raw())
            }
        };
        if found.is_null() {
            let mut child = Table::new(0);
            fill(&mut child);
            self.put(name.text(), Fresh::array(child));
            return;
        }
        // SAFETY: every value in this table was put there by us, so an array in it has one owner: this table.
        if let Kind::Array(child) = unsafe { Value::new(found) }.kind() {
            let mut child = std::mem::ManuallyDrop::new(Table { raw: child.raw });
            fill(&mut child);
        }
    }

    /// Appends `value` under the next integer key.
    pub(crate) fn push(&mut self, value: Fresh) {
        let mut value = value.into_raw();
        // SAFETY: the table is ours and the zval moves into it; a full table refuses, and then the value
        // would be lost, which takes 2^63 elements.
        unsafe { zend_hash_next_index_insert(self.raw, &raw mut *value) };
    }

    /// The table with its reference, which the caller now owns.
    pub(super) fn into_raw(self) -> *mut HashTable {
        let raw = self.raw;
        std::mem::forget(self);
        raw
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // SAFETY: ours alone, its only reference was never given away.
        unsafe { zend_array_destroy(self.raw) }
    }
}

/// Begins a key with a digit, or a minus and a digit? Zend's own function looks no further into
/// others, and takes that for looked at (zend_hash.h, _zend_handle_numeric_str).
#[inline]
fn looks_numeric(key: &[u8]) -> bool {
    match key {
        [b'0'..=b'9', ..] => true,
        [b'-', next, ..] => next.is_ascii_digit(),
        _ => false,
    }
}
