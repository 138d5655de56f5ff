//! What becomes of one event: a plugin is called, and what it did is committed, or what went wrong is said.

use std::{sync::Arc, time::Duration};

use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::{FromJournal, Running, Serving, lock};
use crate::{
    addressing::Addressed,
    draft::{Destination, Drafts},
    effect::{Body, Effect, MessageRef, Place, Target},
    engine::{Call, End, GuestErrorKind, Handling, Work},
    event::{Event, Kind},
    id::{DeliveryId, PluginName},
    journal::{Commit, Contribution, Error, Outcome, Write},
    lane::Waiting,
    notice::Notice,
    router::Route,
    settings::Role,
};

/// A handler whose reads were overtaken runs again, so often; the others in its way have got on meanwhile.
const CONFLICTS: u32 = 20;
/// A handler that says "later" is tried again for so long; then the person is told.
const LATER: Duration = Duration::from_secs(15 * 60);
const FIRST_AGAIN: Duration = Duration::from_secs(2);
const LAST_AGAIN: Duration = Duration::from_secs(60);

/// One event and one plugin.
struct Delivery<'a> {
    waiting: &'a Waiting,
    addressed: &'a Addressed,
    /// Of who did it.
    role: Role,
    /// Of whom it is about: the same person, but for a membership.
    subject_role: Role,
    serving: &'a Serving,
    id: DeliveryId,
    plugin: PluginName,
    call: Call,
    /// Nobody else will be asked.
    last: bool,
    stopped: &'a CancellationToken,
}

/// Whether the next plugin shall be asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// It has been handled, and the event has ended.
    Handled,
    /// The next one may have it; whether this one said anything.
    Passed { said: bool },
    /// The host closes: it is run again at the next start.
    Interrupted,
}

impl Running {
    /// Handles one event to its end.
    pub(super) async fn handle(&self, waiting: &Waiting, stopped: &CancellationToken) {
        let subject = match &waiting.event.kind {
            Kind::Message(_) => &waiting.event.sender.id,
            Kind::Member(member) => &member.user,
        };
        let role = |user| self.agent.access.role(user);
        let Some(subject_role) = role(subject) else { return self.end(waiting).await };
        // Who invites an admin is none.
        let role = role(&waiting.event.sender.id).unwrap_or(Role::Guest);
        let addressed = self.addressed(&waiting.event);
        let serving = self.serving();
        let route = serving.catalogue.route(&waiting.event, &addressed, role);
        let (plugins, call) = match route {
            Route::Stop => return self.end(waiting).await,
            Route::Answer(line) => return self.tell(waiting, line).await,
            Route::Command { plugin, typed, arguments } => {
                (vec![plugin], Call::Command { name: typed.name, rest: typed.rest, arguments })
            }
            Route::Message(plugins) => (plugins, Call::Message),
            Route::Member(plugins) => (plugins, Call::Member),
        };
        let left: Vec<_> = plugins.into_iter().filter(|plugin| !waiting.ended.contains(plugin)).collect();
        let count = left.len();
        let mut silent = true;
        for (index, plugin) in left.into_iter().enumerate() {
            // A message that all plugins pass on is answered by the host.
            let last = index + 1 == count && !matches!(call, Call::Message);
            let id = delivery_id(&self.agent.name, &waiting.event, Some(&plugin));
            let (addressed, serving, call) = (&addressed, &*serving, call.clone());
            let delivery =
                Delivery { waiting, addressed, role, subject_role, serving, id, plugin, call, last, stopped };
            match self.deliver(delivery).await {
                Asked::Handled | Asked::Interrupted => return,
                Asked::Passed { said } => silent &= !said,
            }
            if last {
                return;
            }
        }
        let asked = addressed.mentioned || waiting.event.room.direct;
        if matches!(call, Call::Message) && silent && asked {
            let hint = if serving.catalogue.knows("help") { " /help lists what I can do." } else { "" };
            return self.tell(waiting, format!("I have no answer to that.{hint}")).await;
        }
        self.end(waiting).await;
    }

    /// The answer to a `/stop`: what it has stopped says so itself.
    pub(super) async fn answer_stop(&self, waiting: Waiting, stopped: bool) {
        if stopped || waiting.resumed {
            self.end(&waiting).await;
        } else {
            self.tell(&waiting, "Nothing is running.".into()).await;
        }
    }

    /// An event of which nothing remains to be done.
    pub(super) async fn end(&self, waiting: &Waiting) {
        self.commit_own(waiting, vec![]).await;
    }

    /// The host's own answer, in one line.
    async fn tell(&self, waiting: &Waiting, line: String) {
        self.commit_own(waiting, vec![answer(&waiting.event, line, false)]).await;
    }

    async fn commit_own(&self, waiting: &Waiting, effects: Vec<Effect>) {
        let delivery = delivery_id(&self.agent.name, &waiting.event, None);
        let contribution =
            Contribution { plugin: None, outcome: Outcome::Done, effects, writes: vec![], reads: vec![] };
        let commit = Commit {
            agent: self.agent.name.clone(),
            sequence: waiting.sequence,
            delivery,
            contribution,
            ends_event: true,
        };
        // The host reads nothing that could have changed.
        drop(self.commit(commit).await);
    }

    /// Calls a plugin until it has ended, and commits what it did.
    async fn deliver(&self, delivery: Delivery<'_>) -> Asked {
        let Some(plugin) = delivery.serving.plugins.get(&delivery.plugin) else {
            return Asked::Passed { said: false };
        };
        let mut conflicts = 0;
        let mut again = FIRST_AGAIN;
        let begun = tokio::time::Instant::now();
        loop {
            let drafts = Arc::new(Drafts::new(self.destination(&delivery)));
            let handling = self.handling(&delivery, drafts.clone()).await;
            let call = self.shared.engine.call(plugin, &delivery.call, handling);
            let ended = tokio::select! {
                biased;
                () = delivery.stopped.cancelled() => None,
                () = self.closing.cancelled() => return Asked::Interrupted,
                ended = call => Some(ended),
            };
            let draft = drafts.finish().await;
            let drafted = draft.is_some() || (delivery.waiting.resumed && self.was_drafted(&delivery).await);
            let partial = draft.as_ref().map(Body::text);
            let (end, work) = ended.map_or_else(|| (None, Work::default()), |(end, work)| (Some(end), work));
            let (outcome, effects, passed) = match end {
                Some(End::Handled) => {
                    (Outcome::Done, self.settled(&delivery, work.effects, drafted).await, false)
                }
                Some(End::Pass) => {
                    (Outcome::Done, self.settled(&delivery, work.effects, drafted).await, true)
                }
                Some(End::Error(error)) if error.kind == GuestErrorKind::Later && begun.elapsed() < LATER => {
                    let wait = error.retry_after.unwrap_or(again).max(Duration::from_millis(100));
                    again = (again * 2).min(LAST_AGAIN);
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = delivery.stopped.cancelled() => {}
                        () = self.draining.cancelled() => return Asked::Interrupted,
                    }
                    continue;
                }
                Some(End::Error(error)) => {
                    let outcome = if error.kind == GuestErrorKind::Failed {
                        Outcome::Faulted
                    } else {
                        Outcome::Refused
                    };
                    if outcome == Outcome::Faulted {
                        self.faulted(&delivery, format!("its own error: {}", error.message));
                    }
                    let line =
                        if error.message.is_empty() { "that did not work".into() } else { error.message };
                    (outcome, Self::lines(&delivery, line, partial, drafted), false)
                }
                Some(End::Fault(fault)) => {
                    self.faulted(&delivery, fault.to_string());
                    (
                        Outcome::Faulted,
                        Self::lines(&delivery, format!("stopped: {fault}"), partial, drafted),
                        false,
                    )
                }
                None => {
                    (Outcome::Cancelled, Self::lines(&delivery, "Stopped.".into(), partial, drafted), false)
                }
            };
            let said = !effects.is_empty();
            let kept = outcome == Outcome::Done;
            let writes = if kept { work.writes } else { std::collections::BTreeMap::new() };
            let writes =
                writes.into_iter().map(|((namespace, key), value)| Write { namespace, key, value }).collect();
            let reads = if kept { work.reads } else { vec![] };
            let commit = Commit {
                agent: self.agent.name.clone(),
                sequence: delivery.waiting.sequence,
                delivery: delivery.id.clone(),
                contribution: Contribution {
                    plugin: Some(delivery.plugin.clone()),
                    outcome,
                    effects,
                    writes,
                    reads,
                },
                ends_event: delivery.last || !passed,
            };
            match self.commit(commit).await {
                Ok(()) if passed => return Asked::Passed { said },
                Ok(()) => return Asked::Handled,
                Err(Error::Conflict) if conflicts < CONFLICTS => conflicts += 1,
                Err(Error::Conflict) => {
                    self.faulted(&delivery, "what it reads changes faster than it runs".into());
                    self.tell(delivery.waiting, "Too much is going on here; please try again.".into()).await;
                    return Asked::Handled;
                }
                Err(Error::Storage(_)) => return Asked::Interrupted,
            }
        }
    }

    /// Commits, however often the storage fails, and sends what is to be sent.
    async fn commit(&self, commit: Commit) -> Result<(), Error> {
        loop {
            match self.shared.journal.commit(commit.clone()).await {
                Ok(queued) => {
                    self.outbox.push(queued);
                    return Ok(());
                }
                Err(Error::Conflict) => return Err(Error::Conflict),
                Err(error) => {
                    self.shared.notices.say(Notice::Journal { reason: error.to_string() });
                    tokio::select! {
                        () = tokio::time::sleep(super::AGAIN) => {}
                        () = self.closing.cancelled() => return Err(error),
                    }
                }
            }
        }
    }

    async fn handling(&self, delivery: &Delivery<'_>, drafts: Arc<Drafts>) -> Handling {
        let waiting = delivery.waiting;
        let name = &self.agent.name;
        let home = self.journalled(|| self.shared.journal.home(name)).await;
        Handling {
            agent: name.clone(),
            agent_id: self.identity().user.clone(),
            plugin: delivery.plugin.clone(),
            delivery: delivery.id.clone(),
            event: waiting.event.clone(),
            text: delivery.addressed.text.clone(),
            addressed: delivery.addressed.mentioned || waiting.event.room.direct,
            role: delivery.role,
            subject_role: delivery.subject_role,
            sender_is_agent: lock(&self.shared.accounts).contains(&waiting.event.sender.id),
            session: waiting.session.clone(),
            home,
            commands: delivery.serving.catalogue.commands(delivery.role).cloned().collect(),
            grants: self.shared.registry.grants(&delivery.plugin),
            kv: Arc::new(FromJournal(self.shared.journal.clone())),
            llm: self.shared.llm.clone(),
            drafts,
        }
    }

    fn destination(&self, delivery: &Delivery<'_>) -> Destination {
        let event = &delivery.waiting.event;
        Destination {
            agent: self.agent.name.clone(),
            delivery: delivery.id.clone(),
            place: place(event),
            encrypted: event.room.encrypted,
            chat: self.agent.chat.clone(),
            journal: self.shared.journal.clone(),
        }
    }

    async fn was_drafted(&self, delivery: &Delivery<'_>) -> bool {
        let (agent, id) = (&self.agent.name, &delivery.id);
        self.journalled(|| self.shared.journal.drafted(agent, id)).await.is_some()
    }

    /// A handler's effects, with its draft in mind: the first message takes its place, or it is removed.
    async fn settled(&self, delivery: &Delivery<'_>, mut effects: Vec<Effect>, drafted: bool) -> Vec<Effect> {
        let mut taken = false;
        for effect in &mut effects {
            if let Effect::Send { takes_draft, .. } = effect {
                *takes_draft &= drafted;
                taken |= *takes_draft;
            }
        }
        if drafted && !taken {
            let (agent, id) = (&self.agent.name, &delivery.id);
            let draft = self.journalled(|| self.shared.journal.drafted(agent, id)).await;
            if let Some(event) = draft.and_then(|draft| draft.event) {
                let message = MessageRef::Event(event);
                effects.push(Effect::Redact { place: place(&delivery.waiting.event), message, reason: None });
            }
        }
        effects
    }

    /// What a person is told of a delivery that did not end well: one line, below what there was of its draft.
    fn lines(delivery: &Delivery<'_>, line: String, partial: Option<&str>, drafted: bool) -> Vec<Effect> {
        let event = &delivery.waiting.event;
        let line = match &delivery.call {
            Call::Command { name, .. } if line != "Stopped." => format!("/{name}: {line}"),
            Call::Command { .. } => line,
            Call::Message if drafted || event.room.direct || delivery.addressed.mentioned => {
                capitalised(&line)
            }
            Call::Message | Call::Member => return vec![],
        };
        let text = partial.map_or_else(|| line.clone(), |partial| format!("{partial}\n\n{line}"));
        vec![answer(event, text, drafted)]
    }

    fn faulted(&self, delivery: &Delivery<'_>, fault: String) {
        let (plugin, agent) = (delivery.plugin.clone(), self.agent.name.clone());
        self.shared.notices.say(Notice::PluginFaulted { plugin, agent, fault });
    }
}

/// A notice where the event happened.
fn answer(event: &Event, line: String, takes_draft: bool) -> Effect {
    Effect::Send {
        to: Target::Place(place(event)),
        body: Body::Notice(line),
        reply_to: None,
        name: None,
        takes_draft,
    }
}

fn place(event: &Event) -> Place {
    let thread = match &event.kind {
        Kind::Message(message) => message.thread.clone(),
        Kind::Member(_) => None,
    };
    Place { room: event.room.id.clone(), thread }
}

/// The same for the same agent, event and plugin, whatever happens in between; short, because servers keep it.
fn delivery_id(agent: &crate::id::AgentName, event: &Event, plugin: Option<&PluginName>) -> DeliveryId {
    let mut digest = Sha256::new();
    for part in [agent.as_str(), event.room.id.as_str(), event.id.as_str()] {
        digest.update(part);
        digest.update([0]);
    }
    let digest = digest.finalize();
    let hex = digest[..12].iter().fold(String::with_capacity(24), |text, byte| format!("{text}{byte:02x}"));
    DeliveryId::parse(format!("{hex}.{}", plugin.map_or("parlour", PluginName::as_str)))
        .expect("it is not empty")
}

fn capitalised(line: &str) -> String {
    let mut chars = line.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
