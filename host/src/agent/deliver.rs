//! A plugin is called until it has ended, and what it did is committed.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use super::{
    AGAIN, Running, Shared,
    began::Did,
    delivery::{Asked, Conclusion, Delivery, STOPPED, Shown, place},
    files::FromChat,
    health,
    home::sets_home,
    learnt::Learning,
    ledger::FromJournal,
    lock,
    rehearsal::does_better,
    timers::sets_timers,
};
use crate::{
    answers::Again,
    capability::media::Files,
    draft::{Destination, Drafts},
    effect::{Effect, EffectId, MessageRef, Target},
    engine::{End, GuestError, GuestErrorKind, Handling, Plugin, Work},
    event::{Event, Kind},
    id::DeliveryId,
    journal::{Commit, Error, Learnt, Outcome},
    notice::Notice,
    text::escaped,
    trial::After,
};

/// A handler whose reads were overtaken runs again, so often; the others in its way have got on meanwhile.
const CONFLICTS: u32 = 20;
/// One that has learnt something, and whose plugin has another version by now, so often.
const LATE: u32 = 3;
/// A handler that says "later" is tried again for so long; then the person is told.
const LATER: Duration = Duration::from_secs(15 * 60);
/// Between two attempts at least, doubled each time: what a call may take, a delivery takes some 25 times at most.
const FIRST_AGAIN: Duration = Duration::from_millis(100);
const LAST_AGAIN: Duration = Duration::from_secs(60);
/// What is said where a plugin has nothing to say to a person.
const DID_NOT_WORK: &str = "that did not work";
/// Bytes of a line that says why something ended so.
const WHY: usize = 300;

/// What becomes of a version on trial that has faulted.
enum Tried {
    /// It is called again.
    Again,
    /// The one before it serves again, and shall have the event.
    RolledBack,
    /// The event is to blame: it has ended so.
    Excused,
    /// The host closes.
    Interrupted,
}

impl Running {
    /// Calls a plugin until it has ended, and commits what it did.
    pub(super) async fn deliver(&self, delivery: Delivery<'_>) -> Asked {
        let serves = delivery.serving.plugins.get(&delivery.plugin);
        let Some(plugin) = delivery.before.as_ref().map(|before| &before.plugin).or(serves) else {
            return Asked::Passed { said: false };
        };
        let sender = &delivery.waiting.event.sender.id;
        let resting = plugin.suspension(sender, |of| of.left(Instant::now()));
        if let Some(left) = resting {
            return self.rest(&delivery, left).await;
        }
        let drafted = delivery.waiting.resumed && self.was_drafted(&delivery).await;
        let mut shown = Shown { drafted, text: None };
        let learning = self.learning(&delivery, plugin).await;
        let mut conflicts = 0;
        let mut faults = 0;
        let mut again = FIRST_AGAIN;
        let begun = tokio::time::Instant::now();
        loop {
            let Some((end, work)) = self.attempt(&delivery, plugin, &mut shown, &learning).await else {
                return Asked::Interrupted;
            };
            if let Some(End::Error(error)) = &end
                && error.kind == GuestErrorKind::Later
                && let wait = error.retry_after.unwrap_or_default().max(again)
                && begun.elapsed() + wait <= LATER
            {
                if again == FIRST_AGAIN {
                    let (plugin, agent) = (delivery.plugin.clone(), self.agent.name.clone());
                    let reason = health::words(&delivery.waiting.event, error.message.clone());
                    self.shared.notices.say(Notice::PluginWaits { plugin, agent, reason });
                }
                again = (again * 2).min(LAST_AGAIN);
                learning.record.again(Again::Later);
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = delivery.stopped.cancelled() => {}
                    () = self.draining.cancelled() => return Asked::Interrupted,
                }
                continue;
            }
            // Looked up first: who is on no trial any more, because another event has ended it, is dropped by then.
            let trying = end
                .as_ref()
                .filter(|end| health::is_fault(end))
                .and_then(|_| self.shared.registry.on_trial(plugin));
            // It was rolled back meanwhile.
            if end.is_some() && self.shared.registry.is_dropped(plugin).await {
                self.note(&delivery.id, "a version that was rolled back meanwhile had it first");
                return self.give_way(&delivery, &learning, &shown).await;
            }
            // A tool that it called was: it is called by the version before now.
            if learning.spent.replaced.swap(false, Relaxed) && end.is_some() {
                self.note(&delivery.id, "the version of a tool that it called was rolled back");
                learning.record.again(Again::Conflict);
                continue;
            }
            if let Some(end) = &end
                && let Some(trying) = trying
            {
                faults += 1;
                match self.tried(&delivery, plugin, &trying.before, &learning, end, faults).await {
                    Tried::Again => {
                        learning.record.again(Again::Conflict);
                        continue;
                    }
                    Tried::RolledBack => return self.give_way(&delivery, &learning, &shown).await,
                    Tried::Interrupted => return Asked::Interrupted,
                    Tried::Excused => {}
                }
            }
            let well = matches!(end, Some(End::Handled | End::Pass));
            if let Some(end) = &end {
                health::report(&self.shared.notices, plugin, &self.agent.name, &delivery.waiting.event, end);
                health::judge(&self.shared.notices, plugin, &self.agent.name, sender, end);
            }
            let line = match &end {
                Some(end) => self.line(&delivery.waiting.event, end).await,
                None => Some("somebody stopped it".into()),
            };
            let (conclusion, did) = self.conclude(&delivery, end, work, &shown).await;
            let conclusion = Conclusion { line, ..conclusion };
            let (passed, said) = (conclusion.passed, conclusion.says());
            let part = conclusion.took_part();
            let learnt = learning.ending(conclusion.own.outcome, did).await;
            match self.commit(delivery.commit(conclusion, learnt)).await {
                Ok(()) => {
                    for (plugin, digest) in part.iter().filter(|_| well) {
                        self.shared.registry.ended_well(plugin, digest);
                    }
                    return if passed { Asked::Passed { said } } else { Asked::Handled };
                }
                Err(Error::Conflict) if conflicts < CONFLICTS => {
                    conflicts += 1;
                    if self.comes_too_late(&delivery, plugin, &learning, conflicts).await {
                        return self.give_way(&delivery, &learning, &shown).await;
                    }
                    learning.record.again(Again::Conflict);
                }
                Err(Error::Conflict) => return self.overtaken(&delivery, &learning, &shown).await,
                Err(Error::Storage(_)) => return Asked::Interrupted,
            }
        }
    }

    /// Notes what came before a delivery began anew, for whoever asks later: without anything that was said.
    fn note(&self, delivery: &DeliveryId, why: impl Into<String>) {
        lock(&self.noted).entry(delivery.clone()).or_insert_with(|| why.into());
    }

    /// What it reads has changed whenever it had ended.
    async fn overtaken(&self, delivery: &Delivery<'_>, learning: &Learning, shown: &Shown) -> Asked {
        let (plugin, agent) = (delivery.plugin.clone(), self.agent.name.clone());
        let fault = "what it reads changes faster than it runs".to_owned();
        let why = Some(fault.clone());
        self.shared.notices.say(Notice::PluginFaulted { plugin, agent, fault, said: None });
        let line = "too much is going on here; please try again".into();
        let conclusion = Conclusion { line: why, ..delivery.badly(Outcome::Faulted, line, shown) };
        let learnt = learning.record.is_written().await.then_some(Learnt::Goes);
        match self.commit(delivery.commit(conclusion, learnt)).await {
            Ok(()) if delivery.goes_on() => Asked::Passed { said: true },
            Ok(()) => Asked::Handled,
            Err(_) => Asked::Interrupted,
        }
    }

    /// A version on trial has faulted: it is called again, or rolled back where the version before it does better.
    async fn tried(
        &self,
        delivery: &Delivery<'_>,
        plugin: &Arc<Plugin>,
        before: &Arc<Plugin>,
        learning: &Learning,
        end: &End,
        faults: u32,
    ) -> Tried {
        let Shared { registry, notices, .. } = &self.shared;
        let report = || health::report(notices, plugin, &self.agent.name, &delivery.waiting.event, end);
        if registry.faulted(plugin, faults) == After::Again {
            report();
            return Tried::Again;
        }
        match self.does_better(delivery, before, learning).await {
            None => Tried::Interrupted,
            Some(true) => {
                report();
                let (digest, fault) = (&plugin.listing.digest, escaped(&health::fault(end), WHY));
                let digest = digest.get(..12).unwrap_or(digest);
                self.note(&delivery.id, format!("the new version ({digest}) was rolled back at it: {fault}"));
                tokio::select! {
                    () = registry.roll_back(plugin, health::fault(end)) => Tried::RolledBack,
                    () = self.closing.cancelled() => Tried::Interrupted,
                }
            }
            Some(false) => {
                registry.excused(plugin, faults);
                Tried::Excused
            }
        }
    }

    /// Whether the version before does better at this event. None where somebody wants an end.
    async fn does_better(
        &self,
        delivery: &Delivery<'_>,
        before: &Arc<Plugin>,
        learning: &Learning,
    ) -> Option<bool> {
        let Shared { engine, journal, .. } = &self.shared;
        let drafts = Arc::new(Drafts::new(self.destination(delivery)));
        let handling = self.handling(delivery, before, drafts, learning);
        let rehearsal = self.journalled(|| {
            let (call, handling) = (delivery.call.clone(), handling.clone());
            does_better(engine, &**journal, before, call, handling)
        });
        tokio::select! {
            () = delivery.stopped.cancelled() => Some(false),
            () = self.closing.cancelled() => None,
            better = rehearsal => Some(better),
        }
    }

    /// Whether another version serves by now, and this one will not get its work committed.
    async fn comes_too_late(
        &self,
        delivery: &Delivery<'_>,
        plugin: &Plugin,
        learning: &Learning,
        conflicts: u32,
    ) -> bool {
        self.shared.registry.turned().await;
        let serving = self.servings.now();
        let now = serving.plugins.get(&delivery.plugin);
        if now.is_some_and(|now| now.listing.digest == plugin.listing.digest) {
            return false;
        }
        // Who began finishes, unless what it reads or writes is of the other one.
        let tries = if learning.record.changed() { CONFLICTS } else { LATE };
        !learning.record.is_written().await || conflicts >= tries
    }

    /// Another version is to have the event. What this one has learnt is put aside, unless it has changed something: then
    /// nobody can finish it.
    async fn give_way(&self, delivery: &Delivery<'_>, learning: &Learning, shown: &Shown) -> Asked {
        // What nobody has waited for is not written any more.
        drop(learning.record.rest().await);
        if learning.record.changed() {
            let fault =
                "another version took its place, and something may have been changed already".to_owned();
            let (plugin, agent) = (delivery.plugin.clone(), self.agent.name.clone());
            self.shared.notices.say(Notice::PluginFaulted { plugin, agent, fault, said: None });
            return self.end_lost(delivery, shown).await;
        }
        if learning.record.is_written().await {
            let (agent, id) = (&self.agent.name, &delivery.id);
            self.journalled(|| self.shared.journal.put_aside(agent, id)).await;
        }
        Asked::Replaced
    }

    /// A plugin that rests is not asked: whoever asked is told, and else the next one has it.
    async fn rest(&self, delivery: &Delivery<'_>, left: Duration) -> Asked {
        let minutes = left.as_secs().div_ceil(60);
        let line = format!("plugin {} rests after too many faults; {minutes} min left", delivery.plugin);
        let shown = Shown { drafted: false, text: None };
        let why = Some(format!("it rests after too many faults, for {minutes} more min"));
        let conclusion = delivery.badly(Outcome::Rested, line, &shown);
        // A message that is not addressed to the agent gets no such line, and may be another plugin's.
        let passed = conclusion.passed || !conclusion.says();
        let conclusion = Conclusion { passed, line: why, ..conclusion };
        let learnt = delivery.before.is_some().then_some(Learnt::Goes);
        match self.commit(delivery.commit(conclusion, learnt)).await {
            Ok(()) if passed => Asked::Passed { said: false },
            Ok(()) => Asked::Handled,
            Err(_) => Asked::Interrupted,
        }
    }

    /// Calls the plugin once. None where the host closes; without an end where somebody has stopped it.
    async fn attempt(
        &self,
        delivery: &Delivery<'_>,
        plugin: &Arc<Plugin>,
        shown: &mut Shown,
        learning: &Learning,
    ) -> Option<(Option<End>, Work)> {
        let drafts = Arc::new(Drafts::new(self.destination(delivery)));
        let handling = self.handling(delivery, plugin, drafts.clone(), learning);
        let call = self.shared.engine.call(plugin, delivery.call.clone(), handling);
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

    /// Why a call ended as it did. What a plugin says of an encrypted room is said there, and to nobody else.
    async fn line(&self, event: &Arc<Event>, end: &End) -> Option<String> {
        match end {
            End::Handled | End::Answer(_) => None,
            End::Pass => matches!(event.kind, Kind::Message(_)).then(|| "it passed it on".into()),
            End::Fault(fault) => Some(escaped(&fault.to_string(), WHY)),
            End::Error(GuestError { kind, message, .. }) => {
                let what = match kind {
                    GuestErrorKind::Failed => "its own error",
                    GuestErrorKind::Refused => "it said no",
                    GuestErrorKind::Later => "it was not ready for too long",
                };
                let sealed = self.sealed(event).await.room.encrypted;
                let said = message.lines().next().filter(|line| !line.trim().is_empty());
                Some(match said {
                    Some(_) if sealed => format!("{what} (said in an encrypted room)"),
                    Some(said) => format!("{what}: {}", escaped(said, WHY)),
                    None => what.to_owned(),
                })
            }
        }
    }

    /// What is to be committed, and, where that is kept, what the handler did.
    async fn conclude(
        &self,
        delivery: &Delivery<'_>,
        end: Option<End>,
        work: Work,
        shown: &Shown,
    ) -> (Conclusion, Option<Did>) {
        let conclusion = match &end {
            Some(End::Handled | End::Pass | End::Answer(_)) => {
                let passed = matches!(end, Some(End::Pass));
                match work.into_contributions() {
                    Some((own, tools)) => {
                        let conclusion = Conclusion { own, tools, passed, line: None };
                        self.settled(delivery, conclusion, shown.drafted).await
                    }
                    None => delivery.badly(Outcome::Faulted, DID_NOT_WORK.into(), shown),
                }
            }
            Some(End::Error(GuestError { kind, message, .. })) => {
                if *kind == GuestErrorKind::Failed {
                    delivery.badly(Outcome::Faulted, DID_NOT_WORK.into(), shown)
                } else {
                    let line = message.lines().next().filter(|line| !line.trim().is_empty());
                    delivery.badly(Outcome::Refused, line.unwrap_or(DID_NOT_WORK).to_owned(), shown)
                }
            }
            Some(End::Fault(fault)) => delivery.badly(Outcome::Faulted, format!("stopped: {fault}"), shown),
            None => delivery.badly(Outcome::Cancelled, STOPPED.into(), shown),
        };
        let keeps = self.shared.keeps;
        let did = keeps.then(|| Did::new(end.as_ref(), &conclusion.own, &conclusion.tools));
        (conclusion, did)
    }

    /// Commits, however often the storage fails, and sends what is to be sent.
    pub(super) async fn commit(&self, mut commit: Commit) -> Result<(), Error> {
        let noted = lock(&self.noted).get(&commit.delivery).cloned();
        let lines = noted.into_iter().chain(commit.line.take());
        commit.line = lines.reduce(|before, line| format!("{before}; {line}"));
        loop {
            match self.shared.journal.commit(commit.clone()).await {
                Ok(queued) => {
                    lock(&self.noted).remove(&commit.delivery);
                    self.outbox.push(queued);
                    if sets_home(&commit) {
                        self.forget_home().await;
                    }
                    if sets_timers(&commit) {
                        self.timers_set.notify_one();
                    }
                    return Ok(());
                }
                Err(Error::Conflict) => return Err(Error::Conflict),
                Err(error) => {
                    self.shared.notices.say(Notice::Journal { reason: error.to_string() });
                    tokio::select! {
                        () = tokio::time::sleep(AGAIN) => {}
                        () = self.closing.cancelled() => return Err(error),
                    }
                }
            }
        }
    }

    fn handling(
        &self,
        delivery: &Delivery<'_>,
        plugin: &Plugin,
        drafts: Arc<Drafts>,
        learning: &Learning,
    ) -> Handling {
        let name = &self.agent.name;
        let Learning { began, event, spent, record } = learning;
        let journal = Arc::new(FromJournal {
            journal: self.shared.journal.clone(),
            within: self.shared.engine.lookup(),
        });
        Handling {
            agent: name.clone(),
            agent_id: began.agent_id.clone(),
            plugin: delivery.plugin.clone(),
            delivery: delivery.id.clone(),
            event: event.clone(),
            text: began.text.clone(),
            addressed: began.addressed,
            role: began.role,
            subject_role: began.subject_role,
            sender_is_agent: began.sender_is_agent,
            session: began.session.clone(),
            home: began.home.clone(),
            commands: delivery.serving.catalogue.commands(delivery.role).cloned().collect(),
            permissions: self.toolbox.permissions(plugin),
            kv: journal.clone(),
            messages: journal.clone(),
            timers: journal,
            llm: self.shared.llm.clone(),
            drafts: Some(drafts),
            media: Arc::new(Files::new(Arc::new(FromChat(self.agent.chat.clone())))),
            spent: spent.clone(),
            tools: self.toolbox.clone(),
            callers: vec![],
            record: record.clone(),
            path: "".into(),
        }
    }

    /// The event, in an encrypted room if that was ever one: whatever a server says of it now, what is remembered of it
    /// stays there.
    pub(super) async fn sealed(&self, event: &Arc<Event>) -> Arc<Event> {
        let room = &event.room.id;
        if event.room.encrypted {
            lock(&self.clear).remove(room);
            return event.clone();
        }
        if lock(&self.clear).contains(room) {
            return event.clone();
        }
        let name = &self.agent.name;
        if !self.journalled(|| self.shared.journal.was_encrypted(name, room)).await {
            lock(&self.clear).insert(room.clone());
            return event.clone();
        }
        let mut event = Event::clone(event);
        event.room.encrypted = true;
        Arc::new(event)
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

    /// With its draft in mind: the first message takes its place, or it is removed.
    async fn settled(&self, delivery: &Delivery<'_>, mut done: Conclusion, drafted: bool) -> Conclusion {
        let mut taken = false;
        for (_, effect) in &mut done.own.effects {
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
                let all = std::iter::once(&done.own).chain(&done.tools);
                let next = all.flat_map(|of| &of.effects).map(|(ordinal, _)| ordinal + 1).max().unwrap_or(0);
                done.own.effects.push((next, Effect::Redact { to, message, reason: None }));
            }
        }
        done
    }
}
