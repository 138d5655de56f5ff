//! What a component is, read from its bytes before anything is compiled.

use std::time::Duration;

use bytes::Bytes;
use wasmparser::{Encoding, Parser, Payload};

use super::compile::Exceeded;
use crate::{
    kept,
    lock::{Beyond, Locked},
    manifest::{Asks, Manifest},
    package,
    signature::{self, NotBy, Publisher, Wrong},
    text::escaped,
};

/// The contract that this host speaks.
pub const CONTRACT: &str = "parlour:plugin";
/// Guests of the same minor version link (component model, semver-compatible import names).
pub const VERSION: &str = "0.1.0";

/// What of the contract a plugin exports.
const HANDLES: [&str; 5] = ["commands", "messages", "members", "timers", "tools"];
/// What of the contract a plugin imports.
const IMPORTS: [&str; 10] =
    ["types", "outbox", "kv", "progress", "llm", "directory", "secrets", "toolbox", "media", "schedule"];
/// The standard packages that are linked; what is behind them is what was granted.
const WASI: [&str; 9] = [
    "wasi:cli",
    "wasi:clocks",
    "wasi:config",
    "wasi:filesystem",
    "wasi:http",
    "wasi:io",
    "wasi:logging",
    "wasi:random",
    "wasi:sockets",
];
/// Names are looked at up to here.
const NAME: usize = 200;
/// Imports and exports, each: Python's have some 60.
const NAMES: usize = 1000;
/// So many names stand in an error.
const NAMED: usize = 10;

/// What a component says of itself, and what it imports and exports, by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Surface {
    /// What it says of itself, if it does.
    pub manifest: Option<Manifest>,
    /// Who signed all of it, if somebody did; the signature was checked.
    pub publisher: Option<Publisher>,
    /// Interfaces, such as `parlour:plugin/outbox@0.1.0`.
    pub imports: Vec<String>,
    /// Interfaces, such as `parlour:plugin/commands@0.1.0`.
    pub exports: Vec<String>,
}

/// Why a file is no plugin for this host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// It is too large.
    #[error("it has {size} MiB; a component has at most {limit} MiB")]
    TooLarge {
        /// Its size, in MiB.
        size: usize,
        /// The limit, in MiB.
        limit: usize,
    },
    /// It is something else.
    #[error("it is no WebAssembly component")]
    NotWasm,
    /// It is WebAssembly, but no component.
    #[error(
        "it is a core WebAssembly module, not a component; build it for wasm32-wasip2, or with `parlour build`"
    )]
    CoreModule,
    /// Native code, which runs outside every sandbox.
    #[error("it is compiled native code; only WebAssembly components are loaded")]
    Precompiled,
    /// Compiling it takes more than it may.
    #[error(transparent)]
    Compiling(#[from] Exceeded),
    /// The file is cut off.
    #[error("the file ends in the middle; it may still be being written")]
    Truncated,
    /// It does not follow the format.
    #[error("it is no valid component: {0}")]
    Invalid(String),
    /// It was made for another version of the contract.
    #[error("it was made for {CONTRACT}@{0}; this host speaks {VERSION}")]
    Version(String),
    /// It exports nothing that this host calls.
    #[error("it exports none of {CONTRACT}'s commands, messages, members, timers and tools")]
    NothingHandled,
    /// It wants what this host does not have.
    #[error("it imports what this host does not have: {}", listed(.0))]
    Imports(Vec<String>),
    /// What it exports or imports has another shape than the contract says.
    #[error("it does not fit the contract: {0}")]
    Shape(String),
    /// It failed when it was asked what it has.
    #[error("it failed when it was asked what it has: {0}")]
    Listing(String),
    /// It was too slow then, or the machine.
    #[error("it took longer than {} s to say what it has", .0.as_secs_f64())]
    Slow(Duration),
    /// It declares something that cannot be used.
    #[error("{0}")]
    Declaration(String),
    /// Its signature is none.
    #[error("{0}")]
    Signature(#[from] Wrong),
    /// The settings say who must have signed it, and it is somebody else or nobody.
    #[error("{0}")]
    Publisher(NotBy),
    /// It goes beyond what was agreed to.
    #[error(
        "it waits until you agree: {}; `parlour plugin add` shows it and asks",
        .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    )]
    Beyond(Vec<Beyond>),
    /// It could not move what is remembered into its own shape.
    #[error("it failed to move what the version before it remembers: {0}")]
    Migration(String),
    /// It was rolled back before.
    #[error(
        "it was rolled back, because it faulted where the version before it does not; `parlour plugin resume` tries it again"
    )]
    RolledBack,
    /// The host's own trouble.
    #[error("{0}")]
    Host(String),
}

impl Refused {
    /// The same file may be taken at another time: the host was in trouble, the plugin too slow, or nobody has agreed
    /// yet.
    pub fn may_change(&self) -> bool {
        matches!(
            self,
            Self::Host(_)
                | Self::Slow(_)
                | Self::Beyond(_)
                | Self::RolledBack
                | Self::Compiling(Exceeded::Wall(_))
        )
    }

    /// It waits for somebody to agree, while what was before it serves.
    pub fn waits(&self) -> bool {
        matches!(self, Self::Beyond(_) | Self::RolledBack)
    }
}

/// A component that could be a plugin of this host, as far as its bytes tell.
pub struct Candidate {
    /// The component.
    pub bytes: Bytes,
    /// SHA-256 of it, in hexadecimal.
    pub digest: String,
    /// What it says of itself.
    pub surface: Surface,
}

impl Candidate {
    /// Reads a component of at most so many bytes.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn read(bytes: Bytes, limit: usize) -> Result<Self, Refused> {
        Self::read_with(bytes, limit, kept::digest)
    }

    /// As [`Self::read`], where `digest` says its SHA-256.
    pub(crate) fn read_with(
        bytes: Bytes,
        limit: usize,
        digest: impl FnOnce(&[u8]) -> String,
    ) -> Result<Self, Refused> {
        if bytes.len() > limit {
            return Err(Refused::TooLarge {
                size: bytes.len().div_ceil(1024 * 1024),
                limit: limit / (1024 * 1024),
            });
        }
        let surface = surface(&bytes)?;
        surface.admit()?;
        Ok(Self { digest: digest(&bytes), bytes, surface })
    }

    /// What is to be agreed to.
    #[must_use]
    pub fn offered(&self) -> Locked {
        let manifest = self.surface.manifest.as_ref();
        Locked {
            digest: self.digest.clone(),
            version: manifest.map(|manifest| manifest.version.clone()),
            source: None,
            publisher: self.surface.publisher,
            handles: HANDLES.into_iter().filter(|it| self.surface.handles(it)).map(str::to_owned).collect(),
            asks: self.surface.asks(),
        }
    }
}

/// Reads what a component imports and exports, and who signed it.
///
/// # Errors
/// [`Refused`] where the bytes are no component, or its signature is none.
pub fn surface(bytes: &[u8]) -> Result<Surface, Refused> {
    if wasmtime::Engine::detect_precompiled(bytes).is_some() {
        return Err(Refused::Precompiled);
    }
    if !bytes.starts_with(b"\0asm") {
        return Err(if b"\0asm".starts_with(bytes) { Refused::Truncated } else { Refused::NotWasm });
    }
    let mut surface = Surface::default();
    let mut signatures = Vec::new();
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(|error| broken(&error))? {
            Payload::Version { encoding: Encoding::Module, .. } if depth == 0 => {
                return Err(Refused::CoreModule);
            }
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::CustomSection(section) if depth == 0 && section.name() == package::SECTION => {
                let manifest = package::read(section.data()).map_err(Refused::Declaration)?;
                if surface.manifest.replace(manifest).is_some() {
                    return Err(Refused::Declaration("it has two manifests".into()));
                }
            }
            Payload::CustomSection(section) if depth == 0 && section.name() == signature::SECTION => {
                signatures.push(section.data_offset()..section.data_offset() + section.data().len());
            }
            Payload::ComponentImportSection(imports) if depth == 0 => {
                for import in imports {
                    few(&surface.imports)?;
                    surface.imports.push(shown(import.map_err(|error| broken(&error))?.name.name));
                }
            }
            Payload::ComponentExportSection(exports) if depth == 0 => {
                for export in exports {
                    few(&surface.exports)?;
                    surface.exports.push(shown(export.map_err(|error| broken(&error))?.name.name));
                }
            }
            _ => {}
        }
    }
    surface.publisher = signature::check(bytes, &signatures)?;
    Ok(surface)
}

impl Surface {
    /// Whether this host could serve it, as far as names tell.
    ///
    /// # Errors
    /// [`Refused::Version`] or [`Refused::NothingHandled`].
    pub fn admit(&self) -> Result<(), Refused> {
        for name in self.imports.iter().chain(&self.exports) {
            if let Some((_, version)) = ours(name)
                && !compatible(version)
            {
                return Err(Refused::Version(version.to_owned()));
            }
        }
        let made_for = self.manifest.as_ref().and_then(|manifest| manifest.contract.as_ref());
        if let Some(version) = made_for.map(ToString::to_string).filter(|version| !compatible(version)) {
            return Err(Refused::Version(version));
        }
        if !HANDLES.iter().any(|interface| self.handles(interface)) {
            return Err(Refused::NothingHandled);
        }
        Ok(())
    }

    /// What it asks for.
    #[must_use]
    pub fn asks(&self) -> Asks {
        self.manifest.as_ref().map_or_else(Asks::unsaid, |manifest| manifest.asks.clone())
    }

    /// Whether it exports one of our interfaces.
    #[must_use]
    pub fn handles(&self, interface: &str) -> bool {
        self.exports.iter().any(|name| ours(name).is_some_and(|(of, _)| of == interface))
    }

    /// What it imports that this host does not have.
    pub fn strangers(&self) -> impl Iterator<Item = &String> {
        self.imports.iter().filter(|name| match ours(name) {
            Some((interface, _)) => !IMPORTS.contains(&interface),
            None => !WASI
                .iter()
                .any(|package| name.strip_prefix(package).is_some_and(|rest| rest.starts_with('/'))),
        })
    }
}

/// Whether there may be one more.
fn few(names: &[String]) -> Result<(), Refused> {
    if names.len() < NAMES {
        Ok(())
    } else {
        Err(Refused::Invalid(format!("it imports or exports more than {NAMES} things")))
    }
}

/// The first ones, and how many more there are.
fn listed(names: &[String]) -> String {
    let first = names.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first}, and {more} more"),
    }
}

/// A name as it can be shown: nothing has validated it yet.
fn shown(name: &str) -> String {
    escaped(name, NAME)
}

/// `("outbox", "0.1.0")` of `parlour:plugin/outbox@0.1.0`.
#[must_use]
pub fn ours(name: &str) -> Option<(&str, &str)> {
    let (interface, version) = name.strip_prefix(CONTRACT)?.strip_prefix('/')?.split_once('@')?;
    Some((interface, version))
}

fn compatible(version: &str) -> bool {
    version.starts_with("0.1.")
}

fn broken(error: &wasmparser::BinaryReaderError) -> Refused {
    if error.message().contains("unexpected end") {
        Refused::Truncated
    } else {
        Refused::Invalid(escaped(error.message(), NAME))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_host_does_not_have_is_named() {
        let imports = [
            "wasi:keyvalue/store@0.2.0",
            "wasi:cli/environment@0.2.3",
            "wasi:clive/x",
            "parlour:plugin/kv@0.1.0",
            "parlour:plugin/rockets@0.1.0",
            "acme:rockets/launch",
        ];
        let surface = Surface { imports: imports.map(Into::into).into(), ..Surface::default() };
        let strangers: Vec<_> = surface.strangers().map(String::as_str).collect();
        assert_eq!(strangers, [imports[0], imports[2], imports[4], imports[5]]);
    }

    #[test]
    fn what_is_no_plugin_is_said_so() {
        assert_eq!(surface(b"hello"), Err(Refused::NotWasm));
        assert_eq!(surface(b"\0as"), Err(Refused::Truncated));
        assert_eq!(surface(b"\0asm\x01\0\0\0"), Err(Refused::CoreModule));
        let empty = surface(b"\0asm\x0d\0\x01\0").unwrap();
        assert_eq!(empty.admit(), Err(Refused::NothingHandled));
        let exporting = |name: &str| Surface { exports: vec![name.into()], ..Surface::default() };
        let other = exporting("parlour:plugin/commands@0.2.0");
        assert_eq!(other.admit(), Err(Refused::Version("0.2.0".into())));
        let newer = exporting("parlour:plugin/commands@0.1.3");
        assert_eq!(newer.admit(), Ok(()));
    }
}
