//! Reads the files of the message that it is told something with, sends some, and says what came of it.

use parlour_plugin::{
    outbox::{MessageRef, Target},
    prelude::*,
};

struct Reader;

impl Commands for Reader {
    fn list_commands() -> Vec<Command> {
        let rest = |name, description| Command::new(name, description).rest("text", "What it is done with");
        vec![
            Command::new("look", "Says what each file is"),
            Command::new("text", "Says what is in the first one"),
            Command::new("whole", "Reads all of each, and says how much it was"),
            rest("piece", "OFFSET LENGTH: says what is there in the first one"),
            rest("named", "HANDLE: says what that is"),
            Command::new("keep", "Remembers the handle of the first one"),
            Command::new("kept", "Reads the one that it remembers"),
            rest("send", "TARGET TEXT: sends the first one there, or one that says this"),
            rest("call", "NAME TYPE TEXT: sends one that is called so, and said to be that"),
            rest("large", "BYTES: sends one of this size"),
            rest("several", "COUNT BYTES: makes so many of this size, and says what came of it"),
            rest("burst", "COUNT: sends the same one so often"),
            Command::new("misuse", "Does it all wrong"),
            Command::new("share", "Sends one that answers the message, and has a name"),
            rest("change", "Edits the one of that name"),
            Command::new("remove", "Removes the one of that name"),
            rest("fail", "Sends one, and fails"),
            Command::new("crash", "Sends one, and crashes"),
            Command::new("draft", "Drafts, and sends one"),
            rest("lend", "TOOL: makes one, and has a tool send that"),
            rest("often", "COUNT: looks at the first one so often, and says how often it could"),
        ]
    }

    fn run(call: Invocation) -> Result<(), Error> {
        let said = match (call.name.as_str(), done(&call)) {
            ("fail", Ok(why)) => return Err(Error::invalid(why)),
            (_, Ok(said)) => said,
            (_, Err(error)) => told(&error),
        };
        if !said.is_empty() {
            outbox::say(said)?;
        }
        Ok(())
    }
}

fn done(call: &Invocation) -> Result<String, Error> {
    let files = &call.message.attachments;
    let first = || files.first().map(|file| file.handle.as_str()).ok_or_else(|| Error::not_found("no file"));
    Ok(match call.name.as_str() {
        "look" => each(files, |file| {
            let found = media::fetch(&file.handle)?;
            let claimed = file.mime.as_deref().unwrap_or("nothing");
            let mime = found.mime.as_deref().unwrap_or("nothing");
            Ok(format!("{}: {} bytes, says {claimed}, is {mime}", file.name, found.size))
        }),
        "text" => String::from_utf8_lossy(&media::whole(first()?)?).into_owned(),
        "whole" => each(files, |file| {
            let bytes = media::whole(&file.handle)?;
            let sum = bytes.iter().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()));
            Ok(format!("{} bytes, sum {sum}", bytes.len()))
        }),
        "piece" => {
            let (offset, length) = call.rest.split_once(' ').unwrap_or_default();
            let number = |text: &str| text.parse().unwrap_or(u32::MAX);
            let bytes = media::read(first()?, number(offset), number(length))?;
            format!("{} bytes: {}", bytes.len(), String::from_utf8_lossy(&bytes[..bytes.len().min(20)]))
        }
        "named" => format!("{} bytes", media::fetch(&call.rest)?.size),
        "keep" => {
            kv::set_text(kv::Scope::Plugin, "handle", first()?)?;
            first()?.to_owned()
        }
        "kept" => {
            let handle = kv::get_text(kv::Scope::Plugin, "handle")?.unwrap_or_default();
            format!("{} bytes", media::read(&handle, 0, 100)?.len())
        }
        "send" => {
            let (to, text) = call.rest.split_once(' ').unwrap_or((&call.rest, "remember me"));
            let to = target(to);
            let caption = (!text.is_empty() && !files.is_empty()).then(|| Body::Markdown(text.into()));
            let file = match files.first() {
                Some(file) => file.handle.clone(),
                None => media::make("note.txt", Some("text/plain"), text)?,
            };
            outbox::send_file(&to, &file, caption.as_ref())?;
            let here = matches!(to, Target::Here);
            if here { String::new() } else { "sent".into() }
        }
        "call" => {
            let mut words = call.rest.splitn(3, ' ');
            let mut word = || words.next().unwrap_or_default();
            let (name, mime, text) = (word().replace("\\n", "\n"), word(), word());
            outbox::file(&media::make(&name, (mime != "-").then_some(mime), text)?)?;
            String::new()
        }
        "large" => {
            outbox::file(&media::make("large", None, vec![7; call.rest.parse().unwrap_or(0)])?)?;
            String::new()
        }
        "several" => {
            let (count, size) = call.rest.split_once(' ').unwrap_or_default();
            let bytes = vec![7; size.parse().unwrap_or(0)];
            for made in 0..count.parse().unwrap_or(0) {
                if let Err(error) = media::make("one", None, &bytes) {
                    return Ok(format!("{made}, and then {}", told(&error)));
                }
            }
            count.into()
        }
        "burst" => {
            let file = media::make("one", None, "one")?;
            for _ in 0..call.rest.parse().unwrap_or(0) {
                outbox::file(&file)?;
            }
            String::new()
        }
        "misuse" => {
            let file = media::make("one", None, "one")?;
            let empty = media::create("empty", None)?;
            let tried = [
                media::append("made/0000000000000000", b"x").err(),
                media::append(&file, &vec![0; 1024 * 1024 + 1]).err(),
                media::create("one", Some("a file")).err(),
                outbox::file(&empty).err(),
                outbox::file("made/0000000000000000").err(),
                outbox::send_file(&Target::Here, &file, Some(&Body::Plain(" ".into()))).err(),
                media::read(&file, 0, 3).err(),
                outbox::file(&file).err(),
                media::append(&file, b"more").err(),
                // It was not sent: nothing stands in the way of making it good.
                media::append(&empty, b"x").err(),
            ];
            let tried = tried.iter().map(|it| it.as_ref().map_or_else(|| "well".into(), told));
            tried.collect::<Vec<_>>().join("\n")
        }
        "share" => {
            let queued = outbox::file(&media::make("one.txt", None, "one")?)?;
            outbox::reply_to(queued, &MessageRef::Event(call.message.id.clone()))?;
            outbox::name(queued, "it")?;
            let edited = outbox::edit(&MessageRef::Queued(queued), &Body::Plain("other".into()));
            told(&edited.err().unwrap_or_else(|| Error::other("it was edited")))
        }
        "change" => {
            let which = if call.rest == "it" {
                MessageRef::Key("it".into())
            } else {
                MessageRef::Event(call.rest.clone())
            };
            outbox::edit(&which, &Body::Plain("other".into()))?;
            "changed".into()
        }
        "remove" => {
            outbox::redact(&MessageRef::Key("it".into()), None)?;
            "removed".into()
        }
        "fail" => {
            outbox::file(&media::make("one.txt", None, "one")?)?;
            call.rest.clone()
        }
        "crash" => {
            outbox::file(&media::make("one.txt", None, "one")?)?;
            panic!("after the file");
        }
        "draft" => {
            progress::draft(&Body::Plain("a moment".into()))?;
            outbox::file(&media::make("one.txt", None, "one")?)?;
            String::new()
        }
        "lend" => {
            let handle = media::make("mine.txt", None, "mine")?;
            let theirs = toolbox::call(&call.rest, &format!("{{\"text\":\"{handle}\"}}"))?.untrusted;
            let mine = outbox::file(&theirs).err().map_or_else(|| "sent".into(), |error| told(&error));
            format!("{theirs}; {mine}")
        }
        _ => {
            let (count, mut could) = (call.rest.parse().unwrap_or(0), 0);
            for _ in 0..count {
                if let Err(error) = media::fetch(first()?) {
                    if error.kind == ErrorKind::TooLarge {
                        return Ok(format!("{could}, and then {}", told(&error)));
                    }
                }
                could += 1;
            }
            could.to_string()
        }
    })
}

fn target(word: &str) -> Target {
    match word {
        "here" => Target::Here,
        "home" => Target::Home,
        user if user.starts_with('@') => Target::Direct(user.into()),
        room => Target::Room(room.into()),
    }
}

impl Tools for Reader {
    fn list_tools() -> Vec<Tool> {
        let text = r#"{"type":"object","properties":{"text":{"type":"string"}}}"#;
        vec![
            Tool::new("write", "Sends a file that says this").parameters(text),
            Tool::new("pass", "Sends the file of this handle, and makes one").parameters(text),
            Tool::new("half", "Sends a file, and fails").parameters(text),
        ]
    }

    fn call(call: ToolCall) -> Result<ToolResult, Error> {
        let text = call.text("text").unwrap_or_default();
        if call.name == "pass" {
            // What its caller has made is none of its own.
            let error = outbox::file(&text).err().ok_or_else(|| Error::other("it was sent"))?;
            if error.kind != ErrorKind::NotFound {
                return Err(error);
            }
            return Ok(ToolResult::new(media::make("theirs.txt", None, "theirs")?));
        }
        outbox::file(&media::make("tool.txt", None, &text)?)?;
        if call.name == "half" {
            Err(Error::invalid("it only begins"))
        } else {
            Ok(ToolResult::new("written"))
        }
    }
}

fn each(files: &[Attachment], what: impl Fn(&Attachment) -> Result<String, Error>) -> String {
    let said = files.iter().map(|file| what(file).unwrap_or_else(|error| told(&error)));
    said.collect::<Vec<_>>().join("; ")
}

fn told(error: &Error) -> String {
    let code = error.code.as_deref().map_or_else(String::new, |code| format!(" ({code})"));
    format!("{:?}{code}: {}", error.kind, error.message.as_deref().unwrap_or_default())
}

parlour_plugin::export!(Reader: commands, tools);
