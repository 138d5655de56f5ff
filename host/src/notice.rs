//! What the host has to say to its operator: one line each, and typed, for embedders and tests.

use std::{
    fmt::{self, Write as _},
    sync::Arc,
    time::Duration,
};

use crate::{
    grant::Denied,
    id::{AgentName, PluginName, UserId},
    text::escaped,
};

/// A notice is at most so long.
const LINE: usize = 8 * 1024;

/// Something an operator wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// An agent serves.
    AgentReady {
        /// Which.
        agent: AgentName,
        /// As whom, and where.
        text: String,
    },
    /// Something about an agent that it lives with: an outage, an undecryptable message, a declined invitation.
    Agent {
        /// Which.
        agent: AgentName,
        /// What.
        text: String,
    },
    /// An agent was invited.
    Invitation {
        /// Which.
        agent: AgentName,
        /// What it did.
        text: String,
    },
    /// An agent does not serve, or no longer.
    AgentStopped {
        /// Which.
        agent: AgentName,
        /// Why, and the way out.
        reason: String,
    },
    /// A plugin was loaded, or a new version of it took over.
    PluginLoaded {
        /// Which.
        plugin: PluginName,
        /// SHA-256 of its file, in hexadecimal.
        digest: String,
        /// The version that it replaces was loaded before.
        replaced: bool,
    },
    /// A plugin's file is gone, and so is the plugin.
    PluginRemoved {
        /// Which.
        plugin: PluginName,
    },
    /// The kept native code of a plugin could not be used.
    CompiledAgain {
        /// Which.
        plugin: PluginName,
        /// Why.
        reason: String,
    },
    /// A file was not taken; what served before goes on.
    PluginRefused {
        /// The file, as it was named.
        file: String,
        /// Why.
        reason: String,
        /// An older version goes on serving.
        kept: bool,
    },
    /// A call of a plugin ended in a fault.
    PluginFaulted {
        /// Which plugin.
        plugin: PluginName,
        /// For which agent.
        agent: AgentName,
        /// What happened.
        fault: String,
    },
    /// A plugin could not handle an event yet; it is called again, for a while.
    PluginWaits {
        /// Which plugin.
        plugin: PluginName,
        /// For which agent.
        agent: AgentName,
        /// What it said.
        reason: String,
    },
    /// A plugin faulted again and again at somebody's events, and rests.
    PluginSuspended {
        /// Which plugin.
        plugin: PluginName,
        /// For whose events.
        whom: UserId,
        /// For how long.
        rest: Duration,
    },
    /// A plugin that was suspended ended well.
    PluginResumed {
        /// Which plugin.
        plugin: PluginName,
        /// For whose events.
        whom: UserId,
    },
    /// A plugin was denied something for the first time.
    PluginDenied {
        /// Which plugin.
        plugin: PluginName,
        /// What, and why.
        denied: Denied,
    },
    /// What a plugin logs.
    PluginLog {
        /// Which plugin.
        plugin: PluginName,
        /// How grave.
        level: Level,
        /// What it says: one line, without control characters.
        text: String,
    },
    /// An effect was given up.
    NotSent {
        /// Whose.
        agent: AgentName,
        /// What, and why.
        reason: String,
    },
    /// The journal could not be written; it is tried again.
    Journal {
        /// What happened.
        reason: String,
    },
}

/// How grave a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the usual words")]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

impl Notice {
    /// How grave it is.
    #[must_use]
    pub fn level(&self) -> Level {
        match self {
            Self::AgentReady { .. }
            | Self::Invitation { .. }
            | Self::PluginLoaded { .. }
            | Self::PluginRemoved { .. }
            | Self::PluginWaits { .. }
            | Self::PluginResumed { .. } => Level::Info,
            Self::Agent { .. }
            | Self::CompiledAgain { .. }
            | Self::PluginRefused { .. }
            | Self::PluginFaulted { .. }
            | Self::PluginDenied { .. }
            | Self::PluginSuspended { .. } => Level::Warn,
            Self::AgentStopped { .. } | Self::NotSent { .. } | Self::Journal { .. } => Level::Error,
            Self::PluginLog { level, .. } => *level,
        }
    }
}

impl fmt::Display for Notice {
    /// One line. What plugins, files and servers say is in it, so that it is escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = String::new();
        self.write(&mut line)?;
        f.write_str(&escaped(&line, LINE))
    }
}

impl Notice {
    fn write(&self, f: &mut String) -> fmt::Result {
        match self {
            Self::AgentReady { agent, text }
            | Self::Invitation { agent, text }
            | Self::Agent { agent, text } => {
                write!(f, "agent {agent}: {text}")
            }
            Self::AgentStopped { agent, reason } => write!(f, "agent {agent} does not run: {reason}"),
            Self::PluginLoaded { plugin, digest, replaced } => {
                let what = if *replaced { "new version took over" } else { "loaded" };
                write!(f, "plugin {plugin}: {what} ({})", digest.get(..12).unwrap_or(digest))
            }
            Self::PluginRemoved { plugin } => write!(f, "plugin {plugin}: removed"),
            Self::CompiledAgain { plugin, reason } => {
                write!(f, "plugin {plugin}: {reason}; it is compiled again")
            }
            Self::PluginRefused { file, reason, kept } => {
                let after = if *kept { "; the version before it goes on" } else { "" };
                write!(f, "{file}: refused: {reason}{after}")
            }
            Self::PluginFaulted { plugin, agent, fault } => {
                write!(f, "plugin {plugin} faulted for agent {agent}: {fault}")
            }
            Self::PluginWaits { plugin, agent, reason } => {
                write!(
                    f,
                    "plugin {plugin} waits for agent {agent}: {reason}; it is called again for up to 15 minutes"
                )
            }
            Self::PluginSuspended { plugin, whom, rest } => {
                let minutes = rest.as_secs().div_ceil(60);
                write!(
                    f,
                    "plugin {plugin}: rests for {minutes} min from what {whom} does, after too many faults"
                )
            }
            Self::PluginResumed { plugin, whom } => write!(f, "plugin {plugin}: serves {whom} again"),
            Self::PluginDenied { plugin, denied } => write!(f, "plugin {plugin}: denied: {denied}"),
            Self::PluginLog { plugin, text, .. } => write!(f, "plugin {plugin}: {text}"),
            Self::NotSent { agent, reason } => write!(f, "agent {agent}: not sent: {reason}"),
            Self::Journal { reason } => write!(f, "journal: {reason}; trying again"),
        }
    }
}

/// Where notices go.
#[derive(Clone)]
pub struct Notices(Arc<dyn Fn(Notice) + Send + Sync>);

impl Notices {
    /// Calls `to` for each notice; it must not block.
    pub fn new(to: impl Fn(Notice) + Send + Sync + 'static) -> Self {
        Self(Arc::new(to))
    }

    /// Says it.
    pub fn say(&self, notice: Notice) {
        (self.0)(notice);
    }
}

impl Default for Notices {
    /// To `tracing`, under the target `parlour`.
    fn default() -> Self {
        Self::new(|notice| match notice.level() {
            Level::Error => tracing::error!(target: "parlour", "{notice}"),
            Level::Warn => tracing::warn!(target: "parlour", "{notice}"),
            Level::Info => tracing::info!(target: "parlour", "{notice}"),
            Level::Debug => tracing::debug!(target: "parlour", "{notice}"),
        })
    }
}

impl fmt::Debug for Notices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Notices")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_one_line_whoever_speaks() {
        let fault = "it crashed: \u{1b}[2J\nplugin echo: loaded\u{202e}".to_owned();
        let (plugin, agent) = (PluginName::parse("evil").unwrap(), AgentName::parse("helper").unwrap());
        assert_eq!(
            Notice::PluginFaulted { plugin, agent, fault }.to_string(),
            "plugin evil faulted for agent helper: it crashed: \\u{1b}[2J\\nplugin echo: loaded\\u{202e}"
        );
    }
}
