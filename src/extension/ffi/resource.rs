//! zend_resource: a pool as PHP holds it, of type "memcache connection".
//!
//! PHP frees the pool with the last reference, or at the end of the request however
//! that comes, a longjmp out of our own frames included.

use super::sys;
use super::value::{Fresh, Owned, Value};
use crate::memcache::State;
use ext_php_rs::ffi::{IS_RESOURCE, zend_resource};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicI32, Ordering};

/// The number Zend gave our resource type; set anew at each module start.
static TYPE: AtomicI32 = AtomicI32::new(-1);

/// Registers the resource type.
pub(super) fn register(module_number: i32) {
    // SAFETY: called from MINIT; the name is a static string.
    let number = unsafe {
        sys::zend_register_list_destructors_ex(
            Some(free),
            None,
            c"memcache connection".as_ptr(),
            module_number,
        )
    };
    TYPE.store(number, Ordering::Release);
}

/// A pool behind a resource, held by a reference of our own.
pub(crate) struct Link {
    raw: *mut zend_resource,
}

impl Link {
    /// Hands `state` to PHP.
    pub(crate) fn new(state: State) -> Link {
        let pointer = Box::into_raw(Box::new(state)).cast();
        // SAFETY: the resource owns the pointer from here on, and `free` takes it back. Its first reference is ours.
        let raw = unsafe { sys::zend_register_resource(pointer, TYPE.load(Ordering::Acquire)) };
        Link { raw }
    }

    /// The pool that `value` holds, if it holds one.
    pub(super) fn from_value(value: Value<'_>) -> Option<Link> {
        // SAFETY: live zval; a resource zval points to a live resource, whose pointer is ours when the type is.
        unsafe {
            let raw = value.raw();
            if u32::from((*raw).u1.v.type_) != IS_RESOURCE {
                return None;
            }
            let resource = (*raw).value.res;
            if (*resource).type_ != TYPE.load(Ordering::Acquire) || (*resource).ptr.is_null() {
                return None;
            }
            (*resource).gc.refcount += 1;
            Some(Link { raw: resource })
        }
    }

    /// Works with the pool. `work` makes no call into Zend: it could come back here.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut State) -> R) -> Option<R> {
        // SAFETY: our reference keeps the resource; its pointer is a State of ours until PHP ends the request,
        // when it is null. No second &mut can exist: no code of userland runs inside `work`.
        unsafe { (*self.raw).ptr.cast::<State>().as_mut().map(work) }
    }

    /// The resource as a zval.
    pub(super) fn value(&self) -> Fresh {
        // SAFETY: the new zval takes the reference added here.
        unsafe {
            (*self.raw).gc.refcount += 1;
            let mut zval: Owned = std::mem::zeroed();
            zval.u1.type_info = sys::MEMRING_TYPE_RESOURCE;
            zval.value.res = self.raw;
            Fresh::adopt(zval)
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // SAFETY: the reference is ours and is given back once; the last one frees the resource.
        unsafe {
            if (*self.raw).gc.refcount > 1 {
                (*self.raw).gc.refcount -= 1;
            } else {
                sys::zend_list_delete(self.raw);
            }
        }
    }
}

/// Zend's destructor of our resources.
unsafe extern "C" fn free(resource: *mut zend_resource) {
    // SAFETY: Zend calls this once per resource of our type, whose pointer `Link::new` put there.
    let state = unsafe { Box::from_raw((*resource).ptr.cast::<State>()) };
    // A panic must not cross into C; what is left of the pool is lost with it, not used again.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(state)));
}
