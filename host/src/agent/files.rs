//! Files of a chat as the capability `media` reads them.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    capability::media::{Failure, Source},
    chat::{Chat, MediaError},
    event::MediaSource,
};

/// Asked while a handler runs.
pub(super) struct FromChat(pub Arc<dyn Chat>);

#[async_trait::async_trait]
impl Source for FromChat {
    async fn fetch(&self, file: &MediaSource, most: usize) -> Result<Bytes, Failure> {
        self.0.media(file, most).await.map_err(|error| match error {
            MediaError::TooLarge => Failure::TooLarge,
            MediaError::Altered => Failure::Altered,
            MediaError::Gone { reason } => Failure::Gone(reason),
            MediaError::Later { after, reason } => Failure::Later { after, reason },
        })
    }
}
