//! What time it is: by the machine's clock, or by one that is set by hand.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::sync::watch;

/// How long one waits at the most before the clock is read again. A machine that was suspended, or whose clock was set,
/// tells nobody, and while it sleeps the time that is waited may stand still.
const LOOK: Duration = Duration::from_secs(60);

/// A clock. Clones of one that is set by hand are the same clock.
#[derive(Debug, Clone, Default)]
pub struct Clock(Option<Arc<Hand>>);

#[derive(Debug)]
struct Hand {
    born: Instant,
    began: u64,
    time: watch::Sender<u64>,
}

impl Clock {
    /// One that stands still until it is set: for tests. In milliseconds since the Unix epoch.
    #[must_use]
    pub fn by_hand(time: u64) -> Self {
        Self(Some(Arc::new(Hand { born: Instant::now(), began: time, time: watch::Sender::new(time) })))
    }

    /// Sets one that is set by hand; the machine's own is left as it is.
    pub fn set(&self, time: u64) {
        if let Some(hand) = &self.0 {
            hand.time.send_replace(time);
        }
    }

    /// Milliseconds since the Unix epoch. A clock that is set to before 1970 stands still.
    #[must_use]
    pub fn now(&self) -> u64 {
        u64::try_from(self.since_epoch().as_millis()).unwrap_or(u64::MAX)
    }

    /// The same, as exactly as it is known.
    pub(crate) fn since_epoch(&self) -> Duration {
        match &self.0 {
            Some(hand) => Duration::from_millis(*hand.time.borrow()),
            None => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        }
    }

    /// For what is measured, and no date.
    pub(crate) fn instant(&self) -> Instant {
        match &self.0 {
            Some(hand) => hand.born + Duration::from_millis(self.now().saturating_sub(hand.began)),
            None => Instant::now(),
        }
    }

    /// Waits until it is so late, or for a while: whoever waits looks again.
    pub(crate) async fn until(&self, time: Option<u64>) {
        if let Some(hand) = &self.0 {
            let mut changed = hand.time.subscribe();
            // It cannot be gone: this holds it.
            drop(changed.wait_for(|now| time.is_some_and(|time| *now >= time)).await);
        } else {
            let left = time.map_or(LOOK, |time| Duration::from_millis(time.saturating_sub(self.now())));
            tokio::time::sleep(left.min(LOOK)).await;
        }
    }
}
