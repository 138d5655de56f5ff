//! What is said in an encrypted room stays there: one test for each way out. (The web is in `http`, files in `files`.)

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use parlour::{
    Agent,
    chat::memory::{Line, Rooms, message},
    event::{Attachment, AttachmentKind, Message},
    id::RoomId,
    llm,
    notice::Notice,
    settings::{Grants, LlmGrant, Media, Plugin},
};

use crate::{
    guests::{example, guest},
    stage::{AGENT, ALICE, BOB, Stage, access},
};

/// A host that grants `deeds` all there is, with consent or without; and two encrypted rooms.
struct Scene {
    stage: Stage,
    sealed: RoomId,
    other: RoomId,
    asked: Arc<Mutex<Vec<String>>>,
}

/// A model that hears.
struct Hears(Arc<Mutex<Vec<String>>>);

#[async_trait]
impl llm::Backend for Hears {
    async fn ask(&self, request: llm::Request) -> Result<Box<dyn llm::Answer>, llm::Failure> {
        self.0.lock().unwrap().extend(request.turns.into_iter().map(|turn| turn.text));
        Err(llm::Failure::Unavailable("it only hears".into()))
    }
}

async fn scene(encrypted: bool) -> Scene {
    let all = || ["*".to_owned()].into();
    let grants = Grants {
        home: true,
        llm: Some(LlmGrant::default()),
        rooms: all(),
        people: all(),
        encrypted,
        ..Grants::default()
    };
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let hears = Hears(asked.clone());
    let guests = [
        ("deeds", guest("deeds")),
        ("naughty", guest("naughty")),
        ("sethome", example("sethome")),
        ("echo", example("echo")),
    ];
    let stage = Stage::start(&guests, |builder| {
        let plugin = |grants| Plugin { grants, ..Plugin::default() };
        let home = Grants { home: true, ..Grants::default() };
        builder
            .llm(hears)
            .plugin_settings("deeds".parse().unwrap(), plugin(grants))
            .plugin_settings("sethome".parse().unwrap(), plugin(home))
    })
    .await;
    let [sealed, other] = [0, 1].map(|_| {
        let room = stage.rooms.create_direct(ALICE, AGENT);
        stage.rooms.encrypt(&room);
        room
    });
    Scene { stage, sealed, other, asked }
}

const DENIED: &str = "what is said in an encrypted room would leave it";

impl Scene {
    /// Alice asks in the first encrypted room.
    async fn ask(&self, text: &str) -> String {
        self.stage.ask_as(ALICE, &self.sealed, text).await
    }

    /// Whether words get out by this: it is denied and said without consent, and comes to be with it.
    async fn leaves_by_consent(ask: impl AsyncFn(&Scene) -> String, out: impl AsyncFn(&Scene)) {
        let without = scene(false).await;
        let said = ask(&without).await;
        let answer = without.ask(&said).await;
        assert!(answer.contains(DENIED), "{said}: {answer}");
        without.stage.noticed(DENIED).await;
        assert_eq!(without.stage.ask("/echo still here").await, "still here");

        let with = scene(true).await;
        let said = ask(&with).await;
        with.stage.rooms.say(ALICE, &with.sealed, &said);
        out(&with).await;
    }

    async fn heard(&self, room: &RoomId) {
        self.stage.until(room, |lines| lines.iter().any(|line| line.text == "words")).await;
    }
}

#[tokio::test]
async fn another_room_hears_it_by_consent() {
    Scene::leaves_by_consent(
        async |scene| format!("/room {} words", scene.stage.room),
        async |scene| scene.heard(&scene.stage.room).await,
    )
    .await;
    // Another encrypted room is another room.
    Scene::leaves_by_consent(
        async |scene| format!("/room {} words", scene.other),
        async |scene| scene.heard(&scene.other).await,
    )
    .await;
}

#[tokio::test]
async fn a_person_hears_it_by_consent() {
    Scene::leaves_by_consent(
        async |_| format!("/direct {BOB} words"),
        async |scene| {
            let room = scene.stage.rooms.create_direct(BOB, AGENT);
            scene.stage.rooms.say(ALICE, &scene.sealed, &format!("/direct {BOB} words"));
            scene.heard(&room).await;
        },
    )
    .await;
}

#[tokio::test]
async fn the_home_hears_it_by_consent() {
    Scene::leaves_by_consent(
        async |scene| {
            assert!(scene.stage.ask("/sethome").await.contains("home"));
            "/home words".into()
        },
        async |scene| scene.heard(&scene.stage.room).await,
    )
    .await;
    // At home, it is where it was said.
    let scene = scene(false).await;
    scene.ask("/sethome").await;
    assert_eq!(scene.ask("/home words").await, "words");
}

#[tokio::test]
async fn a_message_elsewhere_is_edited_by_consent() {
    Scene::leaves_by_consent(
        async |scene| {
            scene.stage.ask("/edit before").await;
            "/rename words".into()
        },
        async |scene| scene.heard(&scene.stage.room).await,
    )
    .await;
}

/// Which of its messages elsewhere are removed could spell words.
#[tokio::test]
async fn a_message_elsewhere_is_removed_by_consent() {
    Scene::leaves_by_consent(
        async |scene| {
            let asked = scene.stage.rooms.say(ALICE, &scene.stage.room, "/count");
            format!("/remove {}", scene.stage.answer_to(&scene.stage.room, &asked).await.id)
        },
        async |scene| {
            scene.stage.until(&scene.stage.room, |lines| lines.iter().any(|line| line.redacted)).await;
        },
    )
    .await;
}

/// A name that is given to a message is a text that could be asked for elsewhere.
#[tokio::test]
async fn a_name_that_was_given_in_an_encrypted_room_is_known_there() {
    for encrypted in [false, true] {
        let scene = scene(encrypted).await;
        scene.stage.rooms.say(ALICE, &scene.sealed, "/edit named");
        scene.stage.until(&scene.sealed, |lines| lines.iter().any(|line| line.text == "named")).await;
        scene.stage.rooms.say(ALICE, &scene.sealed, "/rename again");
        scene.stage.until(&scene.sealed, |lines| lines.iter().any(|line| line.text == "again")).await;
        if encrypted {
            scene.stage.rooms.say(ALICE, &scene.stage.room, "/rename from elsewhere");
            let there = |lines: &[Line]| lines.iter().any(|line| line.text == "from elsewhere");
            scene.stage.until(&scene.sealed, there).await;
        } else {
            let unknown = "/rename: this plugin gave no message that name";
            assert_eq!(scene.stage.ask("/rename from elsewhere").await, unknown);
        }
    }
}

/// One that was made, and one that came.
#[tokio::test]
async fn a_file_leaves_by_consent() {
    for encrypted in [false, true] {
        let all = || ["*".to_owned()].into();
        let grants = Grants {
            media: Some(Media::default()),
            rooms: all(),
            people: all(),
            encrypted,
            ..Grants::default()
        };
        let stage = Stage::start(&[("media", guest("media"))], |builder| {
            builder.plugin_settings("media".parse().unwrap(), Plugin { grants, ..Plugin::default() })
        })
        .await;
        let sealed = stage.rooms.create_direct(ALICE, AGENT);
        stage.rooms.encrypt(&sealed);
        let bobs = stage.rooms.create_direct(BOB, AGENT);
        let note = Attachment {
            kind: AttachmentKind::File,
            name: "note.txt".into(),
            mime: None,
            size: None,
            duration: None,
            source: Some(stage.rooms.keep("words")),
        };
        let mut arrived = 0;
        for (to, room) in [(stage.room.as_str(), &stage.room), (BOB, &bobs)] {
            for attachments in [vec![], vec![note.clone()]] {
                let text = format!("/send {to} words");
                let asked = stage.rooms.post(ALICE, &sealed, Message { attachments, ..message(&text) });
                let answer = stage.answer_to(&sealed, &asked).await.text;
                assert_eq!(answer == "sent", encrypted, "{answer}");
                assert_eq!(answer.contains(DENIED), !encrypted, "{answer}");
                let files = |lines: &[Line]| lines.iter().filter(|line| line.file.is_some()).count();
                if encrypted {
                    arrived += 1;
                    stage.until(room, |lines| files(lines) == 1 + (arrived - 1) % 2).await;
                }
            }
        }
        assert_eq!(stage.rooms.files(), 1 + arrived);
        // Where it was said it stays.
        let asked = stage.rooms.say(ALICE, &sealed, "/send here words");
        assert!(stage.answer_to(&sealed, &asked).await.file.is_some());
    }
}

#[tokio::test]
async fn a_model_is_asked_by_consent() {
    Scene::leaves_by_consent(
        async |_| "/model words".into(),
        async |scene| {
            scene.stage.noticed("it only hears").await;
            assert_eq!(*scene.asked.lock().unwrap(), ["words"]);
        },
    )
    .await;
}

#[tokio::test]
async fn a_tool_hears_it_by_consent() {
    for encrypted in [false, true] {
        let guests = [("caller", guest("handy")), ("handy", guest("handy"))];
        let tools = ["*".to_owned()].into();
        let grants = Grants { tools, encrypted, ..Grants::default() };
        let rooms = Rooms::new();
        let room = rooms.create_direct(ALICE, AGENT);
        let agent = Agent::new("agent".parse().unwrap(), rooms.account(AGENT)).access(access());
        let agent = agent.plugins(vec!["caller", "handy"]);
        let stage = Stage::start_with(rooms, room.clone(), agent, &guests, |builder| {
            builder.plugin_settings("caller".parse().unwrap(), Plugin { grants, ..Plugin::default() })
        })
        .await;
        stage.rooms.encrypt(&room);
        let answer = stage.ask(r#"/use handy.answer {"text":"words"}"#).await;
        assert_eq!(answer == "words", encrypted, "{answer}");
        assert_eq!(answer.contains("(`tools`)"), !encrypted, "{answer}");
    }
}

/// What a plugin remembers for itself and for a person splits.
#[tokio::test]
async fn what_is_remembered_in_an_encrypted_room_is_remembered_there() {
    for of in ["plugin", "user"] {
        let Scene { stage, sealed, other, .. } = scene(false).await;
        let clear = stage.room.clone();
        let ask =
            async |room: &RoomId, text: &str| stage.ask_as(ALICE, room, &format!("/store {of} {text}")).await;
        ask(&clear, "set a clear").await;
        ask(&clear, "set b clear").await;
        assert_eq!(ask(&sealed, "get a").await, "clear", "what was said in clear is read everywhere");
        ask(&sealed, "set a sealed").await;
        ask(&sealed, "set c sealed").await;
        ask(&sealed, "delete b").await;
        for (room, seen, keys) in [
            (&sealed, ["sealed", "nothing", "sealed"], "[a c]"),
            (&clear, ["clear", "clear", "nothing"], "[a b]"),
            (&other, ["clear", "clear", "nothing"], "[a b]"),
        ] {
            for (key, expected) in ["a", "b", "c"].into_iter().zip(seen) {
                assert_eq!(ask(room, &format!("get {key}")).await, expected, "{of} {key} in {room}");
            }
            assert_eq!(ask(room, "list 10").await, keys, "{of} in {room}");
            assert_eq!(ask(room, "list 1").await, "[a]");
        }
        // What was deleted there can be set again.
        ask(&sealed, "set b again").await;
        assert_eq!(ask(&sealed, "get b").await, "again");
        ask(&sealed, "delete b").await;
        assert_eq!(ask(&sealed, "get b").await, "nothing");
        assert_eq!(ask(&clear, "get b").await, "clear");
        // A list goes on behind what is gone.
        for key in ["a", "c"] {
            ask(&sealed, &format!("delete {key}")).await;
        }
        ask(&clear, "set z clear").await;
        assert_eq!(ask(&sealed, "list 1").await, "[z]");
    }
}

#[tokio::test]
async fn what_is_remembered_in_an_encrypted_room_is_remembered_everywhere_by_consent() {
    let Scene { stage, sealed, other, .. } = scene(true).await;
    let clear = stage.room.clone();
    assert_eq!(stage.ask_as(ALICE, &sealed, "/store plugin set a sealed").await, "done");
    for room in [&clear, &sealed, &other] {
        assert_eq!(stage.ask_as(ALICE, room, "/store plugin get a").await, "sealed");
    }
    for (room, count) in [(&clear, "1"), (&sealed, "2"), (&other, "3")] {
        assert_eq!(stage.ask_as(ALICE, room, "/count").await, count);
    }
}

#[tokio::test]
async fn what_is_logged_of_an_encrypted_room_is_kept_apart() {
    let scene = scene(false).await;
    let lines = |sealed: bool| {
        let of = |notice: &Notice| matches!(notice, Notice::PluginLog { .. }) && notice.is_sealed() == sealed;
        let lines: Vec<_> = scene.stage.notices().into_iter().filter(of).collect();
        lines
    };
    assert_eq!(scene.stage.ask("/shout").await, "shouted");
    assert!(!lines(false).is_empty() && lines(true).is_empty());
    assert!(lines(false).iter().all(|notice| notice.public().is_some()));
    let before = lines(false).len();
    assert_eq!(scene.ask("/shout").await, "shouted");
    assert_eq!(lines(false).len(), before);
    assert!(!lines(true).is_empty() && lines(true).iter().all(|notice| notice.public().is_none()));
}
