//! Does one thing after the other, as it is told, and says at the end what it learnt by each.

use std::time::{SystemTime, UNIX_EPOCH};

use parlour_plugin::{outbox::MessageRef, prelude::*};
use wasip2::{
    clocks::monotonic_clock::subscribe_duration,
    http::{
        outgoing_handler::handle,
        types::{
            Fields, FutureIncomingResponse, IncomingBody, Method, OutgoingBody, OutgoingRequest, Scheme,
        },
    },
    io::{poll::poll, streams::StreamError},
};

struct Errand;

/// `fine-mode`; `trap-mode`: does not stand it. The tests put one in the place of the other.
const MODE: &str = "fine-mode";

impl Commands for Errand {
    fn list_commands() -> Vec<Command> {
        vec![
            Command::new("errand", "Does them, version-1")
                .rest("steps", "One after the other, with | between them"),
        ]
    }

    fn run(call: Invocation) -> Result<(), Error> {
        let Message { sent, attachments, .. } = &call.message;
        outbox::say(errand(&call.rest, &Given { sent: *sent, files: attachments })?)?;
        Ok(())
    }
}

impl Timers for Errand {
    fn on_timer(_: Firing) -> Result<(), Error> {
        Ok(())
    }
}

impl Tools for Errand {
    fn list_tools() -> Vec<Tool> {
        let schema = r#"{"type":"object","properties":{"steps":{"type":"string"}}}"#;
        vec![Tool::new("errand", "Does one thing after the other").parameters(schema)]
    }

    fn call(call: ToolCall) -> Result<ToolResult, Error> {
        Ok(ToolResult::new(errand(
            &call.text("steps").unwrap_or_default(),
            &Given { sent: 0.0, files: &[] },
        )?))
    }
}

/// What the message has beside its steps.
struct Given<'a> {
    sent: f64,
    files: &'a [Attachment],
}

fn errand(steps: &str, given: &Given<'_>) -> Result<String, Error> {
    let learnt: Result<Vec<_>, Error> = steps.split(" | ").map(|step| one(step, given)).collect();
    Ok(format!("version-1 {}", learnt?.join("; ")))
}

fn one(step: &str, given: &Given<'_>) -> Result<String, Error> {
    let (what, rest) = step.split_once(' ').unwrap_or((step, ""));
    Ok(match what {
        "get" => fetch(&Method::Get, rest, true),
        "post" => fetch(&Method::Post, rest, true),
        "post-drawn" => {
            let (number, time) = (one("draw", given)?, one("time", given)?);
            fetch(&Method::Post, &format!("{rest}/{number}/{time}"), true)
        }
        // Wants to know only whether it is there.
        "look-at" => fetch(&Method::Get, rest, false),
        // Wants to know only whether it was taken.
        "tell" => fetch(&Method::Post, rest, false),
        // Goes on with whatever came of a step.
        "try" => one(rest, given).unwrap_or_else(|error| {
            format!("{:?}: {}", error.kind, error.message.as_deref().unwrap_or_default())
        }),
        // Asks two, tells who was first, and reads both then.
        "race" => {
            let (first, second) = rest.split_once(' ').unwrap_or((rest, rest));
            race(first, second).unwrap_or_else(|error| format!("error: {error}"))
        }
        // Waits for an answer for so many milliseconds.
        "hurry" => {
            let (time, url) = rest.split_once(' ').unwrap_or(("0", rest));
            hurry(time.parse().unwrap_or(0), url).unwrap_or_else(|error| format!("error: {error}"))
        }
        "read" => {
            let file = given.files.first().ok_or_else(|| Error::not_found("no file"))?;
            String::from_utf8_lossy(&media::whole(&file.handle)?).into_owned()
        }
        "model" => {
            let turns = vec![llm::Turn::new(llm::Role::User, rest.to_owned())];
            let pieces: Result<Vec<_>, Error> = (&llm::ask(&llm::Request::new(turns))?).into_iter().collect();
            pieces?.into_iter().map(|piece| piece.text).collect()
        }
        // Wants to know only whether it answers.
        "ask" => {
            let turns = vec![llm::Turn::new(llm::Role::User, rest.to_owned())];
            drop(llm::ask(&llm::Request::new(turns))?);
            "asked".into()
        }
        "draw" => random::within(0..=u32::MAX - 1).to_string(),
        "time" => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis().to_string(),
        "count" => kv::increment(kv::Scope::Plugin, rest, 1)?.to_string(),
        "look" => {
            kv::get(kv::Scope::Plugin, rest)?.map_or("nothing".into(), |it| String::from_utf8(it).unwrap())
        }
        "tool" => {
            let (name, steps) = rest.split_once(' ').unwrap_or((rest, ""));
            toolbox::call(name, &format!("{{\"steps\":\"{}\"}}", steps.replace(" & ", " | ")))?.untrusted
        }
        "file" => {
            outbox::file(&media::make(rest, Some("text/plain"), "what is in it")?)?;
            "a file".into()
        }
        "name" => {
            outbox::name(outbox::say("so called")?, rest)?;
            "named".into()
        }
        "edit" => {
            outbox::edit(&MessageRef::Key(rest.to_owned()), &Body::Plain("said otherwise".into()))?;
            "edited".into()
        }
        "alter" => {
            outbox::edit(&MessageRef::Event(rest.to_owned()), &Body::Plain("said otherwise".into()))?;
            "altered".into()
        }
        "remind" => {
            let when = schedule::now() + 3_600_000.0;
            schedule::at(Some(rest), when, "to be done", schedule::CatchUp::Once)?.next.to_string()
        }
        "forget" => schedule::cancel(rest)?.to_string(),
        "stand" => {
            // Read through a volatile pointer: the text stays in the component, where the tests find it.
            let mode = unsafe { std::ptr::read_volatile(&MODE) };
            assert!(mode != "trap-mode", "as it was told");
            "stood".into()
        }
        // At first it is not the time yet.
        "later" => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            if now.as_secs_f64() * 1000.0 < given.sent + 1500.0 {
                return Err(Error::unavailable("not yet").retry_after(500));
            }
            "late".into()
        }
        other => return Err(Error::invalid(format!("no such step: {other}"))),
    })
}

fn fetch(method: &Method, url: &str, whole: bool) -> String {
    request(method, url, whole).unwrap_or_else(|error| format!("error: {error}"))
}

fn race(first: &str, second: &str) -> Result<String, String> {
    let coming = [sent(&Method::Get, first)?, sent(&Method::Get, second)?];
    let waits = [coming[0].subscribe(), coming[1].subscribe()];
    let won = poll(&[&waits[0], &waits[1]])[0];
    drop(waits);
    let origin = &first[..first.rfind('/').unwrap_or(first.len())];
    request(&Method::Post, &format!("{origin}/won/{won}"), false)?;
    let [first, second] = coming.map(|coming| answered(&coming, true));
    Ok(format!("{won} was first of {} and {}", first?, second?))
}

fn hurry(time: u64, url: &str) -> Result<String, String> {
    let coming = sent(&Method::Get, url)?;
    let (answer, time) = (coming.subscribe(), subscribe_duration(time * 1_000_000));
    if poll(&[&answer, &time]).contains(&1) {
        return Ok("too late".into());
    }
    drop(answer);
    answered(&coming, true)
}

fn request(method: &Method, url: &str, whole: bool) -> Result<String, String> {
    answered(&sent(method, url)?, whole)
}

fn sent(method: &Method, url: &str) -> Result<FutureIncomingResponse, String> {
    let rest = url.strip_prefix("http://").ok_or("no http")?;
    let at = rest.find('/').unwrap_or(rest.len());
    let request = OutgoingRequest::new(Fields::new());
    request.set_method(method).map_err(|()| "method")?;
    request.set_scheme(Some(&Scheme::Http)).map_err(|()| "scheme")?;
    request.set_authority(Some(&rest[..at])).map_err(|()| "authority")?;
    request.set_path_with_query(Some(&rest[at..])).map_err(|()| "path")?;
    let body = request.body().map_err(|()| "body")?;
    let coming = handle(request, None).map_err(|error| error.to_string())?;
    if matches!(method, Method::Post) {
        let stream = body.write().map_err(|()| "write")?;
        stream.blocking_write_and_flush(b"what is posted").map_err(|error| error.to_string())?;
    }
    OutgoingBody::finish(body, None).map_err(|error| error.to_string())?;
    Ok(coming)
}

fn answered(coming: &FutureIncomingResponse, whole: bool) -> Result<String, String> {
    coming.subscribe().block();
    let answer =
        coming.get().ok_or("no answer")?.map_err(|()| "taken")?.map_err(|error| error.to_string())?;
    if !whole {
        return Ok(format!("{} and no more", answer.status()));
    }
    let (status, incoming) = (answer.status(), answer.consume().map_err(|()| "consumed")?);
    let stream = incoming.stream().map_err(|()| "stream")?;
    let mut read = Vec::new();
    loop {
        match stream.blocking_read(64 * 1024) {
            Ok(piece) => read.extend(piece),
            Err(StreamError::Closed) => break,
            Err(StreamError::LastOperationFailed(error)) => return Err(error.to_debug_string()),
        }
    }
    drop(stream);
    drop(IncomingBody::finish(incoming));
    Ok(format!("{status} {}", String::from_utf8_lossy(&read)))
}

parlour_plugin::export!(Errand: commands, timers, tools);
