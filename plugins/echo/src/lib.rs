//! `/echo text` says the text again.

use parlour_plugin::prelude::*;

struct Echo;

impl Commands for Echo {
    fn list_commands() -> Vec<Command> {
        vec![Command::new("echo", "Says what you say").rest("text", "What to say")]
    }

    fn run(call: Invocation) -> Result<(), Error> {
        outbox::say(call.rest)?;
        Ok(())
    }
}

parlour_plugin::export!(Echo: commands);
