//! Who made a plugin: signatures, publishers that are held to, and publishers that are required.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output, Stdio},
};

use parlour::{
    HostBuilder,
    lock::LockFile,
    package,
    settings::Plugin,
    signature::{Key, Publisher, sign},
};

use crate::{guests::component, stage::Stage};

fn key(seed: u8) -> Key {
    Key::new(&[seed; 32])
}

/// `deeds` in some version, signed by some key or by nobody.
fn deeds(version: &str, asks: &str, by: Option<u8>) -> Vec<u8> {
    let manifest = format!("name = \"deeds\"\nversion = \"{version}\"\ndescription = \"\"\n{asks}");
    let whole = package::embed(component("deeds"), &manifest).unwrap();
    by.map(|seed| sign(whole.clone(), &key(seed))).unwrap_or(whole)
}

const MORE: &str = "[asks.outbox]\n[asks.kv]\n[asks.progress]\n";
const SAME: &str = "[asks.outbox]\n[asks.kv]\n";
/// With it, `/count` is denied: who serves is heard.
const LESS: &str = "[asks.outbox]\n";
const DENIED: &str = "/count: the plugin does not ask for `kv`";

fn drop_in(folder: &Path, component: &[u8]) {
    let (file, partial) = (folder.join("plugins/deeds.wasm"), folder.join("plugins/partial"));
    fs::create_dir_all(folder.join("plugins")).unwrap();
    fs::write(&partial, component).unwrap();
    fs::rename(partial, file).unwrap();
}

/// A host whose plugin folder, lock and kept components are in `folder`.
async fn locked(folder: &Path, also: impl FnOnce(HostBuilder) -> HostBuilder) -> Stage {
    Stage::start(&[], |builder| {
        let builder = builder
            .plugin_folder(folder.join("plugins"))
            .lock(folder.join("parlour.lock"), folder.join("kept"));
        also(builder)
    })
    .await
}

fn pinned(folder: &Path) -> Option<Publisher> {
    let lock = LockFile::open(folder.join("parlour.lock")).unwrap().read().unwrap();
    lock.plugins.into_values().next().unwrap().publisher
}

#[tokio::test]
async fn an_update_by_another_publisher_waits_while_the_old_version_serves() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    drop_in(folder, &deeds("1.0.0", SAME, Some(1)));
    let stage = locked(folder, |builder| builder).await;
    assert_eq!(stage.ask("/count").await, "1");
    assert_eq!(pinned(folder), Some(key(1).publisher()));

    let (one, other) = (key(1).publisher(), key(2).publisher());
    drop_in(folder, &deeds("1.1.0", LESS, Some(2)));
    let waits = format!(
        "deeds.wasm: refused: it waits until you agree: it is now signed by {other}, and was by {one}; \
         `parlour plugin add` shows it and asks; the version before it goes on"
    );
    stage.noticed(&waits).await;
    assert_eq!(stage.ask("/count").await, "2");
    drop_in(folder, &deeds("1.1.0", LESS, None));
    stage.noticed(&format!("it waits until you agree: it is not signed any more, and was by {one}")).await;
    assert_eq!(stage.ask("/count").await, "3");
    stage.stop().await;

    // After a restart, too.
    let stage = locked(folder, |builder| builder).await;
    stage.noticed("it is not signed any more").await;
    assert_eq!(stage.ask("/count").await, "1", "the journal was in memory");
    assert_eq!(pinned(folder), Some(one));

    drop_in(folder, &deeds("1.1.0", LESS, Some(1)));
    stage.noticed("plugin deeds: new version took over").await;
    assert_eq!(stage.ask("/count").await, DENIED);
}

#[tokio::test]
async fn what_nobody_signed_may_be_signed_and_is_held_to_that() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    drop_in(folder, &deeds("1.0.0", SAME, None));
    let stage = locked(folder, |builder| builder).await;
    assert_eq!((stage.ask("/count").await, pinned(folder)), ("1".into(), None));
    drop_in(folder, &deeds("1.1.0", SAME, Some(1)));
    stage.noticed("plugin deeds: new version took over").await;
    assert_eq!(pinned(folder), Some(key(1).publisher()));
    drop_in(folder, &deeds("1.2.0", LESS, None));
    stage.noticed("it is not signed any more").await;
    assert_eq!(stage.ask("/count").await, "2");
}

#[tokio::test]
async fn a_file_that_was_changed_after_it_was_signed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let good = deeds("1.0.0", SAME, Some(1));
    drop_in(folder, &good);
    let stage = locked(folder, |builder| builder).await;
    assert_eq!(stage.ask("/count").await, "1");
    // The manifest's version, and a text wherever it stands.
    let manifest = crate::guests::patched(&good, "version = \"1.0.0\"", "version = \"1.0.1\"");
    let code = crate::guests::patched(&good, "deeds", "weeds");
    for changed in [manifest, code] {
        // Two refusals of one wording are two notices.
        let before = stage.notices().len();
        drop_in(folder, &changed);
        let said = async {
            while !stage.notices()[before..]
                .iter()
                .any(|notice| notice.to_string().contains("its signature is wrong"))
            {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(crate::stage::PATIENCE, said).await.expect("it is refused");
        assert_eq!(stage.ask("/draft hello").await, "/draft: the plugin does not ask for `progress`");
    }
    drop_in(folder, &[&good[..], &[0, 1, 0]].concat());
    stage.noticed("its signature is not its last section; the version before it goes on").await;
    assert_eq!(stage.ask("/count").await, "2");
}

#[tokio::test]
async fn a_required_publisher_is_the_only_one() {
    let (one, other) = (key(1).publisher(), key(2).publisher());
    let own = |builder: HostBuilder| {
        let settings = Plugin { publisher: Some(one), ..Plugin::default() };
        builder.plugin_settings("deeds".parse().unwrap(), settings)
    };
    let listed = |builder: HostBuilder| builder.publishers([one].into());
    for required in [&own as &dyn Fn(HostBuilder) -> HostBuilder, &listed] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        drop_in(folder, &deeds("1.0.0", SAME, Some(2)));
        let stage = locked(folder, required).await;
        let refused = format!("deeds.wasm: refused: it must be signed by {one}, and is signed by {other}");
        stage.noticed(&refused).await;
        assert_eq!(stage.ask("/count").await, "I don't know /count.");
        drop_in(folder, &deeds("1.0.0", SAME, None));
        stage.noticed("and nobody has signed it").await;
        drop_in(folder, &deeds("1.0.0", SAME, Some(1)));
        stage.noticed("plugin deeds: loaded").await;
        assert_eq!(stage.ask("/count").await, "1");
    }
    // One plugin's publisher stands in place of the list.
    let folder = tempfile::tempdir().unwrap();
    drop_in(folder.path(), &deeds("1.0.0", SAME, Some(1)));
    let stage = locked(folder.path(), |builder| own(builder.publishers([other].into()))).await;
    assert_eq!(stage.ask("/count").await, "1");
}

#[tokio::test]
async fn what_was_agreed_to_is_held_to_a_required_publisher_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    drop_in(folder, &deeds("1.0.0", SAME, None));
    locked(folder, |builder| builder).await.stop().await;
    drop_in(folder, &deeds("1.1.0", MORE, Some(1)));
    let stage = locked(folder, |builder| builder.publishers([key(1).publisher()].into())).await;
    stage.noticed("it waits until you agree").await;
    assert_eq!(stage.ask("/count").await, "I don't know /count.");
}

/// `parlour …` in a folder.
fn parlour(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_parlour"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    command.env("XDG_CONFIG_HOME", folder.join("settings")).output().unwrap()
}

/// What it printed, where it went well.
fn said(folder: &Path, arguments: &[&str]) -> String {
    let output = parlour(folder, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The line that refuses.
fn refused(folder: &Path, arguments: &[&str]) -> String {
    let output = parlour(folder, arguments);
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), line.lines().count()), (Some(2), 1), "{line}");
    line.trim_end().strip_prefix("parlour: ").unwrap().to_owned()
}

#[test]
fn a_plugin_is_signed_and_verified_on_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("deeds.wasm"), deeds("1.0.0", SAME, None)).unwrap();
    assert_eq!(refused(folder, &["plugin", "verify", "deeds.wasm"]), "deeds.wasm: nobody has signed it");
    let without = refused(folder, &["plugin", "sign", "deeds.wasm"]);
    assert!(
        without.contains("publisher.key: there is no key; `parlour plugin keygen` makes one"),
        "{without}"
    );

    // The usual key, and one with a name.
    let usual = said(folder, &["plugin", "keygen"]).trim_end().to_owned();
    let other = said(folder, &["plugin", "keygen", "other.key"]).trim_end().to_owned();
    assert!(usual.parse::<Publisher>().is_ok() && usual != other, "{usual}");
    for file in ["settings/parlour/publisher.key", "other.key"] {
        let mode = fs::metadata(folder.join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    assert!(refused(folder, &["plugin", "keygen", "other.key"]).starts_with("other.key: "));
    let unchanged =
        said(folder, &["plugin", "sign", "deeds.wasm", "--key", "other.key", "--out", "by-other.wasm"]);
    assert_eq!(unchanged, format!("by-other.wasm: signed by {other}\n"));
    assert_eq!(fs::read(folder.join("deeds.wasm")).unwrap(), deeds("1.0.0", SAME, None));

    assert_eq!(said(folder, &["plugin", "sign", "deeds.wasm"]), format!("deeds.wasm: signed by {usual}\n"));
    let signed = format!("deeds.wasm: signed by {usual}\n");
    assert_eq!(said(folder, &["plugin", "verify", "deeds.wasm"]), signed);
    assert_eq!(said(folder, &["plugin", "verify", "deeds.wasm", "--publisher", &usual]), signed);
    assert_eq!(
        refused(folder, &["plugin", "verify", "deeds.wasm", "--publisher", &other]),
        format!("deeds.wasm: it must be signed by {other}, and is signed by {usual}")
    );
    assert!(said(folder, &["plugin", "inspect", "deeds.wasm"]).contains(&format!("\nSigned by {usual}.\n")));
    // Signed again it is signed once, and as before by the same key.
    let before = fs::read(folder.join("deeds.wasm")).unwrap();
    assert_eq!(
        said(folder, &["plugin", "sign", "deeds.wasm", "--key", "other.key"]),
        format!("deeds.wasm: signed by {other}, in place of {usual}\n")
    );
    said(folder, &["plugin", "sign", "deeds.wasm"]);
    assert_eq!(fs::read(folder.join("deeds.wasm")).unwrap(), before);

    // A changed one is neither verified nor shown nor signed again.
    let changed = crate::guests::patched(&before, "deeds", "weeds");
    fs::write(folder.join("changed.wasm"), changed).unwrap();
    for command in ["verify", "inspect", "sign"] {
        assert_eq!(
            refused(folder, &["plugin", command, "changed.wasm"]),
            "changed.wasm: its signature is wrong: these are not the bytes that were signed"
        );
    }
    fs::write(folder.join("core.wasm"), b"\0asm\x01\0\0\0").unwrap();
    let core = refused(folder, &["plugin", "sign", "core.wasm"]);
    assert!(core.starts_with("core.wasm: it is a core WebAssembly module"), "{core}");
}

#[test]
fn only_a_key_of_ones_own_signs() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("deeds.wasm"), deeds("1.0.0", SAME, None)).unwrap();
    let public = said(folder, &["plugin", "keygen", "my.key"]);
    let sign = ["plugin", "sign", "deeds.wasm", "--key", "my.key"];
    for mode in [0o640, 0o604, 0o620] {
        fs::set_permissions(folder.join("my.key"), fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(refused(folder, &sign), "my.key: others can read it; chmod 600 it, or make a new one");
    }
    fs::set_permissions(folder.join("my.key"), fs::Permissions::from_mode(0o600)).unwrap();
    let secret = fs::read_to_string(folder.join("my.key")).unwrap();
    for (text, why) in [
        (public.as_str(), "my.key: it holds a public key; who signs needs the secret one"),
        ("hello", "my.key: it is no key file: `parlour plugin keygen` makes one"),
    ] {
        fs::write(folder.join("my.key"), text).unwrap();
        assert_eq!(refused(folder, &sign), why);
    }
    assert_eq!(fs::read(folder.join("deeds.wasm")).unwrap(), deeds("1.0.0", SAME, None));
    fs::write(folder.join("my.key"), secret).unwrap();
    assert_eq!(said(folder, &sign), format!("deeds.wasm: signed by {public}"));
}

#[test]
fn a_folder_is_signed_with_its_manifest() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let manifest = "name = \"deeds\"\nversion = \"1.0.0\"\ndescription = \"\"\n[asks.outbox]\n";
    fs::create_dir(folder.join("deeds")).unwrap();
    fs::write(folder.join("deeds/plugin.toml"), manifest).unwrap();
    fs::write(folder.join("deeds/deeds.wasm"), component("deeds")).unwrap();
    let public = said(folder, &["plugin", "keygen"]).trim_end().to_owned();
    assert_eq!(
        refused(folder, &["plugin", "sign", "deeds/deeds.wasm"]),
        "deeds/deeds.wasm: its plugin.toml is beside it and not in it; sign its folder, deeds"
    );
    let signed = format!("deeds/deeds.wasm: signed by {public}\n");
    assert_eq!(said(folder, &["plugin", "sign", "deeds"]), signed);
    for what in ["deeds", "deeds/deeds.wasm"] {
        assert_eq!(said(folder, &["plugin", "verify", what]), format!("{what}: signed by {public}\n"));
    }
    let whole = parlour::engine::admission::surface(&fs::read(folder.join("deeds/deeds.wasm")).unwrap());
    assert!(whole.unwrap().manifest.is_some());

    // What is written into the manifest later is not signed, and does not count.
    fs::write(folder.join("deeds/plugin.toml"), format!("{manifest}[asks.kv]\n")).unwrap();
    let refusal = refused(folder, &["plugin", "verify", "deeds"]);
    assert!(
        refusal.contains("its plugin.toml is another one than the manifest in the component"),
        "{refusal}"
    );
    // One that was signed without a manifest gets none by a file beside it.
    fs::write(folder.join("deeds/deeds.wasm"), sign(component("deeds"), &key(1))).unwrap();
    assert_eq!(
        refused(folder, &["plugin", "verify", "deeds"]),
        "deeds/deeds.wasm: it was signed without its plugin.toml; sign its folder"
    );
}

#[test]
fn who_signed_is_said_when_a_plugin_is_added_and_agreed_to_when_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (one, other) = (key(1).publisher(), key(2).publisher());
    fs::write(folder.join("parlour.toml"), "").unwrap();
    let offer = |version: &str, by| fs::write(folder.join("deeds.wasm"), deeds(version, SAME, by)).unwrap();
    let add = ["plugin", "add", "deeds.wasm"];
    let new = "New: its publisher; a version that somebody else has signed, or nobody, will wait.\n";

    offer("1.0.0", Some(1));
    let shown = said(folder, &add);
    assert!(shown.contains(&format!("\nSigned by {one}.\n")) && shown.contains(new), "{shown}");
    assert_eq!(pinned(folder), Some(one));
    let listed = said(folder, &["plugin", "list"]);
    assert!(listed.contains(&format!("\n  signed by {one}\n")), "{listed}");
    let listed: serde_json::Value =
        serde_json::from_str(&said(folder, &["plugin", "list", "--json"])).unwrap();
    assert_eq!(listed[0]["publisher"], serde_json::json!(one.to_string()));
    offer("1.1.0", Some(1));
    assert!(!said(folder, &add).contains("New: "));
    let shown = said(folder, &["plugin", "add", "deeds.wasm", "--name", "twin"]);
    assert!(shown.contains("Its publisher signed deeds, too.\n"), "{shown}");

    offer("1.2.0", Some(2));
    assert_eq!(
        refused(folder, &add),
        format!("deeds.wasm: it is signed by {other}, and was by {one}; say --publisher {other} if it shall")
    );
    assert_eq!(pinned(folder), Some(one), "nothing has changed");
    let wrong = refused(folder, &[&add[..], &["--publisher", &one.to_string()]].concat());
    assert_eq!(wrong, format!("deeds.wasm: it is signed by {other}, not by {one}"));
    let shown = said(folder, &[&add[..], &["--publisher", &other.to_string()]].concat());
    assert!(shown.contains(&format!("New: it is now signed by {other}, and was by {one}.\n")), "{shown}");
    assert_eq!(pinned(folder), Some(other));

    offer("1.3.0", None);
    assert_eq!(
        refused(folder, &add),
        format!("deeds.wasm: it is signed by nobody, and was by {other}; say --publisher nobody if it shall")
    );
    said(folder, &[&add[..], &["--publisher", "nobody"]].concat());
    assert_eq!(pinned(folder), None);
}

#[test]
fn a_publisher_that_is_missing_stops_the_start_and_the_adding_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (one, other) = (key(1).publisher(), key(2).publisher());
    let agent = "[agents.a]\nhomeserver = \"http://127.0.0.1:1\"\ntoken = \"t\"\nplugins = [\"*\"]\n";
    let settings = |text: &str| fs::write(folder.join("parlour.toml"), format!("{text}\n{agent}")).unwrap();
    fs::write(folder.join("deeds.wasm"), deeds("1.0.0", SAME, Some(2))).unwrap();
    let reason = format!("it must be signed by {one}, and is signed by {other}");
    for required in [format!("publishers = [\"{one}\"]"), format!("[plugins.deeds]\npublisher = \"{one}\"")] {
        settings(&required);
        assert_eq!(refused(folder, &["plugin", "add", "deeds.wasm"]), format!("deeds.wasm: {reason}"));
        assert!(!folder.join("plugins/deeds.wasm").exists() && !folder.join("parlour.lock").exists());
    }
    drop_in(folder, &deeds("1.0.0", SAME, Some(2)));
    assert_eq!(refused(folder, &["run"]), format!("plugins/deeds.wasm: {reason}"));
    let listed = said(folder, &["plugin", "list"]);
    assert!(listed.contains(&format!("its file waits: {reason}")), "{listed}");
    settings("publishers = [\"ed25519:abc\"]");
    let mistake = refused(folder, &["plugin", "list"]);
    assert!(mistake.starts_with("parlour.toml:1:14: a publisher is a public key such as"), "{mistake}");
}
