//! WHERE IT LISTENS: the addresses behind a name, and the server behind the name of a master.

pub mod sentinel;

use crate::transport;
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

/// How long a resolved name is believed, per process.
const NAME_LIFE: Duration = Duration::from_secs(30);

/// When a name was resolved, and to what.
type Resolved = (Instant, Vec<SocketAddr>);

thread_local! {
    /// Names resolved in this process, and when.
    static NAMES: RefCell<HashMap<(String, u16), Resolved>> = RefCell::default();
}

/// Puts a name with these addresses among the known ones.
#[cfg(test)]
pub(crate) fn know(host: &str, port: u16, found: Vec<SocketAddr>) {
    let name = (host.to_owned(), port);
    NAMES.with_borrow_mut(|names| names.insert(name, (transport::now(), found)));
}

/// The addresses of a name; the cause as PHP words it when there are none.
///
/// getaddrinfo itself blocks and knows no deadline: the one exception to "every wait has a limit".
///
/// # Errors
/// The name is unknown, or nobody answers for it.
pub fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let now = transport::now();
    let wanted = (host.to_owned(), port);
    let known = NAMES.with_borrow(|names| {
        names
            .get(&wanted)
            .filter(|(since, _)| now.saturating_duration_since(*since) < NAME_LIFE)
            .map(|(_, found)| found.clone())
    });
    if let Some(found) = known {
        return Ok(found);
    }
    let found = (host, port).to_socket_addrs().map_err(|e| {
        let text = e.to_string();
        let cause = text
            .rsplit_once(": ")
            .map_or(text.as_str(), |(_, cause)| cause);
        format!("php_network_getaddresses: getaddrinfo for {host} failed: {cause}")
    })?;
    let found: Vec<SocketAddr> = found.collect();
    NAMES.with_borrow_mut(|names| names.insert(wanted, (now, found.clone())));
    Ok(found)
}

/// Forgets what a name was resolved to.
pub fn forget(host: &str, port: u16) {
    NAMES.with_borrow_mut(|names| names.remove(&(host.to_owned(), port)));
}

/// Notes that the first address of a name is silent: the next connect need not wait for it first.
pub fn put_off(host: &str, port: u16) {
    NAMES.with_borrow_mut(|names| {
        if let Some((_, found)) = names.get_mut(&(host.to_owned(), port))
            && !found.is_empty()
        {
            found.rotate_left(1);
        }
    });
}
