//! How a host that runs is asked how it does, from the same machine and by the same user: a Unix socket of 0600, one
//! line of JSON for a question and one for its answer.
//!
//! It tells, ends a plugin's rest, and has a version tried again that was rolled back. It grants nothing, and never will:
//! grants are in the settings.

mod server;

use std::{
    io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub(crate) use self::server::{Bound, Server};
use crate::{
    chat::{Connection, Outage},
    id::{AgentName, EventId, PluginName, RoomId, UserId},
    journal::{self, Backlog, Journal, Last},
};

/// Bytes of a question.
const QUESTION: usize = 4 * 1024;
/// Bytes of an answer: some thousand plugins, and as many people for whom one rests.
const ANSWER: u64 = 4 * 1024 * 1024;
/// For one question and its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Question {
    /// How the host does. What it has counted for the audit record is written, too.
    Status {},
    /// A plugin that rests serves again, and a version that was rolled back is tried again.
    Resume {
        /// Which.
        plugin: PluginName,
        /// Whom; all, where nobody is named.
        #[serde(default)]
        user: Option<UserId>,
    },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// How the host does.
    Status(Box<Status>),
    /// Whom the plugin serves again.
    Resumed(Vec<UserId>),
    /// A version that was rolled back is tried again.
    TriedAgain,
    /// Why not, in a line.
    Error(String),
}

/// How a host does. Times are in milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// How long it has run, in seconds; none where no host runs, and only what the journal tells is here.
    pub uptime_s: Option<u64>,
    /// Its agents.
    pub agents: Vec<AgentStatus>,
    /// Plugins that are loaded, and those whose file was not taken; none where no host runs.
    pub plugins: Vec<PluginStatus>,
    /// Why the journal does not answer, while it does not: what waits and what happened last is unknown then.
    #[serde(default)]
    pub journal: Option<String>,
    /// Entries of the audit record.
    pub audit_count: u64,
    /// The last one's hash.
    pub audit_hash: String,
}

/// How an agent does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Its name.
    pub name: AgentName,
    /// Its account, while it serves.
    pub user: Option<UserId>,
    /// Since when it serves; none while it does not.
    pub serves_since: Option<i64>,
    /// What its chat said last.
    pub said: Option<String>,
    /// When that was.
    pub said_at: Option<i64>,
    /// How its chat is connected, while it serves.
    pub connection: Option<Connection>,
    /// Events that have not ended.
    pub events_waiting: u64,
    /// Events that cannot be read, and wait for their key.
    #[serde(default)]
    pub events_locked: u64,
    /// Events whose key never came, since the start.
    pub undecryptable_count: u64,
    /// The last of them.
    pub undecryptable: Vec<Undecryptable>,
    /// Effects that were committed and not sent.
    pub effects_unsent: u64,
    /// Sessions of which something is held in memory.
    pub lanes: u64,
    /// Those of them in which a handler runs.
    pub lanes_running: u64,
    /// When something was sent last in this run, whatever came of it.
    pub tried: Option<i64>,
    /// Why nothing is taken, until something is.
    pub trouble: Option<Outage>,
    /// What happened last, in this run or before.
    #[serde(flatten)]
    pub last: Last,
}

/// An event that could not be decrypted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undecryptable {
    /// Which.
    pub event: EventId,
    /// Where.
    pub room: RoomId,
    /// When it was given up, in milliseconds since 1970.
    pub at: i64,
    /// Why.
    pub why: String,
}

/// How a plugin does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginStatus {
    /// Its name.
    pub name: PluginName,
    /// As it says, of what is loaded.
    pub version: Option<String>,
    /// SHA-256 of what is loaded, in hexadecimal; none where nothing is.
    pub digest: Option<String>,
    /// In a word.
    pub state: PluginState,
    /// Its file, where that was not taken.
    pub not_taken: Option<Refusal>,
    /// What is loaded is on trial, and has handled so many events well.
    #[serde(default)]
    pub on_trial: Option<u32>,
    /// For whom it rests.
    pub rests: Vec<Rest>,
    /// What is let through and counted, though it is not granted.
    pub audit_only: Vec<String>,
    /// Calls that were denied since the host has started.
    pub denied: u64,
    /// Calls that would have been, and were let through.
    pub would_be_denied: u64,
    /// Calls of this version that have ended since it was loaded, those of its tools included.
    pub calls: u64,
    /// Those that ended in a fault.
    pub faults: u64,
    /// CPU time of all of them, in microseconds.
    pub cpu_us: u64,
}

/// How a plugin does, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PluginState {
    /// It serves, though a newer file may not have been taken.
    Serving,
    /// It serves, but for those from whom it rests.
    Resting,
    /// Nothing of it is loaded: its file waits for somebody to agree.
    Waiting,
    /// Nothing of it is loaded: its file was refused.
    Refused,
}

impl AgentStatus {
    /// What the journal knows of it.
    async fn known(journal: &dyn Journal, name: AgentName) -> Result<Self, journal::Error> {
        let (backlog, last) = (journal.backlog(&name).await?, journal.last(&name).await?);
        Ok(Self::of(name, backlog, last))
    }

    fn of(name: AgentName, backlog: Backlog, last: Last) -> Self {
        Self {
            user: None,
            serves_since: None,
            said: None,
            said_at: None,
            connection: None,
            events_waiting: backlog.events,
            events_locked: backlog.locked,
            undecryptable_count: 0,
            undecryptable: vec![],
            effects_unsent: backlog.effects,
            lanes: 0,
            lanes_running: 0,
            tried: None,
            trouble: None,
            last,
            name,
        }
    }
}

/// What a journal alone tells, where no host runs.
///
/// # Errors
/// The storage failed.
pub async fn look(journal: &dyn Journal) -> Result<Status, journal::Error> {
    let mut agents = Vec::new();
    for name in journal.agents().await? {
        agents.push(AgentStatus::known(journal, name).await?);
    }
    let head = journal.record_head().await?;
    let (audit_count, audit_hash) = (head.count, head.hash.to_string());
    Ok(Status { uptime_s: None, agents, plugins: vec![], journal: None, audit_count, audit_hash })
}

/// A file that was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Which.
    pub file: String,
    /// Why.
    pub reason: String,
    /// It only waits for somebody to agree.
    pub waits: bool,
}

/// A plugin rests from what one person does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rest {
    /// Who.
    pub user: UserId,
    /// For how much longer, in seconds.
    pub left_s: u64,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoAnswer {
    /// Nobody listens.
    #[error("no host runs here")]
    NotRunning,
    /// It did not answer as it should.
    #[error("the host does not answer: {0}")]
    Failed(String),
}

/// Asks the host that listens at `socket`. Blocks for some seconds at the most.
///
/// # Errors
/// [`NoAnswer`].
pub fn ask(socket: &Path, question: &Question) -> Result<Answer, NoAnswer> {
    let failed = |error: std::io::Error| NoAnswer::Failed(error.to_string());
    let mut stream = UnixStream::connect(socket).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => NoAnswer::NotRunning,
        _ => failed(error),
    })?;
    // Longer than the host gives itself.
    let patience = Some(PATIENCE + Duration::from_secs(5));
    stream.set_read_timeout(patience).and_then(|()| stream.set_write_timeout(patience)).map_err(failed)?;
    let mut line = serde_json::to_vec(question).map_err(|error| NoAnswer::Failed(error.to_string()))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(failed)?;
    let mut answer = Vec::new();
    BufReader::new(stream.take(ANSWER)).read_until(b'\n', &mut answer).map_err(failed)?;
    serde_json::from_slice(&answer).map_err(|error| NoAnswer::Failed(format!("its answer: {error}")))
}
