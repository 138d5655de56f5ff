//! Files of a chat as the capability `media` reads them.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    capability::media::{Failure, Source},
    chat::{Chat, MediaError},
    event::MediaSource,
};

/// Longer than any chat of ours takes for a file, and half of what a call may take.
const WITHIN: Duration = Duration::from_secs(15 * 60);

/// Asked while a handler runs.
pub(super) struct FromChat(pub Arc<dyn Chat>);

#[async_trait::async_trait]
impl Source for FromChat {
    async fn fetch(&self, file: &MediaSource, most: usize) -> Result<Bytes, Failure> {
        let late = |_| MediaError::Later { after: None, reason: "it did not come within 15 minutes".into() };
        let fetched = tokio::time::timeout(WITHIN, self.0.media(file, most)).await;
        fetched.map_err(late).flatten().map_err(|error| match error {
            MediaError::TooLarge => Failure::TooLarge,
            MediaError::Altered => Failure::Altered,
            MediaError::Gone { reason } => Failure::Gone(reason),
            MediaError::Later { after, reason } => Failure::Later { after, reason },
        })
    }
}
