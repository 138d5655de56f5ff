//! `parlour why`: what became of an event, for each verdict of the gate and each end of a call.

use std::{fs, path::Path};

use parlour::{
    Agent,
    chat::memory::{Rooms, message},
    event::Class,
    id::EventId,
    journal::sqlite::Sqlite,
};

use crate::{
    audit::{parlour, text},
    guests::{example, guest},
    stage::{AGENT, ALICE, MALLORY, PATIENCE, Stage, access},
};

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("parlour.toml"), "").unwrap();
    folder
}

async fn host(folder: &Path, rooms: &Rooms, room: &parlour::id::RoomId) -> Stage {
    let agent = Agent::new("agent".parse().unwrap(), rooms.account(AGENT)).access(access());
    let guests = [("naughty", guest("naughty")), ("deeds", guest("deeds")), ("echo", example("echo"))];
    Stage::start_with(rooms.clone(), room.clone(), agent, &guests, |builder| {
        builder
            .journal(Sqlite::open(folder.join("data/journal.db")).unwrap())
            .control(folder.join("data/control.sock"))
    })
    .await
}

fn why(folder: &Path, event: &EventId) -> String {
    let said = parlour(folder, &["why", event.as_str()]);
    assert!(said.status.success(), "{}", text(&said.stderr));
    text(&said.stdout)
}

/// Waits until it says so: the journal may be a moment behind the room.
async fn until(folder: &Path, event: &EventId, lines: &[&str]) -> String {
    let mut shown = String::new();
    let wait = async {
        loop {
            let said = parlour(folder, &["why", event.as_str()]);
            shown = text(&said.stdout) + text(&said.stderr).as_str();
            if lines.iter().all(|line| shown.contains(line)) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, wait).await;
    assert!(found.is_ok(), "{lines:?} is not in {shown}");
    shown
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verdict_is_told_in_words() {
    let folder = folder();
    let folder = folder.path();
    let event = EventId::parse("$nobody").unwrap();
    let said = parlour(folder, &["why", event.as_str()]);
    assert_eq!(said.status.code(), Some(1));
    assert_eq!(text(&said.stderr), "parlour: there is no data/journal.db yet: no host has run here\n");

    let rooms = Rooms::new();
    let room = rooms.create_direct(ALICE, AGENT);
    let stage = host(folder, &rooms, &room).await;
    let group = rooms.create([ALICE, AGENT, MALLORY]);
    let mut notice = message("a notice");
    notice.class = Class::Notice;
    let mut edit = message("an edit");
    edit.class = Class::Edit;
    let dropped = [
        (
            rooms.say(MALLORY, &group, "!echo strange words"),
            "its sender, or whom it is about, is not listed in `access`",
        ),
        (rooms.say(ALICE, &group, "good morning"), "it does not mention the agent, as it has to there"),
        (
            rooms.say(ALICE, &group, "!nonsense"),
            "no plugin has such a command, and it does not mention the agent",
        ),
        (rooms.post(ALICE, &room, notice), "it is a notice, and those are not answered"),
        (rooms.post(ALICE, &room, edit), "it is an edit of an earlier message"),
    ];
    let asked = rooms.say(ALICE, &room, "/echo hello");
    let answer = stage.answer_to(&room, &asked).await;
    for (event, reason) in &dropped {
        let shown = until(folder, event, &[&format!("  gate: dropped: {reason}\n")]).await;
        assert!(shown.starts_with(&format!("agent agent: received {event} in !")), "{shown}");
        assert_eq!(shown.lines().count(), 2, "{shown}");
    }
    let sent = format!("    message to {room}: sent as {}, 20", answer.id);
    let lines = ["  gate: passed, into the lane of `", "  plugin echo: done, 20", &sent];
    let shown = until(folder, &asked, &lines).await;
    assert!(!shown.contains("hello"), "words are not kept: {shown}");
    let lines =
        ["  gate: dropped: it is the agent's own\n", &format!("  it is the agent's answer to {asked}\n")];
    until(folder, &answer.id, &lines).await;

    let said = parlour(folder, &["why", "$nobody"]);
    assert_eq!(said.status.code(), Some(1));
    let line = text(&said.stderr);
    assert!(
        line.starts_with("parlour: no agent here has received $nobody: ") && line.lines().count() == 1,
        "{line}"
    );
    let said = parlour(folder, &["why", asked.as_str(), "--agent", "other"]);
    assert_eq!(text(&said.stderr), "parlour: there is no agent other in data/journal.db\n");
    let json = parlour(folder, &["why", asked.as_str(), "--agent", "agent", "--json"]).stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json[0]["refused"], serde_json::Value::Null);
    assert_eq!(json[0]["deliveries"][0]["outcome"], "done");
    assert_eq!(json[0]["deliveries"][0]["effects"][0]["became"], "sent");
    assert_eq!(json[0]["deliveries"][0]["effects"][0]["event"], answer.id.as_str());
    stage.stop().await;

    // The same without a host; and nothing that a stranger said is anywhere.
    assert!(why(folder, &asked).contains(&sent));
    for file in fs::read_dir(folder.join("data")).unwrap() {
        let bytes = fs::read(file.unwrap().path()).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&bytes).contains("strange words"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_end_is_told_with_its_reason() {
    let folder = folder();
    let folder = folder.path();
    let rooms = Rooms::new();
    let room = rooms.create_direct(ALICE, AGENT);
    let stage = host(folder, &rooms, &room).await;
    let ask = async |line: &str| {
        let asked = rooms.say(ALICE, &room, line);
        stage.answer_to(&room, &asked).await;
        asked
    };
    let refused = ask("/room !elsewhere:memory hello").await;
    until(folder, &refused, &["  plugin deeds: refused: it said no: "]).await;
    let unknown = ask("/nonsense").await;
    until(folder, &unknown, &["  host: done: no plugin had it: the host answered that itself, 20"]).await;

    let waits = rooms.say(ALICE, &room, "/wait");
    stage.until_it_types(&room).await;
    until(folder, &waits, &["  it has not ended: it waits for its turn, or a plugin is at work on it\n"])
        .await;
    let stops = rooms.say(ALICE, &room, "/stop");
    stage.answer_to(&room, &stops).await;
    until(folder, &waits, &["  plugin naughty: cancelled: somebody stopped it, 20"]).await;
    until(folder, &stops, &["  host: done: it stops what runs, and no plugin has it, 20"]).await;

    for _ in 0..5 {
        let trapped = ask("/trap").await;
        until(folder, &trapped, &["  plugin naughty: faulted: it crashed: "]).await;
    }
    let rested = ask("/shout").await;
    until(
        folder,
        &rested,
        &["  plugin naughty: not called: it rests after too many faults, for 1 more min, 20"],
    )
    .await;

    // What a plugin says of an encrypted room stays there.
    rooms.encrypt(&room);
    let sealed = ask("/room !elsewhere:memory hello").await;
    let shown =
        until(folder, &sealed, &["  plugin deeds: refused: it said no (said in an encrypted room), 20"])
            .await;
    assert!(!shown.contains("elsewhere"), "{shown}");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_not_ended_is_told_without_a_host_and_what_was_given_up_with_the_reason() {
    let folder = folder();
    let folder = folder.path();
    let rooms = Rooms::new();
    let room = rooms.create_direct(ALICE, AGENT);
    let stage = host(folder, &rooms, &room).await;
    rooms.refuse(parlour::chat::SendError::Final {
        code: "M_FORBIDDEN".into(),
        reason: "not in this room".into(),
    });
    let lost = rooms.say(ALICE, &room, "/echo lost");
    let line = format!("    message to {room}: given up: M_FORBIDDEN: not in this room, 20");
    until(folder, &lost, &[&line]).await;
    let waits = rooms.say(ALICE, &room, "/wait");
    stage.until_it_types(&room).await;
    until(folder, &waits, &["  it has not ended: "]).await;
    stage.stop().await;
    let shown = why(folder, &waits);
    assert!(
        shown.ends_with("  it has not ended, and no host runs: it goes on at the next start\n"),
        "{shown}"
    );
    let said = parlour(folder, &["status"]);
    assert_eq!(said.status.code(), Some(1));
    assert_eq!(text(&said.stderr), "parlour: no host runs on data; `parlour run` starts one\n");
    let shown = text(&said.stdout);
    for line in [
        "agent agent: does not serve\n",
        "  waiting       1 events (the oldest came ",
        &format!("  last accepted {waits} in {room}, "),
        &format!("  last given up in {room}, "),
        "audit record: ",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    let said = parlour(folder, &["status", "--json"]);
    assert_eq!(said.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!((json["uptime_s"].is_null(), &json["agents"][0]["events_waiting"]), (true, &1.into()));
}
