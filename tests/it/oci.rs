//! Plugins from a registry, which may lie.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use parlour::{lock::LockFile, package};

use crate::{
    guests::component,
    registry::{Lie, Registry, digest},
};

/// `deeds` in some version, under some name.
fn deeds(name: &str, version: &str) -> Vec<u8> {
    let manifest = format!("name = \"{name}\"\nversion = \"{version}\"\ndescription = \"\"\n[asks.outbox]\n");
    package::embed(component("deeds"), &manifest).unwrap()
}

/// A folder with a `parlour.toml` that has the component `deeds.wasm` in it.
fn folder(component: &[u8]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("parlour.toml"), "").unwrap();
    fs::write(folder.path().join("deeds.wasm"), component).unwrap();
    folder
}

/// `parlour plugin …` in a folder, as somebody who has signed in nowhere, unless it has a `config.json`.
fn plugin(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_parlour"));
    command.arg("plugin").args(arguments).current_dir(folder).stdin(Stdio::null());
    command.env("DOCKER_CONFIG", folder).output().unwrap()
}

/// What it printed, where it went well.
fn said(folder: &Path, arguments: &[&str]) -> String {
    let output = plugin(folder, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The line that refuses, and no other.
fn refused(folder: &Path, arguments: &[&str]) -> String {
    let output = plugin(folder, arguments);
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), line.lines().count()), (Some(2), 1), "{line}");
    line.trim_end().strip_prefix("parlour: ").unwrap().to_owned()
}

/// Pushes a component to a tag, and answers the reference that names it for good.
fn push(folder: &Path, component: &[u8], to: &str) -> String {
    fs::write(folder.join("pushed.wasm"), component).unwrap();
    said(folder, &["push", "pushed.wasm", to]).trim_end().to_owned()
}

/// Where `deeds` came from, as the lock has it.
fn source(folder: &Path) -> Option<String> {
    let lock = LockFile::open(folder.join("parlour.lock")).unwrap().read().unwrap();
    lock.plugins.get("deeds").and_then(|agreed| agreed.source.clone())
}

fn added(folder: &Path) -> Option<Vec<u8>> {
    fs::read(folder.join("plugins/deeds.wasm")).ok()
}

#[test]
fn a_plugin_is_pushed_to_a_registry_and_added_from_it() {
    let registry = Registry::start();
    let whole = deeds("deeds", "1.0.0");
    let folder = folder(&whole);
    let folder = folder.path();
    let tag = registry.reference("me/deeds:1.0");
    let pushed = said(folder, &["push", "deeds.wasm", &tag]);
    let manifest = registry.manifest("me/deeds", "1.0");
    assert_eq!(pushed, format!("{tag}@{}\n", digest(manifest.as_bytes())));
    assert_eq!(said(folder, &["push", "deeds.wasm", &tag]), pushed, "the same is the same");

    // As other tools have it.
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.wasm.config.v0+json");
    assert_eq!(manifest["layers"][0]["mediaType"], "application/wasm");
    assert_eq!(manifest["layers"][0]["digest"], digest(&whole));
    let config = registry.blob(manifest["config"]["digest"].as_str().unwrap());
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    assert_eq!((&config["architecture"], &config["os"]), (&"wasm".into(), &"wasip2".into()));
    assert_eq!(config["layerDigests"][0], digest(&whole));
    let exports = config["component"]["exports"].as_array().unwrap();
    assert!(exports.contains(&"parlour:plugin/commands@0.1.0".into()), "{exports:?}");

    let shown = said(folder, &["inspect", &tag]);
    assert!(shown.starts_with(pushed.trim_end()) && shown.contains("It asks to:"), "{shown}");
    let shown = said(folder, &["add", &tag]);
    assert!(shown.contains("plugin deeds: ") && !shown.contains("New: the tag"), "{shown}");
    assert_eq!(added(folder), Some(whole));
    assert_eq!(source(folder).as_deref(), Some(pushed.trim_end()));
    assert!(!said(folder, &["add", &tag]).contains("New: "), "it is what was agreed to");
    // By its digest alone it is the same plugin, from elsewhere.
    let alone = pushed.trim_end().replace(":1.0@", "@");
    let taken = refused(folder, &["add", &alone]);
    assert_eq!(taken, "it takes the place of plugin deeds 1.0.0; say --name deeds if it shall");
    said(folder, &["add", &alone, "--name", "deeds"]);
    assert_eq!(source(folder), Some(alone));
}

#[test]
fn a_moved_tag_is_refused_until_somebody_agrees() {
    let registry = Registry::start();
    let folder = folder(b"");
    let folder = folder.path();
    let tag = registry.reference("me/deeds:stable");
    let first = push(folder, &deeds("deeds", "1.0.0"), &tag);
    said(folder, &["add", &tag]);

    // The same plugin, and one that calls itself something else.
    for name in ["deeds", "other"] {
        let moved = deeds(name, "1.1.0");
        let second = push(folder, &moved, &tag);
        let output = plugin(folder, &["add", &tag]);
        let shown = String::from_utf8(output.stdout).unwrap();
        let (of, at) = (first.split_once('@').unwrap().1, second.split_once('@').unwrap().1);
        assert!(shown.contains(&format!("New: the tag stable now means {at}, and meant {of}.\n")), "{shown}");
        assert_eq!(
            String::from_utf8(output.stderr).unwrap(),
            format!("parlour: {tag}: the tag has moved; say {second} if it shall be that\n")
        );
        assert_eq!(output.status.code(), Some(2));
        assert_eq!((added(folder), source(folder)), (Some(deeds("deeds", "1.0.0")), Some(first.clone())));
        assert!(!folder.join("plugins/other.wasm").exists());
    }

    // What was agreed to is still to be had, and so is the new one, by somebody who says which.
    said(folder, &["add", &first]);
    let second = push(folder, &deeds("deeds", "1.1.0"), &tag);
    said(folder, &["add", &second]);
    assert_eq!((added(folder), source(folder)), (Some(deeds("deeds", "1.1.0")), Some(second)));
    said(folder, &["add", &tag]);
}

#[test]
fn a_wrong_layer_is_refused() {
    let registry = Registry::start();
    let whole = deeds("deeds", "1.0.0");
    let folder = folder(&whole);
    let folder = folder.path();
    let tag = registry.reference("me/deeds:1.0");
    push(folder, &whole, &tag);
    let layer = digest(&whole);

    let other = crate::guests::patched(&whole, "1.0.0", "1.0.1");
    let longer = [&whole[..], b"\0\x01\0"].concat();
    for lie in [
        Lie::Bytes(other.clone()),
        Lie::Bytes(longer),
        Lie::Bytes(whole[..whole.len() - 1].to_vec()),
        Lie::Bytes(vec![]),
        Lie::Endless,
    ] {
        registry.lie(&layer, lie);
        let line = refused(folder, &["add", &tag]);
        assert!(line.starts_with(&format!("{tag}: the registry sent another layer, sha256:")), "{line}");
        assert!(line.ends_with(&format!(", for {layer}")), "{line}");
        assert_eq!((added(folder), source(folder)), (None, None));
        registry.repent();
    }

    // A manifest that names the other layer is another artefact.
    let first = registry.manifest("me/deeds", "1.0");
    push(folder, &other, &registry.reference("me/deeds:evil"));
    registry.lie(&digest(first.as_bytes()), Lie::Bytes(registry.manifest("me/deeds", "evil").into()));
    let line = refused(folder, &["add", &format!("{tag}@{}", digest(first.as_bytes()))]);
    assert!(line.contains(": the registry sent another manifest, sha256:"), "{line}");
    assert_eq!((added(folder), source(folder)), (None, None));

    // It is the lies that were refused.
    registry.repent();
    said(folder, &["add", &format!("{tag}@{}", digest(first.as_bytes()))]);
    assert_eq!(added(folder), Some(whole));
}

#[test]
fn what_is_no_plugin_in_a_registry_is_refused_in_one_line() {
    let registry = Registry::start();
    let whole = deeds("deeds", "1.0.0");
    let folder = folder(&whole);
    let folder = folder.path();
    let tag = |tag: &str| registry.reference(&format!("me/deeds:{tag}"));
    push(folder, &whole, &tag("1.0"));
    let good = registry.manifest("me/deeds", "1.0");
    let add = |of: &str| refused(folder, &["add", &tag(of)]);
    assert_eq!(add("2.0"), format!("{}: the registry does not have it", tag("2.0")));
    for (name, text, expected) in [
        ("garbage", "{".to_owned(), "its manifest is none of a plugin"),
        (
            "image",
            good.replace("vnd.wasm.config.v0", "vnd.oci.image.config.v1"),
            "it is no WebAssembly artefact",
        ),
        (
            "archive",
            good.replace("application/wasm", "application/x-tar"),
            "its layer is none of application/wasm",
        ),
        (
            "giant",
            good.replace(&format!("\"size\":{}", whole.len()), "\"size\":4000000000"),
            "it has 3815 MiB",
        ),
        ("lost", good.replace(&digest(&whole), &digest(b"lost")), "the registry does not have it"),
    ] {
        registry.put_manifest("me/deeds", name, &text);
        let line = add(name);
        assert!(line.starts_with(&format!("{}: {expected}", tag(name))), "{line}");
    }
    registry.lie("manifests/endless", Lie::Endless);
    assert!(add("endless").ends_with("its manifest is none of a plugin"));
    for named in ["oci://deeds:1.0", "oci://127.0.0.1:1/me/deeds", "oci://u:p@127.0.0.1/me/deeds:1"] {
        assert!(refused(folder, &["add", named]).starts_with(named), "{named}");
    }
    let nobody = refused(folder, &["add", "oci://127.0.0.1:1/me/deeds:1.0"]);
    assert!(
        nobody.starts_with("oci://127.0.0.1:1/me/deeds:1.0: the registry cannot be reached: "),
        "{nobody}"
    );
    fs::write(folder.join("text.wasm"), "hello").unwrap();
    let text = refused(folder, &["push", "text.wasm", &tag("text")]);
    assert_eq!(text, "text.wasm: it is no WebAssembly component");
    assert!(added(folder).is_none() && source(folder).is_none());
}

#[test]
fn a_registry_knows_who_asks_and_its_storage_does_not() {
    let (registry, storage) = (Registry::start(), Registry::start());
    let whole = deeds("deeds", "1.0.0");
    let folder = folder(&whole);
    let folder = folder.path();
    let tag = registry.reference("me/deeds:1.0");
    registry.only("bWU6c2VjcmV0");
    let line = refused(folder, &["push", "deeds.wasm", &tag]);
    assert!(line.contains("no token: the registry does not let us (401") && !line.contains("bWU6"), "{line}");

    let host = tag.strip_prefix("oci://").unwrap().split('/').next().unwrap();
    let config = format!("{{\"auths\":{{\"{host}\":{{\"auth\":\"bWU6c2VjcmV0\"}}}}}}");
    fs::write(folder.join("config.json"), config).unwrap();
    said(folder, &["push", "deeds.wasm", &tag]);

    // The layer is elsewhere, as it often is.
    push(folder, &whole, &storage.reference("x:y"));
    let layer = format!("blobs/{}", digest(&whole));
    registry.lie(&layer, Lie::Redirect(storage.url(&format!("v2/x/{layer}"))));
    said(folder, &["add", &tag]);
    assert_eq!(added(folder), Some(whole));
    let asked = storage.asked().pop().unwrap();
    assert_eq!((asked.path, asked.authorization), (format!("/v2/x/{layer}"), None));

    // In clear it goes nowhere else.
    registry.repent();
    registry.lie(&layer, Lie::Redirect("http://storage.invalid/x".into()));
    let line = refused(folder, &["add", &tag]);
    assert!(line.ends_with("it is redirected to plain http"), "{line}");
    registry.repent();
    registry.lie(&layer, Lie::Redirect(registry.url(&format!("v2/me/deeds/{layer}"))));
    let line = refused(folder, &["add", &tag]);
    assert!(line.ends_with("it is redirected again and again"), "{line}");
}

#[test]
fn a_registry_in_the_settings_is_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let settings = "[plugins.deeds]\nsource = \"oci://ghcr.io/me/deeds:1.0\"\n[agents.a]\nhomeserver = \"http://127.0.0.1:1\"\ntoken = \"t\"\nplugins = [\"deeds\"]\n";
    fs::write(folder.path().join("parlour.toml"), settings).unwrap();
    let mut run = Command::new(env!("CARGO_BIN_EXE_parlour"));
    let output = run.arg("run").current_dir(folder.path()).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "parlour: parlour.toml: plugins.deeds.source: oci://ghcr.io/me/deeds:1.0 is no file; `parlour plugin add` brings it\n"
    );
}
