//! How a host that runs is asked how it does, and what homes are told.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    path::Path,
    time::Duration,
};

use parlour::{
    Agent, Host,
    chat::memory::Rooms,
    control::{self, Answer, NoAnswer, PluginState, Question, Status},
    journal::sqlite::Sqlite,
    package,
    settings::Grants,
};

use crate::{
    audit::{parlour, text},
    guests::{component, example, guest},
    stage::{AGENT, ALICE, BOB, PATIENCE, Stage, access, granted},
};

const SETTINGS: &str = "";

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("parlour.toml"), SETTINGS).unwrap();
    fs::create_dir_all(folder.path().join("plugins")).unwrap();
    folder
}

/// `deeds`, asking for this, put into the plugin folder.
fn drop_in(folder: &Path, version: &str, asks: &str) {
    let manifest = format!("name = \"deeds\"\nversion = \"{version}\"\ndescription = \"\"\n{asks}");
    let bytes = package::embed(component("deeds"), &manifest).unwrap();
    fs::write(folder.join("partial"), bytes).unwrap();
    fs::rename(folder.join("partial"), folder.join("plugins/deeds.wasm")).unwrap();
}

/// A host as `parlour run` has it, over rooms in memory, that go on where they were.
async fn host_in(folder: &Path, rooms: &Rooms, room: &parlour::id::RoomId) -> Stage {
    let agent = Agent::new("agent".parse().unwrap(), rooms.account(AGENT)).access(access());
    Stage::start_with(rooms.clone(), room.clone(), agent, &[("sethome", example("sethome"))], |builder| {
        builder
            .plugin_settings("sethome".parse().unwrap(), granted(Grants { home: true, ..Grants::default() }))
            .plugin_folder(folder.join("plugins"))
            .lock(folder.join("parlour.lock"), folder.join("data/plugins"))
            .journal(Sqlite::open(folder.join("data/journal.db")).unwrap())
            .control(folder.join("data/control.sock"))
    })
    .await
}

async fn host(folder: &Path) -> Stage {
    let rooms = Rooms::new();
    let room = rooms.create_direct(ALICE, AGENT);
    host_in(folder, &rooms, &room).await
}

fn status(folder: &Path) -> Status {
    match control::ask(&folder.join("data/control.sock"), &Question::Status {}) {
        Ok(Answer::Status(status)) => *status,
        other => panic!("{other:?}"),
    }
}

/// Waits until the status is as it should be.
async fn until(folder: &Path, condition: impl Fn(&Status) -> bool) -> Status {
    let wait = async {
        loop {
            let status = status(folder);
            if condition(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("it comes to be")
}

/// Who asks why nothing goes on is told, above all when it is the journal.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_journal_fails_says_so() {
    let folder = folder();
    let folder = folder.path();
    let stage = host(folder).await;
    assert!(stage.ask("/sethome").await.contains("is now the home of"));
    let other = rusqlite::Connection::open(folder.join("data/journal.db")).unwrap();
    other.execute_batch("ALTER TABLE event RENAME TO elsewhere").unwrap();
    stage.rooms.say(ALICE, &stage.room, "/sethome");
    let found = until(folder, |status| status.journal.is_some()).await;
    assert!(found.journal.unwrap().contains("no such table"));
    assert!(found.agents[0].serves_since.is_some() && found.plugins[0].calls == 1);
    let shown = text(&parlour(folder, &["status"]).stdout);
    assert!(shown.contains("JOURNAL: no such table: event") && shown.contains("plugin sethome"), "{shown}");
    other.execute_batch("ALTER TABLE elsewhere RENAME TO event").unwrap();
    until(folder, |status| status.journal.is_none() && status.plugins[0].calls == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_says_how_it_does() {
    let folder = folder();
    let folder = folder.path();
    let said = parlour(folder, &["status"]);
    assert_eq!(said.status.code(), Some(1));
    assert_eq!(text(&said.stderr), "parlour: no host runs on data; `parlour run` starts one\n");

    drop_in(folder, "1.0.0", "[asks.outbox]\n");
    let stage = host(folder).await;
    assert_eq!(stage.ask("/count").await, "/count: the plugin does not ask for `kv`");
    drop_in(folder, "1.1.0", "[asks.outbox]\n[asks.kv]\n");
    stage.noticed("it waits until you agree").await;
    fs::write(folder.join("plugins/other.wasm"), "nothing").unwrap();
    stage.noticed("it is no WebAssembly component").await;

    let found = until(folder, |status| {
        let agent = &status.agents[0];
        agent.events_waiting == 0 && agent.effects_unsent == 0 && agent.lanes == 0
    })
    .await;
    assert!(found.agents[0].serves_since.is_some());
    assert_eq!(found.agents[0].said.as_deref(), Some("serves as @agent:memory"));
    let [deeds, other, sethome] = &found.plugins[..] else { panic!("{found:#?}") };
    assert_eq!((deeds.version.as_deref(), deeds.denied), (Some("1.0.0"), 1));
    assert!(deeds.not_taken.as_ref().is_some_and(|file| file.waits && file.reason.contains("`kv`")));
    assert_eq!((deeds.calls, deeds.faults, deeds.state), (1, 0, PluginState::Serving));
    assert!(deeds.cpu_us > 0);
    assert_eq!((other.state, other.calls), (PluginState::Refused, 0));
    let agent = &found.agents[0];
    assert_eq!(agent.user.as_ref().map(|user| user.as_str()), Some(AGENT));
    let lines = stage.rooms.transcript(&stage.room);
    assert_eq!(agent.last.accepted.as_ref().and_then(|it| it.event.as_ref()), Some(&lines[0].id));
    assert!(agent.last.dropped.is_none(), "the agent's own is no news");
    assert_eq!(agent.last.acknowledged.as_ref().and_then(|it| it.event.as_ref()), Some(&lines[1].id));
    assert!(agent.tried.is_some() && agent.trouble.is_none());
    assert!(other.digest.is_none() && other.not_taken.as_ref().is_some_and(|file| !file.waits));
    assert!(sethome.not_taken.is_none() && sethome.digest.is_some());
    assert!(found.audit_count > 3 && found.audit_hash.len() == 64);

    let shown = text(&parlour(folder, &["status"]).stdout);
    for line in [
        "agent agent: serves since 20",
        " as @agent:memory\n",
        "  waiting       0 events, 0 effects not sent; 0 of 0 lanes run\n",
        "  last accepted $",
        "  last sent     ",
        "  last taken    $",
        "  said          20",
        "plugin deeds 1.0.0: loaded (",
        "), serves; 1 calls, 0 faults, ",
        "  its file: ",
        "deeds.wasm: it waits until you agree: it now asks to remember things of its own (`kv`)",
        "  denied: 1 calls, named by `parlour plugin check deeds`\n",
        "plugin other: not loaded\n  its file is refused: ",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    let json: serde_json::Value =
        serde_json::from_slice(&parlour(folder, &["status", "--json"]).stdout).unwrap();
    assert_eq!(json["plugins"][0]["not_taken"]["waits"], true);

    // A handler that waits is an event that waits.
    drop_in(folder, "1.0.1", "[asks.outbox]\n");
    stage.noticed("plugin deeds: new version took over").await;
    until(folder, |status| status.plugins[0].not_taken.is_none()).await;
    fs::remove_file(folder.join("plugins/other.wasm")).unwrap();
    until(folder, |status| status.plugins.len() == 2).await;
    stage.rooms.say(ALICE, &stage.room, "/later");
    let waits =
        until(folder, |status| status.agents[0].events_waiting == 1 && status.agents[0].lanes_running == 1)
            .await;
    assert!(waits.agents[0].last.oldest_event.is_some());
    stage.stop().await;
    assert!(!folder.join("data/control.sock").exists(), "it takes its socket with it");
    assert_eq!(parlour(folder, &["status"]).status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_rests_is_resumed_and_its_home_hears_of_both() {
    let folder = folder();
    let folder = folder.path();
    fs::write(folder.join("plugins/naughty.wasm"), guest("naughty")).unwrap();
    let stage = host(folder).await;
    let home = stage.rooms.create([ALICE, AGENT]);
    stage.ask_as(ALICE, &home, "!sethome").await;
    let resume = |more: &[&str]| parlour(folder, &[&["plugin", "resume", "naughty"], more].concat());
    let said = resume(&[]);
    assert_eq!(text(&said.stderr), "parlour: plugin naughty does not rest\n");
    assert_eq!(said.status.code(), Some(2));
    for _ in 0..5 {
        stage.ask("/trap").await;
    }
    let rests = |lines: &[parlour::chat::memory::Line]| {
        lines
            .iter()
            .filter(|line| line.text.contains("naughty rests for 1 min from what @alice:memory does"))
            .count()
    };
    let lines = stage.until(&home, |lines| rests(lines) == 1).await;
    assert!(
        lines
            .iter()
            .any(|line| line.notice && line.text.ends_with("`parlour plugin resume naughty` ends that."))
    );
    let found = status(folder);
    let naughty = found.plugins.iter().find(|plugin| plugin.name.as_str() == "naughty").unwrap();
    assert_eq!(naughty.rests[0].user.as_str(), ALICE);
    assert!((1..=60).contains(&naughty.rests[0].left_s));
    assert_eq!((naughty.state, naughty.calls, naughty.faults), (PluginState::Resting, 5, 5));

    let said = resume(&["--user", BOB]);
    assert_eq!(text(&said.stderr), format!("parlour: plugin naughty does not rest from what {BOB} does\n"));
    let said = resume(&[]);
    assert_eq!(
        text(&said.stdout),
        format!("plugin naughty serves {ALICE} again\n"),
        "{}",
        text(&said.stderr)
    );
    assert_eq!(stage.ask("/shout").await, "shouted");
    stage
        .until(&home, |lines| {
            lines.iter().any(|line| line.text == "Plugin naughty serves @alice:memory again.")
        })
        .await;
    stage.stop().await;
    let shown = text(&parlour(folder, &["audit", "--plugin", "naughty"]).stdout);
    for line in [
        "  suspended        naughty for agent agent: from what @alice:memory does, for 60 s\n",
        "  resumed          naughty: for @alice:memory\n",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_hears_once_that_a_plugin_waits_also_over_a_restart() {
    let folder = folder();
    let folder = folder.path();
    let rooms = Rooms::new();
    let room = rooms.create_direct(ALICE, AGENT);
    drop_in(folder, "1.0.0", "[asks.outbox]\n");
    let stage = host_in(folder, &rooms, &room).await;
    let home = rooms.create([ALICE, AGENT]);
    stage.ask_as(ALICE, &home, "!sethome").await;
    stage.stop().await;

    // What it finds at its start is said, and at the next start it is not said again.
    let waits = |lines: &[parlour::chat::memory::Line]| {
        lines
            .iter()
            .filter(|line| line.text.starts_with("Plugin deeds has a new file: it waits until you agree: "))
            .count()
    };
    drop_in(folder, "1.1.0", "[asks.outbox]\n[asks.kv]\n");
    for _ in 0..3 {
        let stage = host_in(folder, &rooms, &room).await;
        let lines = stage.until(&home, |lines| waits(lines) > 0).await;
        let line = &lines.iter().find(|line| waits(std::slice::from_ref(line)) == 1).unwrap();
        assert!(
            line.text.ends_with("`parlour plugin add` shows it and asks; the version before it goes on."),
            "{line:?}"
        );
        assert!(line.notice, "other bots do not answer it");
        // Whatever it had to say by itself it has said before it answers.
        assert_eq!(stage.ask("/count").await, "/count: the plugin does not ask for `kv`");
        stage.stop().await;
        assert_eq!(waits(&rooms.transcript(&home)), 1);
    }

    // Another file that waits is news, in the middle of the day too.
    let stage = host_in(folder, &rooms, &room).await;
    drop_in(folder, "1.2.0", "[asks.outbox]\n[asks.kv]\n[asks.progress]\n");
    stage.until(&home, |lines| waits(lines) == 2).await;
    stage.stop().await;
}

/// A room that was encrypted once is told nothing in clear, by the host as little as by a plugin.
#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_home_is_told_nothing_in_clear() {
    let folder = folder();
    let folder = folder.path();
    drop_in(folder, "1.0.0", "[asks.outbox]\n");
    let stage = host(folder).await;
    let home = stage.rooms.create([ALICE, AGENT]);
    stage.rooms.encrypt(&home);
    stage.ask_as(ALICE, &home, "!sethome").await;
    stage.rooms.decrypt(&home);
    drop_in(folder, "1.1.0", "[asks.outbox]\n[asks.kv]\n");
    stage.noticed("not sent: ").await;
    assert!(!stage.transcript(&home).contains("it waits until you agree"));
    stage.rooms.encrypt(&home);
    drop_in(folder, "1.2.0", "[asks.outbox]\n[asks.kv]\n[asks.progress]\n");
    stage.until(&home, |lines| lines.iter().any(|line| line.text.contains("it waits until you agree"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_is_left_over_is_replaced_and_one_that_lives_is_not() {
    let folder = folder();
    let folder = folder.path();
    let socket = folder.join("data/control.sock");
    fs::create_dir(folder.join("data")).unwrap();
    drop(UnixListener::bind(&socket).unwrap());
    assert!(matches!(control::ask(&socket, &Question::Status {}), Err(NoAnswer::NotRunning)));
    let stage = host(folder).await;
    assert_eq!(status(folder).agents.len(), 1);
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);

    let other = Host::builder().control(&socket).build().await.map(drop).unwrap_err();
    assert!(other.to_string().ends_with("control.sock: another host listens there"), "{other}");
    assert_eq!(status(folder).agents.len(), 1, "it still answers");
    stage.stop().await;

    fs::write(&socket, "a letter").unwrap();
    let other = Host::builder().control(&socket).build().await.map(drop).unwrap_err();
    assert!(other.to_string().ends_with("control.sock: it is there already, and is no socket"), "{other}");
    assert_eq!(fs::read(&socket).unwrap(), b"a letter");
}

/// Sends these bytes, and reads an answer, or the end.
fn exchange(stream: &mut UnixStream, bytes: &[u8]) -> String {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The host may have hung up already.
    drop(stream.write_all(bytes));
    let mut line = String::new();
    drop(BufReader::new(&*stream).read_line(&mut line));
    line
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_giants_and_idlers_hold_up_nobody() {
    let folder = folder();
    let stage = host(folder.path()).await;
    let socket = folder.path().join("data/control.sock");
    let connect = || UnixStream::connect(&socket).unwrap();
    // Some say nothing, and some leave in the middle.
    let idle: Vec<_> = (0..5).map(|_| connect()).collect();
    connect().write_all(b"{\"ask\":").unwrap();
    let mut one = connect();
    for nonsense in [
        &b"nonsense\n"[..],
        b"{}\n",
        b"\n",
        b"{\"ask\":\"grant\",\"plugin\":\"deeds\"}\n",
        b"{\"ask\":\"status\",\"more\":1}\n",
        b"{\"ask\":\"resume\",\"plugin\":\"../x\"}\n",
        b"\xff\xfe\n",
    ] {
        let answer = exchange(&mut one, nonsense);
        assert!(answer.starts_with("{\"error\":\"it is no question: "), "{answer}");
    }
    assert!(exchange(&mut one, b"{\"ask\":\"status\"}\n").starts_with("{\"status\":{"), "and goes on");
    let mut giant = connect();
    let answer = exchange(&mut giant, &vec![b'x'; 10 * 1024 * 1024]);
    assert!(answer.is_empty() || answer == "{\"error\":\"a question has at most 4096 bytes\"}\n", "{answer}");
    assert_eq!(giant.read(&mut [0]).unwrap_or(0), 0, "it is hung up on");

    let asking: Vec<_> = (0..20)
        .map(|_| {
            let socket = socket.clone();
            std::thread::spawn(move || control::ask(&socket, &Question::Status {}))
        })
        .collect();
    for asked in asking {
        assert!(matches!(asked.join().unwrap(), Ok(Answer::Status(_))));
    }
    drop(idle);
    assert!(stage.ask("/sethome").await.contains("is now the home of"));
}

/// The socket's mode keeps others out; who gets past it is asked who they are.
#[tokio::test(flavor = "multi_thread")]
async fn another_user_of_the_machine_is_not_answered() {
    use std::os::unix::{fs::MetadataExt as _, process::CommandExt as _};

    let folder = folder();
    let folder = folder.path();
    if fs::metadata(folder).unwrap().uid() != 0 {
        eprintln!("only root can be somebody else: control::server tests whom it answers");
        return;
    }
    let stage = host(folder).await;
    let socket = folder.join("data/control.sock");
    for open in [folder, &folder.join("data"), &socket] {
        fs::set_permissions(open, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let asks = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\ntry:\n s.sendall(b'{\"ask\":\"status\"}\\n')\n print(s.recv(100))\nexcept ConnectionError: print(b'')";
    let answered = |user: u32| {
        let mut python = std::process::Command::new("python3");
        let output = python.args(["-c", asks]).arg(&socket).current_dir("/").uid(user).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    assert!(answered(0).starts_with("b'{\"status\":{"));
    assert_eq!(answered(65534), "b''\n");
    assert_eq!(status(folder).agents.len(), 1);
    stage.stop().await;
}
