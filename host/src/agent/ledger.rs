//! The journal as capabilities read it.

use std::sync::Arc;

use crate::{
    capability::{kv, outbox, schedule},
    id::{AgentName, EventId, PluginName, SessionId},
    journal::{self, Journal, KeyQuery, Known, Named, Namespace, Stored, Usage},
    timer::Timer,
};

/// Asked while a handler runs; what it wrote itself is not in here yet.
pub(super) struct FromJournal(pub Arc<dyn Journal>);

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

#[async_trait::async_trait]
impl schedule::Source for FromJournal {
    async fn timers(
        &self,
        agent: &AgentName,
        plugin: &PluginName,
        session: &SessionId,
    ) -> Result<Vec<Timer>, journal::Error> {
        self.0.timers(agent, plugin, session).await
    }

    async fn count(&self, agent: &AgentName, plugin: &PluginName) -> Result<u64, journal::Error> {
        self.0.timer_count(agent, plugin).await
    }
}
