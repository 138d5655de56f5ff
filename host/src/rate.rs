//! How often something may be done within a minute, and how much may be used within a day: pure, of what was done and
//! the time.
//!
//! A token bucket by the generic cell rate algorithm (ITU-T I.371): all that a minute allows may be done at once, and
//! then one more whenever its share of a minute has passed.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    time::{Duration, Instant},
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
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

/// What was used lately of something that is counted only when it has been used, such as tokens.
#[derive(Debug)]
pub struct Budgets<K> {
    /// When all of it will have been worth its time.
    due: BTreeMap<K, Instant>,
}

impl<K> Default for Budgets<K> {
    fn default() -> Self {
        Self { due: BTreeMap::new() }
    }
}

impl<K: Ord> Budgets<K> {
    /// Whether anything is left of a day's share: at first all of it, and what was used comes back over a day.
    ///
    /// # Errors
    /// The wait.
    pub fn left(&self, key: &K, now: Instant) -> Result<(), Duration> {
        let wait = self.due.get(key).and_then(|due| due.checked_duration_since(now)?.checked_sub(DAY));
        wait.filter(|wait| !wait.is_zero()).map_or(Ok(()), Err)
    }

    /// Counts what was used, though it were more than was left.
    pub fn charge(&mut self, key: K, used: u64, per_day: NonZeroU32, now: Instant) {
        let due = self.due.entry(key).or_insert(now);
        let worth = DAY * u32::try_from(used).unwrap_or(u32::MAX) / per_day.get();
        // A week at the most: whoever has used that much has used it all.
        *due = (*due).max(now) + worth.min(7 * DAY);
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
    fn a_budget_comes_back_over_a_day_and_may_be_overdrawn_once() {
        let (mut budgets, now) = (Budgets::default(), Instant::now());
        let thousand = NonZeroU32::new(1000).unwrap();
        let later = |hours: u64| now + Duration::from_secs(hours * 3600);
        assert_eq!(budgets.left(&"a", now), Ok(()));
        budgets.charge("a", 600, thousand, now);
        assert_eq!(budgets.left(&"a", now), Ok(()));
        budgets.charge("a", 900, thousand, now);
        assert_eq!(budgets.left(&"a", now), Err(Duration::from_secs(12 * 3600)), "half a day too much");
        assert_eq!(budgets.left(&"b", now), Ok(()), "each its own");
        budgets.left(&"a", later(11)).unwrap_err();
        assert_eq!(budgets.left(&"a", later(13)), Ok(()));
        budgets.charge("a", u64::MAX, thousand, later(100));
        budgets.left(&"a", later(200)).unwrap_err();
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
