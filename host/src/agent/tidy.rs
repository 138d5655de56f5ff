//! The journal stays as large as what it is about: what nobody needs any more is put away, in small steps, beside all else.

use std::{sync::Arc, time::Duration};

use super::{Running, past};
use crate::{audit::now, backlog, journal::Tidy};

/// How long a draft is kept to which nobody comes back, in milliseconds: 30 days, as events are.
const DRAFTS: i64 = 30 * 24 * 60 * 60 * 1000;
/// Names of messages that a plugin has for one agent: the newest.
const NAMES: u32 = 10_000;
/// Things that the host has said by itself.
const ANNOUNCEMENTS: u32 = 1000;
/// So many rows of each kind go at once, so that nobody waits for it,
const STEP: u32 = 200;
/// and between two steps others have their turn.
const PAUSE: Duration = Duration::from_millis(50);
/// How often it is looked whether there is something.
const LOOK: Duration = Duration::from_secs(60);

impl Running {
    /// Puts away what there is, for as long as the agent serves.
    pub(super) async fn tidy(self: Arc<Self>) {
        let (name, journal) = (&self.agent.name, &self.shared.journal);
        loop {
            // What is older than anything that is answered.
            let before = backlog::horizon(&self.agent.behaviour, past::now());
            let forgotten = journal.forget(name, before, STEP).await;
            let tidy = Tidy {
                drafts_before: now().saturating_sub(DRAFTS),
                names: NAMES,
                announcements: ANNOUNCEMENTS,
                step: STEP,
            };
            // A journal that fails now is asked again then.
            let more = journal.tidy(name, tidy).await.unwrap_or(false);
            tokio::time::sleep(if more || matches!(forgotten, Ok(STEP)) { PAUSE } else { LOOK }).await;
        }
    }
}
