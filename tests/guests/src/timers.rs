//! Sets timers as it is told, and says what it is called for.

use std::time::Duration;

use parlour_plugin::{
    prelude::*,
    schedule::{CatchUp, Timer},
};

struct Setter;

impl Commands for Setter {
    fn list_commands() -> Vec<Command> {
        let rest = |name, description| Command::new(name, description).rest("text", "As it says");
        vec![
            rest("at", "NAME SECONDS RULE TEXT: sets one"),
            rest("every", "NAME ZONE RULE CRON: sets one that comes again"),
            rest("cancel", "NAME: cancels one, and says whether there was one"),
            Command::new("list", "Says what there is"),
            rest("fails", "NAME SECONDS: sets one, and fails"),
            rest(
                "changes",
                "NAME: sets two, lists them, cancels one and replaces the other, and lists again",
            ),
            rest("many", "COUNT: sets so many without a name, and says how many it could"),
            Command::new("wrong", "Sets what cannot be set, and says why not"),
            Command::new("admin", "Is for admins").role(Role::Admin),
        ]
    }

    fn run(call: Invocation) -> Result<(), Error> {
        outbox::say(done(&call)?)?;
        Ok(())
    }
}

impl Timers for Setter {
    fn on_timer(firing: Firing) -> Result<(), Error> {
        let Firing { key, payload, due, missed, sender, .. } = firing;
        match payload.as_str() {
            "wait" if config::get("busy")?.is_some() => std::thread::sleep(Duration::from_secs(3600)),
            "loop" => loop {},
            "trap" => panic!("on purpose"),
            "fail" => return Err(Error::invalid("it is no use")),
            "again" => drop(schedule::at(Some(&key), schedule::now() + 60_000.0, "again", CatchUp::Once)?),
            _ => {}
        }
        let count = kv::increment(kv::Scope::Session, &key, 1)?;
        let role = format!("{:?}", sender.role).to_lowercase().replace("role::", "");
        outbox::say(format!("{key} {payload}: due {due}, missed {missed}, {} ({role}), {count}", sender.id))?;
        Ok(())
    }
}

fn done(call: &Invocation) -> Result<String, Error> {
    let words: Vec<&str> = call.rest.splitn(4, ' ').collect();
    let word = |at: usize| words.get(at).copied().unwrap_or_default();
    let seconds = |at: usize| word(at).parse::<f64>().unwrap_or_default() * 1000.0 + schedule::now();
    Ok(match call.name.as_str() {
        "at" => told(&schedule::at(Some(word(0)), seconds(1), word(3), rule(word(2)))?),
        "every" => told(&schedule::every(Some(word(0)), word(3), word(1), "", rule(word(2)))?),
        "cancel" => schedule::cancel(word(0))?.to_string(),
        "list" => listed()?,
        "fails" => {
            schedule::at(Some(word(0)), seconds(1), "", CatchUp::Once)?;
            return Err(Error::invalid("it is no use"));
        }
        "changes" => {
            schedule::at(Some("gone"), seconds(1) + 1000.0, "", CatchUp::Once)?;
            schedule::at(Some("kept"), seconds(1) + 2000.0, "first", CatchUp::Once)?;
            let before = listed()?;
            let gone = schedule::cancel("gone")?;
            let never = schedule::cancel("never")?;
            schedule::at(Some("kept"), seconds(1) + 3000.0, "second", CatchUp::Once)?;
            format!("{before}; {gone} {never}; {}", listed()?)
        }
        "many" => {
            let count: u32 = word(0).parse().unwrap_or_default();
            for number in 0..count {
                if let Err(error) = schedule::at(None, schedule::now() + 3_600_000.0, "", CatchUp::Skip) {
                    let error = error.message.unwrap_or_default();
                    return Ok(format!("{number}, and then: {error}"));
                }
            }
            count.to_string()
        }
        "wrong" => {
            let at = |when, payload: &str, key| schedule::at(key, when, payload, CatchUp::Once);
            let every = |cron, zone| schedule::every(None, cron, zone, "", CatchUp::Once);
            let year = 366.0 * 24.0 * 60.0 * 60.0 * 1000.0;
            let tried = [
                at(schedule::now() - 61_000.0, "", None),
                at(schedule::now() + year + 1000.0, "", None),
                at(f64::NAN, "", None),
                at(f64::INFINITY, "", None),
                at(seconds(9), &"x".repeat(4097), None),
                at(seconds(9), "", Some("")),
                at(seconds(9), "", Some(&"x".repeat(129))),
                at(seconds(9), "", Some("a\u{0}b")),
                every("* * * * * *", "UTC"),
                every("@reboot", "UTC"),
                every("0 0 31 2 *", "UTC"),
                every("nonsense", "UTC"),
                every("* * * * *", "Nowhere"),
            ];
            let said = tried.map(|tried| match tried {
                Ok(timer) => format!("it could: {}", told(&timer)),
                Err(error) => {
                    format!("{:?}: {}", error.kind, error.message.unwrap_or_default())
                }
            });
            said.join("\n")
        }
        _ => "yes".into(),
    })
}

fn rule(word: &str) -> CatchUp {
    match word {
        "skip" => CatchUp::Skip,
        "all" => CatchUp::All,
        _ => CatchUp::Once,
    }
}

fn listed() -> Result<String, Error> {
    let timers = schedule::list()?;
    let timers: Vec<String> = timers.iter().map(told).collect();
    Ok(if timers.is_empty() { "nothing".into() } else { timers.join(", ") })
}

fn told(timer: &Timer) -> String {
    format!(
        "{} {}{}{}",
        timer.key,
        timer.next,
        if timer.payload.is_empty() { "" } else { " " },
        timer.payload
    )
}

parlour_plugin::export!(Setter: commands, timers);
