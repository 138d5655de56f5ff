//! Which files of messages a plugin reads, and how much of them.

use std::sync::Arc;

use parlour::{
    chat::memory::message,
    event::{Attachment, AttachmentKind, MediaSource, Message},
    grant::Denied,
    manifest::Permission,
    notice::Notice,
    settings::{Grants, Media, Plugin},
};

use crate::{
    guests::{component, example, guest},
    stage::{AGENT, ALICE, Stage},
};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and so on";
const MIB: usize = 1024 * 1024;

async fn stage(media: Option<Media>) -> Stage {
    start(guest("media"), Plugin { grants: Grants { media, ..Grants::default() }, ..Plugin::default() }).await
}

async fn start(reader: Arc<[u8]>, plugin: Plugin) -> Stage {
    let guests = [("media", reader), ("echo", example("echo"))];
    Stage::start(&guests, |builder| builder.plugin_settings("media".parse().unwrap(), plugin)).await
}

async fn granted() -> Stage {
    stage(Some(Media::default())).await
}

/// A file as its sender declares it: without a size.
fn file(source: &MediaSource) -> Attachment {
    Attachment {
        kind: AttachmentKind::File,
        name: "file".into(),
        mime: None,
        size: None,
        duration: None,
        source: Some(source.clone()),
    }
}

/// Alice sends files with a caption, and this is what is said to it.
async fn ask(stage: &Stage, caption: &str, attachments: Vec<Attachment>) -> String {
    let asked = stage.rooms.post(ALICE, &stage.room, Message { attachments, ..message(caption) });
    stage.answer_to(&stage.room, &asked).await.text
}

async fn still_serves(stage: &Stage) {
    assert_eq!(stage.ask("/echo still here").await, "still here");
}

#[tokio::test]
async fn a_file_is_read_when_that_was_asked_for_and_granted() {
    let stage = granted().await;
    let note = stage.rooms.keep("remember me");
    assert_eq!(ask(&stage, "/text", vec![file(&note)]).await, "remember me");
    assert_eq!(ask(&stage, "/piece 9 100", vec![file(&note)]).await, "2 bytes: me");
    assert_eq!(ask(&stage, "/piece 11 100", vec![file(&note)]).await, "0 bytes: ");
    assert_eq!(ask(&stage, "/piece 4294967295 4294967295", vec![file(&note)]).await, "0 bytes: ");

    for (reader, media, why) in [
        (guest("media"), None, Denied::NotGranted(Permission::Media)),
        (component("media").into(), Some(Media::default()), Denied::NotAsked(Permission::Media)),
    ] {
        let plugin = Plugin { grants: Grants { media, ..Grants::default() }, ..Plugin::default() };
        let stage = start(reader, plugin).await;
        let note = stage.rooms.keep("remember me");
        let said = ask(&stage, "/text", vec![file(&note)]).await;
        assert_eq!(said, format!("ErrorKind::Denied: {why}"));
        let said = stage.noticed(&why.to_string()).await;
        assert!(matches!(said, Notice::PluginDenied { denied, .. } if denied == why));
        still_serves(&stage).await;
    }
}

/// 42: what a file is said to be, and what it is.
#[tokio::test]
async fn what_a_sender_declares_is_told_apart_from_what_there_is() {
    let stage = granted().await;
    let png = stage.rooms.keep(PNG);
    let liar = Attachment { mime: Some("text/plain".into()), ..file(&png) };
    let text = stage.rooms.keep("<svg onload=alert(1)>");
    let claims = Attachment { mime: Some("image/png".into()), ..file(&text) };
    assert_eq!(
        ask(&stage, "/look", vec![liar, claims]).await,
        "file: 18 bytes, says text/plain, is image/png; file: 21 bytes, says image/png, is nothing"
    );
    // No program that reads what a file contains was at work, so that nothing of it can be wrong.
    let bomb = [&b"PK\x03\x04"[..], &[0xff; 1000]].concat();
    let bomb = stage.rooms.keep(bomb);
    let said = ask(&stage, "/look", vec![file(&bomb)]).await;
    assert_eq!(said, "file: 1004 bytes, says nothing, is application/zip");
    still_serves(&stage).await;
}

/// 42: larger than declared, than granted, than one file may be, than all of a delivery may be.
#[tokio::test]
async fn a_file_has_a_size() {
    let stage = stage(Some(Media { bytes: Some(1000) })).await;
    let small = stage.rooms.keep(vec![7; 1000]);
    let large = stage.rooms.keep(vec![7; 1001]);
    let too_large = "ErrorKind::TooLarge: the file has more than";
    let declared = |source: &MediaSource, size| Attachment { size: Some(size), ..file(source) };
    assert!(ask(&stage, "/whole", vec![file(&small)]).await.starts_with("1000 bytes"));
    for (liar, than) in [
        (file(&large), 1000),
        (declared(&large, 1001), 1000),
        (declared(&large, 10), 10),
        (declared(&small, 0), 0),
        (declared(&small, u64::MAX), 1000),
    ] {
        assert_eq!(ask(&stage, "/whole", vec![liar]).await, format!("{too_large} {than} bytes"));
    }
    still_serves(&stage).await;

    // The twin, up to what any plugin may have.
    let stage = granted().await;
    let [large, most, more] = [1001, 32 * MIB, 32 * MIB + 1].map(|size| stage.rooms.keep(vec![7; size]));
    assert!(ask(&stage, "/whole", vec![file(&large)]).await.starts_with("1001 bytes"));
    let said = ask(&stage, "/look", vec![file(&more), file(&most), file(&most), file(&large)]).await;
    let said: Vec<_> = said.split("; ").collect();
    assert_eq!(said[0], format!("{too_large} {} bytes", 32 * MIB));
    let whole = format!("file: {} bytes, says nothing, is nothing", 32 * MIB);
    assert_eq!(said[1..3], [whole.as_str(), &whole]);
    assert_eq!(said[3], "ErrorKind::TooLarge: one delivery reads at most 64 MiB of files");
    // Of another delivery it is the first.
    assert!(ask(&stage, "/whole", vec![file(&large)]).await.starts_with("1001 bytes"));
}

#[tokio::test]
async fn a_large_file_arrives_in_pieces_and_whole() {
    let stage = granted().await;
    let bytes: Vec<u8> = (0..3 * MIB + 5).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let sum = bytes.iter().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte)));
    let kept = stage.rooms.keep(bytes);
    assert_eq!(ask(&stage, "/whole", vec![file(&kept)]).await, format!("{} bytes, sum {sum}", 3 * MIB + 5));
    let said = ask(&stage, "/piece 0 4294967295", vec![file(&kept)]).await;
    assert!(said.starts_with(&format!("{MIB} bytes")), "{said}");
}

/// A handle is of one delivery, and nobody makes one up.
#[tokio::test]
async fn nobody_elses_file_is_read() {
    let stage = granted().await;
    let note = stage.rooms.keep("remember me");
    let handle = ask(&stage, "/keep", vec![file(&note)]).await;
    let other = stage.rooms.keep("other");
    let nothing = "ErrorKind::NotFound: no file of this delivery has this handle";
    assert_eq!(ask(&stage, "/kept", vec![file(&other)]).await, nothing);
    assert_eq!(stage.ask("/kept").await, nothing);
    let guesses = [
        handle.as_str(),
        "0",
        "/0",
        note.as_str(),
        "mxc://example.org/abc",
        "../journal.db",
        "file:///etc/passwd",
    ];
    for guess in guesses {
        assert_eq!(ask(&stage, &format!("/named {guess}"), vec![file(&other)]).await, nothing, "{guess}");
    }
    let said = ask(&stage, "/look", vec![file(&other)]).await;
    assert_eq!(said, "file: 5 bytes, says nothing, is nothing");
    let nowhere = Attachment { source: None, ..file(&other) };
    assert_eq!(ask(&stage, "/look", vec![nowhere]).await, nothing);
}

#[tokio::test]
async fn a_file_that_is_gone_is_said_and_asked_for_so_often_and_no_more() {
    let stage = granted().await;
    let note = stage.rooms.keep("remember me");
    // What is there is fetched once.
    assert_eq!(ask(&stage, "/often 200", vec![file(&note)]).await, "200");
    stage.rooms.lose(&note);
    let gone = "ErrorKind::NotFound: the file is not there: M_NOT_FOUND";
    assert_eq!(ask(&stage, "/text", vec![file(&note)]).await, gone);
    assert_eq!(
        ask(&stage, "/often 200", vec![file(&note)]).await,
        "64, and then ErrorKind::TooLarge: one delivery downloads at most 64 files"
    );
    still_serves(&stage).await;
}

/// The files of all deliveries together are held in a bounded memory, and nobody waits there for ever.
#[tokio::test]
async fn files_are_read_side_by_side() {
    let stage = granted().await;
    let large = stage.rooms.keep(vec![7; 30 * MIB]);
    let rooms: Vec<_> = (0..8).map(|_| stage.rooms.create_direct(ALICE, AGENT)).collect();
    let asked: Vec<_> = rooms
        .iter()
        .map(|room| {
            let attachments = vec![file(&large)];
            stage.rooms.post(ALICE, room, Message { attachments, ..message("/piece 0 10") })
        })
        .collect();
    for (room, asked) in rooms.iter().zip(&asked) {
        let said = stage.answer_to(room, asked).await.text;
        assert!(said.starts_with("10 bytes"), "{said}");
    }
}
