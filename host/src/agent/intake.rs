//! What comes in: stored, judged, put into lanes, and taken out of them in order.

use std::sync::{Arc, atomic::Ordering};

use super::{PENDING, Running, lock, past::now};
use crate::{
    backlog::{self, Came},
    begin,
    event::{Batch, Event, Kind, Position, Reading},
    gate::{self, Denial, Verdict},
    id::SessionId,
    journal::{Arrival, Pending, Sequence},
    lane::{Lanes, Next, Waiting},
    router::Catalogue,
    session,
};

impl Running {
    /// What was not sent is sent, and what was received and has not ended is handled.
    pub(super) async fn resume(self: &Arc<Self>) {
        let name = &self.agent.name;
        let unsent = self.journalled(|| self.shared.journal.unsent(name)).await;
        self.outbox.push(unsent);
        let mut after = None;
        loop {
            let pending = self.journalled(|| self.shared.journal.pending(name, None, after, PENDING)).await;
            let Some(last) = pending.last() else { return };
            after = Some(last.sequence);
            self.before.store(last.sequence.0, Ordering::Relaxed);
            for pending in pending {
                self.dispatch(self.waiting(pending), false);
            }
        }
    }

    fn waiting(&self, pending: Pending) -> Waiting {
        let Pending { sequence, event, session, ended, said } = pending;
        let resumed = sequence.0 <= self.before.load(Ordering::Relaxed);
        Waiting { sequence, event: Arc::new(event), session, ended, said, resumed }
    }

    /// Stores a batch, and hands on what may pass.
    pub(super) async fn take_in(self: &Arc<Self>, batch: Batch) {
        let Batch { events, invites, position, missed, history, .. } = batch;
        if !history.is_empty() {
            // Before the position, with which it would be taken for known.
            self.journalled(|| self.shared.journal.remember(&self.agent.name, &history)).await;
        }
        let came = Came { at: now(), missed };
        let mut arrivals: Vec<Arrival> = events.into_iter().map(|event| self.judge(event, came)).collect();
        self.say_what_is_late(&arrivals);
        self.refuse_too_many(&mut arrivals);
        let entering = self.entering.lock().await;
        let sequences = self.receive(&arrivals, &position).await;
        let alone = arrivals.len() == 1;
        for (arrival, sequence) in arrivals.into_iter().zip(sequences) {
            if arrival.event.room.encrypted {
                self.outbox.is_encrypted(&arrival.event.room.id);
            }
            let Some(sequence) = sequence else {
                if matches!(arrival.verdict, Verdict::Deny(_)) {
                    self.agent.chat.ended(&arrival.event.id);
                    self.was_read(&arrival.event);
                }
                continue;
            };
            let Arrival { event, session, .. } = arrival;
            if matches!(event.reading, Reading::Locked(_)) {
                self.wait_for_key(sequence, event, session);
                continue;
            }
            let event = Arc::new(event);
            self.dispatch(
                Waiting { sequence, event, session, ended: vec![], said: false, resumed: false },
                alone,
            );
            // It may have come before, and not have been readable then.
            self.waits_no_more(sequence);
        }
        drop(entering);
        self.until_durable().await;
        for invite in invites {
            let running = self.clone();
            self.tasks.spawn(async move { running.answer(invite).await });
        }
    }

    /// The answer is in hand, so the write is tried until it is done: the next sync would skip it.
    async fn receive(&self, arrivals: &[Arrival], position: &Position) -> Vec<Option<Sequence>> {
        self.journalled(|| self.shared.journal.receive(&self.agent.name, arrivals, position)).await
    }

    /// Who asks the chat for more tells it that this batch is no longer needed. What handlers say leaves the host only by way of the
    /// journal, behind the event that it is about.
    async fn until_durable(&self) {
        self.journalled(|| self.shared.journal.settle()).await;
    }

    pub(super) fn judge(&self, mut event: Event, came: Came) -> Arrival {
        if let Reading::Locked(locked) = &mut event.reading {
            (locked.at, locked.missed) = (came.at, came.missed);
        }
        let addressed = self.addressed(&event);
        let known =
            addressed.command.as_ref().is_some_and(|typed| self.servings.now().catalogue.knows(&typed.name));
        let accounts = lock(&self.shared.accounts);
        let mut verdict = match &event.reading {
            Reading::Locked(_) => gate::waits(self.policy(&accounts), &event),
            _ => gate::authorize(self.policy(&accounts), &event, &addressed, known),
        };
        drop(accounts);
        if verdict == Verdict::Allow
            && let Some(denial) = backlog::late(&self.agent.behaviour, &event, &addressed, known, came)
        {
            verdict = Verdict::Deny(denial);
        }
        let session = session::of(&event, &self.agent.behaviour);
        Arrival { event, verdict, session }
    }

    /// Whoever wonders why there is no answer finds it in the log.
    fn say_what_is_late(&self, arrivals: &[Arrival]) {
        let count =
            |denial| arrivals.iter().filter(|arrival| arrival.verdict == Verdict::Deny(denial)).count();
        let (missed, old) = (count(Denial::Missed), count(Denial::TooOld));
        if missed > 0 {
            self.say(format!(
                "{missed} events that came while the agent was away are not answered: behaviour.backlog"
            ));
        }
        if old > 0 {
            let horizon = self.agent.behaviour.horizon;
            self.say(format!(
                "{old} events are not answered: they say that they are further away than {horizon}, or this machine's clock is wrong"
            ));
        }
    }

    /// Puts an event into its lane. From here on people may see that it was read. What is `alone` is begun here,
    /// because nothing else waits for this task.
    pub(super) fn dispatch(self: &Arc<Self>, waiting: Waiting, alone: bool) {
        let addressed = self.addressed(&waiting.event);
        if waiting.resumed {
            let accounts = lock(&self.shared.accounts);
            let verdict = gate::authorize(self.policy(&accounts), &waiting.event, &addressed, true);
            drop(accounts);
            if let Verdict::Deny(denial) = verdict {
                // The settings have changed while it waited.
                if let Kind::Timer(fired) = &waiting.event.kind {
                    self.denied_timer(&fired.timer, denial.of_a_timer());
                }
                let running = self.clone();
                self.tasks.spawn(async move {
                    running
                        .end(&waiting, format!("after a restart it may not pass any more: {denial}"))
                        .await;
                    running.agent.chat.ended(&waiting.event.id);
                });
                return;
            }
        }
        if let Kind::Message(message) = &waiting.event.kind {
            self.agent.chat.read(&waiting.event.room.id, &waiting.event.id, message.thread.as_ref());
            if Catalogue::stops(&addressed) {
                // At once, and in the order in which events came: only the answer takes its time.
                let stopped = self.lanes.stop(&waiting.session);
                let running = self.clone();
                self.tasks.spawn(async move {
                    running.answer_stop(&waiting, stopped).await;
                    running.agent.chat.ended(&waiting.event.id);
                });
                return;
            }
        }
        let session = waiting.session.clone();
        if self.lanes.push(waiting) {
            let lane = self.tasks.track_future(self.clone().run_lane(session));
            if alone {
                begin::here(lane);
            } else {
                tokio::spawn(lane);
            }
        }
    }

    pub(super) async fn run_lane(self: Arc<Self>, session: SessionId) {
        loop {
            if self.draining.is_cancelled() {
                return;
            }
            match self.lanes.next(&session) {
                Next::Handle(waiting, stopped) => {
                    let room = &waiting.event.room.id;
                    let types =
                        matches!(waiting.event.kind, Kind::Message(_)).then(|| self.typing.start(room));
                    self.handle(&waiting, &stopped).await;
                    self.agent.chat.ended(&waiting.event.id);
                    // An answer is on its way: the agent types until it is there.
                    if let Some(types) = types {
                        self.outbox.hold(room, Box::new(types));
                    }
                    // Where nothing has to wait, others have their turn.
                    tokio::task::consume_budget().await;
                }
                Next::Refill(after) => {
                    let (name, limit) = (&self.agent.name, Lanes::refill_limit());
                    let pending = self
                        .journalled(|| self.shared.journal.pending(name, Some(&session), after, limit))
                        .await;
                    let pending = pending.into_iter().map(|pending| self.waiting(pending));
                    self.lanes.refill(&session, pending.collect());
                }
                Next::Wait(until) => {
                    let mut changed = self.lanes.changed();
                    // It may have changed before it was waited for.
                    if self.lanes.is_held(&session) {
                        tokio::select! {
                            () = tokio::time::sleep_until(until) => {}
                            _ = changed.changed() => {}
                            () = self.draining.cancelled() => return,
                        }
                    }
                }
                Next::Nothing => return,
            }
        }
    }
}
