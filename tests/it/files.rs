//! Which files a plugin sees: those of one folder, as far as it was granted.

use std::{fs, os::unix::fs::symlink, path::Path, time::Duration};

use parlour::{
    engine::limits::Limits,
    settings::{self, Grants, Plugin},
};

use crate::{
    guests::{example, guest},
    stage::{AGENT, ALICE, Stage},
};

async fn stage(folder: &Path, write: bool, bytes: Option<u64>) -> Stage {
    let files = settings::Files { folder: folder.to_owned(), write, bytes };
    granted(Grants { files: Some(files), ..Grants::default() }).await
}

async fn granted(grants: Grants) -> Stage {
    let guests = [("files", guest("files")), ("echo", example("echo"))];
    let plugin = Plugin { grants, ..Plugin::default() };
    Stage::start(&guests, |builder| builder.plugin_settings("files".parse().unwrap(), plugin)).await
}

async fn still_serves(stage: &Stage) {
    assert_eq!(stage.ask("/echo still here").await, "still here");
}

#[tokio::test]
async fn a_folder_is_seen_when_it_was_granted_and_written_to_when_that_was() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("note"), "remember me").unwrap();

    let nothing = granted(Grants::default()).await;
    assert!(nothing.ask("/read /files/note").await.starts_with("error: "));
    let reading = stage(folder.path(), false, None).await;
    assert_eq!(reading.ask("/read /files/note").await, "remember me");
    assert_eq!(reading.ask("/list /files").await, "[note]");
    for attempt in [
        "/write /files/note mine",
        "/remove /files/note",
        "/rename /files/note /files/mine",
        "/fill 1 /files/new",
    ] {
        assert!(reading.ask(attempt).await.starts_with("error: "), "{attempt}");
    }
    assert_eq!(fs::read_to_string(folder.path().join("note")).unwrap(), "remember me");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

    let writing = stage(folder.path(), true, None).await;
    for attempt in [
        "/write /files/new mine",
        "/rename /files/new /files/newer",
        "/remove /files/note",
        "/fill 100000 /files/large",
    ] {
        assert_eq!(writing.ask(attempt).await, "done", "{attempt}");
    }
    assert_eq!(writing.ask("/list /files").await, "[large newer]");
    assert_eq!(fs::read_to_string(folder.path().join("newer")).unwrap(), "mine");
    assert_eq!(fs::metadata(folder.path().join("large")).unwrap().len(), 100_000);
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let stage = stage(&folder.path().join("nowhere"), false, None).await;
    assert!(stage.ask("/read /files/note").await.starts_with("error: "));
    stage.noticed("nowhere: No such file").await;
    still_serves(&stage).await;
}

/// 25: every way out of the folder.
#[tokio::test]
async fn nothing_leads_out_of_the_folder() {
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret");
    fs::write(&secret, "kept").unwrap();
    let folder = outside.path().join("inside");
    fs::create_dir(&folder).unwrap();
    symlink(&secret, folder.join("absolute")).unwrap();
    symlink("../secret", folder.join("relative")).unwrap();
    symlink("..", folder.join("up")).unwrap();
    let pipe = std::process::Command::new("mkfifo").arg(folder.join("pipe")).status().unwrap();
    assert!(pipe.success());
    fs::write(folder.join("own"), "own").unwrap();

    let stage = stage(&folder, true, None).await;
    let path = secret.display();
    for attempt in [
        format!("/read {path}"),
        format!("/read /files/{path}"),
        "/read /files/../secret".into(),
        "/read /files/x/../../secret".into(),
        "/read /files/absolute".into(),
        "/read /files/relative".into(),
        "/read /files/up/secret".into(),
        "/read /files/own/".into(),
        "/read /files/pipe".into(),
        "/read /proc/self/environ".into(),
        "/list /files/up".into(),
        "/list /".into(),
        "/write /files/relative mine".into(),
        "/write /files/../other mine".into(),
        "/write /files/pipe mine".into(),
        "/rename /files/own /files/../own".into(),
        "/remove /files/../secret".into(),
        "/link /files/own /files/second".into(),
        "/symlink /etc/passwd here".into(),
        "/symlink ../secret here".into(),
    ] {
        let said = stage.ask(&attempt).await;
        assert!(said.starts_with("error: "), "{attempt}: {said}");
    }
    assert_eq!(fs::read_to_string(&secret).unwrap(), "kept");
    assert!(!outside.path().join("other").exists() && !folder.join("here").is_symlink());
    assert_eq!(stage.ask("/read /files/own").await, "own");
    still_serves(&stage).await;
}

/// 9: each file that is open is one of the host's.
#[tokio::test]
async fn so_many_files_are_open_at_once() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("note"), "remember me").unwrap();
    let stage = stage(folder.path(), false, None).await;
    assert_eq!(stage.ask("/hold 10 /files/note").await, "10");
    assert_eq!(stage.ask("/hold 1000 /files/note").await, "32");
    still_serves(&stage).await;
}

/// 26: a folder has a size.
#[tokio::test]
async fn a_folder_is_not_filled() {
    // The guests' C library says of every stream that fails that it failed.
    let full = |said: String| assert!(said.contains("o space left") || said.contains("I/O error"), "{said}");
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let stage = stage(folder.path(), true, Some(1_000_000)).await;
    assert_eq!(stage.ask("/fill 600000 /files/one").await, "done");
    full(stage.ask("/fill 600000 /files/two").await);
    assert!(fs::metadata(at("two")).unwrap().len() < 400_000);
    fs::remove_file(at("two")).unwrap();
    full(stage.ask("/grow 600000 /files/three").await);
    full(stage.ask("/sparse 1000000000000 /files/four").await);
    full(stage.ask("/litter 1000").await);
    let sizes = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
    assert!(sizes.sum::<u64>() <= 1_000_000);
    // What is removed is free again.
    assert_eq!(stage.ask("/remove /files/one").await, "done");
    assert_eq!(stage.ask("/fill 300000 /files/five").await, "done");
    still_serves(&stage).await;
    // The twin.
    let more = self::stage(folder.path(), true, Some(10_000_000)).await;
    for attempt in
        ["/fill 600000 /files/two", "/grow 600000 /files/three", "/sparse 1000000 /files/four", "/litter 500"]
    {
        assert_eq!(more.ask(attempt).await, "done", "{attempt}");
    }
}

/// 26: a file without a name takes room as long as it is open.
#[tokio::test]
async fn a_file_without_a_name_is_counted_while_it_is_open() {
    let folder = tempfile::tempdir().unwrap();
    let stage = stage(folder.path(), true, Some(1_000_000)).await;
    for how in ["remove", "rename", "read"] {
        assert_eq!(stage.ask(&format!("/hide 300000 {how}")).await, "3", "{how}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
    // Nobody has them open any more.
    assert_eq!(stage.ask("/fill 900000 /files/one").await, "done");
    still_serves(&stage).await;
    // The twin.
    let more = self::stage(folder.path(), true, Some(10_000_000)).await;
    assert_eq!(more.ask("/hide 300000 remove").await, "10");
}

/// 37: a file that is touched now says what time it is.
#[tokio::test]
async fn when_a_file_was_changed_is_rounded_as_the_clocks_are() {
    let folder = tempfile::tempdir().unwrap();
    for (clock, coarse) in [(Duration::from_millis(1), true), (Duration::from_nanos(1), false)] {
        let files = settings::Files { folder: folder.path().to_owned(), write: true, bytes: None };
        let plugin =
            Plugin { grants: Grants { files: Some(files), ..Grants::default() }, ..Plugin::default() };
        let stage = Stage::start(&[("files", guest("files"))], |builder| {
            let limits = Limits { clock, cpu: Duration::from_secs(1), ..Limits::default() };
            builder.plugin_settings("files".parse().unwrap(), plugin).limits(limits)
        })
        .await;
        let mut exact = 0;
        for number in 0..5 {
            stage.ask(&format!("/write /files/{number} x")).await;
            let changed: u32 = stage.ask(&format!("/changed /files/{number}")).await.parse().unwrap();
            exact += u32::from(!changed.is_multiple_of(1_000_000));
        }
        assert_eq!(exact == 0, coarse, "{exact} of 5");
    }
}

/// 23: what is said in an encrypted room is not written down without consent.
#[tokio::test]
async fn what_is_said_in_an_encrypted_room_is_written_down_by_consent() {
    for encrypted in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let files = settings::Files { folder: folder.path().to_owned(), write: true, bytes: None };
        let stage = granted(Grants { files: Some(files), encrypted, ..Grants::default() }).await;
        let room = stage.rooms.create_direct(ALICE, AGENT);
        stage.rooms.encrypt(&room);
        assert_eq!(stage.ask("/write /files/clear said").await, "done");
        assert_eq!(stage.ask_as(ALICE, &room, "/read /files/clear").await, "said");
        let said = stage.ask_as(ALICE, &room, "/write /files/sealed said").await;
        assert_eq!(said == "done", encrypted, "{said}");
        assert_eq!(folder.path().join("sealed").exists(), encrypted);
        if !encrypted {
            stage.noticed("what is said in an encrypted room would leave it (`files`)").await;
        }
    }
}
