//! `cargo bench --bench neighbours`: what a plugin that takes all the time it may costs the others.
//!
//! One person talks with `echo`, first alone, and then while a plugin computes in every other conversation at once. What
//! counts is the ratio of the medians, of the same person in the same run.

#[path = "../it/guests.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "they are the tests', which need more of them")]
mod guests;
#[path = "../it/installed.rs"]
#[expect(dead_code, reason = "the tests need more tools")]
mod installed;

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use parlour::{Agent, Host, chat::memory::Rooms, engine::limits::Limits, id::RoomId, settings::Access};

const AGENT: &str = "@agent:memory";
const ALICE: &str = "@alice:memory";
const BOB: &str = "@bob:memory";
/// Questions that are measured, after a tenth as many that are not.
const QUESTIONS: usize = 1_000;
/// Conversations in which a plugin computes: as many as it may have instances.
const LANES: usize = 64;
/// Each answer takes so long to compute, and there are more questions than time.
const BUSY: Duration = Duration::from_secs(1);

fn main() -> Result<()> {
    parlour::compile_if_asked();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(runtime.spawn(measure()))?
}

async fn measure() -> Result<()> {
    let rooms = Rooms::new();
    // One for each side: what was said before costs a little.
    let [quiet_room, busy_room] = [(); 2].map(|()| rooms.create_direct(ALICE, AGENT));
    let lanes: Vec<RoomId> = (0..LANES).map(|_| rooms.create_direct(BOB, AGENT)).collect();
    let access = Access { users: [ALICE.parse()?, BOB.parse()?].into(), ..Access::default() };
    let host = Host::builder()
        .agent(Agent::new("agent".parse()?, rooms.account(AGENT)).access(access))
        // Nobody reads them.
        .limits(Limits { messages: NonZeroU32::MAX, ..Limits::default() })
        .plugin("echo".parse()?, guests::example("echo"))
        .plugin("hostile".parse()?, guests::guest("hostile"))
        .build()
        .await?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(host.run(async move { drop(stopped.await) }));

    let quiet = ask(&rooms, &quiet_room).await?;
    for lane in &lanes {
        for _ in 0..10_000 / LANES {
            rooms.say(BOB, lane, &format!("/busy {}", BUSY.as_millis()));
        }
    }
    // All of them compute once the agent types everywhere.
    while lanes.iter().any(|lane| rooms.typing(lane).is_empty()) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let busy = ask(&rooms, &busy_room).await?;
    anyhow::ensure!(lanes.iter().any(|lane| !rooms.typing(lane).is_empty()), "they compute to the end");
    println!("{:<34}{:>12}{:>12}{:>9}", "", "busy", "quiet", "ratio");
    let ratio = busy.as_secs_f64() / quiet.as_secs_f64();
    println!("{:<34}{busy:>12.1?}{quiet:>12.1?}{ratio:>9.2}", format!("beside {LANES} busy lanes, median"));
    drop(stop);
    serving.await??;
    Ok(())
}

/// The median time from a question to its answer, as people see it in the room.
async fn ask(rooms: &Rooms, room: &RoomId) -> Result<Duration> {
    let mut times = Vec::with_capacity(QUESTIONS);
    for number in 0..QUESTIONS + QUESTIONS / 10 {
        let began = Instant::now();
        let before = rooms.transcript(room).len();
        rooms.say(ALICE, room, &format!("/echo {number}"));
        let lines = rooms.until(room, Duration::from_secs(60), |lines| lines.len() > before + 1).await;
        let took = began.elapsed();
        let answer = lines.ok().and_then(|lines| lines.last().map(|line| line.text.clone()));
        anyhow::ensure!(answer.context("an answer")? == number.to_string());
        if number >= QUESTIONS / 10 {
            times.push(took);
        }
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}
