//! What the host tells an agent's home by itself: that a plugin waits for somebody to agree, rests, or is back.

use std::{collections::HashSet, sync::Arc};

use super::{Running, delivery::own_id};
use crate::{
    effect::{Body, Effect, Target},
    id::{PluginName, UserId},
    standing::{Happened, News},
    text::escaped,
};

/// A line that people read.
const LINE: usize = 1000;

impl Running {
    /// Tells what there is to tell, until the future is dropped. Where there is no home, the log has it.
    pub(super) async fn tell_home(self: Arc<Self>) {
        let standing = &self.shared.standing;
        let mut told = standing.told();
        let mut seen = 0;
        let mut resting: HashSet<(PluginName, UserId)> = HashSet::new();
        loop {
            let count = *told.borrow_and_update();
            for news in standing.news(count - seen) {
                if self.concerns(&news, &mut resting) {
                    self.announce(&news).await;
                }
            }
            seen = count;
            if told.changed().await.is_err() {
                return;
            }
        }
    }

    /// Whether this agent's people should hear it.
    fn concerns(&self, news: &News, resting: &mut HashSet<(PluginName, UserId)>) -> bool {
        match &news.of {
            Happened::Waits | Happened::RolledBack => {
                self.agent.plugins.iter().any(|listed| listed == "*" || listed == news.plugin.as_str())
            }
            Happened::Suspended(agent, whom) => {
                if *agent != self.agent.name {
                    return false;
                }
                resting.insert((news.plugin.clone(), whom.clone()));
                true
            }
            // Whoever has heard that it rests hears that it is back.
            Happened::Resumed(whom) => resting.remove(&(news.plugin.clone(), whom.clone())),
        }
    }

    /// Once, however often it is asked for: what was queued before is not queued again.
    async fn announce(&self, news: &News) {
        let name = &self.agent.name;
        let Some(home) = self.journalled(|| self.shared.journal.home(name)).await else { return };
        let effect = Effect::Send {
            to: Target::Place(home),
            body: Body::Notice(escaped(&news.line, LINE)),
            reply_to: None,
            name: None,
            takes_draft: false,
        };
        let delivery = own_id(name, &news.plugin, &news.key);
        let queued =
            self.journalled(|| self.shared.journal.announce(name, &delivery, vec![effect.clone()])).await;
        self.outbox.push(queued);
    }
}
