//! The memcache_* functions that are not simply a method with the object in front.

use crate::ffi::args::Frame;
use crate::ffi::errors::{self, Thrown};
use crate::ffi::value::Fresh;
use crate::nodes;

/// memcache_connect(): a new Memcache with one node, connected; or false.
pub(crate) fn connect(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    nodes::connect_new(&frame.plain(), false)
}

/// memcache_pconnect(): the same, the connection kept across requests.
pub(crate) fn pconnect(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    nodes::connect_new(&frame.plain(), true)
}

/// memcache_debug(): nothing since long ago, and says so.
pub(crate) fn debug(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    // The original looks at no argument.
    let _ = frame;
    errors::warning("memcache_debug() is deprecated, please use a debugger (like Eclipse + CDT)");
    Ok(Fresh::bool(false))
}
