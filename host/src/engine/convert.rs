//! Between our values and the contract's records, by hand.

use std::{sync::Arc, time::Duration};

use super::{GuestError, GuestErrorKind, Handling};
use crate::{
    capability::{
        bindings::exports::parlour::plugin::{commands, members, timers, tools},
        directory::role,
        media::handle,
        outbox::readable,
        types,
    },
    command::{Argument, Command, Parameter},
    event::{AttachmentKind, DeviceTrust, Kind, Membership, Message, Reading},
    id::UserId,
    settings::Role,
    text,
    tool::Tool,
};

/// In a message's `extra`: what was said after it was handled before it.
const LATE: &str = r#"{"late":true}"#;
/// What a guest's error may say to a person or a log.
const MESSAGE: usize = 4 * 1024;
/// Most commands that one plugin has, and most tools.
const COMMANDS: usize = 64;
const TOOLS: usize = 64;
/// In an error's `code`: it comes from a tool, or is about one.
pub const OF_A_TOOL: &str = "tool";
/// Bytes of all their schemas: each is read here, and what is in them takes time.
const SCHEMAS: usize = 32 * 1024;

/// An invocation of a command.
pub fn invocation(
    handling: &Handling,
    name: &str,
    rest: &str,
    arguments: &[Argument],
) -> commands::Invocation {
    let arguments = arguments
        .iter()
        .map(|argument| commands::Argument { name: argument.name.clone(), value: argument.value.clone() });
    commands::Invocation {
        name: name.to_owned(),
        rest: rest.to_owned(),
        arguments: arguments.collect(),
        message: message(handling),
        extra: None,
    }
}

/// The message that is being handled; of another event, an empty one.
pub fn message(handling: &Handling) -> types::Message {
    let event = &handling.event;
    let said = match &event.kind {
        Kind::Message(message) => Some(message),
        Kind::Member(_) | Kind::Timer(_) => None,
    };
    types::Message {
        id: event.id.to_string(),
        conversation: conversation(handling),
        sender: sender(handling),
        text: handling.text.clone(),
        html: said.and_then(|message| message.html.clone()),
        reply_to: said.and_then(|message| message.reply_to.as_ref()).map(|quoted| types::Quoted {
            id: quoted.id.to_string(),
            sender: quoted.sender.as_ref().map(ToString::to_string).unwrap_or_default(),
            text: quoted.text.clone(),
        }),
        mentions: said
            .map_or_else(Vec::new, |message| message.mentions.iter().map(ToString::to_string).collect()),
        attachments: said.map_or_else(Vec::new, |message| attachments(handling, message)),
        addressed: handling.addressed,
        sent: timestamp(event.sent),
        extra: (event.reading == Reading::Late).then(|| LATE.to_owned()),
    }
}

/// The change of a membership that is being handled.
pub fn member_change(handling: &Handling) -> members::MemberChange {
    let event = &handling.event;
    let (user, display_name, membership) = match &event.kind {
        Kind::Member(member) => (&member.user, member.display_name.clone(), member.membership),
        Kind::Message(_) | Kind::Timer(_) => (&event.sender.id, None, Membership::Joined),
    };
    members::MemberChange {
        id: event.id.to_string(),
        conversation: conversation(handling),
        member: person(user, display_name, handling.subject_role, event.sender.device, false),
        by: event.sender.id.to_string(),
        membership: match membership {
            Membership::Joined => members::Membership::Joined,
            Membership::Left => members::Membership::Left,
            Membership::Invited => members::Membership::Invited,
            Membership::Banned => members::Membership::Banned,
            Membership::Knocked => members::Membership::Knocked,
        },
        sent: timestamp(event.sent),
        extra: None,
    }
}

/// The timer that is due, where one is.
pub fn firing(handling: &Handling) -> Option<timers::Firing> {
    let Kind::Timer(fired) = &handling.event.kind else { return None };
    Some(timers::Firing {
        key: fired.timer.key.clone(),
        payload: fired.timer.payload.clone(),
        due: timestamp(fired.due),
        missed: fired.missed,
        conversation: conversation(handling),
        sender: sender(handling),
        extra: None,
    })
}

/// What a tool is called with.
pub fn tool_call(handling: &Handling, name: &str, arguments: &str) -> tools::ToolCall {
    tools::ToolCall {
        name: name.to_owned(),
        arguments: arguments.to_owned(),
        conversation: conversation(handling),
        sender: sender(handling),
        extra: None,
    }
}

fn conversation(handling: &Handling) -> types::Conversation {
    let here = handling.here();
    let home = handling
        .home
        .as_ref()
        .is_some_and(|home| home.room == here.room && (home.thread.is_none() || home.thread == here.thread));
    types::Conversation {
        agent: handling.agent.to_string(),
        agent_id: handling.agent_id.to_string(),
        room: here.room.to_string(),
        thread: here.thread.as_ref().map(ToString::to_string),
        session: handling.session.to_string(),
        direct: handling.event.room.direct,
        encrypted: handling.event.room.encrypted,
        home,
        extra: None,
    }
}

fn sender(handling: &Handling) -> types::Sender {
    let sender = &handling.event.sender;
    person(&sender.id, sender.display_name.clone(), handling.role, sender.device, handling.sender_is_agent)
}

fn person(
    user: &UserId,
    display_name: Option<String>,
    of: Role,
    device: DeviceTrust,
    agent: bool,
) -> types::Sender {
    types::Sender {
        id: user.to_string(),
        display_name,
        role: role(of),
        device: match device {
            DeviceTrust::Cleartext => types::DeviceTrust::Cleartext,
            DeviceTrust::Unverified => types::DeviceTrust::Unverified,
            DeviceTrust::CrossSigned => types::DeviceTrust::CrossSigned,
            DeviceTrust::Verified => types::DeviceTrust::Verified,
            DeviceTrust::IdentityChanged => types::DeviceTrust::IdentityChanged,
        },
        agent,
        extra: None,
    }
}

fn attachments(handling: &Handling, message: &Message) -> Vec<types::Attachment> {
    let attachment = |(index, attachment): (usize, &crate::event::Attachment)| types::Attachment {
        handle: handle(handling, index),
        kind: match attachment.kind {
            AttachmentKind::Image => types::AttachmentKind::Image,
            AttachmentKind::Audio => types::AttachmentKind::Audio,
            AttachmentKind::Voice => types::AttachmentKind::Voice,
            AttachmentKind::Video => types::AttachmentKind::Video,
            AttachmentKind::File => types::AttachmentKind::File,
            AttachmentKind::Other => types::AttachmentKind::Other,
        },
        name: attachment.name.clone(),
        mime: attachment.mime.clone(),
        size: attachment.size.and_then(|size| u32::try_from(size).ok()),
        duration: attachment.duration.and_then(|duration| u32::try_from(duration).ok()),
        extra: None,
    };
    message.attachments.iter().enumerate().map(attachment).collect()
}

/// Whole milliseconds are exact in an `f64` for 285,000 years.
#[expect(clippy::cast_precision_loss, reason = "as above")]
fn timestamp(milliseconds: u64) -> f64 {
    milliseconds as f64
}

/// What a plugin declares, checked.
pub fn commands(declared: Vec<types::Command>) -> Result<Vec<Arc<Command>>, String> {
    if declared.len() > COMMANDS {
        return Err(format!("it declares {} commands; {COMMANDS} are the most", declared.len()));
    }
    let parameters = declared.iter().flat_map(|command| &command.parameters);
    if parameters.map(|parameter| parameter.schema.len()).sum::<usize>() > SCHEMAS {
        return Err(format!("the schemas of its commands have at most {} KiB", SCHEMAS / 1024));
    }
    let mut commands: Vec<Arc<Command>> = Vec::with_capacity(declared.len());
    for command in declared {
        if commands.iter().any(|known| known.name == command.name) {
            return Err(format!("it declares command {:?} twice", command.name));
        }
        let role = match command.role {
            types::Role::Guest => Role::Guest,
            types::Role::User => Role::User,
            types::Role::Admin => Role::Admin,
        };
        let parameters = command
            .parameters
            .into_iter()
            .map(|parameter| {
                Parameter::new(parameter.name, parameter.description, parameter.schema, parameter.required)
            })
            .collect::<Result<_, _>>()
            .map_err(|reason| format!("command {:?}: {reason}", text::beginning(&command.name)))?;
        let checked = Command::new(command.name, command.description, parameters, role);
        commands.push(Arc::new(checked.map_err(|error| error.to_string())?));
    }
    Ok(commands)
}

/// The tools that a plugin declares, checked.
pub fn tools(declared: Vec<types::Tool>) -> Result<Vec<Arc<Tool>>, String> {
    if declared.len() > TOOLS {
        return Err(format!("it declares {} tools; {TOOLS} are the most", declared.len()));
    }
    let mut tools: Vec<Arc<Tool>> = Vec::with_capacity(declared.len());
    for types::Tool { name, title, description, parameters, read_only, .. } in declared {
        let tool = Tool::new(name, title, description, parameters, read_only)?;
        if tools.iter().any(|known| known.name == tool.name) {
            return Err(format!("it declares tool {:?} twice", tool.name));
        }
        tools.push(Arc::new(tool));
    }
    Ok(tools)
}

/// A guest's error as plain data. That of a tool which it passes on is no failure of its own, where one has failed.
pub fn guest_error(error: types::Error, a_tool_failed: bool) -> GuestError {
    use types::ErrorKind;
    let passed_on = a_tool_failed && error.code.as_deref() == Some(OF_A_TOOL);
    let kind = match error.kind {
        _ if passed_on && !matches!(error.kind, ErrorKind::Unavailable | ErrorKind::RateLimited) => {
            GuestErrorKind::Refused
        }
        ErrorKind::Invalid
        | ErrorKind::Denied
        | ErrorKind::NotFound
        | ErrorKind::Unsupported
        | ErrorKind::TooLarge
        | ErrorKind::Conflict => GuestErrorKind::Refused,
        ErrorKind::Unavailable | ErrorKind::RateLimited => GuestErrorKind::Later,
        ErrorKind::Timeout | ErrorKind::Cancelled | ErrorKind::Internal | ErrorKind::Other => {
            GuestErrorKind::Failed
        }
    };
    let said = error.message.or(error.code).unwrap_or_default();
    let message: String = said
        .chars()
        .scan(0, |size, c| {
            *size += c.len_utf8();
            (*size <= MESSAGE).then_some(c)
        })
        .collect();
    GuestError {
        kind,
        message: readable(message),
        word: error.kind,
        retry_after: error.retry_after.map(|after| Duration::from_millis(after.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::error;

    /// It is shown to people as a message is.
    #[test]
    fn what_a_guest_says_of_an_error_is_bounded_and_not_turned_around() {
        let said = guest_error(error(types::ErrorKind::Invalid, "good\u{202e}live"), false);
        assert_eq!((said.kind, said.message.as_str()), (GuestErrorKind::Refused, "goodlive"));
        let said = guest_error(error(types::ErrorKind::Internal, "é".repeat(100_000)), false);
        assert_eq!((said.kind, said.message.len()), (GuestErrorKind::Failed, MESSAGE));
    }

    #[test]
    fn what_is_declared_has_a_size() {
        let parameter = |schema: &str| types::Parameter {
            name: "a".into(),
            description: String::new(),
            schema: schema.into(),
            required: true,
            extra: None,
        };
        let command = |name: &str, parameters| types::Command {
            name: name.into(),
            description: String::new(),
            parameters,
            role: types::Role::User,
            extra: None,
        };
        let schema = format!(r#"{{"enum":["{}"]}}"#, "x".repeat(4000));
        let many = (0..9).map(|number| command(&format!("c{number}"), vec![parameter(&schema)]));
        assert_eq!(
            commands(many.clone().collect()).unwrap_err(),
            "the schemas of its commands have at most 32 KiB"
        );
        assert_eq!(commands(many.take(8).collect()).unwrap().len(), 8);
        let long = commands(vec![command(&"x".repeat(1_000_000), vec![parameter("{")])]).unwrap_err();
        assert!(long.len() < 300, "{long}");
    }
}
