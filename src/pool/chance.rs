//! CHANCE: bits that nobody can foresee, and bits made of others.

use std::time::{SystemTime, UNIX_EPOCH};

/// Random bits of the kernel, never 0.
pub fn seed() -> u64 {
    let mut bits = [0u8; 8];
    // Without the kernel's dice the clock and the process number must do.
    let _ = rustix::rand::getrandom(&mut bits, rustix::rand::GetRandomFlags::empty());
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let clock = since.map_or(0, |since| since.as_micros() as u64);
    (u64::from_le_bytes(bits) ^ clock << 20 ^ u64::from(std::process::id())).max(1)
}

/// 64 well-mixed bits of two numbers (the finalizer of splitmix64, Steele and others 2014).
pub fn mix(seed: u64, step: u64) -> u64 {
    let mut bits = seed ^ step.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}
