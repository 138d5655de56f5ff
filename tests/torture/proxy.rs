//! A way to the homeserver that is cut now and then, and ends in garbage at times; on which hosts are killed, too.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{
    ambush::Ambush,
    death::{ACCEPTED, COMING},
    dice::Dice,
};

/// Of a hundred pieces that come from the server, so many are the last ones of their connections, and half of those are
/// garbage, which is neither HTTP nor JSON.
const CUT: u64 = 3;
/// What goes at once, either way.
const PIECE: usize = 16 * 1024;

/// Leads to `port` of this machine, until it is dropped. Answers its own port.
pub async fn to(port: u16, dice: Dice, ambush: Ambush) -> std::io::Result<(u16, JoinSet<()>)> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let (own, mut serving) = (listener.local_addr()?.port(), JoinSet::new());
    serving.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((client, _)) = listener.accept().await {
            let (dice, ambush) = (dice.clone(), ambush.clone());
            connections.spawn(async move {
                // Whoever hangs up first ends it.
                lead(client, port, &dice, &ambush).await.ok();
            });
            while connections.try_join_next().is_some() {}
        }
    });
    Ok((own, serving))
}

async fn lead(client: TcpStream, port: u16, dice: &Dice, ambush: &Ambush) -> std::io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", port)).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (sends, syncs) = (AtomicBool::default(), AtomicBool::default());
    let up = async {
        let mut piece = vec![0; PIECE];
        loop {
            let length = from_client.read(&mut piece).await?;
            if length == 0 {
                return Ok(());
            }
            // One request after the other, and each begins a piece.
            let line = piece[..length].split(|byte| *byte == b'\r').next().unwrap_or_default();
            let line = String::from_utf8_lossy(line);
            if line.ends_with(" HTTP/1.1") {
                sends.store(line.starts_with("PUT ") && line.contains("/send/m.room.encrypted/"), Relaxed);
                syncs.store(line.starts_with("GET ") && line.contains("/sync?"), Relaxed);
            }
            to_server.write_all(&piece[..length]).await?;
        }
    };
    let down = async {
        let mut piece = vec![0; PIECE];
        loop {
            let length = from_server.read(&mut piece).await?;
            if length == 0 {
                return Ok(());
            }
            if sends.swap(false, Relaxed) && ambush.met(ACCEPTED) {
                return Ok(());
            }
            if dice.below(100) < CUT {
                // As far as it came.
                let length = usize::try_from(dice.below(length as u64)).unwrap_or(0);
                to_client.write_all(&piece[..length]).await?;
                if dice.below(2) == 0 {
                    to_client.write_all(&[0xff; 100]).await?;
                }
                return Ok(());
            }
            to_client.write_all(&piece[..length]).await?;
            if syncs.swap(false, Relaxed) {
                ambush.met(COMING);
            }
        }
    };
    tokio::select! {
        ended = up => ended,
        ended = down => ended,
    }
}
