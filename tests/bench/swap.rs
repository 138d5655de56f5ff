//! `cargo bench --bench swap`: what an event notices of it that its plugin is replaced.
//!
//! 500 events a second, in twenty conversations, with the SQLite journal; a hundred times meanwhile a version that was never
//! there before is put into the plugin folder, compiled, and takes over. Every event has to be answered once. What counts is how
//! long those take that are said around a swap, beside the same run without one. `PARLOUR_BENCH_SWAPS` makes more or fewer.
//! A disk that stands still for half a second is in both runs; `TMPDIR=/dev/shm` leaves it out.

#[path = "../it/guests.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "they are the tests', which need more of them")]
mod guests;
#[path = "../it/installed.rs"]
#[expect(dead_code, reason = "the tests need more tools")]
mod installed;

use std::{
    collections::BTreeMap,
    fs,
    num::NonZeroU32,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use parlour::{
    Agent, Host,
    chat::{Chat, Ended, Identity, SendError, StartError, memory::message},
    effect::{Content, Outgoing},
    engine::limits::Limits,
    event::{Batch, DeviceTrust, Event, Kind, Position, Reading, Room, Sender},
    id::{EventId, RoomId, UserId},
    journal::sqlite::Sqlite,
    notice::{Notice, Notices},
    settings::Access,
};
use tokio::sync::{mpsc, watch};

/// The program's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Events a second.
const RATE: u32 = 500;
/// Conversations.
const ROOMS: u32 = 20;
/// Around a swap, on either side.
const AROUND: Duration = Duration::from_millis(50);
/// From one swap to the next, at least: the folder settles for 300 ms.
const BETWEEN: Duration = Duration::from_millis(100);
/// What the host promises, at the 99th percentile.
const PROMISED: Duration = Duration::from_millis(20);
/// For what is promised at once.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> Result<()> {
    parlour::compile_if_asked();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let swaps = match std::env::var("PARLOUR_BENCH_SWAPS") {
        Ok(swaps) => swaps.parse().context("PARLOUR_BENCH_SWAPS is a number")?,
        Err(_) => 100,
    };
    let (swapped, during) = runtime.block_on(runtime.spawn(measure(swaps, None)))??;
    let (_, quiet) = runtime.block_on(runtime.spawn(measure(0, Some(during.took))))??;
    let (ours, all, bare) = (percentile(swapped), percentile(during.times), percentile(quiet.times));
    println!("{:<34}{:>12}{:>12}{:>9}", "99th percentile", "swapping", "quiet", "ratio");
    for (what, ours) in [("around a swap", ours), ("all, while others are compiled", all)] {
        let ratio = ours.as_secs_f64() / bare.as_secs_f64();
        println!("{what:<34}{ours:>12.1?}{bare:>12.1?}{ratio:>9.2}");
    }
    println!("{}", if ours < PROMISED { "within 20 ms" } else { "over the 20 ms that are promised" });
    Ok(())
}

/// All events of a run: how long each took.
struct Run {
    times: Vec<Duration>,
    took: Duration,
}

/// Events at a steady rate until so many swaps are made, or as long as another run took. Answers how long events around
/// swaps took, and all of them.
async fn measure(swaps: usize, like: Option<Duration>) -> Result<(Vec<Duration>, Run)> {
    let folder = tempfile::tempdir()?;
    let plugins = folder.path().join("plugins");
    fs::create_dir(&plugins)?;
    let first = guests::guest("steady").to_vec();
    put(&plugins, &first)?;

    let (said, events) = mpsc::unbounded_channel();
    let answers = Answers::default();
    let chat = Scripted { events: tokio::sync::Mutex::new(events), answers: answers.clone() };
    let (tell, mut loaded) = watch::channel(Vec::<Instant>::new());
    let host = Host::builder()
        .agent(
            Agent::new("agent".parse()?, chat)
                .access(Access { users: ["@alice:bench".parse()?].into(), ..Access::default() }),
        )
        // Nobody reads them.
        .limits(Limits { messages: NonZeroU32::MAX, ..Limits::default() })
        .journal(Sqlite::open(folder.path().join("journal.db")).map_err(|error| anyhow::anyhow!("{error}"))?)
        .cache(folder.path().join("compiled"))
        .plugin_folder(&plugins)
        .notices(Notices::new(move |notice| {
            if matches!(notice, Notice::PluginLoaded { replaced: true, .. }) {
                tell.send_modify(|loaded| loaded.push(Instant::now()));
            }
        }))
        .build()
        .await?;
    let serving = tokio::spawn(host.run(std::future::pending()));
    let (began, mut asked) = (Instant::now(), Vec::<Instant>::new());
    let swapping = async {
        for swap in 0..swaps {
            tokio::time::sleep(BETWEEN).await;
            put(&plugins, &guests::patched(&first, "version-1", &format!("v{:08}", swap + 2)))?;
            let taken = loaded.wait_for(|loaded| loaded.len() > swap);
            drop(tokio::time::timeout(PATIENCE, taken).await.context("a swap")??);
        }
        // Some that come after the last one, or as many as there were in the other run.
        let last = like.unwrap_or(began.elapsed() + 4 * AROUND);
        tokio::time::sleep_until((began + last).into()).await;
        anyhow::Ok(())
    };
    let asking = async {
        loop {
            let number = u32::try_from(asked.len())?;
            tokio::time::sleep_until((began + Duration::from_secs(1) / RATE * number).into()).await;
            asked.push(Instant::now());
            said.send(event(number)?)?;
        }
    };
    tokio::select! {
        swapped = swapping => swapped?,
        asking = asking => return asking,
    }
    let all = async {
        while answers.lock().unwrap_or_else(PoisonError::into_inner).len() < asked.len() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let took = began.elapsed();
    let all = tokio::time::timeout(PATIENCE, all).await;
    // What is said twice comes late.
    tokio::time::sleep(Duration::from_millis(500)).await;
    drop(said);
    serving.await??;
    let answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
    let lost = asked.len() - answers.len();
    let repeated = answers.values().filter(|times| times.len() > 1).count();
    println!("{} events, {swaps} swaps: {lost} lost, {repeated} repeated", asked.len());
    ensure!(all.is_ok() && lost == 0 && repeated == 0, "each is answered once");

    let times = asked.iter().zip(0..).map(|(asked, number)| answers[&number][0] - *asked).collect::<Vec<_>>();
    let swaps = loaded.borrow().clone();
    let near = |asked: &Instant| swaps.iter().any(|swap| *asked + AROUND > *swap && *swap + AROUND > *asked);
    let around = asked.iter().zip(&times).filter(|(asked, _)| near(asked)).map(|(_, time)| *time);
    Ok((around.collect(), Run { times, took }))
}

fn put(plugins: &Path, component: &[u8]) -> Result<()> {
    let partial = plugins.join("partial");
    fs::write(&partial, component)?;
    Ok(fs::rename(partial, plugins.join("steady.wasm"))?)
}

fn percentile(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() * 99 / 100).copied().unwrap_or_default()
}

/// When each number was answered.
type Answers = Arc<Mutex<BTreeMap<u32, Vec<Instant>>>>;

/// Hands over what is said, and notes when it is told to send an answer.
struct Scripted {
    events: tokio::sync::Mutex<mpsc::UnboundedReceiver<Event>>,
    answers: Answers,
}

fn event(number: u32) -> Result<Event> {
    Ok(Event {
        id: EventId::parse(format!("$event-{number}"))?,
        room: Room {
            id: RoomId::parse(format!("!room-{}", number % ROOMS))?,
            direct: true,
            encrypted: false,
        },
        sender: Sender {
            id: UserId::parse("@alice:bench")?,
            display_name: None,
            device: DeviceTrust::Cleartext,
        },
        sent: u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?,
        mark: None,
        kind: Kind::Message(message(&format!("/echo {number}"))),
        reading: Reading::AtOnce,
    })
}

#[async_trait]
impl Chat for Scripted {
    async fn start(&self, _: Option<Position>) -> Result<Identity, StartError> {
        let user = UserId::parse("@agent:bench").map_err(|error| StartError::new(error.to_string()))?;
        Ok(Identity { user, display_name: None })
    }

    async fn next(&self) -> Result<Batch, Ended> {
        let event = self.events.lock().await.recv().await.ok_or(Ended::Closed)?;
        let position = Position(event.id.to_string());
        Ok(Batch::new(vec![event], vec![], position))
    }

    async fn send(&self, outgoing: &Outgoing) -> Result<EventId, SendError> {
        let now = Instant::now();
        if let Content::Message { body, .. } = &outgoing.content
            && let Some(Ok(number)) = body.text().split(' ').nth(1).map(str::parse)
        {
            let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            answers.entry(number).or_default().push(now);
        }
        EventId::parse(format!("${}", outgoing.transaction.as_str()))
            .map_err(|error| SendError::Final { code: "bench".into(), reason: error.to_string() })
    }

    fn typing(&self, _: &RoomId, _: bool) {}

    fn read(&self, _: &RoomId, _: &EventId, _: Option<&EventId>) {}

    async fn answer(&self, _: &RoomId, _: bool) -> Result<(), SendError> {
        Ok(())
    }

    async fn direct(&self, _: &UserId) -> Result<RoomId, SendError> {
        RoomId::parse("!room-0")
            .map_err(|error| SendError::Final { code: "bench".into(), reason: error.to_string() })
    }
}
