//! Plugins in other languages than Rust.

use parlour::{
    clock::Clock,
    event::Membership,
    settings::{Grants, Media, Timers},
};

use crate::{
    guests::{assistant, example, greet, guest},
    stage::{AGENT, ALICE, BOB, MALLORY, Stage, granted},
    web::Web,
};

#[tokio::test]
async fn greet_in_javascript_welcomes_listed_people_and_answers_at_home() {
    let guests = [("greet", greet()), ("sethome", example("sethome"))];
    let home = granted(Grants { home: true, ..Grants::default() });
    let stage =
        Stage::start(&guests, |builder| builder.plugin_settings("sethome".parse().unwrap(), home)).await;
    let room = stage.rooms.create([ALICE, AGENT]);
    stage.rooms.call(BOB, "Bob");
    stage.rooms.member(MALLORY, &room, Membership::Joined);
    let joined = stage.rooms.member(BOB, &room, Membership::Joined);
    let lines = stage.until(&room, |lines| !lines.is_empty()).await;
    assert_eq!(lines[0].text, "Welcome, Bob!", "{joined}");
    assert_eq!(lines.len(), 1, "a stranger is not welcomed");

    assert_eq!(stage.ask("hello").await, "I have no answer to that.");
    stage.ask("/sethome").await;
    let answer = stage.ask("hello").await;
    assert!(answer.to_lowercase().contains("alice"), "{answer}");
}

/// A language that freezes its random numbers when the component is built draws the same ones in each instance.
#[tokio::test]
async fn every_language_draws_other_numbers_in_each_event() {
    let javascript = drawing("javascript", "plugin.js", JAVASCRIPT);
    let python = drawing("python", "plugin.py", PYTHON);
    for (language, component) in [("rust", guest("deeds")), ("javascript", javascript), ("python", python)] {
        let stage = Stage::with(&[("draw", component)]).await;
        let (one, other) = (stage.ask("/draw").await, stage.ask("/draw").await);
        assert!(one.parse::<f64>().is_ok(), "{language}: {one}");
        assert_ne!(one, other, "{language}");
    }
}

const JAVASCRIPT: &str = r#"
import { outbox } from "parlour-plugin";
export const commands = {
  listCommands: () => [{ name: "draw", description: "Draws", parameters: [], role: "user" }],
  run() { outbox.say(String(Math.random())); },
};
"#;

const PYTHON: &str = r#"
import random
from parlour_plugin import outbox
from parlour_plugin.types import command
from wit_world import exports

class Commands(exports.Commands):
    def list_commands(self):
        return [command("draw", "Draws")]

    def run(self, call) -> None:
        outbox.say(str(random.random()))
"#;

fn drawing(language: &str, main: &str, source: &str) -> std::sync::Arc<[u8]> {
    plugin(language, main, source, "\"commands\"", TOOLS)
}

const TOOLS: &str = "[asks.tools]\nreason = \"To be tried\"\n";

fn plugin(language: &str, main: &str, source: &str, handles: &str, asks: &str) -> std::sync::Arc<[u8]> {
    let folder = tempfile::tempdir().unwrap();
    let manifest = format!(
        "name = \"in-{language}\"\nversion = \"0.1.0\"\ndescription = \"\"\nmain = \"{main}\"\nhandles = [{handles}]\n\
         [asks.outbox]\n{asks}"
    );
    std::fs::write(folder.path().join("plugin.toml"), manifest).unwrap();
    std::fs::write(folder.path().join(main), source).unwrap();
    crate::guests::built(folder.path())
}

/// Each calls a tool in Rust, and has one that is called from Rust.
#[tokio::test]
async fn every_language_calls_tools_of_others_and_has_some() {
    let javascript = plugin("javascript", "plugin.js", LOUD_JAVASCRIPT, "\"commands\", \"tools\"", TOOLS);
    let python = plugin("python", "plugin.py", LOUD_PYTHON, "\"commands\", \"tools\"", TOOLS);
    for (language, loud) in [("javascript", javascript), ("python", python)] {
        let tools = || granted(Grants { tools: ["*".to_owned()].into(), ..Grants::default() });
        let stage = Stage::start(&[("handy", guest("handy")), ("loud", loud)], |builder| {
            let builder = builder.plugin_settings("handy".parse().unwrap(), tools());
            builder.plugin_settings("loud".parse().unwrap(), tools())
        })
        .await;
        assert_eq!(stage.ask(r#"/use loud.shout {"text":"hé!"}"#).await, "HÉ!", "{language}");
        let refused = "ErrorKind::Denied (tool): loud.shout: say something";
        assert_eq!(stage.ask(r#"/use loud.shout {"text":""}"#).await, refused, "{language}");
        let unfit = stage.ask("/use loud.shout").await;
        assert!(
            unfit.contains("loud.shout: arguments: \"text\" is a required property"),
            "{language}: {unfit}"
        );
        assert_eq!(stage.ask("/ask hello").await, "handy.answer says hello", "{language}");
        assert_eq!(stage.ask("/refused").await, "denied, tool", "{language}");
        let there = stage.ask("/there").await;
        assert!(there.starts_with("handy.answer ") && !there.contains("loud."), "{language}: {there}");
    }
}

const LOUD_JAVASCRIPT: &str = r#"
import { error, outbox, toolbox } from "parlour-plugin";

const text = { name: "text", description: "What", schema: '{"type":"string"}', required: true };
const command = (name, ...parameters) => ({ name, description: name, parameters, role: "user" });

export const commands = {
  listCommands: () => [command("ask", text), command("refused"), command("there")],
  run({ name, rest }) {
    if (name === "there") outbox.say(toolbox.tools().map((tool) => tool.name).join(" "));
    if (name === "ask") {
      const { tool, untrusted } = toolbox.call("handy.answer", { text: rest });
      outbox.say(`${tool} says ${untrusted}`);
    }
    if (name === "refused") {
      try {
        toolbox.call("handy.refuse");
      } catch (caught) {
        outbox.say(`${caught.payload.kind}, ${caught.payload.code}`);
      }
    }
  },
};

const parameters = JSON.stringify({ type: "object", properties: { text: { type: "string" } }, required: ["text"] });

export const tools = {
  listTools: () => [{ name: "shout", description: "Shouts", parameters, readOnly: true }],
  call(call) {
    const { text } = JSON.parse(call.arguments);
    if (text === "") throw error("denied", "say something");
    return { text: text.toUpperCase() };
  },
};
"#;

const LOUD_PYTHON: &str = r#"
import json
from parlour_plugin import outbox, toolbox
from parlour_plugin.types import Err, ErrorKind, command, error, parameter, tool
from wit_world import exports
from wit_world.exports.tools import ToolCall, ToolResult

class Commands(exports.Commands):
    def list_commands(self):
        return [command("ask", "Asks", parameter("text", "What")), command("refused", "Is"), command("there", "Is")]

    def run(self, call) -> None:
        if call.name == "there":
            outbox.say(" ".join(tool.name for tool in toolbox.tools()))
        if call.name == "ask":
            output = toolbox.call("handy.answer", text=call.rest)
            outbox.say(f"{output.tool} says {output.untrusted}")
        if call.name == "refused":
            try:
                toolbox.call("handy.refuse")
            except Err as refused:
                outbox.say(f"{refused.value.kind.name.lower()}, {refused.value.code}")

class Tools(exports.Tools):
    def list_tools(self):
        return [tool("shout", "Shouts", {"text": {"type": "string"}}, required=["text"], read_only=True)]

    def call(self, call: ToolCall) -> ToolResult:
        text = json.loads(call.arguments)["text"]
        if not text:
            raise error(ErrorKind.DENIED, "say something")
        return ToolResult(text.upper(), None)
"#;

/// Each makes a file of a text and one of bytes, with pieces of a MiB.
#[tokio::test]
async fn every_language_sends_files() {
    let asks = "[asks.media]\nreason = \"To be tried\"\n";
    let javascript = plugin("javascript", "plugin.js", WRITES_JAVASCRIPT, "\"commands\"", asks);
    let python = plugin("python", "plugin.py", WRITES_PYTHON, "\"commands\"", asks);
    for (language, writes) in [("javascript", javascript), ("python", python)] {
        let media = || granted(Grants { media: Some(Media::default()), ..Grants::default() });
        let stage = Stage::start(&[("writes", writes)], |builder| {
            builder.plugin_settings("writes".parse().unwrap(), media())
        })
        .await;
        let asked = stage.rooms.say(ALICE, &stage.room, "/write");
        let lines = stage.until(&stage.room, |lines| lines.len() == 3).await;
        assert_eq!(lines[0].id, asked);
        let [text, bytes] =
            [1, 2].map(|at: usize| (lines[at].text.as_str(), lines[at].file.clone().unwrap()));
        assert_eq!((text.0, text.1.mime.as_str()), ("h\u{e9}.csv", "text/csv"), "{language}");
        assert_eq!(&text.1.bytes[..], "h\u{e9} \u{1f44d}\n".as_bytes(), "{language}");
        assert_eq!((bytes.0, bytes.1.name.as_str()), ("*look*", "large"), "{language}");
        assert_eq!(bytes.1.bytes.len(), (1 << 20) + 3, "{language}");
        assert!(bytes.1.bytes.iter().enumerate().all(|(at, byte)| *byte == (at % 251) as u8), "{language}");
    }
}

const WRITES_JAVASCRIPT: &str = r#"
import { media, outbox } from "parlour-plugin";
export const commands = {
  listCommands: () => [{ name: "write", description: "Writes", parameters: [], role: "user" }],
  run() {
    outbox.file(media.make("h\u00e9.csv", "h\u00e9 \u{1f44d}\n", "text/csv"));
    const bytes = new Uint8Array((1 << 20) + 3);
    for (let at = 0; at < bytes.length; at += 1) bytes[at] = at % 251;
    outbox.sendFile({ tag: "here" }, media.make("large", bytes), { tag: "markdown", val: "*look*" });
  },
};
"#;

const WRITES_PYTHON: &str = r#"
from parlour_plugin import media, outbox
from parlour_plugin.types import Markdown, command
from wit_world import exports

class Commands(exports.Commands):
    def list_commands(self):
        return [command("write", "Writes")]

    def run(self, call) -> None:
        outbox.file(media.make("h\u00e9.csv", "h\u00e9 \U0001f44d\n", "text/csv"))
        content = bytes(at % 251 for at in range((1 << 20) + 3))
        outbox.send_file(outbox.Target_Here(), media.make("large", content), Markdown("*look*"))
"#;

#[tokio::test]
async fn assistant_in_python_says_that_there_is_no_model() {
    let stage = Stage::with(&[("assistant", assistant())]).await;
    let answer = stage.ask("hello").await;
    assert!(answer.contains("the grant `llm` is missing"), "{answer}");
    assert_eq!(stage.ask("/reset").await, "I have forgotten this conversation.");
}

/// A request in a language with a client of its own: granted, denied, and with a body.
#[tokio::test]
async fn python_sends_requests_to_where_it_may() {
    let web = Web::start().await;
    let python = plugin(
        "python",
        "plugin.py",
        FETCHING,
        "\"commands\"",
        "[asks.http]\nhosts = [\"http://*:*\"]\nreason = \"To be tried\"\n",
    );
    for may in [true, false] {
        let http = may.then(|| web.origin().parse().unwrap()).into_iter().collect();
        let plugin = granted(Grants { http, ..Grants::default() });
        let stage = Stage::start(&[("fetch", python.clone())], |builder| {
            builder.plugin_settings("fetch".parse().unwrap(), plugin)
        })
        .await;
        let said = stage.ask(&format!("/fetch {}/echo", web.origin())).await;
        if may {
            assert!(said.starts_with("200 GET /echo HTTP/1.1") && said.contains("x-mine: one"), "{said}");
            assert!(said.ends_with("10009 bytes came"), "{said}");
        } else {
            assert_eq!(said, "failed: HttpRequestDenied");
        }
    }
}

const FETCHING: &str = r#"
from parlour_plugin import http, outbox
from parlour_plugin.types import command, parameter
from wit_world import exports


class Commands(exports.Commands):
    def list_commands(self):
        return [command("fetch", "Fetches", parameter("url", "Where from"))]

    def run(self, call):
        try:
            answer = http.fetch(call.rest, headers={"X-Mine": "one"})
            posted = http.fetch(call.rest.replace("echo", "count"), method="POST", json={"a": "x" * 10000})
            outbox.say(f"{answer.status} {answer.text()} {posted.text()}")
        except http.Failed as failed:
            outbox.say(f"failed: {failed}")
"#;

/// Each sets a timer for a time and one that comes again, lists both, is called, and cancels.
#[tokio::test]
async fn every_language_has_timers() {
    // Noon of 5 January 2026, UTC.
    const NOON: u64 = 1_767_614_400_000;
    let asks = "[asks.timers]\nreason = \"To be tried\"\n";
    let javascript = plugin("javascript", "plugin.js", LATER_JAVASCRIPT, "\"commands\", \"timers\"", asks);
    let python = plugin("python", "plugin.py", LATER_PYTHON, "\"commands\", \"timers\"", asks);
    for (language, later) in [("javascript", javascript), ("python", python)] {
        let clock = Clock::by_hand(NOON);
        let grants = Grants { timers: Some(Timers::default()), ..Grants::default() };
        let stage = Stage::start(&[("later", later)], |builder| {
            builder.clock(clock.clone()).plugin_settings("later".parse().unwrap(), granted(grants))
        })
        .await;
        let (minute, morning) = (NOON + 60_000, NOON + 20 * 3_600_000);
        assert_eq!(
            stage.ask("/set").await,
            format!("tea {minute} none none, up {morning} 0 9 * * * Europe/Berlin"),
            "{language}"
        );
        clock.set(minute);
        let fired = format!("tea \u{e9}: {minute} 0 {ALICE}");
        stage.until(&stage.room, |lines| lines.iter().any(|line| line.text == fired)).await;
        assert_eq!(stage.ask("/cancel").await, "true false", "{language}");
    }
}

const LATER_JAVASCRIPT: &str = r#"
import { outbox, schedule } from "parlour-plugin";

const command = (name) => ({ name, description: name, parameters: [], role: "user" });

export const commands = {
  listCommands: () => [command("set"), command("cancel")],
  run({ name }) {
    if (name === "cancel") {
      outbox.say(`${schedule.cancel("up")} ${schedule.cancel("tea")}`);
    } else {
      schedule.at(Date.now() + 60_000, "\u00e9", { key: "tea" });
      schedule.every("0 9 * * *", "Europe/Berlin", "", { key: "up", catchUp: "skip" });
      const told = ({ key, next, cron, zone }) => `${key} ${next} ${cron ?? "none"} ${zone ?? "none"}`;
      outbox.say(schedule.list().map(told).join(", "));
    }
  },
};

export const timers = {
  onTimer({ key, payload, due, missed, sender }) {
    outbox.say(`${key} ${payload}: ${due} ${missed} ${sender.id}`);
  },
};
"#;

const LATER_PYTHON: &str = r#"
import time
from parlour_plugin import outbox, schedule
from parlour_plugin.types import command
from wit_world import exports

class Commands(exports.Commands):
    def list_commands(self):
        return [command("set", "Sets"), command("cancel", "Cancels")]

    def run(self, call) -> None:
        if call.name == "cancel":
            outbox.say(f"{schedule.cancel('up')} {schedule.cancel('tea')}".lower())
            return
        schedule.at(time.time() * 1000 + 60_000, "\u00e9", key="tea")
        schedule.every("0 9 * * *", "Europe/Berlin", "", key="up", catch_up=schedule.CatchUp.SKIP)
        told = lambda timer: f"{timer.key} {timer.next:.0f} {timer.cron or 'none'} {timer.zone or 'none'}"
        outbox.say(", ".join(told(timer) for timer in schedule.list()))

class Timers(exports.Timers):
    def on_timer(self, firing) -> None:
        outbox.say(f"{firing.key} {firing.payload}: {firing.due:.0f} {firing.missed} {firing.sender.id}")
"#;
