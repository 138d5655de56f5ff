//! Reads the whole audit record, and says whether it is as it was written.

use super::{Error, Journal};
use crate::audit::{Broken, Head, Recorded};

/// Entries that are read at once.
const PART: u32 = 1000;

/// Why the record cannot be vouched for.
#[derive(Debug, thiserror::Error)]
pub enum Unreviewed {
    /// It is not as it was written.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// It cannot be read.
    #[error(transparent)]
    Journal(#[from] Error),
}

/// Reads the record from its beginning; each entry that follows the one before is given to `each`. Answers where it
/// ends. A host may go on writing meanwhile.
///
/// # Errors
/// [`Unreviewed`], with the number of the entry.
pub async fn review(journal: &dyn Journal, mut each: impl FnMut(Recorded)) -> Result<Head, Unreviewed> {
    let mut seen = Head::default();
    loop {
        let part = journal.recorded(seen.count, PART).await?;
        let is_last = part.is_empty();
        for recorded in part {
            seen.follow(&recorded)?;
            each(recorded);
        }
        if !is_last {
            continue;
        }
        // Noted with the last entry, and read after it: what is noted is there.
        let noted = journal.record_head().await?;
        if noted == seen {
            return Ok(seen);
        }
        if noted.count == seen.count {
            return Err(Broken::Changed(seen.count).into());
        }
        let goes_on = !journal.recorded(seen.count, 1).await?.is_empty();
        if noted.count < seen.count || !goes_on {
            return Err(Broken::End { found: seen.count, noted: noted.count }.into());
        }
    }
}
