//! `/roll 2d6+1` rolls dice, and `/roll` alone one die with six sides.

mod dice;

use dice::Dice;
use parlour_plugin::prelude::*;

struct Roll;

impl Commands for Roll {
    fn list_commands() -> Vec<Command> {
        let dice = Parameter::text("dice", "Such as 2d6+1, d20 or 3d8-2; one with six sides if left out");
        vec![Command::new("roll", "Rolls dice").parameter(dice.optional())]
    }

    fn run(call: Invocation) -> Result<(), Error> {
        let dice =
            if call.rest.is_empty() { Dice::ONE } else { Dice::parse(&call.rest).map_err(Error::invalid)? };
        outbox::markdown(dice.roll(|sides| random::within(1..=sides)))?;
        Ok(())
    }
}

parlour_plugin::export!(Roll: commands);
