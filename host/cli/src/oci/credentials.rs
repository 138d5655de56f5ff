//! Who we are to a registry: what `docker login`, `podman login` or `oras login` wrote down.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Deserialize;

/// `config.json`, as far as it is of use.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    /// `user:password`, in Base64.
    auth: Option<String>,
}

/// What to say to a registry as `Authorization: Basic`; nothing where nobody has signed in.
pub fn of(registry: &str) -> Option<String> {
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker"));
    let folder = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from).or_else(home)?;
    let mut file: File = serde_json::from_slice(&std::fs::read(folder.join("config.json")).ok()?).ok()?;
    let auth = file.auths.remove(registry)?.auth?;
    // It goes into a header as it is.
    let plain = |c: char| c.is_ascii_alphanumeric() || "+/=".contains(c);
    (!auth.is_empty() && auth.chars().all(plain)).then_some(auth)
}
