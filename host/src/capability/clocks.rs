//! `wasi:clocks`: the time, rounded down. Who can measure nanoseconds can measure what others do on the same machine.
//!
//! The wall clock of a handler stands at the time at which that began, and moves to the time of each answer from outside: so
//! one that runs again sees the same. The monotonic clock goes on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use wasmtime_wasi::{
    HostMonotonicClock, HostWallClock, WasiCtxBuilder, p2::bindings::clocks::wall_clock::Datetime,
};

use crate::clock::Clock;

/// The clocks of one instance.
#[derive(Debug, Clone)]
pub struct Clocks {
    /// What time it is.
    wall: Clock,
    /// That of what is being handled, in milliseconds since 1970.
    handled: Option<Arc<AtomicI64>>,
    born: Instant,
    /// Nanoseconds, more than none and at most a second.
    step: u64,
}

impl Clocks {
    /// Clocks that are rounded down to this. Without a time of what is being handled, `wall` says what time it is.
    pub fn new(step: Duration, wall: Clock, handled: Option<Arc<AtomicI64>>) -> Self {
        let step = step.clamp(Duration::from_nanos(1), Duration::from_secs(1));
        Self { wall, handled, born: Instant::now(), step: u64::try_from(step.as_nanos()).unwrap_or(1) }
    }

    /// What time it is for a handler, in milliseconds since 1970.
    pub fn now(&self) -> u64 {
        u64::try_from(self.since_epoch().as_millis()).unwrap_or(u64::MAX)
    }

    fn since_epoch(&self) -> Duration {
        match &self.handled {
            Some(time) => Duration::from_millis(u64::try_from(time.load(Relaxed)).unwrap_or(0)),
            None => self.wall.since_epoch(),
        }
    }

    /// What a guest reads the time by.
    pub fn give(&self, wasi: &mut WasiCtxBuilder) {
        wasi.monotonic_clock(self.clone()).wall_clock(self.clone());
    }

    /// The same for when a file was changed.
    pub fn round(&self, time: Datetime) -> Datetime {
        let nanoseconds = u64::from(time.nanoseconds);
        let rounded = u32::try_from(nanoseconds - nanoseconds % self.step).unwrap_or(0);
        Datetime { nanoseconds: rounded, ..time }
    }
}

impl HostMonotonicClock for Clocks {
    fn resolution(&self) -> u64 {
        self.step
    }

    fn now(&self) -> u64 {
        let now = u64::try_from(self.born.elapsed().as_nanos()).unwrap_or(u64::MAX);
        now - now % self.step
    }
}

impl HostWallClock for Clocks {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(self.step)
    }

    fn now(&self) -> Duration {
        let now = self.since_epoch();
        let beyond = u64::from(now.subsec_nanos()) % self.step;
        now.saturating_sub(Duration::from_nanos(beyond))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_rounded_down() {
        let clocks = Clocks::new(Duration::from_millis(1), Clock::default(), None);
        for _ in 0..100 {
            assert_eq!(HostMonotonicClock::now(&clocks) % 1_000_000, 0);
            assert_eq!(HostWallClock::now(&clocks).subsec_nanos() % 1_000_000, 0);
        }
        let time = Datetime { seconds: 7, nanoseconds: 123_456_789 };
        assert_eq!(clocks.round(time).nanoseconds, 123_000_000);
        let exact = Clocks::new(Duration::ZERO, Clock::default(), None);
        assert_eq!(exact.round(time).nanoseconds, 123_456_789);
    }

    #[test]
    fn the_time_of_a_handler_stands() {
        let handled = Arc::new(AtomicI64::new(1_700_000_000_123));
        let clocks = Clocks::new(Duration::from_millis(1), Clock::default(), Some(handled.clone()));
        let now = || (HostWallClock::now(&clocks), clocks.now());
        assert_eq!(now(), (Duration::from_millis(1_700_000_000_123), 1_700_000_000_123));
        std::thread::sleep(Duration::from_millis(3));
        assert_eq!(now(), (Duration::from_millis(1_700_000_000_123), 1_700_000_000_123));
        handled.store(1_700_000_000_456, Relaxed);
        assert_eq!(now(), (Duration::from_millis(1_700_000_000_456), 1_700_000_000_456));
    }
}
