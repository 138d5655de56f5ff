//! The side of the host: who may ask, how much, for how long, and what is answered.

use std::{
    fs,
    io::ErrorKind,
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net,
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};

use super::{
    AgentStatus, Answer, PATIENCE, PluginState, PluginStatus, QUESTION, Question, Refusal, Rest, Status,
};
use crate::{
    agent::{Running, Shared},
    audit::Head,
    engine::{Plugin, Took},
    id::{AgentName, PluginName, UserId},
    journal::{Backlog, Last},
    notice::Notice,
    record,
};

/// For what a chat says of its connection.
const CONNECTION: Duration = Duration::from_secs(2);
/// Clients at once; more wait.
const CLIENTS: usize = 8;

/// A socket at which nobody is answered yet; it goes when it is dropped.
pub struct Bound {
    listener: net::UnixListener,
    path: PathBuf,
}

impl Bound {
    /// Listens at `path`, whose folder is for this user alone. What a host that is dead left there is replaced.
    ///
    /// # Errors
    /// One line: somebody listens there, something else is there, or the path is too long for a socket.
    pub fn open(path: &Path) -> Result<Self, String> {
        let place = |error: std::io::Error| format!("{}: {error}", path.display());
        match fs::symlink_metadata(path) {
            Ok(there) if !there.file_type().is_socket() => {
                return Err(format!("{}: it is there already, and is no socket", path.display()));
            }
            Ok(_) => match net::UnixStream::connect(path) {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    fs::remove_file(path).map_err(place)?;
                }
                Err(error) => return Err(place(error)),
                Ok(_) => return Err(format!("{}: another host listens there", path.display())),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(place(error)),
        }
        let listener = net::UnixListener::bind(path).map_err(place)?;
        let bound = Self { listener, path: path.into() };
        // Whoever came before this is asked who they are, all the same.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(place)?;
        bound.listener.set_nonblocking(true).map_err(place)?;
        Ok(bound)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.path));
    }
}

/// What answers.
pub struct Server {
    pub shared: Shared,
    /// With what is gone when it serves no more.
    pub agents: Vec<(AgentName, Weak<Running>)>,
    pub started: Instant,
}

impl Server {
    /// Answers until the future is dropped.
    pub async fn serve(self, bound: Bound) {
        let listener = bound.listener.try_clone().and_then(UnixListener::from_std);
        let listener = match listener {
            Ok(listener) => listener,
            Err(error) => {
                tracing::warn!(target: "parlour", "{}: {error}", bound.path.display());
                return;
            }
        };
        let server = Arc::new(self);
        let room = Arc::new(Semaphore::new(CLIENTS));
        let mut clients = JoinSet::new();
        loop {
            let Ok(permit) = room.clone().acquire_owned().await else { return };
            let accepted = listener.accept().await;
            while clients.try_join_next().is_some() {}
            match accepted {
                Ok((stream, _)) => {
                    let server = server.clone();
                    clients.spawn(async move {
                        server.attend(stream).await;
                        drop(permit);
                    });
                }
                // Too many open files: it may be better in a moment.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// One client, for as long as it asks.
    async fn attend(&self, mut stream: UnixStream) {
        let own = rustix::process::geteuid().as_raw();
        if !stream.peer_cred().is_ok_and(|peer| may_ask(peer.uid(), own)) {
            return;
        }
        let (from, mut to) = stream.split();
        let mut from = BufReader::new(from);
        loop {
            let mut line = Vec::new();
            let largest = QUESTION as u64 + 1;
            let read = timeout(PATIENCE, (&mut from).take(largest).read_until(b'\n', &mut line)).await;
            if !matches!(read, Ok(Ok(1..))) {
                return;
            }
            let whole = line.len() <= QUESTION;
            let answer = match serde_json::from_slice(&line) {
                _ if !whole => Answer::Error(format!("a question has at most {QUESTION} bytes")),
                Err(error) => Answer::Error(format!("it is no question: {error}")),
                Ok(question) => {
                    let answer = timeout(PATIENCE, self.answer(question)).await;
                    answer.unwrap_or_else(|_| Answer::Error("it takes too long".into()))
                }
            };
            let Ok(mut answer) = serde_json::to_vec(&answer) else { return };
            answer.push(b'\n');
            // What follows a question that is too long is not the next one.
            if !matches!(timeout(PATIENCE, to.write_all(&answer)).await, Ok(Ok(()))) || !whole {
                return;
            }
        }
    }

    async fn answer(&self, question: Question) -> Answer {
        match question {
            Question::Status {} => Answer::Status(Box::new(self.status().await)),
            Question::Resume { plugin, user } => self.resume(&plugin, user.as_ref()).await,
        }
    }

    async fn resume(&self, name: &PluginName, user: Option<&UserId>) -> Answer {
        if user.is_none() {
            match self.shared.registry.forgive(name).await {
                Ok(true) => return Answer::TriedAgain,
                Ok(false) => {}
                Err(reason) => return Answer::Error(reason),
            }
        }
        let loaded = self.shared.registry.loaded();
        let Some(plugin) = loaded.plugins.get(name) else {
            return Answer::Error(format!("there is no plugin {name}"));
        };
        let resumed = plugin.resume(user);
        if resumed.is_empty() {
            let whom = user.map_or_else(String::new, |user| format!(" from what {user} does"));
            return Answer::Error(format!("plugin {name} does not rest{whom}"));
        }
        for whom in &resumed {
            let (plugin, whom) = (name.clone(), whom.clone());
            self.shared.notices.say(Notice::PluginResumed { plugin, agent: None, whom });
        }
        Answer::Resumed(resumed)
    }

    async fn status(&self) -> Status {
        let Shared { journal, tally, standing, registry, .. } = &self.shared;
        // Somebody wonders what is wrong: all that is known is told.
        let mut trouble = record::write(tally, &**journal, true).await.err();
        let head = journal.record_head().await.unwrap_or_else(|error| {
            trouble = Some(error.to_string());
            Head::default()
        });
        let mut agents = Vec::new();
        for (name, running) in &self.agents {
            let chatting = standing.chatting(name);
            let known = AgentStatus::known(&**journal, name.clone()).await;
            let mut status = known.unwrap_or_else(|error| {
                trouble = Some(error.to_string());
                AgentStatus::of(name.clone(), Backlog::default(), Last::default())
            });
            (status.serves_since, status.said_at) =
                (chatting.since, chatting.said.as_ref().map(|(at, _)| *at));
            status.said = chatting.said.map(|(_, text)| text);
            if let Some(running) = running.upgrade()
                && chatting.since.is_some()
            {
                // A chat that is busy is not waited for.
                let told = timeout(CONNECTION, running.describe(&mut status)).await;
                status.connection = told.ok();
            }
            agents.push(status);
        }
        let (loaded, mut not_taken) = (registry.loaded(), registry.not_taken());
        let mut plugins: Vec<PluginStatus> = loaded
            .plugins
            .iter()
            .map(|(name, plugin)| self.plugin(name, Some(plugin), not_taken.remove(name)))
            .collect();
        let others = not_taken.into_iter();
        plugins.extend(others.map(|(name, not_taken)| self.plugin(&name, None, Some(not_taken))));
        plugins.sort_by(|one, other| one.name.cmp(&other.name));
        Status {
            uptime_s: Some(self.started.elapsed().as_secs()),
            agents,
            plugins,
            journal: trouble,
            audit_count: head.count,
            audit_hash: head.hash.to_string(),
        }
    }

    fn plugin(
        &self,
        name: &PluginName,
        plugin: Option<&Arc<Plugin>>,
        not_taken: Option<Refusal>,
    ) -> PluginStatus {
        let denials = self.shared.tally.denials(name);
        let rests = plugin.map(|plugin| plugin.resting(Instant::now())).unwrap_or_default();
        let count = |of: fn(&Took) -> &AtomicU64| plugin.map_or(0, |plugin| of(&plugin.took).load(Relaxed));
        PluginStatus {
            name: name.clone(),
            state: match (plugin, &not_taken) {
                (Some(_), _) if rests.is_empty() => PluginState::Serving,
                (Some(_), _) => PluginState::Resting,
                (None, Some(file)) if file.waits => PluginState::Waiting,
                (None, _) => PluginState::Refused,
            },
            version: plugin.and_then(|plugin| plugin.version.as_ref()).map(ToString::to_string),
            digest: plugin.map(|plugin| plugin.listing.digest.clone()),
            not_taken,
            on_trial: plugin.and_then(|plugin| self.shared.registry.on_trial(plugin)).map(|of| of.well),
            rests: rests.into_iter().map(|(user, left)| Rest { user, left_s: left.as_secs() }).collect(),
            audit_only: plugin.map(|plugin| plugin.permissions.spared()).unwrap_or_default(),
            denied: denials.denied,
            would_be_denied: denials.spared,
            calls: count(|took| &took.calls),
            faults: count(|took| &took.faults),
            cpu_us: count(|took| &took.cpu),
        }
    }
}

/// The same user, or one who may do everything anyway.
fn may_ask(peer: u32, own: u32) -> bool {
    peer == own || peer == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_user_and_root_may_ask() {
        assert!(may_ask(1000, 1000) && may_ask(0, 1000));
        assert!(!may_ask(1001, 1000) && !may_ask(1000, 0));
    }
}
