//! What a plugin may do: what it asks for, as far as it is granted.

use std::{fs, path::Path, sync::Arc};

use parlour::{
    Agent,
    chat::memory::Rooms,
    lock::LockFile,
    package,
    settings::{CallLimits, Grants, LlmGrant, Plugin},
};

use crate::{
    guests::{component, guest, host},
    stage::{AGENT, ALICE, BOB, Stage, granted},
};

const HEAD: &str = "name = \"deeds\"\nversion = \"1.0.0\"\ndescription = \"Asks for this and that\"\n";

/// `deeds` with another manifest.
fn asking(manifest: &str) -> Arc<[u8]> {
    package::embed(component("deeds"), &format!("{HEAD}{manifest}")).unwrap().into()
}

/// A host that grants `deeds` whatever can be granted.
async fn generous(deeds: Arc<[u8]>) -> Stage {
    let all = ["*".to_owned()];
    let grants = Grants {
        home: true,
        llm: Some(LlmGrant::default()),
        rooms: all.clone().into(),
        people: all.into(),
        ..Grants::default()
    };
    Stage::start(&[("deeds", deeds)], |builder| {
        builder.plugin_settings("deeds".parse().unwrap(), granted(grants))
    })
    .await
}

#[tokio::test]
async fn without_a_manifest_a_plugin_answers_and_remembers_and_nothing_else() {
    let stage = generous(component("deeds").into()).await;
    assert_eq!(stage.ask("/count").await, "1");
    for (asked, denied) in [
        ("/draft so far", "/draft: the plugin does not ask for `progress`"),
        ("/model hello", "/model: the plugin does not ask for `llm`"),
        ("/room !elsewhere:memory hello", "/room: the plugin does not ask for `rooms`"),
        ("/direct @bob:memory hello", "/direct: the plugin does not ask for `people`"),
    ] {
        assert_eq!(stage.ask(asked).await, denied);
    }
}

#[tokio::test]
async fn what_is_not_asked_for_is_denied_and_said_once() {
    let stage = generous(asking("[asks.outbox]\n")).await;
    for _ in 0..3 {
        assert_eq!(stage.ask("/count").await, "/count: the plugin does not ask for `kv`");
    }
    let said = stage.notices().iter().filter(|notice| notice.to_string().contains("`kv`")).count();
    assert_eq!(said, 1, "{:#?}", stage.notices());
    stage.noticed("plugin deeds: denied: the plugin does not ask for `kv`").await;

    let mute = generous(asking("[asks.kv]\n")).await;
    assert_eq!(mute.ask("/count").await, "/count: the plugin does not ask for `outbox`");
    assert_eq!(mute.ask("/react 👍").await, "/react: the plugin does not ask for `outbox`");
}

#[tokio::test]
async fn what_is_asked_for_needs_its_grant() {
    let stage = Stage::with(&[("deeds", guest("deeds"))]).await;
    assert_eq!(stage.ask("/room !elsewhere:memory hello").await, "/room: the grant `rooms` is missing");
    let other = Grants { rooms: ["!other:memory".to_owned()].into(), ..Grants::default() };
    let stage = Stage::start(&[("deeds", guest("deeds"))], |builder| {
        builder.plugin_settings("deeds".parse().unwrap(), granted(other))
    })
    .await;
    assert_eq!(stage.ask("/room !elsewhere:memory hello").await, "/room: the grant `rooms` does not have it");
}

#[tokio::test]
async fn an_agent_may_have_grants_of_its_own() {
    let rooms = Rooms::new();
    let room = rooms.create_direct(ALICE, AGENT);
    let elsewhere = rooms.create_direct(BOB, AGENT);
    let here = Grants { rooms: ["*".to_owned()].into(), ..Grants::default() };
    let agent = Agent::new("agent".parse().unwrap(), rooms.account(AGENT))
        .access(crate::stage::access())
        .grants([("deeds".parse().unwrap(), here)].into());
    let guests = [("deeds", guest("deeds"))];
    let stage = Stage::start_with(rooms, room, agent, &guests, |builder| {
        builder.plugin_settings("deeds".parse().unwrap(), granted(Grants { home: true, ..Grants::default() }))
    })
    .await;
    stage.rooms.say(ALICE, &stage.room, &format!("/room {elsewhere} hello"));
    stage.until(&elsewhere, |lines| lines.iter().any(|line| line.text == "hello")).await;
}

#[tokio::test]
async fn settings_fit_the_schema_and_have_its_defaults() {
    let deeds = asking("[config]\nproperties.city = { type = \"string\", default = \"Rome\" }\n");
    let set = |text: &str| Plugin { config: toml::from_str(text).unwrap(), ..Plugin::default() };
    for (text, expected) in [("", "Rome"), ("city = \"Oslo\"", "Oslo")] {
        let stage = Stage::start(&[("deeds", deeds.clone())], |builder| {
            builder.plugin_settings("deeds".parse().unwrap(), set(text))
        })
        .await;
        assert_eq!(stage.ask("/setting city").await, expected);
    }
    let refused = host()
        .plugin("deeds".parse().unwrap(), deeds)
        .plugin_settings("deeds".parse().unwrap(), set("city = 7"))
        .build()
        .await;
    assert_eq!(
        refused.map(drop).unwrap_err().to_string(),
        "deeds: its settings do not fit: config.city: 7 is not of type \"string\""
    );
}

#[tokio::test]
async fn a_call_takes_what_the_plugin_wants_and_the_operator_allows() {
    let hostile = |limits: &str| -> Arc<[u8]> {
        let manifest = format!("name = \"hostile\"\nversion = \"1.0.0\"\ndescription = \"\"\n{limits}");
        package::embed(component("hostile"), &manifest).unwrap().into()
    };
    let stage = async |wanted: &str, allowed: CallLimits| {
        let settings = Plugin { limits: allowed, ..Plugin::default() };
        Stage::start(&[("hostile", hostile(wanted))], |builder| {
            builder.plugin_settings("hostile".parse().unwrap(), settings)
        })
        .await
    };
    let wants = "[limits]\ncpu_ms = 60000\nwall_s = 1\n";
    let more = CallLimits { cpu_ms: Some(30_000), ..CallLimits::default() };
    let unasked = stage("", more).await;
    assert_eq!(unasked.ask("/busy 600000").await, "/busy: stopped: it used up its 1 s of CPU time");
    let ungranted = stage("[limits]\ncpu_ms = 60000\n", CallLimits::default()).await;
    assert_eq!(ungranted.ask("/busy 600000").await, "/busy: stopped: it used up its 1 s of CPU time");
    let both = stage("[limits]\ncpu_ms = 60000\n", more).await;
    assert_eq!(both.ask("/busy 1500").await, "ready");
    let less = stage(wants, more).await;
    assert_eq!(less.ask("/slip 1000").await, "/slip: stopped: it took longer than 1 s");
    let little = CallLimits { memory_mib: Some(16), ..CallLimits::default() };
    let answer = stage("", little).await.ask("/giant 20").await;
    assert_eq!(answer, "/giant: stopped: it wanted more than its 16 MiB of memory");
}

/// A host whose plugin folder, lock and kept components are in `folder`.
async fn locked(folder: &Path) -> Stage {
    Stage::start(&[], |builder| {
        builder.plugin_folder(folder.join("plugins")).lock(folder.join("parlour.lock"), folder.join("kept"))
    })
    .await
}

fn drop_in(folder: &Path, version: &str, asks: &str) {
    let manifest = format!("name = \"deeds\"\nversion = \"{version}\"\ndescription = \"\"\n{asks}");
    let bytes = package::embed(component("deeds"), &manifest).unwrap();
    let (file, partial) = (folder.join("plugins/deeds.wasm"), folder.join("plugins/partial"));
    fs::create_dir_all(folder.join("plugins")).unwrap();
    fs::write(&partial, bytes).unwrap();
    fs::rename(partial, file).unwrap();
}

const LESS: &str = "[asks.outbox]\n";
const SAME: &str = "[asks.outbox]\n[asks.kv]\n";
const MORE: &str = "[asks.outbox]\n[asks.kv]\n[asks.progress]\n";

#[tokio::test]
async fn a_file_that_asks_for_more_waits_while_the_old_version_serves() {
    let folder = tempfile::tempdir().unwrap();
    drop_in(folder.path(), "1.0.0", SAME);
    let stage = locked(folder.path()).await;
    assert_eq!(stage.ask("/count").await, "1");
    let lock = LockFile::open(folder.path().join("parlour.lock")).unwrap();
    let entry = || lock.read().unwrap().plugins.into_values().next().unwrap();
    let first = entry();

    drop_in(folder.path(), "1.1.0", LESS);
    stage.noticed("plugin deeds: new version took over").await;
    assert_eq!(stage.ask("/count").await, "/count: the plugin does not ask for `kv`");
    assert_ne!(entry().digest, first.digest);

    // What it asked for once is not asked for any more: that is what was agreed to.
    drop_in(folder.path(), "1.2.0", SAME);
    let waits = "deeds.wasm: refused: it waits until you agree: it now asks to remember things of its own (`kv`); \
                 `parlour plugin add` shows it and asks; the version before it goes on";
    stage.noticed(waits).await;
    assert_eq!(stage.ask("/count").await, "/count: the plugin does not ask for `kv`");

    // Somebody agrees, and nobody touches the file.
    lock.change(|lock| lock.plugins.values_mut().for_each(|entry| entry.asks = first.asks.clone())).unwrap();
    let again = async {
        while stage.ask("/count").await != "2" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::stage::PATIENCE, again).await.expect("it takes over");

    drop_in(folder.path(), "1.1.9", SAME);
    stage.noticed("it waits until you agree: it is version 1.1.9, and 1.2.0 was agreed to").await;
}

#[tokio::test]
async fn what_was_agreed_to_serves_after_a_restart_though_its_file_was_replaced() {
    let folder = tempfile::tempdir().unwrap();
    drop_in(folder.path(), "1.0.0", SAME);
    locked(folder.path()).await.stop().await;

    drop_in(folder.path(), "1.1.0", MORE);
    let stage = locked(folder.path()).await;
    stage.noticed("it now asks to show a draft while it works (`progress`)").await;
    assert_eq!(stage.ask("/count").await, "1");
    assert_eq!(stage.ask("/draft hello").await, "/draft: the plugin does not ask for `progress`");

    // What serves in its place goes with it.
    fs::remove_file(folder.path().join("plugins/deeds.wasm")).unwrap();
    stage.noticed("plugin deeds: removed").await;
    assert_eq!(stage.ask("/count").await, "I don't know /count.");
}
