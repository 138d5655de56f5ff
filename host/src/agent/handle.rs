//! One event to its end: whom it is for, one plugin after the other, and what the host says itself.

use tokio_util::sync::CancellationToken;

use super::{
    Running,
    delivery::{Asked, Delivery, answer, delivery_id},
    learnt::Then,
    timers::has_grant,
};
use crate::{
    effect::Effect,
    engine::Call,
    event::{Event, Kind},
    gate::Denial,
    id::PluginName,
    journal::{Commit, Contribution, Outcome},
    lane::Waiting,
    router::Route,
    settings::Role,
};

/// Why nobody was asked.
const STOP: &str = "it stops what runs, and no plugin has it";

/// Who has ended with an event, and whether one of them did anything that a person may notice.
struct Heard {
    ended: Vec<PluginName>,
    said: bool,
}

impl Running {
    /// Handles one event to its end, by whatever version of its plugins that takes.
    pub(super) async fn handle(&self, waiting: &Waiting, stopped: &CancellationToken) {
        let mut replaced = self.handle_now(waiting, stopped).await;
        while let Some(Heard { ended, said }) = replaced {
            // What was drafted before goes on.
            let waiting = Waiting { ended, said, resumed: true, ..waiting.clone() };
            replaced = self.handle_now(&waiting, stopped).await;
        }
    }

    /// Handles it by the plugins as they are. Answers who has had it, where another took the place of the next.
    async fn handle_now(&self, waiting: &Waiting, stopped: &CancellationToken) -> Option<Heard> {
        let Some((role, subject_role)) = self.roles(&waiting.event) else {
            self.end(waiting, Denial::NotListed.to_string()).await;
            return None;
        };
        let addressed = self.addressed(&waiting.event);
        let serving = self.servings.now();
        let delivery = |plugin: PluginName, call, last, before| Delivery {
            agent: &self.agent.name,
            waiting,
            addressed: &addressed,
            role,
            subject_role,
            serving: &serving,
            id: delivery_id(&self.agent.name, &waiting.event, Some(&plugin)),
            plugin,
            call,
            last,
            stopped,
            before,
        };
        let mut heard = Heard { ended: waiting.ended.clone(), said: waiting.said };
        if waiting.resumed {
            let (passed, then) = self.finish(waiting, &serving, role, &delivery).await;
            for (plugin, said) in passed {
                heard.ended.push(plugin);
                heard.said |= said;
            }
            match then {
                Then::NextOnes => {}
                Then::Nobody => return None,
                Then::Anew => return Some(heard),
            }
        }
        let route = serving.catalogue.route(&waiting.event, &addressed, role);
        let (plugins, call) = match route {
            Route::Stop => {
                self.end(waiting, STOP.into()).await;
                return None;
            }
            Route::Answer(line) => {
                self.tell(waiting, line, "no plugin had it: the host answered that itself").await;
                return None;
            }
            Route::Command { plugin, typed, arguments } => {
                (vec![plugin], Call::Command { name: typed.name, rest: typed.rest, arguments })
            }
            Route::Message(plugins) => (plugins, Call::Message),
            Route::Member(plugins) => (plugins, Call::Member),
            Route::Timer(fired) => {
                let plugin = &fired.timer.plugin;
                let Some(loaded) = serving.plugins.get(plugin) else {
                    self.put_back(waiting, fired).await;
                    return None;
                };
                if !has_grant(&self.toolbox.permissions(loaded)) {
                    self.denied_timer(&fired.timer, Denial::Grant.of_a_timer());
                    self.end(waiting, Denial::Grant.to_string()).await;
                    return None;
                }
                (vec![plugin.clone()], Call::Timer)
            }
            Route::Wait(fired) => {
                self.put_back(waiting, fired).await;
                return None;
            }
        };
        let left: Vec<_> = plugins.into_iter().filter(|plugin| !heard.ended.contains(plugin)).collect();
        let count = left.len();
        for (index, plugin) in left.into_iter().enumerate() {
            // A message that all plugins pass on is answered by the host.
            let last = index + 1 == count && !matches!(call, Call::Message);
            match self.deliver(delivery(plugin.clone(), call.clone(), last, None)).await {
                Asked::Handled | Asked::Interrupted => return None,
                Asked::Replaced => return Some(heard),
                Asked::Passed { said } => heard.said |= said,
            }
            if last {
                return None;
            }
            heard.ended.push(plugin);
        }
        let asked = addressed.mentioned || waiting.event.room.direct;
        if matches!(call, Call::Message) && !heard.said && asked {
            let hint = if serving.catalogue.knows("help") { " /help lists what I can do." } else { "" };
            let line = format!("I have no answer to that.{hint}");
            self.tell(waiting, line, "no plugin had an answer").await;
            return None;
        }
        self.end(waiting, "there was nothing more to do".into()).await;
        None
    }

    /// Of who did it, and of whom it is about; none where that is nobody who is listed.
    fn roles(&self, event: &Event) -> Option<(Role, Role)> {
        let subject = match &event.kind {
            Kind::Message(_) | Kind::Timer(_) => &event.sender.id,
            Kind::Member(member) => &member.user,
        };
        let role = |user| self.agent.access.role(user);
        let subject_role = role(subject)?;
        // Who invites an admin is none.
        let role = role(&event.sender.id).unwrap_or(Role::Guest);
        let role = match &event.kind {
            // No more than they had when they set it.
            Kind::Timer(fired) => role.min(fired.timer.role),
            Kind::Message(_) | Kind::Member(_) => role,
        };
        Some((role, subject_role))
    }

    /// The answer to a `/stop`: what it has stopped says so itself.
    pub(super) async fn answer_stop(&self, waiting: &Waiting, stopped: bool) {
        // In a room of many, nobody can know who was meant.
        let asked = waiting.event.room.direct || self.addressed(&waiting.event).mentioned;
        if stopped || waiting.resumed || !asked {
            self.end(waiting, STOP.into()).await;
        } else {
            self.tell(waiting, "Nothing is running.".into(), STOP).await;
        }
    }

    /// An event of which nothing remains to be done.
    pub(super) async fn end(&self, waiting: &Waiting, why: String) {
        self.commit_own(waiting, vec![], why).await;
    }

    /// The host's own answer, in one line.
    async fn tell(&self, waiting: &Waiting, line: String, why: &str) {
        self.commit_own(waiting, vec![answer(&waiting.event, line, false)], why.into()).await;
    }

    pub(super) async fn commit_own(&self, waiting: &Waiting, effects: Vec<Effect>, line: String) {
        let delivery = delivery_id(&self.agent.name, &waiting.event, None);
        let contribution = Contribution {
            plugin: None,
            digest: None,
            outcome: Outcome::Done,
            effects: (0..).zip(effects).collect(),
            files: vec![],
            writes: vec![],
            reads: vec![],
        };
        let commit = Commit {
            agent: self.agent.name.clone(),
            sequence: waiting.sequence,
            delivery,
            contribution,
            tools: vec![],
            ends_event: true,
            line: Some(line),
            learnt: None,
        };
        // The host reads nothing that could have changed.
        drop(self.commit(commit).await);
    }
}
