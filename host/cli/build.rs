//! Builds the Rust plugins of this checkout, so that `parlour` without any settings has somebody to talk to.
//!
//! The other plugins need Python or Node, and nobody should need those for `cargo run`. The built components
//! are embedded as they are; the program compiles them at its first start. Outside a checkout (`cargo
//! package` leaves `plugins/` behind) there is nothing to build, and nothing is embedded.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

const EXAMPLES: [&str; 5] = ["echo", "help", "remind", "roll", "sethome"];
const TARGET: &str = "wasm32-wasip2";

/// What the outer cargo, or its user, sets for the outer build: wrappers (clippy is one), flags and a target
/// folder, which the outer cargo holds a lock on.
const NOT_FOR_GUESTS: [&str; 12] = [
    "CARGO_BUILD_BUILD_DIR",
    "CARGO_BUILD_RUSTC_WORKSPACE_WRAPPER",
    "CARGO_BUILD_RUSTC_WRAPPER",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_TARGET_DIR",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTFLAGS",
    "__CARGO_FIX_PLZ",
];

fn main() {
    let checkout = PathBuf::from(variable("CARGO_MANIFEST_DIR")).join("../..");
    let out = PathBuf::from(variable("OUT_DIR"));
    let plugins = checkout.join("plugins");
    println!("cargo::rerun-if-changed=build.rs");

    let built = if plugins.is_dir() {
        watch(&checkout);
        build(&plugins, &out)
    } else {
        Ok(Vec::new())
    };
    let written = built.and_then(|built| embed(&built, &plugins, &out));
    if let Err(line) = written {
        println!("cargo::error={line}");
        exit(1);
    }
}

/// Names sources one by one: cargo looks at everything in a folder that it is told to watch, and `plugins/`
/// may hold components and target folders that others have put there.
fn watch(checkout: &Path) {
    let mut sources = vec!["wit".to_owned(), "sdk/rust/Cargo.toml".to_owned(), "sdk/rust/src".to_owned()];
    sources.extend(["Cargo.toml", "Cargo.lock", ".cargo/config.toml"].map(|file| format!("plugins/{file}")));
    for example in EXAMPLES {
        sources.extend(["Cargo.toml", "plugin.toml", "src"].map(|file| format!("plugins/{example}/{file}")));
    }
    for source in sources {
        println!("cargo::rerun-if-changed={}", checkout.join(source).display());
    }
}

/// Builds the examples in a target folder of their own, beside what the outer build makes, and returns where
/// they are.
fn build(plugins: &Path, out: &Path) -> Result<Vec<(&'static str, PathBuf)>, String> {
    install_target(plugins)?;

    // The output folder is `<target>/<profile>/build/<package>/out`.
    let target_folder =
        out.ancestors().nth(4).ok_or("the output folder is not in a target folder")?.join("plugins");
    let mut cargo = Command::new(variable("CARGO"));
    cargo.current_dir(plugins).args(["build", "--release", "--locked", "--target", TARGET, "--target-dir"]);
    cargo.arg(&target_folder);
    for example in EXAMPLES {
        cargo.args(["--package", example]);
    }
    for name in NOT_FOR_GUESTS {
        cargo.env_remove(name);
    }
    let status =
        cargo.status().map_err(|error| format!("cannot run cargo for the example plugins: {error}"))?;
    if !status.success() {
        return Err("the example plugins in plugins/ do not build; cargo says why above".to_owned());
    }
    let built = target_folder.join(TARGET).join("release");
    Ok(EXAMPLES.map(|example| (example, built.join(example).with_extension("wasm"))).into())
}

/// Sees to it that the compiler can build guests. `rust-toolchain.toml` names the target, but rustup only
/// installs what that names where automatic installs are on.
fn install_target(plugins: &Path) -> Result<(), String> {
    if target_is_installed() {
        return Ok(());
    }
    let rustup = Command::new("rustup").current_dir(plugins).args(["target", "add", TARGET]).output();
    if rustup.is_ok_and(|output| output.status.success()) && target_is_installed() {
        println!("cargo::warning=installed the Rust target {TARGET}, which plugins are built for");
        return Ok(());
    }
    Err(format!("the Rust target that plugins are built for is missing: rustup target add {TARGET}"))
}

fn target_is_installed() -> bool {
    let rustc =
        Command::new(variable("RUSTC")).args(["--print", "target-libdir", "--target", TARGET]).output();
    rustc.is_ok_and(|output| {
        output.status.success() && Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir()
    })
}

/// Copies the components and their manifests beside a list of them, `examples.rs`, that the program includes.
fn embed(built: &[(&str, PathBuf)], plugins: &Path, out: &Path) -> Result<(), String> {
    let mut list = String::from(
        "/// The example plugins: their names, their components and their manifests.\n\
         pub const EXAMPLES: &[(&str, &[u8], &str)] = &[\n",
    );
    for (name, component) in built {
        let manifest = plugins.join(name).join("plugin.toml");
        for (file, copy) in [(component, format!("{name}.wasm")), (&manifest, format!("{name}.toml"))] {
            fs::copy(file, out.join(copy))
                .map_err(|error| format!("cannot copy {}: {error}", file.display()))?;
        }
        let file = |ending: &str| format!("concat!(env!(\"OUT_DIR\"), \"/{name}.{ending}\")");
        list +=
            &format!("    ({name:?}, include_bytes!({}), include_str!({})),\n", file("wasm"), file("toml"));
    }
    list += "];\n";
    fs::write(out.join("examples.rs"), list).map_err(|error| format!("cannot write examples.rs: {error}"))
}

fn variable(name: &str) -> OsString {
    env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name} for build scripts"))
}
