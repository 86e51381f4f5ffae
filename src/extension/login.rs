//! setSaslAuthData(): who an object is at its memcached nodes.
//!
//! pecl-memcache speaks SASL, which only the binary protocol has, and keeps user and password as
//! properties that `var_dump($m)` shows. Here they go out as `memcached -Y` takes them, to every
//! node of the object that does not say itself who we are, and nothing shows them.

use crate::ffi::args::Frame;
use crate::ffi::errors::{self, Thrown};
use crate::ffi::object::Class;
use crate::ffi::value::Fresh;
use crate::{pools, registry};
use memring_pool::config::{Login, Secret};

/// setSaslAuthData(): false when one of the two is empty, or nothing that memcached takes.
pub(crate) fn set_sasl(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    frame.expect(2, 2)?;
    let object = frame.object(Class::Pool)?;
    let (user, password) = (frame.text(0)?.ok_or(Thrown)?, frame.text(1)?.ok_or(Thrown)?);
    if user.bytes().is_empty() || password.bytes().is_empty() {
        return Ok(Fresh::bool(false));
    }
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
    let login = match (text(user.bytes()), text(password.bytes())) {
        (Some(user), Some(password)) => Login::new(user, Secret::new(password)),
        // No UTF-8: refused below with the same words.
        _ => Login::new(String::new(), Secret::new(String::new())),
    };
    let login = match login {
        Ok(login) => login,
        Err(error) => {
            errors::warning_of(error.cause().to_owned());
            errors::check()?;
            return Ok(Fresh::bool(false));
        }
    };
    registry::join();
    let Some(link) = pools::of(object)? else {
        return Ok(Fresh::bool(false));
    };
    link.with(|state| {
        let before = state.login.replace(login.clone());
        registry::with(|nodes| state.pool.enter_as(&login, before.as_ref(), nodes));
    });
    Ok(Fresh::bool(true))
}
