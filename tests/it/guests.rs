//! Components for the tests, built once for each run.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use crate::installed;

/// The checkout.
pub fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The folder that cargo builds into.
pub fn target() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_parlour"));
    program.ancestors().nth(2).unwrap().to_owned()
}

/// One of the Rust example plugins: `echo`, `help`, `roll` or `sethome`.
pub fn example(name: &str) -> Arc<[u8]> {
    let file = target().join("plugins/wasm32-wasip2/release").join(format!("{name}.wasm"));
    let component = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    whole(component, &checkout().join("plugins").join(name).join("plugin.toml"))
}

/// One of the guests in `tests/guests`, with its manifest.
pub fn guest(name: &str) -> Arc<[u8]> {
    whole(component(name), &checkout().join(format!("tests/guests/{name}.toml")))
}

/// The same without a manifest.
pub fn component(name: &str) -> Vec<u8> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        // The target folder of the example plugins: they share what they are made of.
        let into = target().join("plugins");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(checkout().join("plugins"));
        cargo.args([
            "build",
            "--release",
            "--locked",
            "--quiet",
            "--package",
            "guests",
            "--examples",
            "--target-dir",
        ]);
        for name in ["CARGO_TARGET_DIR", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
            cargo.env_remove(name);
        }
        let status = cargo.arg(&into).status().unwrap();
        assert!(status.success(), "the guests in tests/guests do not build");
        into.join("wasm32-wasip2/release/examples")
    });
    std::fs::read(folder.join(format!("{name}.wasm"))).unwrap()
}

/// A component with its manifest, where it has one.
fn whole(component: Vec<u8>, manifest: &Path) -> Arc<[u8]> {
    match std::fs::read_to_string(manifest) {
        Ok(manifest) => parlour::package::embed(component, &manifest).unwrap().into(),
        Err(_) => component.into(),
    }
}

/// The same component with one text in place of another of the same length: another version.
pub fn patched(component: &[u8], old: &str, new: &str) -> Vec<u8> {
    assert_eq!(old.len(), new.len());
    let mut bytes = component.to_vec();
    let mut count = 0;
    while let Some(at) = bytes.windows(old.len()).position(|window| window == old.as_bytes()) {
        bytes[at..at + old.len()].copy_from_slice(new.as_bytes());
        count += 1;
    }
    assert!(count > 0, "{old:?} is not in the component");
    bytes
}

/// `greet`, in JavaScript.
pub fn greet() -> Arc<[u8]> {
    static BUILT: OnceLock<Arc<[u8]>> = OnceLock::new();
    BUILT.get_or_init(|| built(&checkout().join("plugins/greet"))).clone()
}

/// `assistant`, in Python.
pub fn assistant() -> Arc<[u8]> {
    static BUILT: OnceLock<Arc<[u8]>> = OnceLock::new();
    BUILT.get_or_init(|| built(&checkout().join("plugins/assistant"))).clone()
}

/// The attacks in `tests/guests/python`.
pub fn hostile_python() -> Arc<[u8]> {
    static BUILT: OnceLock<Arc<[u8]>> = OnceLock::new();
    BUILT.get_or_init(|| built(&checkout().join("tests/guests/python"))).clone()
}

/// The attacks in `tests/guests/javascript`.
pub fn hostile_javascript() -> Arc<[u8]> {
    static BUILT: OnceLock<Arc<[u8]>> = OnceLock::new();
    BUILT.get_or_init(|| built(&checkout().join("tests/guests/javascript"))).clone()
}

/// What `parlour build` makes of a folder; of the same sources, once for all runs.
pub fn built(folder: &Path) -> Arc<[u8]> {
    let mut sources = DefaultHasher::new();
    for folder in
        [folder, &checkout().join("wit"), &checkout().join("sdk"), &checkout().join("tests/requirements")]
    {
        for file in files(folder) {
            file.strip_prefix(folder).unwrap().hash(&mut sources);
            std::fs::read(&file).unwrap().hash(&mut sources);
        }
    }
    let kept = target().join("test-tools/built");
    std::fs::create_dir_all(&kept).unwrap();
    let file = kept.join(format!("{:016x}.wasm", sources.finish()));
    if !file.exists() {
        let output = build_command(folder, &file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let component: Arc<[u8]> = std::fs::read(file).unwrap().into();
    compiled(&component);
    component
}

/// Compiles a component into the tests' cache, unless it is there: one after the other, since each takes all
/// cores for a while.
pub fn compiled(component: &Arc<[u8]>) {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let component = component.clone();
    let compile = move || {
        let host = host().cache(cache()).plugin("guest".parse().unwrap(), component).build();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(host).map(drop).unwrap();
    };
    std::thread::spawn(compile).join().unwrap();
}

/// Every source below a folder, in order.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries.retain(|path| path.extension().is_none_or(|extension| extension != "wasm"));
    entries.into_iter().flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// `parlour build`, with the tools of the other languages on its path.
pub fn build_command(folder: &Path, out: &Path) -> Command {
    let python = installed::componentize_py().unwrap_or_else(|error| panic!("{error:#}"));
    let node = installed::node_modules().unwrap_or_else(|error| panic!("{error:#}"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let ours = [python.parent().unwrap().to_owned(), node.join(".bin")];
    let path = std::env::join_paths(ours.into_iter().chain(std::env::split_paths(&path))).unwrap();
    let mut parlour = Command::new(env!("CARGO_BIN_EXE_parlour"));
    parlour.arg("build").arg(folder).arg("--out").arg(out).env("PATH", path);
    parlour
}

/// A host that has plugins compiled as the program does.
pub fn host() -> parlour::HostBuilder {
    parlour::Host::builder().compiler(parlour::Compiler::Program(env!("CARGO_BIN_EXE_parlour").into()))
}

/// Where the tests keep compiled code: compiling a Python component takes some ten seconds.
pub fn cache() -> PathBuf {
    target().join("test-tools/compiled")
}
