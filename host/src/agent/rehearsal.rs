//! What the version before would have made of an event at which the one on trial faults.

use std::sync::Arc;

use super::{health, ledger::AsBefore};
use crate::{
    engine::{Call, Engine, Handling, Plugin},
    journal::{self, Journal},
    trial,
};

/// Whether the version before does better: it is called with what it remembered before the trial, and with nothing that
/// reaches anybody. Its permissions are those in `handling`.
pub(super) async fn does_better(
    engine: &Arc<Engine>,
    journal: &dyn Journal,
    before: &Arc<Plugin>,
    call: Call,
    handling: Handling,
) -> Result<bool, journal::Error> {
    let remembered = journal.remembered(&handling.agent, &handling.plugin, true).await?;
    let handling = Handling {
        kv: Arc::new(AsBefore::new(remembered)),
        permissions: Arc::new(handling.permissions.rehearsing()),
        drafts: None,
        llm: None,
        spent: Arc::default(),
        ..handling
    };
    let (end, was_denied) = engine.rehearse(before, call, handling).await;
    Ok(trial::does_better(health::ended(&end), was_denied))
}
