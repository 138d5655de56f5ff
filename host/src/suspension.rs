//! When a plugin that faults again and again rests, and for how long: pure, of the faults and the time.

use std::time::{Duration, Instant};

/// Faults in a row after which it rests: a bad message or two are nobody's fault but theirs.
const FAULTS: u32 = 5;
/// It rests so long at first, and doubly so each time that it comes back and faults at once.
const FIRST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// How a plugin has been doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Suspension {
    /// Since it last ended well.
    faults: u32,
    /// How often it was suspended since then.
    times: u32,
    until: Option<Instant>,
}

impl Suspension {
    /// How much longer it rests.
    #[must_use]
    pub fn left(&self, now: Instant) -> Option<Duration> {
        self.until.and_then(|until| until.checked_duration_since(now)).filter(|left| !left.is_zero())
    }

    /// It has faulted; answers how long it rests from now on, if this was once too often.
    pub fn faulted(&mut self, now: Instant) -> Option<Duration> {
        self.faults += 1;
        // What was under way when it was suspended changes nothing; what is tried after a rest has one try.
        if self.left(now).is_some() || (self.times == 0 && self.faults < FAULTS) {
            return None;
        }
        let rest = FIRST.saturating_mul(2_u32.saturating_pow(self.times)).min(LONGEST);
        self.times += 1;
        self.until = Some(now + rest);
        Some(rest)
    }

    /// It has ended well; answers whether that is news.
    pub fn ended_well(&mut self, now: Instant) -> bool {
        if self.left(now).is_some() {
            return false;
        }
        std::mem::take(self).times > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rests_after_five_faults_in_a_row_and_longer_each_time() {
        let mut plugin = Suspension::default();
        let start = Instant::now();
        for _ in 0..4 {
            assert_eq!(plugin.faulted(start), None);
        }
        assert!(!plugin.ended_well(start), "four are forgotten");
        for _ in 0..4 {
            assert_eq!(plugin.faulted(start), None);
        }
        assert_eq!(plugin.left(start), None);
        assert_eq!(plugin.faulted(start), Some(FIRST));
        assert_eq!(plugin.left(start), Some(FIRST));
        assert_eq!(plugin.faulted(start), None, "said once");
        assert!(!plugin.ended_well(start), "what was under way");

        let again = start + FIRST;
        assert_eq!(plugin.left(again), None);
        assert_eq!(plugin.faulted(again), Some(FIRST * 2), "one try");
        let mut now = again;
        for _ in 0..10 {
            now += LONGEST;
            plugin.faulted(now);
        }
        assert_eq!(plugin.left(now), Some(LONGEST));
        assert!(plugin.ended_well(now + LONGEST));
        assert_eq!(plugin, Suspension::default());
    }
}
