//! A past event again: what is kept of it, for how long, and that nothing comes of it.

use std::{fs, path::Path, time::Duration};

use parlour::{
    Agent,
    chat::memory::{Rooms, message},
    event::{Attachment, AttachmentKind, MediaSource, Message},
    id::EventId,
    journal::sqlite::Sqlite,
};

use crate::{
    answers::Counting,
    audit::{parlour, text},
    guests::{guest, patched},
    stage::{AGENT, ALICE, PATIENCE, Stage, access},
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A host in a folder as `parlour run` has it, which keeps what has ended for so long.
async fn host(folder: &Path, rooms: &Rooms, room: &parlour::id::RoomId, keep: Duration) -> Stage {
    let settings = parlour::settings::load(&folder.join("parlour.toml")).unwrap();
    let agent = Agent::new("agent".parse().unwrap(), rooms.account(AGENT)).access(access());
    Stage::start_with(rooms.clone(), room.clone(), agent, &[], |builder| {
        let plugin = settings.plugins.values().next().unwrap().clone();
        builder
            .plugin_settings("errand".parse().unwrap(), plugin)
            .plugin_folder(folder.join("plugins"))
            .lock(folder.join("parlour.lock"), folder.join("data/plugins"))
            .journal(Sqlite::open(folder.join("data/journal.db")).unwrap())
            .secret(folder.join("data/secret"))
            .keep(keep)
    })
    .await
}

fn folder(web: &Counting) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let settings =
        format!("[plugins.errand.grants]\nhttp = [\"{}\"]\nmedia = true\ntimers = true\n", web.origin());
    fs::write(folder.path().join("parlour.toml"), settings).unwrap();
    fs::create_dir_all(folder.path().join("plugins")).unwrap();
    fs::write(folder.path().join("plugins/errand.wasm"), guest("errand")).unwrap();
    folder
}

/// The program's exit code, and all that it says.
fn replay(folder: &Path, event: &EventId, arguments: &[&str]) -> (i32, String) {
    let output = parlour(folder, &[&["replay", event.as_str()], arguments].concat());
    (output.status.code().unwrap(), [text(&output.stdout), text(&output.stderr)].concat())
}

async fn asked(stage: &Stage, rooms: &Rooms, room: &parlour::id::RoomId, steps: &str) -> (EventId, String) {
    let event = rooms.say(ALICE, room, &format!("/errand {steps}"));
    let answer = stage.answer_to(room, &event).await.text;
    (event, answer)
}

#[tokio::test]
async fn an_event_is_run_again_by_the_same_and_by_another_version() {
    let web = Counting::start().await;
    let folder = folder(&web);
    let folder = folder.path();
    let rooms = Rooms::new();
    let room = rooms.create_direct(ALICE, AGENT);
    let stage = host(folder, &rooms, &room, DAY).await;
    let url = web.origin();
    let steps = format!("count n | post {url}/a | draw | time");
    let (event, answer) = asked(&stage, &rooms, &room, &steps).await;
    let (quiet, _) = asked(&stage, &rooms, &room, "count n").await;
    let said = rooms.transcript(&room).len();

    // While the host runs, and what remembers has gone on since.
    let (code, same) = replay(folder, &event, &[]);
    assert_eq!(code, 0, "{same}");
    assert!(same.contains("the same as then") && same.contains(" ms of CPU time"), "{same}");
    assert!(same.contains(&format!(": {answer}\n")), "{same}");
    assert!(same.contains("errand: remembers n (Plugin) = 1"), "{same}");
    assert_eq!(replay(folder, &quiet, &[]).0, 0, "of one that asks nobody outside");

    let newer = patched(&guest("errand"), "version-1", "version-2");
    fs::write(folder.join("newer.wasm"), &newer).unwrap();
    let (code, differs) = replay(folder, &event, &["--with", "newer.wasm"]);
    assert_eq!(code, 1, "{differs}");
    let other = answer.replace("version-1", "version-2");
    assert!(differs.contains(&format!("  - errand: says in {room}: {answer}\n")), "{differs}");
    assert!(differs.contains(&format!("  + errand: says in {room}: {other}\n")), "{differs}");
    // What was never asked is asked of nobody.
    fs::write(folder.join("posts.wasm"), patched(&guest("errand"), "what is posted", "what it posts!"))
        .unwrap();
    let (code, unknown) = replay(folder, &event, &["--with", "posts.wasm"]);
    assert_eq!(code, 1, "{unknown}");
    assert!(unknown.contains(&format!("! never asked then: http: POST {url}")), "{unknown}");
    assert_eq!(web.heard("").len(), 1);

    let (code, json) = replay(folder, &event, &["--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &json[0]["same"], &json[0]["plugin"]), (0, &true.into(), &"errand".into()));
    for (arguments, expected) in [
        (&["--plugin", "echo"][..], "plugin echo did not handle"),
        (&["--with", "parlour.toml"], "plugin errand: "),
        (&["--with", "nowhere.wasm"], "nowhere.wasm"),
    ] {
        let (code, line) = replay(folder, &event, arguments);
        assert!(code == 2 && line.lines().count() == 1 && line.contains(expected), "{line}");
    }
    // Nothing came of all that.
    assert_eq!(rooms.transcript(&room).len(), said);
    assert_eq!(asked(&stage, &rooms, &room, "count n").await.1, "version-1 3");
    let unheard: EventId = "$never".parse().unwrap();
    let (code, line) = replay(folder, &unheard, &[]);
    assert!(
        code == 2 && line.starts_with("parlour: nothing is kept of $never: ") && line.lines().count() == 1,
        "{line}"
    );
}

#[tokio::test]
async fn what_failed_then_fails_now() {
    let web = Counting::start().await;
    let folder = folder(&web);
    let folder = folder.path();
    let rooms = Rooms::new();
    let room = rooms.create_direct(ALICE, AGENT);
    let stage = host(folder, &rooms, &room, DAY).await;
    let url = web.origin();
    let (event, answer) = asked(&stage, &rooms, &room, &format!("get {url}/cut | get {url}/half")).await;
    assert!(answer.starts_with("version-1 error: ErrorCode::HttpProtocolError; error: "), "{answer}");
    let (code, same) = replay(folder, &event, &[]);
    assert!(code == 0 && same.contains("the same as then"), "{same}");
}

#[tokio::test]
async fn who_was_first_then_is_first_now() {
    let web = Counting::start().await;
    let folder = folder(&web);
    let folder = folder.path();
    let rooms = Rooms::new();
    let room = rooms.create_direct(ALICE, AGENT);
    let stage = host(folder, &rooms, &room, DAY).await;
    let url = web.origin();
    let steps = format!("race {url}/after {url}/quick | hurry 100 {url}/hold | look-at {url}/there");
    let (event, answer) = asked(&stage, &rooms, &room, &steps).await;
    assert!(answer.starts_with("version-1 1 was first of 200 "), "{answer}");
    assert!(answer.ends_with("; too late; 200 and no more"), "{answer}");
    let (code, same) = replay(folder, &event, &[]);
    assert!(code == 0 && same.contains("the same as then"), "{same}");
    // Another version waits for other things.
    fs::write(folder.join("newer.wasm"), patched(&guest("errand"), "version-1", "version-2")).unwrap();
    let (code, other) = replay(folder, &event, &["--with", "newer.wasm"]);
    assert!(code == 1 && other.contains("version-2 "), "{other}");
}

/// Which message had a name then is kept, too.
#[tokio::test]
async fn what_a_name_meant_then_is_meant_by_it() {
    let web = Counting::start().await;
    let folder = folder(&web);
    let folder = folder.path();
    let rooms = Rooms::new();
    let room = rooms.create_direct(ALICE, AGENT);
    let stage = host(folder, &rooms, &room, DAY).await;
    let (named, _) = asked(&stage, &rooms, &room, "name it").await;
    let (event, _) = asked(&stage, &rooms, &room, "edit it").await;
    let message = stage.answer_to(&room, &named).await.id;
    let (by_id, _) = asked(&stage, &rooms, &room, &format!("alter {message}")).await;
    let said = stage.transcript(&room);
    assert!(said.contains("said otherwise"), "{said}");
    asked(&stage, &rooms, &room, "name it").await;
    let (code, same) = replay(folder, &event, &[]);
    assert!(code == 0 && same.contains("the same as then"), "{same}");
    let (code, same) = replay(folder, &by_id, &[]);
    assert!(code == 0 && same.contains("the same as then"), "{same}");

    // Another version is told the same.
    let newer = patched(&guest("errand"), "version-1", "version-2");
    fs::write(folder.join("newer.wasm"), &newer).unwrap();
    let (code, differs) = replay(folder, &event, &["--with", "newer.wasm"]);
    assert!(code == 1 && !differs.contains("never asked then"), "{differs}");
}

#[tokio::test]
async fn what_has_ended_is_forgotten_when_its_time_is_over() {
    let web = Counting::start().await;
    let folder = folder(&web);
    let folder = folder.path();
    let rooms = Rooms::new();
    let room = rooms.create_direct(ALICE, AGENT);
    let first = host(folder, &rooms, &room, DAY).await;
    let (event, _) = asked(&first, &rooms, &room, &format!("get {}/a", web.origin())).await;
    first.stop().await;
    assert_eq!(replay(folder, &event, &[]).0, 0);
    // Its text is on disk for as long as that.
    let on_disk = || {
        let files = ["journal.db", "journal.db-wal"].map(|name| fs::read(folder.join("data").join(name)));
        files.into_iter().flatten().any(|file| file.windows(8).any(|some| some == b"/errand "))
    };
    assert!(on_disk());
    let second = host(folder, &rooms, &room, Duration::from_millis(1)).await;
    let gone = async {
        while replay(folder, &event, &[]).0 != 2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
    second.stop().await;
    assert!(!on_disk(), "nor is anything left in free pages");

    // Where nothing is kept, nothing is.
    let third = host(folder, &rooms, &room, Duration::ZERO).await;
    let (event, _) = asked(&third, &rooms, &room, &format!("post {}/a", web.origin())).await;
    assert_eq!(replay(folder, &event, &[]).0, 2);
    third.stop().await;
    assert!(!on_disk());
}

#[tokio::test]
async fn files_and_timers_are_told_in_words_and_found_as_they_were() {
    let web = Counting::start().await;
    let folder = folder(&web);
    let folder = folder.path();
    let rooms = Rooms::new();
    let room = rooms.create_direct(ALICE, AGENT);
    let stage = host(folder, &rooms, &room, DAY).await;
    let (set, next) = asked(&stage, &rooms, &room, "remind standup").await;
    let next = next.replace("version-1 ", "");
    let (cancelled, answer) = asked(&stage, &rooms, &room, "forget standup | forget standup").await;
    assert_eq!(answer, "version-1 true; false");
    let (unset, answer) = asked(&stage, &rooms, &room, "forget standup").await;
    assert_eq!(answer, "version-1 false");
    asked(&stage, &rooms, &room, "remind standup").await;
    // With a file of Alice's, whose key nobody needs any more.
    let attachment = Attachment {
        kind: AttachmentKind::Image,
        name: "a.png".into(),
        mime: None,
        size: None,
        duration: None,
        source: Some(MediaSource::new("where it is, and its key")),
    };
    let sent = rooms.post(
        ALICE,
        &room,
        Message { attachments: vec![attachment], ..message("/errand file note.txt") },
    );
    stage.until(&room, |lines| lines.last().is_some_and(|line| line.text == "version-1 a file")).await;

    for (event, words) in [
        (&set, format!("errand: sets the timer standup at {next}: to be done")),
        (&cancelled, "errand: cancels the timer standup".into()),
        (&unset, "version-1 false".into()),
        (&sent, format!("errand: sends to {room} note.txt (text/plain, 13 bytes, ")),
    ] {
        let (code, same) = replay(folder, event, &[]);
        assert!(code == 0 && same.contains(&words), "{same}");
    }
    stage.stop().await;
    let data = fs::read(folder.join("data/journal.db")).unwrap();
    let has = |what: &[u8]| data.windows(what.len()).any(|some| some == what);
    assert!(has(b"/errand file note.txt") && !has(b"its key"));
}
