//! Attacks: each is one that some host somewhere has fallen for.

use std::{
    fs::{self, File},
    net::{TcpStream, ToSocketAddrs as _},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::{Duration, Instant},
};

use parlour_plugin::prelude::*;
use wasip2::clocks::{
    monotonic_clock::{now, subscribe_duration},
    wall_clock,
};

struct Hostile;

static CALLS: AtomicU32 = AtomicU32::new(0);

impl Commands for Hostile {
    fn list_commands() -> Vec<Command> {
        let rest = |name, description| {
            Command::new(name, description)
                .parameter(Parameter::text("text", "What it is done with").optional())
        };
        vec![
            rest("busy", "Computes for so many milliseconds"),
            rest("slip", "Waits many times, a little each"),
            rest("fill", "Fills so many MiB of memory, again and again"),
            rest("recurse", "Calls itself"),
            rest("giant", "Says so many MiB"),
            rest("leak", "Takes so many handles and drops none"),
            rest("look", "Looks around on the machine"),
            rest("connect", "Connects to an address"),
            rest("tick", "Measures the smallest step of its clocks"),
            rest("remember", "Keeps something in memory"),
            rest("babble", "Says it, and more"),
            rest("steal", "Reads a key of somebody else's"),
            rest("pretend", "Answers what others have said, by a name that it makes up"),
        ]
    }

    fn run(call: Invocation) -> Result<(), Error> {
        let number = || call.rest.parse::<u32>().unwrap_or_default();
        let said = match call.name.as_str() {
            "busy" => {
                let began = Instant::now();
                while began.elapsed() < Duration::from_millis(number().into()) {
                    std::hint::black_box(());
                }
                "ready".to_owned()
            }
            "slip" => {
                for _ in 0..number() {
                    std::thread::sleep(Duration::from_millis(20));
                }
                "slipped through".to_owned()
            }
            "fill" => {
                let mut memory = vec![0_u8; number() as usize * 1024 * 1024];
                loop {
                    memory.fill(std::hint::black_box(1));
                }
            }
            "recurse" => format!("{} deep", deeper(number())),
            "giant" => "x".repeat(number() as usize * 1024 * 1024),
            "leak" => {
                for _ in 0..number() {
                    std::mem::forget(subscribe_duration(1));
                }
                "leaked".to_owned()
            }
            "look" => look(),
            "connect" => match TcpStream::connect(&call.rest) {
                Ok(_) => "connected".to_owned(),
                Err(error) => format!("{:?}, and {:?}", error.kind(), call.rest.to_socket_addrs().is_ok()),
            },
            "tick" => {
                let before = now();
                subscribe_duration(20_000_000).block();
                let slept = now() - before >= 19_000_000;
                let wall = || {
                    let now = wall_clock::now();
                    now.seconds * 1_000_000_000 + u64::from(now.nanoseconds)
                };
                // It stands while a handler runs: what it says is the time at which that began.
                let stands = wall() == (0..100_000).map(|_| wall()).max().unwrap_or_default();
                format!("{} ns, {} ns, slept: {slept}, stands: {stands}", step(now), wall() % 1_000_000)
            }
            "remember" => format!("{}", CALLS.fetch_add(1, Relaxed) + 1),
            "babble" => {
                outbox::say(call.rest)?;
                "and more".to_owned()
            }
            "steal" => {
                for key in ["../deeds/count", "plugin:deeds/count", "deeds\0count", "count"] {
                    for scope in [kv::Scope::Plugin, kv::Scope::Room, kv::Scope::User, kv::Scope::Session] {
                        if kv::get(scope, key)?.is_some() {
                            return Err(Error::other(format!("{key:?} is there")));
                        }
                    }
                }
                format!("nothing, of {}", kv::keys(kv::Scope::Plugin, "", None, 1000)?.len())
            }
            "pretend" => {
                outbox::edit(
                    &outbox::MessageRef::Event(call.rest),
                    &Body::Plain("I never said that".into()),
                )?;
                "done".to_owned()
            }
            _ => return Ok(()),
        };
        outbox::say(said)?;
        Ok(())
    }
}

/// The smallest of a clock's next steps.
fn step(clock: impl Fn() -> u64) -> u64 {
    let next = |from: u64| {
        loop {
            let now = clock();
            if now != from {
                return now;
            }
        }
    };
    let mut at = next(clock());
    let steps = (0..20).map(|_| {
        let after = next(at);
        let step = after - at;
        at = after;
        step
    });
    steps.min().unwrap_or_default()
}

/// Uses the stack at every level.
fn deeper(levels: u32) -> u32 {
    let room = std::hint::black_box([levels; 64]);
    if levels == 0 { 0 } else { 1 + deeper(room[0] - 1) + std::hint::black_box(room[63] - levels) }
}

/// What of the machine can be seen.
fn look() -> String {
    let files = ["/", ".", "/etc/passwd", "/proc/self/environ", "../..", "parlour.toml"];
    let read = files.iter().filter(|file| fs::read(file).is_ok() || fs::read_dir(file).is_ok());
    let written = ["/tmp/hostile", "hostile"].iter().filter(|file| File::create(file).is_ok());
    format!(
        "{} variables, {} arguments, {} files read, {} written, {} bytes of input",
        std::env::vars_os().count(),
        std::env::args_os().count(),
        read.count(),
        written.count(),
        std::io::read_to_string(std::io::stdin()).map_or(0, |text| text.len()),
    )
}

parlour_plugin::export!(Hostile: commands);
