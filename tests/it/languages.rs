//! Plugins in other languages than Rust.

use parlour::{event::Membership, settings::Grants};

use crate::{
    guests::{assistant, example, greet, guest},
    stage::{AGENT, ALICE, BOB, MALLORY, Stage, granted},
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
    let folder = tempfile::tempdir().unwrap();
    let manifest = format!(
        "name = \"draw-{language}\"\nversion = \"0.1.0\"\ndescription = \"Draws\"\nmain = \"{main}\"\nhandles = [\"commands\"]\n"
    );
    std::fs::write(folder.path().join("plugin.toml"), manifest).unwrap();
    std::fs::write(folder.path().join(main), source).unwrap();
    crate::guests::built(folder.path())
}

#[tokio::test]
async fn assistant_in_python_says_that_there_is_no_model() {
    let stage = Stage::with(&[("assistant", assistant())]).await;
    let answer = stage.ask("hello").await;
    assert!(answer.contains("the grant `llm` is missing"), "{answer}");
    assert_eq!(stage.ask("/reset").await, "I have forgotten this conversation.");
}
