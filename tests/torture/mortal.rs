//! A chat and a journal's watch that say which step they are at.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use parlour::{
    chat::{Attendance, Chat, Ended, Identity, MediaError, Opened, Past, SendError, StartError},
    effect::{Outgoing, Upload},
    event::{Batch, Event, MediaSource, Position},
    id::{EventId, RoomId, UserId},
};

use crate::{death::Death, watched::Watch};

pub struct MortalChat<C> {
    pub chat: C,
    pub death: Arc<Death>,
}

#[async_trait]
impl<C: Chat> Chat for MortalChat<C> {
    fn remember(&self, past: Arc<dyn Past>) {
        self.chat.remember(past);
    }

    async fn start(&self, from: Option<Position>) -> Result<Identity, StartError> {
        self.chat.start(from).await
    }

    async fn next(&self) -> Result<Batch, Ended> {
        let batch = self.chat.next().await?;
        // What a chat keeps for itself (matrix-sdk its keys) is stored by now.
        if !batch.events.is_empty() {
            self.death.at("received");
        }
        Ok(batch)
    }

    async fn send(&self, outgoing: &Outgoing) -> Result<EventId, SendError> {
        self.death.at("sending");
        let sent = self.chat.send(outgoing).await;
        if sent.is_ok() {
            self.death.at("answered");
        }
        sent
    }

    async fn media(&self, file: &MediaSource, most: usize) -> Result<Bytes, MediaError> {
        self.chat.media(file, most).await
    }

    async fn keys(&self) -> Option<BTreeSet<String>> {
        self.chat.keys().await
    }

    async fn open(&self, event: &Event) -> Opened {
        self.chat.open(event).await
    }

    async fn upload(&self, upload: &Upload) -> Result<MediaSource, SendError> {
        self.chat.upload(upload).await
    }

    fn ended(&self, event: &EventId) {
        self.chat.ended(event);
    }

    async fn attendance(&self, room: &RoomId) -> Attendance {
        self.chat.attendance(room).await
    }

    fn typing(&self, room: &RoomId, on: bool) {
        if on {
            self.death.at("started");
        }
        self.chat.typing(room, on);
    }

    fn read(&self, room: &RoomId, event: &EventId, thread: Option<&EventId>) {
        self.chat.read(room, event, thread);
    }

    async fn answer(&self, room: &RoomId, accept: bool) -> Result<(), SendError> {
        self.chat.answer(room, accept).await
    }

    async fn direct(&self, user: &UserId) -> Result<RoomId, SendError> {
        self.chat.direct(user).await
    }

    fn known_direct(&self, user: &UserId) -> Option<RoomId> {
        self.chat.known_direct(user)
    }
}

#[async_trait]
impl Watch for Arc<Death> {
    async fn looks_up(&self) {
        self.at("host call");
    }

    fn stored(&self) {
        self.at("stored");
    }

    async fn commits(&self) {
        self.at("ended");
    }

    fn committed(&self) {
        self.at("committed");
    }

    fn wants_notes(&self) -> bool {
        self.dies_at("noted")
    }

    fn noted(&self) {
        self.at("noted");
    }
}
