//! Lanes: one ordered queue for each session, and sessions side by side. What does not fit into a queue waits
//! in the journal; what has to overtake is taken out before.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    event::Event,
    id::{PluginName, SessionId},
    journal::Sequence,
};

/// Events that one session holds in memory: more than a person types while an answer is written.
const LANE: usize = 32;

/// An event that waits for its handler.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// Its place in the order of arrival.
    pub sequence: Sequence,
    /// What came.
    pub event: Arc<Event>,
    /// In which lane it waits.
    pub session: SessionId,
    /// Plugins that have ended with it.
    pub ended: Vec<PluginName>,
    /// Whether one of them did anything that a person may notice.
    pub said: bool,
    /// It was received before this start: a handler may have begun with it.
    pub resumed: bool,
}

/// All lanes of one agent.
#[derive(Default)]
pub struct Lanes {
    all: Mutex<All>,
    /// A hold has ended.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct All {
    lanes: HashMap<SessionId, Lane>,
    /// The newest event that was put into any lane: a newer one in the journal is still on its way here.
    pushed: Option<Sequence>,
    /// What cannot be read yet: it is pushed when it can, and no refill hands it out before.
    locked: BTreeSet<Sequence>,
}

#[derive(Default)]
struct Lane {
    queue: VecDeque<Waiting>,
    /// Something was left in the journal.
    overflow: bool,
    /// Something was left there since the last look.
    again: bool,
    /// The newest event that was in this lane's memory.
    newest: Option<Sequence>,
    running: Option<CancellationToken>,
    /// The next one is ended before it has begun.
    stopped: bool,
    /// Events that cannot be read: until when each holds what came after it.
    holds: BTreeMap<Sequence, Instant>,
}

impl Lane {
    /// Until when nothing is handled.
    fn held(&mut self) -> Option<Instant> {
        let now = Instant::now();
        self.holds.retain(|_, until| *until > now);
        let (first, until) = self.holds.first_key_value()?;
        let after = self.queue.front().is_none_or(|next| next.sequence > *first);
        after.then_some(*until)
    }
}

/// What a lane does next.
pub enum Next {
    /// Handle this one; the token ends it.
    Handle(Waiting, CancellationToken),
    /// Read on in the journal, after this event.
    Refill(Option<Sequence>),
    /// Wait until then, or until [`Lanes::changed`].
    Wait(Instant),
    /// The lane is gone.
    Nothing,
}

impl Lanes {
    /// Puts an event into its lane. Answers true where the lane is new and somebody has to run it.
    pub fn push(&self, waiting: Waiting) -> bool {
        let mut all = self.lock();
        all.pushed = all.pushed.max(Some(waiting.sequence));
        all.locked.remove(&waiting.sequence);
        if let Some(lane) = all.lanes.get_mut(&waiting.session) {
            let held = !lane.holds.is_empty();
            lane.holds.remove(&waiting.sequence);
            if lane.newest >= Some(waiting.sequence) {
                // It could not be read in its turn, and is not among what the journal has still to give.
                let place = lane.queue.partition_point(|other| other.sequence < waiting.sequence);
                lane.queue.insert(place, waiting);
            } else if lane.overflow || lane.queue.len() >= LANE {
                lane.overflow = true;
                lane.again = true;
            } else {
                lane.newest = Some(waiting.sequence);
                lane.queue.push_back(waiting);
            }
            if held {
                // It may be what was held, or come before what still is.
                self.changed.send_replace(());
            }
            return false;
        }
        let lane = Lane { newest: Some(waiting.sequence), ..Lane::default() };
        all.lanes.entry(waiting.session.clone()).or_insert(lane).queue.push_back(waiting);
        true
    }

    /// This event cannot be read yet; until then, what comes after it in its session waits for it. Answers true where the lane is new and somebody has to run it.
    pub fn hold(&self, session: &SessionId, sequence: Sequence, until: Instant) -> bool {
        let mut all = self.lock();
        all.pushed = all.pushed.max(Some(sequence));
        all.locked.insert(sequence);
        let is_new = !all.lanes.contains_key(session);
        let lane = all.lanes.entry(session.clone()).or_default();
        lane.holds.insert(sequence, until);
        if !lane.overflow {
            lane.newest = lane.newest.max(Some(sequence));
        }
        is_new
    }

    /// Nothing waits for this event any more.
    pub fn release(&self, session: &SessionId, sequence: Sequence) {
        let mut all = self.lock();
        all.locked.remove(&sequence);
        if let Some(lane) = all.lanes.get_mut(session) {
            lane.holds.remove(&sequence);
        }
        drop(all);
        self.changed.send_replace(());
    }

    /// Whether something waits for an event that cannot be read.
    pub fn is_held(&self, session: &SessionId) -> bool {
        self.lock().lanes.get_mut(session).is_some_and(|lane| lane.held().is_some())
    }

    /// Wakes whoever waits.
    pub fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// What a lane does next. The one before it has ended.
    pub fn next(&self, session: &SessionId) -> Next {
        let mut all = self.lock();
        let Some(lane) = all.lanes.get_mut(session) else { return Next::Nothing };
        if let Some(until) = lane.held() {
            lane.running = None;
            return Next::Wait(until);
        }
        if let Some(waiting) = lane.queue.pop_front() {
            let token = CancellationToken::new();
            if std::mem::take(&mut lane.stopped) {
                token.cancel();
            }
            lane.running = Some(token.clone());
            return Next::Handle(waiting, token);
        }
        lane.running = None;
        if lane.overflow {
            lane.again = false;
            return Next::Refill(lane.newest);
        }
        all.lanes.remove(session);
        Next::Nothing
    }

    /// What was left in the journal comes into the lane.
    pub fn refill(&self, session: &SessionId, pending: Vec<Waiting>) {
        let mut all = self.lock();
        let All { lanes, pushed, locked, .. } = &mut *all;
        let Some(lane) = lanes.get_mut(session) else { return };
        let is_due = |at: Sequence| Some(at) <= *pushed && !locked.contains(&at);
        lane.queue.extend(pending.into_iter().filter(|waiting| is_due(waiting.sequence)));
        let found = !lane.queue.is_empty();
        lane.newest = lane.queue.back().map(|last| last.sequence).or(lane.newest);
        lane.overflow = found || lane.again;
    }

    /// How many lanes there are, and how many of them have a handler that runs.
    pub fn count(&self) -> (usize, usize) {
        let all = self.lock();
        (all.lanes.len(), all.lanes.values().filter(|lane| lane.running.is_some()).count())
    }

    /// How many a refill takes.
    pub fn refill_limit() -> u32 {
        u32::try_from(LANE).unwrap_or(u32::MAX)
    }

    /// Ends what runs in a session, or is about to. Answers whether there was something.
    pub fn stop(&self, session: &SessionId) -> bool {
        let mut all = self.lock();
        let Some(lane) = all.lanes.get_mut(session) else { return false };
        if let Some(running) = &lane.running {
            let first = !running.is_cancelled();
            running.cancel();
            return first;
        }
        lane.stopped = !lane.queue.is_empty();
        lane.stopped
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::memory::message;
    use crate::event::{DeviceTrust, Kind, Reading, Room, Sender};
    use crate::id::{EventId, RoomId, UserId};

    fn waiting(sequence: i64) -> Waiting {
        let event = Event {
            id: EventId::parse(format!("$e{sequence}")).unwrap(),
            room: Room { id: RoomId::parse("!r").unwrap(), direct: true, encrypted: false },
            sender: Sender {
                id: UserId::parse("@alice:memory").unwrap(),
                display_name: None,
                device: DeviceTrust::Cleartext,
            },
            sent: 0,
            mark: None,
            kind: Kind::Message(message("hello")),
            reading: Reading::AtOnce,
        };
        let session = SessionId::parse("!r").unwrap();
        Waiting {
            sequence: Sequence(sequence),
            event: Arc::new(event),
            session,
            ended: vec![],
            said: false,
            resumed: false,
        }
    }

    /// A journal of 100 events, of which the lane holds some: every one is handled once, in order.
    #[test]
    fn what_does_not_fit_is_read_from_the_journal_once_and_in_order() {
        let lanes = Lanes::default();
        let session = SessionId::parse("!r").unwrap();
        let mut handled = Vec::new();
        let mut pushed = 0;
        let mut rounds = 0;
        loop {
            rounds += 1;
            // What comes while others are handled: three at a time, the journal being one event ahead.
            for _ in 0..if rounds == 1 { 50 } else { 3 } {
                if pushed < 100 {
                    pushed += 1;
                    lanes.push(waiting(pushed));
                }
            }
            match lanes.next(&session) {
                Next::Handle(waiting, _) => handled.push(waiting.sequence.0),
                Next::Refill(after) => {
                    let after = after.map_or(0, |sequence| sequence.0);
                    let journal = (after + 1)..=(pushed + 1).min(100);
                    lanes.refill(&session, journal.take(LANE).map(waiting).collect());
                }
                Next::Wait(_) => unreachable!("nothing holds"),
                Next::Nothing if pushed == 100 => break,
                Next::Nothing => {}
            }
        }
        assert_eq!(handled, (1..=100).collect::<Vec<_>>());
    }

    /// After a start what cannot be read is there first, and then comes what had come before it.
    #[test]
    fn what_came_before_a_hold_does_not_wait_for_it() {
        let lanes = Lanes::default();
        let session = SessionId::parse("!r").unwrap();
        assert!(lanes.hold(&session, Sequence(2), Instant::now() + std::time::Duration::from_secs(3600)));
        assert!(matches!(lanes.next(&session), Next::Wait(_)));
        let mut changed = lanes.changed();
        changed.mark_unchanged();
        lanes.push(waiting(3));
        assert!(lanes.is_held(&session), "what came after it waits");
        changed.mark_unchanged();
        lanes.push(waiting(1));
        assert!(changed.has_changed().unwrap(), "whoever waits looks again");
        assert!(matches!(lanes.next(&session), Next::Handle(waiting, _) if waiting.sequence == Sequence(1)));
        assert!(matches!(lanes.next(&session), Next::Wait(_)));
    }

    /// The journal has an event as pending from the moment at which it can be read, which is before it is pushed.
    #[test]
    fn what_can_be_read_after_all_is_handled_once() {
        for pushed_before_the_refill in [true, false] {
            let lanes = Lanes::default();
            let session = SessionId::parse("!r").unwrap();
            lanes.push(waiting(0));
            for at in 1..=50 {
                match at {
                    45 => drop(lanes.hold(&session, Sequence(at), Instant::now())),
                    at => drop(lanes.push(waiting(at))),
                }
            }
            let mut handled = Vec::new();
            loop {
                match lanes.next(&session) {
                    Next::Handle(waiting, _) => handled.push(waiting.sequence.0),
                    Next::Refill(after) => {
                        let after = after.map_or(0, |sequence| sequence.0);
                        let journal: Vec<_> = ((after + 1)..=50).take(LANE).map(waiting).collect();
                        let has_it = journal.iter().any(|waiting| waiting.sequence.0 == 45);
                        if has_it && pushed_before_the_refill {
                            lanes.push(waiting(45));
                        }
                        lanes.refill(&session, journal);
                        if has_it && !pushed_before_the_refill {
                            lanes.push(waiting(45));
                        }
                    }
                    Next::Wait(_) => unreachable!("nothing holds"),
                    Next::Nothing => break,
                }
            }
            assert_eq!(handled, (0..=50).collect::<Vec<_>>(), "{pushed_before_the_refill}");
        }
    }
}
