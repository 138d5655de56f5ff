//! Counts in a room, and sets a timer at every fifth. The tests make a second version by replacing the text
//! `version-1` in the component; a version `version-X` traps at everything.

use parlour_plugin::{
    prelude::*,
    schedule::{self, CatchUp},
};

struct Tally;

const VERSION: &str = "version-1";
/// Every so many, there is a timer, which is due so many milliseconds later.
const EVERY: u32 = 5;
const LATER: f64 = 20.0;

impl Commands for Tally {
    fn list_commands() -> Vec<Command> {
        vec![Command::new("tally", "Counts in this room").rest("number", "Said with the count")]
    }

    fn run(call: Invocation) -> Result<(), Error> {
        let version = version();
        let count = kv::increment(kv::Scope::Room, "tally", 1)?;
        if call.rest.parse::<u32>().is_ok_and(|number| number % EVERY == 0) {
            schedule::at(Some(&call.rest), schedule::now() + LATER, &call.rest, CatchUp::Once)?;
        }
        outbox::say(format!("{version} {}:{count}", call.rest))?;
        Ok(())
    }
}

impl Timers for Tally {
    fn on_timer(firing: Firing) -> Result<(), Error> {
        let version = version();
        let count = kv::increment(kv::Scope::Room, "timers", 1)?;
        outbox::say(format!("{version} timer {}:{count}", firing.payload))?;
        Ok(())
    }
}

fn version() -> &'static str {
    // Read through a volatile pointer: the text stays in the component, where the tests find it.
    let version = unsafe { std::ptr::read_volatile(&VERSION) };
    assert!(!version.ends_with('X'), "broken");
    version
}

parlour_plugin::export!(Tally: commands, timers);
