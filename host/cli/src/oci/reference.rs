//! `oci://REGISTRY/REPOSITORY:TAG@sha256:…`: where an artefact is, by a tag, a digest, or both.

use std::{fmt, str::FromStr};

use anyhow::{Result, bail, ensure};
use sha2::{Digest as _, Sha256};

/// What stands before it.
const SCHEME: &str = "oci://";

/// Where an artefact is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// A host, and a port if it has one.
    pub registry: String,
    pub repository: String,
    pub tag: Option<String>,
    /// The manifest's.
    pub digest: Option<Digest>,
}

/// SHA-256, shown as `sha256:` and hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest(String);

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        Self(format!("sha256:{:x}", Sha256::digest(bytes)))
    }
}

impl FromStr for Digest {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let hexadecimal = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        let fits =
            text.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && hex.bytes().all(hexadecimal));
        ensure!(fits, "a digest is sha256: and 64 hexadecimal digits");
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Reference {
    /// Whether a text is meant as one.
    pub fn is_one(text: &str) -> bool {
        text.starts_with(SCHEME)
    }

    /// The same, with the digest that it has.
    pub fn at(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }

    /// Whether both name the same tag of the same repository, or the same repository without one.
    pub fn same_place(&self, other: &Self) -> bool {
        (&self.registry, &self.repository, &self.tag) == (&other.registry, &other.repository, &other.tag)
    }

    /// What a registry is asked for: the digest, if there is one.
    pub fn wanted(&self) -> String {
        let digest = self.digest.as_ref().map(ToString::to_string);
        digest.or_else(|| self.tag.clone()).unwrap_or_default()
    }
}

impl FromStr for Reference {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some(rest) = text.strip_prefix(SCHEME) else {
            bail!("it begins with {SCHEME}, as in oci://ghcr.io/me/weather:1.0")
        };
        let (rest, digest) = rest.split_once('@').map_or((rest, None), |(rest, digest)| (rest, Some(digest)));
        let digest = digest.map(str::parse).transpose()?;
        let Some((registry, path)) = rest.split_once('/') else {
            bail!("it names a registry and a repository, as in oci://ghcr.io/me/weather:1.0")
        };
        let (repository, tag) =
            path.split_once(':').map_or((path, None), |(path, tag)| (path, Some(tag.to_owned())));
        let host = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
        ensure!(!registry.is_empty() && registry.chars().all(host), "{registry:?} is no registry's host");
        // Lower-case letters and digits, and single separators between them.
        let part = |part: &str| {
            let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
            let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
            ends(part.chars().next()) && ends(part.chars().last()) && part.chars().all(inner)
        };
        ensure!(
            repository.len() <= 255 && repository.split('/').all(part) && !repository.contains(".."),
            "{repository:?} is no repository's name"
        );
        let first = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let inner = |c: char| first(c) || ".-".contains(c);
        let fits = |tag: &String| tag.len() <= 128 && tag.starts_with(first) && tag.chars().all(inner);
        ensure!(tag.as_ref().is_none_or(fits), "it has a tag that is none");
        ensure!(tag.is_some() || digest.is_some(), "it names neither a tag, as in :1.0, nor a digest");
        Ok(Self { registry: registry.to_owned(), repository: repository.to_owned(), tag, digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_shown_again() {
        let digest = Digest::of(b"");
        for text in [
            "oci://ghcr.io/me/weather:1.0".to_owned(),
            "oci://localhost:5000/weather:v1_2.3-rc".to_owned(),
            "oci://[::1]:5000/a/b__c/d-e:x".to_owned(),
            format!("oci://ghcr.io/me/weather@{digest}"),
            format!("oci://ghcr.io/me/weather:1.0@{digest}"),
        ] {
            let reference = text.parse::<Reference>().expect(&text);
            assert_eq!(reference.to_string(), text);
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in [
            "ghcr.io/me/weather:1.0",
            "oci://weather:1.0",
            "oci:///weather:1.0",
            "oci://ghcr.io/me/weather",
            "oci://user:secret@ghcr.io/me/weather:1.0",
            "oci://ghcr.io/../weather:1.0",
            "oci://ghcr.io/me//weather:1.0",
            "oci://ghcr.io/me/Weather:1.0",
            "oci://ghcr.io/me/weather:",
            "oci://ghcr.io/me/weather:1 0",
            "oci://ghcr.io/me/weather:1?x=y",
            "oci://ghcr.io/me/weather:1/../../x",
            "oci://ghcr.io/me/weather@sha256:abc",
            "oci://ghcr.io/me/weather@sha512:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "oci://ghcr.io?/me:1",
        ] {
            let refused = text.parse::<Reference>().map(|reference| reference.to_string());
            let line = refused.expect_err(text).to_string();
            assert!(!line.contains('\n') && !line.contains("secret"), "{line}");
        }
    }
}
