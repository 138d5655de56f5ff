//! Which events share history: pure.

use crate::{
    event::{Event, Kind},
    id::SessionId,
    settings::Behaviour,
};

/// The session of an event: a direct chat, a thread, or one person in a room.
#[must_use]
pub fn of(event: &Event, behaviour: &Behaviour) -> SessionId {
    let room = &event.room.id;
    // Ids have no white space in them, so that two sessions never have one name.
    let text = match &event.kind {
        Kind::Member(_) => format!("{room} members"),
        // That in which it was set, whatever the settings say by now.
        Kind::Timer(fired) => return fired.timer.session.clone(),
        Kind::Message(message) => match &message.thread {
            Some(root) => format!("{room} {root}"),
            None if !event.room.direct && behaviour.session_per_user => format!("{room} {}", event.sender.id),
            None => room.to_string(),
        },
    };
    SessionId::parse(text).expect("a room's id is not empty")
}
