//! One event to its end: whom it is for, one plugin after the other, and what the host says itself.

use tokio_util::sync::CancellationToken;

use super::{
    Running,
    delivery::{Asked, Delivery, answer, delivery_id},
    learnt::Resumed,
};
use crate::{
    effect::Effect,
    engine::Call,
    event::Kind,
    id::PluginName,
    journal::{Commit, Contribution, Outcome},
    lane::Waiting,
    router::Route,
    settings::Role,
};

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
        let serving = self.servings.now();
        let mut finished = Vec::new();
        // Who has ended with it before may have said something.
        let mut silent = waiting.ended.is_empty();
        if waiting.resumed {
            for record in self.begun(waiting).await {
                let plugin = record.opening.plugin.clone();
                let (before, call, lost) = match self.resumed(record, &serving, role).await {
                    Resumed::GoesOn(before) => {
                        let call = before.began.call.clone();
                        (Some(*before), call, false)
                    }
                    Resumed::Lost { call } => (None, call, true),
                    Resumed::Anew => continue,
                };
                let id = delivery_id(&self.agent.name, &waiting.event, Some(&plugin));
                let (agent, addressed, serving) = (&self.agent.name, &addressed, &*serving);
                let last = matches!(call, Call::Command { .. });
                finished.push(plugin.clone());
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
                    before,
                };
                let asked = if lost { self.give_up(&delivery).await } else { self.deliver(delivery).await };
                match asked {
                    Asked::Handled | Asked::Interrupted => return,
                    Asked::Passed { said } => silent &= !said,
                }
            }
        }
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
        let ended = |plugin: &PluginName| waiting.ended.contains(plugin) || finished.contains(plugin);
        let left: Vec<_> = plugins.into_iter().filter(|plugin| !ended(plugin)).collect();
        let count = left.len();
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
                before: None,
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
        let contribution = Contribution {
            plugin: None,
            outcome: Outcome::Done,
            effects: (0..).zip(effects).collect(),
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
            learnt: None,
        };
        // The host reads nothing that could have changed.
        drop(self.commit(commit).await);
    }
}
