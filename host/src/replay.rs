//! A past event again, from what is kept of it: nobody outside is asked, nothing is sent, and nothing is written down.
//!
//! A request that was recorded gets the answer that it got; one that never was gets an error, and is said. So are the keys
//! that a handler reads and had not read then.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
};

use async_trait::async_trait;
use bytes::Bytes;
use serde::Serialize;

use crate::{
    agent::began::{Did, Said},
    answers::Record,
    capability::{
        answers::Recorder,
        http::{System, client::Clients},
        kv, llm,
        media::{self, Files},
        outbox, progress,
        random::Secret,
        schedule,
        toolbox::{Absence, Tools},
    },
    effect::{Body, Effect, File, MessageRef, Target},
    engine::{
        Call, Called, Engine, Handling, Plugin, Work, admission::Candidate, cache::Cache, compile::Compiler,
        limits::Limits,
    },
    event::MediaSource,
    grant::Permissions,
    id::{AgentName, EventId, PluginName, SessionId},
    journal::{self, Journal, KeyQuery, Known, Named, Namespace, Stored, Usage},
    kept::{self, Kept},
    lock::LockFile,
    notice::{Notice, Notices},
    router::{Catalogue, Listing},
    settings::{SecretText, Settings},
    text::escaped,
    timer::{Rhythm, Timer},
};

/// How much of a text is shown.
const SHOWN: usize = 300;

/// What a past event is run with.
pub struct Replay {
    /// As the host has them. No secret in them is looked at.
    pub settings: Settings,
    /// What was agreed to.
    pub lock: LockFile,
    /// What compiles components.
    pub compiler: Compiler,
    /// Another version, in place of the one that ran.
    pub with: Option<Vec<u8>>,
}

/// Why an event cannot be run again: one line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CannotReplay(String);

/// A delivery that was run again.
#[derive(Debug, Clone, Serialize)]
pub struct Replayed {
    /// Whose event.
    pub agent: AgentName,
    /// Which plugin handled it.
    pub plugin: PluginName,
    /// SHA-256 of the component that ran then, in hexadecimal.
    pub component: String,
    /// The same of what ran now.
    pub with: String,
    /// When it ended then, in milliseconds since 1970.
    pub ended: i64,
    /// What it did then: how it ended, and each effect and write in a line.
    pub then: Vec<String>,
    /// What it does now.
    pub now: Vec<String>,
    /// What it asks now and did not ask then, the first one first.
    pub unknown: Vec<String>,
    /// What it logs now.
    pub log: Vec<String>,
    /// CPU time that it takes now, in milliseconds.
    pub cpu_ms: f64,
    /// It does the same.
    pub same: bool,
}

impl Replay {
    /// Runs an event again, for the plugins that handled it, or for one of them.
    ///
    /// # Errors
    /// Nothing is kept of it, or it cannot be run.
    pub async fn run(
        mut self,
        journal: Arc<dyn Journal>,
        event: &EventId,
        plugin: Option<&PluginName>,
    ) -> Result<Vec<Replayed>, CannotReplay> {
        let failed = |error: journal::Error| CannotReplay(format!("journal: {error}"));
        let past = journal.past(event).await.map_err(failed)?;
        let had: Vec<_> = past.iter().map(|of| of.opening.plugin.to_string()).collect();
        let of: Vec<_> =
            past.into_iter().filter(|of| plugin.is_none_or(|plugin| of.opening.plugin == *plugin)).collect();
        match plugin {
            _ if had.is_empty() => {
                return Err(CannotReplay(format!(
                    "nothing is kept of {event}: no plugin ended with it, or its time is over (record.keep)"
                )));
            }
            Some(plugin) if of.is_empty() => {
                let had = had.join(", ");
                return Err(CannotReplay(format!("plugin {plugin} did not handle {event}; {had} did")));
            }
            None if self.with.is_some() && of.len() > 1 => {
                let had = had.join(", ");
                return Err(CannotReplay(format!("{had} handled {event}; say in whose place with --plugin")));
            }
            _ => {}
        }
        self.disarm();
        let mut replayed = Vec::new();
        for record in of {
            replayed.push(self.one(record).await?);
        }
        Ok(replayed)
    }

    /// Takes out what could be seen or changed by a guest that runs here: secrets, and folders.
    fn disarm(&mut self) {
        for plugin in self.settings.plugins.values_mut() {
            plugin.grants.files = None;
            for secret in plugin.secrets.values_mut() {
                secret.value = SecretText::Literal("not the secret".into());
            }
        }
        for agent in self.settings.agents.values_mut() {
            agent.grants.values_mut().for_each(|grants| grants.files = None);
        }
    }

    async fn one(&self, record: Record) -> Result<Replayed, CannotReplay> {
        let opening = record.opening.clone();
        let (event, name) = (&opening.event, &opening.plugin);
        let said: Option<Said> = serde_json::from_str(&opening.said).ok();
        let Some((began, then)) = said.and_then(|said| Some((said.began, said.ended?))) else {
            return Err(CannotReplay(format!("{event}: what is kept of plugin {name} cannot be read")));
        };
        if record.full {
            let why = "what it learnt was too much to be kept";
            return Err(CannotReplay(format!("{event}: plugin {name}: {why}")));
        }
        let log = Arc::<Mutex<Vec<String>>>::default();
        let engine = self.engine(log.clone())?;
        let bench = Arc::new(self.bench(&engine, &opening.agent, name, &opening.component).await?);
        let Some(plugin) = bench.plugins.get(name) else {
            return Err(CannotReplay(format!("plugin {name} is not there")));
        };
        // What was said when it was loaded is not of this event.
        log.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let with = plugin.listing.digest.clone();
        let ended = record.ended.unwrap_or_default();
        let recorder = Recorder::past(record);
        let catalogue = bench.catalogue.clone();
        let handling = Handling {
            agent: opening.agent.clone(),
            agent_id: began.agent_id,
            plugin: name.clone(),
            delivery: opening.delivery.clone(),
            event: Arc::new(then.event),
            text: began.text,
            addressed: began.addressed,
            role: began.role,
            subject_role: began.subject_role,
            sender_is_agent: began.sender_is_agent,
            session: began.session,
            home: began.home,
            commands: catalogue.commands(began.role).cloned().collect(),
            permissions: bench.permissions(plugin),
            kv: Arc::new(Nothing(recorder.clone())),
            llm: Some(Arc::new(Nobody)),
            messages: Arc::new(Nothing(recorder.clone())),
            timers: Arc::new(Nothing(recorder.clone())),
            media: Arc::new(Files::new(Arc::new(Nothing(recorder.clone())))),
            spent: Arc::default(),
            drafts: Some(Arc::new(Nowhere)),
            tools: bench.clone(),
            callers: vec![],
            record: recorder.clone(),
            path: "".into(),
        };
        let spent = handling.spent.clone();
        let (end, work) = engine.call(plugin, began.call, handling).await;
        let did = match work.into_contributions() {
            Some((own, tools)) => Did::new(Some(&end), &own, &tools),
            None => Did::new(Some(&end), &journal::Contribution::nothing(), &[]),
        };
        let unknown = recorder.unknown();
        let log = log.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Replayed {
            agent: opening.agent,
            plugin: opening.plugin,
            component: opening.component,
            with,
            ended,
            same: did == then.did && unknown.is_empty(),
            then: lines(&then.did),
            now: lines(&did),
            unknown,
            log,
            #[expect(clippy::cast_precision_loss, reason = "for a person")]
            cpu_ms: spent.cpu.load(Relaxed) as f64 / 1_000_000.0,
        })
    }

    fn engine(&self, log: Arc<Mutex<Vec<String>>>) -> Result<Arc<Engine>, CannotReplay> {
        let data = &self.settings.data;
        let notices = Notices::new(move |notice| {
            if let Notice::PluginLog { text, .. } = notice {
                log.lock().unwrap_or_else(PoisonError::into_inner).push(text.text);
            }
        });
        let secret = data.join("secret");
        let secret = if secret.exists() { Secret::open(&secret) } else { Secret::new() };
        let secret = secret.map_err(CannotReplay)?;
        // Compiled code is found there, and left there: it belongs to nobody's event.
        let cache = Cache::open(&data.join("compiled")).ok();
        let clients = Clients::new(Arc::new(System), vec![]);
        let limits = Limits::default();
        let tally = Arc::default();
        let engine = Engine::new(limits, self.compiler.clone(), cache, &[], clients, secret, notices, tally);
        engine.map(Arc::new).map_err(CannotReplay)
    }

    /// The plugins of an agent, with the one that ran then or the one that shall run now.
    async fn bench(
        &self,
        engine: &Arc<Engine>,
        agent: &AgentName,
        name: &PluginName,
        component: &str,
    ) -> Result<Bench, CannotReplay> {
        let grants = self.settings.agents.get(agent).map(|agent| agent.grants.clone()).unwrap_or_default();
        let kept = Kept::open(&self.settings.data.join("plugins")).map_err(CannotReplay)?;
        let mut components: BTreeMap<PluginName, Vec<u8>> = BTreeMap::new();
        for (plugin, locked) in self.lock.read().map_err(CannotReplay)?.plugins {
            if let Some(bytes) = kept.get(&locked.digest) {
                components.insert(plugin, bytes);
            }
        }
        let ran = match &self.with {
            Some(with) => Some(with.clone()),
            None => kept.get(component).or_else(|| self.dropped_in(name, component)),
        };
        let Some(ran) = ran else {
            let short = component.get(..12).unwrap_or(component);
            let line = format!(
                "plugin {name}: the version that ran ({short}) is not kept; --with FILE runs another"
            );
            return Err(CannotReplay(line));
        };
        components.insert(name.clone(), ran);
        let mut plugins = HashMap::new();
        for (plugin, bytes) in components {
            match self.load(engine, &plugin, bytes).await {
                Ok(loaded) => drop(plugins.insert(plugin, Arc::new(loaded))),
                Err(reason) if plugin == *name => {
                    return Err(CannotReplay(format!("plugin {name}: {reason}")));
                }
                // It is missed if it is called.
                Err(_) => {}
            }
        }
        let mut listings: Vec<_> = plugins.values().map(|plugin| plugin.listing.clone()).collect();
        listings.sort_by(|one, other| one.plugin.cmp(&other.plugin));
        let catalogue = Arc::new(Catalogue::new(listings));
        Ok(Bench { engine: engine.clone(), catalogue, plugins, grants })
    }

    /// The file in the plugin folder, if it is the one.
    fn dropped_in(&self, name: &PluginName, component: &str) -> Option<Vec<u8>> {
        let named = self.settings.plugins.get(name).and_then(|plugin| plugin.source.clone());
        let file: PathBuf = named.unwrap_or_else(|| self.settings.plugin_folder.join(format!("{name}.wasm")));
        let bytes = std::fs::read(file).ok()?;
        (kept::digest(&bytes) == component).then_some(bytes)
    }

    async fn load(&self, engine: &Arc<Engine>, name: &PluginName, bytes: Vec<u8>) -> Result<Plugin, String> {
        let candidate = Candidate::read(Bytes::from(bytes), engine.largest()).map_err(|it| it.to_string())?;
        let settings = self.settings.plugins.get(name).cloned().unwrap_or_default();
        engine.load(name.clone(), candidate, &settings).await.map_err(|refused| refused.to_string())
    }
}

/// The plugins of one agent, as it were.
struct Bench {
    engine: Arc<Engine>,
    catalogue: Arc<Catalogue>,
    plugins: HashMap<PluginName, Arc<Plugin>>,
    grants: BTreeMap<PluginName, crate::settings::Grants>,
}

impl Bench {
    fn permissions(&self, plugin: &Plugin) -> Arc<Permissions> {
        match self.grants.get(&plugin.listing.plugin) {
            Some(grants) => Arc::new(plugin.permissions.with(grants.clone())),
            None => plugin.permissions.clone(),
        }
    }
}

#[async_trait]
impl Tools for Bench {
    fn now(&self) -> Arc<Catalogue> {
        self.catalogue.clone()
    }

    fn absence(&self, _: &Arc<Listing>, _: &Handling) -> Option<Absence> {
        None
    }

    async fn call(&self, of: &Arc<Listing>, call: Call, caller: Handling, work: Work) -> Called {
        let Some(plugin) = self.plugins.get(&of.plugin) else { return Called::Busy(work) };
        let mut handling = Handling { permissions: self.permissions(plugin), drafts: None, ..caller };
        let caller = std::mem::replace(&mut handling.plugin, of.plugin.clone());
        handling.callers.push(caller);
        self.engine.call_tool(plugin, call, handling, work).await
    }
}

/// Where there is nothing but what was recorded.
struct Nothing(Arc<Recorder>);

#[async_trait]
impl kv::Source for Nothing {
    async fn get(&self, _: &Namespace, key: &str) -> Result<Option<Stored>, journal::Error> {
        self.0.is_past(&format!("kv: the key {}", escaped(key, SHOWN)));
        Ok(None)
    }

    async fn keys(&self, _: &Namespace, query: &KeyQuery) -> Result<Vec<String>, journal::Error> {
        self.0.is_past(&format!("kv: the keys that begin with {:?}", escaped(&query.prefix, SHOWN)));
        Ok(vec![])
    }

    async fn usage(&self, _: &AgentName, _: &PluginName) -> Result<Usage, journal::Error> {
        Ok(Usage::default())
    }
}

#[async_trait]
impl outbox::Messages for Nothing {
    async fn known(&self, _: &AgentName, event: &EventId) -> Result<Option<Known>, journal::Error> {
        self.0.is_past(&format!("outbox: what {event} is"));
        Ok(None)
    }

    async fn named(
        &self,
        _: &AgentName,
        _: &PluginName,
        name: &str,
    ) -> Result<Option<Named>, journal::Error> {
        self.0.is_past(&format!("outbox: the message with the name {}", escaped(name, SHOWN)));
        Ok(None)
    }

    async fn waiting(&self, _: &AgentName, _: &PluginName) -> Result<u64, journal::Error> {
        Ok(0)
    }
}

#[async_trait]
impl schedule::Source for Nothing {
    async fn timers(
        &self,
        _: &AgentName,
        _: &PluginName,
        _: &SessionId,
    ) -> Result<Vec<Timer>, journal::Error> {
        self.0.is_past("schedule: the timers of the session");
        Ok(vec![])
    }

    async fn count(&self, _: &AgentName, _: &PluginName) -> Result<u64, journal::Error> {
        Ok(0)
    }
}

#[async_trait]
impl media::Source for Nothing {
    async fn fetch(&self, _: &MediaSource, _: usize) -> Result<Bytes, media::Failure> {
        self.0.is_past("media: a file, which is not kept");
        Err(media::Failure::Gone("files are not kept".into()))
    }
}

/// A model that nobody asks.
struct Nobody;

#[async_trait]
impl llm::Backend for Nobody {
    async fn ask(&self, _: llm::Request) -> Result<Box<dyn llm::Answer>, llm::Failure> {
        Err(llm::Failure::Unavailable("this was never asked".into()))
    }
}

/// Drafts that nobody sees.
struct Nowhere;

impl progress::Sink for Nowhere {
    fn show(&self, _: Body) {}
}

fn lines(did: &Did) -> Vec<String> {
    let mut lines = vec![escaped(&did.end, SHOWN)];
    lines.extend(did.effects.iter().map(|(plugin, effect)| format!("{plugin}: {}", words(effect))));
    lines.extend(did.writes.iter().map(|(plugin, scope, key, value)| {
        let (scope, key) = (escaped(scope, SHOWN), escaped(key, SHOWN));
        match value {
            Some(value) => {
                let value = escaped(&String::from_utf8_lossy(value), SHOWN);
                format!("{plugin}: remembers {key} ({scope}) = {value}")
            }
            None => format!("{plugin}: forgets {key} ({scope})"),
        }
    }));
    lines
}

/// An effect in a line.
fn words(effect: &Effect) -> String {
    let text = |body: &Body| escaped(body.text(), SHOWN);
    let place = |to: &Target| match to {
        Target::Place(place) => match &place.thread {
            Some(thread) => format!("{} ({thread})", place.room),
            None => place.room.to_string(),
        },
        Target::Direct(user) => user.to_string(),
    };
    let which = |message: &MessageRef| match message {
        MessageRef::Event(event) => event.to_string(),
        MessageRef::Effect(effect) => format!("what it queued as {effect}"),
    };
    let answers = |to: &Option<MessageRef>| {
        to.as_ref().map_or_else(String::new, |it| format!(", answering {}", which(it)))
    };
    match effect {
        Effect::Send { to, body, reply_to, .. } => {
            format!("says in {}{}: {}", place(to), answers(reply_to), text(body))
        }
        Effect::File { to, file, caption, reply_to, .. } => {
            let File { name, mime, size, digest } = file;
            let digest = digest.get(..12).unwrap_or(digest);
            let caption = caption.as_ref().map_or_else(String::new, |it| format!(", and says: {}", text(it)));
            let (name, mime) = (escaped(name, SHOWN), escaped(mime, SHOWN));
            let answers = answers(reply_to);
            format!("sends to {}{answers} {name} ({mime}, {size} bytes, {digest}){caption}", place(to))
        }
        Effect::Edit { to, message, body } => {
            format!("edits {} in {}: {}", which(message), place(to), text(body))
        }
        Effect::React { to, message, key } => {
            format!("reacts to {} in {}: {}", which(message), place(to), escaped(key, SHOWN))
        }
        Effect::Redact { to, message, .. } => format!("removes {} in {}", which(message), place(to)),
        Effect::SetHome(home) => format!("makes {} its home", home.room),
        Effect::SetTimer(timer) => {
            let Timer { key, payload, rhythm, next, .. } = &**timer;
            let when = match rhythm {
                Rhythm::Once => format!("at {next}"),
                Rhythm::Every { cron, zone } => {
                    format!("every {} in {}, from {next}", escaped(cron, SHOWN), escaped(zone, SHOWN))
                }
            };
            format!("sets the timer {} {when}: {}", escaped(key, SHOWN), escaped(payload, SHOWN))
        }
        Effect::CancelTimer { key, .. } => format!("cancels the timer {}", escaped(key, SHOWN)),
        Effect::PutBack(timer) => format!("puts back the timer {}", escaped(&timer.key, SHOWN)),
    }
}
