//! What a handler learns from outside: recorded while it runs, and found again by whoever runs in its place after a crash.

use std::sync::{Arc, atomic::AtomicU32};

use tokio_util::sync::CancellationToken;

use super::{
    Running, Shared,
    began::{Began, Did, Ended, Said},
    delivery::{Asked, Before, Delivery, Shown},
    ledger::ToJournal,
    lock,
    serving::Serving,
    timers::has_grant,
};
use crate::{
    answers::{Entry, Fact, Opening, Record, Writing},
    capability::answers::Recorder,
    engine::{Call, Plugin, Spent},
    event::{Event, Kind, MediaSource},
    id::PluginName,
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
    pub began: Arc<Began>,
    pub event: Arc<Event>,
    pub spent: Arc<Spent>,
    pub record: Arc<Recorder>,
}

impl Learning {
    /// What becomes of it when the delivery has ended: it is kept where what it did is given, and goes otherwise.
    pub async fn ending(&self, outcome: Outcome, did: Option<Did>) -> Option<Learnt> {
        let Some(did) = did else {
            return self.record.is_written().await.then_some(Learnt::Goes);
        };
        let (mut opening, Writing { mut entries, mut full }) = self.record.rest().await;
        let size = |entries: &[Entry]| entries.iter().map(Entry::size).sum::<usize>();
        if size(&entries) > READ {
            // Some wait very often, and mostly for the same.
            entries.retain(|entry| !matches!(entry.fact, Fact::Waited { .. }));
        }
        if size(&entries) > READ {
            entries.clear();
            full = true;
        }
        let ended = Ended { event: without_keys(&self.event), outcome, did };
        let said = Said { began: Began::clone(&self.began), ended: Some(ended) };
        opening.said = serde_json::to_string(&said).unwrap_or_default();
        Some(Learnt::Stays(Box::new(Kept { opening, ended: self.record.now(), entries, full })))
    }
}

/// An event as it is kept: nobody finds its files by it.
fn without_keys(event: &Event) -> Event {
    let mut event = event.clone();
    if let Kind::Message(message) = &mut event.kind {
        for source in message.attachments.iter_mut().filter_map(|it| it.source.as_mut()) {
            *source = MediaSource::new("");
        }
    }
    event
}

/// Whether a delivery that began before a crash goes on.
enum Resumed {
    GoesOn(Box<Before>),
    /// As if it had never begun.
    Anew,
    /// It cannot, and something was changed.
    Lost {
        call: Call,
    },
}

/// Who is to be asked when what was begun before has been finished.
pub(super) enum Then {
    /// Those who have not had the event.
    NextOnes,
    /// It has ended, or the host closes.
    Nobody,
    /// As `NextOnes`, by the plugins as they are now.
    Anew,
}

impl Running {
    /// What a delivery is told.
    pub(super) async fn learning(&self, delivery: &Delivery<'_>, plugin: &Plugin) -> Learning {
        let event = self.sealed(&delivery.waiting.event).await;
        let began = Arc::new(if let Some(before) = &delivery.before {
            // Who may do what is said by the settings as they are now.
            let (role, subject_role) = (delivery.role, delivery.subject_role);
            Began { role, subject_role, ..before.began.clone() }
        } else {
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
                home: self.home().await,
            }
        });
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
            said: serde_json::to_string(&Said { began: Began::clone(&said), ended: None })
                .unwrap_or_default(),
        };
        let before = delivery.before.as_ref().map(|before| &before.record);
        let record = Recorder::new(Arc::new(keeper), self.shared.clock.clone(), before, opening);
        let http = record.count(|fact| {
            matches!(fact, Fact::Begun { changes: true, .. } | Fact::Http { .. } | Fact::Failed { .. })
        });
        let llm = record.count(|fact| {
            matches!(fact, Fact::Begun { changes: false, .. } | Fact::Llm { .. } | Fact::Unanswered { .. })
        });
        let spent = Spent { http: AtomicU32::new(http), llm: AtomicU32::new(llm), ..Spent::default() };
        Learning { began, event, spent: Arc::new(spent), record }
    }

    /// Finishes what was begun of an event before a crash. Answers which plugins have passed it on by that, whether each
    /// said something, and who is to be asked then.
    pub(super) async fn finish<'d>(
        &self,
        waiting: &Waiting,
        serving: &Serving,
        role: Role,
        delivery: &(impl Fn(PluginName, Call, bool, Option<Before>) -> Delivery<'d> + Sync),
    ) -> (Vec<(PluginName, bool)>, Then) {
        let mut passed = Vec::new();
        for record in self.begun(waiting).await {
            let plugin = record.opening.plugin.clone();
            let (call, before) = match self.resumed(record, serving, role).await {
                Resumed::GoesOn(before) => (before.began.call.clone(), Some(*before)),
                Resumed::Lost { call } => (call, None),
                Resumed::Anew => continue,
            };
            let last = matches!(call, Call::Command { .. } | Call::Timer);
            let lost = before.is_none();
            let delivery = delivery(plugin.clone(), call, last, before);
            let shown = Shown { drafted: false, text: None };
            match if lost { self.end_lost(&delivery, &shown).await } else { self.deliver(delivery).await } {
                Asked::Handled | Asked::Interrupted => return (passed, Then::Nobody),
                Asked::Passed { .. } if last => return (passed, Then::Nobody),
                Asked::Passed { said } => passed.push((plugin, said)),
                Asked::Replaced => return (passed, Then::Anew),
            }
        }
        (passed, Then::NextOnes)
    }

    /// The deliveries of an event that had learnt something when the host was ended.
    async fn begun(&self, waiting: &Waiting) -> Vec<Record> {
        let (agent, event) = (&self.agent.name, &waiting.event.id);
        let begun = self.journalled(|| self.shared.journal.begun(agent, event)).await;
        begun.into_iter().filter(|record| !waiting.ended.contains(&record.opening.plugin)).collect()
    }

    /// Who finishes what was begun: the version that began it, and no other.
    async fn resumed(&self, record: Record, serving: &Serving, role: Role) -> Resumed {
        let Opening { agent, delivery, plugin: name, component, said, .. } = &record.opening;
        let said = serde_json::from_str::<Said>(said).ok();
        let version = match serving.plugins.get(name) {
            Some(plugin) if plugin.listing.digest == *component => Some(plugin.clone()),
            Some(_) => {
                let Shared { journal, registry, .. } = &self.shared;
                let versions = self.journalled(|| journal.versions(name)).await;
                // What is undone is not gone on with.
                if registry.was_dropped(name, component, &versions) {
                    None
                } else {
                    registry.version(name, component).await
                }
            }
            // It serves this agent no longer.
            None => None,
        };
        let may = |plugin: &Plugin, call: &Call| match call {
            Call::Command { name, .. } => {
                plugin.listing.commands.iter().any(|command| command.name == *name && command.role <= role)
            }
            Call::Timer => has_grant(&self.toolbox.permissions(plugin)),
            Call::Message | Call::Member | Call::Tool { .. } => true,
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
    pub(super) async fn end_lost(&self, delivery: &Delivery<'_>, shown: &Shown) -> Asked {
        let conclusion = delivery.badly(Outcome::Faulted, GONE.into(), shown);
        let (passed, said) = (conclusion.passed, conclusion.says());
        match self.commit(delivery.commit(conclusion, Some(Learnt::Goes))).await {
            Ok(()) if passed => Asked::Passed { said },
            Ok(()) => Asked::Handled,
            Err(_) => Asked::Interrupted,
        }
    }
}
