//! Plugins that misbehave: each is contained and reported, and the next event is served.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use async_trait::async_trait;
use parlour::{engine::limits::Limits, journal::memory::Memory, notice::Notice};
use tokio::sync::watch;

use crate::{
    guests::{example, guest, host},
    stage::{AGENT, ALICE, BOB, Stage},
    watched::{Watch, Watched},
};

async fn stage() -> Stage {
    Stage::with(&[("naughty", guest("naughty")), ("echo", example("echo"))]).await
}

fn faults(stage: &Stage) -> Vec<String> {
    let fault = |notice| match notice {
        Notice::PluginFaulted { fault, said, .. } => {
            Some(said.map_or(fault.clone(), |said| format!("{fault}: {}", said.text)))
        }
        _ => None,
    };
    stage.notices().into_iter().filter_map(fault).collect()
}

#[tokio::test]
async fn an_endless_loop_is_ended_and_the_next_event_is_served() {
    let stage = stage().await;
    assert_eq!(stage.ask("/spin").await, "/spin: stopped: it used up its 1 s of CPU time");
    assert_eq!(stage.ask("/echo still here").await, "still here");
    assert_eq!(faults(&stage), ["it used up its 1 s of CPU time"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_does_not_hold_up_other_sessions() {
    let guests = [("naughty", guest("naughty")), ("echo", example("echo"))];
    let limits = Limits { cpu: Duration::from_secs(60), ..Limits::default() };
    let stage = Stage::start(&guests, |builder| builder.limits(limits)).await;
    let room = stage.rooms.create_direct(BOB, AGENT);
    stage.ask_as(BOB, &room, "/echo warm").await;
    let spinning = stage.rooms.say(ALICE, &stage.room, "/spin");
    for number in 0..20 {
        assert_eq!(stage.ask_as(BOB, &room, &format!("/echo {number}")).await, number.to_string());
    }
    let lines = stage.rooms.transcript(&stage.room);
    assert_eq!(lines.last().unwrap().id, spinning, "twenty answers come before the loop is ended");
    stage.rooms.say(ALICE, &stage.room, "/stop");
    assert_eq!(stage.answer_to(&stage.room, &spinning).await.text, "Stopped.");
}

#[tokio::test]
async fn a_trap_is_contained_and_leaves_nothing_half_done() {
    let stage = stage().await;
    let answer = stage.ask("/half").await;
    assert!(answer.starts_with("/half: stopped: it crashed"), "{answer}");
    assert_eq!(stage.ask("/echo next").await, "next");
    assert!(!stage.transcript(&stage.room).contains("you never see this"));
}

#[tokio::test]
async fn what_a_guest_says_when_it_crashes_is_in_the_log() {
    let stage = stage().await;
    stage.ask("/trap").await;
    stage.noticed("on purpose").await;
}

#[tokio::test]
async fn a_memory_hog_is_ended() {
    let stage = Stage::start(&[("naughty", guest("naughty")), ("echo", example("echo"))], |builder| {
        builder.limits(Limits { memory: 32 * 1024 * 1024, cpu: Duration::from_secs(20), ..Limits::default() })
    })
    .await;
    assert_eq!(stage.ask("/hog").await, "/hog: stopped: it wanted more than its 32 MiB of memory");
    assert_eq!(stage.ask("/echo next").await, "next");
}

#[tokio::test]
async fn waiting_is_not_charged_and_has_a_limit_of_its_own() {
    let stage = Stage::start(&[("naughty", guest("naughty"))], |builder| {
        builder.limits(Limits {
            wall: Duration::from_secs(2),
            cpu: Duration::from_millis(500),
            ..Limits::default()
        })
    })
    .await;
    assert_eq!(stage.ask("/wait").await, "/wait: stopped: it took longer than 2 s");
}

#[tokio::test]
async fn stop_overtakes_and_ends_the_handler_at_once() {
    let stage = stage().await;
    let waiting = stage.rooms.say(ALICE, &stage.room, "/wait");
    // The handler runs as soon as people see that the agent types.
    stage.until_it_types(&stage.room).await;
    stage.rooms.say(ALICE, &stage.room, "/stop");
    let answer = stage.answer_to(&stage.room, &waiting).await;
    assert_eq!(answer.text, "Stopped.");
    assert_eq!(stage.ask("/echo next").await, "next");
    assert_eq!(stage.transcript(&stage.room).matches("Stopped.").count(), 1);
}

#[tokio::test]
async fn more_effects_than_allowed_are_refused() {
    let limits = Limits { messages: NonZeroU32::MAX, cpu: Duration::from_secs(1), ..Limits::default() };
    let guests = [("naughty", guest("naughty")), ("echo", example("echo"))];
    let stage = Stage::start(&guests, |builder| builder.limits(limits)).await;
    let answer = stage.ask("/flood").await;
    assert_eq!(answer, "/flood: 100 effects are the most for one delivery");
    assert_eq!(stage.ask("/echo next").await, "next");
}

#[tokio::test]
async fn a_guest_cannot_forge_or_flood_the_log() {
    let stage = stage().await;
    assert_eq!(stage.ask("/shout").await, "shouted");
    let lines: Vec<String> =
        stage.notices().iter().map(ToString::to_string).filter(|line| line.contains("forged")).collect();
    assert_eq!(lines.len(), 100);
    assert!(
        lines.iter().all(|line| line.starts_with("plugin naughty: ") && !line.contains(['\n', '\u{1b}'])),
        "{lines:?}"
    );
}

#[tokio::test]
async fn what_is_no_plugin_is_refused_with_a_reason() {
    let interface = |body: &str| wat::parse_str(format!("(component {body})")).unwrap();
    let empty = r#"(instance $i) (export "parlour:plugin/commands@0.1.0" (instance $i))"#;
    let future = r#"(instance $i) (export "parlour:plugin/commands@0.2.0" (instance $i))"#;
    let stranger = r#"(import "acme:rockets/launch" (instance (export "go" (func)))) (instance $i) (export "parlour:plugin/members@0.1.0" (instance $i))"#;
    let memories = format!("(core module $m (memory 1)){}", "(core instance (instantiate $m))".repeat(3));
    let echo = example("echo");
    for (bytes, expected) in [
        (b"hello".to_vec(), "it is no WebAssembly component"),
        (wat::parse_str("(module)").unwrap(), "it is a core WebAssembly module, not a component"),
        (echo[..echo.len() / 2].to_vec(), "the file ends in the middle"),
        (interface(""), "it exports none of parlour:plugin's commands, messages, members, timers and tools"),
        (interface(empty), "it does not fit the contract"),
        (
            interface(&format!("{memories} {empty}")),
            "contains 3 Wasm linear memories, which exceeds the configured maximum of 2",
        ),
        (interface(future), "it was made for parlour:plugin@0.2.0; this host speaks 0.1.0"),
        (interface(stranger), "it imports what this host does not have: acme:rockets/launch"),
    ] {
        let refused = load(bytes.into()).await.unwrap_err();
        assert!(refused.contains(expected), "{expected}: {refused}");
        assert_eq!(refused.lines().count(), 1, "{refused}");
    }
}

/// Loads a component the way an embedder does, and says why not.
async fn load(bytes: Arc<[u8]>) -> Result<(), String> {
    let built = host().plugin("guest".parse().unwrap(), bytes).build().await;
    built.map(drop).map_err(|error| error.to_string())
}

/// Nothing is looked up as long as this is true.
pub struct Hanging(pub watch::Receiver<bool>);

#[async_trait]
impl Watch for Hanging {
    async fn looks_up(&self) {
        self.0.clone().wait_for(|hangs| !hangs).await.unwrap();
    }
}

/// 3: what the host itself keeps does not answer.
#[tokio::test]
async fn a_storage_that_hangs_ends_a_call_and_is_asked_again() {
    for (command, answer) in
        [("/count", "1"), ("/answer $some-event", "/answer: the agent knows no such event")]
    {
        let (hang, hangs) = watch::channel(true);
        let journal = Watched { journal: Memory::default(), watch: Hanging(hangs) };
        let limits = Limits { lookup: Duration::from_millis(200), ..Limits::default() };
        let guests = [("deeds", guest("deeds")), ("echo", example("echo"))];
        let stage = Stage::start(&guests, |builder| builder.journal(journal).limits(limits)).await;
        let room = stage.rooms.create_direct(ALICE, AGENT);
        let asked = stage.rooms.say(ALICE, &room, command);
        stage.noticed("plugin deeds waits for agent agent: the storage failed").await;
        assert_eq!(stage.ask("/echo still here").await, "still here");
        hang.send_replace(false);
        assert_eq!(stage.answer_to(&room, &asked).await.text, answer);
    }
}
