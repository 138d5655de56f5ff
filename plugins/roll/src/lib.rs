//! `/roll 2d6+1` rolls dice, and `/roll` alone one die with six sides; the tool `roll` does the same for other plugins.

mod dice;

use dice::Dice;
use parlour_plugin::prelude::*;

const DICE: &str = "Such as 2d6+1, d20 or 3d8-2; one with six sides if left out";

struct Roll;

impl Commands for Roll {
    fn list_commands() -> Vec<Command> {
        vec![Command::new("roll", "Rolls dice").parameter(Parameter::text("dice", DICE).optional())]
    }

    fn run(call: Invocation) -> Result<(), Error> {
        outbox::markdown(roll(&call.rest)?)?;
        Ok(())
    }
}

impl Tools for Roll {
    fn list_tools() -> Vec<Tool> {
        let schema = format!(
            r#"{{"type":"object","properties":{{"dice":{{"type":"string","description":"{DICE}"}}}},"additionalProperties":false}}"#
        );
        vec![Tool::new("roll", "Rolls dice and says what came up").parameters(schema).read_only()]
    }

    fn call(call: ToolCall) -> Result<ToolResult, Error> {
        Ok(ToolResult::new(roll(&call.text("dice").unwrap_or_default())?))
    }
}

fn roll(dice: &str) -> Result<String, Error> {
    let dice = if dice.is_empty() { Dice::ONE } else { Dice::parse(dice).map_err(Error::invalid)? };
    Ok(dice.roll(|sides| random::within(1..=sides)))
}

parlour_plugin::export!(Roll: commands, tools);
