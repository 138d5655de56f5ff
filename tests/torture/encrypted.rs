//! Kills of a host whose agent is in encrypted rooms of a real Synapse, behind a connection that fails. What another
//! client has decrypted counts.

use std::{
    fs,
    os::unix::fs::DirBuilderExt as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
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
    person::{Person, seen::Message},
    proxy,
    synapse::{NewRoom, Options, Synapse, unique},
};

const PASSWORD: &str = "a password of an agent";
/// Each in an encrypted direct chat with the agent.
const PEOPLE: u64 = 2;
/// Commands that each waits for at once.
const AT_ONCE: u64 = 4;
/// All that is left at the end is answered by then.
const PATIENCE: Duration = Duration::from_secs(180);

pub fn run() -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(|error| error.to_string())?.block_on(lives()).map_err(|error| format!("{error:#}"))
}

async fn lives() -> anyhow::Result<()> {
    let (kills, events) = (number("PARLOUR_TEST_MATRIX_KILLS", 6), number("PARLOUR_TEST_MATRIX_EVENTS", 60));
    let seed = number("PARLOUR_TEST_SEED", 4);
    let (dice, ambush) = (Dice::new(seed), Ambush::default());
    let synapse = Synapse::start(Options::default()).await?;
    let port = synapse.base_url().rsplit(':').next().and_then(|port| port.parse().ok());
    let port = port.ok_or_else(|| anyhow::anyhow!("{} has no port", synapse.base_url()))?;
    let (proxy, _leading) = proxy::to(port, dice.clone(), ambush.clone()).await?;
    let folder = crate::synapse::temporary("parlour-torture-")?;
    let (plugins, store) = (folder.path().join("plugins"), folder.path().join("agent"));
    fs::create_dir(&plugins)?;
    fs::DirBuilder::new().mode(0o700).create(&store)?;
    let versions = Versions::new(&plugins).map_err(anyhow::Error::msg)?;
    let user = synapse.register(&unique("agent"), PASSWORD).await?;
    let mut people = Vec::new();
    for _ in 0..PEOPLE {
        people.push(Person::new(&synapse, "person").await?);
    }
    let account = |port: u16| Place::Matrix {
        homeserver: format!("http://127.0.0.1:{port}"),
        user: user.clone(),
        password: PASSWORD.into(),
        store: store.clone(),
    };
    let mut life = Life {
        place: account(port),
        journal: folder.path().join("journal.db"),
        plugins,
        cache: guests::cache(),
        compiler: env!("CARGO_BIN_EXE_parlour").into(),
        people: people.iter().map(|person| person.user.clone()).collect(),
        death: None,
    };
    // The first contact is not what is tried here.
    let first = begin(&life).map_err(anyhow::Error::msg)?;
    let (mut talking, mut rooms) = (JoinSet::new(), Vec::new());
    let (allowed, share) = (Arc::new(AtomicU64::new(0)), events.div_ceil(PEOPLE));
    for person in people {
        let invite = vec![user.clone()];
        let room = NewRoom { encrypted: true, direct: true, invite, ..NewRoom::default() };
        let room = person.create_room(&room).await?;
        let joined = format!("{user} to join {room}");
        person
            .wait_for(PATIENCE, &joined, |log| (log.membership(&room, &user)? == "join").then_some(()))
            .await?;
        let person = Arc::new(person);
        rooms.push((person.clone(), room.clone()));
        let (allowed, user) = (allowed.clone(), user.clone());
        talking.spawn(async move { talk(&person, &room, &user, share, &allowed).await });
    }
    end(first).map_err(anyhow::Error::msg)?;
    life.place = account(proxy);
    let (swaps, mut swapping) = (versions.swaps(), JoinSet::new());
    swapping.spawn(versions.swap(dice.clone()));

    let (limit, random) = (Duration::from_secs(20), Duration::from_secs(3));
    let killing = Kills { dice, ambush, limit, random };
    let mut died = Died::default();
    for number in 1..=kills {
        allowed.store(share * number / kills, Relaxed);
        killing.one(&life, &mut died).await.map_err(anyhow::Error::msg)?;
        while let Some(talked) = talking.try_join_next() {
            talked??;
        }
    }
    allowed.store(share, Relaxed);
    let (last, began) = (begin(&life).map_err(anyhow::Error::msg)?, Instant::now());
    let all = async {
        while let Some(talked) = talking.join_next().await {
            talked??;
        }
        anyhow::Ok(())
    };
    let finished = tokio::time::timeout(PATIENCE, all).await;
    let took = began.elapsed();
    // What is sent twice comes late.
    tokio::time::sleep(Duration::from_secs(3)).await;
    end(last).map_err(anyhow::Error::msg)?;

    let mut count = Count::default();
    for (person, room) in &rooms {
        let messages = person.messages(room);
        let answers: Vec<_> = messages.iter().filter(|message| message.event.sender == user).collect();
        anyhow::ensure!(answers.iter().all(|answer| answer.sealed()), "an answer was not encrypted");
        count.add(share, answers.iter().map(|answer| answer.text()));
    }
    println!(
        "seed {seed}: {kills} kills, {} swaps, {count}, the last ones after {took:?}; died:{died}",
        swaps.load(Relaxed)
    );
    // A person who could not go on says why, before it is said what is missing because of that.
    if let Ok(talked) = &finished {
        talked.as_ref().map_err(|error| anyhow::anyhow!("a person could not go on: {error:#}"))?;
    }
    count.verdict().map_err(|wrong| anyhow::anyhow!("{wrong}; the hosts said:\n{}", life.said()))?;
    finished.map_err(|_| anyhow::anyhow!("not all was answered within {PATIENCE:?}"))?
}

/// Somebody who counts, and waits for answers to what is open.
async fn talk(person: &Person, room: &str, agent: &str, to: u64, allowed: &AtomicU64) -> anyhow::Result<()> {
    let seen = || {
        let messages = person.messages(room);
        let texts = messages.iter().filter(|message| message.event.sender == agent).map(Message::text);
        let (timers, answers): (Vec<_>, Vec<_>) = texts.partition(|text| of_a_timer(text));
        (answers.len() as u64, timers.len() as u64)
    };
    let mut said = 0;
    while said < to || seen() < (to, timers(to)) {
        if said < to.min(allowed.load(Relaxed)) && said < seen().0 + AT_ONCE {
            person.say(room, format!("!tally {said}").as_str()).await?;
            said += 1;
        } else {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}
