//! A new version is on trial for its first events: pure, of how these ended and of the time.
//!
//! What it faults at it is given once more, because a fault may have been the machine's. If it faults again, or has faulted
//! too often, the one before it decides: where that one ends well, the new one is to blame; where it faults too, the event is,
//! so that nobody can keep an update away with a message that no version bears.

use std::{
    fmt,
    time::{Duration, Instant},
};

/// Events that end well until it is accepted: a day of a small room, seconds of a busy one.
const WELL: u32 = 20;
/// So long after its first event it is accepted all the same: what it wrote cannot wait for ever.
const LONGEST: Duration = Duration::from_secs(10 * 60);
/// Faults at whatever events, of which each ended well when it was tried again.
const FAULTS: u32 = 3;

/// How a version on trial has been doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Trial {
    well: u32,
    faults: u32,
    began: Option<Instant>,
}

/// What to do after a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// It is given the same event once more.
    Again,
    /// The version before it is asked whether it does better.
    Compare,
}

impl Trial {
    /// An event has ended well.
    pub fn ended_well(&mut self, now: Instant) {
        self.well += 1;
        self.began.get_or_insert(now);
    }

    /// It has faulted, for the `nth` time at this event.
    pub fn faulted(&mut self, nth: u32, now: Instant) -> After {
        self.faults += 1;
        self.began.get_or_insert(now);
        if nth > 1 || self.faults >= FAULTS { After::Compare } else { After::Again }
    }

    /// It was the event's fault that it faulted so often.
    pub fn excused(&mut self, faults: u32) {
        self.faults = self.faults.saturating_sub(faults);
    }

    /// Whether it is over, and well.
    #[must_use]
    pub fn is_over(&self, now: Instant) -> bool {
        self.well >= WELL || self.began.is_some_and(|began| now.duration_since(began) >= LONGEST)
    }

    /// Events that have ended well.
    #[must_use]
    pub fn well(&self) -> u32 {
        self.well
    }
}

/// What a version on trial had written, and what is as it was before again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Undone {
    /// So many keys of what it remembers.
    pub keys: u64,
    /// So many timers that it had set, replaced or cancelled.
    pub timers: u64,
}

impl fmt::Display for Undone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { keys, timers } = self;
        write!(f, "what the new one wrote under {keys} keys")?;
        if *timers > 0 {
            write!(f, ", and of {timers} timers,")?;
        }
        f.write_str(" is dropped")
    }
}

/// How a call ended, as far as it tells whose fault that was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By no fault of the plugin's.
    Well,
    /// By an error of its own.
    Error,
    /// By a trap, or at a limit.
    Fault,
}

/// Whether the version before does better at an event at which the new one faults, by how that one ended when it was called
/// with nothing that reaches anybody. An error of its own may come from that, if it was denied something.
#[must_use]
pub fn does_better(before: Ended, was_denied: bool) -> bool {
    match before {
        Ended::Well => true,
        Ended::Error => was_denied,
        Ended::Fault => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_accepted_after_so_many_events_or_so_long() {
        let (mut trial, now) = (Trial::default(), Instant::now());
        assert!(!trial.is_over(now + LONGEST), "nothing has happened yet");
        for _ in 1..WELL {
            trial.ended_well(now);
        }
        assert!(!trial.is_over(now + LONGEST / 2) && trial.is_over(now + LONGEST));
        trial.ended_well(now);
        assert!(trial.is_over(now));
    }

    #[test]
    fn an_error_of_the_version_before_excuses_the_new_one_unless_something_was_denied() {
        for (before, was_denied, better) in [
            (Ended::Well, false, true),
            (Ended::Well, true, true),
            (Ended::Error, false, false),
            (Ended::Error, true, true),
            (Ended::Fault, false, false),
            (Ended::Fault, true, false),
        ] {
            assert_eq!(does_better(before, was_denied), better, "{before:?} {was_denied}");
        }
    }

    #[test]
    fn one_fault_is_forgiven_and_two_at_one_event_or_three_are_not() {
        let (mut trial, now) = (Trial::default(), Instant::now());
        assert_eq!(trial.faulted(1, now), After::Again);
        assert_eq!(trial.faulted(2, now), After::Compare);
        trial.excused(2);
        for expected in [After::Again, After::Again, After::Compare] {
            assert_eq!(trial.faulted(1, now), expected);
            trial.ended_well(now);
        }
    }
}
