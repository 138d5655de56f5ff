//! What every chat promises: rooms in memory, the terminal, and a Matrix account keep the same words.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use parlour::{
    chat::{
        Chat, SendError,
        console::Console,
        matrix::{Account, Matrix, Secret},
        memory::Rooms,
    },
    effect::{Body, Content, Outgoing},
    event::{Event, Kind, Position},
    id::{RoomId, TransactionId, UserId},
    notice::Notices,
    settings::Encryption,
};
use serde_json::json;
use tokio::sync::mpsc;

use crate::synapse::{NewRoom, Synapse, api::Login, unique};

const PATIENCE: Duration = Duration::from_secs(60);

/// An agent's account, a person, and the room that they share.
#[async_trait]
trait Stand: Send + Sync {
    /// The agent's chat, as a new process has it. The one before has ended.
    fn chat(&self) -> Arc<dyn Chat>;
    fn room(&self) -> RoomId;
    fn person(&self) -> UserId;
    /// The person writes.
    async fn say(&self, text: &str);
    /// The texts in the room as the person reads them, after all edits; what was removed is not there.
    async fn texts(&self) -> Vec<String>;
}

async fn everything(stand: &dyn Stand) {
    stand.say("before the first contact").await;
    let chat = stand.chat();
    let own = chat.start(None).await.unwrap().user;

    // History is not handed over; what comes then is, with a position.
    stand.say("first").await;
    let (first, position) = said(&*chat, "first").await;
    assert_eq!(first.room.id, stand.room());
    assert_ne!(first.sender.id, own);
    assert_eq!(first.mark, None);

    // Giving up a wait loses nothing.
    let waited = tokio::time::timeout(Duration::from_millis(50), chat.next()).await;
    assert!(waited.is_err(), "nothing has happened");
    stand.say("second").await;
    let (second, _) = said(&*chat, "second").await;

    // One transaction id, one message; and the agent knows its own words.
    let hello = message("t1", &stand.room(), "hello");
    let sent = chat.send(&hello).await.unwrap();
    assert_eq!(chat.send(&hello).await.unwrap(), sent);
    let (echo, _) = said(&*chat, "hello").await;
    assert_eq!((echo.id, echo.sender.id), (sent.clone(), own.clone()));
    assert_eq!(echo.mark.as_deref(), Some("mark-t1"));
    assert_eq!(stand.texts().await.iter().filter(|text| *text == "hello").count(), 1);

    // An edit changes the text, a redaction removes it, a reaction is taken.
    let edit = Content::Edit { event: sent.clone(), body: Body::Markdown("*changed*".into()) };
    chat.send(&outgoing("t2", &stand.room(), edit)).await.unwrap();
    assert!(!stand.texts().await.contains(&"hello".to_owned()));
    let reaction = Content::Reaction { event: second.id.clone(), key: "👍".into() };
    chat.send(&outgoing("t3", &stand.room(), reaction)).await.unwrap();
    let gone = chat.send(&message("t4", &stand.room(), "gone")).await.unwrap();
    chat.send(&outgoing("t5", &stand.room(), Content::Redaction { event: gone, reason: None }))
        .await
        .unwrap();
    assert!(!stand.texts().await.contains(&"gone".to_owned()));

    // A message goes to its thread.
    let body = Body::Plain("in the thread".into());
    let threaded = Content::Message { body, thread: Some(second.id.clone()), reply_to: None };
    chat.send(&outgoing("t6", &stand.room(), threaded)).await.unwrap();
    let (threaded, _) = said(&*chat, "in the thread").await;
    let Kind::Message(threaded) = threaded.kind else { unreachable!("a message was sent") };
    assert_eq!(threaded.thread, Some(second.id));

    // What can never go is final.
    let nowhere = RoomId::parse("!nowhere:hs.test").unwrap();
    assert!(matches!(chat.send(&message("t7", &nowhere, "hello")).await, Err(SendError::Final { .. })));
    let secret = Outgoing { must_encrypt: true, ..message("t8", &stand.room(), "in clear") };
    assert!(matches!(chat.send(&secret).await, Err(SendError::Final { .. })));
    assert!(!stand.texts().await.contains(&"in clear".to_owned()));

    // There is one direct chat with a person, at once and later.
    let direct = chat.direct(&stand.person()).await.unwrap();
    assert_eq!(chat.direct(&stand.person()).await.unwrap(), direct);
    chat.send(&message("t9", &direct, "to you alone")).await.unwrap();
    let (alone, _) = said(&*chat, "to you alone").await;
    assert_eq!(alone.room.id, direct);
    assert_eq!(chat.known_direct(&stand.person()), Some(direct.clone()));
    assert_eq!(chat.direct(&stand.person()).await.unwrap(), direct);
    drop(chat);

    // A chat that is started from a position hands over what came after it, and nothing before.
    stand.say("while away").await;
    let chat = stand.chat();
    chat.start(Some(position)).await.unwrap();
    let texts = collected(&*chat, "while away").await;
    assert!(texts.contains(&"second".to_owned()) && !texts.contains(&"first".to_owned()), "{texts:?}");
    assert_eq!(texts.iter().filter(|text| *text == "while away").count(), 1);
    assert_eq!(chat.direct(&stand.person()).await.unwrap(), direct);
}

/// Reads until somebody says this.
async fn said(chat: &dyn Chat, text: &str) -> (Event, Position) {
    let read = async {
        loop {
            let batch = chat.next().await.unwrap();
            for event in batch.events {
                assert_ne!(words(&event), Some("before the first contact"), "history is handed over");
                if words(&event) == Some(text) {
                    return (event, batch.position);
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, read).await.unwrap_or_else(|_| panic!("nobody said {text:?}"))
}

async fn collected(chat: &dyn Chat, last: &str) -> Vec<String> {
    let mut texts = Vec::new();
    let read = async {
        while !texts.iter().any(|text| text == last) {
            let batch = chat.next().await.unwrap();
            texts.extend(batch.events.iter().filter_map(words).map(str::to_owned));
        }
    };
    tokio::time::timeout(PATIENCE, read).await.unwrap_or_else(|_| panic!("nobody said {last:?}"));
    texts
}

fn words(event: &Event) -> Option<&str> {
    match &event.kind {
        Kind::Message(message) => Some(&message.text),
        Kind::Member(_) | Kind::Timer(_) => None,
    }
}

fn message(transaction: &str, room: &RoomId, text: &str) -> Outgoing {
    outgoing(
        transaction,
        room,
        Content::Message { body: Body::Plain(text.into()), thread: None, reply_to: None },
    )
}

fn outgoing(transaction: &str, room: &RoomId, content: Content) -> Outgoing {
    Outgoing {
        room: room.clone(),
        transaction: TransactionId::parse(transaction).unwrap(),
        mark: format!("mark-{transaction}"),
        must_encrypt: false,
        content,
    }
}

const AGENT: &str = "@agent:memory";
const ALICE: &str = "@alice:memory";

fn texts(rooms: &Rooms, room: &RoomId) -> Vec<String> {
    rooms.transcript(room).into_iter().filter(|line| !line.redacted).map(|line| line.text).collect()
}

struct InMemory(Rooms, RoomId);

#[async_trait]
impl Stand for InMemory {
    fn chat(&self) -> Arc<dyn Chat> {
        Arc::new(self.0.account(AGENT))
    }

    fn room(&self) -> RoomId {
        self.1.clone()
    }

    fn person(&self) -> UserId {
        ALICE.parse().unwrap()
    }

    async fn say(&self, text: &str) {
        self.0.say(ALICE, &self.1, text);
    }

    async fn texts(&self) -> Vec<String> {
        texts(&self.0, &self.1)
    }
}

#[tokio::test]
async fn rooms_in_memory() {
    let rooms = Rooms::new();
    let room = rooms.create([ALICE, AGENT]);
    everything(&InMemory(rooms, room)).await;
}

/// A terminal at which nobody types: the person writes into its room, which outlives it.
struct Terminal(Rooms, RoomId, Mutex<Vec<mpsc::Sender<String>>>);

#[async_trait]
impl Stand for Terminal {
    fn chat(&self) -> Arc<dyn Chat> {
        let (typing, lines) = mpsc::channel(1);
        self.2.lock().unwrap().push(typing);
        let (agent, alice): (UserId, UserId) = (AGENT.parse().unwrap(), ALICE.parse().unwrap());
        Arc::new(Console::in_room(&self.0, &self.1, &agent, &alice, lines, |_| {}))
    }

    fn room(&self) -> RoomId {
        self.1.clone()
    }

    fn person(&self) -> UserId {
        ALICE.parse().unwrap()
    }

    async fn say(&self, text: &str) {
        self.0.say(ALICE, &self.1, text);
    }

    async fn texts(&self) -> Vec<String> {
        texts(&self.0, &self.1)
    }
}

#[tokio::test]
async fn the_terminal() {
    let rooms = Rooms::new();
    let room = rooms.create_direct(ALICE, AGENT);
    everything(&Terminal(rooms, room, Mutex::default())).await;
}

struct OnMatrix {
    synapse: &'static Synapse,
    account: Account,
    alice: Login,
    room: RoomId,
    _store: tempfile::TempDir,
}

#[async_trait]
impl Stand for OnMatrix {
    fn chat(&self) -> Arc<dyn Chat> {
        Arc::new(Matrix::new(self.account.clone(), Notices::default()))
    }

    fn room(&self) -> RoomId {
        self.room.clone()
    }

    fn person(&self) -> UserId {
        self.alice.user.parse().unwrap()
    }

    async fn say(&self, text: &str) {
        let content = json!({ "msgtype": "m.text", "body": text });
        self.synapse
            .send_event(&self.alice.token, self.room.as_str(), "m.room.message", content)
            .await
            .unwrap();
    }

    async fn texts(&self) -> Vec<String> {
        let events = self.synapse.messages(&self.alice.token, self.room.as_str()).await.unwrap();
        let relation = |event: &serde_json::Value| event["content"]["m.relates_to"]["rel_type"].clone();
        let edited: Vec<(String, String)> = events
            .iter()
            .filter(|event| relation(event) == "m.replace")
            .map(|edit| {
                (&edit["content"]["m.relates_to"]["event_id"], &edit["content"]["m.new_content"]["body"])
            })
            .map(|(id, body)| (id.as_str().unwrap().to_owned(), body.as_str().unwrap().to_owned()))
            .collect();
        let text = |event: &serde_json::Value| {
            let last = edited.iter().rev().find(|(id, _)| event["event_id"] == *id);
            last.map(|(_, body)| body.clone())
                .or_else(|| event["content"]["body"].as_str().map(str::to_owned))
        };
        events.iter().filter(|event| relation(event) != "m.replace").filter_map(text).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_matrix_account() {
    let synapse = Synapse::shared().await.unwrap();
    let alice = synapse.account("alice").await.unwrap();
    let name = unique("agent");
    let user = synapse.register(&name, "a password").await.unwrap();
    let room = NewRoom { invite: vec![user.clone()], ..NewRoom::default() };
    let room = synapse.create_room(&alice.token, &room).await.unwrap();
    let joined = synapse.login(&user, "a password").await.unwrap();
    synapse.join(&joined.token, &room).await.unwrap();
    let store = tempfile::tempdir().unwrap();
    let account = Account {
        agent: "agent".parse().unwrap(),
        homeserver: synapse.base_url().to_owned(),
        user: Some(user.parse().unwrap()),
        secret: Secret::Password("a password".into()),
        device_id: None,
        device_name: "Parlour".into(),
        encryption: Encryption::AsRoom,
        recovery_key: None,
        store: store.path().join("agent"),
    };
    let room: RoomId = room.parse().unwrap();
    everything(&OnMatrix { synapse, account, alice, room, _store: store }).await;
}
