//! How often something may be done within a minute: pure, of what was done and the time.
//!
//! A token bucket by the generic cell rate algorithm (ITU-T I.371): all that a minute allows may be done at once, and
//! then one more whenever its share of a minute has passed.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    time::{Duration, Instant},
};

const MINUTE: Duration = Duration::from_secs(60);
/// So many are held in mind; beyond it, those that have rested for long enough are forgotten.
const HELD: usize = 1000;

/// What was done lately, by what it was done to.
#[derive(Debug)]
pub struct Rates<K> {
    /// When all of it will have been worth its time.
    due: BTreeMap<K, Instant>,
}

impl<K> Default for Rates<K> {
    fn default() -> Self {
        Self { due: BTreeMap::new() }
    }
}

impl<K: Ord> Rates<K> {
    /// Counts one more, or says how long to wait for it.
    ///
    /// # Errors
    /// The wait.
    pub fn take(&mut self, key: K, per_minute: NonZeroU32, now: Instant) -> Result<(), Duration> {
        if self.due.len() >= HELD {
            self.due.retain(|_, due| *due > now);
        }
        let due = self.due.get(&key).map_or(now, |due| *due.max(&now)) + MINUTE / per_minute.get();
        match due.duration_since(now).checked_sub(MINUTE) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => {
                self.due.insert(key, due);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_has_so_many_and_each_place_its_own() {
        let (mut rates, now) = (Rates::default(), Instant::now());
        let three = NonZeroU32::new(3).unwrap();
        for key in ["a", "b"] {
            for _ in 0..3 {
                assert_eq!(rates.take(key, three, now), Ok(()));
            }
            assert_eq!(rates.take(key, three, now), Err(Duration::from_secs(20)));
        }
        let later = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(rates.take("a", three, later(5)), Err(Duration::from_secs(15)));
        assert_eq!(rates.take("a", three, later(20)), Ok(()));
        assert_eq!(rates.take("a", three, later(21)), Err(Duration::from_secs(19)));
        for _ in 0..3 {
            assert_eq!(rates.take("a", three, later(600)), Ok(()));
        }
        rates.take("a", three, later(600)).unwrap_err();
    }

    #[test]
    fn those_that_rest_are_forgotten() {
        let (mut rates, now) = (Rates::default(), Instant::now());
        let one = NonZeroU32::MIN;
        for key in 0..HELD {
            rates.take(key, one, now).unwrap();
        }
        rates.take(HELD, one, now + MINUTE).unwrap();
        assert_eq!(rates.due.len(), 1);
        rates.take(HELD, one, now + MINUTE).unwrap_err();
    }
}
