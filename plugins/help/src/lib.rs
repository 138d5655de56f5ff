//! `/help` lists the commands that the person may use here, and `/help roll` shows one in full.

mod page;

use parlour_plugin::prelude::*;

struct Help;

impl Commands for Help {
    fn list_commands() -> Vec<Command> {
        let command = Parameter::text("command", "Which one; all of them if left out");
        vec![Command::new("help", "Shows what you can ask for").parameter(command.optional())]
    }

    fn run(call: Invocation) -> Result<(), Error> {
        let commands = directory::commands()?;
        let wanted = call.rest.trim_start_matches(['/', '!']);
        let page = if wanted.is_empty() {
            page::all(&commands)
        } else {
            let found = commands.iter().find(|command| command.name.eq_ignore_ascii_case(wanted));
            page::one(
                found
                    .ok_or_else(|| Error::not_found(format!("there is no command {wanted:?}; try /help")))?,
            )
        };
        outbox::markdown(page)?;
        Ok(())
    }
}

parlour_plugin::export!(Help: commands);
