//! The audit record: what plugins were granted, did and were denied, and that nobody changes it unseen.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use parlour::{journal::sqlite::Sqlite, package};
use rusqlite::Connection;
use serde_json::Value;

use crate::{
    guests::{component, example, guest},
    stage::{PATIENCE, Stage},
};

/// `parlour …` in a folder.
pub fn parlour(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_parlour")).args(arguments).current_dir(folder).output().unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A folder with `parlour.toml`, and in `plugins` the plugin `deeds` that asks for this.
fn folder(settings: &str, asks: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("parlour.toml"), settings).unwrap();
    drop_in(folder.path(), "1.0.0", asks);
    folder
}

fn drop_in(folder: &Path, version: &str, asks: &str) {
    let manifest = format!("name = \"deeds\"\nversion = \"{version}\"\ndescription = \"\"\n{asks}");
    let bytes = package::embed(component("deeds"), &manifest).unwrap();
    fs::create_dir_all(folder.join("plugins")).unwrap();
    fs::write(folder.join("partial"), bytes).unwrap();
    fs::rename(folder.join("partial"), folder.join("plugins/deeds.wasm")).unwrap();
}

/// A host as `parlour run` has it, over rooms in memory.
async fn host(folder: &Path) -> Stage {
    let settings = parlour::settings::load(&folder.join("parlour.toml")).unwrap();
    Stage::start(&[], |mut builder| {
        for (name, plugin) in settings.plugins {
            builder = builder.plugin_settings(name, plugin);
        }
        builder
            .plugin_folder(folder.join("plugins"))
            .lock(folder.join("parlour.lock"), folder.join("data/plugins"))
            .journal(Sqlite::open(folder.join("data/journal.db")).unwrap())
    })
    .await
}

/// What `parlour audit` says, for a script.
fn record(folder: &Path) -> Value {
    serde_json::from_slice(&parlour(folder, &["audit", "--json"]).stdout).unwrap()
}

const ASKS: &str = "[asks.outbox]\n[asks.kv]\n[asks.rooms]\nreason = \"Tells others\"\n[asks.people]\nreason = \"Tells them\"\n[asks.directory]\n";
const SETTINGS: &str = "[plugins.deeds.grants]\npeople = [\"*:memory\"]\n";

#[tokio::test(flavor = "multi_thread")]
async fn what_was_granted_used_and_denied_is_written_down_and_shown() {
    let folder = folder(SETTINGS, ASKS);
    let folder = folder.path();
    let said = parlour(folder, &["audit"]);
    assert_eq!(said.status.code(), Some(2));
    assert_eq!(text(&said.stderr), "parlour: there is no data/journal.db yet: no host has run here\n");

    let stage = host(folder).await;
    for count in ["1", "2", "3"] {
        assert_eq!(stage.ask("/count").await, count);
    }
    for _ in 0..2 {
        let answer = stage.ask("/room !elsewhere:memory hello").await;
        assert_eq!(answer, "/room: the grant `rooms` is missing");
    }
    stage.ask("/model hello").await;
    let notice = stage.noticed("the grant `rooms` is missing").await.to_string();
    assert!(notice.ends_with("(outbox.send to !elsewhere:memory)"), "{notice}");
    stage.stop().await;

    let said = parlour(folder, &["audit"]);
    assert!(said.status.success(), "{}", text(&said.stderr));
    let shown = text(&said.stdout);
    for line in [
        "  loaded           deeds: ",
        "  granted          deeds: outbox, kv, directory, people = *:memory\n",
        "  used             deeds for agent agent: kv\n",
        "  used             deeds for agent agent: kv (2 times)\n",
        "  denied           deeds for agent agent: rooms: outbox.send to !elsewhere:memory: the grant `rooms` is missing\n",
        "  denied           deeds for agent agent: llm: llm.ask: the plugin does not ask for `llm`\n",
        " entries, as they were written.\n",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    assert_eq!(text(&parlour(folder, &["audit", "--plugin", "other"]).stdout).lines().count(), 3);

    let said = parlour(folder, &["plugin", "check", "deeds"]);
    assert_eq!(said.status.code(), Some(1), "a call was denied");
    assert_eq!(text(&said.stderr), "");
    let shown = text(&said.stdout);
    for line in [
        "deeds 1.0.0  (",
        "  kv          granted; used 3 times, last 20",
        "  rooms       not granted\n              “Tells others”\n              denied twice, last 20",
        ": outbox.send to !elsewhere:memory: the grant `rooms` is missing\n",
        "  people      granted; never used\n",
        "  llm         not asked for\n              denied once, last 20",
        "It imports and does not ask for, so that it is denied: llm, progress\n",
        "It asks for, was granted and has never used: directory, people\n",
    ] {
        let line = line.replace("twice", "2 times");
        assert!(shown.contains(&line), "{line}: {shown}");
    }
    let json: Value =
        serde_json::from_slice(&parlour(folder, &["plugin", "check", "deeds", "--json"]).stdout).unwrap();
    let rooms = json["permissions"].as_array().unwrap().iter().find(|row| row["permission"] == "rooms");
    assert_eq!(rooms.unwrap()["denied"][0]["count"], 2, "{json}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_denied_is_over_once_it_is_granted_or_not_asked_for_any_more() {
    let folder = folder(SETTINGS, ASKS);
    let folder = folder.path();
    let check = || parlour(folder, &["plugin", "check", "deeds"]).status.code();
    assert_eq!(check(), Some(0), "it has never run");
    let stage = host(folder).await;
    stage.ask("/room !elsewhere:memory hello").await;
    stage.stop().await;
    assert_eq!(check(), Some(1));
    host(folder).await.stop().await;
    assert_eq!(check(), Some(1), "a restart changes nothing");

    fs::write(folder.join("parlour.toml"), "[plugins.deeds.grants]\nrooms = [\"*\"]\n").unwrap();
    let stage = host(folder).await;
    stage.rooms.say(crate::stage::ALICE, &stage.room, "/room !elsewhere:memory hello");
    assert_eq!(stage.ask("/count").await, "1");
    stage.stop().await;
    let said = parlour(folder, &["plugin", "check", "deeds"]);
    assert_eq!(said.status.code(), Some(0), "{}", text(&said.stdout));
    assert!(
        text(&said.stdout).contains("  rooms       granted; used once, last 20"),
        "{}",
        text(&said.stdout)
    );
}

#[test]
fn whether_a_secret_arrives_is_said_for_each_agent_with_grants_of_its_own() {
    let agent = |name: &str| {
        format!("[agents.{name}]\nuser = \"@{name}:example.org\"\npassword = \"x\"\nplugins = [\"*\"]\n")
    };
    let settings = format!(
        "homeserver = \"https://matrix.example.org\"\n{}{}[agents.one.grants.deeds]\nhttp = [\"https://api.example\"]\n\
         [plugins.deeds.secrets.key]\nvalue = \"never shown\"\naudience = \"https://api.example\"\n\
         header = \"Authorization: Bearer {{}}\"\n",
        agent("one"),
        agent("two"),
    );
    let asks = "[asks.outbox]\n[asks.http]\nhosts = [\"https://api.example\"]\nreason = \"To be tried\"\n\
                [asks.secrets.key]\naudience = \"https://api.example\"\nreason = \"To be tried\"\n";
    let folder = folder(&settings, asks);
    let check = || parlour(folder.path(), &["plugin", "check", "deeds"]);
    let (arrives, lost) = (
        "Its secret key would arrive for agent one: https://api.example gets authorization: Bearer …\n",
        "Its secret key would NOT arrive: no request goes to https://api.example: the grant `http` is missing\n",
    );
    let said = check();
    let shown = text(&said.stdout);
    assert!(shown.contains(arrives) && shown.contains(lost), "{shown}{}", text(&said.stderr));
    assert_eq!(said.status.code(), Some(1));
    // What holds for no agent is not said.
    let alone = settings.replace(&agent("two"), "");
    fs::write(folder.path().join("parlour.toml"), alone).unwrap();
    let said = check();
    let shown = text(&said.stdout);
    assert!(shown.contains(arrives) && !shown.contains("NOT"), "{shown}");
    assert!(said.status.success(), "{}", text(&said.stderr));
}

#[tokio::test]
async fn a_file_is_checked_before_it_is_added() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("some.wasm"), guest("deeds")).unwrap();
    let said = parlour(folder.path(), &["plugin", "check", "some.wasm"]);
    assert!(said.status.success(), "{}", text(&said.stderr));
    let shown = text(&said.stdout);
    assert!(shown.contains("  llm         not granted\n              “To be tried”\n"), "{shown}");
    assert!(shown.ends_with("It has never run here.\n"), "{shown}");
    let said = parlour(folder.path(), &["plugin", "check", "nobody"]);
    assert_eq!(said.status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_call_is_counted_and_the_record_is_read_beside_the_host() {
    let folder = folder("", "[asks.outbox]\n");
    fs::write(folder.path().join("plugins/echo.wasm"), example("echo")).unwrap();
    let stage = host(folder.path()).await;
    // It asks for the model again and again, until somebody stops it.
    stage.rooms.say(crate::stage::ALICE, &stage.room, "/insist 3");
    stage.noticed("plugin deeds: denied: the plugin does not ask for `llm` (llm.ask)").await;
    stage.ask("/echo hello").await;
    let seen = |what: &str| {
        let record = record(folder.path());
        assert_eq!(record["broken"], Value::Null);
        record["entries"].as_array().unwrap().iter().any(|entry| entry["what"] == what)
    };
    let written = async {
        while !(seen("denied") && seen("used") && seen("loaded")) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, written).await.expect("the first of each kind is written at once");
    assert_eq!(stage.ask("/echo and still").await, "and still");
}

/// A record of some entries, and the file that it is in.
async fn recorded() -> (tempfile::TempDir, PathBuf) {
    let folder = folder(SETTINGS, ASKS);
    let stage = host(folder.path()).await;
    stage.ask("/count").await;
    stage.ask("/model hello").await;
    stage.stop().await;
    let file = folder.path().join("data/journal.db");
    (folder, file)
}

/// Somebody who can write the file, and takes away what guards it.
fn change(file: &Path, sql: &str) {
    let db = Connection::open(file).unwrap();
    assert!(db.execute_batch("DELETE FROM audit").unwrap_err().to_string().contains("only grows"));
    db.execute_batch(&format!("DROP TRIGGER audit_is_not_changed; DROP TRIGGER audit_is_not_deleted; {sql}"))
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_and_a_removed_entry_are_found() {
    for (sql, expected) in [
        (
            "UPDATE audit SET count = 0 WHERE number = 2",
            "entry 2 was changed, or is not the one that stood there",
        ),
        (
            "UPDATE audit SET detail = '' WHERE number = 1",
            "entry 1 was changed, or is not the one that stood there",
        ),
        (
            "UPDATE audit SET hash = x'00' WHERE number = 1",
            "entry 1 was changed, or is not the one that stood there",
        ),
        ("DELETE FROM audit WHERE number = 2", "entry 2 was removed"),
        (
            "DELETE FROM audit WHERE number = 2; UPDATE audit SET number = number - 1 WHERE number > 2",
            "entry 2 was changed, or is not the one that stood there",
        ),
        ("DELETE FROM audit", "it ends with entry 0, and "),
        ("DELETE FROM audit WHERE number > 1", "it ends with entry 1, and "),
        ("UPDATE audit_head SET count = 1", " were written"),
    ] {
        let (folder, file) = recorded().await;
        change(&file, sql);
        let said = parlour(folder.path(), &["audit"]);
        assert_eq!(said.status.code(), Some(1), "{sql}: {}", text(&said.stdout));
        let line = text(&said.stderr);
        assert!(
            line.starts_with("parlour: the record is broken: ") && line.contains(expected),
            "{sql}: {line}"
        );
        assert_eq!(line.lines().count(), 1);
        let json: Value =
            serde_json::from_slice(&parlour(folder.path(), &["audit", "--json"]).stdout).unwrap();
        assert!(json["broken"].as_str().unwrap().contains(expected), "{json}");
        let said = parlour(folder.path(), &["plugin", "check", "deeds"]);
        assert_eq!(said.status.code(), Some(2), "what cannot be vouched for is not counted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_was_cut_off_or_written_anew_is_found_by_a_hash_that_was_noted() {
    let (folder, file) = recorded().await;
    let folder = folder.path();
    let noted = record(folder)["hash"].as_str().unwrap().to_owned();
    let stage = host(folder).await;
    stage.ask("/count").await;
    stage.stop().await;
    let said = parlour(folder, &["audit", "--since", &noted]);
    assert!(said.status.success(), "{}", text(&said.stderr));
    let shown = text(&said.stdout);
    assert!(shown.contains(" is still there, and ") && shown.contains("  used "), "{shown}");
    assert!(!shown.contains("     1  "), "only what came after it: {shown}");

    // Somebody cuts off the end, and makes the rest look whole.
    change(
        &file,
        "DELETE FROM audit WHERE number > 2; UPDATE audit_head SET count = 2, hash = (SELECT hash FROM audit WHERE number = 2)",
    );
    assert!(parlour(folder, &["audit"]).status.success(), "by itself it cannot be told");
    let said = parlour(folder, &["audit", "--since", &noted]);
    assert_eq!(said.status.code(), Some(1));
    assert_eq!(
        text(&said.stderr),
        "parlour: the record has no entry with that hash any more: it was written anew, or its end was cut off\n"
    );
    let said = parlour(folder, &["audit", "--since", "12"]);
    assert_eq!(said.status.code(), Some(2));
}

const WATCHED: &str = "[plugins.deeds]\naudit_only = true\n";

#[tokio::test(flavor = "multi_thread")]
async fn audit_only_lets_through_what_is_asked_and_not_granted_and_counts_it() {
    let folder = folder(WATCHED, "[asks.outbox]\n[asks.rooms]\nreason = \"Tells others\"\n");
    let folder = folder.path();
    let stage = host(folder).await;
    let loud = "plugin deeds: AUDIT-ONLY: what is not granted of rooms is let through and counted";
    assert_eq!(stage.noticed(loud).await.level(), parlour::notice::Level::Warn);
    let elsewhere = stage.rooms.create([crate::stage::BOB, crate::stage::AGENT]);
    for _ in 0..2 {
        stage.rooms.say(crate::stage::ALICE, &stage.room, &format!("/room {elsewhere} hello"));
    }
    stage.until(&elsewhere, |lines| lines.iter().filter(|line| line.text == "hello").count() == 2).await;
    // What it does not ask for is denied as ever.
    for (asked, denied) in [
        ("/direct @bob:memory hello", "/direct: the plugin does not ask for `people`"),
        ("/count", "/count: the plugin does not ask for `kv`"),
        ("/model hello", "/model: the plugin does not ask for `llm`"),
    ] {
        assert_eq!(stage.ask(asked).await, denied);
    }
    stage.stop().await;
    let said = text(&parlour(folder, &["audit"]).stdout);
    for line in [
        "  granted          deeds: outbox; audit-only: rooms\n",
        &format!(
            "  would be denied  deeds for agent agent: rooms: outbox.send to {elsewhere}: the grant `rooms` is missing"
        ),
        "  denied           deeds for agent agent: kv: ",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    let said = text(&parlour(folder, &["plugin", "check", "deeds"]).stdout);
    assert!(
        said.contains("  rooms       not granted\n")
            && said.contains("              would be denied 2 times, last 20"),
        "{said}"
    );
    assert!(said.contains("AUDIT-ONLY: what is not granted of rooms is let through and counted\n"), "{said}");
    let said = text(&parlour(folder, &["plugin", "list"]).stdout);
    assert!(said.contains("  AUDIT-ONLY, let through and counted where not granted: rooms\n"), "{said}");
    let said = text(&parlour(folder, &["plugin", "inspect", "plugins/deeds.wasm"]).stdout);
    assert!(
        said.contains("\nAUDIT-ONLY: as plugin deeds it may do without a grant what it asks for: rooms\n"),
        "{said}"
    );

    // The same plugin, without it.
    fs::write(folder.join("parlour.toml"), "").unwrap();
    let stage = host(folder).await;
    assert_eq!(stage.ask("/room !elsewhere:memory hello").await, "/room: the grant `rooms` is missing");
    assert!(!stage.notices().iter().any(|notice| notice.to_string().contains("AUDIT-ONLY")));
}

/// What nobody has agreed to is not let through either: a file that asks for more waits.
#[tokio::test(flavor = "multi_thread")]
async fn audit_only_agrees_to_nothing() {
    let folder = folder(WATCHED, "[asks.outbox]\n");
    let stage = host(folder.path()).await;
    drop_in(folder.path(), "1.1.0", "[asks.outbox]\n[asks.llm]\nreason = \"Wants more\"\n");
    stage.noticed("it waits until you agree: it now asks to ask the language model").await;
    assert_eq!(stage.ask("/model hello").await, "/model: the plugin does not ask for `llm`");
}

/// A role, a quota and a limit are no grants.
#[tokio::test(flavor = "multi_thread")]
async fn audit_only_lifts_no_limit() {
    let asks = "[asks.outbox]\n[asks.kv]\nbytes = 1000000000\nreason = \"Much\"\n[asks.home]\nreason = \"It is nice\"\n";
    let folder =
        folder("[plugins.deeds]\naudit_only = true\n[plugins.deeds.grants]\nkv = { bytes = 300000 }\n", asks);
    let stage = host(folder.path()).await;
    let answer = stage.ask("/hoard 2").await;
    assert_eq!(answer, "/hoard: this plugin remembers at most 300000 bytes and 100000 keys");
    let answer = stage.ask("/hoard 20").await;
    assert!(answer.starts_with("/hoard: "), "{answer}");
}

#[test]
fn audit_only_is_said_when_a_plugin_is_added_and_goes_with_it() {
    let folder = folder("# mine\ndata = \"data\"\n", ASKS);
    let folder = folder.path();
    let read = || fs::read_to_string(folder.join("parlour.toml")).unwrap();
    let said = parlour(folder, &["plugin", "add", "plugins/deeds.wasm"]);
    assert_eq!(said.status.code(), Some(2), "each grant is given or denied");
    let said = parlour(folder, &["plugin", "add", "plugins/deeds.wasm", "--audit-only"]);
    assert!(said.status.success(), "{}", text(&said.stderr));
    let shown = text(&said.stdout);
    assert!(
        shown.contains("AUDIT-ONLY: what is not granted of what it asks for (rooms, people) is let through"),
        "{shown}"
    );
    assert!(read().contains("[plugins.deeds]\naudit_only = true\n"), "{}", read());
    let other =
        package::embed(component("deeds"), "name = \"deeds\"\nversion = \"2.0.0\"\ndescription = \"\"\n")
            .unwrap();
    fs::write(folder.join("other.wasm"), other).unwrap();
    let said = text(&parlour(folder, &["plugin", "add", "other.wasm"]).stderr);
    assert!(
        said.contains(
            "it takes the place of plugin deeds 1.0.0, and it is audit-only; say --name deeds if it shall"
        ),
        "{said}"
    );
    assert!(parlour(folder, &["plugin", "remove", "deeds"]).status.success());
    assert!(!read().contains("audit_only") && read().starts_with("# mine\ndata = "), "{}", read());
}
