//! `cargo bench`: what Parlour adds to the bare machine.
//!
//! One side is an event's whole way: from the chat that hands it over to the chat that is told to send the answer,
//! with journal, gate, lane, instance, call, commit and outbox. The other side is wasmtime alone, with the same
//! engine settings and the same prepared component: a fresh instance and one call. Both run in turns, in the same
//! process, and what counts is their ratio. With the SQLite journal, the other side also makes two commits:
//! the event with its position, and the effect with "done".

mod bare;
mod dispatch_chat;
#[path = "../it/installed.rs"]
#[expect(dead_code, reason = "the tests need more tools")]
mod installed;

use std::{
    num::NonZeroU32,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use parlour::{Agent, Host, engine::limits::Limits, journal::sqlite::Sqlite, settings::Access};

use self::{bare::Bare, dispatch_chat::Loop};

/// The program's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Pairs that are measured, after a tenth as many that are not.
const PAIRS: usize = 2_000;
/// How long what events have learnt is kept.
const KEEP: Duration = Duration::from_secs(24 * 60 * 60);

fn main() -> Result<()> {
    parlour::compile_if_asked();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    println!("{:<46}{:>12}{:>12}{:>9}", "", "parlour", "bare", "ratio");
    // `cargo bench --bench dispatch -- Rust` measures one language.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    for (language, component) in components()? {
        if !wanted.is_empty() && !wanted.iter().any(|word| word == language) {
            continue;
        }
        let mut in_memory = None;
        for durable in [false, true] {
            let component = component.clone();
            let Medians { ours, bare, commits } =
                runtime.block_on(runtime.spawn(measure(component, durable)))??;
            let journal = if durable { "SQLite" } else { "memory" };
            let ratio = ours.as_secs_f64() / bare.as_secs_f64();
            println!(
                "{:<46}{:>12.1?}{:>12.1?}{ratio:>9.2}",
                format!("{language}, journal in {journal}, median"),
                ours,
                bare
            );
            // What the same way costs without a disk, and two commits.
            if durable && let Some(quick) = in_memory {
                let least: Duration = quick + commits;
                let ratio = ours.as_secs_f64() / least.as_secs_f64();
                let what = format!("{language}, to the way in memory and two commits");
                println!("{what:<46}{ours:>12.1?}{least:>12.1?}{ratio:>9.2}");
            }
            in_memory = Some(ours);
        }
    }
    Ok(())
}

/// A language's name, and the component.
type Language = (&'static str, Arc<[u8]>);

/// The same plugin in each language, built anew: `/echo text` answers with the text.
fn components() -> Result<Vec<Language>> {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let languages = [
        ("Rust", "plugins/echo", None),
        ("JavaScript", "tests/bench/javascript", Some(installed::node_modules()?.join(".bin"))),
        ("Python", "tests/bench/python", installed::componentize_py()?.parent().map(Path::to_owned)),
    ];
    let folder = tempfile::tempdir()?;
    let mut components = Vec::new();
    for (language, source, tool) in languages {
        let source = checkout.join(source);
        let file = folder.path().join(format!("{language}.wasm"));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(tool.into_iter().chain(std::env::split_paths(&path)))?;
        let mut build = Command::new(env!("CARGO_BIN_EXE_parlour"));
        let built = build.arg("build").arg(&source).arg("--out").arg(&file).env("PATH", path).output()?;
        let said = String::from_utf8_lossy(&built.stderr);
        anyhow::ensure!(built.status.success(), "building {}: {said}", source.display());
        components.push((language, std::fs::read(&file)?.into()));
    }
    Ok(components)
}

struct Medians {
    ours: Duration,
    bare: Duration,
    /// Of the two commits alone.
    commits: Duration,
}

async fn measure(component: Arc<[u8]>, durable: bool) -> Result<Medians> {
    let folder = tempfile::tempdir()?;
    let (chat, mut person) = Loop::new();
    let access = Access { users: ["@alice:bench".parse()?].into(), ..Access::default() };
    let mut builder = Host::builder()
        .agent(Agent::new("agent".parse()?, chat).access(access))
        // Nobody reads them.
        .limits(Limits { messages: NonZeroU32::MAX, ..Limits::default() })
        // As the program has it: what is needed to run an event again is recorded.
        .keep(KEEP)
        .plugin("echo".parse()?, component.clone());
    if durable {
        let journal =
            Sqlite::open(folder.path().join("journal.db")).map_err(|error| anyhow::anyhow!("{error}"))?;
        builder = builder.journal(journal);
    }
    let serving = tokio::spawn(builder.build().await?.run(std::future::pending()));
    let bare = Bare::new(&component).map_err(|error| told(&error))?;
    let mut commits = durable.then(|| bare::Commits::open(&folder.path().join("bare.db"))).transpose()?;

    let [mut ours, mut theirs, mut alone] = [const { Vec::new() }; 3];
    for pair in 0..PAIRS + PAIRS / 10 {
        let text = format!("/echo {pair}");
        let began = Instant::now();
        let (answer, ended) = person.ask(&text).await?;
        let our = ended - began;
        anyhow::ensure!(answer == pair.to_string(), "{text}: {answer}");

        let began = Instant::now();
        if let Some(commits) = &mut commits {
            commits.event(&text)?;
        }
        let first = began.elapsed();
        let answer = bare.call(&pair.to_string()).await.map_err(|error| told(&error))?;
        let returned = Instant::now();
        if let Some(commits) = &mut commits {
            commits.effect(&answer)?;
        }
        let (their, second) = (began.elapsed(), returned.elapsed());
        anyhow::ensure!(answer == pair.to_string(), "bare: {answer}");
        if pair >= PAIRS / 10 {
            ours.push(our);
            theirs.push(their);
            alone.push(first + second);
        }
    }
    drop(person);
    serving.await??;
    Ok(Medians { ours: median(ours), bare: median(theirs), commits: median(alone) })
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn told(error: &wasmtime::Error) -> anyhow::Error {
    anyhow::anyhow!("{error:#}")
}
