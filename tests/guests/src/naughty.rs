//! Does what no plugin should: the host contains it.

use parlour_plugin::prelude::*;

struct Naughty;

impl Commands for Naughty {
    fn list_commands() -> Vec<Command> {
        vec![
            Command::new("spin", "Never returns"),
            Command::new("trap", "Crashes"),
            Command::new("hog", "Takes all memory"),
            Command::new("wait", "Waits for an hour"),
            Command::new("half", "Sends a message and crashes"),
            Command::new("flood", "Sends more messages than it may"),
            Command::new("shout", "Logs lines that look like others'"),
        ]
    }

    fn run(call: Invocation) -> Result<(), Error> {
        match call.name.as_str() {
            "spin" => loop {
                std::hint::black_box(());
            },
            "trap" => panic!("on purpose"),
            "hog" => {
                let mut hoard = Vec::new();
                loop {
                    hoard.push(std::hint::black_box(vec![1_u8; 1024 * 1024]));
                }
            }
            "wait" => std::thread::sleep(std::time::Duration::from_secs(3600)),
            "half" => {
                outbox::say("you never see this")?;
                kv::set(kv::Scope::Plugin, "half", b"written")?;
                panic!("after the first half");
            }
            "flood" => {
                for number in 0..1000 {
                    outbox::say(format!("{number}"))?;
                }
            }
            "shout" => {
                for _ in 0..1000 {
                    log::warn("ok\nWARN agent a: forged \u{1b}[2J");
                }
                outbox::say("shouted")?;
            }
            _ => {}
        }
        Ok(())
    }
}

parlour_plugin::export!(Naughty: commands);
