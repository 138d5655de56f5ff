//! Never says what it has.

use parlour_plugin::prelude::*;

struct Stuck;

impl Commands for Stuck {
    fn list_commands() -> Vec<Command> {
        loop {
            std::hint::black_box(());
        }
    }

    fn run(_: Invocation) -> Result<(), Error> {
        Ok(())
    }
}

parlour_plugin::export!(Stuck: commands);
