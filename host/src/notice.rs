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
    trial::Undone,
};

/// A notice is at most so long.
const LINE: usize = 8 * 1024;

/// What a plugin says, which may be what somebody said to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words {
    /// The words.
    pub text: String,
    /// They were said of an event in an encrypted room, and belong into no log that others read.
    pub sealed: bool,
}

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
    /// A new version of a plugin has stood its trial.
    PluginAccepted {
        /// Which plugin.
        plugin: PluginName,
        /// SHA-256 of its file, in hexadecimal.
        digest: String,
    },
    /// A new version of a plugin faulted on trial, and the one before it serves again.
    PluginRolledBack {
        /// Which plugin.
        plugin: PluginName,
        /// SHA-256 of the file that was rolled back, in hexadecimal.
        digest: String,
        /// Of the one that serves again.
        before: String,
        /// What happened.
        fault: String,
        /// What is as it was before again.
        dropped: Undone,
    },
    /// A plugin that was loaded may do what it asks for, though nobody has granted it.
    PluginAuditOnly {
        /// Which plugin.
        plugin: PluginName,
        /// What is let through, and counted.
        spared: Vec<String>,
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
        /// Which plugin it would be, if its name is one.
        plugin: Option<PluginName>,
        /// The file, as it was named.
        file: String,
        /// Why.
        reason: String,
        /// SHA-256 of it in hexadecimal, where it only waits for somebody to agree.
        waits: Option<String>,
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
        /// What the plugin said of it, where it was the plugin's own error.
        said: Option<Words>,
    },
    /// A plugin could not handle an event yet; it is called again, for a while.
    PluginWaits {
        /// Which plugin.
        plugin: PluginName,
        /// For which agent.
        agent: AgentName,
        /// What it said.
        reason: Words,
    },
    /// A plugin faulted again and again at somebody's events, and rests.
    PluginSuspended {
        /// Which plugin.
        plugin: PluginName,
        /// For which agent it faulted last.
        agent: AgentName,
        /// For whose events.
        whom: UserId,
        /// For how long.
        rest: Duration,
    },
    /// A plugin that was suspended ended well, or somebody has resumed it.
    PluginResumed {
        /// Which plugin.
        plugin: PluginName,
        /// For which agent it ended well; none where somebody has resumed it.
        agent: Option<AgentName>,
        /// For whose events.
        whom: UserId,
    },
    /// A plugin was denied something for the first time.
    PluginDenied {
        /// Which plugin.
        plugin: PluginName,
        /// What it wanted to do.
        call: Words,
        /// Why not.
        denied: Denied,
    },
    /// The folder that a plugin was granted cannot be opened.
    PluginFiles {
        /// Which plugin.
        plugin: PluginName,
        /// The folder, and why.
        reason: String,
    },
    /// What a plugin logs.
    PluginLog {
        /// Which plugin.
        plugin: PluginName,
        /// How grave.
        level: Level,
        /// What it says: one line, without control characters.
        text: Words,
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
            | Self::PluginAccepted { .. }
            | Self::PluginWaits { .. }
            | Self::PluginResumed { .. } => Level::Info,
            Self::Agent { .. }
            | Self::CompiledAgain { .. }
            | Self::PluginRefused { .. }
            | Self::PluginFaulted { .. }
            | Self::PluginDenied { .. }
            | Self::PluginFiles { .. }
            | Self::PluginAuditOnly { .. }
            | Self::PluginRolledBack { .. }
            | Self::PluginSuspended { .. } => Level::Warn,
            Self::AgentStopped { .. } | Self::NotSent { .. } | Self::Journal { .. } => Level::Error,
            Self::PluginLog { level, .. } => *level,
        }
    }
}

impl Notice {
    /// What a plugin says in it of an encrypted room.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        match self {
            Self::PluginFaulted { said, .. } => said.as_ref().is_some_and(|said| said.sealed),
            Self::PluginWaits { reason: words, .. }
            | Self::PluginDenied { call: words, .. }
            | Self::PluginLog { text: words, .. } => words.sealed,
            _ => false,
        }
    }

    /// The same line without what is said in encrypted rooms; none where nothing is left.
    #[must_use]
    pub fn public(&self) -> Option<String> {
        const KEPT: &str = "(said in an encrypted room)";
        let kept = || Words { text: KEPT.into(), sealed: false };
        let mut notice = self.clone();
        match &mut notice {
            Self::PluginLog { text, .. } if text.sealed => return None,
            Self::PluginFaulted { said: Some(words), .. }
            | Self::PluginWaits { reason: words, .. }
            | Self::PluginDenied { call: words, .. }
                if words.sealed =>
            {
                *words = kept();
            }
            _ => {}
        }
        Some(notice.to_string())
    }
}

impl fmt::Display for Notice {
    /// One line, with all that is said in it. What plugins, files and servers say is in it, so that it is escaped.
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
            Self::PluginAuditOnly { plugin, spared } => {
                let spared = spared.join(", ");
                write!(
                    f,
                    "plugin {plugin}: AUDIT-ONLY: what is not granted of {spared} is let through and counted"
                )
            }
            Self::PluginAccepted { plugin, digest } => {
                write!(
                    f,
                    "plugin {plugin}: new version stood its trial ({})",
                    digest.get(..12).unwrap_or(digest)
                )
            }
            Self::PluginRolledBack { plugin, digest, before, fault, dropped } => {
                let [digest, before] = [digest, before].map(|of| of.get(..12).unwrap_or(of));
                write!(
                    f,
                    "plugin {plugin}: new version rolled back ({digest}): {fault}; the version before it ({before}) serves \
                     again; {dropped}"
                )
            }
            Self::PluginRemoved { plugin } => write!(f, "plugin {plugin}: removed"),
            Self::CompiledAgain { plugin, reason } => {
                write!(f, "plugin {plugin}: {reason}; it is compiled again")
            }
            Self::PluginRefused { file, reason, kept, .. } => {
                let after = if *kept { "; the version before it goes on" } else { "" };
                write!(f, "{file}: refused: {reason}{after}")
            }
            Self::PluginFaulted { plugin, agent, fault, said } => {
                write!(f, "plugin {plugin} faulted for agent {agent}: {fault}")?;
                said.as_ref().map_or(Ok(()), |said| write!(f, ": {}", said.text))
            }
            Self::PluginWaits { plugin, agent, reason } => {
                write!(
                    f,
                    "plugin {plugin} waits for agent {agent}: {}; it is called again for up to 15 minutes",
                    reason.text
                )
            }
            Self::PluginSuspended { plugin, whom, rest, .. } => {
                let minutes = rest.as_secs().div_ceil(60);
                write!(
                    f,
                    "plugin {plugin}: rests for {minutes} min from what {whom} does, after too many faults"
                )
            }
            Self::PluginFiles { plugin, reason } => write!(f, "plugin {plugin}: its folder: {reason}"),
            Self::PluginLog { plugin, text, .. } => write!(f, "plugin {plugin}: {}", text.text),
            Self::PluginResumed { plugin, whom, .. } => write!(f, "plugin {plugin}: serves {whom} again"),
            Self::PluginDenied { plugin, call, denied } => {
                write!(f, "plugin {plugin}: denied: {denied} ({})", call.text)
            }
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
    /// To `tracing`, under the target `parlour`, without what is said in encrypted rooms.
    fn default() -> Self {
        Self::new(|notice| {
            let Some(line) = notice.public() else { return };
            match notice.level() {
                Level::Error => tracing::error!(target: "parlour", "{line}"),
                Level::Warn => tracing::warn!(target: "parlour", "{line}"),
                Level::Info => tracing::info!(target: "parlour", "{line}"),
                Level::Debug => tracing::debug!(target: "parlour", "{line}"),
            }
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
            Notice::PluginFaulted { plugin, agent, fault, said: None }.to_string(),
            "plugin evil faulted for agent helper: it crashed: \\u{1b}[2J\\nplugin echo: loaded\\u{202e}"
        );
    }
}
