//! A way to the homeserver that is cut now and then, and ends in garbage at times.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::dice::Dice;

/// Of a hundred pieces that come from the server, so many are the last ones of their connections, and half of those are
/// garbage, which is neither HTTP nor JSON.
const CUT: u64 = 3;

/// Leads to `port` of this machine, until it is dropped. Answers its own port.
pub async fn to(port: u16, dice: Dice) -> std::io::Result<(u16, JoinSet<()>)> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let (own, mut serving) = (listener.local_addr()?.port(), JoinSet::new());
    serving.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((client, _)) = listener.accept().await {
            let dice = dice.clone();
            connections.spawn(async move {
                // Whoever hangs up first ends it.
                lead(client, port, &dice).await.ok();
            });
            while connections.try_join_next().is_some() {}
        }
    });
    Ok((own, serving))
}

async fn lead(client: TcpStream, port: u16, dice: &Dice) -> std::io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", port)).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async { tokio::io::copy(&mut from_client, &mut to_server).await.map(drop) };
    let down = async {
        let mut piece = vec![0; 16 * 1024];
        loop {
            let length = from_server.read(&mut piece).await?;
            if length == 0 {
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
        }
    };
    tokio::select! {
        ended = up => ended,
        ended = down => ended,
    }
}
