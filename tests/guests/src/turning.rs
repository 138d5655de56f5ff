//! Counts, in a shape that changes with its versions: the tests replace its words in the component.

use parlour_plugin::prelude::*;

struct Turning;

const VERSION: &str = "version-1";
/// `fine-mode`; `trap-mode`: traps at every command; `late-mode`: traps from the fourth on.
const MODE: &str = "fine-mode";
/// The key that it counts under; `shape-x` cannot be moved to.
const SHAPE: &str = "shape-1";

/// Read through a volatile pointer: the text stays in the component, where the tests find it.
fn word(of: &&'static str) -> &'static str {
    unsafe { std::ptr::read_volatile(of) }
}

impl Commands for Turning {
    fn list_commands() -> Vec<Command> {
        vec![
            Command::new("count", "Counts in all rooms and in this one"),
            Command::new("from", "Says which version it was moved from"),
            Command::new("crash", "Traps in every version"),
            Command::new("fail", "Fails in every version"),
            Command::new("home", "Makes this the home"),
            Command::new("set", "Sets a timer").rest("name", "What it is called"),
            Command::new("cancel", "Cancels a timer").rest("name", "What it is called"),
            Command::new("timers", "Says which timers there are, and which version set them"),
        ]
    }

    fn run(call: Invocation) -> Result<(), Error> {
        let (version, mode, shape) = (word(&VERSION), word(&MODE), word(&SHAPE));
        match call.name.as_str() {
            "from" => {
                outbox::say(kv::get_text(kv::Scope::Plugin, "from")?.unwrap_or_else(|| "nowhere".into()))?;
            }
            "crash" => panic!("as it was told"),
            "fail" => return Err(Error::other("as it was told")),
            "home" => {
                assert!(mode != "trap-mode", "{mode}");
                outbox::set_home(&outbox::Target::Here)?;
                outbox::say(format!("{version} is at home"))?;
            }
            "set" => {
                let tomorrow = schedule::now() + 86_400_000.0;
                schedule::at(Some(&call.rest), tomorrow, version, schedule::CatchUp::Once)?;
                outbox::say(format!("{version} set {}", call.rest))?;
            }
            "cancel" => {
                let there = schedule::cancel(&call.rest)?;
                outbox::say(format!("{version} {there}"))?;
            }
            "timers" => {
                let timers = schedule::list()?.into_iter();
                let mut timers: Vec<_> =
                    timers.map(|timer| format!("{} {}", timer.key, timer.payload)).collect();
                timers.sort();
                outbox::say(timers.join(", "))?;
            }
            _ => {
                let all = kv::increment(kv::Scope::Plugin, shape, 1)?;
                let here = kv::increment(kv::Scope::Room, shape, 1)?;
                assert!(mode != "trap-mode" && (mode != "late-mode" || all < 4), "{mode}");
                outbox::say(format!("{version} {all} {here}"))?;
            }
        }
        Ok(())
    }
}

impl Timers for Turning {
    fn on_timer(firing: Firing) -> Result<(), Error> {
        outbox::say(firing.key)?;
        Ok(())
    }
}

impl Tools for Turning {
    fn list_tools() -> Vec<Tool> {
        vec![
            Tool::new("version", "Says its version").read_only(),
            Tool::new("crash", "Traps in every version").read_only(),
        ]
    }

    fn call(call: ToolCall) -> Result<ToolResult, Error> {
        assert!(call.name != "crash" && word(&MODE) != "trap-mode", "as it was told");
        Ok(ToolResult::new(word(&VERSION)))
    }
}

impl Lifecycle for Turning {
    fn migrate(migration: Migration) -> Result<(), Error> {
        let (scope, shape) = (migration.memory.scope(), word(&SHAPE));
        if shape == "shape-x" {
            return Err(Error::invalid("what was kept is none"));
        }
        for key in kv::keys(scope, "shape-", None, 100)? {
            if key != shape {
                let value = kv::get(scope, &key)?.unwrap_or_default();
                kv::set(scope, shape, &value)?;
                kv::delete(scope, &key)?;
            }
        }
        if migration.memory == Memory::Plugin {
            kv::set_text(scope, "from", migration.from_version.as_deref().unwrap_or("unknown"))?;
            let elsewhere = kv::get(kv::Scope::User, "shape-1");
            assert!(elsewhere.is_err_and(|error| error.kind == ErrorKind::Unsupported), "it sees others");
            assert!(outbox::say("hello").is_err(), "it speaks");
        }
        Ok(())
    }
}

parlour_plugin::export!(Turning: commands, timers, tools, lifecycle);
