//! Reads the files of the message that it is told something with, and says what came of it.

use parlour_plugin::prelude::*;

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
            rest("often", "COUNT: looks at the first one so often, and says how often it could"),
        ]
    }

    fn run(call: Invocation) -> Result<(), Error> {
        let said = done(&call).unwrap_or_else(|error| told(&error));
        outbox::say(said)?;
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

fn each(files: &[Attachment], what: impl Fn(&Attachment) -> Result<String, Error>) -> String {
    let said = files.iter().map(|file| what(file).unwrap_or_else(|error| told(&error)));
    said.collect::<Vec<_>>().join("; ")
}

fn told(error: &Error) -> String {
    let code = error.code.as_deref().map_or_else(String::new, |code| format!(" ({code})"));
    format!("{:?}{code}: {}", error.kind, error.message.as_deref().unwrap_or_default())
}

parlour_plugin::export!(Reader: commands);
