//! Rust: cargo makes the component.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::tool::Tool;

const TARGET: &str = "wasm32-wasip2";

const CARGO: Tool = Tool { name: "cargo", variable: "CARGO", install: "see https://rustup.rs" };

/// Has cargo build a crate, and returns its name and where the component is.
pub fn build(folder: &Path) -> Result<(String, PathBuf)> {
    let mut cargo = Command::new(CARGO.executable(folder));
    cargo.current_dir(folder).args(["build", "--release", "--target", TARGET]);
    let output = CARGO.start(cargo.arg("--message-format=json-render-diagnostics"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success() || !said.contains(&format!("the `{TARGET}` target may not be installed")),
        "the Rust target that plugins are built for is missing: rustup target add {TARGET}"
    );
    // Cargo's standard output is for programs.
    CARGO.check(&Output { stdout: vec![], ..output.clone() })?;
    component_of(&String::from_utf8_lossy(&output.stdout), &folder.join("Cargo.toml")).with_context(|| {
        format!(
            "{} makes no component: its Cargo.toml needs [lib] crate-type = [\"cdylib\"]",
            folder.display()
        )
    })
}

/// Finds the component of one crate in what cargo says of all that it made.
fn component_of(messages: &str, manifest: &Path) -> Option<(String, PathBuf)> {
    #[derive(Deserialize)]
    struct Artifact {
        manifest_path: PathBuf,
        target: Target,
        filenames: Vec<PathBuf>,
    }
    #[derive(Deserialize)]
    struct Target {
        name: String,
    }
    // Cargo's other messages lack these fields.
    let artifacts = messages.lines().filter_map(|line| serde_json::from_str::<Artifact>(line).ok());
    artifacts.filter(|artifact| artifact.manifest_path == manifest).find_map(|artifact| {
        let component =
            artifact.filenames.into_iter().find(|file| file.extension() == Some(OsStr::new("wasm")))?;
        Some((artifact.target.name.replace('_', "-"), component))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_component_is_found_among_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","manifest_path":"/dep/Cargo.toml","target":{"name":"dep"},"filenames":["/t/libdep.rlib"]}
{"reason":"compiler-artifact","manifest_path":"/my/Cargo.toml","target":{"name":"my_plugin"},"filenames":["/t/my_plugin.wasm"]}
{"reason":"build-finished","success":true}"#;
        let check = |manifest: &str, expected: Option<&str>| {
            let found = component_of(messages, Path::new(manifest));
            assert_eq!(found, expected.map(|name| (name.to_owned(), PathBuf::from("/t/my_plugin.wasm"))));
        };
        check("/my/Cargo.toml", Some("my-plugin"));
        check("/dep/Cargo.toml", None);
    }
}
