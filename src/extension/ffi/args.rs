//! One call from PHP: its arguments, coerced as PHP's own functions do, and its result.
//!
//! The checks are those of zend_parse_parameters, in its order and with its texts,
//! but with the common case (the type already fits) decided here without a call.
//! One handler serves a method and the function of the same job: the function's
//! first argument is the object, and argument numbers in messages count it.

use super::errors::{self, Thrown};
use super::object::{Class, Object};
use super::string::Text;
use super::sys;
use super::value::{Fresh, Kind, Value};
use ext_php_rs::ffi::{
    _zend_expected_type, _zend_expected_type_Z_EXPECTED_BOOL,
    _zend_expected_type_Z_EXPECTED_DOUBLE, _zend_expected_type_Z_EXPECTED_LONG,
    _zend_expected_type_Z_EXPECTED_STRING, IS_REFERENCE, zend_wrong_parameters_count_error, zval,
};
use ext_php_rs::types::Zval;
use ext_php_rs::zend::ExecuteData;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a handler is: it returns PHP's result, or Thrown with an exception set.
pub(crate) type Handler = fn(&Frame<'_>) -> Result<Fresh, Thrown>;

/// The C face of one [`Handler`], as Zend calls it.
pub(crate) type Door = extern "C" fn(&mut ExecuteData, &mut Zval);

/// Makes the `Door` of a handler: every call goes through the panic guard.
#[macro_export]
macro_rules! door {
    ($handler:path) => {{
        extern "C" fn door(
            data: &mut ext_php_rs::zend::ExecuteData,
            result: &mut ext_php_rs::types::Zval,
        ) {
            $crate::ffi::args::enter(data, result, $handler);
        }
        door as $crate::ffi::args::Door
    }};
}

/// Runs `handler` for one call and stores its result; a panic becomes a warning and false.
pub(crate) fn enter(data: &mut ExecuteData, result: &mut Zval, handler: Handler) {
    let frame = Frame::new(data);
    let answer = match catch_unwind(AssertUnwindSafe(|| handler(&frame))) {
        Ok(answer) => answer,
        Err(_) => {
            errors::warning(
                "memring stopped this call at an internal error; nothing was returned. Please report it",
            );
            Ok(Fresh::bool(false))
        }
    };
    if let Ok(fresh) = answer {
        *result = ManuallyDrop::into_inner(fresh.into_raw());
    }
}

/// One call from PHP.
pub(crate) struct Frame<'a> {
    data: &'a ExecuteData,
    /// Arguments before the first one that the handler means: 1 when the object is an argument.
    shift: u32,
}

impl<'a> Frame<'a> {
    fn new(data: &'a ExecuteData) -> Frame<'a> {
        // SAFETY: `This` is a valid zval: the object, or not an object in a function call.
        let this = unsafe { Value::new((&raw const data.This).cast_mut()) };
        let shift = if matches!(this.kind(), Kind::Object(_)) {
            0
        } else {
            1
        };
        Frame { data, shift }
    }

    /// True when called as a method.
    pub(crate) fn is_method(&self) -> bool {
        self.shift == 0
    }

    /// Number of arguments passed, the object of a function not counted.
    pub(crate) fn count(&self) -> u32 {
        self.passed().saturating_sub(self.shift)
    }

    /// Refuses fewer than `min` or more than `max` arguments (the object not counted).
    pub(crate) fn expect(&self, min: u32, max: u32) -> Result<(), Thrown> {
        self.check(min + self.shift, max + self.shift)
    }

    /// The same call, read as a function that takes no object.
    pub(crate) fn plain(&self) -> Frame<'a> {
        Frame {
            data: self.data,
            shift: 0,
        }
    }

    /// The object the call is for: `$this`, or the first argument when it is a `class`.
    pub(crate) fn object(&self, class: Class) -> Result<Object<'a>, Thrown> {
        if self.shift == 0 {
            // SAFETY: `This` lives as long as the frame.
            let this = unsafe { Value::new((&raw const self.data.This).cast_mut()) };
            if let Kind::Object(object) = this.kind() {
                return Ok(object);
            }
        }
        let Some(first) = self.slot(0) else {
            return Err(Thrown);
        };
        match first.deref().kind() {
            Kind::Object(object) if object.is_a(class) => Ok(object),
            _ => {
                // SAFETY: inside a call from PHP; the name is NUL-terminated and the zval is live.
                unsafe {
                    sys::zend_wrong_parameter_class_error(
                        1,
                        class.name().as_ptr(),
                        first.deref().raw(),
                    );
                }
                Err(Thrown)
            }
        }
    }

    /// Argument `at`, references followed; None when it was not passed.
    pub(crate) fn value(&self, at: u32) -> Option<Value<'a>> {
        self.slot(at + self.shift).map(Value::deref)
    }

    /// Argument `at` as a string, by PHP's rules of coercion.
    pub(crate) fn text(&self, at: u32) -> Result<Option<Text<'a>>, Thrown> {
        let Some(value) = self.value(at) else {
            return Ok(None);
        };
        if let Kind::Text(text) = value.kind() {
            return Ok(Some(text));
        }
        let mut raw = std::ptr::null_mut();
        // SAFETY: live zval; on success the string lives in the argument slot, which PHP frees after the call.
        unsafe {
            if sys::zend_parse_arg_str_slow(value.raw(), &raw mut raw, self.number(at)) {
                return Ok(Some(Text::new(raw)));
            }
        }
        Err(self.wrong(at, _zend_expected_type_Z_EXPECTED_STRING, value))
    }

    /// Argument `at` as an int, by PHP's rules of coercion; `absent` when it was not passed.
    pub(crate) fn long(&self, at: u32, absent: i64) -> Result<i64, Thrown> {
        let Some(value) = self.value(at) else {
            return Ok(absent);
        };
        if let Kind::Long(number) = value.kind() {
            return Ok(number);
        }
        let mut number = 0;
        // SAFETY: live zval, the result is written before it is read.
        if unsafe { sys::zend_parse_arg_long_slow(value.raw(), &raw mut number, self.number(at)) } {
            return Ok(number);
        }
        Err(self.wrong(at, _zend_expected_type_Z_EXPECTED_LONG, value))
    }

    /// Argument `at` as a float, by PHP's rules of coercion; `absent` when it was not passed.
    pub(crate) fn double(&self, at: u32, absent: f64) -> Result<f64, Thrown> {
        let Some(value) = self.value(at) else {
            return Ok(absent);
        };
        if let Kind::Double(number) = value.kind() {
            return Ok(number);
        }
        let mut number = 0.0;
        // SAFETY: live zval, the result is written before it is read.
        if unsafe { sys::zend_parse_arg_double_slow(value.raw(), &raw mut number, self.number(at)) }
        {
            return Ok(number);
        }
        Err(self.wrong(at, _zend_expected_type_Z_EXPECTED_DOUBLE, value))
    }

    /// Argument `at` as a bool, by PHP's rules of coercion; `absent` when it was not passed.
    pub(crate) fn bool(&self, at: u32, absent: bool) -> Result<bool, Thrown> {
        let Some(value) = self.value(at) else {
            return Ok(absent);
        };
        if let Kind::Bool(yes) = value.kind() {
            return Ok(yes);
        }
        let mut yes = false;
        // SAFETY: live zval, the result is written before it is read.
        if unsafe { sys::zend_parse_arg_bool_slow(value.raw(), &raw mut yes, self.number(at)) } {
            return Ok(yes);
        }
        Err(self.wrong(at, _zend_expected_type_Z_EXPECTED_BOOL, value))
    }

    /// Writes `fresh` into the by-reference argument `at`, if that was passed.
    pub(crate) fn out(&self, at: u32, fresh: Fresh) {
        let Some(slot) = self.slot(at + self.shift) else {
            return;
        };
        // SAFETY: the slot is live; a reference in it holds one zval, which we replace before the old one is
        // released, so that its destructor sees the new one. A typed reference is assigned by Zend.
        unsafe {
            let raw = slot.raw();
            if u32::from((*raw).u1.v.type_) != IS_REFERENCE {
                return;
            }
            let reference = (*raw).value.ref_;
            let mut new = fresh.into_raw();
            if !(*reference).sources.ptr.is_null() {
                sys::zend_try_assign_typed_ref(reference, &raw mut *new);
                return;
            }
            let new = ManuallyDrop::into_inner(new);
            drop(Fresh::adopt(ManuallyDrop::new(std::ptr::replace(
                &raw mut (*reference).val,
                new,
            ))));
        }
    }

    /// Arguments passed, the object of a function counted.
    fn passed(&self) -> u32 {
        // SAFETY: in a call frame, u2 of This is the argument count.
        unsafe { self.data.This.u2.num_args }
    }

    /// The raw argument `at`, the object of a function counted.
    fn slot(&self, at: u32) -> Option<Value<'a>> {
        if at >= self.passed() {
            return None;
        }
        let offset = sys::MEMRING_FRAME_SLOTS as usize + at as usize;
        // SAFETY: Zend lays the arguments out as zvals behind the frame header, `passed` of them.
        let value = unsafe {
            Value::new(
                std::ptr::from_ref(self.data)
                    .cast_mut()
                    .cast::<zval>()
                    .add(offset),
            )
        };
        (!matches!(value.kind(), Kind::Undef)).then_some(value)
    }

    /// The number PHP shows for argument `at`.
    fn number(&self, at: u32) -> u32 {
        at + self.shift + 1
    }

    fn check(&self, min: u32, max: u32) -> Result<(), Thrown> {
        if (min..=max).contains(&self.passed()) {
            return Ok(());
        }
        // SAFETY: inside a call from PHP, whose frame names the function.
        unsafe { zend_wrong_parameters_count_error(min, max) };
        Err(Thrown)
    }

    #[cold]
    fn wrong(&self, at: u32, expected: _zend_expected_type, value: Value<'_>) -> Thrown {
        // SAFETY: inside a call from PHP; the zval is live. Zend does nothing when an exception is set already.
        unsafe { sys::zend_wrong_parameter_type_error(self.number(at), expected, value.raw()) };
        Thrown
    }
}
