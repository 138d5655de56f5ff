//! `kv`: the plugin's own memory, read through what the handler itself has written.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;

use super::{
    State,
    bindings::parlour::plugin::kv::{Host, Scope},
    error,
    types::{Error, ErrorKind},
};
use crate::{
    id::{AgentName, PluginName},
    journal::{self, KeyQuery, Namespace, Read, Stored, Usage},
    manifest::Permission,
};

const KEY: usize = 512;
const VALUE: usize = 256 * 1024;
/// All that one delivery writes, and all that it reads: it is held in memory until the commit.
const WRITES: usize = 4 * 1024 * 1024;
const READS: usize = 4 * 1024 * 1024;
/// What an entry costs beside its bytes.
const ENTRY: usize = 64;
const LIST: u32 = 1000;

/// Where values come from.
#[async_trait]
pub trait Source: Send + Sync {
    /// One value.
    async fn get(&self, namespace: &Namespace, key: &str) -> Result<Option<Stored>, journal::Error>;
    /// A list of keys.
    async fn keys(&self, namespace: &Namespace, query: &KeyQuery) -> Result<Vec<String>, journal::Error>;
    /// How much the plugin remembers.
    async fn usage(&self, agent: &AgentName, plugin: &PluginName) -> Result<Usage, journal::Error>;
}

/// How much a plugin remembered before this handler, as far as it had to be looked at.
#[derive(Default)]
pub struct Before {
    usage: Option<Usage>,
    /// Bytes of key and value that writes replace, where the quota is near.
    replaced: BTreeMap<(Namespace, String), Option<u64>>,
}

type Answer<T> = wasmtime::Result<Result<T, Error>>;

/// What a handler has read of what was there before it, for the commit to check.
#[derive(Default)]
pub struct Reads {
    /// Versions of values as they were first seen; none where there was no value.
    keys: BTreeMap<(Namespace, String), Option<i64>>,
    lists: Vec<Read>,
    cost: usize,
}

impl Reads {
    fn charge(&mut self, size: usize) -> Result<(), Error> {
        self.cost += size + ENTRY;
        if self.cost > READS {
            return Err(error(ErrorKind::TooLarge, "one delivery reads at most 4 MiB of keys"));
        }
        Ok(())
    }

    /// For the commit.
    pub fn into_journal(self) -> Vec<Read> {
        let keys =
            self.keys.into_iter().map(|((namespace, key), version)| Read::Key { namespace, key, version });
        keys.chain(self.lists).collect()
    }
}

impl Host for State {
    async fn get(&mut self, scope: Scope, key: String) -> Answer<Option<Vec<u8>>> {
        Ok(self.read(scope, &key).await)
    }

    async fn set(&mut self, scope: Scope, key: String, value: Vec<u8>) -> Answer<()> {
        Ok(self.write(scope, &key, Some(value)).await)
    }

    async fn delete(&mut self, scope: Scope, key: String) -> Answer<()> {
        Ok(self.write(scope, &key, None).await)
    }

    async fn keys(
        &mut self,
        scope: Scope,
        prefix: String,
        after: Option<String>,
        limit: u32,
    ) -> Answer<Vec<String>> {
        if [Some(&prefix), after.as_ref()].into_iter().flatten().any(|part| part.len() > KEY) {
            return Ok(Err(error(ErrorKind::Invalid, "a prefix has at most 512 bytes, and so has `after`")));
        }
        Ok(self.list(scope, KeyQuery { prefix, after, limit: limit.min(LIST) }).await)
    }

    async fn increment(&mut self, scope: Scope, key: String, by: i32) -> Answer<i32> {
        Ok(self.add(scope, key, by).await)
    }
}

impl State {
    async fn read(&mut self, scope: Scope, key: &str) -> Result<Option<Vec<u8>>, Error> {
        let at = (self.namespace(scope, "kv.get")?, valid(key)?);
        self.read_at(at).await
    }

    async fn read_at(&mut self, at: (Namespace, String)) -> Result<Option<Vec<u8>>, Error> {
        if let Some(written) = self.work.writes.get(&at) {
            return Ok(written.clone());
        }
        if !self.work.reads.keys.contains_key(&at) {
            self.work.reads.charge(at.1.len())?;
        }
        let source = self.handling()?.kv.clone();
        let stored = source.get(&at.0, &at.1).await.map_err(|failed| unavailable(&failed))?;
        let version = stored.as_ref().map(|stored| stored.version);
        // The first look counts: if it has changed since, the commit finds out.
        self.work.reads.keys.entry(at).or_insert(version);
        Ok(stored.map(|stored| stored.value))
    }

    async fn write(&mut self, scope: Scope, key: &str, value: Option<Vec<u8>>) -> Result<(), Error> {
        let call = if value.is_some() { "kv.set" } else { "kv.delete" };
        let at = (self.namespace(scope, call)?, valid(key)?);
        self.write_at(at, value).await
    }

    async fn write_at(&mut self, at: (Namespace, String), value: Option<Vec<u8>>) -> Result<(), Error> {
        let size = value.as_ref().map_or(0, Vec::len);
        if size > VALUE {
            return Err(error(ErrorKind::TooLarge, "a value has at most 256 KiB"));
        }
        let cost = at.1.len() + size + ENTRY;
        if self.work.written + cost > WRITES {
            return Err(error(ErrorKind::TooLarge, "one delivery writes at most 4 MiB"));
        }
        let before = self.work.writes.insert(at.clone(), value);
        if let Err(full) = self.fits(cost).await {
            match before {
                Some(before) => self.work.writes.insert(at, before),
                None => self.work.writes.remove(&at),
            };
            return Err(full);
        }
        self.work.written += cost;
        Ok(())
    }

    /// Whether what is written fits the plugin's quota; where it does not grow, it always does. Handlers that run side
    /// by side do not see each other's writes: together they may go beyond by what each may write.
    async fn fits(&mut self, cost: usize) -> Result<(), Error> {
        let handling = self.handling()?;
        let (quota, source) = (handling.permissions.quota(), handling.kv.clone());
        let usage = if let Some(usage) = self.work.before.usage {
            usage
        } else {
            let usage = source.usage(&handling.agent, &handling.plugin).await;
            *self.work.before.usage.insert(usage.map_err(|failed| unavailable(&failed))?)
        };
        // As if all of it were new.
        let most = (self.work.written + cost) as u64;
        if usage.bytes + most <= quota.bytes && usage.keys + self.work.writes.len() as u64 <= quota.keys {
            return Ok(());
        }
        let mut after = usage;
        for (at, value) in &self.work.writes {
            let replaced = if let Some(replaced) = self.work.before.replaced.get(at) {
                *replaced
            } else {
                let stored = source.get(&at.0, &at.1).await.map_err(|failed| unavailable(&failed))?;
                let replaced = stored.map(|stored| (at.1.len() + stored.value.len()) as u64);
                self.work.before.replaced.insert(at.clone(), replaced);
                replaced
            };
            let written = value.as_ref().map(|value| (at.1.len() + value.len()) as u64);
            after.bytes = (after.bytes + written.unwrap_or(0)).saturating_sub(replaced.unwrap_or(0));
            after.keys =
                (after.keys + u64::from(written.is_some())).saturating_sub(u64::from(replaced.is_some()));
        }
        let fits = |now: u64, before: u64, quota: u64| now <= quota || now <= before;
        if fits(after.bytes, usage.bytes, quota.bytes) && fits(after.keys, usage.keys, quota.keys) {
            return Ok(());
        }
        let line = format!("this plugin remembers at most {} bytes and {} keys", quota.bytes, quota.keys);
        Err(error(ErrorKind::TooLarge, line))
    }

    async fn list(&mut self, scope: Scope, query: KeyQuery) -> Result<Vec<String>, Error> {
        let namespace = self.namespace(scope, "kv.keys")?;
        let source = self.handling()?.kv.clone();
        // What this handler deleted may stand among the first, so that many more are asked for.
        let ours: Vec<(String, bool)> = self
            .work
            .writes
            .iter()
            .filter(|((of, key), _)| *of == namespace && selects(&query, key))
            .map(|((_, key), value)| (key.clone(), value.is_some()))
            .collect();
        let deleted = u32::try_from(ours.iter().filter(|(_, set)| !set).count()).unwrap_or(u32::MAX);
        let asked = KeyQuery { limit: query.limit.saturating_add(deleted), ..query.clone() };
        self.work.reads.charge(asked.prefix.len() + asked.after.as_ref().map_or(0, String::len))?;
        let found = source.keys(&namespace, &asked).await.map_err(|failed| unavailable(&failed))?;
        self.work.reads.charge(found.iter().map(|key| key.len() + ENTRY).sum())?;
        self.work.reads.lists.push(Read::Keys { namespace, query: asked, found: found.clone() });
        let mut keys: BTreeSet<String> = found.into_iter().collect();
        for (key, set) in ours {
            if set {
                keys.insert(key)
            } else {
                keys.remove(&key)
            };
        }
        Ok(keys.into_iter().take(query.limit as usize).collect())
    }

    async fn add(&mut self, scope: Scope, key: String, by: i32) -> Result<i32, Error> {
        let at = (self.namespace(scope, "kv.increment")?, valid(&key)?);
        let old = match self.read_at(at.clone()).await? {
            None => 0,
            Some(bytes) => std::str::from_utf8(&bytes)
                .ok()
                .and_then(|text| text.parse::<i32>().ok())
                .ok_or_else(|| error(ErrorKind::Invalid, "the value is no decimal number"))?,
        };
        let sum = old.checked_add(by).ok_or_else(|| error(ErrorKind::Conflict, "the sum is too large"))?;
        self.write_at(at, Some(sum.to_string().into_bytes())).await?;
        Ok(sum)
    }

    fn namespace(&mut self, scope: Scope, call: &str) -> Result<Namespace, Error> {
        self.holds(Permission::Kv, call)?;
        let handling = self.handling()?;
        let scope = match scope {
            Scope::Plugin => journal::Scope::Plugin,
            Scope::Room => journal::Scope::Room(handling.event.room.id.clone()),
            Scope::User => journal::Scope::User(handling.event.sender.id.clone()),
            Scope::Session => journal::Scope::Session(handling.session.clone()),
        };
        Ok(Namespace { agent: handling.agent.clone(), plugin: handling.plugin.clone(), scope })
    }
}

fn selects(query: &KeyQuery, key: &str) -> bool {
    key.starts_with(&query.prefix) && query.after.as_deref().is_none_or(|after| key > after)
}

fn valid(key: &str) -> Result<String, Error> {
    if key.is_empty() || key.len() > KEY {
        return Err(error(ErrorKind::Invalid, "a key has 1 to 512 bytes"));
    }
    Ok(key.to_owned())
}

fn unavailable(failed: &journal::Error) -> Error {
    tracing::error!(target: "parlour", "kv: {failed}");
    error(ErrorKind::Unavailable, "the storage failed")
}
