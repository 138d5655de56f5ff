//! Files that are dropped in, replaced and removed while the host serves.

use std::{
    fs,
    io::Write as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use parlour::{
    Agent, HostBuilder,
    chat::memory::Rooms,
    control::{Answer, PluginStatus, Question},
    engine::limits::Limits,
    id::RoomId,
    journal::{Error, Journal as _, memory::Memory, sqlite::Sqlite},
    settings::{Grants, Role, Timers},
    signature::{Key, sign},
};
use tokio::sync::watch;

use crate::{
    faults::Hanging,
    guests::{component, example, guest, patched},
    stage::{AGENT, ALICE, BOB, Stage, granted},
    watched::{Watch, Watched},
};

async fn stage(folder: &Path) -> Stage {
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

/// A version of `turning`: words that replace others of the same length.
fn turning(words: &[(&str, &str)]) -> Vec<u8> {
    words.iter().fold(guest("turning").to_vec(), |bytes, (old, new)| patched(&bytes, old, new))
}

/// A host whose plugin folder, lock, kept components, journal and socket are in `folder`; Alice has a room.
async fn durable(folder: &Path, rooms: &Rooms, room: &RoomId) -> Stage {
    durable_with(folder, rooms, room, &[], |builder| builder).await
}

/// The same with plugins of its embedder's, and whatever else is said of it.
async fn durable_with(
    folder: &Path,
    rooms: &Rooms,
    room: &RoomId,
    guests: &[(&str, Arc<[u8]>)],
    also: impl FnOnce(HostBuilder) -> HostBuilder,
) -> Stage {
    let agent = Agent::new("agent".parse().unwrap(), rooms.account(AGENT)).access(crate::stage::access());
    let journal = Sqlite::open(folder.join("journal.db")).unwrap();
    fs::create_dir_all(folder.join("plugins")).unwrap();
    Stage::start_with(rooms.clone(), room.clone(), agent, guests, |builder| {
        let builder = builder
            .journal(journal)
            .plugin_folder(folder.join("plugins"))
            .lock(folder.join("parlour.lock"), folder.join("kept"))
            .control(folder.join("socket"));
        also(builder)
    })
    .await
}

/// Another file is in its place, whole at once.
fn drop_in(folder: &Path, bytes: &[u8]) {
    drop_in_as(folder, "turning", bytes);
}

fn drop_in_as(folder: &Path, name: &str, bytes: &[u8]) {
    let partial = folder.join("partial");
    fs::write(&partial, bytes).unwrap();
    fs::rename(partial, folder.join(format!("{name}.wasm"))).unwrap();
}

fn said_of_it(stage: &Stage, what: &str) -> usize {
    stage.notices().iter().filter(|notice| notice.to_string().contains(what)).count()
}

const TRAPS: (&str, &str) = ("fine-mode", "trap-mode");
const SECOND: (&str, &str) = ("version-1", "version-2");

#[tokio::test]
async fn a_version_that_faults_is_rolled_back_and_the_one_before_handles_the_event() {
    let folder = tempfile::tempdir().unwrap();
    drop_in(folder.path(), &turning(&[]));
    let stage = stage(folder.path()).await;
    assert_eq!(stage.ask("/count").await, "version-1 1 1");
    drop_in(folder.path(), &turning(&[SECOND, TRAPS]));
    stage.noticed("plugin turning: new version took over").await;
    assert_eq!(stage.ask("/count").await, "version-1 2 2");
    stage.noticed("plugin turning: new version rolled back").await;
    assert!(said_of_it(&stage, "faulted for agent") <= 3, "{:#?}", stage.notices());
    // The same file is looked at, and not tried again.
    stage.noticed("turning.wasm: refused: it was rolled back").await;
    assert_eq!(stage.ask("/count").await, "version-1 3 3");
    assert_eq!(said_of_it(&stage, "took over"), 1);
    assert!(!stage.transcript(&stage.room).contains("stopped"), "nobody has seen any of it");

    drop_in(folder.path(), &turning(&[("version-1", "version-3")]));
    while !stage.ask("/count").await.starts_with("version-3") {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_a_version_wrote_on_trial_goes_with_it() {
    let folder = tempfile::tempdir().unwrap();
    drop_in(folder.path(), &turning(&[]));
    let stage = stage(folder.path()).await;
    assert_eq!(stage.ask("/count").await, "version-1 1 1");
    drop_in(folder.path(), &turning(&[SECOND, ("fine-mode", "late-mode")]));
    stage.noticed("plugin turning: new version took over").await;
    assert_eq!(stage.ask("/count").await, "version-2 2 2");
    assert_eq!(stage.ask("/count").await, "version-2 3 3");
    assert_eq!(stage.ask("/count").await, "version-1 2 2", "as if the other had never been");
    stage.noticed("what the new one wrote under 3 keys is dropped").await;
}

#[tokio::test]
async fn timers_of_a_version_on_trial_go_with_it() {
    let folder = tempfile::tempdir().unwrap();
    drop_in(folder.path(), &turning(&[]));
    let timers = granted(Grants { timers: Some(Timers::default()), ..Grants::default() });
    let stage = Stage::start(&[], |builder| {
        builder.plugin_folder(folder.path()).plugin_settings("turning".parse().unwrap(), timers)
    })
    .await;
    assert_eq!(stage.ask("/set milk").await, "version-1 set milk");
    assert_eq!(stage.ask("/set tea").await, "version-1 set tea");
    drop_in(folder.path(), &turning(&[SECOND, ("fine-mode", "late-mode")]));
    stage.noticed("plugin turning: new version took over").await;
    assert_eq!(stage.ask("/cancel milk").await, "version-2 true");
    assert_eq!(stage.ask("/set tea").await, "version-2 set tea");
    assert_eq!(stage.ask("/set water").await, "version-2 set water");
    assert_eq!(stage.ask("/timers").await, "tea version-2, water version-2");
    for count in 1..4 {
        assert_eq!(stage.ask("/count").await, format!("version-2 {count} {count}"));
    }
    assert_eq!(stage.ask("/count").await, "version-1 1 1");
    stage.noticed("what the new one wrote under 2 keys, and of 3 timers, is dropped").await;
    assert_eq!(stage.ask("/timers").await, "milk version-1, tea version-1");
}

/// What the version before is asked, to compare it with the new one, reaches nobody and is held against nobody.
#[tokio::test]
async fn a_rehearsal_does_nothing_and_is_not_counted() {
    let folder = tempfile::tempdir().unwrap();
    drop_in(folder.path(), &turning(&[]));
    let socket = tempfile::tempdir().unwrap().keep().join("socket");
    let home = granted(Grants { home: true, ..Grants::default() });
    let stage = Stage::start(&[], |builder| {
        builder
            .plugin_folder(folder.path())
            .control(&socket)
            .plugin_settings("turning".parse().unwrap(), home)
    })
    .await;
    drop_in(folder.path(), &turning(&[SECOND, TRAPS]));
    stage.noticed("plugin turning: new version took over").await;
    assert_eq!(stage.ask("/home").await, "version-1 is at home");
    stage.noticed("plugin turning: new version rolled back").await;
    assert_eq!(said_of_it(&stage, "denied"), 0, "{:#?}", stage.notices());
    let said = stage.transcript(&stage.room).lines().filter(|line| line.contains("is at home")).count();
    assert_eq!(said, 1);
}

#[tokio::test]
async fn an_event_that_no_version_bears_keeps_no_update_away() {
    let folder = tempfile::tempdir().unwrap();
    drop_in(folder.path(), &turning(&[]));
    let stage = stage(folder.path()).await;
    assert_eq!(stage.ask("/count").await, "version-1 1 1");
    drop_in(folder.path(), &turning(&[SECOND]));
    stage.noticed("plugin turning: new version took over").await;
    for _ in 0..2 {
        assert!(stage.ask("/crash").await.starts_with("/crash: stopped: it crashed"));
        let failed = stage.ask("/fail").await;
        assert!(failed.starts_with("/fail: "), "{failed}");
    }
    assert_eq!(stage.ask("/count").await, "version-2 2 2");
    for count in 3..=21 {
        assert_eq!(stage.ask("/count").await, format!("version-2 {count} {count}"));
    }
    stage.noticed("plugin turning: new version stood its trial").await;
    assert_eq!(said_of_it(&stage, "rolled back"), 0);
}

#[tokio::test]
async fn a_new_version_moves_what_is_remembered_or_does_not_take_over() {
    let folder = tempfile::tempdir().unwrap();
    drop_in(folder.path(), &turning(&[]));
    let stage = stage(folder.path()).await;
    let elsewhere = stage.rooms.create_direct(BOB, AGENT);
    assert_eq!(stage.ask("/count").await, "version-1 1 1");
    assert_eq!(stage.ask_as(BOB, &elsewhere, "/count").await, "version-1 2 1");
    assert_eq!(stage.ask("/from").await, "nowhere");

    drop_in(folder.path(), &turning(&[SECOND, ("shape-1", "shape-x")]));
    let refused =
        "turning.wasm: refused: it failed to move what the version before it remembers: its own error";
    stage.noticed(refused).await;
    // What it says of it may be what it remembers, of encrypted rooms too.
    let said = stage.noticed("plugin turning: migrate: what was kept is none").await;
    assert!(said.is_sealed(), "{said:?}");
    let public: Vec<_> = stage.notices().iter().filter_map(parlour::notice::Notice::public).collect();
    assert!(!public.iter().any(|line| line.contains("what was kept")), "{public:#?}");
    assert_eq!(stage.ask("/count").await, "version-1 3 2");

    // It moves, and faults: both are undone.
    drop_in(folder.path(), &turning(&[SECOND, ("shape-1", "shape-2"), TRAPS]));
    stage.noticed("plugin turning: new version took over").await;
    assert_eq!(stage.ask("/count").await, "version-1 4 3");
    assert_eq!(stage.ask("/from").await, "nowhere");

    drop_in(folder.path(), &turning(&[("version-1", "version-3"), ("shape-1", "shape-2")]));
    while said_of_it(&stage, "took over") < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(stage.ask_as(BOB, &elsewhere, "/count").await, "version-3 5 2");
    assert_eq!(stage.ask("/from").await, "1.0.0");
}

#[tokio::test]
async fn a_trial_outlives_the_host_and_so_does_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let plugins = folder.path().join("plugins");
    fs::create_dir(&plugins).unwrap();
    drop_in(&plugins, &turning(&[]));
    let rooms = Rooms::new();
    let room = rooms.create_direct(ALICE, AGENT);
    let stage = durable(folder.path(), &rooms, &room).await;
    assert_eq!(stage.ask("/count").await, "version-1 1 1");
    drop_in(&plugins, &turning(&[SECOND, ("fine-mode", "late-mode")]));
    stage.noticed("plugin turning: new version took over").await;
    assert_eq!(stage.ask("/count").await, "version-2 2 2");
    stage.stop().await;

    let stage = durable(folder.path(), &rooms, &room).await;
    assert_eq!(stage.ask("/count").await, "version-2 3 3");
    assert_eq!(stage.ask("/count").await, "version-1 2 2");
    stage.noticed("plugin turning: new version rolled back").await;
    stage.stop().await;

    let stage = durable(folder.path(), &rooms, &room).await;
    stage.noticed("turning.wasm: refused: it was rolled back").await;
    assert_eq!(stage.ask("/count").await, "version-1 3 3");
    let socket = folder.path().join("socket");
    let resume = Question::Resume { plugin: "turning".parse().unwrap(), user: None };
    let answer = tokio::task::spawn_blocking(move || parlour::control::ask(&socket, &resume)).await.unwrap();
    assert_eq!(answer.unwrap(), Answer::TriedAgain);
    stage.noticed("plugin turning: new version took over").await;
    assert_eq!(stage.ask("/count").await, "version-1 4 4", "it has faulted once more");
    stage.stop().await;
}

#[tokio::test]
async fn what_a_version_on_trial_did_stays_when_another_takes_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let plugins = folder.path().join("plugins");
    fs::create_dir(&plugins).unwrap();
    drop_in(&plugins, &turning(&[]));
    let rooms = Rooms::new();
    let room = rooms.create_direct(ALICE, AGENT);
    let stage = durable(folder.path(), &rooms, &room).await;
    assert_eq!(stage.ask("/count").await, "version-1 1 1");
    drop_in(&plugins, &turning(&[SECOND]));
    stage.noticed("plugin turning: new version took over").await;
    assert_eq!(stage.ask("/count").await, "version-2 2 2");
    stage.stop().await;

    // Also where that was before the host's start.
    let stage = durable(folder.path(), &rooms, &room).await;
    drop_in(&plugins, &turning(&[("version-1", "version-3")]));
    stage.noticed("plugin turning: new version took over").await;
    assert_eq!(stage.ask("/count").await, "version-3 3 3");
    drop_in(&plugins, &turning(&[("version-1", "version-4"), TRAPS]));
    while said_of_it(&stage, "took over") < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stage.stop().await;

    // Of one that has done nothing there is nothing left, and nobody goes back to it.
    drop_in(&plugins, &turning(&[("version-1", "version-5"), ("fine-mode", "late-mode")]));
    let stage = durable(folder.path(), &rooms, &room).await;
    assert_eq!(stage.ask("/count").await, "version-3 4 4");
    stage.noticed("plugin turning: new version rolled back").await;
    stage.stop().await;
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

#[tokio::test]
async fn a_tool_that_faults_on_trial_is_rolled_back_and_its_caller_notices_nothing() {
    let folder = tempfile::tempdir().unwrap();
    drop_in(folder.path(), &turning(&[]));
    let tools = granted(Grants { tools: ["*".to_owned()].into(), ..Grants::default() });
    let stage = Stage::start(&[("handy", guest("handy"))], |builder| {
        builder.plugin_folder(folder.path()).plugin_settings("handy".parse().unwrap(), tools)
    })
    .await;
    assert_eq!(stage.ask("/use turning.version").await, "version-1");
    drop_in(folder.path(), &turning(&[SECOND]));
    stage.noticed("plugin turning: new version took over").await;
    assert_eq!(stage.ask("/use turning.version").await, "version-2");
    for _ in 0..2 {
        let failed = stage.ask("/use turning.crash").await;
        assert!(failed.starts_with("ErrorKind::"), "no version bears it: {failed}");
    }
    assert_eq!(stage.ask("/use turning.version").await, "version-2");
    drop_in(folder.path(), &turning(&[("version-1", "version-3"), TRAPS]));
    while said_of_it(&stage, "took over") < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(stage.ask("/use turning.version").await, "version-2");
    stage.noticed("plugin turning: new version rolled back").await;
    assert_eq!(said_of_it(&stage, "rolled back ("), 1);

    fs::remove_file(folder.path().join("turning.wasm")).unwrap();
    stage.noticed("plugin turning: removed").await;
    let gone = stage.ask("/use turning.version").await;
    assert_eq!(gone, "ErrorKind::NotFound: there is no tool turning.version");
}

/// Whatever is decided of a trial waits as long as `hangs` is true: before it is written down, or after.
struct Deciding {
    after: bool,
    hangs: watch::Receiver<bool>,
    reached: watch::Sender<bool>,
}

impl Deciding {
    async fn hang(&self) {
        self.reached.send_replace(true);
        self.hangs.clone().wait_for(|hangs| !hangs).await.unwrap();
    }
}

#[async_trait]
impl Watch for Deciding {
    async fn decides(&self) {
        if !self.after {
            self.hang().await;
        }
    }

    async fn decided(&self) {
        if self.after {
            self.hang().await;
        }
    }
}

fn deciding(after: bool) -> (watch::Sender<bool>, watch::Receiver<bool>, Deciding) {
    let (hang, hangs) = watch::channel(true);
    let (reached, reaches) = watch::channel(false);
    (hang, reaches, Deciding { after, hangs, reached })
}

async fn comes(mut condition: watch::Receiver<bool>) {
    let comes = condition.wait_for(|there| *there);
    tokio::time::timeout(crate::stage::PATIENCE, comes).await.expect("it comes so far").unwrap();
}

#[tokio::test]
async fn a_rollback_is_not_left_half_done_by_who_is_stopped_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    drop_in(folder.path(), &turning(&[]));
    let tools = granted(Grants { tools: ["*".to_owned()].into(), ..Grants::default() });
    let (hang, reaches, watch) = deciding(false);
    let stage = Stage::start(&[("handy", guest("handy"))], |builder| {
        builder
            .plugin_folder(folder.path())
            .plugin_settings("handy".parse().unwrap(), tools)
            .journal(Watched { journal: Memory::default(), watch })
    })
    .await;
    assert_eq!(stage.ask("/use turning.version").await, "version-1");
    drop_in(folder.path(), &turning(&[SECOND, TRAPS]));
    stage.noticed("plugin turning: new version took over").await;
    let asked = stage.rooms.say(ALICE, &stage.room, "/use turning.version");
    comes(reaches).await;
    stage.rooms.say(ALICE, &stage.room, "/stop");
    assert_eq!(stage.answer_to(&stage.room, &asked).await.text, "Stopped.");
    hang.send_replace(false);
    stage.noticed("plugin turning: new version rolled back").await;
    assert_eq!(stage.ask("/use turning.version").await, "version-1");
    assert_eq!(stage.ask("/count").await, "version-1 1 1");
}

#[tokio::test]
async fn a_rollback_that_is_cut_off_forgives_nothing() {
    for after in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let plugins = folder.path().join("plugins");
        fs::create_dir(&plugins).unwrap();
        drop_in(&plugins, &turning(&[]));
        let rooms = Rooms::new();
        let room = rooms.create_direct(ALICE, AGENT);
        let (_hang, reaches, watch) = deciding(after);
        let stage = durable_with(folder.path(), &rooms, &room, &[], |builder| {
            let journal = Sqlite::open(folder.path().join("journal.db")).unwrap();
            builder.journal(Watched { journal, watch })
        })
        .await;
        assert_eq!(stage.ask("/count").await, "version-1 1 1");
        drop_in(&plugins, &turning(&[SECOND, TRAPS]));
        stage.noticed("plugin turning: new version took over").await;
        let asked = stage.rooms.say(ALICE, &room, "/count");
        comes(reaches).await;
        stage.kill().await;

        let stage = durable(folder.path(), &rooms, &room).await;
        assert_eq!(stage.answer_to(&room, &asked).await.text, "version-1 2 2");
        stage.noticed("turning.wasm: refused: it was rolled back").await;
        // Before it was written down, the trial went on, and ended once more.
        assert_eq!(said_of_it(&stage, "plugin turning: new version rolled back"), usize::from(!after));
        stage.stop().await;
        let stage = durable(folder.path(), &rooms, &room).await;
        assert_eq!(stage.ask("/count").await, "version-1 3 3");
        assert_eq!(said_of_it(&stage, "rolled back ("), 0);
        stage.stop().await;
    }
}

#[tokio::test]
async fn a_file_over_a_plugin_of_the_embedders_stays_rolled_back() {
    let folder = tempfile::tempdir().unwrap();
    let plugins = folder.path().join("plugins");
    let rooms = Rooms::new();
    let room = rooms.create_direct(ALICE, AGENT);
    let start = async |component: Vec<u8>| {
        let brought = [("turning", component.into())];
        durable_with(folder.path(), &rooms, &room, &brought, |builder| builder).await
    };
    let stage = start(turning(&[])).await;
    assert_eq!(stage.ask("/count").await, "version-1 1 1");
    let second = turning(&[SECOND, TRAPS]);
    drop_in(&plugins, &second);
    stage.noticed("plugin turning: new version took over").await;
    assert_eq!(stage.ask("/count").await, "version-1 2 2");
    stage.noticed("turning.wasm: refused: it was rolled back").await;
    assert_eq!(said_of_it(&stage, "took over"), 1);
    let lock = fs::read_to_string(folder.path().join("parlour.lock")).unwrap();
    assert!(!lock.contains("turning"), "nobody has agreed to it: {lock}");
    stage.stop().await;

    let stage = start(turning(&[])).await;
    stage.noticed("turning.wasm: refused: it was rolled back").await;
    assert_eq!(stage.ask("/count").await, "version-1 3 3");
    stage.stop().await;

    // What the embedder itself brings is theirs to judge.
    fs::remove_file(plugins.join("turning.wasm")).unwrap();
    let stage = start(second).await;
    assert!(stage.ask("/count").await.starts_with("/count: stopped: it crashed"));
    stage.stop().await;
}

#[tokio::test]
async fn a_file_that_goes_during_its_trial_takes_what_it_wrote_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::start(&[("turning", turning(&[]).into())], |builder| {
        builder.plugin_folder(folder.path()).journal(Memory::default())
    })
    .await;
    assert_eq!(stage.ask("/count").await, "version-1 1 1");
    for times in 1..3 {
        drop_in(folder.path(), &turning(&[SECOND]));
        while said_of_it(&stage, "plugin turning: new version took over") < 2 * times - 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(stage.ask("/count").await, format!("version-2 {0} {0}", times + 1));
        fs::remove_file(folder.path().join("turning.wasm")).unwrap();
        while said_of_it(&stage, "plugin turning: new version took over") < 2 * times {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(stage.ask("/count").await, format!("version-1 {0} {0}", times + 1));
    }
}

#[tokio::test]
async fn a_host_ends_though_a_rollback_cannot_be_written_down() {
    let folder = tempfile::tempdir().unwrap();
    drop_in(folder.path(), &turning(&[]));
    let (_hang, reaches, watch) = deciding(false);
    let stage = Stage::start(&[], |builder| {
        builder.plugin_folder(folder.path()).journal(Watched { journal: Memory::default(), watch })
    })
    .await;
    assert_eq!(stage.ask("/count").await, "version-1 1 1");
    drop_in(folder.path(), &turning(&[SECOND, TRAPS]));
    stage.noticed("plugin turning: new version took over").await;
    stage.rooms.say(ALICE, &stage.room, "/count");
    comes(reaches).await;
    tokio::time::timeout(crate::stage::PATIENCE, stage.stop()).await.expect("it ends");
}

#[tokio::test]
async fn what_was_agreed_to_before_two_trials_is_agreed_to_after_them() {
    let folder = tempfile::tempdir().unwrap();
    let plugins = folder.path().join("plugins");
    fs::create_dir(&plugins).unwrap();
    drop_in(&plugins, &turning(&[]));
    let rooms = Rooms::new();
    let room = rooms.create_direct(ALICE, AGENT);
    let stage = durable(folder.path(), &rooms, &room).await;
    assert_eq!(stage.ask("/count").await, "version-1 1 1");
    let lock = || fs::read_to_string(folder.path().join("parlour.lock")).unwrap();
    let agreed = lock();
    drop_in(&plugins, &turning(&[SECOND]));
    while lock() == agreed {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let second = lock();
    drop_in(&plugins, &turning(&[("version-1", "version-3"), TRAPS]));
    while lock() == second {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let asked = stage.rooms.say(ALICE, &room, "/count");
    assert_eq!(stage.answer_to(&room, &asked).await.text, "version-1 2 2");
    stage.noticed("plugin turning: new version rolled back").await;
    assert_eq!(lock(), agreed);
    stage.stop().await;
    // Whoever asks what became of the event is told.
    let journal = Sqlite::look(folder.path().join("journal.db")).unwrap();
    let story = journal.story(&"agent".parse().unwrap(), &asked).await.unwrap().unwrap();
    let line = story.deliveries[0].line.clone().unwrap();
    assert!(
        line.starts_with("the new version (") && line.contains(") was rolled back at it: it crashed"),
        "{line}"
    );
}

#[tokio::test]
async fn nobody_goes_back_to_what_must_be_signed_and_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let plugins = folder.path().join("plugins");
    fs::create_dir(&plugins).unwrap();
    drop_in(&plugins, &turning(&[]));
    let rooms = Rooms::new();
    let room = rooms.create_direct(ALICE, AGENT);
    let stage = durable(folder.path(), &rooms, &room).await;
    assert_eq!(stage.ask("/count").await, "version-1 1 1");
    stage.stop().await;

    let key = Key::new(&[1; 32]);
    drop_in(&plugins, &sign(turning(&[SECOND, TRAPS]), &key));
    let publishers = [key.publisher()].into();
    let stage =
        durable_with(folder.path(), &rooms, &room, &[], |builder| builder.publishers(publishers)).await;
    assert!(stage.ask("/count").await.starts_with("/count: stopped: it crashed"));
    assert_eq!(said_of_it(&stage, "rolled back"), 0);
    stage.stop().await;
}

/// The first so many versions cannot take over.
struct Troubled(Arc<AtomicU32>);

impl Watch for Troubled {
    fn takes_over(&self) -> Result<(), Error> {
        let left = self.0.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
        left.map_or(Ok(()), |_| Err(Error::Storage("no space left".into())))
    }
}

#[tokio::test]
async fn a_file_is_tried_as_long_as_the_host_is_in_trouble() {
    let folder = tempfile::tempdir().unwrap();
    let left = Arc::new(AtomicU32::new(6));
    let stage = Stage::start(&[], |builder| {
        let journal = Watched { journal: Memory::default(), watch: Troubled(left.clone()) };
        builder.plugin_folder(folder.path()).journal(journal)
    })
    .await;
    drop_in(folder.path(), &turning(&[]));
    stage.noticed("turning.wasm: refused: journal: ").await;
    while left.load(Relaxed) > 0 {
        // Something else happens there: it is looked at sooner.
        fs::write(folder.path().join("nothing.toml"), "").unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        fs::remove_file(folder.path().join("nothing.toml")).unwrap();
        let before = left.load(Relaxed);
        let looked = async {
            while left.load(Relaxed) == before && before > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(crate::stage::PATIENCE, looked).await.expect("it is looked at");
    }
    stage.noticed("plugin turning: loaded").await;
    assert_eq!(stage.ask("/count").await, "version-1 1 1");
    assert_eq!(said_of_it(&stage, "refused"), 1, "it is said once");
}

#[tokio::test]
async fn one_file_under_two_names_is_two_plugins() {
    let folder = tempfile::tempdir().unwrap();
    drop_in_as(folder.path(), "first", &turning(&[]));
    let tools = granted(Grants { tools: ["*".to_owned()].into(), ..Grants::default() });
    let stage = Stage::start(&[("handy", guest("handy"))], |builder| {
        builder.plugin_folder(folder.path()).plugin_settings("handy".parse().unwrap(), tools)
    })
    .await;
    drop_in(folder.path(), &turning(&[]));
    stage.noticed("plugin turning: loaded").await;
    assert_eq!(stage.ask("/count").await, "version-1 1 1");
    for name in ["first", "turning"] {
        drop_in_as(folder.path(), name, &turning(&[SECOND, TRAPS]));
        stage.noticed(&format!("plugin {name}: new version took over")).await;
    }
    assert_eq!(stage.ask("/use turning.version").await, "version-1");
    stage.noticed("plugin turning: new version rolled back").await;
    assert_eq!(said_of_it(&stage, "plugin first: new version rolled back"), 0);
    // It has a trial of its own.
    assert_eq!(stage.ask("/count").await, "version-1 2 2");
    stage.noticed("plugin first: new version rolled back").await;
    assert_eq!(stage.ask("/use first.version").await, "version-1");
}

/// Its caller holds the only instance that there may be.
#[tokio::test]
async fn a_tools_rehearsal_does_not_wait_for_its_caller() {
    let folder = tempfile::tempdir().unwrap();
    drop_in(folder.path(), &turning(&[]));
    let tools = granted(Grants { tools: ["*".to_owned()].into(), ..Grants::default() });
    let one = Limits { instances: 1, instances_per_plugin: 1, ..Limits::default() };
    let stage = Stage::start(&[("handy", guest("handy"))], |builder| {
        builder.plugin_folder(folder.path()).plugin_settings("handy".parse().unwrap(), tools).limits(one)
    })
    .await;
    drop_in(folder.path(), &turning(&[SECOND, TRAPS]));
    stage.noticed("plugin turning: new version took over").await;
    assert_eq!(stage.ask("/use turning.version").await, "version-1");
    stage.noticed("plugin turning: new version rolled back").await;
}

/// How a plugin does, as the host says at its socket.
async fn status_of(socket: &Path, plugin: &str) -> PluginStatus {
    let socket = socket.to_owned();
    let ask = move || parlour::control::ask(&socket, &Question::Status {});
    let Ok(Answer::Status(status)) = tokio::task::spawn_blocking(ask).await.unwrap() else {
        panic!("it has a status")
    };
    status.plugins.into_iter().find(|of| of.name.as_str() == plugin).unwrap()
}

#[tokio::test]
async fn many_calls_of_a_tool_in_one_event_are_one_event_of_its_trial() {
    let folder = tempfile::tempdir().unwrap();
    let plugins = folder.path().join("plugins");
    fs::create_dir(&plugins).unwrap();
    drop_in(&plugins, &turning(&[]));
    let socket = folder.path().join("socket");
    let tools = granted(Grants { tools: ["*".to_owned()].into(), ..Grants::default() });
    let stage = Stage::start(&[("handy", guest("handy"))], |builder| {
        builder.plugin_folder(&plugins).control(&socket).plugin_settings("handy".parse().unwrap(), tools)
    })
    .await;
    drop_in(&plugins, &turning(&[SECOND]));
    stage.noticed("plugin turning: new version took over").await;
    // An event whose caller crashes is none that ended well.
    assert!(stage.ask("/crash turning.version").await.starts_with("/crash: stopped"));
    for events in 1..3 {
        assert_eq!(stage.ask("/twice turning.version").await, "version-2 and version-2");
        assert_eq!(status_of(&socket, "turning").await.on_trial, Some(events));
    }
    assert_eq!(said_of_it(&stage, "stood its trial"), 0);
}

#[tokio::test]
async fn the_home_and_the_status_tell_that_a_version_was_rolled_back() {
    let folder = tempfile::tempdir().unwrap();
    let plugins = folder.path().join("plugins");
    fs::create_dir(&plugins).unwrap();
    drop_in(&plugins, &turning(&[]));
    let socket = folder.path().join("socket");
    let home = granted(Grants { home: true, ..Grants::default() });
    let stage = Stage::start(&[("sethome", example("sethome"))], |builder| {
        builder.plugin_folder(&plugins).control(&socket).plugin_settings("sethome".parse().unwrap(), home)
    })
    .await;
    let status = async || status_of(&socket, "turning").await;
    let at_home = stage.rooms.create_direct(ALICE, AGENT);
    stage.ask_as(ALICE, &at_home, "/sethome").await;
    drop_in(&plugins, &turning(&[SECOND, ("fine-mode", "late-mode")]));
    stage.noticed("plugin turning: new version took over").await;
    for count in 1..4 {
        assert_eq!(stage.ask("/count").await, format!("version-2 {count} {count}"));
    }
    assert_eq!(status().await.on_trial, Some(3));
    assert_eq!(stage.ask("/count").await, "version-1 1 1");
    let told = "The new version of plugin turning was rolled back: it crashed";
    let lines = stage.until(&at_home, |lines| lines.iter().any(|line| line.text.starts_with(told))).await;
    let told = lines.iter().find(|line| line.text.starts_with(told)).unwrap();
    assert!(told.text.contains("wrote under 2 keys is dropped"), "{}", told.text);
    stage.noticed("turning.wasm: refused: it was rolled back").await;
    let status = status().await;
    assert_eq!(status.on_trial, None);
    assert!(status.not_taken.unwrap().reason.starts_with("it was rolled back"));
}
