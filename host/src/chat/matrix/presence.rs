//! Typing and read receipts: sent beside everything else, and nobody's trouble when they fail.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use matrix_sdk::{
    Client,
    ruma::{
        OwnedEventId, OwnedRoomId,
        api::client::{
            receipt::create_receipt,
            typing::create_typing_event::v3::{Request as TypingRequest, Typing, TypingInfo},
        },
    },
};
use tokio::{sync::watch, task::JoinSet};

use super::lock;

/// How long others show it when nothing more is heard; and when it is said again.
const TYPING_LASTS: Duration = Duration::from_secs(30);
const TYPING_AGAIN: Duration = Duration::from_secs(20);

/// The background of one account; what runs in it ends with it.
#[derive(Default)]
pub(super) struct Presence {
    tasks: Mutex<JoinSet<()>>,
    /// The rooms in which a task says that the agent is typing, and whether it still is.
    typing: Arc<Mutex<HashMap<OwnedRoomId, watch::Sender<bool>>>>,
}

impl Presence {
    pub fn typing(&self, client: &Client, room: OwnedRoomId, on: bool) {
        let mut typing = lock(&self.typing);
        if let Some(state) = typing.get(&room) {
            state.send_replace(on);
            return;
        }
        if !on {
            return;
        }
        let (state, mut changes) = watch::channel(true);
        typing.insert(room.clone(), state);
        let (client, rooms) = (client.clone(), self.typing.clone());
        self.spawn(async move {
            // However short it was: it is seen.
            say_typing(&client, &room, true).await;
            if *changes.borrow_and_update() {
                let _ = tokio::time::timeout(TYPING_AGAIN, changes.changed()).await;
            }
            loop {
                let on = *changes.borrow_and_update();
                say_typing(&client, &room, on).await;
                if on {
                    let _ = tokio::time::timeout(TYPING_AGAIN, changes.changed()).await;
                    continue;
                }
                let mut rooms = lock(&rooms);
                if !changes.has_changed().unwrap_or(false) {
                    rooms.remove(&room);
                    return;
                }
            }
        });
    }

    /// An unthreaded `m.read`: it is what clients show beside the message, in a thread too.
    pub fn read(&self, client: &Client, room: OwnedRoomId, event: OwnedEventId) {
        let client = client.clone();
        self.spawn(async move {
            let receipt = create_receipt::v3::ReceiptType::Read;
            if let Err(error) = client.send(create_receipt::v3::Request::new(room, receipt, event)).await {
                tracing::debug!(target: "parlour", "read receipt: {}", super::failure::describe(&error));
            }
        });
    }

    /// Ends all that runs.
    pub fn end(&self) {
        lock(&self.tasks).abort_all();
    }

    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(work);
    }
}

async fn say_typing(client: &Client, room: &OwnedRoomId, on: bool) {
    let Some(user) = client.user_id() else { return };
    let state = if on { Typing::Yes(TypingInfo::new(TYPING_LASTS)) } else { Typing::No };
    if let Err(error) = client.send(TypingRequest::new(user.to_owned(), room.clone(), state)).await {
        tracing::debug!(target: "parlour", "typing: {}", super::failure::describe(&error));
    }
}
