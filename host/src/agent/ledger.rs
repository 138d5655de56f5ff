//! The journal as capabilities read it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::AGAIN;
use crate::{
    answers::{Opening, Writing},
    capability::{answers::Keeper, kv, outbox, schedule},
    id::{AgentName, EventId, PluginName, SessionId},
    journal::{self, Journal, KeyQuery, Known, Named, Namespace, Remembered, Stored, Usage},
    notice::{Notice, Notices},
    timer::Timer,
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
pub struct FromJournal {
    pub journal: Arc<dyn Journal>,
    /// A guest that waits longer is told that the storage failed.
    pub within: Duration,
}

impl FromJournal {
    async fn soon<T>(
        &self,
        answer: impl Future<Output = Result<T, journal::Error>>,
    ) -> Result<T, journal::Error> {
        let late = |_| journal::Error::Storage(format!("no answer within {:?}", self.within));
        tokio::time::timeout(self.within, answer).await.map_err(late)?
    }
}

#[async_trait::async_trait]
impl kv::Source for FromJournal {
    async fn get(&self, namespace: &Namespace, key: &str) -> Result<Option<Stored>, journal::Error> {
        self.soon(self.journal.get(namespace, key)).await
    }

    async fn keys(&self, namespace: &Namespace, query: &KeyQuery) -> Result<Vec<String>, journal::Error> {
        self.soon(self.journal.keys(namespace, query)).await
    }

    async fn usage(&self, agent: &AgentName, plugin: &PluginName) -> Result<Usage, journal::Error> {
        self.soon(self.journal.usage(agent, plugin)).await
    }
}

#[async_trait::async_trait]
impl outbox::Messages for FromJournal {
    async fn known(&self, agent: &AgentName, event: &EventId) -> Result<Option<Known>, journal::Error> {
        self.soon(self.journal.known(agent, event)).await
    }

    async fn named(
        &self,
        agent: &AgentName,
        plugin: &PluginName,
        name: &str,
    ) -> Result<Option<Named>, journal::Error> {
        self.soon(self.journal.named(agent, plugin, name)).await
    }

    async fn waiting(&self, agent: &AgentName, plugin: &PluginName) -> Result<u64, journal::Error> {
        self.soon(self.journal.blobs(agent, plugin)).await
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
        self.soon(self.journal.timers(agent, plugin, session)).await
    }

    async fn count(&self, agent: &AgentName, plugin: &PluginName) -> Result<u64, journal::Error> {
        self.soon(self.journal.timer_count(agent, plugin)).await
    }
}

/// What a plugin remembered before its new version, for a call of which nothing is kept.
pub(super) struct AsBefore(BTreeMap<(Namespace, String), Stored>);

impl AsBefore {
    pub fn new(remembered: Vec<Remembered>) -> Self {
        Self(remembered.into_iter().map(|it| ((it.namespace, it.key), it.stored)).collect())
    }
}

#[async_trait::async_trait]
impl kv::Source for AsBefore {
    async fn get(&self, namespace: &Namespace, key: &str) -> Result<Option<Stored>, journal::Error> {
        Ok(self.0.get(&(namespace.clone(), key.to_owned())).cloned())
    }

    async fn keys(&self, namespace: &Namespace, query: &KeyQuery) -> Result<Vec<String>, journal::Error> {
        let keys = self.0.keys().filter(|(of, key)| {
            let after = query.after.as_deref().is_none_or(|after| key.as_str() > after);
            of == namespace && key.starts_with(&query.prefix) && after
        });
        Ok(keys.take(query.limit as usize).map(|(_, key)| key.clone()).collect())
    }

    async fn usage(&self, _: &AgentName, _: &PluginName) -> Result<Usage, journal::Error> {
        let bytes = self.0.iter().map(|((_, key), stored)| (key.len() + stored.value.len()) as u64).sum();
        Ok(Usage { bytes, keys: self.0.len() as u64 })
    }
}
