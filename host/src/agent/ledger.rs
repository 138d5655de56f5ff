//! The journal as capabilities read it.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::AGAIN;
use crate::{
    answers::{Opening, Writing},
    capability::{answers::Keeper, kv, outbox},
    id::{AgentName, EventId, PluginName},
    journal::{self, Journal, KeyQuery, Known, Named, Namespace, Stored, Usage},
    notice::{Notice, Notices},
};

/// The journal as what is learnt is written to it.
pub(super) struct ToJournal {
    pub journal: Arc<dyn Journal>,
    pub notices: Notices,
    pub closing: CancellationToken,
}

#[async_trait::async_trait]
impl Keeper for ToJournal {
    async fn learn(&self, opening: Opening, writing: Writing) {
        while let Err(error) = self.journal.learn(&opening, writing.clone()).await {
            self.notices.say(Notice::Journal { reason: error.to_string() });
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                () = self.closing.cancelled() => return,
            }
        }
    }
}

/// Asked while a handler runs; what it wrote itself is not in here yet.
pub struct FromJournal(pub Arc<dyn Journal>);

#[async_trait::async_trait]
impl kv::Source for FromJournal {
    async fn get(&self, namespace: &Namespace, key: &str) -> Result<Option<Stored>, journal::Error> {
        self.0.get(namespace, key).await
    }

    async fn keys(&self, namespace: &Namespace, query: &KeyQuery) -> Result<Vec<String>, journal::Error> {
        self.0.keys(namespace, query).await
    }

    async fn usage(&self, agent: &AgentName, plugin: &PluginName) -> Result<Usage, journal::Error> {
        self.0.usage(agent, plugin).await
    }
}

#[async_trait::async_trait]
impl outbox::Messages for FromJournal {
    async fn known(&self, agent: &AgentName, event: &EventId) -> Result<Option<Known>, journal::Error> {
        self.0.known(agent, event).await
    }

    async fn named(
        &self,
        agent: &AgentName,
        plugin: &PluginName,
        name: &str,
    ) -> Result<Option<Named>, journal::Error> {
        self.0.named(agent, plugin, name).await
    }
}
