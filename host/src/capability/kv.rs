//! `kv`: the plugin's own memory, read through what the handler itself has written.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;

use super::{
    Handling, State, Work,
    bindings::parlour::plugin::kv::{Host, Scope},
    error,
    types::{Error, ErrorKind},
};
use crate::{
    answers::{self, Entry, Fact},
    id::{AgentName, PluginName},
    journal::{self, KeyQuery, Namespace, Read, Stored, Usage},
    manifest::Permission,
};

pub(super) const KEY: usize = 512;
pub(super) const VALUE: usize = 256 * 1024;
/// All that one delivery writes, and all that it reads: it is held in memory until the commit.
const WRITES: usize = 4 * 1024 * 1024;
const READS: usize = 4 * 1024 * 1024;
/// What an entry costs beside its bytes.
const ENTRY: usize = 64;
pub(super) const LIST: u32 = 1000;

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

/// How much plugins remembered before this handler, as far as it had to be looked at.
#[derive(Default)]
pub struct Before {
    usage: BTreeMap<PluginName, Usage>,
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

    /// Something else that was read.
    pub fn push(&mut self, read: Read) {
        self.lists.push(read);
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
        if let Some(moving) = &self.moving {
            return Ok(moving.get(scope, &key));
        }
        Ok(self.value(scope, &key).await)
    }

    async fn set(&mut self, scope: Scope, key: String, value: Vec<u8>) -> Answer<()> {
        if let Some(moving) = &mut self.moving {
            return Ok(moving.put(scope, &key, Some(value)));
        }
        Ok(self.put(scope, &key, Some(value), "kv.set").await)
    }

    async fn delete(&mut self, scope: Scope, key: String) -> Answer<()> {
        if let Some(moving) = &mut self.moving {
            return Ok(moving.put(scope, &key, None));
        }
        Ok(self.put(scope, &key, None, "kv.delete").await)
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
        if let Some(moving) = &self.moving {
            return Ok(moving.keys(scope, &prefix, after.as_deref(), limit));
        }
        Ok(self.list(scope, KeyQuery { prefix, after, limit: limit.min(LIST) }).await)
    }

    async fn increment(&mut self, scope: Scope, key: String, by: i32) -> Answer<i32> {
        if let Some(moving) = &mut self.moving {
            return Ok(moving.add(scope, &key, by));
        }
        Ok(self.add(scope, key, by).await)
    }
}

/// Where a scope's values are. In an encrypted room, what was written there lies above what was written in clear: a
/// plugin's memory splits, so that nothing of what is said there is read elsewhere.
struct Layers {
    /// In an encrypted room: the values that were written there, and the keys that were deleted there.
    sealed: Option<[Namespace; 2]>,
    clear: Namespace,
    /// What is written stays in the room. Otherwise somebody has agreed that it leaves.
    seals: bool,
}

impl State {
    async fn value(&mut self, scope: Scope, key: &str) -> Result<Option<Vec<u8>>, Error> {
        let layers = self.layers(scope, "kv.get")?;
        self.read(&layers, key).await
    }

    async fn put(
        &mut self,
        scope: Scope,
        key: &str,
        value: Option<Vec<u8>>,
        call: &str,
    ) -> Result<(), Error> {
        let layers = self.layers(scope, call)?;
        self.write(&layers, key, value).await
    }

    async fn read(&mut self, layers: &Layers, key: &str) -> Result<Option<Vec<u8>>, Error> {
        if let Some([sealed, gone]) = &layers.sealed {
            let here = self.read_at(sealed, key).await?;
            if here.is_some() || self.read_at(gone, key).await?.is_some() {
                return Ok(here);
            }
        }
        self.read_at(&layers.clear, key).await
    }

    async fn read_at(&mut self, at: &Namespace, key: &str) -> Result<Option<Vec<u8>>, Error> {
        let at = (at.clone(), valid(key)?);
        if let Some(written) = self.work.get(&at) {
            return Ok(written.clone());
        }
        if !self.work.reads.keys.contains_key(&at) {
            self.work.reads.charge(at.1.len())?;
        }
        let stored = self.stored(&at).await?;
        let version = stored.as_ref().map(|stored| stored.version);
        // The first look counts: if it has changed since, the commit finds out.
        self.work.reads.keys.entry(at).or_insert(version);
        Ok(stored.map(|stored| stored.value))
    }

    /// What was there before the handler, as it saw it first.
    async fn stored(&mut self, at: &(Namespace, String)) -> Result<Option<Stored>, Error> {
        let Handling { kv, record, .. } = self.handling()?;
        let what = recorded(&at.0, [at.1.as_bytes()]);
        if let Some(Entry { fact: Fact::Value { version }, body, .. }) = record.seen("kv", &what) {
            return Ok(version.map(|version| Stored { value: body, version }));
        }
        let stored = kv.get(&at.0, &at.1).await.map_err(|failed| unavailable(&failed))?;
        let fact = Fact::Value { version: stored.as_ref().map(|stored| stored.version) };
        record.saw("kv", &what, fact, || stored.as_ref().map_or_else(Vec::new, |it| it.value.clone()));
        Ok(stored)
    }

    /// The same of a list of keys.
    async fn found(&mut self, namespace: &Namespace, query: &KeyQuery) -> Result<Vec<String>, Error> {
        let Handling { kv, record, .. } = self.handling()?;
        let after = query
            .after
            .as_ref()
            .map_or_else(Vec::new, |after| [b"after ".as_slice(), after.as_bytes()].concat());
        let what = recorded(
            namespace,
            [query.prefix.as_bytes(), after.as_slice(), query.limit.to_le_bytes().as_slice()],
        );
        if let Some(Entry { fact: Fact::Keys { found }, .. }) = record.seen("keys", &what) {
            return Ok(found);
        }
        let found = kv.keys(namespace, query).await.map_err(|failed| unavailable(&failed))?;
        record.saw("keys", &what, Fact::Keys { found: found.clone() }, Vec::new);
        Ok(found)
    }

    async fn write(&mut self, layers: &Layers, key: &str, value: Option<Vec<u8>>) -> Result<(), Error> {
        let Layers { sealed, clear, seals } = layers;
        let Some([sealed, gone]) = sealed else { return self.write_at(clear, key, value).await };
        if !seals {
            // What is above would hide it.
            for above in [sealed, gone] {
                if self.read_at(above, key).await?.is_some() {
                    self.write_at(above, key, None).await?;
                }
            }
            return self.write_at(clear, key, value).await;
        }
        if value.is_none() && self.read_at(clear, key).await?.is_some() {
            self.write_at(gone, key, Some(vec![])).await?;
        }
        self.write_at(sealed, key, value).await
    }

    async fn write_at(&mut self, at: &Namespace, key: &str, value: Option<Vec<u8>>) -> Result<(), Error> {
        let at = (at.clone(), valid(key)?);
        let size = value.as_ref().map_or(0, Vec::len);
        if size > VALUE {
            return Err(error(ErrorKind::TooLarge, "a value has at most 256 KiB"));
        }
        let cost = at.1.len() + size + ENTRY;
        if self.work.written + cost > WRITES {
            return Err(error(ErrorKind::TooLarge, "one delivery writes at most 4 MiB"));
        }
        let written = self.work.set(at.clone(), value);
        let mut before = std::mem::take(&mut self.work.before);
        let fits = fits(self.handling()?, &self.work, &mut before, cost).await;
        self.work.before = before;
        if let Err(full) = fits {
            self.work.unset(at, written);
            return Err(full);
        }
        self.work.written += cost;
        Ok(())
    }

    async fn list(&mut self, scope: Scope, query: KeyQuery) -> Result<Vec<String>, Error> {
        let Layers { sealed, clear, .. } = self.layers(scope, "kv.keys")?;
        let Some([sealed, gone]) = sealed else { return self.list_at(clear, query).await };
        let here = self.list_at(sealed, query.clone()).await?;
        let all = KeyQuery { limit: u32::MAX, ..query.clone() };
        let gone: BTreeSet<String> = self.list_at(gone, all).await?.into_iter().collect();
        let limit = query.limit as usize;
        let mut keys: BTreeSet<String> = here.into_iter().collect();
        let mut page = query;
        loop {
            let found = self.list_at(clear.clone(), page.clone()).await?;
            let last = found.last().filter(|_| found.len() == limit).cloned();
            let hidden = found.iter().any(|key| gone.contains(key));
            keys.extend(found.into_iter().filter(|key| !gone.contains(key)));
            match last {
                // Of a page of which nothing was hidden, no more is needed.
                Some(last) if hidden => page.after = Some(last),
                _ => return Ok(keys.into_iter().take(limit).collect()),
            }
        }
    }

    async fn list_at(&mut self, namespace: Namespace, query: KeyQuery) -> Result<Vec<String>, Error> {
        // What this handler deleted may stand among the first, so that many more are asked for.
        let ours: Vec<(String, bool)> = self
            .work
            .writes_of(&namespace.plugin)
            .iter()
            .filter(|((of, key), _)| *of == namespace && selects(&query, key))
            .map(|((_, key), value)| (key.clone(), value.is_some()))
            .collect();
        let deleted = u32::try_from(ours.iter().filter(|(_, set)| !set).count()).unwrap_or(u32::MAX);
        let asked = KeyQuery { limit: query.limit.saturating_add(deleted), ..query.clone() };
        self.work.reads.charge(asked.prefix.len() + asked.after.as_ref().map_or(0, String::len))?;
        let found = self.found(&namespace, &asked).await?;
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
        let layers = self.layers(scope, "kv.increment")?;
        let sum = sum(self.read(&layers, &key).await?, by)?;
        self.write(&layers, &key, Some(sum.to_string().into_bytes())).await?;
        Ok(sum)
    }

    fn layers(&mut self, scope: Scope, call: &str) -> Result<Layers, Error> {
        self.holds(Permission::Kv, call)?;
        let handling = self.handling()?;
        let (agent, plugin) = (handling.agent.clone(), handling.plugin.clone());
        let of = |scope| Namespace { agent: agent.clone(), plugin: plugin.clone(), scope };
        let room = &handling.event.room;
        let sender = &handling.event.sender.id;
        // A room's values and a session's are in one room by themselves.
        let (clear, user) = match scope {
            Scope::Plugin => (journal::Scope::Plugin, Some(None)),
            Scope::Room => (journal::Scope::Room(room.id.clone()), None),
            Scope::User => (journal::Scope::User(sender.clone()), Some(Some(sender.clone()))),
            Scope::Session => (journal::Scope::Session(handling.session.clone()), None),
        };
        let sealed = user.filter(|_| room.encrypted).map(|user| {
            [false, true]
                .map(|gone| of(journal::Scope::Sealed { room: room.id.clone(), user: user.clone(), gone }))
        });
        let seals = handling.permissions.carries(Permission::Kv).is_err();
        Ok(Layers { sealed, clear: of(clear), seals })
    }
}

/// Whether what is written fits the plugin's quota; where it does not grow, it always does. Handlers that run side
/// by side do not see each other's writes: together they may go beyond by what each may write.
async fn fits(handling: &Handling, work: &Work, before: &mut Before, cost: usize) -> Result<(), Error> {
    let (quota, source) = (handling.permissions.quota(), &handling.kv);
    let usage = if let Some(usage) = before.usage.get(&handling.plugin) {
        *usage
    } else {
        let usage = source.usage(&handling.agent, &handling.plugin).await;
        let usage = usage.map_err(|failed| unavailable(&failed))?;
        *before.usage.entry(handling.plugin.clone()).or_insert(usage)
    };
    let writes = work.writes_of(&handling.plugin);
    // As if all of it were new.
    let most = (work.written + cost) as u64;
    if usage.bytes + most <= quota.bytes && usage.keys + writes.len() as u64 <= quota.keys {
        return Ok(());
    }
    let mut after = usage;
    for (at, value) in writes {
        let replaced = if let Some(replaced) = before.replaced.get(at) {
            *replaced
        } else {
            let stored = source.get(&at.0, &at.1).await.map_err(|failed| unavailable(&failed))?;
            let replaced = stored.map(|stored| (at.1.len() + stored.value.len()) as u64);
            *before.replaced.entry(at.clone()).or_insert(replaced)
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

/// A decimal number kept as text, and so much more.
pub(super) fn sum(kept: Option<Vec<u8>>, by: i32) -> Result<i32, Error> {
    let old = match kept {
        None => 0,
        Some(bytes) => std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| text.parse::<i32>().ok())
            .ok_or_else(|| error(ErrorKind::Invalid, "the value is no decimal number"))?,
    };
    old.checked_add(by).ok_or_else(|| error(ErrorKind::Conflict, "the sum is too large"))
}

/// What is read, for the record.
fn recorded<'a>(of: &Namespace, what: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let scope = format!("{:?}", of.scope);
    let of = answers::digest([of.plugin.as_str().as_bytes(), scope.as_bytes()]);
    let what = answers::digest(what);
    answers::digest([of.as_slice(), what.as_slice()])
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
