//! zval: one that PHP owns ([`Value`]) and one that we own ([`Fresh`]).

use super::array::{Array, Table};
use super::object::Object;
use super::string::{OwnedText, Text};
use super::sys;
use ext_php_rs::ffi::{
    IS_ARRAY, IS_DOUBLE, IS_FALSE, IS_LONG, IS_NULL, IS_OBJECT, IS_REFERENCE, IS_RESOURCE,
};
use ext_php_rs::ffi::{IS_STRING, IS_TRUE, IS_UNDEF, zval, zval_ptr_dtor};
use std::marker::PhantomData;
use std::mem::ManuallyDrop;

/// A zval that PHP owns and keeps alive for `'a`.
#[derive(Clone, Copy)]
pub(crate) struct Value<'a> {
    raw: *mut zval,
    life: PhantomData<&'a zval>,
}

/// What a zval holds.
pub(crate) enum Kind<'a> {
    /// Nothing at all: an unset property or a skipped argument.
    Undef,
    /// null
    Null,
    /// true or false
    Bool(bool),
    /// int
    Long(i64),
    /// float
    Double(f64),
    /// string
    Text(Text<'a>),
    /// array
    Array(Array<'a>),
    /// object
    Object(Object<'a>),
    /// resource
    Resource,
    /// A PHP reference, not followed.
    Reference,
    /// Something userland cannot hold.
    Other,
}

impl<'a> Value<'a> {
    /// A view of `raw`.
    ///
    /// # Safety
    /// `raw` is a valid zval that lives for `'a`.
    pub(super) unsafe fn new(raw: *mut zval) -> Value<'a> {
        Value {
            raw,
            life: PhantomData,
        }
    }

    /// The zval itself.
    pub(super) fn raw(self) -> *mut zval {
        self.raw
    }

    /// The same value, with a reference followed.
    pub(crate) fn deref(self) -> Value<'a> {
        // SAFETY: a zval tagged as reference holds a live zend_reference, alive as long as its holder.
        unsafe {
            if u32::from((*self.raw).u1.v.type_) == IS_REFERENCE {
                return Value::new(&raw mut (*(*self.raw).value.ref_).val);
            }
        }
        self
    }

    /// What it holds.
    pub(crate) fn kind(self) -> Kind<'a> {
        // SAFETY: the type tag says which union field is live, and counted fields live as long as their zval.
        unsafe {
            let value = (*self.raw).value;
            match u32::from((*self.raw).u1.v.type_) {
                IS_UNDEF => Kind::Undef,
                IS_NULL => Kind::Null,
                IS_FALSE => Kind::Bool(false),
                IS_TRUE => Kind::Bool(true),
                IS_LONG => Kind::Long(value.lval),
                IS_DOUBLE => Kind::Double(value.dval),
                IS_STRING => Kind::Text(Text::new(value.str_)),
                IS_ARRAY => Kind::Array(Array::new(value.arr)),
                IS_OBJECT => Kind::Object(Object::new(value.obj)),
                IS_RESOURCE => Kind::Resource,
                IS_REFERENCE => Kind::Reference,
                _ => Kind::Other,
            }
        }
    }

    /// True for null and for nothing at all.
    pub(crate) fn is_null(self) -> bool {
        matches!(self.kind(), Kind::Null | Kind::Undef)
    }

    /// A copy with a reference of its own.
    pub(crate) fn keep(self) -> Fresh {
        // SAFETY: the zval is live; a counted one (type flags not 0) begins with its reference count.
        unsafe {
            if (*self.raw).u1.v.type_flags != 0 {
                (*(*self.raw).value.counted).gc.refcount += 1;
            }
            Fresh {
                zval: ManuallyDrop::new(std::ptr::read(self.raw)),
            }
        }
    }
}

/// A zval that we own; released on drop unless it is handed to PHP.
///
/// ext-php-rs releases a `zval` that goes out of scope; here one is released once and in
/// one place, so every owned one is wrapped against that.
pub(crate) struct Fresh {
    zval: Owned,
}

/// A zval whose reference somebody must give back.
pub(super) type Owned = ManuallyDrop<zval>;

impl Fresh {
    /// null
    pub(crate) fn null() -> Fresh {
        Fresh::tagged(IS_NULL)
    }

    /// true or false
    pub(crate) fn bool(yes: bool) -> Fresh {
        Fresh::tagged(if yes { IS_TRUE } else { IS_FALSE })
    }

    /// int
    pub(crate) fn long(number: i64) -> Fresh {
        let mut fresh = Fresh::tagged(IS_LONG);
        fresh.zval.value.lval = number;
        fresh
    }

    /// float
    pub(crate) fn double(number: f64) -> Fresh {
        let mut fresh = Fresh::tagged(IS_DOUBLE);
        fresh.zval.value.dval = number;
        fresh
    }

    /// A new string holding `bytes`: one copy, straight from where they lie.
    pub(crate) fn text(bytes: &[u8]) -> Fresh {
        let text = OwnedText::new(bytes);
        let mut fresh = Fresh::tagged(text.type_info());
        fresh.zval.value.str_ = text.into_raw();
        fresh
    }

    /// An array.
    pub(crate) fn array(table: Table) -> Fresh {
        let mut fresh = Fresh::tagged(sys::MEMRING_TYPE_ARRAY);
        fresh.zval.value.arr = table.into_raw();
        fresh
    }

    /// Takes over a zval whose reference the caller owned.
    ///
    /// # Safety
    /// `zval` is valid and its caller gives up one reference.
    pub(super) unsafe fn adopt(zval: Owned) -> Fresh {
        Fresh { zval }
    }

    /// The value, borrowed.
    pub(crate) fn value(&self) -> Value<'_> {
        Value {
            raw: (&raw const *self.zval).cast_mut(),
            life: PhantomData,
        }
    }

    /// The zval with its reference, which the caller now owns.
    pub(super) fn into_raw(self) -> Owned {
        let fresh = ManuallyDrop::new(self);
        // SAFETY: read once; ManuallyDrop keeps the original from being released.
        unsafe { std::ptr::read(&raw const fresh.zval) }
    }

    /// A zval with this type word and no payload yet.
    fn tagged(type_info: u32) -> Fresh {
        // SAFETY: all zero bytes are a valid zval (IS_UNDEF); the tag below needs no payload, or gets it at once.
        let mut zval: Owned = unsafe { std::mem::zeroed() };
        zval.u1.type_info = type_info;
        Fresh { zval }
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        // SAFETY: the reference is ours and is given back once; scalars are left alone by Zend.
        unsafe { zval_ptr_dtor(&raw mut *self.zval) }
    }
}
