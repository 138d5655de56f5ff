//! `directory`: the commands that this person may use here.

use super::{
    State,
    bindings::parlour::plugin::directory::Host,
    types::{self, Error},
};
use crate::{command, manifest::Permission, settings};

impl Host for State {
    fn commands(&mut self) -> wasmtime::Result<Result<Vec<types::Command>, Error>> {
        Ok(self.listed())
    }
}

impl State {
    fn listed(&mut self) -> Result<Vec<types::Command>, Error> {
        self.holds(Permission::Directory, "directory.commands")?;
        Ok(self.handling()?.commands.iter().map(|command| described(command)).collect())
    }
}

fn described(command: &command::Command) -> types::Command {
    let parameters = command.parameters.iter().map(|parameter| types::Parameter {
        name: parameter.name.clone(),
        description: parameter.description.clone(),
        schema: parameter.schema.clone(),
        required: parameter.required,
        extra: None,
    });
    types::Command {
        name: command.name.clone(),
        description: command.description.clone(),
        parameters: parameters.collect(),
        role: role(command.role),
        extra: None,
    }
}

/// A role as guests see it.
pub fn role(role: settings::Role) -> types::Role {
    match role {
        settings::Role::Guest => types::Role::Guest,
        settings::Role::User => types::Role::User,
        settings::Role::Admin => types::Role::Admin,
    }
}
