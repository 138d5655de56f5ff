//! What the journal tells somebody who asks: what became of an event, and what happened last. Ids, times and verdicts; of
//! what was said nothing.

use serde::{Deserialize, Serialize};

use super::Outcome;
use crate::{
    effect::{Effect, Target},
    gate::{Denial, Verdict},
    id::{EventId, PluginName, RoomId, SessionId},
};

/// What an event met, and what was done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Story {
    /// Which.
    pub event: EventId,
    /// Where.
    pub room: RoomId,
    /// In which lane.
    pub session: SessionId,
    /// When it was received, in milliseconds since 1970; none where an older Parlour did.
    pub received: Option<i64>,
    /// How often it came again, and counted no more.
    pub again: u32,
    /// What the gate said.
    pub verdict: Verdict,
    /// It has not ended.
    pub waits: bool,
    /// It cannot be read yet, and waits for its key.
    pub locked: bool,
    /// What was done about it, in order.
    pub deliveries: Vec<Told>,
    /// Of the agent's own message: the event that it was sent for.
    pub sent_for: Option<EventId>,
}

/// How a delivery ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Told {
    /// Whose; none for the host's own.
    pub plugin: Option<PluginName>,
    /// How.
    pub outcome: Outcome,
    /// When, in milliseconds since 1970; none where an older Parlour noted none.
    pub at: Option<i64>,
    /// Why, in a line.
    pub line: Option<String>,
    /// What was queued, in order.
    pub effects: Vec<Fate>,
}

/// An effect, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fate {
    /// Its place in the delivery.
    pub ordinal: u32,
    /// Whose tool wanted it, where it was not the delivery's own plugin.
    pub tool: Option<PluginName>,
    /// What; none where an older Parlour noted nothing.
    pub kind: Option<EffectKind>,
    /// Where to: a room, or a person.
    pub to: Option<String>,
    /// What became of it.
    #[serde(flatten)]
    pub became: Became,
}

/// What became of an effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "became", rename_all = "kebab-case")]
pub enum Became {
    /// It has not been sent.
    Waiting,
    /// The server has taken it.
    Sent {
        /// As which event.
        event: EventId,
        /// When, in milliseconds since 1970; none where an older Parlour noted none.
        at: Option<i64>,
    },
    /// It was given up.
    GivenUp {
        /// Why.
        reason: String,
        /// When, as above.
        at: Option<i64>,
    },
    /// It was done with the commit: nothing is sent.
    Done,
}

/// What an effect is, without what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the usual words")]
pub enum EffectKind {
    Message,
    Edit,
    Reaction,
    Removal,
    Home,
    File,
    Timer,
    TimerEnd,
}

impl EffectKind {
    /// Of an effect.
    #[must_use]
    pub fn of(effect: &Effect) -> Self {
        match effect {
            Effect::Send { .. } => Self::Message,
            Effect::Edit { .. } => Self::Edit,
            Effect::React { .. } => Self::Reaction,
            Effect::Redact { .. } => Self::Removal,
            Effect::SetHome(_) => Self::Home,
            Effect::File { .. } => Self::File,
            Effect::SetTimer(_) | Effect::PutBack(_) => Self::Timer,
            Effect::CancelTimer { .. } => Self::TimerEnd,
        }
    }

    const ALL: [Self; 8] = [
        Self::Message,
        Self::Edit,
        Self::Reaction,
        Self::Removal,
        Self::Home,
        Self::File,
        Self::Timer,
        Self::TimerEnd,
    ];

    /// As it is written.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Edit => "edit",
            Self::Reaction => "reaction",
            Self::Removal => "removal",
            Self::Home => "home",
            Self::File => "file",
            Self::Timer => "timer",
            Self::TimerEnd => "timer-end",
        }
    }

    pub(super) fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

/// Where an effect goes, as far as it is known before it is sent: a room, or a person; a timer's session.
pub(super) fn destination(effect: &Effect) -> String {
    match effect {
        Effect::Send { to, .. }
        | Effect::File { to, .. }
        | Effect::Edit { to, .. }
        | Effect::React { to, .. }
        | Effect::Redact { to, .. } => match to {
            Target::Place(place) => place.room.to_string(),
            Target::Direct(user) => user.to_string(),
        },
        Effect::SetHome(place) => place.room.to_string(),
        Effect::SetTimer(timer) | Effect::PutBack(timer) => timer.session.to_string(),
        Effect::CancelTimer { session, .. } => session.to_string(),
    }
}

/// What happened last to one agent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Last {
    /// The last event that may pass.
    pub accepted: Option<Happening>,
    /// The last one that may not, but for the agent's own.
    pub dropped: Option<Happening>,
    /// The last effect that the server has taken, as this event.
    pub acknowledged: Option<Happening>,
    /// The last effect that was given up; without an event.
    pub given_up: Option<Happening>,
    /// Since when the oldest event waits, in milliseconds since 1970.
    pub oldest_event: Option<i64>,
    /// Since when the oldest effect waits, the same.
    pub oldest_effect: Option<i64>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happening {
    /// Which event.
    pub event: Option<EventId>,
    /// Where: a room, or a person whose room is not known.
    pub room: String,
    /// When, in milliseconds since 1970.
    pub at: i64,
    /// Why, in words.
    pub why: Option<String>,
}

impl Happening {
    pub(super) fn denied(event: EventId, room: &RoomId, at: i64, denial: Denial) -> Self {
        Self { event: Some(event), room: room.to_string(), at, why: Some(denial.to_string()) }
    }
}

/// What is put away, so that a journal stays as large as what it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tidy {
    /// Drafts that nobody came back to since then go, in milliseconds since 1970.
    pub drafts_before: i64,
    /// So many names of messages a plugin keeps, the newest.
    pub names: u32,
    /// So many things that the host has said by itself are known, the newest, so that they are not said again.
    pub announcements: u32,
    /// So many rows go at once, at most, of each.
    pub step: u32,
}
