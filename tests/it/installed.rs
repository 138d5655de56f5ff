//! The tools the tests bring along: Synapse, matrix-nio, and what builds Python and JavaScript plugins.
//!
//! Each is installed once into `<target>/test-tools`, in a folder named after its pins, so that a changed pin is a new
//! folder and `cargo clean` removes them all. A folder counts only once its `.done` is written. Test processes that
//! run side by side take turns at a file lock. What the machine lacks is an error that names it, never a skip.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, ensure};

/// An installed tool, or why there is none; asked for once in a process.
type Installed = OnceLock<Result<PathBuf, String>>;

/// The Python that has Synapse.
pub fn synapse() -> Result<PathBuf> {
    static INSTALLED: Installed = OnceLock::new();
    let pins = include_str!("../requirements/synapse.txt");
    once(&INSTALLED, || Ok(python("synapse", pins, "about a minute")?.join("bin/python")))
}

/// The Python that has matrix-nio.
pub fn nio() -> Result<PathBuf> {
    static INSTALLED: Installed = OnceLock::new();
    let pins = include_str!("../requirements/nio.txt");
    once(&INSTALLED, || Ok(python("nio", pins, "about half a minute")?.join("bin/python")))
}

/// The program `componentize-py`.
pub fn componentize_py() -> Result<PathBuf> {
    static INSTALLED: Installed = OnceLock::new();
    let pins = include_str!("../requirements/componentize-py.txt");
    once(&INSTALLED, || Ok(python("componentize-py", pins, "some ten seconds")?.join("bin/componentize-py")))
}

/// The folder `node_modules` with what builds JavaScript plugins; its programs are in `.bin`.
pub fn node_modules() -> Result<PathBuf> {
    static INSTALLED: Installed = OnceLock::new();
    let package = include_str!("../requirements/javascript/package.json");
    let lock = include_str!("../requirements/javascript/package-lock.json");
    once(&INSTALLED, || Ok(npm("javascript", package, lock, "some ten seconds")?.join("node_modules")))
}

fn once(installed: &Installed, install: impl FnOnce() -> Result<PathBuf>) -> Result<PathBuf> {
    installed
        .get_or_init(|| install().map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(|error| anyhow!(error))
}

/// Says which Python this is, since a virtual environment does not outlive an upgrade of it, or what it lacks.
const ABOUT_PYTHON: &str = r#"
import sys
if sys.version_info < (3, 10):
    sys.exit("python3 is too old: the tests need Python 3.10 or newer, this is " + sys.version.split()[0])
try:
    import ensurepip, venv
except ImportError as missing:
    sys.exit(f"python3 has no module {missing.name}, which Debian and Ubuntu have in the package python3-venv")
print(sys.executable, sys.version)
"#;

/// A virtual environment with exactly `pins`.
fn python(name: &str, pins: &str, takes: &str) -> Result<PathBuf> {
    let about = Command::new("python3").args(["-I", "-c", ABOUT_PYTHON]).output();
    let about = about.context("python3 is missing: the tests need Python 3.10 or newer")?;
    ensure!(about.status.success(), "{}", String::from_utf8_lossy(&about.stderr).trim());
    let about = String::from_utf8_lossy(&about.stdout);

    install(name, &[pins, &about], takes, |folder| {
        run(Command::new("python3").args(["-I", "-m", "venv"]).arg(folder))?;
        let requirements = folder.join("requirements.txt");
        fs::write(&requirements, pins)?;
        // Wheels only: a build from source needs compilers and takes minutes. Compiled now, or every start pays.
        let mut pip = Command::new(folder.join("bin/python"));
        pip.args(["-I", "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]);
        pip.args(["--only-binary=:all:", "--compile", "--requirement"]).arg(requirements);
        run_again(&mut pip)
    })
}

/// A folder with exactly the packages of `lock`.
fn npm(name: &str, package: &str, lock: &str, takes: &str) -> Result<PathBuf> {
    let node = Command::new("node").arg("--version").output();
    let node = node.context("node is missing: the tests need Node.js 20 or newer")?;
    Command::new("npm")
        .arg("--version")
        .output()
        .context("npm is missing: the tests need it beside Node.js")?;

    install(name, &[package, lock, &String::from_utf8_lossy(&node.stdout)], takes, |folder| {
        fs::write(folder.join("package.json"), package)?;
        fs::write(folder.join("package-lock.json"), lock)?;
        let mut npm = Command::new("npm");
        // Not `npm ci`, which fails over platforms for which a package promises a binary and never published one.
        npm.args(["install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"])
            .current_dir(folder);
        run_again(&mut npm)
    })
}

/// The folder of a tool with these pins, made by `fill` if it is not there yet.
fn install(
    name: &str,
    pins: &[&str],
    takes: &str,
    fill: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    // Not promised to be the same in every release of Rust; a change only costs an installation.
    let mut digest = DefaultHasher::new();
    pins.hash(&mut digest);
    let name = format!("{name}-{:016x}", digest.finish());

    let tools =
        Path::new(env!("CARGO_TARGET_TMPDIR")).parent().context("target has no folder")?.join("test-tools");
    let (folder, done) = (tools.join(&name), tools.join(&name).join(".done"));
    fs::create_dir_all(&tools).with_context(|| format!("creating {}", tools.display()))?;
    let turn =
        File::create(tools.join(format!("{name}.lock"))).context("creating the lock of a test tool")?;
    turn.lock().context("waiting for another test process to install a tool")?;
    if done.exists() {
        return Ok(folder);
    }

    eprintln!("installing {name} for the tests, once, {takes}");
    if folder.exists() {
        fs::remove_dir_all(&folder)
            .with_context(|| format!("removing the unfinished {}", folder.display()))?;
    }
    fs::create_dir(&folder)?;
    fill(&folder).with_context(|| format!("installing {name} for the tests"))?;
    fs::write(done, "")?;
    Ok(folder)
}

/// Registries have bad moments: two more attempts.
fn run_again(command: &mut Command) -> Result<()> {
    run(command)
        .or_else(|error| {
            eprintln!("again: {error:#}");
            run(command)
        })
        .or_else(|_| run(command))
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_owned();
    let words: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
    let line = format!("{} {}", program.to_string_lossy(), words.join(" "));
    let output = command.output().with_context(|| line.clone())?;
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{line}: {}\n{said}{complained}", output.status);
    Ok(())
}
