//! What an agent says, as a person in the room reads it.

use parlour::{
    chat::memory::message,
    event::{Class, Membership},
    settings::Grants,
};

use crate::{
    guests::{example, guest},
    stage::{AGENT, ALICE, BOB, MALLORY, Stage, granted},
};

fn examples() -> Vec<(&'static str, std::sync::Arc<[u8]>)> {
    ["echo", "help", "roll", "sethome"].map(|name| (name, example(name))).into()
}

async fn stage() -> Stage {
    Stage::start(&examples(), |builder| {
        builder
            .plugin_settings("sethome".parse().unwrap(), granted(Grants { home: true, ..Grants::default() }))
    })
    .await
}

#[tokio::test]
async fn commands_answer_to_three_sigils() {
    let stage = stage().await;
    for asked in ["/echo hello", "!echo hello", "@agent:memory echo hello", "/Echo hello"] {
        assert_eq!(stage.ask(asked).await, "hello", "{asked}");
    }
}

#[tokio::test]
async fn a_direct_chat_needs_no_mention_and_says_what_it_can_do() {
    let stage = stage().await;
    assert_eq!(stage.ask("hello").await, "I answer commands only. /help lists them.");
    assert_eq!(stage.ask("/unknown").await, "I don't know /unknown. /help lists them.");
    assert_eq!(stage.ask("/ecko").await, "I don't know /ecko. Did you mean /echo? /help lists them.");
    assert_eq!(stage.ask("/stop").await, "Nothing is running.");
}

#[tokio::test]
async fn in_a_room_only_who_is_asked_says_that_nothing_runs() {
    let stage = stage().await;
    let room = stage.rooms.create([ALICE, AGENT]);
    stage.rooms.say(ALICE, &room, "!stop");
    assert_eq!(stage.ask_as(ALICE, &room, "@agent:memory stop").await, "Nothing is running.");
    assert_eq!(stage.rooms.transcript(&room).len(), 3);
}

#[tokio::test]
async fn bad_input_gets_one_line() {
    let stage = stage().await;
    for asked in ["/roll banana", "/roll 0d6", "/roll 1000d6", "/roll 2d"] {
        let answer = stage.ask(asked).await;
        assert!(answer.starts_with("/roll: ") && answer.lines().count() == 1, "{asked}: {answer}");
    }
    let answer = stage.ask("/echo").await;
    assert_eq!(answer, "/echo: text is missing; usage: /echo <text>");
}

#[tokio::test]
async fn dice_fall_within_their_bounds() {
    let stage = stage().await;
    let sum = |answer: String| -> u32 {
        let digits: String = answer
            .chars()
            .rev()
            .skip_while(|c| !c.is_ascii_digit())
            .take_while(char::is_ascii_digit)
            .collect();
        digits.chars().rev().collect::<String>().parse().unwrap()
    };
    for _ in 0..20 {
        assert!((3..=13).contains(&sum(stage.ask("/roll 2d6+1").await)));
    }
}

#[tokio::test]
async fn help_lists_what_this_person_may_use() {
    let stage = stage().await;
    let room = stage.rooms.create_direct(BOB, AGENT);
    let (admin, user) = (stage.ask("/help").await, stage.ask_as(BOB, &room, "/help").await);
    for name in ["/echo", "/roll", "/help", "/stop"] {
        assert!(admin.contains(name) && user.contains(name), "{name}: {admin}\n{user}");
    }
    assert!(admin.contains("/sethome") && !user.contains("/sethome"), "{admin}\n{user}");
}

#[tokio::test]
async fn sethome_is_for_admins() {
    let stage = stage().await;
    let room = stage.rooms.create([ALICE, BOB, AGENT]);
    assert_eq!(stage.ask_as(BOB, &room, "/sethome").await, "/sethome is for admins only.");
    let answer = stage.ask_as(ALICE, &room, "/sethome").await;
    assert!(answer.contains("home"), "{answer}");
}

#[tokio::test]
async fn only_listed_people_are_heard() {
    let stage = stage().await;
    let room = stage.rooms.create([ALICE, MALLORY, AGENT]);
    let strange = stage.rooms.say(MALLORY, &room, "/echo let me in");
    assert_eq!(stage.ask_as(ALICE, &room, "/echo after").await, "after");
    let lines = stage.rooms.transcript(&room);
    assert_eq!(lines.len(), 3, "{lines:#?}");
    let reads = stage.rooms.reads(&room);
    assert!(reads.iter().all(|(_, event)| *event != strange), "a stranger sees no receipt: {reads:?}");
    assert_eq!(reads.len(), 1);
}

#[tokio::test]
async fn in_a_room_only_commands_and_mentions_are_for_the_agent() {
    let stage = stage().await;
    let room = stage.rooms.create([ALICE, BOB, AGENT]);
    for text in ["hello all", "@agent2:memory hello", "the agent is nice", "!nobody has this", "agent: hello"]
    {
        stage.rooms.say(ALICE, &room, text);
    }
    stage.rooms.post(
        ALICE,
        &room,
        parlour::event::Message { class: Class::Notice, ..message("/echo a notice") },
    );
    stage.rooms.post(
        ALICE,
        &room,
        parlour::event::Message { class: Class::Edit, ..message("/echo an edit") },
    );
    assert_eq!(
        stage.ask_as(ALICE, &room, "@agent:memory hello").await,
        "I answer commands only. /help lists them."
    );
    assert_eq!(stage.rooms.transcript(&room).iter().filter(|line| line.sender.as_str() == AGENT).count(), 1);
}

#[tokio::test]
async fn answers_go_to_the_thread_in_which_they_were_asked() {
    let stage = stage().await;
    let root = stage.rooms.say(ALICE, &stage.room, "/echo a root");
    stage.answer_to(&stage.room, &root).await;
    let asked = stage.rooms.say_in_thread(ALICE, &stage.room, &root, "/echo in the thread");
    assert_eq!(stage.answer_to(&stage.room, &asked).await.thread, Some(root));
}

#[tokio::test]
async fn arguments_are_checked_against_their_schema() {
    let stage = Stage::with(&[("deeds", guest("deeds"))]).await;
    assert_eq!(stage.ask("/typed 7 two words").await, "number=7 text=\"two words\"");
    assert_eq!(
        stage.ask("/typed seven two").await,
        "/typed: number: \"seven\" is not of type \"integer\"; usage: /typed <number> <text>"
    );
    assert_eq!(stage.ask("/admin").await, "done");
}

#[tokio::test]
async fn invitations_of_listed_people_are_accepted_and_others_declined() {
    let stage = stage().await;
    let (good, bad) = (stage.rooms.create([ALICE]), stage.rooms.create([MALLORY]));
    stage.rooms.invite(ALICE, AGENT, &good);
    stage.rooms.invite(MALLORY, AGENT, &bad);
    stage.noticed("joined").await;
    stage.noticed("declined").await;
    assert_eq!(stage.ask_as(ALICE, &good, "/echo here").await, "here");
    assert_eq!(stage.rooms.members(&bad).len(), 1);
}

#[tokio::test]
async fn a_second_agent_answers_only_for_itself() {
    use parlour::Agent;
    let other = "@other:memory";
    let rooms = parlour::chat::memory::Rooms::new();
    let room = rooms.create([ALICE, AGENT, other]);
    let agent = |name: &str, user: &str, plugin: &str| {
        // Each is listed, so that only what they say keeps them apart.
        let users = [other.parse().unwrap(), AGENT.parse().unwrap()].into();
        let access = parlour::settings::Access { users, ..crate::stage::access() };
        Agent::new(name.parse().unwrap(), rooms.account(user)).access(access).plugins([plugin])
    };
    let (first, second) = (agent("agent", AGENT, "echo"), agent("other", other, "roll"));
    let stage =
        Stage::start_with(rooms.clone(), room.clone(), first, &examples(), |builder| builder.agent(second))
            .await;
    assert_eq!(stage.ask("!echo /roll 1d6").await, "/roll 1d6");
    let asked = rooms.say(ALICE, &room, "!roll 1d6");
    let lines = stage.until(&room, |lines| lines.iter().any(|line| line.sender.as_str() == other)).await;
    assert_eq!(lines.len(), 4, "{lines:#?}");
    assert_eq!(lines[2].id, asked);
    assert_eq!(stage.ask("!echo end").await, "end");
    assert_eq!(rooms.transcript(&room).len(), 6, "neither answers the other");
}

#[tokio::test]
async fn memberships_of_others_reach_nobody_but_plugins_that_ask() {
    let stage = stage().await;
    let room = stage.rooms.create([ALICE, AGENT]);
    stage.rooms.member(BOB, &room, Membership::Joined);
    assert_eq!(stage.ask_as(BOB, &room, "/echo hi").await, "hi");
    assert_eq!(stage.rooms.transcript(&room).len(), 2);
}
