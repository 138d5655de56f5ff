//! `cargo bench --bench load`: how long a start takes that finds its plugins compiled.
//!
//! A folder of twenty plugins, of this checkout and all different, is compiled once. Then a host is built again and again,
//! as `parlour run` does it: each component is read, its digest taken, its manifest and its lock looked at, the compiled code
//! checked and mapped, and the plugin asked what it has. Beside it stands what wasmtime takes to map the same code alone.

#[path = "../it/guests.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "they are the tests', which need more of them")]
mod guests;
#[path = "../it/installed.rs"]
#[expect(dead_code, reason = "the tests need more tools")]
mod installed;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use parlour::{Agent, Host, chat::memory::Rooms};
use wasmtime::{Config, Engine, component::Component};

/// The program's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Starts that are measured.
const STARTS: usize = 20;
/// What the host promises.
const PROMISED: Duration = Duration::from_millis(100);

fn main() -> Result<()> {
    parlour::compile_if_asked();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(runtime.spawn(measure()))?
}

async fn measure() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let plugins = folder.path().join("plugins");
    fs::create_dir(&plugins)?;
    let count = write(&plugins)?;
    let began = Instant::now();
    drop(start(folder.path()).await?);
    println!("{count} plugins compiled and loaded in {:.1?}", began.elapsed());

    let engine = engine().map_err(|error| anyhow::anyhow!("{error:#}"))?;
    let (mut ours, mut bare) = (vec![], vec![]);
    for _ in 0..STARTS {
        let began = Instant::now();
        let host = start(folder.path()).await?;
        ours.push(began.elapsed());
        drop(host);
        let began = Instant::now();
        let mapped = map(&engine, &folder.path().join("compiled"))?;
        bare.push(began.elapsed());
        anyhow::ensure!(mapped.len() == count, "each of them is kept");
    }
    let [ours, bare] = [ours, bare].map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    });
    println!("{:<34}{:>12}{:>12}{:>9}", "", "parlour", "bare", "ratio");
    let ratio = ours.as_secs_f64() / bare.as_secs_f64();
    println!("{:<34}{ours:>12.1?}{bare:>12.1?}{ratio:>9.2}", format!("{count} plugins, median"));
    println!("{}", if ours < PROMISED { "within 100 ms" } else { "over the 100 ms that are promised" });
    Ok(())
}

/// Sixteen plugins in Rust, two in JavaScript, two in Python: each differs from the others by what nobody reads.
fn write(folder: &Path) -> Result<usize> {
    let rust = ["echo", "help", "roll", "sethome"].map(|name| (name, guests::example(name), 4));
    let others = [("greet", guests::greet(), 2), ("assistant", guests::assistant(), 2)];
    let mut count = 0;
    for (name, component, copies) in rust.into_iter().chain(others) {
        for copy in 0..copies {
            // A custom section with an empty name.
            let copied = [&component[..], &[0, 2, 0, copy]].concat();
            fs::write(folder.join(format!("{name}-{copy}.wasm")), copied)?;
            count += 1;
        }
    }
    Ok(count)
}

/// A host that is ready to serve.
async fn start(folder: &Path) -> Result<Host> {
    let rooms = Rooms::new();
    let agent = Agent::new("agent".parse()?, rooms.account("@agent:memory"));
    let host = Host::builder()
        .agent(agent)
        .cache(folder.join("compiled"))
        .lock(folder.join("parlour.lock"), folder.join("kept"))
        .plugin_folder(folder.join("plugins"))
        .strict(true);
    Ok(host.build().await?)
}

/// The host's settings, as far as they are in the code: see `host/src/engine.rs`.
fn engine() -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config.epoch_interruption(true).max_wasm_stack(512 * 1024).async_stack_size(4 * 512 * 1024);
    config.wasm_memory64(false).wasm_relaxed_simd(false);
    Engine::new(&config)
}

/// Maps all compiled code of a folder.
fn map(engine: &Engine, folder: &Path) -> Result<Vec<Component>> {
    let files: std::io::Result<Vec<PathBuf>> = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect();
    let mut files = files.context("the cache")?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "sealed"));
    let mapped = files.iter().map(|file| {
        #[expect(unsafe_code, reason = "this process has just had it compiled")]
        // SAFETY: nobody else can write to this folder.
        let mapped = unsafe { Component::deserialize_file(engine, file) };
        mapped.map_err(|error| anyhow::anyhow!("{error:#}"))
    });
    mapped.collect()
}
