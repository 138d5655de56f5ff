//! What somebody who asks is told, and what is put away.

use std::collections::HashSet;

use super::{
    super::{
        Arrival, Became, Queued, Sent, Story, Tidy,
        story::{Happening, destination},
    },
    Agent,
};
use crate::{
    audit::now,
    effect::EffectId,
    gate::{Denial, Verdict},
    id::EventId,
};

impl Agent {
    /// What happened last.
    pub(super) fn note(&mut self, arrival: &Arrival) {
        let (event, at) = (&arrival.event, now());
        match arrival.verdict {
            Verdict::Allow => {
                let room = event.room.id.to_string();
                self.last.accepted = Some(Happening { event: Some(event.id.clone()), room, at, why: None });
            }
            Verdict::Deny(Denial::Own) => {}
            Verdict::Deny(denial) => {
                self.last.dropped = Some(Happening::denied(event.id.clone(), &event.room.id, at, denial));
            }
        }
    }

    /// What became of an effect, for whoever asks.
    pub(super) fn became(&mut self, queued: &Queued, sent: &Sent) {
        let at = now();
        let (became, to) = match sent {
            Sent::Accepted { event, room } => {
                let (id, room) = (Some(event.clone()), room.to_string());
                self.last.acknowledged = Some(Happening { event: id, room: room.clone(), at, why: None });
                (Became::Sent { event: event.clone(), at: Some(at) }, room)
            }
            Sent::GivenUp(reason) => {
                let (to, why) = (destination(&queued.effect), Some(reason.clone()));
                self.last.given_up = Some(Happening { event: None, room: to.clone(), at, why });
                (Became::GivenUp { reason: reason.clone(), at: Some(at) }, to)
            }
        };
        let EffectId { delivery, ordinal } = &queued.id;
        let received = self.committed.get(delivery).and_then(|of| self.received.get_mut(of));
        let told = received.and_then(|it| it.deliveries.iter_mut().find(|(of, _)| of == delivery));
        let fate =
            told.and_then(|(_, told)| told.effects.iter_mut().find(|fate| Some(fate.ordinal) == *ordinal));
        if let Some(fate) = fate {
            (fate.became, fate.to) = (became, Some(to));
        }
    }

    pub(super) fn story(&self, event: &EventId) -> Option<Story> {
        let sequence = self.sequences.get(event)?;
        let received = self.received.get(sequence)?;
        let (_, room, session) = received.event.clone()?;
        let sent_for =
            self.sent.iter().find(|sent| sent.event == *event && self.messages.contains_key(event));
        let sent_for = sent_for.and_then(|sent| self.committed.get(&sent.id.delivery)).and_then(|cause| {
            self.sequences.iter().find_map(|(event, sequence)| (sequence == cause).then(|| event.clone()))
        });
        Some(Story {
            event: event.clone(),
            room,
            session,
            received: Some(received.at),
            again: received.again,
            verdict: received.verdict,
            waits: self.pending.contains_key(sequence),
            locked: self.locked.contains_key(sequence),
            deliveries: received.deliveries.iter().map(|(_, told)| told.clone()).collect(),
            sent_for,
        })
    }

    pub(super) fn tidy(&mut self, tidy: Tidy) -> bool {
        let step = tidy.step as usize;
        let unsent: HashSet<_> = self.unsent.values().map(|queued| &queued.id.delivery).collect();
        let old = self.drafts.iter().filter(|(of, (at, _))| *at < tidy.drafts_before && !unsent.contains(of));
        let mut old: Vec<_> = old.map(|(of, (at, _))| (*at, of.clone())).collect();
        old.sort();
        let drafts: Vec<_> = old.into_iter().take(step).collect();
        let mut own: Vec<_> =
            self.received.iter().filter(|(_, it)| it.event.is_none()).map(|(of, _)| *of).collect();
        own.sort();
        own.truncate(own.len().saturating_sub(tidy.announcements as usize));
        own.retain(|of| !self.received[of].deliveries.iter().any(|(delivery, _)| unsent.contains(delivery)));
        own.truncate(step);
        let mut gone = drafts.len() + own.len();
        for (_, draft) in drafts {
            self.drafts.remove(&draft);
        }
        for sequence in own {
            self.forget_one(sequence);
        }
        for names in self.named.values_mut() {
            let mut rows: Vec<_> = names.iter().map(|(name, newest)| (newest.row, name.clone())).collect();
            rows.sort();
            rows.truncate(rows.len().saturating_sub(tidy.names as usize));
            rows.truncate(step);
            gone += rows.len();
            for (_, name) in rows {
                names.remove(&name);
            }
        }
        gone >= step
    }
}
