//! `parlour build [FOLDER]`: makes a component of a plugin's sources, whatever language they are in.
//!
//! A folder with a `Cargo.toml` is Rust and goes to cargo. Any other has a `plugin.toml` that names its main
//! file and the interfaces that it handles, and goes to the tool that makes components of its language,
//! together with the contract and the guest library that this program carries: no checkout is needed. The
//! sources are copied to a temporary folder first, because these tools want everything under one root and
//! leave files behind.
//!
//! The component appears in one step, so that a host that watches the folder never sees half of it.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

const TARGET: &str = "wasm32-wasip2";

/// A tool of somebody else's that this program runs, in the version that it was tried with.
struct Tool {
    name: &'static str,
    /// Names another executable to run in its place.
    variable: &'static str,
    install: &'static str,
}

const CARGO: Tool = Tool { name: "cargo", variable: "CARGO", install: "see https://rustup.rs" };
const COMPONENTIZE_PY: Tool = Tool {
    name: "componentize-py",
    variable: "COMPONENTIZE_PY",
    install: "pip install componentize-py==0.25.1",
};
const COMPONENTIZE_QJS: Tool = Tool {
    name: "componentize-qjs",
    variable: "COMPONENTIZE_QJS",
    install: "npm install componentize-qjs@0.4.5",
};

macro_rules! embedded {
    ($folder:literal: $($file:literal),+ $(,)?) => {
        &[$(($file, include_str!(concat!($folder, $file)))),+]
    };
}

const WIT: &[(&str, &str)] = embedded!("../../../wit/":
    "commands.wit", "directory.wit", "kv.wit", "llm.wit", "members.wit", "messages.wit", "outbox.wit",
    "progress.wit", "types.wit", "worlds.wit", "deps/wasi-config/store.wit", "deps/wasi-config/world.wit",
    "deps/wasi-logging/logging.wit", "deps/wasi-random/random.wit",
);
const PYTHON: &[(&str, &str)] = embedded!("../../../sdk/python/parlour_plugin/":
    "__init__.py", "config.py", "directory.py", "kv.py", "llm.py", "log.py", "outbox.py", "progress.py",
    "types.py",
);
const JAVASCRIPT: &[(&str, &str)] = embedded!("../../../sdk/javascript/":
    "config.js", "error.js", "handlers.js", "index.js", "kv.js", "llm.js", "log.js", "outbox.js",
    "package.json", "random.js",
);

/// The world that a plugin is built for; no module of a plugin may have this name.
const WORLD: &str = "parlour-built-plugin";

/// `plugin.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    name: String,
    #[expect(dead_code, reason = "every plugin says it, for those who read the file")]
    version: String,
    #[expect(dead_code, reason = "every plugin says it, for those who read the file")]
    description: String,
    /// The file that has the handlers; not for Rust.
    main: Option<String>,
    /// The interfaces that it exports; not for Rust.
    #[serde(default)]
    handles: Vec<Interface>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Interface {
    Commands,
    Messages,
    Members,
}

impl Interface {
    fn name(self) -> &'static str {
        match self {
            Self::Commands => "commands",
            Self::Messages => "messages",
            Self::Members => "members",
        }
    }
}

/// Builds the plugin in `folder` and returns where its component is: `out`, or `NAME.wasm` in the folder.
pub fn build(folder: &Path, out: Option<&Path>) -> Result<PathBuf> {
    let folder = folder.canonicalize().with_context(|| format!("cannot find {}", folder.display()))?;
    let manifest = read_manifest(&folder)?;
    let workshop = tempfile::tempdir().context("cannot make a temporary folder")?;

    let (name, component) = match manifest {
        _ if folder.join("Cargo.toml").is_file() => {
            let (crate_name, component) = build_rust(&folder)?;
            (manifest.map_or(crate_name, |manifest| manifest.name), component)
        }
        Some(manifest) => {
            let component = build_script(&folder, &manifest, workshop.path())?;
            (manifest.name, component)
        }
        None => {
            bail!("{} holds no plugin: there is neither a Cargo.toml nor a plugin.toml", folder.display())
        }
    };

    let out = out.map_or_else(|| folder.join(format!("{name}.wasm")), Path::to_path_buf);
    let partial = out.with_added_extension("partial");
    fs::copy(&component, &partial)
        .and_then(|_| fs::rename(&partial, &out))
        .with_context(|| format!("cannot write {}", out.display()))?;
    Ok(out)
}

fn read_manifest(folder: &Path) -> Result<Option<Manifest>> {
    let path = folder.join("plugin.toml");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    parse_manifest(&text).with_context(|| format!("{} is not right", path.display())).map(Some)
}

fn parse_manifest(text: &str) -> Result<Manifest> {
    let manifest: Manifest = toml::from_str(text)?;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    ensure!(
        !manifest.name.is_empty() && manifest.name.chars().all(plain),
        "name {:?} is not made of lower-case letters, digits and hyphens",
        manifest.name
    );
    Ok(manifest)
}

/// Has cargo build a crate, and returns its name and where the component is.
fn build_rust(folder: &Path) -> Result<(String, PathBuf)> {
    let mut cargo = Command::new(CARGO.executable(folder));
    cargo.current_dir(folder).args(["build", "--release", "--target", TARGET]);
    let output = CARGO.start(cargo.arg("--message-format=json-render-diagnostics"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success() || !said.contains(&format!("the `{TARGET}` target may not be installed")),
        "the Rust target that plugins are built for is missing: rustup target add {TARGET}"
    );
    CARGO.check(&output)?;
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

/// Has the tool for the main file's language build it, and returns where the component is.
fn build_script(folder: &Path, manifest: &Manifest, workshop: &Path) -> Result<PathBuf> {
    let plugin_toml = folder.join("plugin.toml");
    let Some(main) = &manifest.main else {
        bail!("{} names no main file, such as main = \"{}.py\"", plugin_toml.display(), manifest.name);
    };
    ensure!(
        !manifest.handles.is_empty(),
        "{} names nothing that the plugin handles, such as handles = [\"messages\"]",
        plugin_toml.display()
    );
    ensure!(folder.join(main).is_file(), "{} names {main:?}, which is not there", plugin_toml.display());

    let component = workshop.join("component.wasm");
    let sources = workshop.join("sources");
    copy_sources(folder, &sources).with_context(|| format!("cannot copy {}", folder.display()))?;
    match Path::new(main).extension().and_then(OsStr::to_str) {
        Some("py") => build_python(folder, manifest, main, workshop, &component)?,
        Some("js" | "mjs") => build_javascript(folder, manifest, main, workshop, &component)?,
        _ => bail!("{} names {main:?}; a main file ends in .py or .js", plugin_toml.display()),
    }
    Ok(component)
}

fn build_python(
    folder: &Path,
    manifest: &Manifest,
    main: &str,
    workshop: &Path,
    component: &Path,
) -> Result<()> {
    let module = main.trim_end_matches(".py").replace('/', ".");
    write_all(WIT, &workshop.join("wit"))?;
    fs::write(workshop.join("wit/world.wit"), world(&manifest.handles, &[]))?;
    write_all(PYTHON, &workshop.join("sdk/parlour_plugin"))?;

    let mut tool = Command::new(COMPONENTIZE_PY.executable(folder));
    tool.current_dir(workshop).args(["--wit-path", "wit", "--world", WORLD, "componentize", &module]);
    tool.args(["--python-path", "sources", "--python-path", "sdk", "--output"]).arg(component);
    COMPONENTIZE_PY.run(&mut tool)
}

fn build_javascript(
    folder: &Path,
    manifest: &Manifest,
    main: &str,
    workshop: &Path,
    component: &Path,
) -> Result<()> {
    // The host's random numbers, which `Math.random` draws from (see sdk/javascript/random.js).
    write_all(WIT, &workshop.join("wit"))?;
    fs::write(workshop.join("wit/world.wit"), world(&manifest.handles, &["wasi:random/random@0.2.0"]))?;
    let library = workshop.join("sources/node_modules/parlour-plugin");
    write_all(JAVASCRIPT, &library)?;
    let entry = library.join("entry.js");
    fs::write(&entry, javascript_entry(&manifest.handles, main))?;

    let mut tool = Command::new(COMPONENTIZE_QJS.executable(folder));
    tool.current_dir(workshop).args(["--sync", "--wit", "wit", "--world", WORLD, "--module-root", "sources"]);
    tool.arg("--js").arg(entry).arg("--output").arg(component);
    COMPONENTIZE_QJS.run(&mut tool)
}

/// A world that imports all there is and exports what the plugin handles, and nothing else.
fn world(handles: &[Interface], further_imports: &[&str]) -> String {
    let mut world = format!("package parlour:plugin@0.1.0;\n\nworld {WORLD} {{\n  include imports;\n");
    for import in further_imports {
        world.push_str(&format!("  import {import};\n"));
    }
    for interface in handles {
        world.push_str(&format!("  export {};\n", interface.name()));
    }
    world + "}\n"
}

/// The module that the component is made of: the plugin's handlers, wrapped.
fn javascript_entry(handles: &[Interface], main: &str) -> String {
    let mut entry = String::from("import { handlers } from \"./handlers.js\";\n");
    for interface in handles.iter().map(|interface| interface.name()) {
        entry.push_str(&format!(
            "import {{ {interface} as their_{interface} }} from \"../../{main}\";\n\
             export const {interface} = handlers(their_{interface});\n"
        ));
    }
    entry
}

/// Copies what may be a source. Hidden files, caches and binaries are none, and a link that leads back up
/// would never end.
fn copy_sources(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (source, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        let hidden = name.as_encoded_bytes().starts_with(b".");
        let binary = matches!(source.extension().and_then(OsStr::to_str), Some("node" | "so" | "wasm"));
        if hidden || binary || name == "__pycache__" {
            continue;
        }
        if !source.is_dir() {
            fs::copy(&source, to.join(name))?;
        } else if !from.starts_with(source.canonicalize()?) {
            copy_sources(&source, &to.join(name))?;
        }
    }
    Ok(())
}

fn write_all(files: &[(&str, &str)], folder: &Path) -> Result<()> {
    for (name, text) in files {
        let path = folder.join(name);
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&path, text))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

impl Tool {
    /// What to run: what the variable names, or what npm has put beside the plugin or above it, or what the
    /// path has.
    fn executable(&self, folder: &Path) -> PathBuf {
        let local = || folder.ancestors().map(|folder| folder.join("node_modules/.bin").join(self.name));
        env::var_os(self.variable)
            .map(PathBuf::from)
            .or_else(|| local().find(|executable| executable.exists()))
            .unwrap_or_else(|| self.name.into())
    }

    fn run(&self, command: &mut Command) -> Result<()> {
        self.check(&self.start(command)?)
    }

    fn start(&self, command: &mut Command) -> Result<Output> {
        // A tool's own backtrace would bury what it says about the plugin.
        match command.env("RUST_BACKTRACE", "0").env("RUST_LIB_BACKTRACE", "0").output() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                bail!("{} is not installed: {}", self.name, self.install)
            }
            result => result.with_context(|| format!("cannot run {}", self.name)),
        }
    }

    fn check(&self, output: &Output) -> Result<()> {
        if output.status.success() {
            return Ok(());
        }
        let stdout = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        // Cargo's standard output is for programs.
        let said = if self.name == CARGO.name { "" } else { stdout.trim() };
        bail!("{} failed\n{}", self.name, [said, stderr.trim()].join("\n").trim());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_the_contract_and_the_libraries_is_embedded() {
        let check = |folder: &str, ending: &str, embedded: &[(&str, &str)]| {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder);
            let mut there = files(&root, &root);
            there.retain(|file| file.ends_with(ending));
            let mut listed: Vec<_> = embedded.iter().map(|(file, _)| (*file).to_owned()).collect();
            listed.retain(|file| file.ends_with(ending));
            listed.sort();
            assert_eq!(there, listed, "{folder}");
        };
        check("wit", ".wit", WIT);
        check("sdk/python/parlour_plugin", ".py", PYTHON);
        check("sdk/javascript", ".js", JAVASCRIPT);
    }

    fn files(folder: &Path, root: &Path) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).expect("the folder is in the checkout") {
            let path = entry.expect("the folder can be read").path();
            if path.is_dir() {
                found.extend(files(&path, root));
            } else if let Ok(file) = path.strip_prefix(root) {
                found.push(file.display().to_string());
            }
        }
        found.sort();
        found
    }

    #[test]
    fn a_world_exports_what_is_handled() {
        assert_eq!(
            world(&[Interface::Messages, Interface::Members], &["wasi:random/random@0.2.0"]),
            "package parlour:plugin@0.1.0;\n\nworld parlour-built-plugin {\n  include imports;\n  \
             import wasi:random/random@0.2.0;\n  export messages;\n  export members;\n}\n"
        );
    }

    #[test]
    fn a_wrong_plugin_toml_is_explained() {
        let check = |text: &str, expected: &str| {
            let error = parse_manifest(text).expect_err(text);
            assert!(format!("{error:#}").contains(expected), "{error:#}");
        };
        let head = "name = \"a\"\nversion = \"1\"\ndescription = \"\"\n";
        check("name = \"a\"", "missing field `version`");
        check(&format!("{head}handels = []"), "unknown field `handels`");
        check(&format!("{head}handles = [\"mesages\"]"), "unknown variant `mesages`");
        check(&head.replace("\"a\"", "\"../a\""), "name \"../a\" is not made of");
    }

    #[test]
    fn a_folder_without_a_plugin_is_refused_in_one_line() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let check = |expected: &str| {
            let line = format!("{:#}", build(folder.path(), None).expect_err(expected));
            assert!(line.contains(expected) && !line.contains('\n'), "{line}");
        };
        check("neither a Cargo.toml nor a plugin.toml");
        let head = "name = \"a\"\nversion = \"1\"\ndescription = \"\"\n";
        let manifest = |rest: &str| {
            fs::write(folder.path().join("plugin.toml"), format!("{head}{rest}"))
                .expect("the folder can be written");
        };
        manifest("");
        check("names no main file, such as main = \"a.py\"");
        manifest("main = \"a.py\"");
        check("names nothing that the plugin handles");
        manifest("main = \"a.py\"\nhandles = [\"messages\"]");
        check("names \"a.py\", which is not there");
    }

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
