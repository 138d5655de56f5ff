//! What the version before would have made of an event at which the one on trial faults.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{health, ledger::AsBefore};
use crate::{
    capability::{
        answers::Recorder,
        media::{self, Failure, Files},
    },
    engine::{Call, Engine, Handling, Plugin},
    event::MediaSource,
    journal::{self, Journal},
    trial,
};

/// Whether the version before does better: it is called with what it remembered before the trial and what the other one has
/// learnt from outside, and with nothing that reaches anybody. Its permissions are those in `handling`. Where there is no
/// room to find out, it is taken to do no better.
pub(super) async fn does_better(
    engine: &Arc<Engine>,
    journal: &dyn Journal,
    before: &Arc<Plugin>,
    call: Call,
    handling: Handling,
) -> Result<bool, journal::Error> {
    let remembered = journal.remembered(&handling.agent, &handling.plugin, true).await?;
    let record = handling.record.rehearsal();
    let handling = Handling {
        kv: Arc::new(AsBefore::new(remembered)),
        permissions: Arc::new(handling.permissions.rehearsing()),
        media: Arc::new(Files::new(Arc::new(Nowhere(record.clone())))),
        drafts: None,
        spent: Arc::default(),
        record: record.clone(),
        ..handling
    };
    let Some((end, was_denied)) = engine.rehearse(before, call, handling).await else { return Ok(false) };
    // What was asked of nobody was denied as well.
    let was_denied = was_denied || !record.unknown().is_empty();
    Ok(trial::does_better(health::ended(&end), was_denied))
}

/// Where no file is fetched from.
struct Nowhere(Arc<Recorder>);

#[async_trait]
impl media::Source for Nowhere {
    async fn fetch(&self, _: &MediaSource, _: usize) -> Result<Bytes, Failure> {
        self.0.is_past("media: a file");
        Err(Failure::Gone("it is not fetched for this".into()))
    }
}
