//! How things stand, as the host's own words tell: how agents do, and what their homes are told.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::{
    audit::now,
    id::{AgentName, PluginName, UserId},
    notice::Notice,
};

/// What homes are still to be told, at most: agents that are signing in have not heard it yet.
const NEWS: usize = 256;

/// How things stand.
#[derive(Debug, Default)]
pub struct Standing {
    state: Mutex<State>,
    /// How much news there was.
    told: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct State {
    agents: BTreeMap<AgentName, Chatting>,
    news: VecDeque<News>,
}

/// How an agent does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chatting {
    /// Since when it serves, in milliseconds since 1970.
    pub since: Option<i64>,
    /// What its chat said last, and when.
    pub said: Option<(i64, String)>,
}

/// Something that an operator should hear at home, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// About which plugin.
    pub plugin: PluginName,
    /// What tells it apart from all others, for ever.
    pub key: String,
    /// What happened.
    pub of: Happened,
    /// One line.
    pub line: String,
}

/// What happened to a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    /// Its file waits for somebody to agree.
    Waits,
    /// A new version of it was rolled back.
    RolledBack,
    /// It rests for one person, after it faulted for an agent.
    Suspended(AgentName, UserId),
    /// It serves that person again.
    Resumed(UserId),
}

impl Standing {
    /// What the host or a chat says.
    pub fn hear(&self, notice: &Notice) {
        let mut state = self.lock();
        match notice {
            Notice::AgentReady { agent, text } => {
                let now = now();
                let chatting = Chatting { since: Some(now), said: Some((now, text.clone())) };
                state.agents.insert(agent.clone(), chatting);
            }
            Notice::Agent { agent, text } => state.chatting(agent).said = Some((now(), text.clone())),
            Notice::AgentStopped { agent, reason } => {
                *state.chatting(agent) = Chatting { since: None, said: Some((now(), reason.clone())) };
            }
            _ => {}
        }
        if let Some(news) = news(notice) {
            state.news.push_back(news);
            if state.news.len() > NEWS {
                state.news.pop_front();
            }
            drop(state);
            self.told.send_modify(|count| *count += 1);
        }
    }

    /// How an agent does.
    pub fn chatting(&self, agent: &AgentName) -> Chatting {
        self.lock().agents.get(agent).cloned().unwrap_or_default()
    }

    /// Wakes whoever waits for news; its value is how much there was.
    pub fn told(&self) -> watch::Receiver<usize> {
        self.told.subscribe()
    }

    /// The last so many news.
    pub fn news(&self, last: usize) -> Vec<News> {
        let state = self.lock();
        state.news.iter().skip(state.news.len().saturating_sub(last)).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn chatting(&mut self, agent: &AgentName) -> &mut Chatting {
        self.agents.entry(agent.clone()).or_default()
    }
}

fn news(notice: &Notice) -> Option<News> {
    Some(match notice {
        Notice::PluginRefused { plugin: Some(plugin), reason, waits: Some(digest), kept, .. } => {
            let after = if *kept { "; the version before it goes on" } else { "" };
            News {
                plugin: plugin.clone(),
                key: format!("waits {digest} {reason}"),
                of: Happened::Waits,
                line: format!("Plugin {plugin} has a new file: {reason}{after}."),
            }
        }
        Notice::PluginRolledBack { plugin, digest, fault, dropped, .. } => News {
            plugin: plugin.clone(),
            key: format!("rolled back {digest} {}", now()),
            of: Happened::RolledBack,
            line: format!(
                "The new version of plugin {plugin} was rolled back: {fault}. The version before it serves again; {dropped}. \
                 `parlour plugin resume {plugin}` tries it again."
            ),
        },
        Notice::PluginSuspended { plugin, agent, whom, rest } => {
            let minutes = rest.as_secs().div_ceil(60);
            News {
                plugin: plugin.clone(),
                key: format!("suspended {whom} {}", now()),
                of: Happened::Suspended(agent.clone(), whom.clone()),
                line: format!(
                    "Plugin {plugin} rests for {minutes} min from what {whom} does, after too many faults; \
                     `parlour plugin resume {plugin}` ends that."
                ),
            }
        }
        Notice::PluginResumed { plugin, whom, .. } => News {
            plugin: plugin.clone(),
            key: format!("resumed {whom} {}", now()),
            of: Happened::Resumed(whom.clone()),
            line: format!("Plugin {plugin} serves {whom} again."),
        },
        _ => return None,
    })
}
