//! How the versions of a plugin stand, as the ledger remembers it: which one was accepted, which one is on trial, and
//! which one was rolled back. What the one on trial replaces is kept until the trial has ended.

use super::{Namespace, Stored, Write};
use crate::id::AgentName;

/// One version of a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// SHA-256 of its file, in hexadecimal.
    pub digest: String,
    /// Its own version, where it says one.
    pub version: Option<String>,
}

/// How a plugin's versions stand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Versions {
    /// Whose memory this is: the newest that was accepted.
    pub accepted: Option<Release>,
    /// The one on trial. What it writes is undone if it is rolled back.
    pub trial: Option<Release>,
    /// The one on trial has done something that was committed.
    pub used: bool,
    /// SHA-256 of the one that was rolled back last, in hexadecimal.
    pub rejected: Option<String>,
}

/// A value that a plugin remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// Whose.
    pub namespace: Namespace,
    /// Its key.
    pub key: String,
    /// The value.
    pub stored: Stored,
}

/// What a new version makes of all that is remembered for one agent.
#[derive(Debug, Clone)]
pub struct Moved {
    /// Which agent.
    pub agent: AgentName,
    /// All that there was when it began: if it has changed since, nothing is written.
    pub seen: Vec<(Namespace, String, i64)>,
    /// What it changes.
    pub writes: Vec<Write>,
}

/// How a trial ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// What it wrote stays.
    Accepted,
    /// What it wrote is undone, and it is not tried again.
    RolledBack,
    /// Another is to take its place: what it wrote stays if it was used, and is undone otherwise.
    Superseded,
    /// It is gone, and the one before it serves: what it wrote is undone.
    Withdrawn,
    /// What was rolled back before may be tried again.
    Forgiven,
}

impl Decision {
    /// Whether what the version on trial wrote is undone; `used` says whether it has done something that was committed.
    pub(super) fn undoes(self, used: bool) -> bool {
        match self {
            Self::RolledBack | Self::Withdrawn => true,
            Self::Superseded => !used,
            Self::Accepted | Self::Forgiven => false,
        }
    }
}

impl Versions {
    /// The one whose shape what is remembered has now.
    pub(super) fn newest(&self) -> Option<&Release> {
        self.trial.as_ref().or(self.accepted.as_ref())
    }

    /// What a contribution of the version `digest` is; none where it comes too late: it must not be committed.
    /// `strange` says whether it read or wrote what is remembered and has another shape by now, and `replaced` whether any
    /// of that, or of the timers that it listed or changed, is what the one on trial has replaced. Who began finishes, as
    /// long as neither is so.
    ///
    /// # Errors
    /// Those of the two.
    pub(super) fn standing<E>(
        &self,
        digest: &str,
        strange: impl FnOnce() -> Result<bool, E>,
        replaced: impl FnOnce() -> Result<bool, E>,
    ) -> Result<Option<Standing>, E> {
        let is = |release: &Option<Release>| release.as_ref().is_some_and(|it| it.digest == digest);
        if is(&self.trial) {
            return Ok(Some(Standing::OnTrial));
        }
        if self.rejected.as_deref() == Some(digest) {
            return Ok(None);
        }
        let newest = self.trial.is_none() && is(&self.accepted);
        let late = !newest && (strange()? || (self.trial.is_some() && replaced()?));
        Ok((!late).then_some(Standing::Settled))
    }
}

/// What a contribution is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It stays.
    Settled,
    /// It may be undone.
    OnTrial,
}
