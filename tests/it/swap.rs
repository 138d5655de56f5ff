//! Files that are dropped in, replaced and removed while the host serves.

use std::{
    fs,
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use parlour::{Agent, chat::memory::Rooms, journal::memory::Memory, settings::Role};
use tokio::sync::watch;

use crate::{
    faults::Hanging,
    guests::{component, example, guest, patched},
    stage::{AGENT, BOB, Stage},
    trials::{SECOND, drop_in, said_of_it, turning},
    watched::Watched,
};

pub async fn stage(folder: &Path) -> Stage {
    Stage::start(&[], |builder| builder.plugin_folder(folder)).await
}

#[tokio::test]
async fn a_file_is_dropped_in_replaced_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let stage = stage(folder.path()).await;
    assert_eq!(stage.ask("/echo hello").await, "I don't know /echo.");

    let file = folder.path().join("steady.wasm");
    fs::write(&file, guest("steady")).unwrap();
    stage.noticed("plugin steady: loaded").await;
    assert_eq!(stage.ask("/echo hello").await, "version-1 hello");

    fs::write(&file, patched(&guest("steady"), "version-1", "version-2")).unwrap();
    stage.noticed("plugin steady: new version took over").await;
    assert_eq!(stage.ask("/echo hello").await, "version-2 hello");

    fs::remove_file(&file).unwrap();
    stage.noticed("plugin steady: removed").await;
    assert_eq!(stage.ask("/echo hello").await, "I don't know /echo.");
}

#[tokio::test]
async fn a_folder_with_a_manifest_and_a_component_is_a_plugin() {
    let folder = tempfile::tempdir().unwrap();
    let stage = stage(folder.path()).await;
    let plugin = folder.path().join("deeds");
    fs::create_dir(&plugin).unwrap();
    fs::write(plugin.join("anything.wasm"), component("deeds")).unwrap();
    let manifest = |asks: &str| {
        let text = format!("name = \"deeds\"\nversion = \"1.0.0\"\ndescription = \"\"\n{asks}");
        fs::write(plugin.join("plugin.toml"), text).unwrap();
    };
    manifest("[asks.outbox]\n");
    stage.noticed("plugin deeds: loaded").await;
    assert_eq!(stage.ask("/count").await, "/count: the plugin does not ask for `kv`");

    manifest("[asks.outbox]\n[asks.kv]\n");
    stage.noticed("plugin deeds: new version took over").await;
    assert_eq!(stage.ask("/count").await, "1");

    manifest("[asks.rockets]\n");
    stage.noticed("anything.wasm: refused: plugin.toml:4:7: unknown setting `rockets`").await;
    assert_eq!(stage.ask("/count").await, "2");

    fs::remove_dir_all(&plugin).unwrap();
    stage.noticed("plugin deeds: removed").await;
}

#[tokio::test]
async fn what_is_refused_leaves_the_old_version_serving() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("steady.wasm");
    fs::write(&file, guest("steady")).unwrap();
    let stage = stage(folder.path()).await;
    for (bytes, reason) in [
        (b"\0asm\x01\0\0\0".to_vec(), "core WebAssembly module"),
        (b"not wasm".to_vec(), "no WebAssembly component"),
        (guest("steady")[..1000].to_vec(), "ends in the middle"),
    ] {
        fs::write(&file, bytes).unwrap();
        let notice = stage.noticed(reason).await.to_string();
        assert!(
            notice.contains("steady.wasm: refused: ") && notice.ends_with("the version before it goes on"),
            "{notice}"
        );
        assert_eq!(stage.ask("/echo hello").await, "version-1 hello");
    }
    fs::write(folder.path().join("Bad Name.wasm"), example("echo")).unwrap();
    stage.noticed("a plugin's file is named in lower-case letters").await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_read_unloads_nothing() {
    let above = tempfile::tempdir().unwrap();
    let folder = above.path().join("plugins");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("steady.wasm"), guest("steady")).unwrap();
    let stage = stage(&folder).await;
    fs::rename(&folder, above.path().join("elsewhere")).unwrap();
    fs::write(&folder, "no folder").unwrap();
    stage.noticed("plugins: refused: Not a directory").await;
    assert_eq!(stage.ask("/echo hello").await, "version-1 hello");
    fs::remove_file(&folder).unwrap();
    stage.noticed("plugin steady: removed").await;
    // It is followed when it is there again.
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("echo.wasm"), example("echo")).unwrap();
    stage.noticed("plugin echo: loaded").await;
}

#[tokio::test]
async fn a_refused_file_takes_nothing_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("echo.wasm");
    let stage =
        Stage::start(&[("echo", example("echo"))], |builder| builder.plugin_folder(folder.path())).await;
    fs::write(&file, "broken").unwrap();
    stage.noticed("echo.wasm: refused").await;
    fs::remove_file(&file).unwrap();
    // The next change is seen after this one.
    fs::write(folder.path().join("steady.wasm"), guest("steady")).unwrap();
    stage.noticed("plugin steady: loaded").await;
    assert_eq!(stage.ask("/echo still here").await, "still here");

    // What takes the place of a plugin that was there gives it back.
    fs::write(&file, guest("steady")).unwrap();
    stage.noticed("plugin echo: new version took over").await;
    assert_eq!(stage.ask("/echo hello").await, "version-1 hello");
    fs::remove_file(&file).unwrap();
    let back = |notice: &parlour::notice::Notice| matches!(notice, parlour::notice::Notice::PluginLoaded { plugin, .. } if plugin.as_str() == "echo");
    while stage.notices().iter().filter(|notice| back(notice)).count() < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(stage.ask("/echo hello").await, "hello");
}

#[tokio::test]
async fn a_file_that_is_still_being_written_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("turning.wasm");
    let stage = stage(folder.path()).await;
    // The half of it is a plugin, too: one that asks for other things.
    let (half, whole) = (component("turning"), turning(&[]));
    let rest = whole.strip_prefix(&half[..]).expect("the manifest is behind the component");
    let look = async |name: &str| {
        fs::write(folder.path().join(format!("{name}.wasm")), guest("steady")).unwrap();
        stage.noticed(&format!("plugin {name}: loaded")).await;
    };
    look("before").await;
    let mut writing = fs::File::create(&file).unwrap();
    writing.write_all(&half).unwrap();
    look("meanwhile").await;
    look("later").await;
    assert_eq!(said_of_it(&stage, "turning"), 0, "{:#?}", stage.notices());
    writing.write_all(rest).unwrap();
    drop(writing);
    let loaded = stage.noticed("plugin turning: loaded").await.to_string();
    assert_eq!(stage.ask("/count").await, "version-1 1 1");

    // Whoever replaces it slowly keeps nothing from being served by what was there.
    let second = turning(&[SECOND]);
    let mut writing = fs::File::create(&file).unwrap();
    writing.write_all(&second[..half.len()]).unwrap();
    look("again").await;
    assert_eq!(stage.ask("/count").await, "version-1 2 2");
    writing.write_all(&second[half.len()..]).unwrap();
    drop(writing);
    stage.noticed("plugin turning: new version took over").await;
    assert_eq!(stage.ask("/count").await, "version-2 3 3");
    assert_eq!(said_of_it(&stage, "plugin turning: "), 2, "{loaded}: {:#?}", stage.notices());
}

/// 500 events in 5 s, every tenth in flight for 200 ms, and the file replaced in two halves in the middle.
#[tokio::test]
async fn replacing_a_file_under_load_loses_and_repeats_nothing() {
    const EVENTS: u32 = 500;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("steady.wasm");
    fs::write(&file, guest("steady")).unwrap();
    let stage = stage(folder.path()).await;
    let rooms: Vec<_> = (0..10).map(|_| stage.rooms.create_direct(BOB, AGENT)).collect();
    let second = patched(&guest("steady"), "version-1", "version-2");
    let (one, other) = second.split_at(second.len() / 2);
    let started = Instant::now();
    let mut replacing = fs::File::create(folder.path().join(".unused")).unwrap();
    for number in 0..EVENTS {
        if number == EVENTS / 4 {
            replacing = fs::File::create(&file).unwrap();
            replacing.write_all(one).unwrap();
        }
        if number == EVENTS / 2 {
            replacing.write_all(other).unwrap();
            replacing = fs::File::create(folder.path().join(".unused")).unwrap();
        }
        let command = if number % 10 == 0 { "slow" } else { "echo" };
        let room = &rooms[(number / 10 % 10) as usize];
        stage.rooms.say(BOB, room, &format!("/{command} {number}"));
        let due = started + Duration::from_millis(10) * (number + 1);
        tokio::time::sleep_until(due.into()).await;
    }
    stage.noticed("plugin steady: new version took over").await;
    assert_eq!(stage.ask("/echo after").await, "version-2 after");

    let mut answered = Vec::new();
    for room in &rooms {
        let lines = stage.until(room, |lines| lines.len() == 2 * EVENTS as usize / 10).await;
        let answers: Vec<_> = lines.iter().filter(|line| line.sender.as_str() == AGENT).collect();
        let versions: Vec<_> = answers.iter().map(|line| line.text.split(' ').next().unwrap()).collect();
        assert!(versions.is_sorted(), "once the new version answers, the old one does not: {versions:?}");
        let numbers: Vec<u32> =
            answers.iter().map(|line| line.text.split(' ').nth(1).unwrap().parse().unwrap()).collect();
        assert!(numbers.is_sorted(), "in order: {numbers:?}");
        answered.extend(numbers);
    }
    answered.sort_unstable();
    assert_eq!(answered, (0..EVENTS).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_handler_that_runs_is_finished_by_the_version_that_began_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("steady.wasm");
    fs::write(&file, guest("steady")).unwrap();
    let (hangs, hanging) = watch::channel(true);
    let journal = Watched { journal: Memory::default(), watch: Hanging(hanging) };
    let stage = Stage::start(&[], |builder| builder.plugin_folder(folder.path()).journal(journal)).await;
    let elsewhere = stage.rooms.create_direct(BOB, AGENT);
    let asked = stage.rooms.say(BOB, &elsewhere, "/tally first");
    stage.until_it_types(&elsewhere).await;
    fs::write(&file, patched(&guest("steady"), "version-1", "version-2")).unwrap();
    stage.noticed("plugin steady: new version took over").await;
    assert_eq!(stage.ask("/echo meanwhile").await, "version-2 meanwhile");
    hangs.send_replace(false);
    assert_eq!(stage.answer_to(&elsewhere, &asked).await.text, "version-1 first:1");
    assert_eq!(stage.ask_as(BOB, &elsewhere, "/tally second").await, "version-2 second:2");
}

#[tokio::test]
async fn commands_come_and_go_with_their_plugin_for_a_completion_too() {
    let folder = tempfile::tempdir().unwrap();
    let rooms = Rooms::new();
    let agent = Agent::new("agent".parse().unwrap(), rooms.account(AGENT)).access(crate::stage::access());
    let host = crate::guests::host().agent(agent).cache(crate::guests::cache());
    let host = host.plugin_folder(folder.path()).build().await.unwrap();
    let commands = host.commands();
    let serving = tokio::spawn(host.run(std::future::pending()));
    let until = async |there: bool| {
        let change = async {
            while commands.names(Role::User).contains(&"count".to_owned()) != there {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(crate::stage::PATIENCE, change).await.expect("it comes and goes");
    };
    until(false).await;
    drop_in(folder.path(), &turning(&[]));
    until(true).await;
    fs::remove_file(folder.path().join("turning.wasm")).unwrap();
    until(false).await;
    assert_eq!(commands.names(Role::User), ["stop"]);
    serving.abort();
}
