//! One event to its end: whom it is for, one plugin after the other, and what the host says itself.

use tokio_util::sync::CancellationToken;

use super::{
    Running,
    delivery::{Asked, Delivery, answer, delivery_id},
    timers::has_grant,
};
use crate::{
    effect::Effect,
    engine::Call,
    event::Kind,
    gate::Denial,
    id::PluginName,
    journal::{Commit, Contribution, Outcome},
    lane::Waiting,
    router::Route,
    settings::Role,
};

/// Why nobody was asked.
const STOP: &str = "it stops what runs, and no plugin has it";

impl Running {
    /// Handles one event to its end.
    pub(super) async fn handle(&self, waiting: &Waiting, stopped: &CancellationToken) {
        let subject = match &waiting.event.kind {
            Kind::Message(_) | Kind::Timer(_) => &waiting.event.sender.id,
            Kind::Member(member) => &member.user,
        };
        let role = |user| self.agent.access.role(user);
        let Some(subject_role) = role(subject) else {
            return self.end(waiting, Denial::NotListed.to_string()).await;
        };
        // Who invites an admin is none.
        let role = role(&waiting.event.sender.id).unwrap_or(Role::Guest);
        let role = match &waiting.event.kind {
            // No more than they had when they set it.
            Kind::Timer(fired) => role.min(fired.timer.role),
            Kind::Message(_) | Kind::Member(_) => role,
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
        let mut finished = Vec::new();
        // Who has ended with it before may have said something.
        let mut silent = waiting.ended.is_empty();
        if waiting.resumed {
            let Some(passed) = self.finish(waiting, &serving, role, &delivery).await else { return };
            silent &= passed.iter().all(|(_, said)| !said);
            finished.extend(passed.into_iter().map(|(plugin, _)| plugin));
        }
        let route = serving.catalogue.route(&waiting.event, &addressed, role);
        let (plugins, call) = match route {
            Route::Stop => return self.end(waiting, STOP.into()).await,
            Route::Answer(line) => {
                return self.tell(waiting, line, "no plugin had it: the host answered that itself").await;
            }
            Route::Command { plugin, typed, arguments } => {
                (vec![plugin], Call::Command { name: typed.name, rest: typed.rest, arguments })
            }
            Route::Message(plugins) => (plugins, Call::Message),
            Route::Member(plugins) => (plugins, Call::Member),
            Route::Timer(fired) => {
                let plugin = &fired.timer.plugin;
                let Some(loaded) = serving.plugins.get(plugin) else {
                    return self.put_back(waiting, fired).await;
                };
                if !has_grant(&self.toolbox.permissions(loaded)) {
                    self.denied_timer(&fired.timer, Denial::Grant.of_a_timer());
                    return self.end(waiting, Denial::Grant.to_string()).await;
                }
                (vec![plugin.clone()], Call::Timer)
            }
            Route::Wait(fired) => return self.put_back(waiting, fired).await,
        };
        let ended = |plugin: &PluginName| waiting.ended.contains(plugin) || finished.contains(plugin);
        let left: Vec<_> = plugins.into_iter().filter(|plugin| !ended(plugin)).collect();
        let count = left.len();
        for (index, plugin) in left.into_iter().enumerate() {
            // A message that all plugins pass on is answered by the host.
            let last = index + 1 == count && !matches!(call, Call::Message);
            match self.deliver(delivery(plugin, call.clone(), last, None)).await {
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
            let line = format!("I have no answer to that.{hint}");
            return self.tell(waiting, line, "no plugin had an answer").await;
        }
        self.end(waiting, "there was nothing more to do".into()).await;
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
