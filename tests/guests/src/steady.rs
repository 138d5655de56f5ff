//! Answers with its version and what it was asked. The tests make a second version by replacing the text
//! `version-1` in the component.

use std::{thread, time::Duration};

use parlour_plugin::prelude::*;

struct Steady;

const VERSION: &str = "version-1";

impl Commands for Steady {
    fn list_commands() -> Vec<Command> {
        vec![
            Command::new("echo", "Says what you say").rest("text", "What to say"),
            Command::new("tally", "Counts in this room").rest("text", "What to say with it"),
            Command::new("slow", "Says what you say, 200 ms later").rest("text", "What to say"),
        ]
    }

    fn run(call: Invocation) -> Result<(), Error> {
        if call.name == "slow" {
            thread::sleep(Duration::from_millis(200));
        }
        // Read through a volatile pointer: the text stays in the component, where the tests find it.
        let version = unsafe { std::ptr::read_volatile(&VERSION) };
        if call.name == "tally" {
            let count = kv::increment(kv::Scope::Room, "tally", 1)?;
            outbox::say(format!("{version} {}:{count}", call.rest))?;
            return Ok(());
        }
        outbox::say(format!("{version} {}", call.rest))?;
        Ok(())
    }
}

parlour_plugin::export!(Steady: commands);
