//! `plugin.toml`: what a plugin says of itself.

use std::{fs, io::ErrorKind, path::Path};

use anyhow::{Context, Result, anyhow};
use parlour::id::PluginName;
use serde::Deserialize;

/// `plugin.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub name: String,
    #[expect(dead_code, reason = "every plugin says it, for those who read the file")]
    version: String,
    #[expect(dead_code, reason = "every plugin says it, for those who read the file")]
    description: String,
    /// The file that has the handlers; not for Rust.
    pub main: Option<String>,
    /// The interfaces that it exports; not for Rust.
    #[serde(default)]
    pub handles: Vec<Interface>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Interface {
    Commands,
    Messages,
    Members,
}

impl Interface {
    pub fn name(self) -> &'static str {
        match self {
            Self::Commands => "commands",
            Self::Messages => "messages",
            Self::Members => "members",
        }
    }
}

/// Reads the `plugin.toml` of a folder, if it has one.
pub fn read(folder: &Path) -> Result<Option<Manifest>> {
    let path = folder.join("plugin.toml");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    parse(&text).map_err(|reason| anyhow!("{}:{reason}", path.display())).map(Some)
}

/// An error begins with the line.
fn parse(text: &str) -> Result<Manifest, String> {
    let manifest: Manifest = toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or("");
        let message = error.message().lines().collect::<Vec<_>>().join(" ");
        format!("{}: {message}", before.matches('\n').count() + 1)
    })?;
    PluginName::parse(&manifest.name).map_err(|error| format!(" {error}"))?;
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_plugin_toml_is_explained() {
        let check = |text: &str, expected: &str| {
            let error = parse(text).expect_err(text);
            assert!(error.contains(expected) && error.lines().count() == 1, "{error}");
        };
        let head = "name = \"a\"\nversion = \"1\"\ndescription = \"\"\n";
        check("name = \"a\"", "missing field `version`");
        check(&format!("{head}handels = []"), "unknown field `handels`");
        check(&format!("{head}handles = [\"mesages\"]"), "unknown variant `mesages`");
        check(&head.replace("\"a\"", "\"../a\""), "\"../a\" is not a name of");
        check(&head.replace("\"a\"", "\"9a\""), "\"9a\" is not a name of");
    }
}
