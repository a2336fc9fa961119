//! Chance, where replicas, connections and spans have to be told apart.

use std::hash::{BuildHasher, RandomState};

/// 64 random bits: the seeds of hash maps are random enough for names and jitter, and for nothing secret.
#[must_use]
pub fn u64() -> u64 {
    RandomState::new().hash_one(0_u8)
}

/// Half as many.
#[must_use]
pub fn u32() -> u32 {
    u32::try_from(u64() >> 32).unwrap_or(0)
}
