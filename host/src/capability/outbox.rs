//! `outbox`: what a handler wants done is queued here and leaves after the commit.

use super::{
    State,
    bindings::parlour::plugin::outbox::{Host, MessageRef, Target},
    error,
    types::{Body, Error, ErrorKind},
};
use crate::{
    effect::{self, Effect},
    id::{EventId, RoomId, UserId},
    settings::Role,
};

/// A Matrix event holds 64 KiB, text and HTML and encryption together.
pub const BODY: usize = 32 * 1024;
/// More than this from one message is a mistake or an attack.
pub const EFFECTS: usize = 100;
const NAME: usize = 128;

type Answer<T> = wasmtime::Result<Result<T, Error>>;

impl Host for State {
    fn send(&mut self, to: Target, body: Body) -> Answer<u32> {
        Ok(self.queue_send(to, body))
    }

    fn edit(&mut self, message: MessageRef, body: Body) -> Answer<u32> {
        Ok(self.about(message).and_then(|(place, message)| {
            let body = checked(body)?;
            self.queue(Effect::Edit { place, message, body })
        }))
    }

    fn react(&mut self, message: MessageRef, key: String) -> Answer<u32> {
        Ok(self.about(message).and_then(|(place, message)| {
            if key.is_empty() || key.len() > NAME {
                return Err(error(ErrorKind::Invalid, "a reaction is one emoji, or a short text"));
            }
            if self.handling()?.event.room.encrypted && !is_emoji(&key) {
                return Err(error(
                    ErrorKind::Invalid,
                    "in an encrypted room a reaction is one emoji: it travels in clear",
                ));
            }
            self.queue(Effect::React { place, message, key })
        }))
    }

    fn redact(&mut self, message: MessageRef, reason: Option<String>) -> Answer<u32> {
        Ok(self.about(message).and_then(|(place, message)| {
            let encrypted = self.handling()?.event.room.encrypted;
            let reason = reason.filter(|_| !encrypted).map(|reason| reason.chars().take(500).collect());
            self.queue(Effect::Redact { place, message, reason })
        }))
    }

    fn set_home(&mut self, to: Target) -> Answer<u32> {
        Ok(self.queue_home(to))
    }

    fn reply_to(&mut self, queued: u32, to: MessageRef) -> Answer<()> {
        Ok(self.about(to).and_then(|(_, to)| {
            if to == effect::MessageRef::Queued(queued) {
                return Err(error(ErrorKind::Invalid, "a message cannot answer itself"));
            }
            match self.sent(queued)? {
                Effect::Send { reply_to, .. } => *reply_to = Some(to),
                _ => return Err(not_a_message(queued)),
            }
            Ok(())
        }))
    }

    fn name(&mut self, queued: u32, key: String) -> Answer<()> {
        Ok(self.handling().map(|_| ()).and_then(|()| {
            if key.is_empty() || key.len() > NAME {
                return Err(error(ErrorKind::Invalid, "a name has 1 to 128 bytes"));
            }
            match self.sent(queued)? {
                Effect::Send { name, .. } => *name = Some(key),
                _ => return Err(not_a_message(queued)),
            }
            Ok(())
        }))
    }
}

impl State {
    fn queue_send(&mut self, to: Target, body: Body) -> Result<u32, Error> {
        let body = checked(body)?;
        let here = matches!(to, Target::Here);
        let to = self.resolve(to)?;
        let takes_draft = here
            && !self
                .work
                .effects
                .iter()
                .any(|effect| matches!(effect, Effect::Send { takes_draft: true, .. }));
        self.queue(Effect::Send { to, body, reply_to: None, name: None, takes_draft })
    }

    fn queue_home(&mut self, to: Target) -> Result<u32, Error> {
        let handling = self.handling()?;
        if !handling.grants.home {
            return Err(error(ErrorKind::Denied, "the grant `home` is missing"));
        }
        if handling.role != Role::Admin {
            return Err(error(ErrorKind::Denied, "only an admin can set the home"));
        }
        match self.resolve(to)? {
            effect::Target::Place(place) => self.queue(Effect::SetHome(place)),
            effect::Target::Direct(_) => {
                Err(error(ErrorKind::Unsupported, "the home is a room; write from it"))
            }
        }
    }

    fn queue(&mut self, effect: Effect) -> Result<u32, Error> {
        self.handling()?;
        let ordinal = self.work.effects.len();
        if ordinal >= EFFECTS {
            return Err(error(ErrorKind::TooLarge, "100 effects are the most for one delivery"));
        }
        self.work.effects.push(effect);
        Ok(u32::try_from(ordinal).unwrap_or(u32::MAX))
    }

    fn sent(&mut self, ordinal: u32) -> Result<&mut Effect, Error> {
        self.work.effects.get_mut(ordinal as usize).ok_or_else(|| not_a_message(ordinal))
    }

    fn resolve(&self, to: Target) -> Result<effect::Target, Error> {
        let handling = self.handling()?;
        match to {
            Target::Here => Ok(effect::Target::Place(handling.here())),
            Target::Home => {
                let home = handling.home.clone();
                home.map(effect::Target::Place).ok_or_else(|| error(ErrorKind::NotFound, "no home is set"))
            }
            Target::Room(room) => {
                let room =
                    RoomId::parse(room).map_err(|invalid| error(ErrorKind::Invalid, invalid.to_string()))?;
                if room != handling.event.room.id && !handling.grants.room(&room) {
                    return Err(error(ErrorKind::Denied, "that room is not granted"));
                }
                Ok(effect::Target::Place(effect::Place { room, thread: None }))
            }
            Target::Direct(user) => {
                let user =
                    UserId::parse(user).map_err(|invalid| error(ErrorKind::Invalid, invalid.to_string()))?;
                if !handling.grants.person(&user) {
                    return Err(error(ErrorKind::Denied, "that person is not granted"));
                }
                Ok(effect::Target::Direct(user))
            }
        }
    }

    /// The message that an effect is about, and where the delivery takes place.
    fn about(&self, message: MessageRef) -> Result<(effect::Place, effect::MessageRef), Error> {
        let place = self.handling()?.here();
        let message = match message {
            MessageRef::Event(id) => {
                let id =
                    EventId::parse(id).map_err(|invalid| error(ErrorKind::Invalid, invalid.to_string()))?;
                effect::MessageRef::Event(id)
            }
            MessageRef::Queued(ordinal) => match self.work.effects.get(ordinal as usize) {
                Some(Effect::Send { .. }) => effect::MessageRef::Queued(ordinal),
                _ => return Err(not_a_message(ordinal)),
            },
            MessageRef::Key(key) => effect::MessageRef::Named(key),
        };
        Ok((place, message))
    }
}

/// The body of a message, if it is short enough.
pub fn checked(body: Body) -> Result<effect::Body, Error> {
    let body = match body {
        Body::Plain(text) => effect::Body::Plain(text),
        Body::Markdown(text) => effect::Body::Markdown(text),
        Body::Notice(text) => effect::Body::Notice(text),
    };
    if body.text().len() > BODY {
        return Err(error(ErrorKind::TooLarge, "a message has at most 32 KiB"));
    }
    if body.text().trim().is_empty() {
        return Err(error(ErrorKind::Invalid, "a message says something"));
    }
    Ok(body)
}

fn not_a_message(ordinal: u32) -> Error {
    error(ErrorKind::Invalid, format!("effect {ordinal} is no message of this delivery"))
}

/// No letters, no digits but those of keycaps, and short: a reaction tells little.
fn is_emoji(key: &str) -> bool {
    let keycap = |c: char| matches!(c, '0'..='9' | '#' | '*');
    let enclosed = key.contains('\u{20e3}');
    key.chars().count() <= 10
        && key
            .chars()
            .all(|c| !c.is_ascii() && !c.is_alphanumeric() && !c.is_whitespace() || (keycap(c) && enclosed))
}
