//! Timers: values. When they are due is decided in [`crate::rhythm`].

use serde::{Deserialize, Serialize};

use crate::{
    event::{Room, Sender},
    id::{EventId, PluginName, SessionId},
    settings::Role,
};

/// A timer that a plugin has set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timer {
    /// Which setting it is of: one that replaces it has another.
    pub id: String,
    /// Whose.
    pub plugin: PluginName,
    /// In which session it was set; it is seen there alone.
    pub session: SessionId,
    /// Its name there.
    pub key: String,
    /// Where it was set, as that room was then.
    pub room: Room,
    /// The thread's root, in a thread.
    pub thread: Option<EventId>,
    /// Whose event set it.
    pub sender: Sender,
    /// What the settings said of them then.
    pub role: Role,
    /// The plugin's own words.
    pub payload: String,
    /// Whether it comes again.
    pub rhythm: Rhythm,
    /// What becomes of what was missed.
    pub catch_up: CatchUp,
    /// When it is due next, in milliseconds since the Unix epoch.
    pub next: u64,
}

impl Timer {
    /// Whether one that was due, and that nobody could handle, comes back over what has its name by now. One that comes
    /// again has moved on meanwhile, and is gone where it was cancelled; any other is gone by itself. Of several times
    /// that nobody could handle it comes back for the first, and then for those after it.
    pub(crate) fn goes_back_over(&self, now: Option<&Self>) -> bool {
        match now {
            Some(now) => now.id == self.id && self.next < now.next,
            None => self.rhythm == Rhythm::Once,
        }
    }
}

/// Whether a timer comes again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rhythm {
    /// It does not.
    Once,
    /// It does.
    Every {
        /// Five fields.
        cron: String,
        /// The time zone in which they are read, by its IANA name.
        zone: String,
    },
}

/// What becomes of times that nobody kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CatchUp {
    /// They are left out.
    Skip,
    /// The last of them counts.
    Once,
    /// Each of them counts, up to a limit.
    All,
}

/// A timer that is due, as an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fired {
    /// As it was.
    pub timer: Timer,
    /// When it was due.
    pub due: u64,
    /// How many times before that were left out.
    pub missed: u32,
}
