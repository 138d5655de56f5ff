//! What `/help` says: CommonMark that reads as well where it is not rendered. Pure text, no host.

use parlour_plugin::{Command, Role};

/// Every command in one line, with those first that most people may use.
pub(crate) fn all(commands: &[Command]) -> String {
    let mut page = String::new();
    for role in [Role::Guest, Role::User, Role::Admin] {
        let mut theirs = commands.iter().filter(|command| command.role == role).peekable();
        if theirs.peek().is_none() {
            continue;
        }
        page += &format!("For {}:\n\n", people(role));
        for command in theirs {
            page += &format!("- `{}`: {}\n", usage(command), command.description);
        }
        page += "\n";
    }
    page + "`/help NAME` says more about one; `!name` works like `/name`."
}

/// One command, with its parameters.
pub(crate) fn one(command: &Command) -> String {
    let mut page = format!("`{}`: {}\n\n", usage(command), command.description);
    for parameter in &command.parameters {
        let may_be_left_out = if parameter.required { "" } else { " (may be left out)" };
        page += &format!("- `{}`: {}{may_be_left_out}\n", parameter.name, parameter.description);
    }
    if !command.parameters.is_empty() {
        page += "\n";
    }
    page + &format!("For {}.", people(command.role))
}

/// How it is typed: `/roll [dice]`, `/echo <text>`.
fn usage(command: &Command) -> String {
    let mut usage = format!("/{}", command.name);
    for parameter in &command.parameters {
        usage += &match parameter.required {
            true => format!(" <{}>", parameter.name),
            false => format!(" [{}]", parameter.name),
        };
    }
    usage
}

fn people(role: Role) -> &'static str {
    match role {
        Role::Guest => "everybody",
        Role::User => "listed users",
        Role::Admin => "admins",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parlour_plugin::Parameter;

    fn commands() -> Vec<Command> {
        vec![
            Command::new("echo", "Says what you say").rest("text", "What to say"),
            Command::new("roll", "Rolls dice").parameter(Parameter::text("dice", "Such as 2d6+1").optional()),
            Command::new("sethome", "Makes this conversation the agent's home").role(Role::Admin),
        ]
    }

    #[test]
    fn every_command_has_a_line_under_those_who_may_use_it() {
        assert_eq!(
            all(&commands()),
            "For listed users:\n\n\
             - `/echo <text>`: Says what you say\n\
             - `/roll [dice]`: Rolls dice\n\n\
             For admins:\n\n\
             - `/sethome`: Makes this conversation the agent's home\n\n\
             `/help NAME` says more about one; `!name` works like `/name`."
        );
    }

    #[test]
    fn one_command_is_shown_in_full() {
        let check = |index: usize, expected| assert_eq!(one(&commands()[index]), expected);
        check(0, "`/echo <text>`: Says what you say\n\n- `text`: What to say\n\nFor listed users.");
        check(
            1,
            "`/roll [dice]`: Rolls dice\n\n- `dice`: Such as 2d6+1 (may be left out)\n\nFor listed users.",
        );
        check(2, "`/sethome`: Makes this conversation the agent's home\n\nFor admins.");
    }
}
