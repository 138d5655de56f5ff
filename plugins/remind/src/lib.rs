//! `/remind in 10m TEXT`, `/remind tomorrow 9:00 TEXT` and `/remind every monday 9:00 TEXT` remind of something, in the
//! conversation in which they are typed; `/reminders` lists them, and `/forget 3` forgets one.

mod when;

use jiff::{Timestamp, Zoned, tz::TimeZone};
use parlour_plugin::{prelude::*, schedule::CatchUp};
use when::When;

const ZONE: &str = "timezone";
/// What is later than this says so.
const LATE: f64 = 5.0 * 60.0 * 1000.0;

struct Remind;

impl Commands for Remind {
    fn list_commands() -> Vec<Command> {
        vec![
            Command::new("remind", "Reminds you of something, here").rest(
                "when",
                "Such as: in 10m tea, tomorrow 9:00 call Bob, every monday 9:00 stand-up; or: timezone Europe/Berlin",
            ),
            Command::new("reminders", "Lists what I am to remind you of, here"),
            Command::new("forget", "Forgets one of your reminders")
                .parameter(Parameter::integer("number", "As /reminders lists it")),
        ]
    }

    fn run(call: Invocation) -> Result<(), Error> {
        let said = match call.name.as_str() {
            "remind" => match call.rest.strip_prefix("timezone").map(str::trim) {
                Some(name) => set_zone(name)?,
                None => remind(&call.rest)?,
            },
            "reminders" => list()?,
            _ => forget(call.argument("number").unwrap_or_default())?,
        };
        outbox::say(said)?;
        Ok(())
    }
}

impl Timers for Remind {
    fn on_timer(firing: Firing) -> Result<(), Error> {
        let Reminder { text, .. } = Reminder::read(&firing.payload);
        // Elsewhere than in a direct chat, others see it too.
        let whom = match firing.sender.display_name {
            _ if firing.conversation.direct => String::new(),
            Some(name) => format!("{name}: "),
            None => format!("{}: ", firing.sender.id),
        };
        let mut said = format!("{whom}Reminder: {text}");
        if schedule::now() - firing.due > LATE {
            let (now, due) = (now()?, zoned(firing.due)?);
            said.push_str(&format!(" (this was for {})", when::told(&due, &now)));
        }
        outbox::say(said)?;
        Ok(())
    }
}

/// What a timer of ours carries.
struct Reminder<'a> {
    /// How often it comes, where it comes again.
    words: &'a str,
    text: &'a str,
}

impl<'a> Reminder<'a> {
    fn read(payload: &'a str) -> Self {
        let (words, text) = payload.split_once('\n').unwrap_or(("", payload));
        Self { words, text }
    }
}

fn remind(text: &str) -> Result<String, Error> {
    let now = now()?;
    let zone = now.time_zone().iana_name().unwrap_or("UTC").to_owned();
    let (when, text) = when::read(text, &now).map_err(Error::invalid)?;
    match when {
        When::Once(when) => {
            let time = when.timestamp().as_millisecond() as f64;
            schedule::at(None, time, &format!("\n{text}"), CatchUp::Once)?;
            Ok(format!("I will remind you on {} ({zone}).", when::told(&when, &now)))
        }
        When::Every { cron, words } => {
            let timer = schedule::every(None, &cron, &zone, &format!("{words}\n{text}"), CatchUp::Once)?;
            let next = when::told(&zoned(timer.next)?, &now);
            Ok(format!("I will remind you {words} ({zone}), next on {next}."))
        }
    }
}

fn list() -> Result<String, Error> {
    let timers = schedule::list()?;
    if timers.is_empty() {
        return Ok("I have nothing to remind you of here.".into());
    }
    let now = now()?;
    let mut lines = vec![format!("In {}:", now.time_zone().iana_name().unwrap_or("UTC"))];
    for (number, timer) in (1..).zip(&timers) {
        let Reminder { words, text } = Reminder::read(&timer.payload);
        let again = if words.is_empty() { String::new() } else { format!(" ({words})") };
        lines.push(format!("{number}. {}: {text}{again}", when::told(&zoned(timer.next)?, &now)));
    }
    Ok(lines.join("\n"))
}

fn forget(number: &str) -> Result<String, Error> {
    let timers = schedule::list()?;
    let at = number.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
    let timer = at.and_then(|at| timers.get(at)).ok_or_else(|| {
        let there = match timers.len() {
            0 => "there are none here".to_owned(),
            count => format!("the last is {count}"),
        };
        Error::not_found(format!("there is no reminder {number}; {there}"))
    })?;
    schedule::cancel(&timer.key)?;
    Ok(format!("I will not remind you of this: {}", Reminder::read(&timer.payload).text))
}

fn set_zone(name: &str) -> Result<String, Error> {
    if name.is_empty() {
        let now = now()?;
        let zone = now.time_zone().iana_name().unwrap_or("UTC").to_owned();
        return Ok(format!("Your time zone is {zone}, where it is {}.", now.strftime("%H:%M")));
    }
    let zone = TimeZone::get(name).map_err(|_| {
        Error::invalid(format!("{name:?} is no time zone; try /remind timezone Europe/Berlin"))
    })?;
    let zone = zone.iana_name().unwrap_or(name).to_owned();
    kv::set_text(kv::Scope::User, ZONE, &zone)?;
    Ok(format!("Your time zone is {zone}, where it is {}.", now()?.strftime("%H:%M")))
}

fn now() -> Result<Zoned, Error> {
    Ok(Timestamp::now().to_zoned(zone()?))
}

fn zoned(milliseconds: f64) -> Result<Zoned, Error> {
    let time = Timestamp::from_millisecond(milliseconds as i64);
    Ok(time.map_err(|error| Error::other(error.to_string()))?.to_zoned(zone()?))
}

/// The person's own zone, or that of the settings.
fn zone() -> Result<TimeZone, Error> {
    let name = match kv::get_text(kv::Scope::User, ZONE)? {
        Some(name) => name,
        None => config::get(ZONE)?.unwrap_or_else(|| "UTC".into()),
    };
    TimeZone::get(&name).map_err(|_| {
        Error::other(format!("{ZONE} = {name:?} in the settings is no time zone such as Europe/Berlin"))
    })
}

parlour_plugin::export!(Remind: commands, timers);
