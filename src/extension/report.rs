//! What people get to read: the one mapping of failures to notices, warnings and callbacks.
//!
//! The texts are pecl-memcache's, because programs read them (Drupal looks for the words
//! of the notice). A node's fault goes to the failure callback of the object, where one
//! is set; a refusal is always a notice.

use crate::ffi::callback;
use crate::ffi::errors::{self, Thrown};
use crate::ffi::object::Object;
use crate::ffi::scratch::Desk;
use crate::ffi::value::Fresh;
use memring_pool::call::Event;
use memring_pool::error::Kind;

/// The property the failure callback is kept in, as in pecl-memcache.
pub(crate) const CALLBACK: &str = "_failureCallback";

/// Tells of everything that went wrong in the call of `desk`.
///
/// # Errors
/// When a callback or an error handler threw: nothing more is told, and the caller returns.
#[inline]
pub(crate) fn events(object: Object<'_>, desk: &Desk) -> Result<(), Thrown> {
    if desk.call.is_quiet() {
        Ok(())
    } else {
        tell_all(object, desk)
    }
}

#[cold]
fn tell_all(object: Object<'_>, desk: &Desk) -> Result<(), Thrown> {
    for line in desk.call.changes() {
        errors::log_of(format!("memring: {line}"));
    }
    for event in desk.call.events() {
        tell(object, event)?;
        errors::check()?;
    }
    Ok(())
}

/// "Can't connect to …", after a connect that was asked for failed.
pub(crate) fn cannot_connect(host: &str, port: u16, desk: &Desk) {
    let event = desk.call.events().last();
    let (message, number) = event.map_or(("Unknown error", 0), |e| (e.message.as_str(), e.number));
    let name = match host.contains(['@', '?']) {
        // What was passed may hold passwords.
        true => event.and_then(|e| e.error.node()).unwrap_or("the server"),
        false => &format!("{host}:{port}"),
    };
    errors::warning_of(format!("Can't connect to {name}, {message} ({number})"));
}

fn tell(object: Object<'_>, event: &Event) -> Result<(), Thrown> {
    if event.error.kind() == Kind::Config {
        // No node did anything: it is the pool that does not do such a thing.
        errors::warning_of(event.error.to_string());
        return Ok(());
    }
    if event.fault {
        if event.error.kind() == Kind::Resolve {
            // PHP's own resolver warns on its own, and so do we.
            if let Some(at) = event.message.find("php_network_getaddresses") {
                errors::warning_of(event.message.get(at..).unwrap_or_default().to_owned());
                errors::check()?;
            }
        }
        let function = object.property(CALLBACK);
        if !function.value().is_null() {
            return call(object, &function, event);
        }
    }
    let Event {
        host,
        port,
        udp_port,
        message,
        number,
        ..
    } = event;
    errors::notice_of(format!(
        "Server {host} (tcp {port}, udp {udp_port}) failed with: {message} ({number})"
    ));
    Ok(())
}

fn call(object: Object<'_>, function: &Fresh, event: &Event) -> Result<(), Thrown> {
    if !callback::is_callable(function.value()) {
        object.set_property(CALLBACK, &Fresh::null());
        errors::warning("Invalid failure callback");
        return Ok(());
    }
    let message = if event.message.is_empty() {
        Fresh::null()
    } else {
        Fresh::text(event.message.as_bytes())
    };
    drop(callback::call(
        function,
        [
            Fresh::text(event.host.as_bytes()),
            Fresh::long(i64::from(event.port)),
            Fresh::long(i64::from(event.udp_port)),
            message,
            Fresh::long(i64::from(event.number)),
        ],
    ));
    errors::check()
}
