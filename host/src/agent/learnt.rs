//! What a handler learns from outside: recorded while it runs, and found again by whoever runs in its place after a crash.

use std::sync::{Arc, atomic::AtomicU32};

use tokio_util::sync::CancellationToken;

use super::{
    Running,
    began::{Began, Did, Ended, Said},
    delivery::{Asked, Before, Delivery, Shown},
    ledger::ToJournal,
    lock,
    serving::Serving,
};
use crate::{
    answers::{Entry, Fact, Opening, Record},
    capability::answers::{Recorder, now},
    engine::{Call, Plugin, Spent},
    event::Event,
    journal::{Kept, Learnt, Outcome},
    lane::Waiting,
    notice::Notice,
    settings::Role,
};

/// Bytes of what was read for nothing that are kept of a delivery that has ended: more is not worth a place on disk at every
/// event.
const READ: usize = 64 * 1024;
/// What a person is told whose event nobody can finish.
const GONE: &str =
    "I was interrupted, and the version that had begun is gone; something may have been done already";

/// What one delivery is told, over all its attempts.
pub(super) struct Learning {
    pub began: Began,
    pub event: Arc<Event>,
    pub spent: Arc<Spent>,
    pub record: Arc<Recorder>,
}

impl Learning {
    /// What becomes of it when the delivery has ended.
    pub fn ending(&self, keeps: bool, outcome: Outcome, did: Did) -> Option<Learnt> {
        if !keeps {
            return self.record.is_written().then_some(Learnt::Goes);
        }
        let (mut opening, mut entries, mut full) = self.record.rest();
        if entries.iter().map(Entry::size).sum::<usize>() > READ {
            entries.clear();
            full = true;
        }
        let ended = Ended { event: Event::clone(&self.event), outcome, did };
        let said = Said { began: self.began.clone(), ended: Some(ended) };
        opening.said = serde_json::to_string(&said).unwrap_or_default();
        Some(Learnt::Stays(Box::new(Kept { opening, ended: now(), entries, full })))
    }
}

/// Whether a delivery that began before a crash goes on.
pub(super) enum Resumed {
    GoesOn(Box<Before>),
    /// As if it had never begun.
    Anew,
    /// It cannot, and something was changed.
    Lost {
        call: Call,
    },
}

impl Running {
    /// What a delivery is told.
    pub(super) async fn learning(&self, delivery: &Delivery<'_>, plugin: &Plugin) -> Learning {
        let event = self.sealed(&delivery.waiting.event).await;
        let began = if let Some(before) = &delivery.before {
            // Who may do what is said by the settings as they are now.
            let (role, subject_role) = (delivery.role, delivery.subject_role);
            Began { role, subject_role, ..before.began.clone() }
        } else {
            let name = &self.agent.name;
            let sender_is_agent = lock(&self.shared.accounts).contains(&event.sender.id);
            Began {
                call: delivery.call.clone(),
                agent_id: self.identity().user.clone(),
                text: delivery.addressed.text.clone(),
                addressed: delivery.addressed.mentioned || event.room.direct,
                role: delivery.role,
                subject_role: delivery.subject_role,
                sender_is_agent,
                session: delivery.waiting.session.clone(),
                home: self.journalled(|| self.shared.journal.home(name)).await,
            }
        };
        let keeper = ToJournal {
            journal: self.shared.journal.clone(),
            notices: self.shared.notices.clone(),
            closing: CancellationToken::clone(&self.closing),
        };
        let (agent, id, name) = (self.agent.name.clone(), delivery.id.clone(), delivery.plugin.clone());
        let (of, listing, said) = (event.id.clone(), plugin.listing.clone(), began.clone());
        let opening = move |begun| Opening {
            agent: agent.clone(),
            delivery: id.clone(),
            plugin: name.clone(),
            event: of.clone(),
            component: listing.digest.clone(),
            begun,
            said: serde_json::to_string(&Said { began: said.clone(), ended: None }).unwrap_or_default(),
        };
        let before = delivery.before.as_ref().map(|before| &before.record);
        let record = Recorder::new(Arc::new(keeper), before, opening);
        let http = record.count(|fact| matches!(fact, Fact::Begun { .. } | Fact::Http { .. }));
        let llm = record.count(|fact| matches!(fact, Fact::Llm { .. }));
        let spent = Spent { http: AtomicU32::new(http), llm: AtomicU32::new(llm), ..Spent::default() };
        Learning { began, event, spent: Arc::new(spent), record }
    }

    /// The deliveries of an event that had learnt something when the host was ended.
    pub(super) async fn begun(&self, waiting: &Waiting) -> Vec<Record> {
        let (agent, event) = (&self.agent.name, &waiting.event.id);
        let begun = self.journalled(|| self.shared.journal.begun(agent, event)).await;
        begun.into_iter().filter(|record| !waiting.ended.contains(&record.opening.plugin)).collect()
    }

    /// Who finishes what was begun: the version that began it, and no other.
    pub(super) async fn resumed(&self, record: Record, serving: &Serving, role: Role) -> Resumed {
        let Opening { agent, delivery, plugin: name, component, said, .. } = &record.opening;
        let said = serde_json::from_str::<Said>(said).ok();
        let version = match serving.plugins.get(name) {
            Some(plugin) if plugin.listing.digest == *component => Some(plugin.clone()),
            Some(_) => self.shared.registry.version(name, component).await,
            // It serves this agent no longer.
            None => None,
        };
        let may = |plugin: &Plugin, call: &Call| match call {
            Call::Command { name, .. } => {
                plugin.listing.commands.iter().any(|command| command.name == *name && command.role <= role)
            }
            _ => true,
        };
        match (version, said) {
            (Some(plugin), Some(said)) if !record.full && may(&plugin, &said.began.call) => {
                Resumed::GoesOn(Box::new(Before { record, began: said.began, plugin }))
            }
            (_, said) if record.changed() => {
                let fault = "the host was ended while it ran, and it cannot go on".to_owned();
                let (plugin, agent) = (name.clone(), self.agent.name.clone());
                self.shared.notices.say(Notice::PluginFaulted { plugin, agent, fault, said: None });
                Resumed::Lost { call: said.map_or(Call::Message, |said| said.began.call) }
            }
            _ => {
                self.journalled(|| self.shared.journal.put_aside(agent, delivery)).await;
                Resumed::Anew
            }
        }
    }

    /// Ends a delivery that nobody can finish.
    pub(super) async fn give_up(&self, delivery: &Delivery<'_>) -> Asked {
        let shown = Shown { drafted: false, text: None };
        let conclusion = delivery.badly(Outcome::Faulted, GONE.into(), &shown);
        let (passed, said) = (conclusion.passed, conclusion.says());
        match self.commit(delivery.commit(conclusion, Some(Learnt::Goes))).await {
            Ok(()) if passed => Asked::Passed { said },
            Ok(()) => Asked::Handled,
            Err(_) => Asked::Interrupted,
        }
    }
}
