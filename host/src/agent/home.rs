//! What the host tells an agent's home by itself: that a plugin waits for somebody to agree, rests, or is back.

use std::{collections::HashSet, sync::Arc};

use super::{Running, delivery::own_id};
use crate::{
    effect::{Body, Effect, Place, Target},
    id::{PluginName, UserId},
    journal::Commit,
    standing::{Happened, News},
    text::escaped,
};

/// A line that people read.
const LINE: usize = 1000;

/// Where an agent lives, as far as it was looked up.
#[derive(Default)]
pub(super) enum Home {
    #[default]
    Unknown,
    /// Nowhere, perhaps.
    Known(Option<Place>),
}

/// Whether a commit changes where the agent lives.
pub(super) fn sets_home(commit: &Commit) -> bool {
    let contributions = std::iter::once(&commit.contribution).chain(&commit.tools);
    contributions.flat_map(|it| &it.effects).any(|(_, effect)| matches!(effect, Effect::SetHome(_)))
}

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

    /// Where the agent lives.
    pub(super) async fn home(&self) -> Option<Place> {
        // Held while it is looked up, so that what a commit changes meanwhile is not overlooked.
        let mut home = self.home.lock().await;
        if let Home::Known(home) = &*home {
            return home.clone();
        }
        let found = self.journalled(|| self.shared.journal.home(&self.agent.name)).await;
        *home = Home::Known(found.clone());
        found
    }

    /// It may be another one now.
    pub(super) async fn forget_home(&self) {
        *self.home.lock().await = Home::Unknown;
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
        let Some(home) = self.home().await else { return };
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
