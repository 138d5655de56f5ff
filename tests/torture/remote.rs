//! A chat whose rooms are in another process, and outlive this one.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use async_trait::async_trait;
use parlour::{
    chat::{Chat, Ended, Identity, SendError, StartError},
    effect::Outgoing,
    event::{Batch, Position},
    id::{EventId, RoomId, UserId},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use crate::wire::{Answer, Call, Request, Response};

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Answer>>>>;

pub struct Remote {
    asks: mpsc::UnboundedSender<String>,
    waiting: Waiting,
    number: AtomicU64,
    /// The next batch: asked for once, however often whoever waits for it gives up.
    next: tokio::sync::Mutex<Option<JoinHandle<Answer>>>,
}

impl Remote {
    pub async fn connect(socket: &Path) -> std::io::Result<Self> {
        let (read, mut write) = UnixStream::connect(socket).await?.into_split();
        let (asks, mut asked) = mpsc::unbounded_channel::<String>();
        tokio::spawn(async move {
            while let Some(line) = asked.recv().await {
                if write.write_all(line.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
        let waiting = Waiting::default();
        let answered = waiting.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(read).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let Response { number, answer } = serde_json::from_str(&line).expect("a response");
                let waiting = answered.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
                if let Some(waiting) = waiting {
                    drop(waiting.send(answer));
                }
            }
            // Whoever plays the rooms is gone: nothing is answered any more.
            answered.lock().unwrap_or_else(PoisonError::into_inner).clear();
        });
        Ok(Self { asks, waiting, number: AtomicU64::new(0), next: tokio::sync::Mutex::default() })
    }

    fn ask(&self, call: Call) -> impl Future<Output = Answer> + Send + use<> {
        let number = self.number.fetch_add(1, Relaxed);
        let (answer, answered) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(number, answer);
        let line = serde_json::to_string(&Request { number, call }).expect("a request") + "\n";
        drop(self.asks.send(line));
        async { answered.await.unwrap_or(Answer::Over) }
    }
}

#[async_trait]
impl Chat for Remote {
    async fn start(&self, from: Option<Position>) -> Result<Identity, StartError> {
        match self.ask(Call::Start(from)).await {
            Answer::Started(user) => Ok(Identity { user, display_name: None }),
            _ => Err(StartError::new("the rooms are closed")),
        }
    }

    async fn next(&self) -> Result<Batch, Ended> {
        let mut next = self.next.lock().await;
        let coming = next.get_or_insert_with(|| tokio::spawn(self.ask(Call::Next)));
        let answer = coming.await.unwrap_or(Answer::Over);
        *next = None;
        answer.into_batch().ok_or(Ended::Closed)
    }

    async fn send(&self, outgoing: &Outgoing) -> Result<EventId, SendError> {
        match self.ask(Call::Send(outgoing.clone())).await {
            Answer::Sent(event) => Ok(event),
            other => Err(other.error()),
        }
    }

    fn typing(&self, _: &RoomId, _: bool) {}

    fn read(&self, _: &RoomId, _: &EventId, _: Option<&EventId>) {}

    async fn answer(&self, room: &RoomId, accept: bool) -> Result<(), SendError> {
        match self.ask(Call::Answer(room.clone(), accept)).await {
            Answer::Done => Ok(()),
            other => Err(other.error()),
        }
    }

    async fn direct(&self, user: &UserId) -> Result<RoomId, SendError> {
        match self.ask(Call::Direct(user.clone())).await {
            Answer::Room(room) => Ok(room),
            other => Err(other.error()),
        }
    }
}
