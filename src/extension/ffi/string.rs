//! zend_string: borrowed from PHP, or owned with a reference of our own.

use super::value::{Kind, Value};
use ext_php_rs::ffi::{
    IS_STRING, ext_php_rs_zend_string_init, ext_php_rs_zend_string_release, zend_string,
};
use std::marker::PhantomData;

/// A string that PHP owns for as long as `'a`.
#[derive(Clone, Copy)]
pub(crate) struct Text<'a> {
    raw: *mut zend_string,
    life: PhantomData<&'a zend_string>,
}

impl<'a> Text<'a> {
    /// A borrowed view of `raw`.
    ///
    /// # Safety
    /// `raw` is a live zend_string and stays alive and unchanged for `'a`.
    pub(super) unsafe fn new(raw: *mut zend_string) -> Text<'a> {
        Text {
            raw,
            life: PhantomData,
        }
    }

    /// The bytes, which may be anything.
    pub(crate) fn bytes(self) -> &'a [u8] {
        // SAFETY: `new` promised a live zend_string, whose `val` holds `len` bytes.
        unsafe { std::slice::from_raw_parts((&raw const (*self.raw).val).cast(), (*self.raw).len) }
    }

    /// The string itself, for calls that take a zend_string.
    pub(super) fn raw(self) -> *mut zend_string {
        self.raw
    }

    /// True for strings that live as long as the process and are not counted.
    pub(crate) fn is_interned(self) -> bool {
        // SAFETY: `new` promised a live string; the flag sits in the header of every counted value.
        unsafe { (*self.raw).gc.u.type_info & ext_php_rs::ffi::GC_IMMUTABLE != 0 }
    }

    /// The same string with a reference of its own.
    pub(crate) fn keep(self) -> OwnedText {
        // SAFETY: the string is alive; interned ones (flagged immutable) are not counted.
        unsafe {
            if !self.is_interned() {
                (*self.raw).gc.refcount += 1;
            }
        }
        OwnedText { raw: self.raw }
    }
}

/// A string we hold a reference to; given back on drop.
pub(crate) struct OwnedText {
    raw: *mut zend_string,
}

impl OwnedText {
    /// A new string in request memory holding `bytes`.
    pub(crate) fn new(bytes: &[u8]) -> OwnedText {
        // SAFETY: pointer and length belong to one slice; Zend copies it.
        let raw = unsafe { ext_php_rs_zend_string_init(bytes.as_ptr().cast(), bytes.len(), false) };
        OwnedText { raw }
    }

    /// The decimal text of `number`.
    pub(crate) fn decimal(number: u64) -> OwnedText {
        // 20 digits hold every u64.
        let mut digits = [b'0'; 20];
        let mut rest = number;
        let mut first = digits.len();
        for (at, digit) in digits.iter_mut().enumerate().rev() {
            // A remainder by 10 fits a byte.
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
            first = at;
            if rest == 0 {
                break;
            }
        }
        OwnedText::new(digits.get(first..).unwrap_or_default())
    }

    /// What PHP makes of `value` as a string, or None when that threw.
    #[inline]
    pub(crate) fn from_value(value: Value<'_>) -> Option<OwnedText> {
        if let Kind::Text(text) = value.kind() {
            return Some(text.keep());
        }
        // SAFETY: `value` is a live zval; the function returns an own reference, or null after throwing.
        let raw = unsafe { super::sys::zval_try_get_string_func(value.raw()) };
        if raw.is_null() {
            None
        } else {
            Some(OwnedText { raw })
        }
    }

    /// Takes over a reference that the caller owned.
    ///
    /// # Safety
    /// `raw` is a live zend_string and its caller gives up one reference.
    pub(super) unsafe fn adopt(raw: *mut zend_string) -> OwnedText {
        OwnedText { raw }
    }

    /// The string, borrowed.
    pub(crate) fn text(&self) -> Text<'_> {
        Text {
            raw: self.raw,
            life: PhantomData,
        }
    }

    /// The type word of a zval that holds it.
    pub(super) fn type_info(&self) -> u32 {
        // Strings of at most one byte are PHP's own, shared and not counted.
        if self.text().is_interned() {
            IS_STRING
        } else {
            super::sys::MEMRING_TYPE_STRING
        }
    }

    /// The bytes, which may be anything.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.text().bytes()
    }

    /// The string with its reference, which the caller now owns.
    pub(super) fn into_raw(self) -> *mut zend_string {
        let raw = self.raw;
        std::mem::forget(self);
        raw
    }
}

impl Drop for OwnedText {
    fn drop(&mut self) {
        // SAFETY: the reference is ours and is given back once.
        unsafe { ext_php_rs_zend_string_release(self.raw) }
    }
}
