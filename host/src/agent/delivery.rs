//! One event and one plugin, and how that ends: values, and what a person is told of them.

use std::{collections::BTreeSet, sync::Arc};

use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::{began::Began, serving::Serving};
use crate::{
    addressing::Addressed,
    answers::Record,
    capability::outbox,
    effect::{Body, Effect, Place, Target},
    engine::{Call, Plugin},
    event::Event,
    id::{AgentName, DeliveryId, PluginName},
    journal::{Commit, Contribution, Learnt, Outcome},
    lane::Waiting,
    settings::Role,
};

/// What is said of what somebody has stopped.
pub const STOPPED: &str = "Stopped.";

/// One event and one plugin.
pub struct Delivery<'a> {
    pub agent: &'a AgentName,
    pub waiting: &'a Waiting,
    pub addressed: &'a Addressed,
    /// Of who did it.
    pub role: Role,
    /// Of whom it is about: the same person, but for a membership.
    pub subject_role: Role,
    pub serving: &'a Serving,
    pub id: DeliveryId,
    pub plugin: PluginName,
    pub call: Call,
    /// Nobody else will be asked.
    pub last: bool,
    pub stopped: &'a CancellationToken,
    /// What began before a crash, and goes on.
    pub before: Option<Before>,
}

/// A delivery that began before a crash.
pub struct Before {
    /// What it learnt.
    pub record: Record,
    pub began: Began,
    /// The version that began it.
    pub plugin: Arc<Plugin>,
}

/// What people have seen of a delivery by now, over all attempts.
pub struct Shown {
    pub drafted: bool,
    /// The last text of the draft, where this start has written one.
    pub text: Option<String>,
}

/// How a delivery ends.
pub struct Conclusion {
    /// What the plugin itself did.
    pub own: Contribution,
    /// What the tools did that it called.
    pub tools: Vec<Contribution>,
    /// The next plugin is asked.
    pub passed: bool,
    /// Why it ended so, for whoever asks later: without anything that was said in an encrypted room.
    pub line: Option<String>,
}

impl Conclusion {
    /// Whether anything is done that a person may notice.
    pub fn says(&self) -> bool {
        !self.own.effects.is_empty() || self.tools.iter().any(|tool| !tool.effects.is_empty())
    }

    /// The versions that had a part in it, each once: the plugin's own, and those of tools.
    pub fn took_part(&self) -> BTreeSet<(PluginName, String)> {
        let all = std::iter::once(&self.own).chain(&self.tools);
        all.filter_map(|of| Some((of.plugin.clone()?, of.digest.clone()?))).collect()
    }
}

/// Whether the next plugin shall be asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// It has been handled, and the event has ended.
    Handled,
    /// The next one may have it; whether this one said anything.
    Passed { said: bool },
    /// The host closes: it is run again at the next start.
    Interrupted,
    /// Another version of the plugin serves by now, which shall have it.
    Replaced,
}

impl Delivery<'_> {
    /// For the journal.
    pub fn commit(&self, conclusion: Conclusion, learnt: Option<Learnt>) -> Commit {
        let Conclusion { own, tools, passed, line } = conclusion;
        Commit {
            agent: self.agent.clone(),
            sequence: self.waiting.sequence,
            delivery: self.id.clone(),
            contribution: own,
            tools,
            ends_event: self.last || !passed,
            line,
            learnt,
        }
    }

    /// Of a delivery that did not end well nothing is kept, and the person is told.
    pub fn badly(&self, outcome: Outcome, line: String, shown: &Shown) -> Conclusion {
        let passed = self.goes_on() && outcome != Outcome::Cancelled;
        let effects = (0..).zip(self.lines(line, shown)).collect();
        let plugin = Some(self.plugin.clone());
        // It has read nothing, so that nothing can have changed.
        let own = Contribution {
            plugin,
            digest: None,
            outcome,
            effects,
            files: vec![],
            writes: vec![],
            reads: vec![],
        };
        Conclusion { own, tools: vec![], passed, line: None }
    }

    /// Every plugin hears of a member, whatever becomes of the others.
    pub fn goes_on(&self) -> bool {
        matches!(self.call, Call::Member)
    }

    /// What a person is told: one line, below what there was of the draft.
    fn lines(&self, line: String, shown: &Shown) -> Vec<Effect> {
        let event = &self.waiting.event;
        let line = match &self.call {
            Call::Command { name, .. } if line != STOPPED => format!("/{name}: {line}"),
            Call::Command { .. } => line,
            Call::Message
                if line == STOPPED || shown.drafted || event.room.direct || self.addressed.mentioned =>
            {
                capitalised(&line)
            }
            Call::Timer if line == STOPPED || shown.drafted || event.room.direct => capitalised(&line),
            Call::Message | Call::Member | Call::Timer | Call::Tool { .. } => return vec![],
        };
        let text = match &shown.text {
            Some(partial) => below(partial, &line),
            None => line,
        };
        // A draft of an earlier start keeps its text: the line is a message of its own.
        vec![answer(event, text, shown.text.is_some())]
    }
}

/// A notice where the event happened.
pub fn answer(event: &Event, line: String, takes_draft: bool) -> Effect {
    Effect::Send {
        to: Target::Place(place(event)),
        body: Body::Notice(line),
        reply_to: None,
        name: None,
        takes_draft,
    }
}

/// The conversation of an event.
pub fn place(event: &Event) -> Place {
    Place { room: event.room.id.clone(), thread: event.thread().cloned() }
}

/// The same for the same agent, event and plugin, whatever happens in between; short, because servers keep it.
/// The host's own is `-`, which is no plugin's name.
pub fn delivery_id(agent: &AgentName, event: &Event, plugin: Option<&PluginName>) -> DeliveryId {
    short([agent.as_str(), event.room.id.as_str(), event.id.as_str()], plugin.map_or("-", PluginName::as_str))
}

/// What the host says by itself about a plugin: the same for the same agent and key. No room's id is a plugin's name.
pub fn own_id(agent: &AgentName, plugin: &PluginName, key: &str) -> DeliveryId {
    short([agent.as_str(), plugin.as_str(), key], "-")
}

fn short(parts: [&str; 3], by: &str) -> DeliveryId {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part);
        digest.update([0]);
    }
    let digest = digest.finalize();
    let short = digest.iter().take(12).fold(0_u128, |number, byte| number << 8 | u128::from(*byte));
    DeliveryId::parse(format!("{short:024x}.{by}")).expect("it is not empty")
}

/// A line below a text, of which so much is left that both fit into a message.
fn below(partial: &str, line: &str) -> String {
    let mut end = partial.len();
    loop {
        let more = if end < partial.len() { "…" } else { "" };
        let text = format!("{}{more}\n\n{line}", &partial[..end]);
        if outbox::fits(&text) || end == 0 {
            return text;
        }
        end = partial.floor_char_boundary(end.saturating_sub(1024));
    }
}

fn capitalised(line: &str) -> String {
    let mut chars = line.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
