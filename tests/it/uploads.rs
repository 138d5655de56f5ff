//! Which files a plugin sends, and where to.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use parlour::{
    Agent,
    chat::{
        SendError,
        memory::{File, Line, Rooms, message},
    },
    engine::limits::Limits,
    event::{Attachment, AttachmentKind, Message},
    grant::Denied,
    id::RoomId,
    manifest::Permission,
    notice::Notice,
    settings::{Grants, Media},
};

use crate::{
    guests::{component, example, guest},
    stage::{AGENT, ALICE, BOB, Stage, access, granted},
};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and so on";
const MIB: usize = 1024 * 1024;

async fn stage(grants: Grants) -> Stage {
    start(guest("media"), grants).await
}

async fn start(sender: Arc<[u8]>, grants: Grants) -> Stage {
    let guests = [("media", sender), ("echo", example("echo"))];
    // Large files are copied by a debug build.
    let limits = Limits { cpu: Duration::from_secs(20), ..Limits::default() };
    Stage::start(&guests, |builder| {
        builder.limits(limits).plugin_settings("media".parse().unwrap(), granted(grants))
    })
    .await
}

fn may() -> Grants {
    Grants { media: Some(Media::default()), ..Grants::default() }
}

/// What the agent sends next after Alice asks for it.
async fn sent(stage: &Stage, text: &str) -> (Line, File) {
    sent_with(stage, text, vec![]).await
}

async fn sent_with(stage: &Stage, text: &str, attachments: Vec<Attachment>) -> (Line, File) {
    let asked = stage.rooms.post(ALICE, &stage.room, Message { attachments, ..message(text) });
    let line = stage.answer_to(&stage.room, &asked).await;
    let file = line.file.clone().unwrap_or_else(|| panic!("no file, but {:?}", line.text));
    (line, file)
}

/// A file of Alice's.
fn attached(stage: &Stage, bytes: &[u8], name: &str, mime: Option<&str>) -> Attachment {
    Attachment {
        kind: AttachmentKind::Image,
        name: name.into(),
        mime: mime.map(Into::into),
        size: None,
        duration: None,
        source: Some(stage.rooms.keep(bytes.to_vec())),
    }
}

async fn still_serves(stage: &Stage) {
    assert_eq!(stage.ask("/echo still here").await, "still here");
}

/// Waits for a file in a room.
async fn arrives(stage: &Stage, room: &RoomId) -> File {
    let lines = stage.until(room, |lines| lines.iter().any(|line| line.file.is_some())).await;
    lines.into_iter().find_map(|line| line.file).unwrap()
}

#[tokio::test]
async fn a_file_is_sent_when_that_was_asked_for_and_granted() {
    let here = stage(may()).await;
    let (line, file) = sent(&here, "/send here remember me").await;
    assert_eq!((line.text.as_str(), &file.bytes[..]), ("note.txt", &b"remember me"[..]));
    assert_eq!((file.mime.as_str(), file.kind), ("text/plain", AttachmentKind::File));

    for (sender, media, why) in [
        (guest("media"), None, Denied::NotGranted(Permission::Media)),
        (component("media").into(), Some(Media::default()), Denied::NotAsked(Permission::Media)),
    ] {
        let stage = start(sender, Grants { media, ..Grants::default() }).await;
        for ask in ["/send here remember me", "/call a.txt - remember"] {
            assert_eq!(stage.ask(ask).await, format!("ErrorKind::Denied: {why}"));
        }
        stage.noticed(&why.to_string()).await;
        assert_eq!(stage.rooms.files(), 0);
        still_serves(&stage).await;
    }
}

#[tokio::test]
async fn a_file_goes_where_messages_may_go() {
    for granted in [false, true] {
        let all = || if granted { ["*".to_owned()].into() } else { [].into() };
        let stage = stage(Grants { rooms: all(), people: all(), ..may() }).await;
        let other = stage.rooms.create_direct(ALICE, AGENT);
        let bobs = stage.rooms.create_direct(BOB, AGENT);
        for (to, room) in [(other.as_str(), &other), (BOB, &bobs)] {
            let said = stage.ask(&format!("/send {to} remember me")).await;
            assert_eq!(said == "sent", granted, "{said}");
            assert_eq!(said.starts_with("ErrorKind::Denied"), !granted, "{said}");
            if granted {
                assert_eq!(&arrives(&stage, room).await.bytes[..], b"remember me");
            }
        }
        assert_eq!(stage.ask("/send home x").await, "ErrorKind::NotFound: no home is set");
        assert_eq!(stage.rooms.files(), if granted { 2 } else { 0 });
    }
}

/// What is sent is what it is, and nothing that a client would run.
#[tokio::test]
async fn a_file_is_named_and_typed_by_what_it_is() {
    let stage = stage(may()).await;
    for (ask, name, mime) in [
        ("/call table.csv text/csv one,two", "table.csv", "text/csv"),
        ("/call ../../a/b.json application/json {}", "b.json", "application/json"),
        ("/call in\u{202e}gnp\\n.exe - words", "ingnp .exe", "application/octet-stream"),
        ("/call .. - words", "file", "application/octet-stream"),
        ("/call a.png image/png words", "a.png", "application/octet-stream"),
        (
            "/call a.svg image/svg+xml <svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
            "a.svg",
            "application/octet-stream",
        ),
        (
            "/call a.html text/html <!DOCTYPE html><script>alert(1)</script>",
            "a.html",
            "application/octet-stream",
        ),
    ] {
        let (line, file) = sent(&stage, ask).await;
        assert_eq!((file.name.as_str(), file.mime.as_str()), (name, mime), "{ask}");
        assert_eq!((file.kind, line.text.as_str()), (AttachmentKind::File, name));
    }

    // One that came goes on as what it is.
    for (bytes, declared, mime, kind) in [
        (PNG, Some("text/html"), "image/png", AttachmentKind::Image),
        (&b"words"[..], Some("text/plain; charset=utf-8"), "text/plain", AttachmentKind::File),
        (b"words", Some("nonsense"), "application/octet-stream", AttachmentKind::File),
        (b"<svg onload=alert(1)>", Some("image/svg+xml"), "application/octet-stream", AttachmentKind::File),
    ] {
        let came = attached(&stage, bytes, "folder/it\u{1b}.bin", declared);
        let (line, file) = sent_with(&stage, "/send here *look*", vec![came]).await;
        assert_eq!((file.mime.as_str(), file.kind, &file.bytes[..]), (mime, kind, bytes), "{declared:?}");
        assert_eq!((line.text.as_str(), file.name.as_str()), ("*look*", "it.bin"));
    }
    let gone = attached(&stage, b"words", "it", None);
    stage.rooms.lose(gone.source.as_ref().unwrap());
    let asked =
        stage.rooms.post(ALICE, &stage.room, Message { attachments: vec![gone], ..message("/send here") });
    let said = stage.answer_to(&stage.room, &asked).await.text;
    assert_eq!(said, "ErrorKind::NotFound: the file is not there: M_NOT_FOUND");
}

#[tokio::test]
async fn what_is_done_wrong_is_told() {
    let stage = stage(may()).await;
    let nowhere = "ErrorKind::NotFound: no file of this delivery has this handle";
    let asked = stage.rooms.say(ALICE, &stage.room, "/misuse");
    let lines = stage.until(&stage.room, |lines| lines.len() == 3).await;
    assert_eq!(lines[0].id, asked);
    assert!(lines[1].file.is_some());
    let told: Vec<_> = lines[2].text.lines().collect();
    assert_eq!(
        told,
        [
            nowhere,
            "ErrorKind::TooLarge: one call appends at most 1 MiB",
            "ErrorKind::Invalid: a media type is two words, such as `text/csv`",
            "ErrorKind::Invalid: a file that is sent has something in it",
            nowhere,
            "ErrorKind::Invalid: a message says something",
            nowhere,
            "well",
            "ErrorKind::Invalid: this file was sent as it is",
            "well",
        ]
    );
    still_serves(&stage).await;
}

/// In size, in number, and in a minute.
#[tokio::test]
async fn so_much_is_made_and_no_more() {
    let small = stage(Grants { media: Some(Media { bytes: Some(1000) }), ..Grants::default() }).await;
    let too_large = "ErrorKind::TooLarge: the file has more than";
    assert_eq!(sent(&small, "/large 1000").await.1.bytes.len(), 1000);
    assert_eq!(small.ask("/large 1001").await, format!("{too_large} 1000 bytes"));
    still_serves(&small).await;

    let stage = stage(may()).await;
    assert_eq!(sent(&stage, "/large 1001").await.1.bytes.len(), 1001);
    assert_eq!(sent(&stage, &format!("/large {}", 32 * MIB)).await.1.bytes.len(), 32 * MIB);
    assert_eq!(
        stage.ask(&format!("/large {}", 32 * MIB + 1)).await,
        format!("{too_large} {} bytes", 32 * MIB)
    );
    let all = "2, and then ErrorKind::TooLarge: one delivery holds at most 64 MiB of files";
    assert_eq!(stage.ask(&format!("/several 3 {}", 31 * MIB)).await, all);
    // What came counts, too.
    let came = attached(&stage, &vec![7; 32 * MIB], "it", None);
    let asked = Message { attachments: vec![came], ..message(&format!("/several 2 {}", 20 * MIB)) };
    let asked = stage.rooms.post(ALICE, &stage.room, asked);
    assert_eq!(stage.answer_to(&stage.room, &asked).await.text, "2");
    assert_eq!(stage.ask("/several 32 1").await, "32");
    let many = "32, and then ErrorKind::TooLarge: one delivery makes at most 32 files";
    assert_eq!(stage.ask("/several 33 1").await, many);
    assert_eq!(stage.ask("/several 33 0").await, many, "empty ones are files, too");
    still_serves(&stage).await;
}

/// They are on the disk.
#[tokio::test]
async fn so_much_waits_to_be_sent_and_no_more() {
    let stage = stage(Grants { rooms: ["*".to_owned()].into(), ..may() }).await;
    let other = stage.rooms.create_direct(ALICE, AGENT);
    let later = Duration::from_secs(3600);
    stage.rooms.refuse_file(SendError::Later { after: Some(later), reason: "later".into() });
    let came = attached(&stage, &vec![7; 32 * MIB], "it", None);
    let mut said = Vec::new();
    for _ in 0..9 {
        let asked = Message { attachments: vec![came.clone()], ..message(&format!("/send {other}")) };
        let asked = stage.rooms.post(ALICE, &stage.room, asked);
        said.push(stage.answer_to(&stage.room, &asked).await.text);
    }
    assert_eq!(said[..8], vec!["sent"; 8]);
    assert_eq!(said[8], "ErrorKind::Unavailable: too many files of this plugin wait to be sent");
    still_serves(&stage).await;
}

#[tokio::test]
async fn files_count_as_messages_within_a_minute() {
    // The first one is an answer, which is free.
    for most in [1, 2] {
        let stage = stage(Grants { messages_per_minute: NonZeroU32::new(most), ..may() }).await;
        stage.rooms.say(ALICE, &stage.room, "/burst 3");
        if most == 2 {
            stage
                .until(&stage.room, |lines| lines.iter().filter(|line| line.file.is_some()).count() == 3)
                .await;
        } else {
            stage.noticed("this plugin says too much in one room within a minute").await;
            assert_eq!(stage.rooms.files(), 0);
        }
    }
}

#[tokio::test]
async fn a_handler_that_does_not_end_well_sends_no_file() {
    let stage = stage(may()).await;
    assert_eq!(stage.ask("/fail it is no use").await, "/fail: it is no use");
    assert!(stage.ask("/crash").await.starts_with("/crash: stopped: "));
    still_serves(&stage).await;
    assert_eq!(stage.rooms.files(), 0);
    assert!(stage.rooms.transcript(&stage.room).iter().all(|line| line.file.is_none()));
}

/// A tool sends with its own grant, counts with its caller's end, and knows nothing of its caller's files.
#[tokio::test]
async fn a_tool_sends_a_file_of_its_own() {
    for media in [None, Some(Media::default())] {
        let may_send = media.is_some();
        let guests = [("caller", guest("media")), ("media", guest("media")), ("handy", guest("handy"))];
        let rooms = Rooms::new();
        let room = rooms.create_direct(ALICE, AGENT);
        let agent = Agent::new("agent".parse().unwrap(), rooms.account(AGENT)).access(access());
        let agent = agent.plugins(vec!["caller", "media", "handy"]);
        let stage = Stage::start_with(rooms, room, agent, &guests, |builder| {
            let tools = Grants { tools: ["*".to_owned()].into(), ..may() };
            let own = Grants { media, ..Grants::default() };
            builder
                .plugin_settings("caller".parse().unwrap(), granted(tools.clone()))
                .plugin_settings("media".parse().unwrap(), granted(own))
                .plugin_settings("handy".parse().unwrap(), granted(Grants { media: None, ..tools }))
        })
        .await;
        if !may_send {
            let said = stage.ask(r#"/use media.write {"text":"hello"}"#).await;
            assert!(said.contains("ErrorKind::Denied"), "{said}");
            assert_eq!(stage.rooms.files(), 0);
            continue;
        }
        let (_, file) = sent(&stage, r#"/use media.write {"text":"hello"}"#).await;
        assert_eq!((file.name.as_str(), &file.bytes[..]), ("tool.txt", &b"hello"[..]));
        let before = stage.rooms.files();
        let said = stage.ask(r#"/use media.half {"text":"hello"}"#).await;
        assert!(said.contains("it only begins"), "{said}");
        let said = stage.ask("/lend media.pass").await;
        assert!(said.starts_with("made/") && said.contains("; ErrorKind::NotFound: no file"), "{said}");
        assert_eq!(stage.rooms.files(), before);
    }
}

#[tokio::test]
async fn a_file_is_a_message_but_is_not_edited() {
    let stage = stage(may()).await;
    let unsupported =
        "ErrorKind::Unsupported: a file and its caption are not edited: remove the message, and send another";
    let asked = stage.rooms.say(ALICE, &stage.room, "/share");
    let lines = stage.until(&stage.room, |lines| lines.len() == 3).await;
    let (shared, told) = (&lines[1], &lines[2]);
    assert_eq!((shared.reply_to.as_ref(), told.text.as_str()), (Some(&asked), unsupported));
    assert!(shared.file.is_some());
    assert_eq!(stage.ask("/change it").await, unsupported);
    assert_eq!(stage.ask(&format!("/change {}", shared.id)).await, unsupported);
    assert_eq!(stage.ask(&format!("/change {}", told.id)).await, "changed");
    assert_eq!(stage.ask("/remove").await, "removed");
    let lines = stage.rooms.transcript(&stage.room);
    assert!(lines[1].redacted && lines[1].edits == 0 && lines[1].file.is_none());
}

#[tokio::test]
async fn a_draft_goes_when_a_file_comes() {
    let stage = stage(may()).await;
    stage.rooms.say(ALICE, &stage.room, "/draft");
    let done = |lines: &[Line]| lines.iter().any(|line| line.file.is_some());
    let lines = stage.until(&stage.room, done).await;
    still_serves(&stage).await;
    let drafts =
        stage.rooms.transcript(&stage.room).into_iter().filter(|line| line.text == "a moment").count();
    assert_eq!(drafts, 0, "{lines:#?}");
}

/// The server's word on the size of a file is the last; anything else is tried again.
#[tokio::test]
async fn what_the_server_does_not_take_is_said_once_and_the_next_goes() {
    let stage = stage(may()).await;
    let reason = "the file has 11 bytes, and the server takes 10".to_owned();
    stage.rooms.refuse_file(SendError::Final { code: "M_TOO_LARGE".into(), reason: reason.clone() });
    stage.rooms.say(ALICE, &stage.room, "/send here remember me");
    let said = stage.noticed(&reason).await;
    assert!(matches!(&said, Notice::NotSent { .. }), "{said:?}");
    stage.rooms.refuse_file(SendError::Later { after: None, reason: "busy".into() });
    let (_, file) = sent(&stage, "/send here again").await;
    assert_eq!(&file.bytes[..], b"again");
    still_serves(&stage).await;
    let of_it = |notice: &Notice| notice.to_string().contains(&reason);
    assert_eq!(stage.notices().iter().filter(|notice| of_it(notice)).count(), 1);
    assert_eq!(stage.rooms.transcript(&stage.room).iter().filter(|line| line.file.is_some()).count(), 1);
}
