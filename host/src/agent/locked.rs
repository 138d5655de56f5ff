//! Encrypted events whose key has not come: kept, tried again, and given up after a while.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{Running, lock, past::now};
use crate::{
    backlog::Came,
    chat::Opened,
    control::{AgentStatus, Undecryptable},
    event::{Event, Reading},
    gate::{Denial, Verdict},
    id::{EventId, SessionId},
    journal::{Arrival, Sequence},
    lane::Waiting,
};

/// How long an agent waits for keys.
#[derive(Debug, Clone, Copy)]
pub struct KeyPatience {
    /// So long, what follows in the same session waits too, so that nothing is answered out of order. Keys that are only
    /// behind come within a few seconds; for longer nobody should wait for somebody else's key.
    pub hold: Duration,
    /// So long, the event is answered when its key comes; then nobody expects it any more.
    pub keep: Duration,
}

impl Default for KeyPatience {
    fn default() -> Self {
        Self { hold: Duration::from_secs(10), keep: Duration::from_secs(60 * 60) }
    }
}

/// So many wait for each agent: they stand in the journal, and all are tried when it is not known which key came.
const MOST: usize = 1000;

/// Of so many that were given up is told more than that they were.
const TOLD: usize = 20;

/// What waits for its key, and what has waited for too long.
#[derive(Default)]
pub(super) struct Locked {
    waits: BTreeMap<Sequence, One>,
    given_up: u64,
    last: VecDeque<Undecryptable>,
}

#[derive(Clone)]
struct One {
    event: Event,
    session: SessionId,
    /// It was not tried since it came: its key may have come in between.
    untried: bool,
}

impl Running {
    /// Reads what waits from earlier runs.
    pub(super) async fn resume_locked(self: &Arc<Self>) {
        let name = &self.agent.name;
        for (sequence, session, event) in self.journalled(|| self.shared.journal.locked(name)).await {
            self.wait_for_key(sequence, event, session);
        }
    }

    /// Of what may be waited for, what there is no room for is said to be lost, at once.
    pub(super) fn refuse_too_many(&self, arrivals: &mut [Arrival]) {
        let mut locked = lock(&self.locked);
        let waiting: BTreeSet<EventId> = locked.waits.values().map(|one| one.event.id.clone()).collect();
        let mut room = MOST.saturating_sub(waiting.len());
        let mut refused = 0;
        for arrival in arrivals {
            let Arrival { event, verdict, .. } = arrival;
            let waits = matches!(event.reading, Reading::Locked(_)) && *verdict == Verdict::Allow;
            if !waits || waiting.contains(&event.id) {
                continue;
            }
            if room > 0 {
                room -= 1;
                continue;
            }
            *verdict = Verdict::Deny(Denial::Undecryptable);
            refused += 1;
            locked.give_up(Undecryptable::of(event, format!("{MOST} others waited for their keys")));
        }
        drop(locked);
        if refused > 0 {
            self.say(format!(
                "could not decrypt {refused} events: {MOST} others wait for their keys, and more are not kept"
            ));
        }
    }

    /// An event that cannot be read holds its session.
    pub(super) fn wait_for_key(self: &Arc<Self>, sequence: Sequence, event: Event, session: SessionId) {
        let one = One { event, session: session.clone(), untried: true };
        let waited = Duration::from_millis(now().saturating_sub(one.came().at));
        let until = Instant::now() + self.agent.key_patience.hold.saturating_sub(waited);
        let lane = self.lanes.hold(&session, sequence, until);
        lock(&self.locked).waits.insert(sequence, one);
        self.locks.notify_one();
        if lane {
            tokio::spawn(self.tasks.track_future(self.clone().run_lane(session)));
        }
    }

    /// It was read, one way or the other.
    pub(super) fn waits_no_more(&self, sequence: Sequence) {
        let one = lock(&self.locked).waits.remove(&sequence);
        if let Some(one) = one {
            self.lanes.release(&one.session, sequence);
        }
    }

    /// An event came again, could be read, and may not pass: nobody waits for its key any more.
    pub(super) fn was_read(&self, event: &Event) {
        if matches!(event.reading, Reading::Locked(_)) {
            return;
        }
        let waited = {
            let locked = lock(&self.locked);
            let same = |one: &One| one.event.id == event.id && one.event.room.id == event.room.id;
            locked.waits.iter().find(|(_, one)| same(one)).map(|(sequence, _)| *sequence)
        };
        if let Some(sequence) = waited {
            self.waits_no_more(sequence);
        }
    }

    /// Tries what waits whenever there is reason to, and gives up what has waited for too long, while the agent serves.
    pub(super) async fn open_locked(self: Arc<Self>) {
        loop {
            self.open(|one| std::mem::take(&mut one.untried)).await;
            let next = lock(&self.locked).waits.values().map(|one| one.came().at).min();
            let keep = u64::try_from(self.agent.key_patience.keep.as_millis()).unwrap_or(u64::MAX);
            let left = next.map(|at| at.saturating_add(keep).saturating_sub(now()));
            let expired = async {
                match left {
                    Some(left) => tokio::time::sleep(Duration::from_millis(left)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                keys = self.agent.chat.keys() => self.open(|one| one.is_opened_by(keys.as_ref())).await,
                () = expired => self.give_up(keep).await,
                () = self.locks.notified() => {}
            }
        }
    }

    async fn open(self: &Arc<Self>, which: impl Fn(&mut One) -> bool) {
        let those: Vec<(Sequence, One)> = {
            let mut locked = lock(&self.locked);
            let those =
                locked.waits.iter_mut().filter_map(|(at, one)| which(one).then(|| (*at, one.clone())));
            those.collect()
        };
        for (sequence, one) in those {
            match self.agent.chat.open(&one.event).await {
                Opened::NotYet => {}
                Opened::Nothing => self.close(sequence, one, Denial::Unheard).await,
                Opened::Event(event) => self.opened(sequence, &one, *event).await,
            }
        }
    }

    /// Its key has come: the event is judged and handled as any other, in its place, or late.
    async fn opened(self: &Arc<Self>, sequence: Sequence, one: &One, mut event: Event) {
        let came = one.came();
        let hold = u64::try_from(self.agent.key_patience.hold.as_millis()).unwrap_or(u64::MAX);
        let is_late = now().saturating_sub(came.at) > hold;
        event.reading = if is_late { Reading::Late } else { Reading::AtOnce };
        let arrival = self.judge(event, came);
        let unlocked =
            self.journalled(|| self.shared.journal.unlock(&self.agent.name, sequence, &arrival)).await;
        let Arrival { event, verdict, session } = arrival;
        if unlocked {
            let waiting = Waiting {
                sequence,
                event: Arc::new(event),
                session,
                ended: vec![],
                said: false,
                resumed: false,
            };
            self.dispatch(waiting, false);
        } else if matches!(verdict, Verdict::Deny(_)) {
            self.agent.chat.ended(&event.id);
        }
        self.waits_no_more(sequence);
    }

    /// What was waited for long enough is said to be lost, once.
    async fn give_up(self: &Arc<Self>, keep: u64) {
        let old: Vec<(Sequence, One)> = {
            let locked = lock(&self.locked);
            let old = locked.waits.iter().filter(|(_, one)| one.came().at.saturating_add(keep) <= now());
            old.map(|(at, one)| (*at, one.clone())).collect()
        };
        for (sequence, one) in old {
            if !lock(&self.locked).waits.contains_key(&sequence) {
                continue;
            }
            let Event { id, room, sender, reading, .. } = &one.event;
            let reason = match reading {
                Reading::Locked(locked) => locked.reason.as_str(),
                _ => "it could not be read",
            };
            self.say(format!("could not decrypt {id} of {} in {}: {reason}", sender.id, room.id));
            lock(&self.locked).give_up(Undecryptable::of(&one.event, reason.into()));
            self.close(sequence, one, Denial::Undecryptable).await;
        }
    }

    async fn close(&self, sequence: Sequence, one: One, denial: Denial) {
        let One { event, session, .. } = one;
        let arrival = Arrival { event, verdict: Verdict::Deny(denial), session };
        self.journalled(|| self.shared.journal.unlock(&self.agent.name, sequence, &arrival)).await;
        self.agent.chat.ended(&arrival.event.id);
        self.waits_no_more(sequence);
    }
}

impl Undecryptable {
    fn of(event: &Event, why: String) -> Self {
        let at = i64::try_from(now()).unwrap_or(i64::MAX);
        Self { event: event.id.clone(), room: event.room.id.clone(), at, why }
    }
}

impl Locked {
    fn give_up(&mut self, undecryptable: Undecryptable) {
        self.given_up += 1;
        self.last.push_back(undecryptable);
        if self.last.len() > TOLD {
            self.last.pop_front();
        }
    }

    /// What was given up goes into a status.
    pub fn describe(&self, status: &mut AgentStatus) {
        (status.undecryptable_count, status.undecryptable) =
            (self.given_up, self.last.iter().cloned().collect());
    }
}

impl One {
    fn came(&self) -> Came {
        match &self.event.reading {
            Reading::Locked(locked) => Came { at: locked.at, missed: locked.missed },
            _ => Came { at: 0, missed: false },
        }
    }

    /// Whether one of these keys may be the one; without them, any may.
    fn is_opened_by(&self, keys: Option<&BTreeSet<String>>) -> bool {
        let (Some(keys), Reading::Locked(locked)) = (keys, &self.event.reading) else { return true };
        locked.key.as_ref().is_none_or(|key| keys.contains(key))
    }
}
