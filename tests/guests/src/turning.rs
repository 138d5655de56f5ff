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
        ]
    }

    fn run(call: Invocation) -> Result<(), Error> {
        let (version, mode, shape) = (word(&VERSION), word(&MODE), word(&SHAPE));
        match call.name.as_str() {
            "from" => {
                outbox::say(kv::get_text(kv::Scope::Plugin, "from")?.unwrap_or_else(|| "nowhere".into()))?;
            }
            "crash" => panic!("as it was told"),
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

impl Tools for Turning {
    fn list_tools() -> Vec<Tool> {
        vec![Tool::new("version", "Says its version").read_only()]
    }

    fn call(_: ToolCall) -> Result<ToolResult, Error> {
        assert!(word(&MODE) != "trap-mode", "trap-mode");
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

parlour_plugin::export!(Turning: commands, tools, lifecycle);
