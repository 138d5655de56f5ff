//! New versions on trial: what they wrote goes with them where they fault, and stays where they stand.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use parlour::{
    Agent, HostBuilder,
    chat::memory::Rooms,
    control::{Answer, PluginStatus, Question},
    engine::limits::Limits,
    id::RoomId,
    journal::{Error, Journal as _, memory::Memory, sqlite::Sqlite},
    settings::{Grants, Timers},
    signature::{Key, sign},
};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::{
    guests::{example, guest, patched},
    stage::{AGENT, ALICE, BOB, Stage, granted},
    swap::stage,
    watched::{Watch, Watched},
};

/// A version of `turning`: words that replace others of the same length.
pub fn turning(words: &[(&str, &str)]) -> Vec<u8> {
    words.iter().fold(guest("turning").to_vec(), |bytes, (old, new)| patched(&bytes, old, new))
}

/// A plugin folder in which its first version is, and a host that it answers in.
async fn served() -> (TempDir, Stage) {
    let folder = tempfile::tempdir().unwrap();
    drop_in(folder.path(), &turning(&[]));
    let stage = stage(folder.path()).await;
    assert_eq!(stage.ask("/count").await, "version-1 1 1");
    (folder, stage)
}

/// A folder of a host's, and in it a plugin folder in which its first version is.
fn furnished() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let plugins = folder.path().join("plugins");
    fs::create_dir(&plugins).unwrap();
    drop_in(&plugins, &turning(&[]));
    (folder, plugins)
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
pub fn drop_in(folder: &Path, bytes: &[u8]) {
    drop_in_as(folder, "turning", bytes);
}

fn drop_in_as(folder: &Path, name: &str, bytes: &[u8]) {
    let partial = folder.join("partial");
    fs::write(&partial, bytes).unwrap();
    fs::rename(partial, folder.join(format!("{name}.wasm"))).unwrap();
}

pub fn said_of_it(stage: &Stage, what: &str) -> usize {
    stage.notices().iter().filter(|notice| notice.to_string().contains(what)).count()
}

const TRAPS: (&str, &str) = ("fine-mode", "trap-mode");
pub const SECOND: (&str, &str) = ("version-1", "version-2");

#[tokio::test]
async fn a_version_that_faults_is_rolled_back_and_the_one_before_handles_the_event() {
    let (folder, stage) = served().await;
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
    let (folder, stage) = served().await;
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
    let (folder, stage) = served().await;
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
    let (folder, plugins) = furnished();
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
    let (folder, plugins) = furnished();
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
        let (folder, plugins) = furnished();
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
    let (folder, plugins) = furnished();
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
    let (folder, plugins) = furnished();
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
    let (folder, plugins) = furnished();
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
    let (folder, plugins) = furnished();
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
