//! How long to wait between two tries, where the other side does not say: half a second at first, in the end half a
//! minute to a minute, for ever, and spread, so that agents do not come back in step.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

const FIRST: Duration = Duration::from_millis(500);
/// The jitter adds up to as much again.
const LONGEST_BEFORE_JITTER: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_secs(60);

/// The waits of one thing that is tried again and again.
pub struct Backoff(ExponentialBackoff);

impl Default for Backoff {
    fn default() -> Self {
        let delays = ExponentialBuilder::default()
            .with_min_delay(FIRST)
            .with_max_delay(LONGEST_BEFORE_JITTER)
            .without_max_times();
        Self(delays.with_jitter().build())
    }
}

impl Backoff {
    /// The next wait: as asked, or longer than the one before.
    pub fn next(&mut self, asked: Option<Duration>) -> Duration {
        asked.or_else(|| self.0.next()).unwrap_or(LONGEST)
    }

    /// Waits, where nobody would be told of a longer wait: as asked, but a minute at most.
    pub async fn wait(&mut self, asked: Option<Duration>) {
        let delay = self.next(asked).min(LONGEST);
        tokio::time::sleep(delay).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An hour without network: soon at first, and then about once a minute.
    #[test]
    fn an_hour_is_some_eighty_tries() {
        let mut backoff = Backoff::default();
        let (mut waited, mut tries) = (Duration::ZERO, 0);
        while waited < Duration::from_secs(60 * 60) {
            let wait = backoff.next(None);
            assert!(wait >= FIRST && wait <= LONGEST, "{wait:?}");
            waited += wait;
            tries += 1;
        }
        assert!((60..=130).contains(&tries), "{tries}");
    }
}
