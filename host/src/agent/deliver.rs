//! What becomes of one event: a plugin is called, and what it did is committed, or what went wrong is said.

use std::{
    sync::{Arc, atomic::AtomicU32},
    time::Duration,
};

use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::{FromJournal, Running, Serving, lock};
use crate::{
    addressing::Addressed,
    capability::outbox,
    draft::{Destination, Drafts},
    effect::{Body, Effect, EffectId, MessageRef, Place, Target},
    engine::{Call, End, GuestError, GuestErrorKind, Handling, Plugin, Work},
    event::{Event, Kind},
    id::{AgentName, DeliveryId, PluginName},
    journal::{Commit, Contribution, Error, Outcome, Read, Write},
    lane::Waiting,
    notice::Notice,
    router::Route,
    settings::Role,
};

/// A handler whose reads were overtaken runs again, so often; the others in its way have got on meanwhile.
const CONFLICTS: u32 = 20;
/// A handler that says "later" is tried again for so long; then the person is told.
const LATER: Duration = Duration::from_secs(15 * 60);
/// Between two attempts at least, doubled each time: what a call may take, a delivery takes some 25 times at most.
const FIRST_AGAIN: Duration = Duration::from_millis(100);
const LAST_AGAIN: Duration = Duration::from_secs(60);
/// What is said of what somebody has stopped.
const STOPPED: &str = "Stopped.";
/// What is said where a plugin has nothing to say to a person.
const DID_NOT_WORK: &str = "that did not work";

/// One event and one plugin.
struct Delivery<'a> {
    agent: &'a AgentName,
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

/// What people have seen of a delivery by now, over all attempts.
struct Shown {
    drafted: bool,
    /// The last text of the draft, where this start has written one.
    text: Option<String>,
}

/// How a delivery ends.
struct Conclusion {
    outcome: Outcome,
    effects: Vec<Effect>,
    writes: Vec<Write>,
    /// The next plugin is asked.
    passed: bool,
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
        // Who has ended with it before may have said something.
        let mut silent = waiting.ended.is_empty();
        for (index, plugin) in left.into_iter().enumerate() {
            // A message that all plugins pass on is answered by the host.
            let last = index + 1 == count && !matches!(call, Call::Message);
            let id = delivery_id(&self.agent.name, &waiting.event, Some(&plugin));
            let agent = &self.agent.name;
            let (addressed, serving, call) = (&addressed, &*serving, call.clone());
            let delivery = Delivery {
                agent,
                waiting,
                addressed,
                role,
                subject_role,
                serving,
                id,
                plugin,
                call,
                last,
                stopped,
            };
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
        // In a room of many, nobody can know who was meant.
        let asked = waiting.event.room.direct || self.addressed(&waiting.event).mentioned;
        if stopped || waiting.resumed || !asked {
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
        let drafted = delivery.waiting.resumed && self.was_drafted(&delivery).await;
        let mut shown = Shown { drafted, text: None };
        let requests = Arc::new(AtomicU32::new(0));
        let mut conflicts = 0;
        let mut again = FIRST_AGAIN;
        let begun = tokio::time::Instant::now();
        loop {
            let Some((end, work)) = self.attempt(&delivery, plugin, &mut shown, requests.clone()).await
            else {
                return Asked::Interrupted;
            };
            if let Some(End::Error(error)) = &end
                && error.kind == GuestErrorKind::Later
                && let wait = error.retry_after.unwrap_or_default().max(again)
                && begun.elapsed() + wait <= LATER
            {
                if again == FIRST_AGAIN {
                    let (plugin, agent) = (delivery.plugin.clone(), self.agent.name.clone());
                    let reason = error.message.clone();
                    self.shared.notices.say(Notice::PluginWaits { plugin, agent, reason });
                }
                again = (again * 2).min(LAST_AGAIN);
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = delivery.stopped.cancelled() => {}
                    () = self.draining.cancelled() => return Asked::Interrupted,
                }
                continue;
            }
            let (conclusion, reads) = self.conclude(&delivery, end, work, &shown).await;
            let (passed, said) = (conclusion.passed, !conclusion.effects.is_empty());
            match self.commit(delivery.commit(conclusion, reads)).await {
                Ok(()) if passed => return Asked::Passed { said },
                Ok(()) => return Asked::Handled,
                Err(Error::Conflict) if conflicts < CONFLICTS => conflicts += 1,
                Err(Error::Conflict) => {
                    self.faulted(&delivery, "what it reads changes faster than it runs".into());
                    let line = "too much is going on here; please try again".into();
                    let conclusion = delivery.badly(Outcome::Faulted, line, &shown);
                    // It has read nothing, so that nothing can have changed.
                    return match self.commit(delivery.commit(conclusion, vec![])).await {
                        Ok(()) if delivery.goes_on() => Asked::Passed { said: true },
                        Ok(()) => Asked::Handled,
                        Err(_) => Asked::Interrupted,
                    };
                }
                Err(Error::Storage(_)) => return Asked::Interrupted,
            }
        }
    }

    /// Calls the plugin once. None where the host closes; without an end where somebody has stopped it.
    async fn attempt(
        &self,
        delivery: &Delivery<'_>,
        plugin: &Plugin,
        shown: &mut Shown,
        requests: Arc<AtomicU32>,
    ) -> Option<(Option<End>, Work)> {
        let drafts = Arc::new(Drafts::new(self.destination(delivery)));
        let handling = self.handling(delivery, drafts.clone(), requests).await;
        let call = self.shared.engine.call(plugin, &delivery.call, handling);
        let ended = tokio::select! {
            biased;
            () = delivery.stopped.cancelled() => None,
            () = self.closing.cancelled() => return None,
            ended = call => Some(ended),
        };
        let draft = tokio::select! {
            draft = drafts.finish() => draft,
            () = self.closing.cancelled() => return None,
        };
        if let Some(draft) = draft {
            *shown = Shown { drafted: true, text: Some(draft.text().to_owned()) };
        }
        Some(ended.map_or_else(|| (None, Work::default()), |(end, work)| (Some(end), work)))
    }

    /// What is to be committed, and on what condition.
    async fn conclude(
        &self,
        delivery: &Delivery<'_>,
        end: Option<End>,
        work: Work,
        shown: &Shown,
    ) -> (Conclusion, Vec<Read>) {
        let conclusion = match end {
            Some(End::Handled | End::Pass) => {
                let effects = self.settled(delivery, work.effects, shown.drafted).await;
                let writes = work.writes.into_iter();
                let writes =
                    writes.map(|((namespace, key), value)| Write { namespace, key, value }).collect();
                let passed = matches!(end, Some(End::Pass));
                let conclusion = Conclusion { outcome: Outcome::Done, effects, writes, passed };
                return (conclusion, work.reads.into_journal());
            }
            Some(End::Error(GuestError { kind, message, .. })) => {
                if kind == GuestErrorKind::Failed {
                    self.faulted(delivery, format!("its own error: {message}"));
                    delivery.badly(Outcome::Faulted, DID_NOT_WORK.into(), shown)
                } else {
                    let line = message.lines().next().filter(|line| !line.trim().is_empty());
                    delivery.badly(Outcome::Refused, line.unwrap_or(DID_NOT_WORK).to_owned(), shown)
                }
            }
            Some(End::Fault(fault)) => {
                self.faulted(delivery, fault.to_string());
                delivery.badly(Outcome::Faulted, format!("stopped: {fault}"), shown)
            }
            None => delivery.badly(Outcome::Cancelled, STOPPED.into(), shown),
        };
        (conclusion, vec![])
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

    async fn handling(
        &self,
        delivery: &Delivery<'_>,
        drafts: Arc<Drafts>,
        requests: Arc<AtomicU32>,
    ) -> Handling {
        let waiting = delivery.waiting;
        let name = &self.agent.name;
        let home = self.journalled(|| self.shared.journal.home(name)).await;
        let journal = Arc::new(FromJournal(self.shared.journal.clone()));
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
            kv: journal.clone(),
            messages: journal,
            llm: self.shared.llm.clone(),
            drafts,
            requests,
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
            if self.journalled(|| self.shared.journal.drafted(agent, id)).await.is_some() {
                // Its event may not be known yet: the answer was lost, or the host ended before it came.
                let message = MessageRef::Effect(EffectId { delivery: id.clone(), ordinal: None });
                let to = Target::Place(place(&delivery.waiting.event));
                effects.push(Effect::Redact { to, message, reason: None });
            }
        }
        effects
    }

    fn faulted(&self, delivery: &Delivery<'_>, fault: String) {
        let (plugin, agent) = (delivery.plugin.clone(), self.agent.name.clone());
        self.shared.notices.say(Notice::PluginFaulted { plugin, agent, fault });
    }
}

impl Delivery<'_> {
    fn commit(&self, conclusion: Conclusion, reads: Vec<Read>) -> Commit {
        let Conclusion { outcome, effects, writes, passed } = conclusion;
        let plugin = Some(self.plugin.clone());
        Commit {
            agent: self.agent.clone(),
            sequence: self.waiting.sequence,
            delivery: self.id.clone(),
            contribution: Contribution { plugin, outcome, effects, writes, reads },
            ends_event: self.last || !passed,
        }
    }

    /// Of a delivery that did not end well nothing is kept, and the person is told.
    fn badly(&self, outcome: Outcome, line: String, shown: &Shown) -> Conclusion {
        let passed = self.goes_on() && outcome != Outcome::Cancelled;
        Conclusion { outcome, effects: self.lines(line, shown), writes: vec![], passed }
    }

    /// Every plugin hears of a member, whatever becomes of the others.
    fn goes_on(&self) -> bool {
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
            Call::Message | Call::Member => return vec![],
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
/// The host's own is `-`, which is no plugin's name.
fn delivery_id(agent: &AgentName, event: &Event, plugin: Option<&PluginName>) -> DeliveryId {
    let mut digest = Sha256::new();
    for part in [agent.as_str(), event.room.id.as_str(), event.id.as_str()] {
        digest.update(part);
        digest.update([0]);
    }
    let digest = digest.finalize();
    let hex = digest[..12].iter().fold(String::with_capacity(24), |text, byte| format!("{text}{byte:02x}"));
    DeliveryId::parse(format!("{hex}.{}", plugin.map_or("-", PluginName::as_str))).expect("it is not empty")
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
