//! What was said while the agent was down is answered once, however little a server puts into one answer, and whatever
//! it has forgotten.

use parlour::{
    Agent,
    chat::matrix::{Account, Matrix},
    settings::{Backlog, Behaviour},
};
use std::time::Duration;
use tokio::task::JoinSet;

use crate::{
    inside::{Inside, PASSWORD, Serving, eventually},
    proxy::{Fault, Proxy},
    synapse::{NewRoom, Options, Synapse, unique},
};

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

fn direct() -> NewRoom {
    NewRoom { direct: true, ..NewRoom::default() }
}

/// A server that puts less into an answer than was said.
async fn short_answers() -> Synapse {
    Synapse::start(Options { timeline: Some(20), ..Options::default() }).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn eighty_of_eighty_that_came_while_it_was_down() {
    let synapse = short_answers().await;
    let inside = Inside::new(&synapse).await;
    let host = inside.start().await;
    let room = inside.room(direct()).await;
    host.stop().await;
    for number in numbers(80) {
        inside.say(&room, &format!("/echo {number}")).await;
    }
    let host = inside.start().await;
    inside.answers(&room, 80).await;
    let said = inside.to_the_end(&room).await;
    assert_eq!(said[..said.len() - 1], numbers(80), "each once, in order");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eighty_of_eighty_though_it_is_killed_again_and_again() {
    let synapse = short_answers().await;
    let inside = Inside::new(&synapse).await;
    let host = inside.start().await;
    let room = inside.room(direct()).await;
    host.kill().await;
    for number in numbers(80) {
        inside.say(&room, &format!("/echo {number}")).await;
    }
    for count in [1, 10, 30, 55] {
        let host = inside.start().await;
        inside.answers(&room, count).await;
        host.kill().await;
    }
    let host = inside.start().await;
    inside.answers(&room, 80).await;
    let said = inside.to_the_end(&room).await;
    assert_eq!(said[..said.len() - 1], numbers(80), "each once, in order");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_of_two_hundred_in_bursts() {
    let synapse = short_answers().await;
    let inside = Inside::new(&synapse).await;
    let host = inside.start().await;
    let room = inside.room(direct()).await;
    for burst in numbers(200).chunks(20) {
        let mut saying = JoinSet::new();
        for number in burst {
            let (api, token, room) = (synapse.api().clone(), inside.alice.token.clone(), room.clone());
            let content = serde_json::json!({ "msgtype": "m.text", "body": format!("/echo {number}") });
            saying.spawn(
                async move { api.send_event(&token, &room, "m.room.message", content).await.unwrap() },
            );
        }
        saying.join_all().await;
    }
    inside.answers(&room, 200).await;
    let mut said = inside.to_the_end(&room).await;
    let mut asked = inside.said_by(&room, &inside.alice.user).await;
    asked.iter_mut().for_each(|text| *text = text.replace("/echo ", ""));
    assert_eq!(said, asked, "in the order in which the server has them");
    said.sort();
    said.dedup();
    assert_eq!(said.len(), 201);
    host.stop().await;
}

/// The position is one of another server's, or of one that was put back from a backup.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_position_loses_nothing_and_answers_no_history() {
    let synapse = short_answers().await;
    let inside = Inside::new(&synapse).await;
    // In a room before its first start, and so is what was said there.
    let token = synapse.login(&inside.agent, PASSWORD).await.unwrap().token;
    let room = NewRoom { invite: vec![inside.agent.clone()], ..direct() };
    let room = synapse.create_room(&inside.alice.token, &room).await.unwrap();
    synapse.join(&token, &room).await.unwrap();
    for number in 0..10 {
        inside.say(&room, &format!("/echo history {number}")).await;
    }
    let host = inside.start().await;
    let busy = inside.room(direct()).await;
    inside.say(&busy, "/echo before").await;
    inside.answers(&busy, 1).await;
    host.stop().await;
    for number in numbers(50) {
        inside.say(&busy, &format!("/echo {number}")).await;
    }
    inside.say(&room, "/echo first").await;
    let journal = rusqlite::Connection::open(inside.journal()).unwrap();
    assert_eq!(journal.execute("UPDATE agent SET position = 'nonsense'", []).unwrap(), 1);
    drop(journal);
    let host = inside.start().await;
    host.noticed("does not take the stored position").await;
    inside.answers(&busy, 51).await;
    inside.answers(&room, 1).await;
    assert_eq!(inside.to_the_end(&room).await, ["first", "the end"]);
    let said = inside.to_the_end(&busy).await;
    assert_eq!(said[0], "before");
    assert_eq!(said[1..51], numbers(50));
    assert_eq!(said.len(), 52);
    host.stop().await;
}

/// What the agent knows is in the journal, which cannot be read at that moment: nothing is taken for history because of that.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_position_loses_nothing_where_the_journal_cannot_be_read() {
    let synapse = Synapse::shared().await.unwrap();
    let proxy = Proxy::before(synapse.base_url()).await;
    let inside = Inside { homeserver: proxy.url(), ..Inside::new(synapse).await };
    let host = inside.start().await;
    // Nobody has invited it there: what it knows of the room is in the journal alone.
    let token = synapse.login(&inside.agent, PASSWORD).await.unwrap().token;
    let room = NewRoom { preset: "public_chat", ..NewRoom::default() };
    let room = synapse.create_room(&inside.alice.token, &room).await.unwrap();
    synapse.join(&token, &room).await.unwrap();
    inside.say(&room, "/echo before").await;
    inside.answers(&room, 1).await;
    proxy.rule(|request| if request.contains("/sync") { Fault::Reset } else { Fault::None });
    // The request that waits at the server brings this, and the next one fails.
    inside.say(&room, "/echo waking").await;
    host.noticed("is out of reach").await;
    inside.say(&room, "/echo missed").await;
    let journal = rusqlite::Connection::open(inside.journal()).unwrap();
    journal.busy_timeout(Duration::from_secs(10)).unwrap();
    let away = "ALTER TABLE event RENAME TO event_away; ALTER TABLE newest RENAME TO newest_away";
    journal.execute_batch(away).unwrap();
    let refused = r#"{"errcode":"M_UNKNOWN","error":"Invalid stream token"}"#;
    proxy.rule(
        move |request| {
            if request.contains("since=") { Fault::Answer(400, refused.into()) } else { Fault::None }
        },
    );
    host.noticed("does not take the stored position").await;
    host.noticed("no such table").await;
    proxy.always(Fault::None);
    let back = "ALTER TABLE event_away RENAME TO event; ALTER TABLE newest_away RENAME TO newest";
    journal.execute_batch(back).unwrap();
    assert_eq!(inside.to_the_end(&room).await, ["before", "waking", "missed", "the end"]);
    host.stop().await;
}

/// Five agents in one room, each with its own setting.
#[tokio::test(flavor = "multi_thread")]
async fn each_setting() {
    let synapse = Synapse::shared().await.unwrap();
    let inside = Inside::new(synapse).await;
    let settings = [
        ("all", Backlog::All, true),
        ("mentions", Backlog::Mentions, true),
        ("skip", Backlog::Skip, false),
        ("day", Backlog::default(), true),
        ("second", Backlog::Within(Duration::from_secs(1)), false),
    ];
    let mut accounts = vec![];
    for (name, backlog, _) in &settings {
        let user = synapse.register(&unique(name), PASSWORD).await.unwrap();
        let account = Account {
            agent: name.parse().unwrap(),
            user: Some(user.parse().unwrap()),
            store: inside.folder.path().join(name),
            ..inside.account()
        };
        accounts.push((user, account, *backlog));
    }
    let start = async || {
        let (serving, heard) = Serving::heard();
        let agents = accounts.iter().map(|(_, account, backlog)| {
            Agent::new(account.agent.clone(), Matrix::new(account.clone(), heard.clone()))
                .access(inside.access())
                .behaviour(Behaviour { backlog: *backlog, ..Behaviour::default() })
        });
        let agents = agents.collect();
        serving.run(&inside, agents, heard.clone()).await
    };
    let host = start().await;
    let users: Vec<String> = accounts.iter().map(|(user, ..)| user.clone()).collect();
    let room = NewRoom { invite: users.clone(), ..NewRoom::default() };
    let room = synapse.create_room(&inside.alice.token, &room).await.unwrap();
    let everybody = async |text: &str, of: &[&String]| {
        for user in of {
            eventually(async || inside.said_by(&room, user).await.contains(&text.to_owned()).then_some(()))
                .await;
        }
    };
    eventually(async || {
        let members = synapse.members(&inside.alice.token, &room).await.unwrap();
        users.iter().all(|user| members.get(user).is_some_and(|is| is == "join")).then_some(())
    })
    .await;
    inside.say(&room, "!echo there").await;
    everybody("there", &users.iter().collect::<Vec<_>>()).await;
    host.stop().await;

    let away = inside.say(&room, "!echo away").await;
    let away = synapse.event(&inside.alice.token, &room, &away).await.unwrap();
    // For the one that would answer it within a second.
    let old = std::time::UNIX_EPOCH + Duration::from_millis(crate::inside::sent_at(&away) + 1500);
    while let Ok(left) = old.duration_since(std::time::SystemTime::now()) {
        tokio::time::sleep(left).await;
    }
    let host = start().await;
    inside.say(&room, "!echo end").await;
    everybody("end", &users.iter().collect::<Vec<_>>()).await;
    for ((name, _, answers), user) in settings.iter().zip(&users) {
        let expected: &[&str] = if *answers { &["there", "away", "end"] } else { &["there", "end"] };
        assert_eq!(inside.said_by(&room, user).await, expected, "{name}");
    }
    host.stop().await;
}

/// A server binds transaction ids to a device, and here the device is another one: its folder is gone.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_by_another_device_is_not_sent_again() {
    let synapse = Synapse::shared().await.unwrap();
    let inside = Inside::new(synapse).await;
    let host = inside.start().await;
    let room = inside.room(direct()).await;
    host.stop().await;
    let journal = rusqlite::Connection::open(inside.journal()).unwrap();
    let before: String = journal.query_row("SELECT position FROM agent", [], |row| row.get(0)).unwrap();
    drop(journal);
    let host = inside.start().await;
    inside.say(&room, "/echo there").await;
    inside.answers(&room, 1).await;
    host.stop().await;
    // As the journal is after a crash between the server's taking it and our hearing so.
    let journal = rusqlite::Connection::open(inside.journal()).unwrap();
    let put_back = "INSERT INTO unsent (row, agent, ordinal, effect)
         SELECT contribution << 16, contribution.agent, ordinal, ?1 FROM sent JOIN contribution ON contribution.row = contribution";
    let effect = serde_json::json!({ "Send": {
        "to": { "Place": { "room": room, "thread": null } }, "body": { "Plain": "there" },
        "reply_to": null, "name": null, "takes_draft": false,
    } });
    assert_eq!(journal.execute(put_back, [effect.to_string()]).unwrap(), 1);
    journal.execute("DELETE FROM sent", []).unwrap();
    journal.execute("UPDATE agent SET position = ?1", [before]).unwrap();
    drop(journal);
    std::fs::remove_dir_all(inside.folder.path().join("agent")).unwrap();
    let host = inside.start().await;
    assert_eq!(inside.to_the_end(&room).await, ["there", "the end"]);
    host.stop().await;
}
