//! Whom to leave alone, and until when. Time is an argument; nothing here waits.

use std::time::{Duration, Instant};

/// What is known of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// It answered last time, or was never asked.
    #[default]
    Up,
    /// It failed at that time; `None` means it was declared down by hand, long ago.
    Failed(Option<Instant>),
}

impl Health {
    /// May the node be asked at `now`, when a failed one is left alone for `retry_interval` seconds?
    ///
    /// 0 tries at once, a negative interval never again (pecl-memcache memcache_pool.c mmc_server_valid).
    pub fn allows(self, retry_interval: i64, now: Instant) -> bool {
        match self {
            Health::Up => true,
            Health::Failed(since) => match u64::try_from(retry_interval) {
                Err(_) => false,
                Ok(pause) => since
                    .is_none_or(|t| now.saturating_duration_since(t) >= Duration::from_secs(pause)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_node_is_asked_again_after_its_interval_and_not_before() {
        let start = Instant::now();
        let failed = Health::Failed(Some(start));
        assert!(!failed.allows(2, start + Duration::from_millis(1999)));
        assert!(failed.allows(2, start + Duration::from_secs(2)));
    }

    #[test]
    fn zero_means_at_once_and_negative_means_never() {
        let start = Instant::now();
        let failed = Health::Failed(Some(start));
        assert!(failed.allows(0, start));
        assert!(!failed.allows(-1, start + Duration::from_secs(1 << 30)));
        assert!(!Health::Failed(None).allows(-1, start));
    }

    #[test]
    fn a_node_declared_down_by_hand_may_be_asked_when_its_interval_allows_it() {
        assert!(Health::Failed(None).allows(15, Instant::now()));
        assert!(Health::Up.allows(-1, Instant::now()));
    }
}
