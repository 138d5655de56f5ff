//! What of a delivery stands in its record beside what it learnt: how it began, and how it ended. Values.

use serde::{Deserialize, Serialize};

use crate::{
    effect::{Effect, EffectId, MessageRef, Place},
    engine::{Call, End},
    event::Event,
    id::{PluginName, SessionId, UserId},
    journal::{Contribution, Outcome, Write},
    settings::Role,
};

/// The JSON of a record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Said {
    pub began: Began,
    /// None while it goes on.
    #[serde(default)]
    pub ended: Option<Ended>,
}

/// What a handler was called with, beside the event.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Began {
    pub call: Call,
    pub agent_id: UserId,
    pub text: String,
    pub addressed: bool,
    pub role: Role,
    pub subject_role: Role,
    pub sender_is_agent: bool,
    pub session: SessionId,
    pub home: Option<Place>,
}

/// How it ended, for somebody who runs it again later.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ended {
    pub event: Event,
    pub outcome: Outcome,
    pub did: Did,
}

/// What a handler did: two runs that did the same are equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Did {
    /// In words.
    pub end: String,
    /// In order, with whose they are.
    pub effects: Vec<(PluginName, Effect)>,
    /// Whose, in which scope, under which key, and the value; none where it was deleted.
    pub writes: Vec<(PluginName, String, String, Option<Vec<u8>>)>,
}

impl Did {
    /// Of a call and what it left. What did not end well left nothing.
    pub fn new(end: Option<&End>, own: &Contribution, tools: &[Contribution]) -> Self {
        let well = matches!(end, Some(End::Handled | End::Pass | End::Answer(_)));
        let mut effects = Vec::new();
        let mut writes = Vec::new();
        for of in std::iter::once(own).chain(tools).filter(|_| well) {
            let Some(plugin) = &of.plugin else { continue };
            effects.extend(
                of.effects.iter().map(|(ordinal, effect)| (*ordinal, plugin.clone(), effect.clone())),
            );
            writes.extend(of.writes.iter().map(|write| {
                let Write { namespace, key, value } = write;
                (namespace.plugin.clone(), format!("{:?}", namespace.scope), key.clone(), value.clone())
            }));
        }
        effects.sort_by_key(|(ordinal, ..)| *ordinal);
        let effects = effects.into_iter().filter_map(|(_, plugin, effect)| Some((plugin, plain(effect)?)));
        Self { end: words(end), effects: effects.collect(), writes }
    }
}

/// Without what is so because there was a draft, or not.
fn plain(effect: Effect) -> Option<Effect> {
    match effect {
        Effect::Redact { message: MessageRef::Effect(EffectId { ordinal: None, .. }), .. } => None,
        Effect::Send { to, body, reply_to, name, .. } => {
            Some(Effect::Send { to, body, reply_to, name, takes_draft: false })
        }
        other => Some(other),
    }
}

fn words(end: Option<&End>) -> String {
    match end {
        None => "stopped by somebody".into(),
        Some(End::Handled | End::Answer(_)) => "ok".into(),
        Some(End::Pass) => "ok, and the next plugin was asked".into(),
        Some(End::Error(error)) => format!("error: {}", error.message),
        Some(End::Fault(fault)) => fault.to_string(),
    }
}
