//! The rooms, in the process that is not killed: they play the homeserver for one host after the other, and sometimes
//! fail as a network does.

use std::{path::Path, sync::Arc};

use parlour::chat::{
    Chat as _, SendError,
    memory::{Memory, Rooms},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream, unix::OwnedWriteHalf},
    sync::Mutex,
    task::JoinSet,
};

use crate::{
    ambush::Ambush,
    death::{ACCEPTED, COMING},
    dice::Dice,
    wire::{Answer, Call, Request, Response},
};

/// Of a hundred sends, so many never arrive, and of so many the answer is lost on its way back.
const LOST: u64 = 2;
const UNANSWERED: u64 = 2;

/// What may go wrong with what is sent.
#[derive(Clone)]
pub struct Accidents {
    pub dice: Dice,
    pub ambush: Ambush,
}

/// Serves one host after the other, until it is dropped. To each the transaction ids of those before it say nothing, as
/// after a day.
pub fn serve(rooms: Rooms, agent: &str, socket: &Path, accidents: Accidents) -> std::io::Result<JoinSet<()>> {
    let listener = UnixListener::bind(socket)?;
    let (agent, mut serving) = (agent.to_owned(), JoinSet::new());
    serving.spawn(async move {
        while let Ok((host, _)) = listener.accept().await {
            rooms.forget_transactions();
            one(rooms.account(&agent), host, accidents.clone()).await;
        }
    });
    Ok(serving)
}

async fn one(account: Memory, host: UnixStream, accidents: Accidents) {
    let (read, write) = host.into_split();
    let (account, write) = (Arc::new(account), Arc::new(Mutex::new(write)));
    let (mut calls, mut waits) = (JoinSet::new(), JoinSet::new());
    let mut lines = BufReader::new(read).lines();
    // What a host said last may be half a line: it was killed.
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(Request { number, call }) = serde_json::from_str(&line) else { break };
        let (account, write, accidents) = (account.clone(), write.clone(), accidents.clone());
        let set = if matches!(call, Call::Next) { &mut waits } else { &mut calls };
        set.spawn(async move {
            if let Some(answer) = carry_out(&account, call, &accidents).await {
                let news = matches!(&answer, Answer::Batch { events, .. } if !events.is_empty());
                respond(&write, &Response { number, answer }).await;
                if news {
                    accidents.ambush.met(COMING);
                }
            }
        });
        while calls.try_join_next().is_some() || waits.try_join_next().is_some() {}
    }
    // What it had asked for is done to its end: a server does not know that nobody waits for the answer.
    while calls.join_next().await.is_some() {}
}

async fn respond(write: &Mutex<OwnedWriteHalf>, response: &Response) {
    let line = serde_json::to_string(response).expect("a response") + "\n";
    drop(write.lock().await.write_all(line.as_bytes()).await);
}

/// Answers none where nobody lives to hear it.
async fn carry_out(account: &Memory, call: Call, accidents: &Accidents) -> Option<Answer> {
    let Accidents { dice, ambush } = accidents;
    Some(match call {
        Call::Start(from) => match account.start(from).await {
            Ok(identity) => Answer::Started(identity.user),
            Err(_) => Answer::Over,
        },
        Call::Next => account.next().await.map_or(Answer::Over, Answer::batch),
        Call::Send(_) if dice.below(100) < LOST => Answer::Later("it never arrived".into()),
        Call::Send(outgoing) => match account.send(&outgoing).await {
            Ok(_) if ambush.met(ACCEPTED) => return None,
            Ok(_) if dice.below(100) < UNANSWERED => Answer::Later("the answer was lost".into()),
            Ok(event) => Answer::Sent(event),
            Err(error) => Answer::failed(&error),
        },
        Call::Answer(room, accept) => done(account.answer(&room, accept).await),
        Call::Direct(user) => match account.direct(&user).await {
            Ok(room) => Answer::Room(room),
            Err(error) => Answer::failed(&error),
        },
    })
}

fn done(result: Result<(), SendError>) -> Answer {
    match result {
        Ok(()) => Answer::Done,
        Err(error) => Answer::failed(&error),
    }
}
