//! What each capability gives a plugin: granted, denied, limited.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use parlour::{
    llm,
    settings::{Grants, Kv, LlmGrant, Plugin},
};

use crate::{
    guests::{guest, patched},
    stage::{AGENT, ALICE, BOB, Stage, granted},
};

async fn stage(grants: Grants) -> Stage {
    let also =
        |builder: parlour::HostBuilder| builder.plugin_settings("deeds".parse().unwrap(), granted(grants));
    Stage::start(&[("deeds", guest("deeds"))], also).await
}

#[tokio::test]
async fn kv_counts_across_events() {
    let stage = stage(Grants::default()).await;
    for count in 1..=5 {
        assert_eq!(stage.ask("/count").await, count.to_string());
    }
}

#[tokio::test]
async fn kv_counts_every_one_of_many_at_once() {
    let stage = stage(Grants::default()).await;
    let rooms: Vec<_> = (0..20).map(|_| stage.rooms.create_direct(BOB, AGENT)).collect();
    for room in &rooms {
        stage.rooms.say(BOB, room, "/count");
    }
    let mut counts = Vec::new();
    for room in &rooms {
        let lines = stage.until(room, |lines| lines.len() == 2).await;
        counts.push(lines[1].text.parse::<u32>().unwrap());
    }
    counts.sort_unstable();
    assert_eq!(counts, (1..=20).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_a_plugin_remembers_has_a_quota() {
    let quota = |bytes, keys| Grants { kv: Kv { bytes: Some(bytes), keys: Some(keys) }, ..Grants::default() };
    let small = stage(quota(1024 * 1024, 1000)).await;
    assert_eq!(small.ask("/hoard 3").await, "hoarded");
    let full = "/hoard: this plugin remembers at most 1048576 bytes and 1000 keys";
    assert_eq!(small.ask("/hoard 5").await, full);
    assert_eq!(small.ask("/hoard 3").await, "hoarded", "what is replaced does not count twice");
    assert_eq!(small.ask("/count").await, "1", "there is room for small things");

    let few = stage(quota(u64::MAX, 2)).await;
    assert_eq!(
        few.ask("/hoard 3").await.lines().next(),
        Some("/hoard: this plugin remembers at most 67108864 bytes and 2 keys")
    );
    assert_eq!(few.ask("/hoard 2").await, "hoarded");
    assert_eq!(few.ask("/hoard 2").await, "hoarded");
    assert_eq!(few.ask("/count").await, "/count: this plugin remembers at most 67108864 bytes and 2 keys");
}

#[tokio::test]
async fn a_session_remembers_only_its_own() {
    let stage = stage(Grants::default()).await;
    let room = stage.rooms.create([ALICE, BOB, AGENT]);
    stage.rooms.say(ALICE, &room, "/remember apples");
    assert_eq!(stage.ask_as(ALICE, &room, "/recall").await, "apples");
    assert_eq!(stage.ask_as(BOB, &room, "/recall").await, "nothing");
    assert_eq!(stage.ask("/recall").await, "nothing");
}

#[tokio::test]
async fn another_room_is_denied_until_granted() {
    let denied = stage(Grants::default()).await;
    let room = denied.rooms.create([ALICE, AGENT]);
    assert_eq!(denied.ask(&format!("/room {room} hello")).await, "/room: the grant `rooms` is missing");

    let granted = stage(Grants { rooms: ["*".into()].into(), ..Grants::default() }).await;
    let room = granted.rooms.create([ALICE, AGENT]);
    granted.rooms.say(ALICE, &granted.room, &format!("/room {room} hello"));
    assert_eq!(granted.until(&room, |lines| lines.len() == 1).await[0].text, "hello");
    // A room that the agent is not in is given up and reported.
    let elsewhere = granted.rooms.create([ALICE]);
    granted.rooms.say(ALICE, &granted.room, &format!("/room {elsewhere} hello"));
    granted.noticed("not in the room").await;
}

#[tokio::test]
async fn a_person_is_denied_until_granted() {
    let denied = stage(Grants::default()).await;
    assert_eq!(denied.ask(&format!("/direct {BOB} hello")).await, "/direct: the grant `people` is missing");

    let granted = stage(Grants { people: ["*:memory".into()].into(), ..Grants::default() }).await;
    let room = granted.rooms.create_direct(BOB, AGENT);
    granted.rooms.say(ALICE, &granted.room, &format!("/direct {BOB} hello"));
    assert_eq!(granted.until(&room, |lines| lines.len() == 1).await[0].text, "hello");
}

#[tokio::test]
async fn what_goes_to_a_room_and_to_the_person_in_it_has_one_order() {
    let stage = stage(Grants { people: ["*:memory".into()].into(), ..Grants::default() }).await;
    stage.rooms.say(ALICE, &stage.room, &format!("/turns {ALICE}"));
    let lines = stage.until(&stage.room, |lines| lines.len() == 7).await;
    let said: Vec<_> = lines[1..].iter().map(|line| line.text.as_str()).collect();
    assert_eq!(said, ["0", "1", "2", "3", "4", "5"]);
}

#[tokio::test]
async fn the_home_is_written_to_once_it_is_set() {
    let grants = granted(Grants { home: true, ..Grants::default() });
    let guests = [("deeds", guest("deeds")), ("sethome", crate::guests::example("sethome"))];
    let stage =
        Stage::start(&guests, |builder| builder.plugin_settings("sethome".parse().unwrap(), grants)).await;
    assert_eq!(stage.ask("/home hello").await, "/home: no home is set");
    let home = stage.rooms.create([ALICE, AGENT]);
    stage.ask_as(ALICE, &home, "/sethome").await;
    stage.rooms.say(ALICE, &stage.room, "/home hello");
    stage.until(&home, |lines| lines.iter().any(|line| line.text == "hello")).await;
}

#[tokio::test]
async fn sethome_needs_its_grant() {
    let stage = Stage::with(&[("sethome", crate::guests::example("sethome"))]).await;
    assert_eq!(stage.ask("/sethome").await, "/sethome: the grant `home` is missing");
}

#[tokio::test]
async fn a_draft_becomes_the_answer_or_goes() {
    let stage = stage(Grants::default()).await;
    stage.rooms.say(ALICE, &stage.room, "/draft half an answer");
    let lines = stage.until(&stage.room, |lines| lines.get(1).is_some_and(|line| line.redacted)).await;
    assert_eq!(lines.len(), 2);
}

#[tokio::test]
async fn messages_are_named_edited_answered_and_reacted_to() {
    let stage = stage(Grants::default()).await;
    stage.rooms.say(ALICE, &stage.room, "/edit in the end");
    let lines =
        stage.until(&stage.room, |lines| lines.last().is_some_and(|line| line.text == "in the end")).await;
    assert_eq!((lines.len(), lines[1].edits), (2, 2));

    let asked = stage.rooms.say(ALICE, &stage.room, "/react 👍");
    let reacted = |lines: &[parlour::chat::memory::Line]| {
        lines
            .iter()
            .any(|line| line.id == asked && line.reactions == [(AGENT.parse().unwrap(), "👍".to_owned())])
    };
    stage.until(&stage.room, reacted).await;

    let asked = stage.rooms.say(ALICE, &stage.room, "/reply to you");
    assert_eq!(stage.answer_to(&stage.room, &asked).await.reply_to, Some(asked));
}

#[tokio::test]
async fn a_named_message_is_edited_where_it_is() {
    let stage = stage(Grants::default()).await;
    stage.rooms.say(ALICE, &stage.room, "/edit at home");
    stage.until(&stage.room, |lines| lines.last().is_some_and(|line| line.text == "at home")).await;
    let other = stage.rooms.create([ALICE, AGENT]);
    stage.rooms.say(ALICE, &other, "/rename from elsewhere");
    stage.until(&stage.room, |lines| lines.last().is_some_and(|line| line.text == "from elsewhere")).await;
    assert_eq!(stage.rooms.transcript(&other).len(), 1, "nothing is said where it was asked");
}

#[tokio::test]
async fn only_what_a_plugin_sent_itself_is_edited_and_removed() {
    let guests = [("deeds", guest("deeds")), ("echo", crate::guests::example("echo"))];
    let stage = Stage::with(&guests).await;
    let asked = stage.rooms.say(ALICE, &stage.room, "/echo hello");
    let echoed = stage.answer_to(&stage.room, &asked).await.id;
    for command in ["alter", "remove"] {
        for id in [&asked, &echoed] {
            let answer = stage.ask(&format!("/{command} {id}")).await;
            assert_eq!(
                answer,
                format!("/{command}: only a message that this plugin sent can be edited or redacted")
            );
        }
    }
    let asked = stage.rooms.say(ALICE, &stage.room, "/count");
    let own = stage.answer_to(&stage.room, &asked).await.id;
    stage.rooms.say(ALICE, &stage.room, &format!("/alter {own}"));
    stage.until(&stage.room, |lines| lines.iter().any(|line| line.id == own && line.text == "altered")).await;
    stage.rooms.say(ALICE, &stage.room, &format!("/remove {own}"));
    stage.until(&stage.room, |lines| lines.iter().any(|line| line.id == own && line.redacted)).await;
}

/// An id of the guest's own making would carry words out of an encrypted room: relations travel in clear.
#[tokio::test]
async fn only_what_the_agent_knows_is_answered() {
    let stage = stage(Grants::default()).await;
    let known = stage.rooms.say(ALICE, &stage.room, "hello");
    let asked = stage.rooms.say(ALICE, &stage.room, &format!("/answer {known}"));
    let answer =
        stage.until(&stage.room, |lines| lines.last().is_some_and(|line| line.reply_to.is_some())).await;
    assert_eq!(answer.last().unwrap().reply_to, Some(known.clone()), "{asked}");
    let unknown = "/answer: the agent knows no such event";
    assert_eq!(stage.ask("/answer $a-secret-of-this-room").await, unknown);
    // What is known of a room that is not granted is known there alone.
    let room = stage.rooms.create([ALICE, AGENT]);
    assert_eq!(stage.ask_as(ALICE, &room, &format!("/answer {known}")).await, unknown);
}

#[tokio::test]
async fn a_draft_of_an_earlier_attempt_becomes_the_answer() {
    let stage = stage(Grants::default()).await;
    stage.rooms.say(ALICE, &stage.room, "/again");
    stage.until(&stage.room, |lines| lines.last().is_some_and(|line| line.text == "half an answer")).await;
    let whole =
        |lines: &[parlour::chat::memory::Line]| lines.last().is_some_and(|it| it.text == "the whole answer");
    assert_eq!(stage.until(&stage.room, whole).await.len(), 2, "one message");

    stage.rooms.say(ALICE, &stage.room, "/again it is no use");
    let told = "half an answer\n\n/again: it is no use";
    let lines = stage.until(&stage.room, |lines| lines.last().is_some_and(|line| line.text == told)).await;
    assert_eq!(lines.len(), 4, "one message");
}

#[tokio::test]
async fn what_a_delivery_reads_and_writes_is_bounded() {
    let stage = stage(Grants::default()).await;
    assert_eq!(stage.ask("/hoard 15").await, "hoarded");
    assert_eq!(stage.ask("/hoard 16").await, "/hoard: one delivery writes at most 4 MiB");
    assert_eq!(stage.ask("/look 1000").await, "looked");
    assert_eq!(stage.ask("/look 10000").await, "/look: one delivery reads at most 4 MiB of keys");
    assert_eq!(stage.ask("/long 1000000").await, "/long: a message has at most 32 KiB");
}

#[tokio::test]
async fn in_an_encrypted_room_a_reaction_carries_no_words() {
    let stage = stage(Grants::default()).await;
    stage.rooms.encrypt(&stage.room);
    let answer = stage.ask("/react secret").await;
    assert_eq!(answer, "/react: in an encrypted room a reaction is one emoji: it travels in clear");
}

#[tokio::test]
async fn what_was_encrypted_once_is_never_sent_in_clear() {
    let stage = stage(Grants { rooms: ["*".into()].into(), ..Grants::default() }).await;
    let secret = stage.rooms.create([ALICE, AGENT]);
    stage.rooms.encrypt(&secret);
    stage.ask_as(ALICE, &secret, "/count").await;
    stage.rooms.decrypt(&secret);
    stage.rooms.say(ALICE, &stage.room, &format!("/room {secret} in clear"));
    stage.noticed("not encrypted").await;
    assert!(!stage.transcript(&secret).contains("in clear"));
}

#[tokio::test]
async fn settings_are_read_and_nothing_else() {
    let config = toml::toml! { units = "metric" };
    let plugin = Plugin { config: config.into_iter().collect(), ..Plugin::default() };
    let also = |builder: parlour::HostBuilder| builder.plugin_settings("deeds".parse().unwrap(), plugin);
    let stage = Stage::start(&[("deeds", guest("deeds"))], also).await;
    assert_eq!(stage.ask("/setting units").await, "metric");
    assert_eq!(stage.ask("/setting PATH").await, "unset");
}

#[tokio::test]
async fn the_model_is_denied_until_granted_and_unavailable_until_set_up() {
    let denied = stage(Grants::default()).await;
    assert_eq!(denied.ask("/model hello").await, "/model: the grant `llm` is missing");
    let granted = stage(Grants { llm: Some(LlmGrant::default()), ..Grants::default() }).await;
    assert_eq!(granted.ask("/model hello").await, "/model: no language model is set up");
}

#[tokio::test]
async fn the_model_is_asked_so_often_and_no_more() {
    let model = Silent::default();
    let asked = model.0.clone();
    let stage = Stage::start(&[("deeds", guest("deeds"))], |builder| {
        let grants = granted(Grants { llm: Some(LlmGrant::default()), ..Grants::default() });
        builder.plugin_settings("deeds".parse().unwrap(), grants).llm(model)
    })
    .await;
    assert_eq!(stage.ask("/open 8").await, "8 are open");
    assert_eq!(stage.ask("/open 9").await, "/open: at most 8 answers are open at once; drop one");
    let before = asked.load(Relaxed);
    // What ran before and was not available has asked already.
    let answer = stage.ask("/insist 40").await;
    assert_eq!(answer, "/insist: one delivery asks the model at most 64 times");
    assert_eq!(asked.load(Relaxed) - before, 64);
}

async fn asking(llm: LlmGrant) -> Stage {
    Stage::start(&[("deeds", guest("deeds"))], |builder| {
        let grants = granted(Grants { llm: Some(llm), ..Grants::default() });
        builder.plugin_settings("deeds".parse().unwrap(), grants).llm(Counting)
    })
    .await
}

#[tokio::test]
async fn a_plugin_asks_the_models_that_it_was_granted_for_so_many_tokens() {
    let outside = "/choose: the grant `llm` does not have it";
    let usual = asking(LlmGrant::default()).await;
    assert_eq!(usual.ask("/model hello").await, "the default");
    assert_eq!(usual.ask("/choose small hello").await, outside);
    for models in ["small", "*"] {
        let granted = LlmGrant { models: [models.to_owned()].into(), ..LlmGrant::default() };
        let some = asking(granted).await;
        assert_eq!(some.ask("/choose small hello").await, "small");
        assert_eq!(some.ask("/choose large hello").await, if models == "*" { "large" } else { outside });
    }
    // Each answer costs a thousand.
    let budget = LlmGrant { tokens_per_day: NonZeroU32::new(2500), ..LlmGrant::default() };
    let stage = asking(budget).await;
    for _ in 0..3 {
        assert_eq!(stage.ask("/model hello").await, "the default");
    }
    stage.rooms.say(ALICE, &stage.room, "/model hello");
    let told = "/model: this plugin may use 2500 tokens within a day, and has";
    let lines = stage.until(&stage.room, |lines| lines.last().is_some_and(|line| line.text == told)).await;
    assert_eq!(lines.len(), 8);
    // What is not counted costs as much as its text, also when nobody has heard all of it.
    let models = ["uncounted".to_owned()].into();
    let uncounted = LlmGrant { models, tokens_per_day: NonZeroU32::new(2500) };
    let stage = asking(uncounted).await;
    assert_eq!(stage.ask("/choose uncounted hello").await, "x".repeat(9000));
    assert_eq!(stage.ask("/model hello").await, told);
}

#[tokio::test]
async fn another_version_has_no_tokens_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("deeds.wasm");
    std::fs::write(&file, guest("deeds")).unwrap();
    let stage = Stage::start(&[], |builder| {
        let llm = LlmGrant { tokens_per_day: NonZeroU32::new(1500), ..LlmGrant::default() };
        let grants = granted(Grants { llm: Some(llm), ..Grants::default() });
        let builder = builder.plugin_folder(folder.path());
        builder.plugin_settings("deeds".parse().unwrap(), grants).llm(Counting)
    })
    .await;
    assert_eq!(stage.ask("/model hello").await, "the default");
    let second = patched(&guest("deeds"), "Does one thing of each kind", "Does 1 thing of every kind!");
    std::fs::write(&file, second).unwrap();
    stage.noticed("plugin deeds: new version took over").await;
    assert_eq!(stage.ask("/model hello").await, "the default");
    let told = "/model: this plugin may use 1500 tokens within a day, and has";
    assert_eq!(stage.ask("/model hello").await, told);
}

/// Models that say their names, and cost a thousand tokens; but for one that does not count.
struct Counting;

#[async_trait]
impl llm::Backend for Counting {
    async fn ask(&self, request: llm::Request) -> Result<Box<dyn llm::Answer>, llm::Failure> {
        let counts = request.model.as_deref() != Some("uncounted");
        let name = request.model.unwrap_or_else(|| "the default".into());
        Ok(Box::new(Named { says: Some(if counts { name } else { "x".repeat(9000) }), counts }))
    }
}

struct Named {
    says: Option<String>,
    counts: bool,
}

#[async_trait]
impl llm::Answer for Named {
    async fn next(&mut self) -> Result<Option<llm::Piece>, llm::Failure> {
        Ok(self.says.take().map(|text| llm::Piece { text, ..llm::Piece::default() }))
    }

    fn outcome(&self) -> Option<llm::Outcome> {
        let [prompt_tokens, completion_tokens] = [400, 600].map(|tokens| self.counts.then_some(tokens));
        let outcome = llm::Outcome { prompt_tokens, completion_tokens, ..llm::Outcome::default() };
        self.says.is_none().then_some(outcome)
    }
}

/// A model that has nothing to say.
#[derive(Default)]
struct Silent(Arc<AtomicU32>);

#[async_trait]
impl llm::Backend for Silent {
    async fn ask(&self, _: llm::Request) -> Result<Box<dyn llm::Answer>, llm::Failure> {
        self.0.fetch_add(1, Relaxed);
        Ok(Box::new(Silence))
    }
}

struct Silence;

#[async_trait]
impl llm::Answer for Silence {
    async fn next(&mut self) -> Result<Option<llm::Piece>, llm::Failure> {
        Ok(None)
    }

    fn outcome(&self) -> Option<llm::Outcome> {
        Some(llm::Outcome::default())
    }
}

#[tokio::test]
async fn a_refused_send_is_tried_again_and_a_final_one_is_reported() {
    use parlour::chat::SendError;
    let stage = stage(Grants::default()).await;
    let after = Some(Duration::from_millis(50));
    stage.rooms.refuse(SendError::Later { after, reason: "M_LIMIT_EXCEEDED".into() });
    assert_eq!(stage.ask("/count").await, "1");
    stage.rooms.refuse(SendError::Final { code: "M_FORBIDDEN".into(), reason: "no".into() });
    stage.rooms.say(ALICE, &stage.room, "/count");
    stage.noticed("M_FORBIDDEN: no").await;
    assert_eq!(stage.ask("/count").await, "3");
}

#[tokio::test]
async fn a_handler_that_is_not_available_runs_again_and_can_be_stopped() {
    let stage = stage(Grants::default()).await;
    let asked = stage.rooms.say(ALICE, &stage.room, "/later");
    assert_eq!(
        stage.noticed("not yet").await.to_string(),
        "plugin deeds waits for agent agent: not yet; it is called again for up to 15 minutes"
    );
    stage.rooms.say(ALICE, &stage.room, "/stop");
    assert_eq!(stage.answer_to(&stage.room, &asked).await.text, "Stopped.");
}
