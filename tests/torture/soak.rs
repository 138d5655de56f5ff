//! Event after event, in a process of its own: what it takes of memory and of time stays as it was.

use std::{
    num::NonZeroU32,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use parlour::{
    Agent, Compiler, Host,
    engine::limits::Limits,
    journal::{Journal as _, sqlite::Sqlite},
    settings::Access,
};
use serde::{Deserialize, Serialize};

use crate::{dispatch_chat::Loop, guests, number};

/// Says to a process of this program what it is for.
const SOAK: &str = "PARLOUR_TORTURE_SOAK";
/// Parts of a run that are told apart. The first is what the others are held against.
const PARTS: u64 = 10;
/// How much more memory there may be at the end than after the first part.
const MORE_MEMORY: f64 = 1.05;
/// The cost of an event in the last part, in times of the first; a debug build and a short run are less exact.
const MORE_TIME: f64 = if cfg!(debug_assertions) { 1.5 } else { 1.1 };

/// How much more there may be on disk at the end than after the first part.
const MORE_DISK: f64 = 1.1;
/// After so many events what has ended is forgotten, as the host does by the clock: here it is to be as much each time.
const FORGOTTEN: u64 = 2500;

/// What such a process is told.
#[derive(Serialize, Deserialize)]
pub struct Soak {
    folder: PathBuf,
    compiler: PathBuf,
    events: u64,
}

/// How it stood at the end of a part.
#[derive(Debug, Serialize, Deserialize)]
struct Part {
    /// Of memory that is in use, in KiB.
    resident: u64,
    /// Of the journal's files, in KiB.
    disk: u64,
    /// The median of an event, from the question to the answer.
    event: Duration,
}

impl Soak {
    pub fn of_this_process() -> Option<Self> {
        let told = std::env::var(SOAK).ok()?;
        Some(serde_json::from_str(&told).expect("what it is told"))
    }
}

pub fn run() -> Result<(), String> {
    let parts = parts().map_err(|error| format!("{error:#}"))?;
    println!("{:>10}{:>14}{:>14}{:>14}", "events", "memory KiB", "disk KiB", "an event");
    let events = number("PARLOUR_TEST_SOAK", EVENTS) / PARTS;
    for (number, part) in (1..).zip(&parts) {
        let Part { resident, disk, event } = part;
        println!("{:>10}{resident:>14}{disk:>14}{:>14}", events * number, format!("{event:.1?}"));
    }
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else {
        return Err("it said nothing".into());
    };
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    let memory = last.resident as f64 / first.resident as f64;
    let time = last.event.as_secs_f64() / first.event.as_secs_f64();
    println!("memory {memory:.3} times, an event {time:.2} times");
    if memory > MORE_MEMORY {
        return Err(format!("{memory:.3} times the memory: {parts:?}"));
    }
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    let disk = last.disk as f64 / first.disk as f64;
    if disk > MORE_DISK {
        return Err(format!("{disk:.3} times as much on disk: {parts:?}"));
    }
    if time > MORE_TIME {
        return Err(format!("an event takes {time:.2} times as long: {parts:?}"));
    }
    Ok(())
}

/// Events of a run in `cargo test`.
const EVENTS: u64 = 50_000;

fn parts() -> anyhow::Result<Vec<Part>> {
    let folder = crate::synapse::temporary("parlour-soak-")?;
    std::fs::write(folder.path().join("echo.wasm"), guests::example("echo"))?;
    let soak = Soak {
        folder: folder.path().to_owned(),
        compiler: env!("CARGO_BIN_EXE_parlour").into(),
        events: number("PARLOUR_TEST_SOAK", EVENTS),
    };
    let mut command = Command::new(std::env::current_exe()?);
    command.env(SOAK, serde_json::to_string(&soak)?).stdin(Stdio::null());
    let output = command.stderr(Stdio::inherit()).output()?;
    anyhow::ensure!(output.status.success(), "it ended: {}", output.status);
    let lines = String::from_utf8(output.stdout)?;
    Ok(lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

pub fn soak(soak: &Soak) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime.expect("a runtime").block_on(serve(soak)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(soak: &Soak) -> anyhow::Result<()> {
    let (chat, mut person) = Loop::new();
    let access = Access { users: ["@alice:bench".parse()?].into(), ..Access::default() };
    let journal = Sqlite::open(soak.folder.join("journal.db"))?;
    let host = Host::builder()
        .agent(Agent::new("agent".parse()?, chat).access(access))
        .journal(journal)
        .compiler(Compiler::Program(soak.compiler.clone()))
        .limits(Limits { messages: NonZeroU32::MAX, ..Limits::default() })
        .keep(Duration::from_secs(24 * 60 * 60))
        .plugin("echo".parse()?, std::fs::read(soak.folder.join("echo.wasm"))?)
        .build()
        .await?;
    let serving = tokio::spawn(host.run(std::future::pending()));
    let each = (soak.events / PARTS).max(1);
    for part in 0..PARTS {
        let mut times = Vec::new();
        for number in part * each..(part + 1) * each {
            let text = format!("/echo {number}");
            let began = Instant::now();
            let (answer, ended) = person.ask(&text).await?;
            anyhow::ensure!(answer == number.to_string(), "{text}: {answer}");
            if number % FORGOTTEN == 0 {
                forget(&soak.folder).await?;
            }
            // What is kept here must not grow with the run.
            if times.len() < 1000 {
                times.push(ended - began);
            } else {
                times[usize::try_from(number % 1000)?] = ended - began;
            }
        }
        times.sort_unstable();
        let part = Part { resident: resident()?, disk: disk(&soak.folder)?, event: times[times.len() / 2] };
        println!("{}", serde_json::to_string(&part)?);
    }
    drop(person);
    serving.await??;
    Ok(())
}

/// Forgets all that has ended.
async fn forget(folder: &Path) -> anyhow::Result<()> {
    let (journal, agent) = (Sqlite::open(folder.join("journal.db"))?, "agent".parse()?);
    let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    while journal.forget(&agent, now, 200).await? > 0 {}
    while journal.forget_records(i64::try_from(now)?, u64::MAX, 200).await? > 0 {}
    Ok(())
}

/// `VmRSS` of this process, in KiB: proc(5).
fn resident() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(number.ok_or_else(|| anyhow::anyhow!("/proc/self/status has no VmRSS"))?.parse()?)
}

fn disk(folder: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("journal.db") {
            bytes += entry.metadata()?.len();
        }
    }
    Ok(bytes / 1024)
}
