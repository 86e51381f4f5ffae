//! What `INFO` says, as lines of `stats`.
//!
//! Who watches memcached looks for `curr_items` and `get_hits`; who knows Redis, for its own
//! names. Both are there.

/// Names of memcached and what Redis calls the same.
const SAME: [(&str, &str); 13] = [
    ("pid", "process_id"),
    ("uptime", "uptime_in_seconds"),
    ("version", "redis_version"),
    ("pointer_size", "arch_bits"),
    ("curr_connections", "connected_clients"),
    ("total_connections", "total_connections_received"),
    ("get_hits", "keyspace_hits"),
    ("get_misses", "keyspace_misses"),
    ("evictions", "evicted_keys"),
    ("bytes", "used_memory"),
    ("limit_maxbytes", "maxmemory"),
    ("bytes_read", "total_net_input_bytes"),
    ("bytes_written", "total_net_output_bytes"),
];

/// The lines of the `INFO` text that have a name and a value.
fn pairs(info: &str) -> impl Iterator<Item = (&str, &str)> {
    info.lines().filter_map(|line| line.split_once(':'))
}

/// What the `INFO` text has under a name.
fn found<'i>(info: &'i str, wanted: &str) -> Option<&'i str> {
    pairs(info)
        .find(|(name, _)| *name == wanted)
        .map(|(_, value)| value)
}

/// `STAT name value` lines, each with CR LF: memcached's names first, then all of Redis'.
pub fn lines(info: &[u8]) -> Vec<u8> {
    let info = String::from_utf8_lossy(info);
    let mut text = String::with_capacity(info.len() * 2);
    let mut stat = |name: &str, value: &str| {
        text.push_str("STAT ");
        text.push_str(name);
        text.push(' ');
        text.push_str(value);
        text.push_str("\r\n");
    };
    for (ours, theirs) in SAME {
        if let Some(value) = found(&info, theirs) {
            stat(ours, value);
        }
    }
    stat("curr_items", &items(&info).to_string());
    for (name, value) in pairs(&info) {
        // Two have the same name, and mean the same.
        if !SAME.iter().any(|(ours, _)| *ours == name) {
            stat(name, value);
        }
    }
    text.into_bytes()
}

/// Keys of all databases (`db0:keys=3,expires=1,…`).
fn items(info: &str) -> u64 {
    pairs(info)
        .filter(|(name, _)| {
            name.strip_prefix("db")
                .is_some_and(|n| n.parse::<u32>().is_ok())
        })
        .filter_map(|(_, value)| {
            let keys = value.strip_prefix("keys=")?;
            keys.split(',').next()?.parse::<u64>().ok()
        })
        .sum()
}

/// The policy by which a full server throws keys away, as its `INFO` says; `None` for one that
/// does not.
pub fn evicts(info: &[u8]) -> Option<String> {
    let info = String::from_utf8_lossy(info);
    let limit = found(&info, "maxmemory").unwrap_or("0");
    let policy = found(&info, "maxmemory_policy").unwrap_or("noeviction");
    (limit != "0" && policy != "noeviction").then(|| policy.to_owned())
}

/// The server's version: Valkey's own where it is one, which also names the Redis it is like.
pub fn version(info: &[u8]) -> String {
    let info = String::from_utf8_lossy(info);
    found(&info, "valkey_version")
        .or_else(|| found(&info, "redis_version"))
        .unwrap_or_default()
        .to_owned()
}
