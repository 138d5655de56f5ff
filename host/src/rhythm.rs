//! When timers are due: pure, of a timer and the time.
//!
//! Times of the day follow the clock of their zone as cron does (<https://man7.org/linux/man-pages/man8/cron.8.html>,
//! "Daylight Saving Time"): one that is left out where clocks go forward is due when the gap ends, one that comes twice
//! is due the first time.

use std::time::Duration;

use croner::parser::{CronParser, Seconds, Year};
use jiff::{Timestamp, Zoned, tz::TimeZone};

use crate::{
    text,
    timer::{CatchUp, Rhythm, Timer},
};

/// What is late by less is on time: a host that is updated, or a machine that starts again, takes less.
pub const GRACE: Duration = Duration::from_secs(5 * 60);
/// How far ahead a timer is set at the most: a year, and the day that some have more.
pub const AHEAD: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// Times that were missed are caught up on so often.
const ALL: u32 = 100;
/// And counted so far.
const COUNTED: u32 = 1000;
/// Bytes of five fields, and of a zone's name.
const TEXT: usize = 256;

/// Five fields of cron, and the zone in which they are read.
#[derive(Debug)]
pub struct Every {
    cron: croner::Cron,
    zone: TimeZone,
}

impl Every {
    /// Reads them.
    ///
    /// # Errors
    /// One line.
    pub fn parse(cron: &str, zone: &str) -> Result<Self, String> {
        let unreadable = |reason: &str| {
            format!("{:?} is not five fields of cron such as 0 9 * * mon: {reason}", text::beginning(cron))
        };
        if cron.len() > TEXT || zone.len() > TEXT {
            return Err(unreadable("it is too long"));
        }
        // A shorthand such as @hourly would be one field, and hide how often it is due.
        if cron.split_whitespace().count() != 5 {
            return Err(unreadable("there are not five"));
        }
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let read = parser
            .parse(cron)
            .map_err(|error| unreadable(text::escaped(&error.to_string(), TEXT).trim_end_matches('.')))?;
        let zone = TimeZone::get(zone).map_err(|_| {
            format!("{:?} is not a time zone such as Europe/Berlin or UTC", text::beginning(zone))
        })?;
        Ok(Self { cron: read, zone })
    }

    /// The first time after this one; none where there is none in this era.
    pub fn after(&self, time: u64) -> Option<u64> {
        let found = self.cron.find_next_occurrence(&self.zoned(time)?, false).ok()?;
        milliseconds(&found)
    }

    /// The last time up to this one.
    fn last(&self, time: u64) -> Option<u64> {
        let found = self.cron.find_previous_occurrence(&self.zoned(time)?, true).ok()?;
        milliseconds(&found)
    }

    /// How many times there are from one to before another, counted up to a limit.
    fn count(&self, from: u64, to: u64) -> u32 {
        let (mut count, mut time) = (0, from);
        while time < to && count < COUNTED {
            count += 1;
            let Some(next) = self.after(time) else { break };
            time = next;
        }
        count
    }

    fn zoned(&self, time: u64) -> Option<Zoned> {
        let time = Timestamp::from_millisecond(i64::try_from(time).ok()?).ok()?;
        Some(time.to_zoned(self.zone.clone()))
    }
}

fn milliseconds(time: &Zoned) -> Option<u64> {
    u64::try_from(time.timestamp().as_millisecond()).ok()
}

/// What becomes of a timer that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Firing {
    /// For which time it is handled; not at all, where it is too late.
    pub due: Option<u64>,
    /// How many times before that are left out.
    pub missed: u32,
    /// When it is due again; none where it is over.
    pub next: Option<u64>,
}

/// Decides that, for a timer that is due by now.
#[must_use]
pub fn firing(timer: &Timer, now: u64) -> Firing {
    let on_time = |due: u64| u128::from(now.saturating_sub(due)) <= GRACE.as_millis();
    let once = |due: u64| (timer.catch_up != CatchUp::Skip || on_time(due)).then_some(due);
    let every = match &timer.rhythm {
        Rhythm::Once => None,
        // It was read when it was set.
        Rhythm::Every { cron, zone } => Every::parse(cron, zone).ok(),
    };
    let Some(every) = every else { return Firing { due: once(timer.next), missed: 0, next: None } };
    let from = timer.next;
    let last = every.last(now).filter(|last| *last > from).unwrap_or(from);
    if timer.catch_up != CatchUp::All {
        let (due, missed) = (once(last), every.count(from, last));
        return Firing { due, missed, next: every.after(now.max(last)) };
    }
    let mut due = last;
    for _ in 1..ALL {
        match every.last(due.saturating_sub(1)).filter(|before| *before >= from) {
            Some(before) => due = before,
            None => break,
        }
    }
    Firing { due: Some(due), missed: every.count(from, due), next: every.after(due) }
}

/// When a timer would be due next, had it been fired at this time; none where it is over then.
#[must_use]
pub fn after(timer: &Timer, time: u64) -> Option<u64> {
    match &timer.rhythm {
        Rhythm::Once => None,
        Rhythm::Every { cron, zone } => Every::parse(cron, zone).ok()?.after(time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{DeviceTrust, Room, Sender},
        settings::Role,
    };

    fn at(text: &str) -> u64 {
        milliseconds(&text.parse::<Timestamp>().unwrap().to_zoned(TimeZone::UTC)).unwrap()
    }

    fn told(time: u64) -> String {
        Timestamp::from_millisecond(i64::try_from(time).unwrap()).unwrap().to_string()
    }

    /// The times of a rhythm after one, in UTC.
    fn check(cron: &str, zone: &str, after: &str, expected: &[&str]) {
        let every = Every::parse(cron, zone).unwrap();
        let mut time = at(after);
        let mut found = Vec::new();
        for _ in expected {
            time = every.after(time).unwrap();
            assert_eq!(every.last(time), Some(time), "{cron}: it is the last up to itself");
            if let Some(before) = found.last() {
                assert_eq!(
                    every.last(time - 1).map(told).as_ref(),
                    Some(before),
                    "{cron}: and that one before it"
                );
            }
            found.push(told(time));
        }
        assert_eq!(found, expected, "{cron} in {zone}");
    }

    #[test]
    fn times_of_the_day_follow_their_zone() {
        let berlin = "Europe/Berlin";
        // Winter, the change to summer on 29 March, and back on 25 October.
        check(
            "0 9 * * mon",
            berlin,
            "2026-11-20T00:00:00Z",
            &["2026-11-23T08:00:00Z", "2026-11-30T08:00:00Z"],
        );
        check(
            "0 9 * * *",
            berlin,
            "2026-03-27T12:00:00Z",
            &["2026-03-28T08:00:00Z", "2026-03-29T07:00:00Z", "2026-03-30T07:00:00Z"],
        );
        check(
            "0 9 * * *",
            berlin,
            "2026-10-23T12:00:00Z",
            &["2026-10-24T07:00:00Z", "2026-10-25T08:00:00Z", "2026-10-26T08:00:00Z"],
        );
        check("0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", &["2028-02-29T00:00:00Z"]);
    }

    #[test]
    fn a_time_that_is_left_out_is_due_when_the_gap_ends() {
        // 02:30 is not there on 29 March.
        check(
            "30 2 * * *",
            "Europe/Berlin",
            "2026-03-28T00:00:00Z",
            &["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"],
        );
        // A rhythm leaves out what is not there.
        check(
            "*/30 * * * *",
            "Europe/Berlin",
            "2026-03-29T00:15:00Z",
            &["2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"],
        );
    }

    #[test]
    fn a_time_that_comes_twice_is_due_once() {
        // 02:30 is there at 00:30 and at 01:30 UTC on 25 October.
        check(
            "30 2 * * *",
            "Europe/Berlin",
            "2026-10-24T12:00:00Z",
            &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"],
        );
        check(
            "30 * * * *",
            "Europe/Berlin",
            "2026-10-24T23:45:00Z",
            &["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"],
        );
    }

    #[test]
    fn what_cannot_be_read_is_said_in_one_line() {
        for (cron, zone, expected) in [
            (
                "* * * *",
                "UTC",
                "\"* * * *\" is not five fields of cron such as 0 9 * * mon: there are not five",
            ),
            ("*/5 * * * * *", "UTC", "there are not five"),
            ("@hourly", "UTC", "there are not five"),
            ("61 * * * *", "UTC", "is not five fields of cron"),
            ("a\u{1b} * * * *", "UTC", "is not five fields of cron"),
            ("* * * * *", "Mars/Olympus", "\"Mars/Olympus\" is not a time zone such as Europe/Berlin or UTC"),
            ("* * * * *", "", "\"\" is not a time zone"),
            ("* * * * *", "../../etc/passwd", "is not a time zone"),
        ] {
            let error = Every::parse(cron, zone).unwrap_err();
            assert!(error.contains(expected) && error.lines().count() == 1, "{error}");
            assert!(!error.contains('\u{1b}'), "{error:?}");
        }
        let long = Every::parse(&"*,".repeat(100_000), "UTC").unwrap_err();
        assert!(long.len() < 500, "{long}");
    }

    /// A day that never comes is looked for until the year 5000, which must not take long: nobody can end it.
    #[test]
    fn what_never_comes_is_found_out_quickly() {
        let begun = std::time::Instant::now();
        assert_eq!(
            Every::parse("0 0 31 2 *", "Europe/Berlin").unwrap().after(at("2026-01-01T00:00:00Z")),
            None
        );
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }

    fn timer(rhythm: Option<&str>, catch_up: CatchUp, next: &str) -> Timer {
        let sender = Sender {
            id: "@alice:example.org".parse().unwrap(),
            display_name: None,
            device: DeviceTrust::Cleartext,
        };
        Timer {
            id: "d.0".into(),
            plugin: "remind".parse().unwrap(),
            session: "!r".parse().unwrap(),
            key: "k".into(),
            room: Room { id: "!r".parse().unwrap(), direct: true, encrypted: false },
            thread: None,
            sender,
            role: Role::User,
            payload: String::new(),
            rhythm: rhythm
                .map_or(Rhythm::Once, |cron| Rhythm::Every { cron: cron.into(), zone: "UTC".into() }),
            catch_up,
            next: at(next),
        }
    }

    fn fired(rhythm: Option<&str>, catch_up: CatchUp, now: &str) -> (Option<String>, u32, Option<String>) {
        let Firing { due, missed, next } = firing(&timer(rhythm, catch_up, "2026-01-01T09:00:00Z"), at(now));
        (due.map(told), missed, next.map(told))
    }

    #[test]
    fn what_is_on_time_is_due_whatever_the_rule() {
        for rule in [CatchUp::Skip, CatchUp::Once, CatchUp::All] {
            for now in ["2026-01-01T09:00:00Z", "2026-01-01T09:05:00Z"] {
                let due = Some("2026-01-01T09:00:00Z".to_owned());
                assert_eq!(fired(None, rule, now), (due.clone(), 0, None));
                let next = Some("2026-01-02T09:00:00Z".to_owned());
                assert_eq!(fired(Some("0 9 * * *"), rule, now), (due, 0, next), "{rule:?}");
            }
        }
    }

    #[test]
    fn what_was_missed_follows_its_rule() {
        let text = |text: &str| Some(text.to_owned());
        // Three days later, at noon: 1, 2, 3 and 4 January were missed.
        let (now, next) = ("2026-01-04T12:00:00Z", text("2026-01-05T09:00:00Z"));
        let daily = Some("0 9 * * *");
        assert_eq!(fired(daily, CatchUp::Skip, now), (None, 3, next.clone()));
        assert_eq!(fired(daily, CatchUp::Once, now), (text("2026-01-04T09:00:00Z"), 3, next));
        let second = text("2026-01-02T09:00:00Z");
        assert_eq!(fired(daily, CatchUp::All, now), (text("2026-01-01T09:00:00Z"), 0, second));
        // The last one is on time: only those before it were missed.
        let (due, next) = (text("2026-01-04T09:00:00Z"), text("2026-01-05T09:00:00Z"));
        assert_eq!(fired(daily, CatchUp::Skip, "2026-01-04T09:01:00Z"), (due, 3, next));
        assert_eq!(fired(None, CatchUp::Skip, now), (None, 0, None));
        for rule in [CatchUp::Once, CatchUp::All] {
            assert_eq!(fired(None, rule, now), (text("2026-01-01T09:00:00Z"), 0, None));
        }
    }

    #[test]
    fn a_year_of_minutes_is_bounded() {
        let minutes = Some("* * * * *");
        let begun = std::time::Instant::now();
        let (due, missed, next) = fired(minutes, CatchUp::All, "2027-01-01T09:00:30Z");
        assert_eq!(due.as_deref(), Some("2027-01-01T07:21:00Z"), "a hundred, the last of them at nine");
        assert_eq!((missed, next.as_deref()), (1000, Some("2027-01-01T07:22:00Z")));
        let (due, missed, next) = fired(minutes, CatchUp::Once, "2027-01-01T09:00:30Z");
        assert_eq!(due.as_deref(), Some("2027-01-01T09:00:00Z"));
        assert_eq!((missed, next.as_deref()), (1000, Some("2027-01-01T09:01:00Z")));
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }

    /// `all` handles each once, in order, and ends at the present.
    #[test]
    fn all_catches_up_one_after_the_other() {
        let mut timer = timer(Some("0 * * * *"), CatchUp::All, "2026-01-01T09:00:00Z");
        let now = at("2026-01-01T13:30:00Z");
        let mut due = Vec::new();
        while timer.next <= now {
            let firing = firing(&timer, now);
            assert_eq!(firing.missed, 0);
            due.push(told(firing.due.unwrap()));
            timer.next = firing.next.unwrap();
        }
        let hours = [9, 10, 11, 12, 13].map(|hour| format!("2026-01-01T{hour:02}:00:00Z"));
        assert_eq!(due, hours);
        assert_eq!(told(timer.next), "2026-01-01T14:00:00Z");
    }
}
