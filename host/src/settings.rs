//! What the operator says: `parlour.toml` as values.
//!
//! Unknown keys are errors that name the place and the nearest key ([`parse`]). Nothing here reads the
//! environment or a file except [`parse`]'s caller and [`SecretText::reveal`].

mod backlog;
pub(crate) mod homeserver;
mod keep;
mod parse;
mod secret;
mod switch;

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub use backlog::{Backlog, Horizon};
pub use parse::{SettingsError, load, parse};
pub use secret::{Secret, SecretText};

use crate::{
    id::{AgentName, PluginName, RoomId, UserId},
    origin::HttpGrant,
    signature::{self, Publisher},
    tool,
};

/// `parlour.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// State: journal, crypto stores, compiled code. Made with mode 0700.
    #[serde(default = "default_data")]
    pub data: PathBuf,
    /// What is dropped in here serves the agents that list its name, or `"*"`.
    #[serde(default = "default_plugin_folder")]
    pub plugin_folder: PathBuf,
    /// For every agent that names none of its own.
    pub homeserver: Option<String>,
    /// One Matrix account each.
    #[serde(default)]
    pub agents: BTreeMap<AgentName, Agent>,
    /// Who may talk.
    #[serde(default)]
    pub access: Access,
    /// How agents behave in rooms.
    #[serde(default)]
    pub behaviour: Behaviour,
    /// What is known of single plugins.
    #[serde(default)]
    pub plugins: BTreeMap<PluginName, Plugin>,
    /// Who may have signed plugin files; without it anybody, and nobody need have.
    pub publishers: Option<BTreeSet<Publisher>>,
    /// The language model.
    pub llm: Option<Llm>,
    /// What is kept of events that have ended.
    #[serde(default)]
    pub record: Record,
}

impl Settings {
    /// The keys of the top level.
    pub(crate) const KEYS: [&str; 10] = [
        "data",
        "plugin_folder",
        "homeserver",
        "agents",
        "access",
        "behaviour",
        "plugins",
        "publishers",
        "llm",
        "record",
    ];

    /// Who may have signed a plugin's file: its own publisher, or else one of all. None where nobody need have.
    #[must_use]
    pub fn publishers_of(&self, plugin: &PluginName) -> Option<BTreeSet<Publisher>> {
        let own = self.plugins.get(plugin).and_then(|plugin| plugin.publisher);
        signature::wanted(own, self.publishers.as_ref())
    }

    /// Where agents sign in.
    pub fn homeservers(&self) -> impl Iterator<Item = &String> {
        self.homeserver.iter().chain(self.agents.values().filter_map(|agent| agent.homeserver.as_ref()))
    }

    /// What is allowed, and probably not meant: one line each.
    #[must_use]
    pub fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        for (name, agent) in &self.agents {
            let access = agent.access.as_ref().unwrap_or(&self.access);
            if access.users.is_empty() && access.admins.is_empty() {
                doubts.push(format!(
                    "agents.{name}: access lists nobody in `users` or `admins`, so that it hears nobody"
                ));
            }
            if access.room_policy == RoomPolicy::Listed && access.rooms.is_empty() {
                doubts.push(format!(
                    "agents.{name}: room_policy = \"listed\" without `rooms` serves direct chats only"
                ));
            }
        }
        if self.publishers.as_ref().is_some_and(BTreeSet::is_empty) {
            doubts.push("publishers lists nobody, so that no plugin file is taken".into());
        }
        if self.llm.is_none() {
            let asking = self.plugins.iter().filter(|(_, plugin)| plugin.grants.llm.is_some());
            doubts.extend(
                asking.map(|(name, _)| format!("plugins.{name}: grants.llm is of no use without [llm]")),
            );
        }
        doubts
    }

    fn secrets(&mut self, each: impl Fn(&mut SecretText)) {
        let agents = self.agents.values_mut();
        let agents =
            agents.flat_map(|agent| [&mut agent.password, &mut agent.token, &mut agent.recovery_key]);
        let llm = self.llm.as_mut().map(|llm| &mut llm.key);
        agents.chain(llm).flatten().for_each(&each);
        let plugins = self.plugins.values_mut();
        plugins.flat_map(|plugin| plugin.secrets.values_mut()).for_each(|secret| each(&mut secret.value));
    }
}

fn default_data() -> PathBuf {
    "data".into()
}

fn default_plugin_folder() -> PathBuf {
    "plugins".into()
}

/// One Matrix account.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// Where it signs in.
    pub homeserver: Option<String>,
    /// Its account; a token may stand without it.
    pub user: Option<UserId>,
    /// Signs in once; then the session is stored and used again.
    pub password: Option<SecretText>,
    /// An access token of its own device, in place of a password.
    pub token: Option<SecretText>,
    /// For a first sign-in with a password.
    pub device_id: Option<String>,
    /// What people see in their list of devices.
    #[serde(default = "default_device_name")]
    pub device_name: String,
    /// When to encrypt.
    #[serde(default)]
    pub encryption: Encryption,
    /// Gives the agent its own identity back on a new device.
    pub recovery_key: Option<SecretText>,
    /// The account is a person's own: what they write themselves is heard.
    #[serde(default)]
    pub own_account: bool,
    /// In the order in which they are asked; `"*"` stands for every other one.
    pub plugins: Vec<String>,
    /// In place of `[access]`.
    pub access: Option<Access>,
    /// In place of `[behaviour]`.
    pub behaviour: Option<Behaviour>,
    /// What single plugins may do here, in place of `[plugins.NAME.grants]`.
    #[serde(default)]
    pub grants: BTreeMap<PluginName, Grants>,
}

fn default_device_name() -> String {
    "Parlour".into()
}

/// When to encrypt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encryption {
    /// As the room has it.
    #[default]
    AsRoom,
    /// Nothing is sent to a room that is not encrypted.
    Required,
    /// Encrypted rooms are not served.
    Off,
}

/// Who may talk. Nobody until listed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Access {
    /// May talk to the agent, and invite it.
    pub users: BTreeSet<UserId>,
    /// May also run what is for admins.
    pub admins: BTreeSet<UserId>,
    /// Which rooms are served.
    pub room_policy: RoomPolicy,
    /// For `room_policy = "listed"`.
    pub rooms: BTreeSet<RoomId>,
    /// Whose invitations are accepted; the others are declined.
    pub invites: Invites,
}

impl Access {
    /// What these settings say of a person: nothing, unless they are listed.
    #[must_use]
    pub fn role(&self, user: &UserId) -> Option<Role> {
        if self.admins.contains(user) {
            Some(Role::Admin)
        } else if self.users.contains(user) {
            Some(Role::User)
        } else {
            None
        }
    }
}

/// What the settings say of a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// On no list.
    Guest,
    /// Listed in `access.users`.
    User,
    /// Listed in `access.admins`.
    Admin,
}

/// Which rooms are served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RoomPolicy {
    /// Those that the agent is in: a listed person brought it there.
    #[default]
    Invited,
    /// Those in `access.rooms`, and direct chats.
    Listed,
}

/// Whose invitations are accepted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Invites {
    /// Those of listed people.
    #[default]
    Listed,
    /// Nobody's.
    Nobody,
}

/// How an agent behaves in rooms.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Behaviour {
    /// In a room, only what mentions the agent, and commands, are for it.
    pub require_mention: bool,
    /// Rooms where it need not be mentioned.
    pub free_response_rooms: BTreeSet<RoomId>,
    /// In a room, each person has a session of their own.
    pub session_per_user: bool,
    /// What is answered of that which came while the agent was away.
    pub backlog: Backlog,
    /// The same for single rooms.
    pub backlog_rooms: BTreeMap<RoomId, Backlog>,
    /// What is older is never answered.
    pub horizon: Horizon,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            require_mention: true,
            free_response_rooms: BTreeSet::new(),
            session_per_user: true,
            backlog: Backlog::default(),
            backlog_rooms: BTreeMap::new(),
            horizon: Horizon::default(),
        }
    }
}

impl Behaviour {
    /// What is answered in a room of that which came while the agent was away.
    #[must_use]
    pub fn backlog_in(&self, room: &RoomId) -> Backlog {
        self.backlog_rooms.get(room).copied().unwrap_or(self.backlog)
    }

    /// What of it is of no use, if anything is.
    fn nonsense(&self) -> Option<String> {
        let mut windows = self.backlog_rooms.values().chain([&self.backlog]);
        let longer = windows.find_map(|backlog| match backlog {
            Backlog::Within(window) if *window > self.horizon.get() => Some(*window),
            _ => None,
        })?;
        let (longer, horizon) = (backlog::words(longer), self.horizon);
        Some(format!(
            "backlog: {longer} is longer than the horizon of {horizon}, before which nothing is answered"
        ))
    }
}

/// What the settings say of one plugin.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Plugin {
    /// Its file; by default `NAME.wasm` in the plugin folder.
    pub source: Option<PathBuf>,
    /// Who must have signed it, in place of `publishers`.
    pub publisher: Option<Publisher>,
    /// What it reads by `wasi:config/store`. What is no text is given as JSON.
    pub config: BTreeMap<String, toml::Value>,
    /// What it may do beside answering and remembering.
    pub grants: Grants,
    /// What the host puts on its requests, by the name that the plugin asks for.
    pub secrets: BTreeMap<String, Secret>,
    /// What a call of it may take, where that is not the usual.
    pub limits: CallLimits,
    /// What it asks for and was not granted is let through, and counted: to learn what it needs, and then to grant it.
    pub audit_only: bool,
    /// What becomes of its requests that may change something, and its questions to the language model, that were under way when
    /// the host was ended. Where it is not said, the plugin is told of the former, and the latter, which change nothing, are
    /// asked again.
    pub in_flight: Option<InFlight>,
}

/// What becomes of a request that may change something outside or costs something, and of which nobody knows what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InFlight {
    /// The plugin is told so.
    Fail,
    /// It is sent again. An HTTP request had an `Idempotency-Key` the first time and has the same now, by which a server that
    /// knows this header sees that it counts once; a model that is asked again may be paid for again.
    Retry,
}

/// What a call may take, where that is not the usual: as a plugin wants it, and as an operator allows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CallLimits {
    /// CPU time, in milliseconds.
    pub cpu_ms: Option<u32>,
    /// From the call to its end, waiting included, in seconds.
    pub wall_s: Option<u32>,
    /// All memories of an instance together, in MiB; 1024 at the most.
    pub memory_mib: Option<u32>,
}

/// What a plugin may do beside answering where it was asked and remembering. Nothing until granted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grants {
    /// Make a conversation the agent's home, for an admin.
    pub home: bool,
    /// Ask the language model: `true`, or a table.
    #[serde(deserialize_with = "switch::llm")]
    pub llm: Option<LlmGrant>,
    /// Write to these other rooms that the agent is in: ids, or `"*"`.
    pub rooms: BTreeSet<String>,
    /// Write to these people in a direct chat: ids, `"*:example.org"`, or `"*"`.
    pub people: BTreeSet<String>,
    /// Send HTTP requests to there.
    pub http: Vec<HttpGrant>,
    /// See this folder, and no other.
    pub files: Option<Files>,
    /// Read the files of messages that it handles, and send files: `true`, or a table.
    #[serde(deserialize_with = "switch::media")]
    pub media: Option<Media>,
    /// Set timers: `true`, or a table.
    #[serde(deserialize_with = "switch::timers")]
    pub timers: Option<Timers>,
    /// Carry out of encrypted rooms what is said there: by whatever else is granted here.
    pub encrypted: bool,
    /// Call these tools of other plugins: `weather.forecast`, `weather.*`, or `"*"`.
    pub tools: BTreeSet<String>,
    /// How much it may remember, where that is not the usual.
    pub kv: Kv,
    /// Messages, edits and reactions in one room within a minute, where that is not the usual.
    pub messages_per_minute: Option<NonZeroU32>,
}

/// A folder that a plugin may see, as `/files`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// Which; it must be there.
    pub folder: PathBuf,
    /// It may be written to.
    #[serde(default)]
    pub write: bool,
    /// Bytes of all its files, where that is not the usual.
    pub bytes: Option<u64>,
}

/// Which files a plugin may read and send.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Media {
    /// Bytes of one file, where larger ones are not for it.
    pub bytes: Option<u64>,
}

/// How a plugin may ask the language model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LlmGrant {
    /// Models beside the operator's default, by name, or `"*"`.
    pub models: BTreeSet<String>,
    /// Tokens of requests and answers within a day, for each agent.
    pub tokens_per_day: Option<NonZeroU32>,
}

/// Which timers a plugin may set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timers {
    /// How many, for each agent, where that is not the usual.
    pub count: Option<u64>,
}

/// How much a plugin may remember for each agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Kv {
    /// Bytes of keys and values.
    pub bytes: Option<u64>,
    /// How many keys.
    pub keys: Option<u64>,
}

impl Grants {
    /// What is written where a room, a person or a tool should be, if something is.
    fn nonsense(&self) -> Option<String> {
        let room = |text: &&String| *text != "*" && RoomId::parse(text).is_err();
        let person = |text: &&String| *text != "*" && !text.starts_with("*:") && UserId::parse(text).is_err();
        let rooms = self.rooms.iter().find(room);
        let rooms = rooms
            .map(|text| format!("rooms: {text:?} is neither a room id such as !abc:example.org nor \"*\""));
        let people = || {
            let text = self.people.iter().find(person)?;
            Some(format!("people: {text:?} is neither a user id, nor \"*:example.org\", nor \"*\""))
        };
        let tool = |text: &&String| *text != "*" && !tool::is_pattern(text);
        let tools = || {
            let text = self.tools.iter().find(tool)?;
            Some(format!(
                "tools: {text:?} is neither a tool such as weather.forecast, nor weather.*, nor \"*\""
            ))
        };
        rooms.or_else(people).or_else(tools)
    }

    /// Whether a room may be written to.
    #[must_use]
    pub fn room(&self, room: &RoomId) -> bool {
        self.rooms.contains("*") || self.rooms.contains(room.as_str())
    }

    /// Whether a person may be written to.
    #[must_use]
    pub fn person(&self, user: &UserId) -> bool {
        let server = user.as_str().split_once(':').map_or("", |(_, server)| server);
        self.people.contains("*")
            || self.people.contains(user.as_str())
            || self.people.contains(&format!("*:{server}"))
    }
}

/// What is kept of events that have ended, so that `parlour replay` can run them again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Record {
    /// For how long: `"30m"`, `"24h"`, `"7d"`; with `"0"` nothing is.
    #[serde(deserialize_with = "keep::read")]
    pub keep: Duration,
}

impl Default for Record {
    fn default() -> Self {
        Self { keep: Duration::from_secs(24 * 60 * 60) }
    }
}

/// A language model behind an OpenAI-compatible endpoint. Plugins see neither the address nor the key.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Llm {
    /// Up to and without `/chat/completions`.
    pub url: String,
    /// Sent as `Authorization: Bearer`.
    pub key: Option<SecretText>,
    /// Where a plugin names none.
    pub model: String,
    /// How long the endpoint may be silent, in seconds.
    #[serde(default = "default_idle_timeout")]
    pub idle_timeout: u64,
}

impl Llm {
    /// How long the endpoint may be silent.
    #[must_use]
    pub fn idle(&self) -> Duration {
        Duration::from_secs(self.idle_timeout)
    }
}

/// Local models may load for a minute before they say a word.
fn default_idle_timeout() -> u64 {
    120
}
