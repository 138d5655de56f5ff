//! Numbers for a run's accidents.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Numbers that look as if by chance, the same ones for the same seed. Clones draw from the same.
#[derive(Clone)]
pub struct Dice(Arc<AtomicU64>);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(AtomicU64::new(seed)))
    }

    /// A number below `limit`, by `SplitMix64`.
    pub fn below(&self, limit: u64) -> u64 {
        let state = self.0.fetch_add(STEP, Relaxed).wrapping_add(STEP);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    /// A number from 1 to `most`.
    pub fn up_to(&self, most: u32) -> u32 {
        1 + u32::try_from(self.below(most.into())).unwrap_or(0)
    }
}
