//! Kills of a host whose rooms are in memory of another process: fast, so that there can be many.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use parlour::{
    chat::memory::{Line, Rooms},
    id::RoomId,
};
use tokio::task::JoinSet;

use crate::{
    ambush::Ambush,
    child::{Life, Place},
    count::{Count, of_a_timer, timers},
    dice::Dice,
    guests,
    lives::{Died, Kills, Versions, begin, end},
    number,
    world::{self, Accidents},
};

pub const AGENT: &str = "@agent:memory";
/// Rooms in which somebody writes.
const ROOMS: u64 = 8;
/// Commands that each waits for at once.
const AT_ONCE: u64 = 4;
/// All that is left at the end is answered by then.
const PATIENCE: Duration = Duration::from_secs(120);

pub fn run() -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(|error| error.to_string())?.block_on(lives())
}

async fn lives() -> Result<(), String> {
    let (kills, events) = (number("PARLOUR_TEST_KILLS", 60), number("PARLOUR_TEST_EVENTS", 1200));
    let seed = number("PARLOUR_TEST_SEED", 4);
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let (socket, plugins) = (folder.path().join("rooms.sock"), folder.path().join("plugins"));
    fs::create_dir(&plugins).map_err(|error| error.to_string())?;
    let (dice, ambush, rooms) = (Dice::new(seed), Ambush::default(), Rooms::new());
    let accidents = Accidents { dice: dice.clone(), ambush: ambush.clone() };
    let _serving =
        world::serve(rooms.clone(), AGENT, &socket, accidents).map_err(|error| error.to_string())?;
    let versions = Versions::new(&plugins)?;
    let people: Vec<_> = (0..ROOMS).map(|number| format!("@person{number}:memory")).collect();
    let life = Life {
        place: Place::Elsewhere(socket),
        journal: folder.path().join("journal.db"),
        plugins,
        cache: guests::cache(),
        compiler: env!("CARGO_BIN_EXE_parlour").into(),
        people: people.clone(),
        death: None,
    };
    first_contact(&rooms, &people[0], &life).await?;

    // So many may be said in each room by now: every life has some left.
    let (allowed, share) = (Arc::new(AtomicU64::new(0)), events.div_ceil(ROOMS));
    let (mut talking, mut places) = (JoinSet::new(), Vec::new());
    for person in people {
        let place = rooms.create_direct(&person, AGENT);
        places.push(place.clone());
        let (rooms, allowed) = (rooms.clone(), allowed.clone());
        talking.spawn(async move { talk(&rooms, &person, &place, share, &allowed).await });
    }
    let (swaps, mut swapping) = (versions.swaps(), JoinSet::new());
    swapping.spawn(versions.swap(dice.clone()));

    let (limit, random) = (Duration::from_secs(5), Duration::from_millis(300));
    let killing = Kills { dice, ambush, limit, random };
    let mut died = Died::default();
    for number in 1..=kills {
        allowed.store(share * number / kills, Relaxed);
        killing.one(&life, &mut died).await?;
    }
    allowed.store(share, Relaxed);
    let last = begin(&life)?;
    let all = async { while talking.join_next().await.is_some() {} };
    let finished = tokio::time::timeout(PATIENCE, all).await.is_ok();
    // What is sent twice comes late.
    tokio::time::sleep(Duration::from_secs(1)).await;
    end(last)?;
    if let Some(stopped) = swapping.try_join_next() {
        return Err(format!("no plugin was replaced any more: {stopped:?}"));
    }

    let mut count = Count::default();
    for place in &places {
        count.add(share, said_by_agent(&rooms.transcript(place)));
    }
    println!("seed {seed}: {kills} kills, {} swaps, {count}; died:{died}", swaps.load(Relaxed));
    count.verdict().map_err(|wrong| format!("{wrong}; the hosts said:\n{}", life.said()))?;
    died.verdict(kills)?;
    if finished { Ok(()) } else { Err(format!("not all was answered within {PATIENCE:?}")) }
}

/// What is said before the first contact is history.
async fn first_contact(rooms: &Rooms, person: &str, life: &Life) -> Result<(), String> {
    let (first, began) = (begin(life)?, Instant::now());
    let hall = rooms.create_direct(person, AGENT);
    let answered = |lines: &[Line]| answers(lines) > 0;
    while !answered(&rooms.transcript(&hall)) {
        if began.elapsed() > PATIENCE {
            return Err("the first host answers nothing".into());
        }
        rooms.say(person, &hall, "/tally 1");
        rooms.until(&hall, Duration::from_millis(200), answered).await.ok();
    }
    end(first)
}

/// Somebody who counts, and waits for answers to what is open.
async fn talk(rooms: &Rooms, person: &str, place: &RoomId, to: u64, allowed: &AtomicU64) {
    let mut said = 0;
    while said < to {
        let lines = rooms.transcript(place);
        let open = said - answers(&lines) as u64;
        if said < allowed.load(Relaxed) && open < AT_ONCE {
            rooms.say(person, place, &format!("/tally {said}"));
            said += 1;
        }
        rooms.until(place, Duration::from_millis(5), |now| answers(now) > answers(&lines)).await.ok();
    }
    let all = |lines: &[Line]| said_by_agent(lines).count() as u64 >= to + timers(to);
    while rooms.until(place, PATIENCE, all).await.is_err() {}
}

fn said_by_agent(lines: &[Line]) -> impl Iterator<Item = &str> {
    lines.iter().filter(|line| line.sender.as_str() == AGENT).map(|line| line.text.as_str())
}

fn answers(lines: &[Line]) -> usize {
    said_by_agent(lines).filter(|text| !of_a_timer(text)).count()
}
