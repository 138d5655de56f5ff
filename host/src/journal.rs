//! The ledger: what came in, what was done about it, what has to go out, and what plugins remember. Behind one
//! trait, with a backend in [`memory`] and one in [`sqlite`], and one conformance suite that both pass.
//!
//! Two writes matter. [`Journal::receive`] stores events together with the position of the chat that covers
//! them, before anything that is done about them. [`Journal::commit`] stores what a handler did, all of it or
//! nothing: effects, `kv` writes, timers, the home, and "done". A timer that is due becomes an event in one write, too
//! ([`Journal::fire`]). Whatever happens between two writes, what was received
//! and has not ended is handed out again by [`Journal::pending`], and what was committed and not sent by
//! [`Journal::unsent`].

#[cfg(test)]
mod conformance;
pub mod memory;
mod review;
pub mod sqlite;
mod story;
mod version;

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use crate::trial::Undone;
pub use review::{Unreviewed, review};
pub use story::{Became, EffectKind, Fate, Happening, Last, Story, Tidy, Told};
pub use version::{Decision, Moved, Release, Remembered, Versions};

use crate::{
    answers::{self, Opening, Record, Writing},
    audit::{Entry, Head, Recorded},
    effect::{Effect, EffectId, MessageRef, Place, Target},
    event::{Event, MediaSource, Position, Reading},
    gate::Verdict,
    id::{AgentName, DeliveryId, EventId, PluginName, RoomId, SessionId, TransactionId},
    timer::Timer,
};

/// The order in which events were received: rises by one agent's every event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub i64);

/// An event with what the gate said of it.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// What came.
    pub event: Event,
    /// Its text is stored only if it may pass: of what was refused, the id and the reason stay.
    pub verdict: Verdict,
    /// In which lane it will wait.
    pub session: SessionId,
}

/// An event that was received, may pass, and has not ended.
#[derive(Debug, Clone)]
pub struct Pending {
    /// Its place in the order of arrival.
    pub sequence: Sequence,
    /// What came.
    pub event: Event,
    /// In which lane it waits.
    pub session: SessionId,
    /// Plugins whose delivery of it has ended: they are not asked again.
    pub ended: Vec<PluginName>,
    /// Whether one of them did anything that a person may notice.
    pub said: bool,
}

/// Whose memory a key belongs to. Two namespaces never share a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace {
    /// The agent.
    pub agent: AgentName,
    /// The plugin.
    pub plugin: PluginName,
    /// Whose within that.
    pub scope: Scope,
}

/// Whose value it is, within one agent and plugin.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// The plugin's own.
    Plugin,
    /// A room's.
    Room(RoomId),
    /// A person's.
    User(crate::id::UserId),
    /// A session's.
    Session(SessionId),
    /// What was written in an encrypted room and stays there, in the place of the plugin's own or a person's.
    Sealed {
        /// Where.
        room: RoomId,
        /// Whose; the plugin's own, where it is nobody's.
        user: Option<crate::id::UserId>,
        /// The keys that were deleted there, and are elsewhere still.
        gone: bool,
    },
}

/// A value with the count of writes that made it, by which a commit sees whether it has changed. A key that is
/// deleted and set again never has a count that it had before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// What was set.
    pub value: Vec<u8>,
    /// Which write it was.
    pub version: i64,
}

/// Something that a handler read, and what it found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// One key.
    Key {
        /// Whose.
        namespace: Namespace,
        /// Which.
        key: String,
        /// The version found; none where there was no value.
        version: Option<i64>,
    },
    /// A list of keys.
    Keys {
        /// Whose.
        namespace: Namespace,
        /// What was asked.
        query: KeyQuery,
        /// What was found.
        found: Vec<String>,
    },
    /// A plugin's timers in a session.
    Timers {
        /// Whose agent.
        agent: AgentName,
        /// Which plugin.
        plugin: PluginName,
        /// In which session.
        session: SessionId,
        /// What was found.
        found: Vec<Timer>,
    },
}

/// Which keys: in byte order, those that begin with `prefix`, after `after`, at most `limit`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the type's own sentence says it")]
pub struct KeyQuery {
    pub prefix: String,
    pub after: Option<String>,
    pub limit: u32,
}

/// How much a plugin remembers for one agent, in all scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes of keys and values.
    pub bytes: u64,
    /// How many keys.
    pub keys: u64,
}

/// What of one agent's waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backlog {
    /// Events that have not ended.
    pub events: u64,
    /// Effects that were committed and not sent.
    pub effects: u64,
    /// Events that cannot be read, and wait for their key.
    pub locked: u64,
}

/// A value set, or deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Whose.
    pub namespace: Namespace,
    /// Which.
    pub key: String,
    /// The new value; none deletes.
    pub value: Option<Vec<u8>>,
}

/// How a delivery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The handler returned ok.
    Done,
    /// It returned an error that running it again would not change.
    Refused,
    /// A trap, a limit, a deadline.
    Faulted,
    /// Somebody stopped it.
    Cancelled,
    /// The plugin rests after too many faults, and was not called.
    Rested,
}

/// The bytes of a file that is to be sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Blob {
    /// By which an effect names it.
    pub digest: String,
    /// What is in it.
    pub bytes: Bytes,
}

/// Its bytes are megabytes, and nobody's business.
impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({}, {} bytes)", self.digest, self.bytes.len())
    }
}

/// What one party, a plugin or the host itself, did about an event.
#[derive(Debug, Clone)]
pub struct Contribution {
    /// Which plugin; none for the host.
    pub plugin: Option<PluginName>,
    /// Which version of it, by the SHA-256 of its file in hexadecimal; none where nothing of it rests on that. What a
    /// version did that was rolled back meanwhile, or whose memory another has moved, is a conflict.
    pub digest: Option<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// What has to go out, each with its ordinal: one count for all contributions of a delivery.
    pub effects: Vec<(u32, Effect)>,
    /// The files that they send. They are kept until no effect that waits needs them.
    pub files: Vec<Blob>,
    /// What to remember.
    pub writes: Vec<Write>,
    /// What the handler read, to be checked.
    pub reads: Vec<Read>,
}

impl Contribution {
    /// Of somebody who did nothing.
    pub(crate) fn nothing() -> Self {
        Self {
            plugin: None,
            digest: None,
            outcome: Outcome::Done,
            effects: vec![],
            files: vec![],
            writes: vec![],
            reads: vec![],
        }
    }
}

/// Everything that ends a delivery.
#[derive(Debug, Clone)]
pub struct Commit {
    /// Whose.
    pub agent: AgentName,
    /// The event.
    pub sequence: Sequence,
    /// The base of the transaction ids.
    pub delivery: DeliveryId,
    /// What was done.
    pub contribution: Contribution,
    /// What the tools did that it called, in the order of the calls: all of it stands or falls together. Their plugins
    /// may still be asked about the event themselves.
    pub tools: Vec<Contribution>,
    /// Nobody else will be asked: the event has ended, and its text can go.
    pub ends_event: bool,
    /// Why it ended so, in a line, for whoever asks later: without anything that was said in an encrypted room.
    pub line: Option<String>,
    /// What becomes of what the delivery has learnt; none where nothing was written of that.
    pub learnt: Option<Learnt>,
}

/// What becomes of what a delivery has learnt, when it has ended.
#[derive(Debug, Clone)]
pub enum Learnt {
    /// It goes.
    Goes,
    /// It stays for a while.
    Stays(Box<Kept>),
}

/// A delivery that has ended and is kept, so that it can be looked at.
#[derive(Debug, Clone)]
pub struct Kept {
    /// How it began, and how it ended.
    pub opening: Opening,
    /// When, in milliseconds since 1970.
    pub ended: i64,
    /// What it has learnt and was not written yet.
    pub entries: Vec<answers::Entry>,
    /// There was no room for all that it learnt.
    pub full: bool,
}

impl Commit {
    /// The delivery's own contribution, and those of tools.
    fn contributions(&self) -> impl Iterator<Item = &Contribution> {
        std::iter::once(&self.contribution).chain(&self.tools)
    }

    /// Whether anything that this plugin remembers was read or is written.
    fn touches(&self, plugin: &PluginName) -> bool {
        self.touched(plugin).next().is_some()
    }

    /// Where it was read or is written, and which key; none for a list.
    fn touched<'a>(
        &'a self,
        plugin: &'a PluginName,
    ) -> impl Iterator<Item = (&'a Namespace, Option<&'a String>)> {
        let read = self.contributions().flat_map(|it| &it.reads).filter_map(|read| match read {
            Read::Key { namespace, key, .. } => Some((namespace, Some(key))),
            Read::Keys { namespace, .. } => Some((namespace, None)),
            Read::Timers { .. } => None,
        });
        let written = self.contributions().flat_map(|it| &it.writes);
        let all = read.chain(written.map(|write| (&write.namespace, Some(&write.key))));
        all.filter(|(namespace, _)| namespace.plugin == *plugin)
    }

    /// In which session this plugin's timers were read, or one of them is set or cancelled, and then its name.
    fn touched_timers<'a>(
        &'a self,
        plugin: &'a PluginName,
    ) -> impl Iterator<Item = (&'a SessionId, Option<&'a str>)> {
        let read = self.contributions().flat_map(|it| &it.reads).filter_map(move |read| match read {
            Read::Timers { plugin: of, session, .. } if of == plugin => Some((session, None)),
            _ => None,
        });
        let own = self.contributions().filter(move |it| it.plugin.as_ref() == Some(plugin));
        let changed = own.flat_map(|it| &it.effects).filter_map(|(_, effect)| effect.timer());
        read.chain(changed.map(|(session, key)| (session, Some(key))))
    }

    /// All effects in the order of their ordinals, and whose they are.
    fn effects(&self) -> Vec<(u32, Option<&PluginName>, &Effect)> {
        let each = self.contributions().flat_map(|contribution| {
            let effects = contribution.effects.iter();
            effects.map(|(ordinal, effect)| (*ordinal, contribution.plugin.as_ref(), effect))
        });
        let mut effects: Vec<_> = each.collect();
        effects.sort_by_key(|(ordinal, ..)| *ordinal);
        effects
    }
}

/// An effect that was committed and not yet sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queued {
    /// The order in which effects were committed.
    pub row: i64,
    /// Where it comes from; the base of its transaction id.
    pub id: EffectId,
    /// Which plugin wants it; none for the host.
    pub plugin: Option<PluginName>,
    /// What.
    pub effect: Effect,
}

impl Queued {
    /// Whether it is a message of its own, or the last text of a draft.
    pub(crate) fn is_message(&self) -> bool {
        matches!(self.effect, Effect::Send { .. })
    }
}

/// What became of an effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// The server took it.
    Accepted {
        /// As which event.
        event: EventId,
        /// Where.
        room: RoomId,
    },
    /// It was given up.
    GivenUp(String),
}

/// An event that an agent has received, or a message that it has sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Where it is.
    pub room: RoomId,
    /// Which plugin sent it; none where it was not a plugin of this agent.
    pub by: Option<PluginName>,
    /// That plugin sent a file.
    pub file: bool,
}

/// The newest message to which a plugin gave a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Named {
    /// It was sent.
    Sent {
        /// As which event.
        event: EventId,
        /// Where.
        room: RoomId,
        /// It is a file.
        file: bool,
    },
    /// It waits to be sent.
    Waiting {
        /// Which effect it is.
        id: EffectId,
        /// Where to.
        to: Target,
        /// It is a file.
        file: bool,
    },
}

/// A message in which a handler shows what it has so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// The transaction id with which it was, or may have been, sent.
    pub transaction: TransactionId,
    /// The event, once the server has said so.
    pub event: Option<EventId>,
}

/// Why a write did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What the handler read has changed since: nothing was written, run it again.
    #[error("what was read has changed since")]
    Conflict,
    /// The storage failed; nothing was written.
    #[error("{0}")]
    Storage(String),
}

/// The ledger. Every call is atomic, and durable when it returns; but for [`Self::receive`] and [`Self::sent`], which are so
/// when a write that was called after them returns, or [`Self::settle`].
#[async_trait]
pub trait Journal: Send + Sync + 'static {
    /// The position of the last batch that was stored.
    async fn position(&self, agent: &AgentName) -> Result<Option<Position>, Error>;

    /// Stores a batch and its position. Answers, for each arrival, its place in the order, or none where the
    /// event was received before or may not pass. What cannot be read waits for [`Self::unlock`], or until it is received
    /// again so that it can be.
    ///
    /// Once answered it holds for every later call, and may be durable only with the next write, or a moment later: so that
    /// what a quick handler commits is durable together with its event. Whoever has a later batch sent waits for [`Self::settle`].
    async fn receive(
        &self,
        agent: &AgentName,
        arrivals: &[Arrival],
        position: &Position,
    ) -> Result<Vec<Option<Sequence>>, Error>;

    /// What cannot be read and waits for its key, in order.
    async fn locked(&self, agent: &AgentName) -> Result<Vec<(Sequence, SessionId, Event)>, Error>;

    /// An event that waited for its key waits no more: it is pending in its place, as it reads now, or refused. Answers
    /// whether it is pending now, and was not before.
    async fn unlock(&self, agent: &AgentName, sequence: Sequence, arrival: &Arrival) -> Result<bool, Error>;

    /// Notes in each room an event that was there before the agent's first contact.
    async fn remember(&self, agent: &AgentName, newest: &[(RoomId, EventId)]) -> Result<(), Error>;

    /// The event of a room that was received or noted last. It is known for ever.
    async fn newest(&self, agent: &AgentName, room: &RoomId) -> Result<Option<EventId>, Error>;

    /// Forgets what was received and sent before the time `before` (milliseconds since 1970, of the receipt or as the
    /// event itself says, whichever is later), and is over; the oldest first, at most `limit` events. Answers how many.
    async fn forget(&self, agent: &AgentName, before: u64, limit: u32) -> Result<u32, Error>;

    /// What has not ended, in order, after `after`, of one session or of all, at most `limit`.
    async fn pending(
        &self,
        agent: &AgentName,
        session: Option<&SessionId>,
        after: Option<Sequence>,
        limit: u32,
    ) -> Result<Vec<Pending>, Error>;

    /// Ends a delivery. Answers what is to be sent, in order. Committing a delivery that was committed before
    /// changes nothing and answers nothing.
    async fn commit(&self, commit: Commit) -> Result<Vec<Queued>, Error>;

    /// What was committed and not sent, in order.
    async fn unsent(&self, agent: &AgentName) -> Result<Vec<Queued>, Error>;

    /// Notes what became of an effect. The first note stands: of an effect that isn't waiting nothing is changed. It may be
    /// durable only with the next write, or a moment later: who finds an effect unsent after a crash asks the chat first.
    async fn sent(&self, agent: &AgentName, row: i64, sent: &Sent) -> Result<(), Error>;

    /// Returns when what was received and noted is durable.
    async fn settle(&self) -> Result<(), Error>;

    /// A file that an effect of this delivery sends, while one waits.
    async fn blob(
        &self,
        agent: &AgentName,
        delivery: &DeliveryId,
        digest: &str,
    ) -> Result<Option<Bytes>, Error>;

    /// Bytes of files that a plugin sends and that wait.
    async fn blobs(&self, agent: &AgentName, plugin: &PluginName) -> Result<u64, Error>;

    /// Notes where the file of an effect that waits was uploaded to: it is not uploaded again.
    async fn stage(&self, agent: &AgentName, row: i64, source: &MediaSource) -> Result<(), Error>;

    /// Where the file of an effect that waits was uploaded to.
    async fn staged(&self, agent: &AgentName, row: i64) -> Result<Option<MediaSource>, Error>;

    /// The event that an effect became, once it was accepted.
    async fn event_of(&self, agent: &AgentName, id: &EffectId) -> Result<Option<EventId>, Error>;

    /// The newest message to which a plugin gave this name, and that was not given up.
    async fn named(&self, agent: &AgentName, plugin: &PluginName, name: &str)
    -> Result<Option<Named>, Error>;

    /// What is known of an event, whatever the gate said of it. Drafts, edits and reactions of the agent's own
    /// are known when the chat has brought them.
    async fn known(&self, agent: &AgentName, event: &EventId) -> Result<Option<Known>, Error>;

    /// Notes that a draft may have been sent, or as which event it was; answers what is known of it.
    async fn draft(
        &self,
        agent: &AgentName,
        delivery: &DeliveryId,
        event: Option<&EventId>,
    ) -> Result<Draft, Error>;

    /// What is known of a draft, if there is one.
    async fn drafted(&self, agent: &AgentName, delivery: &DeliveryId) -> Result<Option<Draft>, Error>;

    /// The agent's home.
    async fn home(&self, agent: &AgentName) -> Result<Option<Place>, Error>;

    /// Whether this agent was ever in this room while it was encrypted.
    async fn was_encrypted(&self, agent: &AgentName, room: &RoomId) -> Result<bool, Error>;

    /// One value.
    async fn get(&self, namespace: &Namespace, key: &str) -> Result<Option<Stored>, Error>;

    /// A list of keys.
    async fn keys(&self, namespace: &Namespace, query: &KeyQuery) -> Result<Vec<String>, Error>;

    /// How much a plugin remembers.
    async fn usage(&self, agent: &AgentName, plugin: &PluginName) -> Result<Usage, Error>;

    /// How a plugin's versions stand.
    async fn versions(&self, plugin: &PluginName) -> Result<Versions, Error>;

    /// For which agents a plugin remembers something.
    async fn remembering(&self, plugin: &PluginName) -> Result<Vec<AgentName>, Error>;

    /// All that a plugin remembers for an agent, by scope and key; with `before`, as it was before the version that is on
    /// trial.
    async fn remembered(
        &self,
        agent: &AgentName,
        plugin: &PluginName,
        before: bool,
    ) -> Result<Vec<Remembered>, Error>;

    /// A version of a plugin takes over, with what it makes of what is remembered for each agent; none where it moves
    /// nothing whatever there is. On trial, what it replaces is kept until [`Self::decide`]; otherwise it is accepted at
    /// once. [`Error::Conflict`] where what is remembered has changed, or is by now for another agent too.
    async fn take_over(
        &self,
        plugin: &PluginName,
        release: &Release,
        on_trial: bool,
        moved: Option<Vec<Moved>>,
    ) -> Result<(), Error>;

    /// Ends the trial of a plugin's version, or forgives it. Answers what is as it was before again; where none is on
    /// trial, nothing is undone.
    async fn decide(&self, plugin: &PluginName, decision: Decision) -> Result<Undone, Error>;

    /// Writes down what a delivery has learnt; of one that was committed, nothing.
    async fn learn(&self, opening: &Opening, writing: Writing) -> Result<(), Error>;

    /// The deliveries of an event that have learnt something and have not ended, in the order in which they began.
    async fn begun(&self, agent: &AgentName, event: &EventId) -> Result<Vec<Record>, Error>;

    /// Forgets what a delivery has learnt that has not ended.
    async fn put_aside(&self, agent: &AgentName, delivery: &DeliveryId) -> Result<(), Error>;

    /// What is kept of the deliveries of an event that have ended, all agents', in the order in which they began.
    async fn past(&self, event: &EventId) -> Result<Vec<Record>, Error>;

    /// The components that what is kept is of: SHA-256, in hexadecimal.
    async fn components(&self) -> Result<Vec<String>, Error>;

    /// Forgets deliveries that ended before `before` (milliseconds since 1970), the oldest ones where all that is kept has
    /// more than `most` bytes, and those whose event has ended without them: at most `limit`. Answers how many those were.
    async fn forget_records(&self, before: i64, most: u64, limit: u32) -> Result<u32, Error>;

    /// The timers of a plugin in one session, in the order in which they are due.
    async fn timers(
        &self,
        agent: &AgentName,
        plugin: &PluginName,
        session: &SessionId,
    ) -> Result<Vec<Timer>, Error>;

    /// How many timers a plugin has, in all sessions.
    async fn timer_count(&self, agent: &AgentName, plugin: &PluginName) -> Result<u64, Error>;

    /// When the next timer of each plugin is due, by the plugins' names.
    async fn next_timers(&self, agent: &AgentName) -> Result<Vec<(PluginName, u64)>, Error>;

    /// The timers of a plugin that are due by now, in the order in which they were, at most `limit`.
    async fn due_timers(
        &self,
        agent: &AgentName,
        plugin: &PluginName,
        now: u64,
        limit: u32,
    ) -> Result<Vec<Timer>, Error>;

    /// Moves a timer on to `next`, or ends it, and stores the event that it becomes, if it becomes one: all of it or
    /// nothing. Answers its place in the order, or none where it may not pass. If the timer is no longer as it is given
    /// here, nothing is changed.
    async fn fire(
        &self,
        agent: &AgentName,
        timer: &Timer,
        next: Option<u64>,
        arrival: Option<&Arrival>,
    ) -> Result<Option<Sequence>, Error>;

    /// What waits.
    async fn backlog(&self, agent: &AgentName) -> Result<Backlog, Error>;

    /// The agents of which there is anything, by name.
    async fn agents(&self) -> Result<Vec<AgentName>, Error>;

    /// What happened last to an agent.
    async fn last(&self, agent: &AgentName) -> Result<Last, Error>;

    /// What became of an event; none where the agent never received it, or it is forgotten.
    async fn story(&self, agent: &AgentName, event: &EventId) -> Result<Option<Story>, Error>;

    /// Puts away what nobody needs any more, a step of it. Answers whether there may be more to do. What waits, what a
    /// plugin remembers, which rooms were encrypted and the audit record stay.
    async fn tidy(&self, agent: &AgentName, tidy: Tidy) -> Result<bool, Error>;

    /// Queues what the host says for an agent by itself, without an event. Answers what is to be sent. Of a delivery
    /// that was queued or committed before it changes nothing and answers nothing.
    async fn announce(
        &self,
        agent: &AgentName,
        delivery: &DeliveryId,
        effects: Vec<Effect>,
    ) -> Result<Vec<Queued>, Error>;

    /// Appends to the audit record, each entry behind the one before. Nothing takes one away again.
    async fn record(&self, entries: Vec<Entry>) -> Result<(), Error>;

    /// Entries of the audit record in order, after the number `after`, at most `limit`.
    async fn recorded(&self, after: u64, limit: u32) -> Result<Vec<Recorded>, Error>;

    /// Where the audit record ends, as it was noted with its last entry.
    async fn record_head(&self) -> Result<Head, Error>;
}

impl Commit {
    /// What the host says by itself.
    fn own(agent: AgentName, sequence: Sequence, delivery: DeliveryId, effects: Vec<Effect>) -> Self {
        let effects = (0..).zip(effects).collect();
        let contribution = Contribution {
            plugin: None,
            digest: None,
            outcome: Outcome::Done,
            effects,
            files: vec![],
            writes: vec![],
            reads: vec![],
        };
        Self {
            agent,
            sequence,
            delivery,
            contribution,
            tools: vec![],
            ends_event: true,
            line: None,
            learnt: None,
        }
    }
}

impl Draft {
    fn of(delivery: &DeliveryId, event: Option<EventId>) -> Self {
        let id = EffectId { delivery: delivery.clone(), ordinal: None };
        Self { transaction: id.transaction(), event }
    }
}

/// Whether it waits for its key.
fn is_locked(event: &Event) -> bool {
    matches!(event.reading, Reading::Locked(_))
}

/// Until when an event is told from a new one: it is forgotten so long after this time, in milliseconds since 1970.
fn time_of(event: &Event) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis());
    i64::try_from(now.max(u128::from(event.sent))).unwrap_or(i64::MAX)
}

/// Whether this effect takes the place of its delivery's draft, or removes it: what is known of the draft is kept
/// until it is sent.
fn takes_draft(effect: &Effect) -> bool {
    match effect {
        Effect::Send { takes_draft, .. } => *takes_draft,
        Effect::Redact { message: MessageRef::Effect(EffectId { ordinal: None, .. }), .. } => true,
        _ => false,
    }
}

/// So many bits of an effect's number are its place among what its commit has to send; those before are the commit's number.
const PLACE: u32 = 16;

/// The number of an effect: greater than those of all earlier commits.
fn row_of(commit: i64, place: usize) -> Result<i64, Error> {
    let place = i64::try_from(place).ok().filter(|place| place >> PLACE == 0);
    let row = place.map(|place| commit << PLACE | place);
    row.ok_or_else(|| Error::Storage(format!("a commit has more than {} effects", 1 << PLACE)))
}

fn never_received(agent: &AgentName, sequence: Sequence) -> Error {
    Error::Storage(format!("agent {agent} never received an event {}", sequence.0))
}
