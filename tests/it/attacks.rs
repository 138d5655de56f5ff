//! Attacks on the host, by number as in `tests/README.md`: each fails, and the next event is answered. Where the one
//! defence against it can be taken away, it succeeds without it.

use std::{
    net::TcpListener,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use parlour::{
    Agent,
    chat::{
        Chat, Ended, Identity, SendError, StartError,
        memory::{Memory, Rooms},
    },
    clock::Clock,
    effect::Outgoing,
    engine::limits::Limits,
    event::{Batch, Position},
    id::{EventId, RoomId, UserId},
    settings::{Grants, Timers},
};

use crate::{
    guests::{component, example, guest, host, patched},
    stage::{AGENT, ALICE, BOB, MALLORY, PATIENCE, Stage, access, granted},
};

async fn stage(limits: Limits) -> Stage {
    let guests = [("hostile", guest("hostile")), ("echo", example("echo"))];
    Stage::start(&guests, |builder| builder.limits(limits)).await
}

/// Debug builds are slow, and the machine is shared.
fn usual() -> Limits {
    Limits { cpu: Duration::from_secs(1), ..Limits::default() }
}

async fn still_serves(stage: &Stage) {
    assert_eq!(stage.ask("/echo still here").await, "still here");
}

/// 2: the plugin never says what it has.
#[tokio::test]
async fn a_loop_in_list_commands_is_refused() {
    let built = host().limits(usual()).plugin("stuck".parse().unwrap(), component("stuck")).build();
    let refused = tokio::time::timeout(PATIENCE, built).await.expect("it ends").map(drop).unwrap_err();
    assert_eq!(refused.to_string(), "stuck: it took longer than 1 s to say what it has");
}

/// 4: many short waits, each of which is allowed.
#[tokio::test]
async fn many_short_waits_are_one_long_one() {
    let short = stage(Limits { wall: Duration::from_secs(1), ..usual() }).await;
    assert_eq!(short.ask("/slip 1000").await, "/slip: stopped: it took longer than 1 s");
    still_serves(&short).await;
    let long = stage(Limits { wall: Duration::from_secs(600), ..usual() }).await;
    assert_eq!(long.ask("/slip 100").await, "slipped through");
}

/// 6: bulk operations look at no clock while they run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filling_memory_holds_up_nobody() {
    let stage = stage(Limits { cpu: Duration::from_secs(60), ..usual() }).await;
    let room = stage.rooms.create_direct(BOB, AGENT);
    stage.ask_as(BOB, &room, "/echo warm").await;
    let filling = stage.rooms.say(ALICE, &stage.room, "/fill 100");
    for number in 0..10 {
        assert_eq!(stage.ask_as(BOB, &room, &format!("/echo {number}")).await, number.to_string());
    }
    assert_eq!(
        stage.rooms.transcript(&stage.room).last().unwrap().id,
        filling,
        "ten answers come before its end"
    );
    stage.rooms.say(ALICE, &stage.room, "/stop");
    assert_eq!(stage.answer_to(&stage.room, &filling).await.text, "Stopped.");
}

/// 7: a recursion without an end.
#[tokio::test]
async fn a_deep_recursion_is_ended() {
    let stage = stage(Limits { cpu: Duration::from_secs(20), ..usual() }).await;
    let answer = stage.ask("/recurse 100000000").await;
    assert!(answer.starts_with("/recurse: stopped: it crashed: "), "{answer}");
    assert_eq!(stage.ask("/recurse 100").await, "100 deep");
    still_serves(&stage).await;
}

/// 8: more bytes in one call than a host should copy.
#[tokio::test]
async fn a_giant_text_is_not_copied() {
    let usual = stage(Limits { cpu: Duration::from_secs(20), ..usual() }).await;
    let answer = usual.ask("/giant 32").await;
    assert!(answer.starts_with("/giant: stopped: it crashed: "), "{answer}");
    still_serves(&usual).await;
    let all = Limits { host_call: 256 * 1024 * 1024, cpu: Duration::from_secs(20), ..Limits::default() };
    let answer = stage(all).await.ask("/giant 32").await;
    assert!(answer.starts_with("/giant: ") && answer.contains("32 KiB"), "{answer}");
}

/// 9: handles that nobody gives back.
#[tokio::test]
async fn handles_that_are_never_dropped_end_with_the_instance() {
    let stage = stage(usual()).await;
    for _ in 0..20 {
        assert_eq!(stage.ask("/leak 500").await, "leaked");
    }
    let answer = stage.ask("/leak 5000").await;
    assert!(answer.starts_with("/leak: stopped: it crashed: "), "{answer}");
    still_serves(&stage).await;
}

/// 11: more than an answer at every event. What is too much comes later, and nobody else waits for it.
#[tokio::test]
async fn a_plugin_says_so_much_a_minute_and_the_rest_comes_later() {
    let talking = async |messages| {
        let echo = granted(Grants { messages_per_minute: NonZeroU32::new(1), ..Grants::default() });
        let grants = Grants { messages_per_minute: NonZeroU32::new(messages), ..Grants::default() };
        let guests = [("echo", example("echo")), ("hostile", guest("hostile"))];
        Stage::start(&guests, |builder| {
            let builder = builder.plugin_settings("echo".parse().unwrap(), echo);
            builder.plugin_settings("hostile".parse().unwrap(), granted(grants))
        })
        .await
    };
    let stage = talking(6).await;
    for number in 0..6 {
        assert_eq!(stage.ask(&format!("/babble {number}")).await, number.to_string());
    }
    let seventh = stage.rooms.say(ALICE, &stage.room, "/babble seventh");
    stage.noticed("plugin hostile waits for agent agent: this plugin says too much in one room").await;
    let said = stage.rooms.transcript(&stage.room);
    assert!(!said.iter().any(|line| line.text == "seventh"), "it has not answered");
    let room = stage.rooms.create_direct(BOB, AGENT);
    assert_eq!(stage.ask_as(BOB, &room, "/babble here").await, "here");
    let began = Instant::now();
    assert_eq!(stage.answer_to(&stage.room, &seventh).await.text, "seventh");
    assert!(began.elapsed() > Duration::from_secs(5), "six a minute are one in ten seconds");
    // The twin.
    let stage = talking(1000).await;
    for number in 0..100 {
        assert_eq!(stage.ask(&format!("/babble {number}")).await, number.to_string());
    }
    // An answer to each is no flood, though one a minute is the most.
    for number in 0..10 {
        assert_eq!(stage.ask(&format!("/echo {number}")).await, number.to_string());
    }
}

/// A chat in which somebody has always said something more.
struct Talkative {
    account: Memory,
    rooms: Rooms,
    room: RoomId,
    said: Arc<AtomicU32>,
}

const MUCH: u32 = 20_000;

#[async_trait]
impl Chat for Talkative {
    async fn start(&self, from: Option<Position>) -> Result<Identity, StartError> {
        self.account.start(from).await
    }

    async fn next(&self) -> Result<Batch, Ended> {
        if self.said.fetch_add(2, Relaxed) < MUCH {
            self.rooms.say(ALICE, &self.room, "/echo again");
            self.rooms.say(ALICE, &self.room, "/echo and again");
        }
        self.account.next().await
    }

    async fn send(&self, outgoing: &Outgoing) -> Result<EventId, SendError> {
        self.account.send(outgoing).await
    }

    fn typing(&self, room: &RoomId, on: bool) {
        self.account.typing(room, on);
    }

    fn read(&self, room: &RoomId, event: &EventId, thread: Option<&EventId>) {
        self.account.read(room, event, thread);
    }

    async fn answer(&self, room: &RoomId, accept: bool) -> Result<(), SendError> {
        self.account.answer(room, accept).await
    }

    async fn direct(&self, user: &UserId) -> Result<RoomId, SendError> {
        self.account.direct(user).await
    }
}

/// 11: a flood from outside. What came first is answered while it goes on.
#[tokio::test]
async fn who_never_stops_talking_is_answered_meanwhile() {
    let rooms = Rooms::new();
    let room = rooms.create_direct(ALICE, AGENT);
    let said = Arc::<AtomicU32>::default();
    let (account, within) = (rooms.account(AGENT), room.clone());
    let chat = Talkative { account, rooms: rooms.clone(), room: within, said: said.clone() };
    let agent = Agent::new("agent".parse().unwrap(), chat).access(access());
    let stage = Stage::start_with(rooms, room, agent, &[("echo", example("echo"))], |builder| builder).await;
    stage.until(&stage.room, |lines| lines.iter().any(|line| line.sender.as_str() == AGENT)).await;
    assert!(said.load(Relaxed) < MUCH, "the first answer comes behind all questions");
}

/// 37: a clock by which the work of others on the same machine can be measured.
#[tokio::test]
async fn clocks_are_coarse_and_sleeping_works() {
    let fine = stage(Limits { clock: Duration::from_nanos(1), ..usual() }).await;
    let (said, coarse) = (fine.ask("/tick").await, stage(usual()).await);
    let step: u64 = said.split_once(" ns").unwrap_or_else(|| panic!("{said}")).0.parse().unwrap();
    assert!(step < 1_000_000 && said.ends_with("slept: true, stands: true"), "{said}");
    let said = coarse.ask("/tick").await;
    let mut nanoseconds = said.split(", ").take(2).map(|of| of.split_once(" ns").unwrap().0);
    let step: u64 = nanoseconds.next().unwrap().parse().unwrap();
    assert!(step >= 1_000_000 && step.is_multiple_of(1_000_000), "{said}");
    assert_eq!(nanoseconds.next(), Some("0"), "nothing below a millisecond: {said}");
    assert!(said.ends_with("slept: true, stands: true"), "{said}");
    still_serves(&coarse).await;
}

/// 15: an id that the plugin makes up, and one of a message that somebody else wrote.
#[tokio::test]
async fn nobody_elses_message_is_edited() {
    let stage = stage(usual()).await;
    let theirs = stage.rooms.say(ALICE, &stage.room, "/echo I said this");
    let ours = stage.answer_to(&stage.room, &theirs).await.id;
    for id in [theirs.as_str(), ours.as_str()] {
        let answer = stage.ask(&format!("/pretend {id}")).await;
        assert_eq!(answer, "/pretend: only a message that this plugin sent can be edited or redacted");
    }
    assert_eq!(stage.ask("/pretend $made-up").await, "/pretend: the agent knows no such event");
    assert!(!stage.transcript(&stage.room).contains("I never said that"));
}

/// 17: a second plugin takes a command that another one has.
#[tokio::test]
async fn a_command_stays_with_the_plugin_that_had_it() {
    let other = patched(&component("steady"), "version-1", "not yours");
    let guests = [("echo", example("echo")), ("hostile", other.into())];
    let stage = Stage::with(&guests).await;
    stage.noticed("/echo of plugin hostile is not used: another plugin before it has one").await;
    assert_eq!(stage.ask("/echo hello").await, "hello");
}

/// 21 and 32: the network, by any way that a standard library has.
#[tokio::test]
async fn there_is_no_network() {
    let stage = stage(usual()).await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let answer = stage.ask(&format!("/connect {address}")).await;
    assert_eq!(answer, "PermissionDenied, and true", "an address needs no look-up");
    let answer = stage.ask("/connect localhost:80").await;
    assert!(answer.ends_with(", and false"), "no name is looked up: {answer}");
    assert!(listener.accept().is_err(), "nobody came");
}

/// 25 and 38: files, the environment, arguments, input.
#[tokio::test]
async fn there_is_nothing_to_see_of_the_machine() {
    let stage = stage(usual()).await;
    let nothing = "0 variables, 0 arguments, 0 files read, 0 written, 0 bytes of input";
    assert_eq!(stage.ask("/look").await, nothing);
}

/// 27: keys that look like other namespaces.
#[tokio::test]
async fn nobody_elses_memory_is_read() {
    let guests = [("deeds", guest("deeds")), ("hostile", guest("hostile"))];
    let stage = Stage::with(&guests).await;
    assert_eq!(stage.ask("/count").await, "1");
    assert_eq!(stage.ask("/steal").await, "nothing, of 0");
    assert_eq!(stage.ask("/count").await, "2");
}

/// 30: what one event leaves in memory, the next one finds.
#[tokio::test]
async fn memory_ends_with_the_event() {
    let stage = stage(usual()).await;
    let room = stage.rooms.create_direct(BOB, AGENT);
    for _ in 0..5 {
        assert_eq!(stage.ask("/remember").await, "1");
        assert_eq!(stage.ask_as(BOB, &room, "/remember").await, "1");
    }
}

/// 12 and 16: people whom nobody listed.
#[tokio::test]
async fn who_is_not_listed_starts_nothing() {
    let stage = stage(usual()).await;
    let room = stage.rooms.create_direct(MALLORY, AGENT);
    stage.rooms.say(MALLORY, &room, "/remember");
    still_serves(&stage).await;
    assert_eq!(stage.rooms.transcript(&room).len(), 1);
}

/// 29: a crash at every event.
#[tokio::test]
async fn a_plugin_that_always_crashes_is_suspended_and_the_others_serve() {
    let guests = [("naughty", guest("naughty")), ("echo", example("echo"))];
    let stage = Stage::with(&guests).await;
    for _ in 0..5 {
        let answer = stage.ask("/trap").await;
        assert!(answer.starts_with("/trap: stopped: it crashed: "), "{answer}");
    }
    stage
        .noticed("plugin naughty: rests for 1 min from what @alice:memory does, after too many faults")
        .await;
    for command in ["trap", "shout"] {
        let answer = stage.ask(&format!("/{command}")).await;
        assert_eq!(answer, format!("/{command}: plugin naughty rests after too many faults; 1 min left"));
    }
    still_serves(&stage).await;
    let said = stage.notices().iter().filter(|notice| notice.to_string().contains("rests for")).count();
    assert_eq!(said, 1);
    // Nobody switches it off for others.
    let room = stage.rooms.create_direct(BOB, AGENT);
    assert_eq!(stage.ask_as(BOB, &room, "/shout").await, "shouted");
}

/// 40: a text that reads otherwise than it is.
#[tokio::test]
async fn no_text_is_turned_around() {
    let stage = stage(usual()).await;
    assert_eq!(stage.ask("/echo good\u{202e}live\u{202c} שלום").await, "goodlive\u{202c} שלום");
}

/// 43: a million timers, all of them at once, and as many as there may be each minute.
#[tokio::test]
async fn a_plugin_has_so_many_timers_and_they_hold_up_nobody() {
    const NOON: u64 = 1_767_614_400_000;
    let clock = Clock::by_hand(NOON);
    let grants = Grants { timers: Some(Timers { count: Some(250) }), ..Grants::default() };
    let guests = [("timers", guest("timers")), ("echo", example("echo"))];
    let stage = Stage::start(&guests, |builder| {
        let messages = NonZeroU32::MAX;
        let limits = Limits { messages, ..usual() };
        builder
            .limits(limits)
            .clock(clock.clone())
            .plugin_settings("timers".parse().unwrap(), granted(grants))
    })
    .await;
    assert_eq!(stage.ask("/many 99").await, "99");
    assert_eq!(stage.ask("/many 99").await, "99");
    // The answer is an effect, too, so that there is no room for it.
    assert_eq!(stage.ask("/many 1000000").await, "52, and then: this plugin has at most 250 timers");
    assert_eq!(stage.ask("/many 1").await, "0, and then: this plugin has at most 250 timers");
    let room = stage.rooms.create_direct(BOB, AGENT);
    assert_eq!(
        stage.ask_as(BOB, &room, "/many 1").await,
        "0, and then: this plugin has at most 250 timers",
        "wherever they are set"
    );
    // All at once: while they are handled one after the other, others are answered.
    clock.set(NOON + 3_600_000);
    for number in 0..5 {
        assert_eq!(stage.ask_as(BOB, &room, &format!("/echo {number}")).await, number.to_string());
    }
    let said = |text: &str| text.contains(": due ");
    stage.until(&stage.room, |lines| lines.iter().filter(|line| said(&line.text)).count() == 250).await;
    assert_eq!(stage.ask("/list").await, "nothing");
    // So many a minute, and no more: what is set anew waits for its share, and is not lost.
    stage.ask("/at late 0 once").await;
    assert_eq!(stage.ask("/list").await, format!("late {}", NOON + 3_600_000));
    clock.set(NOON + 3_600_000 + 1000);
    stage.until(&stage.room, |lines| lines.iter().any(|line| line.text.starts_with("late : due "))).await;
    still_serves(&stage).await;
}
