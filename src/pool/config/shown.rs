//! What messages may show of a text that is an address, or was meant to be one.

use super::sentinel;

/// Are user and password usual in addresses of this scheme?
pub(super) fn may_hold_secrets(scheme: &str) -> bool {
    scheme.contains("redis") || scheme.contains("memcache")
}

/// `text` without what may be secret in addresses: a password before a host, options behind
/// one, and what stands in the place of both where something was forgotten.
pub fn masked(text: &str) -> String {
    let at = text.find("://");
    let (scheme, rest) = text.split_at(at.map_or(0, |at| at + 3));
    // With the scheme forgotten it may be a password all the same.
    let scheme = match scheme.rsplit_once('@') {
        Some((_, behind)) => &format!("…@{behind}"),
        None => scheme,
    };
    // A password may hold any character, so nothing before the last @ is believed to be none.
    if let Some((_, behind)) = rest.rsplit_once('@') {
        let host = behind.split('?').next().unwrap_or(behind);
        return format!("{scheme}…@{host}");
    }
    if at.is_none() {
        return text.to_owned();
    }
    let scheme_word = scheme.to_ascii_lowercase();
    // Its servers stand between commas.
    let many = scheme_word.contains(sentinel::SCHEME);
    let end = rest
        .find(|c: char| c.is_whitespace() || "\"'`]".contains(c) || (c == ',' && !many))
        .unwrap_or(rest.len());
    let (address, behind) = rest.split_at(end);
    let (place, options) = match address.split_once('?') {
        Some((place, _)) => (place, "?…"),
        None => (address, ""),
    };
    let secretive = may_hold_secrets(&scheme_word);
    let plain = place.split(',').all(|place| {
        let port = place.rsplit_once(':').map_or("", |(_, port)| port);
        let digits = port.split('/').next().unwrap_or(port);
        digits.bytes().all(|byte| byte.is_ascii_digit())
            && (place.starts_with('[') || place.matches(':').count() < 2)
    });
    let place = match secretive && !plain {
        true => "…",
        false => place,
    };
    format!("{scheme}{place}{options}{}", masked(behind))
}

/// `text` fit for a message: printable, at most 100 characters, without what may be secret.
pub(super) fn clean(text: &str) -> String {
    let text = masked(text);
    let mut clean: String = text
        .chars()
        .take(100)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    if text.chars().nth(100).is_some() {
        clean.push('…');
    }
    clean
}

/// `text` fit for a message and without what may be secret: neither options nor a password.
pub(super) fn shown(text: &str) -> String {
    let text = text.split('?').next().unwrap_or(text);
    match text.rsplit_once('@') {
        Some((secret, host)) => {
            let scheme = secret
                .split_once("://")
                .map_or(String::new(), |(scheme, _)| format!("{scheme}://"));
            clean(&format!("{scheme}…@{host}"))
        }
        None => clean(text),
    }
}
