//! A bot in some twenty lines: `cargo run --example embed -- echo.wasm` answers in a room in memory.

use std::time::Duration;

use parlour::{Agent, Host, chat::memory::Rooms, settings::Access};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    parlour::compile_if_asked();
    let file = std::env::args().nth(1).unwrap_or_else(|| "echo.wasm".into());
    let rooms = Rooms::new();
    let room = rooms.create_direct("@alice:memory", "@agent:memory");
    let access = Access { users: ["@alice:memory".parse()?].into(), ..Access::default() };
    let agent = Agent::new("agent".parse()?, rooms.account("@agent:memory")).access(access);
    let host = Host::builder().agent(agent).plugin_file("echo".parse()?, file).strict(true).build().await?;
    let serving = tokio::spawn(host.run(std::future::pending()));
    rooms.say("@alice:memory", &room, "/echo hello from an embedder");
    let said = rooms.until(&room, Duration::from_secs(10), |lines| lines.len() == 2).await;
    println!("{}", said.map_err(|_| anyhow::anyhow!("no answer"))?[1].text);
    rooms.close();
    Ok(serving.await??)
}
