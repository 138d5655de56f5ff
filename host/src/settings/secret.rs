//! Secrets in the settings: a literal, `{ env = "NAME" }` or `{ file = "path" }`.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::origin::Pattern;

/// Where a secret is to be had. Its `Debug` never shows a literal.
#[derive(Clone, Deserialize)]
#[serde(untagged, expecting = "expected a text, { env = \"NAME\" } or { file = \"path\" }")]
pub enum SecretText {
    /// In the settings themselves.
    Literal(String),
    /// In an environment variable.
    #[serde(rename_all = "kebab-case")]
    Env(EnvSecret),
    /// In a file, without the white space at its end.
    File(FileSecret),
}

/// `{ env = "NAME" }`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvSecret {
    /// The variable.
    pub env: String,
}

/// `{ file = "path" }`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSecret {
    /// The file.
    pub file: PathBuf,
}

/// `[plugins.NAME.secrets.KEY]`: a secret that the host puts on the requests of a plugin, which never sees it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    /// The secret itself.
    pub value: SecretText,
    /// The origin to which it goes, and no other: `https://api.example.org`.
    pub audience: Pattern,
    /// The header that carries it, with `{}` in its place.
    #[serde(default = "default_header")]
    pub header: String,
}

fn default_header() -> String {
    "Authorization: Bearer {}".into()
}

impl SecretText {
    /// A file that is named without a `/` at its beginning is in this folder.
    pub(super) fn relative_to(&mut self, folder: &Path) {
        if let Self::File(FileSecret { file }) = self {
            *file = folder.join(&file);
        }
    }

    /// The secret itself.
    ///
    /// # Errors
    /// One line that names the variable or the file that cannot be had.
    pub fn reveal(&self) -> Result<String, String> {
        match self {
            Self::Literal(text) => Ok(text.clone()),
            Self::Env(EnvSecret { env }) => {
                std::env::var(env).map_err(|_| format!("the environment variable {env} is not set"))
            }
            Self::File(FileSecret { file }) => std::fs::read_to_string(file)
                .map(|text| text.trim_end().to_owned())
                .map_err(|error| format!("{}: {error}", file.display())),
        }
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(_) => f.write_str("Literal(…)"),
            Self::Env(env) => env.fmt(f),
            Self::File(file) => file.fmt(f),
        }
    }
}
