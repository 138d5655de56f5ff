//! Writes what was counted and noted into the audit record, beside everything else that happens.

use std::sync::Arc;

use crate::{
    backoff::Backoff,
    journal::Journal,
    notice::{Notice, Notices},
    tally::Tally,
};

/// Writes until the future is dropped.
pub async fn follow(tally: Arc<Tally>, journal: Arc<dyn Journal>, notices: Notices) {
    let mut backoff = Backoff::default();
    loop {
        tally.due().await;
        if let Err(reason) = write(&tally, &*journal, false).await {
            notices.say(Notice::Journal { reason });
            tokio::time::sleep(backoff.next(None)).await;
        } else {
            backoff = Backoff::default();
        }
    }
}

/// Writes what is to be written by now, or all of it.
///
/// # Errors
/// The storage failed: it is kept, and may be written later.
pub async fn write(tally: &Tally, journal: &dyn Journal, all: bool) -> Result<(), String> {
    let entries = tally.take(all);
    if entries.is_empty() {
        return Ok(());
    }
    journal.record(entries.clone()).await.map_err(|error| {
        tally.put_back(entries);
        error.to_string()
    })
}
