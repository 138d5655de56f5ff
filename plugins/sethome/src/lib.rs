//! `/sethome` makes the conversation where it is typed the agent's home: what other plugins address to
//! `outbox.target.home` goes there. In a thread, the thread becomes the home.

use parlour_plugin::prelude::*;

struct SetHome;

impl Commands for SetHome {
    fn list_commands() -> Vec<Command> {
        vec![Command::new("sethome", "Makes this conversation the agent's home").role(Role::Admin)]
    }

    fn run(call: Invocation) -> Result<(), Error> {
        outbox::set_home(&outbox::Target::Here)?;
        let place = if call.message.conversation.thread.is_some() { "thread" } else { "room" };
        outbox::say(format!("This {place} is now the home of {}.", call.message.conversation.agent))?;
        Ok(())
    }
}

parlour_plugin::export!(SetHome: commands);
