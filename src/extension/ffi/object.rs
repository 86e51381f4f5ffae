//! zend_object: which class, and the property `connection` that carries the pool.
//!
//! The pool does not live in the object but behind the resource in its property
//! `connection`, as in pecl-memcache: so a clone shares it, a subclass needs no
//! parent constructor, and what userland writes over the property is seen.

use super::resource::Link;
use super::sys;
use super::value::{Fresh, Kind, Value};
use ext_php_rs::ffi::{
    instanceof_function_slow, zend_class_entry, zend_object, zend_read_property, zval,
};
use std::ffi::CStr;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicPtr, Ordering};

/// One of the classes we register; the entry dies with the module and is set anew at each start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// The base class with the pool: `MemcachePool`, or `Memring\Memcache` standing alone.
    Pool,
    /// `Memcache`, or `Memring\Memcache` standing alone.
    Memcache,
    /// `Memring\Memcache`.
    Memring,
}

static POOL: AtomicPtr<zend_class_entry> = AtomicPtr::new(std::ptr::null_mut());
static MEMCACHE: AtomicPtr<zend_class_entry> = AtomicPtr::new(std::ptr::null_mut());
static MEMRING: AtomicPtr<zend_class_entry> = AtomicPtr::new(std::ptr::null_mut());

impl Class {
    /// The name PHP shows in its errors.
    pub(crate) fn name(self) -> &'static CStr {
        match self {
            Class::Pool => c"MemcachePool",
            Class::Memcache => c"Memcache",
            Class::Memring => c"Memring\\Memcache",
        }
    }

    /// The registered class, null before its module started.
    pub(super) fn entry(self) -> *mut zend_class_entry {
        self.cell().load(Ordering::Acquire)
    }

    /// Remembers the registered class.
    pub(super) fn remember(self, entry: *mut zend_class_entry) {
        self.cell().store(entry, Ordering::Release);
    }

    fn cell(self) -> &'static AtomicPtr<zend_class_entry> {
        match self {
            Class::Pool => &POOL,
            Class::Memcache => &MEMCACHE,
            Class::Memring => &MEMRING,
        }
    }
}

/// What the property `connection` holds.
pub(crate) enum Connection {
    /// Nothing yet.
    None,
    /// Something that is no pool.
    Broken,
    /// A pool.
    Pool(Link),
}

/// An object that PHP keeps alive for `'a`.
#[derive(Clone, Copy)]
pub(crate) struct Object<'a> {
    raw: *mut zend_object,
    life: PhantomData<&'a zend_object>,
}

impl<'a> Object<'a> {
    /// A view of `raw`.
    ///
    /// # Safety
    /// `raw` is a live object and stays alive for `'a`.
    pub(super) unsafe fn new(raw: *mut zend_object) -> Object<'a> {
        Object {
            raw,
            life: PhantomData,
        }
    }

    /// A new object of `class`; None when that threw.
    pub(crate) fn create(class: Class) -> Option<Fresh> {
        let mut zval = Fresh::null().into_raw();
        // SAFETY: the class is registered while functions can be called; the zval is ours and written by Zend.
        unsafe {
            let made = sys::object_init_ex(&raw mut *zval, class.entry());
            let fresh = Fresh::adopt(zval);
            (made == ext_php_rs::ffi::ZEND_RESULT_CODE_SUCCESS).then_some(fresh)
        }
    }

    /// True for an object of `class` or of a child of it.
    pub(crate) fn is_a(self, class: Class) -> bool {
        let entry = class.entry();
        // SAFETY: the object is live, and so is its class; a null entry is no class of any object.
        unsafe {
            (*self.raw).ce == entry
                || (!entry.is_null() && instanceof_function_slow((*self.raw).ce, entry))
        }
    }

    /// The pool behind the property `connection`.
    pub(crate) fn connection(self) -> Connection {
        let value = self.slot().deref();
        if value.is_null() {
            return Connection::None;
        }
        Link::from_value(value).map_or(Connection::Broken, Connection::Pool)
    }

    /// Puts `link` into the property `connection`.
    pub(crate) fn connect(self, link: &Link) {
        let new = ManuallyDrop::into_inner(link.value().into_raw());
        // SAFETY: the slot is a live zval of this object; the old value is released after it was replaced.
        drop(unsafe { Fresh::adopt(ManuallyDrop::new(std::ptr::replace(self.slot().raw(), new))) });
    }

    /// The value of property `name` with a reference of its own; null when there is none.
    pub(crate) fn property(self, name: &str) -> Fresh {
        // SAFETY: live object and class, pointer and length of one str; `space` is valid if Zend needs it and
        // holds a reference only when the result points to it.
        unsafe {
            let mut space = Fresh::null().into_raw();
            let class = (*self.raw).ce;
            let found = zend_read_property(
                class,
                self.raw,
                name.as_ptr().cast(),
                name.len(),
                true,
                &raw mut *space,
            );
            if std::ptr::eq(found, &raw const *space) {
                return Fresh::adopt(space);
            }
            Value::new(found).deref().keep()
        }
    }

    /// Writes property `name`.
    pub(crate) fn set_property(self, name: &str, value: &Fresh) {
        // SAFETY: live object and class, pointer and length of one str; Zend takes a reference of its own.
        unsafe {
            sys::zend_update_property(
                (*self.raw).ce,
                self.raw,
                name.as_ptr().cast(),
                name.len(),
                value.value().raw(),
            );
        }
    }

    /// The slot of the property `connection`: the first that our base class declares, so the first of every child.
    fn slot(self) -> Value<'a> {
        // SAFETY: every object of our classes has at least this declared property.
        unsafe { Value::new((&raw mut (*self.raw).properties_table).cast::<zval>()) }
    }
}

/// The object in `fresh`, if it is one.
pub(crate) fn object_of(fresh: &Fresh) -> Option<Object<'_>> {
    match fresh.value().kind() {
        Kind::Object(object) => Some(object),
        _ => None,
    }
}
