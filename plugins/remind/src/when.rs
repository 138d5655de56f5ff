//! Times as people write them: `in 10m`, `tomorrow 9:00`, `every monday 9:00`. Text in, a time out; what time it is now, and
//! in which zone, is the caller's business.

use jiff::{
    Span, Zoned,
    civil::{Date, Time, Weekday, time},
};

/// Where only a day is said.
const MORNING: Time = time(9, 0, 0, 0);
const EVENING: Time = time(20, 0, 0, 0);
/// Words of which a duration may consist: `1 week, 2 days and 3 hours` has more than anybody types.
const DURATION: usize = 6;
const EXAMPLES: &str =
    "try /remind in 10m tea, /remind tomorrow 9:00 call Bob, or /remind every monday 9:00 stand-up";

/// When somebody wants to be reminded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum When {
    Once(Zoned),
    Every {
        /// Five fields.
        cron: String,
        /// How a person says it.
        words: String,
    },
}

/// Reads a time and what is behind it: of what to remind. The error is a line for the person who wrote it.
pub(crate) fn read(text: &str, now: &Zoned) -> Result<(When, String), String> {
    let mut words = Words { words: text.split_whitespace().collect(), at: 0 };
    words.skip(&["me"]);
    let unknown = || format!("I do not know when that is; {EXAMPLES}");
    let when = if words.skip(&["in"]) {
        When::Once(duration(&mut words, now)?)
    } else if words.skip(&["every"]) {
        every(&mut words)?
    } else if let Some((day, usual)) = day(&mut words, now)? {
        let time = time_of(&mut words).unwrap_or(usual);
        When::Once(zoned(day, time, now)?)
    } else {
        let said = words.skip(&["at"]);
        let time = clock(&mut words, said).ok_or_else(unknown)?;
        let today = now.date();
        let day = if time > now.time() { today } else { tomorrow(today)? };
        When::Once(zoned(day, time, now)?)
    };
    if let When::Once(when) = &when
        && when <= now
    {
        return Err(format!("that is past already; {EXAMPLES}"));
    }
    words.skip(&["to", "that", "about", "of"]);
    let what = words.rest();
    if what.is_empty() {
        return Err("of what shall I remind you? Such as /remind in 10m tea".into());
    }
    Ok((when, what))
}

/// A time as a person reads it: `Monday, 23 November at 09:00`, with the year where it is another one.
pub(crate) fn told(when: &Zoned, now: &Zoned) -> String {
    let format = if when.year() == now.year() { "%A, %-d %B at %H:%M" } else { "%A, %-d %B %Y at %H:%M" };
    when.strftime(format).to_string()
}

struct Words<'a> {
    words: Vec<&'a str>,
    at: usize,
}

impl<'a> Words<'a> {
    fn peek(&self) -> Option<String> {
        self.words.get(self.at).map(|word| word.trim_end_matches([',', ':']).to_lowercase())
    }

    /// Goes on behind one of these words, if it is one.
    fn skip(&mut self, any: &[&str]) -> bool {
        let found = self.peek().is_some_and(|word| any.contains(&word.as_str()));
        self.at += usize::from(found);
        found
    }

    fn rest(&self) -> String {
        self.words[self.at..].join(" ")
    }
}

/// The longest beginning that is a duration.
fn duration(words: &mut Words<'_>, now: &Zoned) -> Result<Zoned, String> {
    let left = &words.words[words.at..];
    let most = left.len().min(DURATION);
    let found = (1..=most).rev().find_map(|count| {
        let plain: Vec<&str> = left[..count].iter().map(|word| word.trim_end_matches([',', ':'])).collect();
        let text = plain.join(" ").to_lowercase().replace(" and ", " ");
        let text = match text.as_str() {
            "an hour" => "1 hour",
            "a minute" => "1 minute",
            "a day" => "1 day",
            "a week" => "1 week",
            text => text,
        };
        text.parse::<Span>().ok().map(|span| (count, span))
    });
    let (count, span) = found.ok_or("I do not know how long that is; try /remind in 1h 30m tea")?;
    words.at += count;
    now.checked_add(span).map_err(|_| "that is too far away; a year is the most".to_owned())
}

/// A day, if the next words name one, and the time where none is said.
fn day(words: &mut Words<'_>, now: &Zoned) -> Result<Option<(Date, Time)>, String> {
    let (before, today) = (words.at, now.date());
    let said = words.skip(&["on", "next"]);
    let Some(word) = words.peek() else { return Ok(None) };
    let date = match word.as_str() {
        "today" => Some((today, MORNING)),
        "tonight" => Some((today, EVENING)),
        "tomorrow" => Some((tomorrow(today)?, MORNING)),
        word => match (weekday(word), word.parse::<Date>()) {
            (Some(weekday), _) => Some((coming(weekday, words, now)?, MORNING)),
            (None, Ok(date)) => Some((date, MORNING)),
            (None, Err(_)) if said => {
                return Err(format!("{word:?} is no day; say monday, or 2026-12-24"));
            }
            (None, Err(_)) => None,
        },
    };
    match date {
        Some(_) => words.at += 1,
        None => words.at = before,
    }
    Ok(date)
}

/// The next such day: today, if its time is still to come.
fn coming(weekday: Weekday, words: &Words<'_>, now: &Zoned) -> Result<Date, String> {
    let today = now.date();
    if today.weekday() == weekday {
        let mut ahead = Words { words: words.words.clone(), at: words.at + 1 };
        let time = time_of(&mut ahead).unwrap_or(MORNING);
        if time > now.time() {
            return Ok(today);
        }
    }
    today.nth_weekday(1, weekday).map_err(|error| error.to_string())
}

fn time_of(words: &mut Words<'_>) -> Option<Time> {
    let before = words.at;
    let said = words.skip(&["at"]);
    let time = clock(words, said);
    if time.is_none() {
        words.at = before;
    }
    time
}

/// A time of the day: `9:00`, `9am`, `noon`; `9` only where somebody said that it is one.
fn clock(words: &mut Words<'_>, said: bool) -> Option<Time> {
    let word = words.peek()?;
    let (mut digits, mut shift) = (word.as_str(), None);
    for (ending, hours) in [("am", 0), ("pm", 12)] {
        if let Some(rest) = word.strip_suffix(ending) {
            (digits, shift) = (rest, Some(hours));
        }
    }
    let time = match (word.as_str(), digits.split_once(':')) {
        ("noon", _) => Time::new(12, 0, 0, 0).ok(),
        ("midnight", _) => Time::new(0, 0, 0, 0).ok(),
        (_, Some((hour, minute))) if minute.len() == 2 => read_clock(hour, minute, shift),
        (_, None) if shift.is_some() || said => read_clock(digits, "0", shift),
        _ => None,
    };
    if time.is_some() {
        words.at += 1;
        // `9:00 pm`.
        if shift.is_none() && word.contains(':') {
            let later = time.filter(|time| (1..=12).contains(&time.hour()));
            if let (Some(time), Some(half)) =
                (later, words.peek().filter(|word| word == "am" || word == "pm"))
            {
                words.at += 1;
                let hour = time.hour() % 12 + if half == "pm" { 12 } else { 0 };
                return Time::new(hour, time.minute(), 0, 0).ok();
            }
        }
    }
    time
}

fn read_clock(hour: &str, minute: &str, shift: Option<i8>) -> Option<Time> {
    let digits = |text: &str| (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(hour) || !digits(minute) {
        return None;
    }
    let (hour, minute): (i8, i8) = (hour.parse().ok()?, minute.parse().ok()?);
    let hour = match shift {
        Some(shift) if (1..=12).contains(&hour) => hour % 12 + shift,
        Some(_) => return None,
        None => hour,
    };
    Time::new(hour, minute, 0, 0).ok()
}

/// What comes again: `monday 9:00`, `mon and thu 9:00`, `day 9:00`, `weekday`, `hour`, `15 minutes`.
fn every(words: &mut Words<'_>) -> Result<When, String> {
    let unknown = || "I do not know how often that is; try /remind every monday 9:00 stand-up".to_owned();
    let word = words.peek().ok_or_else(unknown)?;
    if let Ok(count) = word.parse::<u32>() {
        words.at += 1;
        let (minutes, hours) =
            (words.skip(&["minutes", "minute", "min", "m"]), words.skip(&["hours", "hour", "h"]));
        return match (minutes, hours) {
            (true, _) if count > 0 && 60 % count == 0 && count < 60 => Ok(When::Every {
                cron: format!("*/{count} * * * *"),
                words: format!("every {count} minutes"),
            }),
            (_, true) if count > 0 && 24 % count == 0 && count < 24 => {
                Ok(When::Every { cron: format!("0 */{count} * * *"), words: format!("every {count} hours") })
            }
            (true, _) => {
                Err("minutes come round within an hour: say every 5, 10, 15, 20 or 30 minutes".into())
            }
            (_, true) => Err("hours come round within a day: say every 2, 3, 4, 6, 8 or 12 hours".into()),
            _ => Err(unknown()),
        };
    }
    if words.skip(&["hour"]) {
        return Ok(When::Every { cron: "0 * * * *".into(), words: "every hour".into() });
    }
    let (days, said) = if words.skip(&["day", "morning"]) {
        ("*".to_owned(), "every day".to_owned())
    } else if words.skip(&["weekday", "workday"]) {
        ("mon-fri".to_owned(), "every weekday".to_owned())
    } else if words.skip(&["weekend"]) {
        ("sat,sun".to_owned(), "every weekend".to_owned())
    } else {
        let mut days: Vec<Weekday> = Vec::new();
        while let Some(more) = words.peek().and_then(|word| weekdays(&word)) {
            words.at += 1;
            days.extend(more);
            words.skip(&["and", "&"]);
        }
        if days.is_empty() {
            return Err(unknown());
        }
        days.sort_by_key(|day| day.to_monday_zero_offset());
        days.dedup();
        let short = days.iter().map(|day| name(*day)[..3].to_lowercase()).collect::<Vec<_>>().join(",");
        let long = days.iter().map(|day| name(*day)).collect::<Vec<_>>();
        (short, format!("every {}", listed(&long)))
    };
    let time = time_of(words).unwrap_or(MORNING);
    Ok(When::Every {
        cron: format!("{} {} * * {days}", time.minute(), time.hour()),
        words: format!("{said} at {:02}:{:02}", time.hour(), time.minute()),
    })
}

/// `mon,thu` is one word.
fn weekdays(word: &str) -> Option<Vec<Weekday>> {
    word.split(',').map(weekday).collect()
}

fn weekday(word: &str) -> Option<Weekday> {
    let word = word.strip_suffix('s').filter(|word| word.ends_with("day")).unwrap_or(word);
    Some(match word {
        "monday" | "mon" => Weekday::Monday,
        "tuesday" | "tue" | "tues" => Weekday::Tuesday,
        "wednesday" | "wed" => Weekday::Wednesday,
        "thursday" | "thu" | "thur" | "thurs" => Weekday::Thursday,
        "friday" | "fri" => Weekday::Friday,
        "saturday" | "sat" => Weekday::Saturday,
        "sunday" | "sun" => Weekday::Sunday,
        _ => return None,
    })
}

fn name(day: Weekday) -> &'static str {
    match day {
        Weekday::Monday => "Monday",
        Weekday::Tuesday => "Tuesday",
        Weekday::Wednesday => "Wednesday",
        Weekday::Thursday => "Thursday",
        Weekday::Friday => "Friday",
        Weekday::Saturday => "Saturday",
        Weekday::Sunday => "Sunday",
    }
}

fn listed(names: &[&str]) -> String {
    match names {
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
        [] => String::new(),
    }
}

fn tomorrow(today: Date) -> Result<Date, String> {
    today.tomorrow().map_err(|error| error.to_string())
}

/// A time of the day that is left out where clocks go forward is an hour later; one that comes twice is the first.
fn zoned(day: Date, time: Time, now: &Zoned) -> Result<Zoned, String> {
    day.to_datetime(time).to_zoned(now.time_zone().clone()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Sunday.
    const NOW: &str = "2026-11-22T17:00:00[Europe/Berlin]";

    fn check_at(now: &str, text: &str, expected: &str) {
        let now: Zoned = now.parse().unwrap();
        let said = match read(text, &now) {
            Ok((When::Once(when), what)) => format!("{}: {what}", told(&when, &now)),
            Ok((When::Every { cron, words }, what)) => format!("{cron} ({words}): {what}"),
            Err(line) => line,
        };
        assert_eq!(said, expected, "{text}");
    }

    fn check(text: &str, expected: &str) {
        check_at(NOW, text, expected);
    }

    #[test]
    fn after_a_while() {
        check("in 10m tea", "Sunday, 22 November at 17:10: tea");
        check("me in 1h 30m to drink tea", "Sunday, 22 November at 18:30: drink tea");
        check("in 2 hours and 5 minutes call Bob", "Sunday, 22 November at 19:05: call Bob");
        check("in an hour: look", "Sunday, 22 November at 18:00: look");
        check("in an hour look", "Sunday, 22 November at 18:00: look");
        check("IN 3 Days pay", "Wednesday, 25 November at 17:00: pay");
        check("in 6 weeks renew", "Sunday, 3 January 2027 at 17:00: renew");
        check("in a while tea", "I do not know how long that is; try /remind in 1h 30m tea");
        check(
            "in -10m tea",
            "that is past already; try /remind in 10m tea, /remind tomorrow 9:00 call Bob, or /remind every monday 9:00 stand-up",
        );
    }

    #[test]
    fn on_a_day() {
        check("tomorrow 9:00 call Bob", "Monday, 23 November at 09:00: call Bob");
        check("tomorrow at 9 call Bob", "Monday, 23 November at 09:00: call Bob");
        check("tomorrow call Bob at 9:00", "Monday, 23 November at 09:00: call Bob at 9:00");
        check("tomorrow at noon eat", "Monday, 23 November at 12:00: eat");
        check("monday 9am stand-up", "Monday, 23 November at 09:00: stand-up");
        check("on friday at 9:30 pm the show", "Friday, 27 November at 21:30: the show");
        check("sunday 18:00 tonight", "Sunday, 22 November at 18:00: tonight");
        check("sunday 16:00 in a week", "Sunday, 29 November at 16:00: in a week");
        check("2026-12-24 18:00 candles", "Thursday, 24 December at 18:00: candles");
        check("on 2027-01-01 sleep", "Friday, 1 January 2027 at 09:00: sleep");
        check("tonight watch it", "Sunday, 22 November at 20:00: watch it");
        check("at 18:00 news", "Sunday, 22 November at 18:00: news");
        check("16:00 news", "Monday, 23 November at 16:00: news");
        check("12am sleep", "Monday, 23 November at 00:00: sleep");
        check("on someday x", "\"someday\" is no day; say monday, or 2026-12-24");
    }

    #[test]
    fn again_and_again() {
        check("every monday 9:00 stand-up", "0 9 * * mon (every Monday at 09:00): stand-up");
        check("every monday stand-up", "0 9 * * mon (every Monday at 09:00): stand-up");
        check(
            "every thu, mon and tue at 8pm run",
            "0 20 * * mon,tue,thu (every Monday, Tuesday and Thursday at 20:00): run",
        );
        check("every mon,fri 9:15 talk", "15 9 * * mon,fri (every Monday and Friday at 09:15): talk");
        check("every day 7:05 wake", "5 7 * * * (every day at 07:05): wake");
        check("every weekday 9:00 work", "0 9 * * mon-fri (every weekday at 09:00): work");
        check("every 15 minutes blink", "*/15 * * * * (every 15 minutes): blink");
        check("every 2 hours walk", "0 */2 * * * (every 2 hours): walk");
        check("every hour walk", "0 * * * * (every hour): walk");
        check(
            "every 7 minutes x",
            "minutes come round within an hour: say every 5, 10, 15, 20 or 30 minutes",
        );
        check("every 5 hours x", "hours come round within a day: say every 2, 3, 4, 6, 8 or 12 hours");
        check(
            "every now and then x",
            "I do not know how often that is; try /remind every monday 9:00 stand-up",
        );
    }

    #[test]
    fn what_is_no_time_is_explained() {
        let unknown = "I do not know when that is; try /remind in 10m tea, /remind tomorrow 9:00 call Bob, or /remind every monday 9:00 stand-up";
        for text in ["tomorow 9:00 x", "tea", "", "9 x", "25:00 x", "9:61 x", "13pm x", "9:5 x", "٩:٠٠ x"]
        {
            check(text, unknown);
        }
        check("in 10m", "of what shall I remind you? Such as /remind in 10m tea");
        check("tomorrow 9:00", "of what shall I remind you? Such as /remind in 10m tea");
        check(
            "2020-01-01 x",
            "that is past already; try /remind in 10m tea, /remind tomorrow 9:00 call Bob, or /remind every monday 9:00 stand-up",
        );
    }

    #[test]
    fn clocks_that_change() {
        let before = "2026-03-28T12:00:00[Europe/Berlin]";
        check_at(before, "tomorrow 9:00 x", "Sunday, 29 March at 09:00: x");
        check_at(before, "in 1 day x", "Sunday, 29 March at 12:00: x");
        check_at(before, "tomorrow 2:30 x", "Sunday, 29 March at 03:30: x");
        let now: Zoned = "2026-10-24T12:00:00[Europe/Berlin]".parse().unwrap();
        let (When::Once(when), _) = read("tomorrow 2:30 x", &now).unwrap() else { panic!("it comes once") };
        assert_eq!(when.timestamp().to_string(), "2026-10-25T00:30:00Z");
    }
}
