//! `outbox`: what a handler wants done is queued here and leaves after the commit.

use std::{
    num::NonZeroU32,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use async_trait::async_trait;

use super::{
    Handling, State,
    bindings::parlour::plugin::outbox::{Host, MessageRef, Target},
    error,
    media::Sending,
    types::{Body, Error, ErrorKind},
};
use crate::{
    answers::{self, Entry, Fact},
    effect::{self, Effect, EffectId, File},
    event::Kind,
    id::{AgentName, EventId, PluginName, RoomId, UserId},
    journal::{self, Known, Named},
    manifest::Permission,
    rate::Rates,
    settings::Role,
};

/// A Matrix event holds 64 KiB, text and HTML and encryption together.
pub const BODY: usize = 32 * 1024;
/// The same as it travels: JSON escapes quotes and line breaks.
const BODY_AS_JSON: usize = 44 * 1024;
/// More than this from one message is a mistake or an attack.
pub const EFFECTS: usize = 100;
const NAME: usize = 128;
/// Bytes of files of one plugin that wait to be sent: they are on the disk.
const WAITING: u64 = 256 * 1024 * 1024;
/// When to come again where there are too many.
const LATER: u32 = 60_000;

/// What the agent knows of messages.
#[async_trait]
pub trait Messages: Send + Sync {
    /// What is known of an event.
    async fn known(&self, agent: &AgentName, event: &EventId) -> Result<Option<Known>, journal::Error>;
    /// The newest message to which a plugin gave this name.
    async fn named(
        &self,
        agent: &AgentName,
        plugin: &PluginName,
        name: &str,
    ) -> Result<Option<Named>, journal::Error>;
    /// Bytes of files of a plugin that wait to be sent.
    async fn waiting(&self, agent: &AgentName, plugin: &PluginName) -> Result<u64, journal::Error>;
}

/// What a plugin has said lately, by agent, and by room or person.
pub struct Said {
    /// Within a minute, where its grants say nothing else.
    pub usual: NonZeroU32,
    lately: Mutex<Rates<(AgentName, String)>>,
}

impl Said {
    /// Nothing yet.
    pub fn new(usual: NonZeroU32) -> Self {
        Self { usual, lately: Mutex::default() }
    }
}

type Answer<T> = wasmtime::Result<Result<T, Error>>;

/// A message that an effect is about.
struct About {
    to: effect::Target,
    message: effect::MessageRef,
    /// This plugin sent it, or will.
    own: bool,
    /// It is a file that it sent.
    file: bool,
}

impl Host for State {
    async fn send(&mut self, to: Target, body: Body) -> Answer<u32> {
        Ok(self.queue_send(to, body))
    }

    async fn send_file(&mut self, to: Target, file: String, caption: Option<Body>) -> Answer<u32> {
        Ok(self.queue_file(to, &file, caption).await)
    }

    async fn edit(&mut self, message: MessageRef, body: Body) -> Answer<u32> {
        Ok(self.queue_edit(message, body).await)
    }

    async fn react(&mut self, message: MessageRef, key: String) -> Answer<u32> {
        Ok(self.queue_reaction(message, key).await)
    }

    async fn redact(&mut self, message: MessageRef, reason: Option<String>) -> Answer<u32> {
        Ok(self.queue_redaction(message, reason).await)
    }

    async fn set_home(&mut self, to: Target) -> Answer<u32> {
        Ok(self.queue_home(to))
    }

    async fn reply_to(&mut self, queued: u32, to: MessageRef) -> Answer<()> {
        Ok(self.set_reply(queued, to).await)
    }

    async fn name(&mut self, queued: u32, key: String) -> Answer<()> {
        Ok(self.set_name(queued, key))
    }
}

impl State {
    fn queue_send(&mut self, to: Target, body: Body) -> Result<u32, Error> {
        self.holds(Permission::Outbox, "outbox.send")?;
        let body = checked(body)?;
        let here = matches!(to, Target::Here);
        let to = self.resolve(to)?;
        // The draft is the handler's, and not that of a tool that it calls.
        let takes_draft = here
            && self.handling()?.callers.is_empty()
            && self.work.newest(|effect| matches!(effect, Effect::Send { takes_draft: true, .. })).is_none();
        self.queue(Effect::Send { to, body, reply_to: None, name: None, takes_draft })
    }

    async fn queue_file(&mut self, to: Target, handle: &str, caption: Option<Body>) -> Result<u32, Error> {
        const CALL: &str = "outbox.send-file";
        self.holds(Permission::Outbox, CALL)?;
        self.holds(Permission::Media, CALL)?;
        let caption = caption.map(checked).transpose()?;
        let to = self.resolve(to)?;
        if self.work.is_full(EFFECTS) {
            return Err(many());
        }
        let Sending { name, mime, bytes } = self.sending(handle, CALL).await?;
        let handling = self.handling()?;
        let waiting = handling.messages.waiting(&handling.agent, &handling.plugin).await;
        let size = bytes.len() as u64;
        if waiting.map_err(|it| unavailable(&it))? + size > WAITING {
            let full = error(ErrorKind::Unavailable, "too many files of this plugin wait to be sent");
            return Err(Error { retry_after: Some(LATER), ..full });
        }
        let digest = blake3::hash(&bytes).to_hex().to_string();
        let file = File { name, mime, size, digest: digest.clone() };
        let queued = self.queue(Effect::File { to, file, caption, reply_to: None, name: None })?;
        self.work.keep(digest, bytes);
        Ok(queued)
    }

    async fn queue_edit(&mut self, message: MessageRef, body: Body) -> Result<u32, Error> {
        self.holds(Permission::Outbox, "outbox.edit")?;
        let body = checked(body)?;
        let About { to, message, own, file } = self.about(message).await?;
        if !own {
            return Err(not_ours());
        }
        if file {
            let line = "a file and its caption are not edited: remove the message, and send another";
            return Err(error(ErrorKind::Unsupported, line));
        }
        if !self.here(&to) {
            self.leaves(Permission::Outbox, "outbox.edit elsewhere")?;
        }
        self.queue(Effect::Edit { to, message, body })
    }

    async fn queue_reaction(&mut self, message: MessageRef, key: String) -> Result<u32, Error> {
        self.holds(Permission::Outbox, "outbox.react")?;
        if key.is_empty() || key.len() > NAME {
            return Err(error(ErrorKind::Invalid, "a reaction is one emoji, or a short text"));
        }
        let About { to, message, .. } = self.about(message).await?;
        if !self.here(&to) {
            self.leaves(Permission::Outbox, "outbox.react elsewhere")?;
        }
        // Of another room it is not known here whether it is encrypted, so that it counts as if it were.
        let clear = self.here(&to) && !self.handling()?.event.room.encrypted;
        if !clear && !effect::is_emoji(&key) {
            return Err(error(
                ErrorKind::Invalid,
                "in an encrypted room a reaction is one emoji: it travels in clear",
            ));
        }
        self.queue(Effect::React { to, message, key })
    }

    async fn queue_redaction(&mut self, message: MessageRef, reason: Option<String>) -> Result<u32, Error> {
        self.holds(Permission::Outbox, "outbox.redact")?;
        let About { to, message, own, .. } = self.about(message).await?;
        if !own {
            return Err(not_ours());
        }
        if !self.here(&to) {
            self.leaves(Permission::Outbox, "outbox.redact elsewhere")?;
        }
        let clear = self.here(&to) && !self.handling()?.event.room.encrypted;
        let reason = reason.filter(|_| clear).map(|reason| reason.chars().take(500).collect());
        self.queue(Effect::Redact { to, message, reason })
    }

    async fn set_reply(&mut self, queued: u32, answered: MessageRef) -> Result<(), Error> {
        let about = self.about(answered).await?;
        if let effect::MessageRef::Effect(id) = &about.message
            && id.delivery == self.handling()?.delivery
            && id.ordinal >= Some(queued)
        {
            return Err(error(ErrorKind::Invalid, "a message answers one that was queued before it"));
        }
        let effect = self.sent(queued)?;
        match effect.message() {
            Some((to, _)) if same_room(to, &about.to) => {}
            Some(_) => return Err(error(ErrorKind::Invalid, "a message answers one of the same room")),
            None => return Err(not_a_message(queued)),
        }
        if let Effect::Send { reply_to, .. } | Effect::File { reply_to, .. } = effect {
            *reply_to = Some(about.message);
        }
        // An edit cannot become a reply: it is a message of its own, and the draft goes.
        if let Effect::Send { takes_draft, .. } = effect {
            *takes_draft = false;
        }
        Ok(())
    }

    fn set_name(&mut self, queued: u32, key: String) -> Result<(), Error> {
        let key = named(key)?;
        let key = self.name_here(&key)?.unwrap_or(key);
        match self.sent(queued)? {
            Effect::Send { name, .. } | Effect::File { name, .. } => *name = Some(key),
            _ => return Err(not_a_message(queued)),
        }
        Ok(())
    }

    fn queue_home(&mut self, to: Target) -> Result<u32, Error> {
        self.holds(Permission::Home, "outbox.set-home")?;
        if self.handling()?.role != Role::Admin {
            return Err(error(ErrorKind::Denied, "only an admin can set the home"));
        }
        match self.resolve(to)? {
            effect::Target::Place(place) => self.queue(Effect::SetHome(place)),
            effect::Target::Direct(_) => {
                Err(error(ErrorKind::Unsupported, "the home is a room; write from it"))
            }
        }
    }

    pub(super) fn queue(&mut self, effect: Effect) -> Result<u32, Error> {
        self.handling()?;
        if self.work.is_full(EFFECTS) {
            return Err(many());
        }
        self.charge_message(&effect)?;
        self.work.queue(effect, EFFECTS).ok_or_else(many)
    }

    /// Whether the plugin may say one more thing there within this minute. One answer where the event is is free: it is as
    /// frequent as what people ask; nobody asks when a timer is due. What an earlier attempt of the same delivery was charged is not charged again: one that
    /// comes back later gets on.
    fn charge_message(&self, effect: &Effect) -> Result<(), Error> {
        let Some(to) = place_of(effect) else { return Ok(()) };
        let handling = self.handling()?;
        let now = self.work.count(|effect| place_of(effect) == Some(to));
        let mut charged = handling.spent.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let charged = charged.entry((handling.plugin.clone(), to.to_owned())).or_default();
        let asked = !matches!(handling.event.kind, Kind::Timer(_));
        let free = usize::from(asked && to == handling.event.room.id.as_str());
        if now < free.saturating_add(*charged as usize) {
            return Ok(());
        }
        let quota = handling.permissions.messages_per_minute().unwrap_or(self.said.usual);
        let mut lately = self.said.lately.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = lately.take((handling.agent.clone(), to.to_owned()), quota, Instant::now());
        taken.map_err(|wait| {
            let wait = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).saturating_add(1);
            let line = "this plugin says too much in one room within a minute";
            Error { retry_after: Some(wait), ..error(ErrorKind::RateLimited, line) }
        })?;
        *charged += 1;
        Ok(())
    }

    fn sent(&mut self, ordinal: u32) -> Result<&mut Effect, Error> {
        self.handling()?;
        self.work.queued(ordinal).ok_or_else(|| not_a_message(ordinal))
    }

    fn resolve(&mut self, to: Target) -> Result<effect::Target, Error> {
        match to {
            Target::Here => Ok(effect::Target::Place(self.handling()?.here())),
            Target::Home => {
                let home = self.handling()?.home.clone().map(effect::Target::Place);
                let home = home.ok_or_else(|| error(ErrorKind::NotFound, "no home is set"))?;
                if !self.here(&home) {
                    self.leaves(Permission::Outbox, "outbox.send to the home")?;
                }
                Ok(home)
            }
            Target::Room(room) => {
                let room =
                    RoomId::parse(room).map_err(|invalid| error(ErrorKind::Invalid, invalid.to_string()))?;
                if room != self.handling()?.event.room.id {
                    let call = format_args!("outbox.send to {room}");
                    self.may(Permission::Rooms, call, |permissions| permissions.room(&room))?;
                    self.leaves(Permission::Rooms, call)?;
                }
                Ok(effect::Target::Place(effect::Place { room, thread: None }))
            }
            Target::Direct(user) => {
                let user =
                    UserId::parse(user).map_err(|invalid| error(ErrorKind::Invalid, invalid.to_string()))?;
                let call = format_args!("outbox.send to {user}");
                self.may(Permission::People, call, |permissions| permissions.person(&user))?;
                self.leaves(Permission::People, call)?;
                Ok(effect::Target::Direct(user))
            }
        }
    }

    /// What a reference means. Only what this plugin sent, what the agent received, and what the event names can
    /// be meant: an id of the guest's own making would carry words out, since relations travel in clear.
    async fn about(&mut self, message: MessageRef) -> Result<About, Error> {
        match message {
            MessageRef::Queued(ordinal) => {
                let effect = self.work.queued(ordinal);
                let message =
                    effect.and_then(|effect| Some((effect.message()?.0.clone(), effect.file().is_some())));
                let (to, file) = message.ok_or_else(|| not_a_message(ordinal))?;
                self.queued(ordinal, to, file)
            }
            MessageRef::Event(id) => {
                let id =
                    EventId::parse(id).map_err(|invalid| error(ErrorKind::Invalid, invalid.to_string()))?;
                self.event(id).await
            }
            MessageRef::Key(key) => {
                let key = named(key)?;
                // What was named here hides what was named in clear.
                match self.name_here(&key)? {
                    Some(here) => match self.key(here).await {
                        Err(Error { kind: ErrorKind::NotFound, .. }) => self.key(key).await,
                        found => found,
                    },
                    None => self.key(key).await,
                }
            }
        }
    }

    /// The name as it is kept in an encrypted room: elsewhere nobody can look it up.
    fn name_here(&self, key: &str) -> Result<Option<String>, Error> {
        let handling = self.handling()?;
        let room = &handling.event.room;
        let sealed = room.encrypted && handling.permissions.carries(Permission::Outbox).is_err();
        Ok(sealed.then(|| format!("{}\0{key}", room.id)))
    }

    fn queued(&self, ordinal: u32, to: effect::Target, file: bool) -> Result<About, Error> {
        let id = EffectId { delivery: self.handling()?.delivery.clone(), ordinal: Some(ordinal) };
        Ok(About { to, message: effect::MessageRef::Effect(id), own: true, file })
    }

    async fn event(&mut self, id: EventId) -> Result<About, Error> {
        let handling = self.handling()?;
        let known = known(handling, &id).await?;
        let here = handling.event.room.id.clone();
        let own = known.as_ref().is_some_and(|known| known.by.as_ref() == Some(&handling.plugin));
        let mentioned = handling.mentions(&id);
        let file = known.as_ref().is_some_and(|known| known.file);
        let (room, own) = match known {
            Some(known) if own || known.room == here || self.refers(&known.room) => (known.room, own),
            None if mentioned => (here, false),
            // A message of a room that is not granted is told apart from none by nobody.
            Some(_) | None => return Err(error(ErrorKind::NotFound, "the agent knows no such event")),
        };
        let to = effect::Target::Place(effect::Place { room, thread: None });
        Ok(About { to, message: effect::MessageRef::Event(id), own, file })
    }

    /// Whether a message of another room may be referred to.
    fn refers(&mut self, room: &RoomId) -> bool {
        let call = format_args!("outbox: a message of {room}");
        self.may(Permission::Rooms, call, |permissions| permissions.room(room)).is_ok()
    }

    async fn key(&mut self, key: String) -> Result<About, Error> {
        let is_named = |effect: &Effect| effect.message().is_some_and(|(_, name)| name == Some(&key));
        let ours = self.work.newest(is_named);
        let ours = ours.and_then(|(ordinal, effect)| Some((ordinal, effect.message()?.0.clone(), effect)));
        if let Some((ordinal, to, effect)) = ours {
            return self.queued(ordinal, to, effect.file().is_some());
        }
        let handling = self.handling()?;
        let (to, message, file) = match newest(handling, &key).await? {
            None => return Err(error(ErrorKind::NotFound, "this plugin gave no message that name")),
            Some(Named::Waiting { id, to, file }) => (to, effect::MessageRef::Effect(id), file),
            Some(Named::Sent { event, room, file }) => {
                let to = effect::Target::Place(effect::Place { room, thread: None });
                (to, effect::MessageRef::Event(event), file)
            }
        };
        Ok(About { to, message, own: true, file })
    }

    fn here(&self, to: &effect::Target) -> bool {
        let room = self.handling.as_ref().map(|handling| &handling.event.room.id);
        matches!(to, effect::Target::Place(place) if Some(&place.room) == room)
    }
}

/// What is known of an event: the same to whoever runs again.
async fn known(of: &Handling, id: &EventId) -> Result<Option<Known>, Error> {
    let what = answers::digest([id.as_str().as_bytes()]);
    if let Some(Entry { fact: Fact::Known { found }, .. }) = of.record.seen("message", &what) {
        return Ok(found);
    }
    let found = of.messages.known(&of.agent, id).await.map_err(|failed| unavailable(&failed))?;
    of.record.saw("message", &what, Fact::Known { found: found.clone() }, Vec::new);
    Ok(found)
}

/// The same of the newest message to which the plugin gave a name.
async fn newest(of: &Handling, name: &str) -> Result<Option<Named>, Error> {
    let what = answers::digest([of.plugin.as_str().as_bytes(), name.as_bytes()]);
    if let Some(Entry { fact: Fact::Named { found }, .. }) = of.record.seen("name", &what) {
        return Ok(found);
    }
    let found = of.messages.named(&of.agent, &of.plugin, name).await;
    let found = found.map_err(|failed| unavailable(&failed))?;
    of.record.saw("name", &what, Fact::Named { found: found.clone() }, Vec::new);
    Ok(found)
}

/// The room or the person that an effect is seen by, if it is by anybody.
fn place_of(effect: &Effect) -> Option<&str> {
    Some(match effect.to()? {
        effect::Target::Place(place) => place.room.as_str(),
        effect::Target::Direct(user) => user.as_str(),
    })
}

fn same_room(one: &effect::Target, other: &effect::Target) -> bool {
    match (one, other) {
        (effect::Target::Place(one), effect::Target::Place(other)) => one.room == other.room,
        (one, other) => one == other,
    }
}

fn named(key: String) -> Result<String, Error> {
    if key.is_empty() || key.len() > NAME || key.contains('\0') {
        return Err(error(ErrorKind::Invalid, "a name has 1 to 128 bytes, none of them 0"));
    }
    Ok(key)
}

fn not_ours() -> Error {
    error(ErrorKind::Denied, "only a message that this plugin sent can be edited or redacted")
}

fn unavailable(failed: &journal::Error) -> Error {
    tracing::error!(target: "parlour", "outbox: {failed}");
    error(ErrorKind::Unavailable, "the storage failed")
}

/// Whether a body says nothing.
pub fn is_blank(body: &Body) -> bool {
    let (Body::Plain(text) | Body::Markdown(text) | Body::Notice(text)) = body;
    text.trim().is_empty()
}

/// The body of a message, if it is short enough.
pub fn checked(body: Body) -> Result<effect::Body, Error> {
    if is_blank(&body) {
        return Err(error(ErrorKind::Invalid, "a message says something"));
    }
    let body = match body {
        Body::Plain(text) => effect::Body::Plain(readable(text)),
        Body::Markdown(text) => effect::Body::Markdown(readable(text)),
        Body::Notice(text) => effect::Body::Notice(readable(text)),
    };
    if body.text().len() > BODY {
        return Err(error(ErrorKind::TooLarge, "a message has at most 32 KiB"));
    }
    if !fits(body.text()) {
        return Err(error(
            ErrorKind::TooLarge,
            "a message has at most 44 KiB, quotes and line breaks escaped",
        ));
    }
    Ok(body)
}

/// Without what makes a text read otherwise than it is: the two characters that override its direction. Languages
/// that are written from right to left need none of them.
pub fn readable(text: String) -> String {
    const OVERRIDES: [char; 2] = ['\u{202d}', '\u{202e}'];
    if text.contains(OVERRIDES) { text.replace(OVERRIDES, "") } else { text }
}

/// Whether a text fits into a message, as far as its length goes.
pub fn fits(text: &str) -> bool {
    text.len() <= BODY && as_json(text) <= BODY_AS_JSON
}

fn many() -> Error {
    error(ErrorKind::TooLarge, "100 effects are the most for one delivery")
}

fn not_a_message(ordinal: u32) -> Error {
    error(ErrorKind::Invalid, format!("effect {ordinal} is no message of this delivery"))
}

/// The size of a text as JSON.
fn as_json(text: &str) -> usize {
    let escaped = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 8 | 12 => 1,
        0..0x20 => 5,
        _ => 0,
    };
    text.len() + text.bytes().map(escaped).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_as_long_as_it_travels() {
        for text in ["plain", "a \"quote\"\n", "\u{1}\t\\", "é👍", "\u{7f}\u{8}"] {
            assert_eq!(as_json(text) + 2, serde_json::to_string(text).unwrap().len(), "{text:?}");
        }
    }
}
