//! The person in the room: another Matrix client, of another family, in another process.
//!
//! `people/person.py` is matrix-nio with its own cryptography. It logs in, sends, and tells all it sees; this side
//! keeps the [`Log`] and waits for what a test expects, never by the clock alone: a wait ends when its condition is
//! true or its deadline is over, and then says what was seen instead.
//!
//! ```ignore
//! let alice = Person::new(synapse, "alice").await?;
//! let room = alice.create_room(&NewRoom { encrypted: true, invite: vec![agent], ..NewRoom::default() }).await?;
//! alice.wait_member(&room, agent, "join").await?;
//! alice.say(&room, "!echo hello").await?;
//! let answer = alice.hear(&room, agent, "hello").await?;
//! assert!(answer.sealed());
//! ```

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{oneshot, watch};

use crate::installed;
use crate::synapse::api::PASSWORD;
use crate::synapse::{Api, NewRoom, Synapse, tail, temporary, unique};

// By their places: another test has this file by its own.
#[path = "person/say.rs"]
mod say;
#[path = "person/seen.rs"]
pub mod seen;

pub use say::Say;
pub use seen::{Log, Mark, Message, Seen};

/// How long anything that a test waits for may take, unless it says otherwise.
pub const DEADLINE: Duration = Duration::from_secs(20);
/// A request has a deadline of its own in `person.py`; this one is for a process that does not answer at all.
const ANSWER: Duration = Duration::from_secs(60);

pub struct Person {
    /// The full user id.
    pub user: String,
    pub device: String,
    /// The access token of this very session, for the calls of [`Api`] that need no cryptography.
    pub token: String,
    api: Api,
    synapse_log: PathBuf,
    log: watch::Receiver<Log>,
    stdin: tokio::sync::Mutex<ChildStdin>,
    answers: Answers,
    next: AtomicU64,
    // Dropped in this order: the process ends, then its store goes.
    _process: Child,
    folder: TempDir,
}

/// A device as this person's client knows it.
#[derive(Clone, Debug, Deserialize)]
pub struct Device {
    pub id: String,
    pub name: Option<String>,
    pub ed25519: String,
    pub curve25519: String,
}

type Answers = Arc<Mutex<HashMap<u64, oneshot::Sender<Result<Value, String>>>>>;

impl Person {
    /// Somebody new, with an account of their own.
    pub async fn new(synapse: &Synapse, name: &str) -> Result<Person> {
        let user = synapse.register(&unique(name), PASSWORD).await?;
        Person::login(synapse, &user, PASSWORD).await
    }

    /// Another device of an account that exists.
    pub async fn login(synapse: &Synapse, user: &str, password: &str) -> Result<Person> {
        let python = tokio::task::spawn_blocking(installed::nio).await??;
        let folder = temporary("parlour-person-")?;
        let program = folder.path().join("person.py");
        fs::write(&program, include_str!("../people/person.py"))?;
        let complaints = File::create(folder.path().join("stderr"))?;
        let mut command = Command::new(python);
        command.arg("-I").arg(program).arg(synapse.base_url()).arg(folder.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(complaints).kill_on_drop(true);
        let mut process = command.spawn().context("starting a person")?;

        let stdin = process.stdin.take().context("a person has a standard input")?;
        let stdout = process.stdout.take().context("a person has a standard output")?;
        let answers = Answers::default();
        let (seen, log) = watch::channel(Log::default());
        // Ends with the process, whose output ends then.
        tokio::spawn(listen(stdout, answers.clone(), seen));

        let mut person = Person {
            user: user.to_owned(),
            device: String::new(),
            token: String::new(),
            api: synapse.api().clone(),
            synapse_log: synapse.log(),
            log,
            stdin: tokio::sync::Mutex::new(stdin),
            answers,
            next: AtomicU64::new(1),
            _process: process,
            folder,
        };
        #[derive(Deserialize)]
        struct Login {
            user: String,
            device: String,
            token: String,
        }
        let login = json!({ "do": "login", "user": user, "password": password, "device_name": "a person" });
        let login: Login = serde_json::from_value(person.ask(login).await?)?;
        (person.user, person.device, person.token) = (login.user, login.device, login.token);
        Ok(person)
    }

    /// Makes a room, and returns once this person's client knows it.
    pub async fn create_room(&self, room: &NewRoom) -> Result<String> {
        let room = self.api.create_room(&self.token, room).await?;
        self.wait_member(&room, &self.user, "join").await?;
        Ok(room)
    }

    pub async fn invite(&self, room: &str, user: &str) -> Result<()> {
        self.api.invite(&self.token, room, user).await
    }

    /// Joins, and returns once this person's client knows the room.
    pub async fn join(&self, room: &str) -> Result<()> {
        self.api.join(&self.token, room).await?;
        self.wait_member(room, &self.user, "join").await
    }

    pub async fn leave(&self, room: &str) -> Result<()> {
        self.api.leave(&self.token, room).await
    }

    /// Says a text, and gives the event's id.
    pub async fn say(&self, room: &str, what: impl Into<Say>) -> Result<String> {
        self.send(room, "m.room.message", what.into().content()).await
    }

    pub async fn react(&self, room: &str, event: &str, key: &str) -> Result<String> {
        let relation = json!({ "rel_type": "m.annotation", "event_id": event, "key": key });
        self.send(room, "m.reaction", json!({ "m.relates_to": relation })).await
    }

    /// Sends any event, encrypted if the room is, to every device of everybody who has joined by now.
    pub async fn send(&self, room: &str, kind: &str, content: Value) -> Result<String> {
        let members = self.api.members(&self.token, room).await?;
        let joined: Vec<_> =
            members.iter().filter(|(_, membership)| *membership == "join").map(|(user, _)| user).collect();
        let send = json!({ "do": "send", "room": room, "type": kind, "content": content, "members": joined });
        let sent = self.ask(send).await?;
        sent["event_id"].as_str().map(str::to_owned).context("sending gives an event id")
    }

    pub async fn redact(&self, room: &str, event: &str) -> Result<String> {
        self.api.redact(&self.token, room, event).await
    }

    pub async fn typing(&self, room: &str, typing: bool) -> Result<()> {
        self.api.typing(&self.token, &self.user, room, typing).await
    }

    /// Marks an event as read, for all to see.
    pub async fn read(&self, room: &str, event: &str) -> Result<()> {
        self.api.read(&self.token, room, event).await
    }

    /// A user's devices as this person's client sees them, asked for anew. Its own device is not among them.
    pub async fn devices(&self, user: &str) -> Result<Vec<Device>> {
        Ok(serde_json::from_value(self.ask(json!({ "do": "devices", "user": user })).await?)?)
    }

    /// Uploads a file, and gives what stands in the content of a message for it.
    pub async fn upload(&self, text: &str, mime: &str, encrypt: bool) -> Result<Value> {
        self.ask(json!({ "do": "upload", "text": text, "mime": mime, "encrypt": encrypt })).await
    }

    /// What is said next in a room has a new key, of which nobody hears; answers its name.
    pub async fn withhold(&self, room: &str) -> Result<String> {
        let withheld = self.ask(json!({ "do": "withhold", "room": room })).await?;
        withheld["key"].as_str().map(str::to_owned).context("a key has a name")
    }

    /// Gives a key that was withheld to somebody to whom another one was given before.
    pub async fn give(&self, key: &str, user: &str) -> Result<()> {
        self.ask(json!({ "do": "give", "key": key, "user": user })).await.map(drop)
    }

    /// What is in the file of a message, out of its encryption.
    pub async fn download(&self, content: &Value) -> Result<Vec<u8>> {
        let file = self.ask(json!({ "do": "download", "content": content })).await?;
        Ok(base64::prelude::BASE64_STANDARD
            .decode(file["base64"].as_str().context("a file is in base64")?)?)
    }

    /// What this person has seen so far.
    pub fn log(&self) -> Log {
        self.log.borrow().clone()
    }

    pub fn mark(&self) -> Mark {
        self.log.borrow().mark()
    }

    /// The messages of a room so far, edits folded in.
    pub fn messages(&self, room: &str) -> Vec<Message> {
        self.log.borrow().messages(room)
    }

    /// Waits for a message of `sender` whose text, as it stands then, contains `words`.
    pub async fn hear(&self, room: &str, sender: &str, words: &str) -> Result<Message> {
        self.hear_since(Mark::default(), room, sender, words).await
    }

    /// The same, for messages first seen after `mark`.
    pub async fn hear_since(&self, mark: Mark, room: &str, sender: &str, words: &str) -> Result<Message> {
        let what = format!("{sender} to say {words:?} in {room}");
        let wanted = |message: &Message| message.sender == sender && message.text().contains(words);
        self.wait(&what, |log| log.messages_since(mark, room).into_iter().find(wanted)).await
    }

    pub async fn wait_member(&self, room: &str, user: &str, membership: &str) -> Result<()> {
        let what = format!("{user} to be {membership:?} in {room}");
        self.wait(&what, |log| (log.membership(room, user)? == membership).then_some(())).await
    }

    /// Waits to be invited, and gives who did.
    pub async fn wait_invite(&self, room: &str) -> Result<String> {
        let invited = |seen: &Seen| match seen {
            Seen::Invite { room: to, sender } if to == room => Some(sender.clone()),
            _ => None,
        };
        self.wait(&format!("an invitation to {room}"), |log| log.seen.iter().find_map(invited)).await
    }

    pub async fn wait_typing(&self, mark: Mark, room: &str, user: &str) -> Result<()> {
        let typing = |seen: &Seen| matches!(seen, Seen::Typing { room: at, users } if at == room && users.iter().any(|one| one == user));
        self.wait(&format!("{user} typing in {room}"), |log| log.since(mark).any(typing).then_some(())).await
    }

    pub async fn wait_receipt(&self, room: &str, user: &str, event: &str) -> Result<()> {
        let read = |seen: &Seen| matches!(seen, Seen::Receipt { room: at, user: who, event_id, .. } if at == room && who == user && event_id == event);
        self.wait(&format!("{user} to read {event}"), |log| log.seen.iter().any(read).then_some(())).await
    }

    /// Waits until `find` finds something in what was seen; `what` completes "waited for" if it never does.
    pub async fn wait<T>(&self, what: &str, find: impl FnMut(&Log) -> Option<T>) -> Result<T> {
        self.wait_for(DEADLINE, what, find).await
    }

    pub async fn wait_for<T>(
        &self,
        deadline: Duration,
        what: &str,
        mut find: impl FnMut(&Log) -> Option<T>,
    ) -> Result<T> {
        let mut log = self.log.clone();
        let mut found = None;
        let search = log.wait_for(|log| {
            found = find(log);
            found.is_some() || log.ended.is_some()
        });
        let waited = tokio::time::timeout(deadline, search).await.is_err();
        match found {
            Some(found) => Ok(found),
            None if waited => bail!("{} waited {deadline:?} for {what}\n{}", self.user, self.circumstances()),
            None => bail!("{} ended while waiting for {what}\n{}", self.user, self.circumstances()),
        }
    }

    async fn ask(&self, mut request: Value) -> Result<Value> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let what = request["do"].to_string();
        request["id"] = json!(id);
        let (sender, answer) = oneshot::channel();
        self.answers.lock().expect("no one panics while holding the answers").insert(id, sender);
        // A process that is gone says why below.
        let _ = self.stdin.lock().await.write_all(format!("{request}\n").as_bytes()).await;
        let answer = match tokio::time::timeout(ANSWER, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err("the process ended".to_owned()),
            Err(_) => Err(format!("no answer within {ANSWER:?}")),
        };
        answer.map_err(|reason| anyhow!("{} could not {what}: {reason}\n{}", self.user, self.circumstances()))
    }

    /// What helps to understand a failure.
    fn circumstances(&self) -> String {
        let seen = self.log.borrow();
        let complaints = tail(&self.folder.path().join("stderr"), 15);
        format!("-- seen\n{}-- its stderr\n{complaints}\n-- Synapse\n{}", *seen, tail(&self.synapse_log, 15))
    }
}

/// Reads what the process says until it ends.
async fn listen(stdout: ChildStdout, answers: Answers, log: watch::Sender<Log>) {
    #[derive(Deserialize)]
    struct Line {
        id: Option<u64>,
        ok: Option<Value>,
        error: Option<String>,
        seen: Option<Value>,
    }
    #[derive(Deserialize)]
    struct Numbered {
        n: usize,
        #[serde(flatten)]
        seen: Seen,
    }
    let take = |line: &str| -> Result<()> {
        let line: Line = serde_json::from_str(line)?;
        if let Some(seen) = line.seen {
            let Numbered { n, seen } =
                serde_json::from_value(seen.clone()).with_context(|| seen.to_string())?;
            log.send_modify(|log| match log.seen.get_mut(n) {
                Some(unread) => *unread = seen,
                None => log.seen.push(seen),
            });
        } else if let Some(id) = line.id {
            let answer = line.error.map_or(Ok(line.ok.unwrap_or_default()), Err);
            let asker = answers.lock().expect("no one panics while holding the answers").remove(&id);
            // Whoever asked may have given up.
            let _ = asker.map(|asker| asker.send(answer));
        }
        Ok(())
    };

    let mut lines = BufReader::new(stdout).lines();
    let ended = loop {
        match lines.next_line().await {
            Ok(Some(line)) => {
                if let Err(error) = take(&line) {
                    break format!("{error:#} in {line}");
                }
            }
            Ok(None) => break "the process ended".to_owned(),
            Err(error) => break error.to_string(),
        }
    };
    // Dropping the senders tells everybody who still waits for an answer.
    answers.lock().expect("no one panics while holding the answers").clear();
    log.send_modify(|log| log.ended = Some(ended));
}
