//! `wasi:clocks`: the time, rounded down. Who can measure nanoseconds can measure what others do on the same machine.

use std::time::{Duration, Instant};

use wasmtime_wasi::{
    HostMonotonicClock, HostWallClock, WasiCtxBuilder, p2::bindings::clocks::wall_clock::Datetime,
};

use crate::clock::Clock;

/// The clocks of one instance.
#[derive(Debug, Clone)]
pub struct Clocks {
    /// What time it is.
    pub wall: Clock,
    born: Instant,
    /// Nanoseconds, more than none and at most a second.
    step: u64,
}

impl Clocks {
    /// Clocks that are rounded down to this.
    pub fn new(step: Duration, wall: Clock) -> Self {
        let step = step.clamp(Duration::from_nanos(1), Duration::from_secs(1));
        Self { wall, born: Instant::now(), step: u64::try_from(step.as_nanos()).unwrap_or(1) }
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
        let now = self.wall.since_epoch();
        let beyond = u64::from(now.subsec_nanos()) % self.step;
        now.saturating_sub(Duration::from_nanos(beyond))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_rounded_down() {
        let clocks = Clocks::new(Duration::from_millis(1), Clock::default());
        for _ in 0..100 {
            assert_eq!(HostMonotonicClock::now(&clocks) % 1_000_000, 0);
            assert_eq!(HostWallClock::now(&clocks).subsec_nanos() % 1_000_000, 0);
        }
        let time = Datetime { seconds: 7, nanoseconds: 123_456_789 };
        assert_eq!(clocks.round(time).nanoseconds, 123_000_000);
        assert_eq!(Clocks::new(Duration::ZERO, Clock::default()).round(time).nanoseconds, 123_456_789);
    }
}
