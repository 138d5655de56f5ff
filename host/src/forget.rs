//! What is kept of events that have ended goes when its time is over, in small steps, beside everything else that happens.

use std::time::Duration;

use crate::{agent::Shared, capability::answers::now, notice::Notice};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(10);
/// Deliveries that are forgotten in one write: others wait for it,
const STEP: u32 = 200;
/// and between two of them they have their turn.
const PAUSE: Duration = Duration::from_millis(50);
/// Bytes that are kept of all events together, however short their time: some hundred thousand events, and less than what
/// anybody misses on a disk.
const MOST: u64 = 256 * 1024 * 1024;

/// Forgets until the future is dropped.
pub async fn follow(shared: Shared, keep: Duration) {
    let keep = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
    loop {
        match shared.journal.forget_records(now(&shared.clock).saturating_sub(keep), MOST, STEP).await {
            Ok(STEP) => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Ok(0) => {}
            Ok(_) => shared.registry.tidy().await,
            Err(error) => shared.notices.say(Notice::Journal { reason: error.to_string() }),
        }
        tokio::time::sleep(EVERY).await;
    }
}
