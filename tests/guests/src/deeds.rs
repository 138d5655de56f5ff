//! Does one thing of each kind, so that the tests can see it granted and denied.

use std::time::{SystemTime, UNIX_EPOCH};

use parlour_plugin::{
    outbox::{MessageRef, Target},
    prelude::*,
};

struct Deeds;

impl Commands for Deeds {
    fn list_commands() -> Vec<Command> {
        let rest = |name, description| {
            Command::new(name, description).parameter(Parameter::text("text", "Any text").optional())
        };
        vec![
            rest("count", "Counts its calls"),
            rest("remember", "Remembers a text for this session"),
            rest("recall", "Says what it remembers here"),
            rest("store", "plugin|user set|get|delete|list KEY VALUE"),
            rest("room", "Writes to a room"),
            rest("direct", "Writes to a person"),
            rest("turns", "Says numbers, every other one to a person"),
            rest("home", "Writes to the home"),
            rest("draft", "Shows a draft and removes it"),
            rest("edit", "Sends, names, and edits"),
            rest("rename", "Edits what it named, from anywhere"),
            rest("alter", "Edits an event by its id"),
            rest("remove", "Removes an event by its id"),
            rest("answer", "Replies to an event by its id"),
            rest("again", "Drafts, is not available, and says another thing later"),
            rest("long", "Drafts a long text and says it"),
            rest("hoard", "Writes so many values of 256 KiB"),
            rest("look", "Looks for so many keys"),
            rest("react", "Reacts to what was said"),
            rest("reply", "Replies to what was said"),
            rest("model", "Asks the model"),
            rest("choose", "MODEL TEXT: asks that model"),
            rest("insist", "Asks the model so many times, and then is not available"),
            rest("open", "Asks the model so many times at once"),
            rest("draw", "Draws a random number"),
            rest("later", "Is not available at first"),
            rest("setting", "Says one of its settings"),
            rest("extra", "Says what more is known of what was said"),
            Command::new("admin", "For admins").role(Role::Admin),
            Command::new("typed", "Says its arguments")
                .parameter(Parameter::integer("number", "A number"))
                .parameter(Parameter::text("text", "A text")),
        ]
    }

    fn run(call: Invocation) -> Result<(), Error> {
        let said = MessageRef::Event(call.message.id.clone());
        match call.name.as_str() {
            "count" => {
                let count = kv::increment(kv::Scope::Plugin, "count", 1)?;
                outbox::say(format!("{count}"))?;
            }
            "extra" => {
                outbox::say(call.message.extra.unwrap_or_else(|| "none".into()))?;
            }
            "remember" => kv::set(kv::Scope::Session, "text", call.rest.as_bytes())?,
            "recall" => {
                let text = kv::get(kv::Scope::Session, "text")?.unwrap_or_else(|| b"nothing".to_vec());
                outbox::say(String::from_utf8_lossy(&text))?;
            }
            "store" => {
                let mut words = call.rest.split(' ');
                let scope = if words.next() == Some("user") { kv::Scope::User } else { kv::Scope::Plugin };
                let (what, key) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
                match what {
                    "set" => kv::set(scope, key, words.next().unwrap_or_default().as_bytes())?,
                    "delete" => kv::delete(scope, key)?,
                    "list" => {
                        let limit = key.parse().unwrap_or_default();
                        outbox::say(format!("[{}]", kv::keys(scope, "", None, limit)?.join(" ")))?;
                    }
                    _ => {
                        let value = kv::get(scope, key)?.unwrap_or_else(|| b"nothing".to_vec());
                        outbox::say(String::from_utf8_lossy(&value))?;
                    }
                }
                if ["set", "delete"].contains(&what) {
                    outbox::say("done")?;
                }
            }
            "room" => {
                let (room, text) = call.rest.split_once(' ').unwrap_or((&call.rest, ""));
                outbox::send(&Target::Room(room.into()), &Body::Plain(text.into()))?;
            }
            "direct" => {
                let (user, text) = call.rest.split_once(' ').unwrap_or((&call.rest, ""));
                outbox::send(&Target::Direct(user.into()), &Body::Plain(text.into()))?;
            }
            "turns" => {
                let person = Target::Direct(call.rest);
                for number in 0..6 {
                    let to = if number % 2 == 0 { &person } else { &Target::Here };
                    outbox::send(to, &Body::Plain(number.to_string()))?;
                }
            }
            "home" => {
                outbox::send(&Target::Home, &Body::Plain(call.rest))?;
            }
            "draft" => progress::draft(&Body::Plain(call.rest))?,
            "edit" => {
                let queued = outbox::say("at first")?;
                outbox::name(queued, "it")?;
                outbox::edit(&MessageRef::Queued(queued), &Body::Plain("in between".into()))?;
                outbox::edit(&MessageRef::Key("it".into()), &Body::Plain(call.rest))?;
            }
            "rename" => {
                outbox::edit(&MessageRef::Key("it".into()), &Body::Plain(call.rest))?;
            }
            "alter" => {
                outbox::edit(&MessageRef::Event(call.rest), &Body::Plain("altered".into()))?;
            }
            "remove" => {
                outbox::redact(&MessageRef::Event(call.rest), Some("a reason"))?;
            }
            "answer" => {
                let queued = outbox::say("an answer")?;
                outbox::reply_to(queued, &MessageRef::Event(call.rest))?;
            }
            "again" => {
                // What a handler that fails has written is gone: only time tells its attempts apart.
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                if now.as_secs_f64() * 1000.0 < call.message.sent + 3000.0 {
                    progress::draft(&Body::Plain("half an answer".into()))?;
                    return Err(Error::unavailable("not yet").retry_after(3000));
                }
                match call.rest.as_str() {
                    "" => {
                        outbox::say("the whole answer")?;
                    }
                    error => return Err(Error::invalid(error)),
                }
            }
            "long" => {
                let size = call.rest.parse::<usize>().unwrap_or_default();
                let text = "**words** & \"more\"\n\n".repeat(size / 20);
                progress::draft(&Body::Markdown(text.clone()))?;
                outbox::send(&Target::Here, &Body::Markdown(text))?;
            }
            "hoard" => {
                let value = vec![0; 256 * 1024];
                for number in 0..call.rest.parse().unwrap_or(0_u32) {
                    kv::set(kv::Scope::Plugin, &format!("hoard {number}"), &value)?;
                }
                outbox::say("hoarded")?;
            }
            "look" => {
                for number in 0..call.rest.parse().unwrap_or(0_u32) {
                    kv::get(kv::Scope::Plugin, &format!("{number:0>500}"))?;
                }
                outbox::say("looked")?;
            }
            "react" => {
                outbox::react(&said, &call.rest)?;
            }
            "reply" => {
                let queued = outbox::say(call.rest)?;
                outbox::reply_to(queued, &said)?;
            }
            "model" => {
                let answer = &llm::ask(&llm::Request::new(vec![llm::Turn::new(llm::Role::User, call.rest)]))?;
                let pieces: Result<Vec<_>, Error> = answer.into_iter().collect();
                outbox::say(pieces?.into_iter().map(|piece| piece.text).collect::<String>())?;
            }
            "choose" => {
                let (model, text) = call.rest.split_once(' ').unwrap_or_default();
                let request = llm::Request::new(vec![llm::Turn::new(llm::Role::User, text)]);
                let answer = &llm::ask(&llm::Request { model: Some(model.into()), ..request })?;
                let pieces: Result<Vec<_>, Error> = answer.into_iter().collect();
                outbox::say(pieces?.into_iter().map(|piece| piece.text).collect::<String>())?;
            }
            "insist" => {
                for _ in 0..call.rest.parse().unwrap_or(0_u32) {
                    llm::ask(&question())?;
                }
                return Err(Error::unavailable("once more").retry_after(1));
            }
            "open" => {
                let many = 0..call.rest.parse().unwrap_or(0_u32);
                let answers: Result<Vec<_>, Error> = many.map(|_| llm::ask(&question())).collect();
                outbox::say(format!("{} are open", answers?.len()))?;
            }
            "draw" => {
                outbox::say(format!("{}", random::within(0..=u32::MAX - 1)))?;
            }
            "later" => {
                // Nothing is written by a handler that fails, so that only time can make the difference.
                return Err(Error::unavailable("not yet").retry_after(100));
            }
            "setting" => {
                outbox::say(config::get(&call.rest)?.unwrap_or_else(|| "unset".into()))?;
            }
            "admin" => {
                outbox::say("done")?;
            }
            "typed" => {
                let arguments: Vec<_> = call
                    .arguments
                    .iter()
                    .map(|argument| format!("{}={}", argument.name, argument.value))
                    .collect();
                outbox::say(arguments.join(" "))?;
            }
            _ => {}
        }
        Ok(())
    }
}

fn question() -> llm::Request {
    llm::Request::new(vec![llm::Turn::new(llm::Role::User, "Well?")])
}

parlour_plugin::export!(Deeds: commands);
