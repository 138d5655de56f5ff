//! What came in, what of it has not ended, and until when it is known.

use std::collections::HashSet;

use super::{
    super::{Arrival, Pending, Sequence, is_locked, time_of},
    Agent, REMEMBERED, Received, Waiting,
};
use crate::{audit::now, event::Kind, gate::Verdict};

impl Agent {
    pub(super) fn receive(&mut self, arrival: &Arrival, last: &mut i64) -> Option<Sequence> {
        let event = &arrival.event;
        if event.room.encrypted && !self.encrypted.contains(&event.room.id) {
            self.encrypted.insert(event.room.id.clone());
        }
        // A timer's is the host's own, and nothing that anybody could refer to.
        let own = matches!(event.kind, Kind::Timer(_));
        if self.known.contains_key(&event.id) || self.fired.contains(&event.id) {
            return self.came_again(arrival);
        }
        if own {
            self.fired.insert(event.id.clone());
        } else {
            self.known.insert(event.id.clone(), event.room.id.clone());
            self.newest.insert(event.room.id.clone(), event.id.clone());
            self.note(arrival);
        }
        *last += 1;
        let sequence = Sequence(*last);
        let received = Received {
            event: Some((event.id.clone(), event.room.id.clone(), arrival.session.clone())),
            own,
            at: now(),
            until: time_of(event),
            again: 0,
            verdict: arrival.verdict,
            deliveries: Vec::new(),
        };
        self.received.insert(sequence, received);
        self.sequences.insert(event.id.clone(), sequence);
        if arrival.verdict != Verdict::Allow {
            self.ended(sequence);
            return None;
        }
        if is_locked(event) {
            self.locked.insert(sequence, (arrival.session.clone(), event.clone()));
        } else {
            self.wait(sequence, arrival);
        }
        Some(sequence)
    }

    pub(super) fn wait(&mut self, sequence: Sequence, arrival: &Arrival) {
        let session = arrival.session.clone();
        self.lanes.insert((session.clone(), sequence));
        let (event, ended) = (arrival.event.clone(), Vec::new());
        self.pending.insert(sequence, Waiting { event, session, ended, said: false });
    }

    /// What was there before may be readable only now.
    pub(super) fn came_again(&mut self, arrival: &Arrival) -> Option<Sequence> {
        let sequence = *self.sequences.get(&arrival.event.id)?;
        if !is_locked(&arrival.event)
            && let Some(pending) = self.unlock(sequence, arrival)
        {
            return pending.then_some(sequence);
        }
        self.received.get_mut(&sequence)?.again += 1;
        None
    }

    /// Whether it is pending now. Nothing, where it did not wait for its key.
    pub(super) fn unlock(&mut self, sequence: Sequence, arrival: &Arrival) -> Option<bool> {
        self.locked.remove(&sequence)?;
        self.note(arrival);
        if let Some(received) = self.received.get_mut(&sequence) {
            received.verdict = arrival.verdict;
            if let Some((.., session)) = &mut received.event {
                session.clone_from(&arrival.session);
            }
        }
        if arrival.verdict != Verdict::Allow {
            self.ended(sequence);
            return Some(false);
        }
        self.wait(sequence, arrival);
        Some(true)
    }

    /// Forgets what is too old, the oldest first.
    pub(super) fn forget(&mut self, before: i64, limit: u32) -> u32 {
        let unsent: HashSet<_> = self.unsent.values().map(|queued| &queued.id.delivery).collect();
        let over = self.ended.iter().filter_map(|sequence| {
            let Received { until, deliveries, .. } = self.received.get(sequence)?;
            let waits = deliveries.iter().any(|(delivery, _)| unsent.contains(delivery));
            (*until < before && !waits).then_some((*until, *sequence))
        });
        let mut over: Vec<(i64, Sequence)> = over.collect();
        over.sort_unstable();
        over.truncate(limit as usize);
        for (_, sequence) in &over {
            self.forget_one(*sequence);
        }
        self.ended.retain(|sequence| self.received.contains_key(sequence));
        u32::try_from(over.len()).unwrap_or(limit)
    }

    pub(super) fn forget_one(&mut self, sequence: Sequence) {
        let Some(received) = self.received.remove(&sequence) else { return };
        if let Some((event, ..)) = &received.event {
            self.sequences.remove(event);
            if received.own {
                self.fired.remove(event);
            } else {
                self.known.remove(event);
            }
        }
        for (delivery, _) in &received.deliveries {
            self.committed.remove(delivery);
        }
    }

    pub(super) fn end(&mut self, sequence: Sequence) {
        if let Some(waiting) = self.pending.remove(&sequence) {
            self.lanes.remove(&(waiting.session, sequence));
            self.ended(sequence);
        }
    }

    pub(super) fn ended(&mut self, sequence: Sequence) {
        self.ended.push_back(sequence);
        if self.ended.len() > REMEMBERED
            && let Some(sequence) = self.ended.pop_front()
        {
            self.forget_one(sequence);
        }
    }
}

impl Received {
    /// What the host says by itself is about no event.
    pub(super) fn announced() -> Self {
        Self {
            event: None,
            own: true,
            at: now(),
            until: i64::MAX,
            again: 0,
            verdict: Verdict::Allow,
            deliveries: Vec::new(),
        }
    }
}

impl Waiting {
    pub(super) fn at(&self, sequence: Sequence) -> Pending {
        Pending {
            sequence,
            event: self.event.clone(),
            session: self.session.clone(),
            ended: self.ended.clone(),
            said: self.said,
        }
    }
}
