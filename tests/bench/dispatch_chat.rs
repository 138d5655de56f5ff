//! A chat for the benchmark: it hands over one event at a time, and notes when it is told to send the answer.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use async_trait::async_trait;
use parlour::{
    chat::{Chat, Ended, Identity, SendError, StartError, memory::message},
    effect::{Content, Outgoing},
    event::{Batch, DeviceTrust, Event, Kind, Position, Room, Sender},
    id::{EventId, RoomId, UserId},
};
use tokio::sync::{Mutex, mpsc};

pub struct Loop {
    /// The first batch was handed over, which has nothing in it.
    begun: AtomicBool,
    events: Mutex<mpsc::Receiver<Batch>>,
    answers: mpsc::Sender<(String, Instant)>,
}

/// Who asks.
pub struct Person {
    events: mpsc::Sender<Batch>,
    answers: mpsc::Receiver<(String, Instant)>,
    count: u64,
}

impl Loop {
    pub fn new() -> (Self, Person) {
        let (say, events) = mpsc::channel(1);
        let (answers, hear) = mpsc::channel(1);
        (
            Self { begun: AtomicBool::default(), events: Mutex::new(events), answers },
            Person { events: say, answers: hear, count: 0 },
        )
    }
}

impl Person {
    /// Asks, and answers what was sent and when.
    pub async fn ask(&mut self, text: &str) -> anyhow::Result<(String, Instant)> {
        self.count += 1;
        let event = Event {
            id: EventId::parse(format!("$event-{}", self.count))?,
            room: Room { id: RoomId::parse("!room")?, direct: true, encrypted: false },
            sender: Sender {
                id: UserId::parse("@alice:bench")?,
                display_name: None,
                device: DeviceTrust::Cleartext,
            },
            sent: u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?,
            mark: None,
            kind: Kind::Message(message(text)),
            reading: parlour::event::Reading::AtOnce,
        };
        let batch = Batch::new(vec![event], vec![], Position(self.count.to_string()));
        self.events.send(batch).await.context("the host listens")?;
        self.answers.recv().await.context("the host answers")
    }
}

#[async_trait]
impl Chat for Loop {
    async fn start(&self, _: Option<Position>) -> Result<Identity, StartError> {
        Ok(Identity {
            user: UserId::parse("@agent:bench").map_err(|error| StartError::new(error.to_string()))?,
            display_name: None,
        })
    }

    async fn next(&self) -> Result<Batch, Ended> {
        if !self.begun.swap(true, Relaxed) {
            return Ok(Batch::new(vec![], vec![], Position("0".into())));
        }
        self.events.lock().await.recv().await.ok_or(Ended::Closed)
    }

    async fn send(&self, outgoing: &Outgoing) -> Result<EventId, SendError> {
        let now = Instant::now();
        if let Content::Message { body, .. } = &outgoing.content {
            drop(self.answers.send((body.text().to_owned(), now)).await);
        }
        EventId::parse(format!("${}", outgoing.transaction.as_str()))
            .map_err(|error| SendError::Final { code: "bench".into(), reason: error.to_string() })
    }

    fn typing(&self, _: &RoomId, _: bool) {}

    fn read(&self, _: &RoomId, _: &EventId, _: Option<&EventId>) {}

    async fn answer(&self, _: &RoomId, _: bool) -> Result<(), SendError> {
        Ok(())
    }

    async fn direct(&self, _: &UserId) -> Result<RoomId, SendError> {
        RoomId::parse("!room")
            .map_err(|error| SendError::Final { code: "bench".into(), reason: error.to_string() })
    }
}
