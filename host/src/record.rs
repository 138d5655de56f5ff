//! Writes what was counted and noted into the audit record, beside everything else that happens.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::{
    backoff::Backoff,
    journal::Journal,
    notice::{Notice, Notices},
    tally::Tally,
};

/// Writes until `stop`; what it has begun to write by then is written.
pub async fn follow(tally: Arc<Tally>, journal: Arc<dyn Journal>, notices: Notices, stop: CancellationToken) {
    let mut backoff = Backoff::default();
    loop {
        tokio::select! {
            () = tally.due() => {}
            () = stop.cancelled() => return,
        }
        if let Err(reason) = write(&tally, &*journal, false).await {
            notices.say(Notice::Journal { reason });
            tokio::select! {
                () = tokio::time::sleep(backoff.next(None)) => {}
                () = stop.cancelled() => return,
            }
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
