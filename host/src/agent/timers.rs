//! Timers that are due become events: each in one write with the timer's next time, so that a crash fires it once; and
//! from there on as any event.
//!
//! Nothing is polled. One task waits until the next timer is due, until one is set, or until other plugins are there; and
//! it looks at the clock again each minute.

use std::{collections::HashSet, num::NonZeroU32, sync::Arc};

use super::{Running, lock};
use crate::{
    chat::Attendance,
    effect::Effect,
    event::{Event, Kind, Reading, Room},
    gate::{self, Denial, Verdict},
    grant::Permissions,
    id::{EventId, PluginName},
    journal::{Arrival, Commit},
    lane::Waiting,
    manifest::Permission,
    rate::Rates,
    rhythm::{Firing, firing},
    timer::{Fired, Timer},
};

/// Timers that are read at once.
const DUE: u32 = 50;

/// What was said in this start already: a timer that is due each minute says it once.
#[derive(Default)]
struct Said {
    waits: HashSet<PluginName>,
    denied: HashSet<(String, &'static str)>,
}

/// Whether a commit changes when the next timer is due.
pub(super) fn sets_timers(commit: &Commit) -> bool {
    let contributions = std::iter::once(&commit.contribution).chain(&commit.tools);
    let mut effects = contributions.flat_map(|contribution| &contribution.effects);
    effects.any(|(_, effect)| matches!(effect, Effect::SetTimer(_) | Effect::PutBack(_)))
}

/// Of a timer whose plugin is gone.
const WAITS: &str = "waits: the plugin is not there";

impl Running {
    /// Fires timers, until the future is dropped.
    pub(super) async fn keep_time(self: Arc<Self>) {
        let mut said = Said::default();
        let mut rates = Rates::default();
        let mut changed = self.shared.registry.changes();
        loop {
            changed.mark_unchanged();
            let next = self.fire_due(&mut said, &mut rates).await;
            tokio::select! {
                () = self.shared.clock.until(next) => {}
                () = self.timers_set.notified() => {}
                _ = changed.changed() => {}
                () = self.draining.cancelled() => return,
            }
        }
    }

    /// Fires what is due by now, and answers when to look again.
    async fn fire_due(self: &Arc<Self>, said: &mut Said, rates: &mut Rates<PluginName>) -> Option<u64> {
        let (name, journal) = (&self.agent.name, &self.shared.journal);
        let now = self.shared.clock.now();
        let serving = self.servings.now();
        let mut look = None::<u64>;
        let serves = |plugin: &PluginName| serving.plugins.get(plugin).filter(|loaded| loaded.listing.timers);
        for (plugin, next) in self.journalled(|| journal.next_timers(name)).await {
            let Some(loaded) = serves(&plugin) else {
                if next <= now && said.waits.insert(plugin.clone()) {
                    let there = serving.plugins.contains_key(&plugin);
                    let why = if there { "does not export `timers`" } else { "is not there" };
                    self.say(format!("timers of plugin {plugin} wait: it {why}"));
                }
                continue;
            };
            said.waits.remove(&plugin);
            let permissions = self.toolbox.permissions(loaded);
            let granted = has_grant(&permissions);
            // All of them may be due each minute.
            let rate = u32::try_from(permissions.timers()).ok().and_then(NonZeroU32::new);
            let rate = rate.unwrap_or(NonZeroU32::MIN);
            'plugin: loop {
                let due = self.journalled(|| journal.due_timers(name, &plugin, now, DUE)).await;
                if due.is_empty() {
                    break;
                }
                for timer in due {
                    if self.draining.is_cancelled() {
                        return None;
                    }
                    let firing = firing(&timer, now);
                    if firing.due.is_some()
                        && let Err(wait) = rates.take(plugin.clone(), rate, self.shared.clock.instant())
                    {
                        let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                        let again = now.saturating_add(wait).saturating_add(1);
                        look = Some(look.map_or(again, |look| look.min(again)));
                        break 'plugin;
                    }
                    self.fire(&timer, firing, granted, said).await;
                }
            }
        }
        // Also of plugins that are not there: then it is said that they wait.
        let left = self.journalled(|| journal.next_timers(name)).await.into_iter();
        left.map(|(_, next)| next).filter(|next| *next > now).chain(look).min()
    }

    /// Stores that a timer was due, and hands it on if the gate lets it through.
    async fn fire(self: &Arc<Self>, timer: &Timer, firing: Firing, granted: bool, said: &mut Said) {
        let (name, journal) = (&self.agent.name, &self.shared.journal);
        let Firing { due, missed, next } = firing;
        let Some(due) = due else {
            self.journalled(|| journal.fire(name, timer, next, None)).await;
            if next.is_none() {
                self.say(format!("{}: left out: it is too late for it", words(timer)));
            }
            return;
        };
        let attendance = self.agent.chat.attendance(&timer.room.id).await;
        let event = Self::firing_of(timer, due, missed, attendance);
        let verdict = match attendance {
            _ if !granted => Verdict::Deny(Denial::Grant),
            Attendance::Gone => Verdict::Deny(Denial::Left),
            Attendance::Here { .. } | Attendance::Unknown => {
                let accounts = lock(&self.shared.accounts);
                gate::authorize(self.policy(&accounts), &event, &self.addressed(&event), false)
            }
        };
        if let Verdict::Deny(denial) = verdict {
            let why = denial.of_a_timer();
            if said.denied.insert((timer.id.clone(), why)) {
                self.say(format!("{}: not handled: {why}", words(timer)));
            }
        }
        let arrival = Arrival { event, verdict, session: timer.session.clone() };
        // As with what a chat hands over: lanes get events in the order of their numbers.
        let _entering = self.entering.lock().await;
        let sequence = self.journalled(|| journal.fire(name, timer, next, Some(&arrival))).await;
        let Some(sequence) = sequence else { return };
        if arrival.event.room.encrypted {
            self.outbox.is_encrypted(&arrival.event.room.id);
        }
        let Arrival { event, session, .. } = arrival;
        let event = Arc::new(event);
        self.dispatch(
            Waiting { sequence, event, session, ended: vec![], said: false, resumed: false },
            false,
        );
    }

    fn firing_of(timer: &Timer, due: u64, missed: u32, attendance: Attendance) -> Event {
        let Room { id, direct, encrypted } = timer.room.clone();
        // A room that was encrypted once stays so.
        let room = match attendance {
            Attendance::Here { direct, encrypted: now } => Room { id, direct, encrypted: encrypted || now },
            Attendance::Gone | Attendance::Unknown => Room { id, direct, encrypted },
        };
        // Another one for each firing, also where a timer that was put back is due for the same time again.
        let mut random = [0; 12];
        getrandom::fill(&mut random).expect("the system has random numbers");
        let random = random.iter().fold(0_u128, |number, byte| number << 8 | u128::from(*byte));
        Event {
            id: EventId::parse(format!("$timer-{random:024x}"))
                .expect("it is short and has no control characters"),
            room,
            sender: timer.sender.clone(),
            sent: due,
            mark: None,
            kind: Kind::Timer(Box::new(Fired { timer: timer.clone(), due, missed })),
            reading: Reading::AtOnce,
        }
    }

    /// A timer whose plugin went away between its time and its handler waits until that is back.
    pub(super) async fn put_back(&self, waiting: &Waiting, fired: &Fired) {
        let timer = &fired.timer;
        self.say(format!("{}: {WAITS}", words(timer)));
        self.commit_own(waiting, vec![Effect::PutBack(Box::new(timer.clone()))], WAITS.into()).await;
    }

    /// Says that a timer was not handled, after all.
    pub(super) fn denied_timer(&self, timer: &Timer, why: &str) {
        self.say(format!("{}: not handled: {why}", words(timer)));
    }
}

/// Whether a plugin may have timers.
pub(super) fn has_grant(permissions: &Permissions) -> bool {
    match permissions.holds(Permission::Timers) {
        Ok(()) => true,
        Err(denied) => permissions.spares(denied),
    }
}

/// A timer as the log has it: nothing that the plugin says of it.
fn words(timer: &Timer) -> String {
    format!("a timer of plugin {} that {} set in {}", timer.plugin, timer.sender.id, timer.room.id)
}
