//! Timers: when they are due, what becomes of those that nobody kept, and what they may do. The clock is set by hand.

use std::{num::NonZeroU32, sync::Arc};

use parlour::{
    Agent,
    chat::memory::Rooms,
    clock::Clock,
    engine::limits::Limits,
    event::Membership,
    id::RoomId,
    journal::sqlite::Sqlite,
    settings::{Access, Grants, Plugin, Timers},
    timer::Timer,
};

use crate::{
    guests::{example, guest},
    stage::{AGENT, ALICE, BOB, Stage, access, granted},
};

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// Noon of Monday, 5 January 2026, UTC.
const NOON: u64 = 1_767_614_400_000;

fn may() -> Grants {
    Grants { timers: Some(Timers::default()), ..Grants::default() }
}

/// A host that is started again and again, in rooms that stay.
struct World {
    folder: tempfile::TempDir,
    clock: Clock,
    rooms: Rooms,
    room: RoomId,
}

impl World {
    fn new() -> Self {
        let rooms = Rooms::new();
        let room = rooms.create_direct(ALICE, AGENT);
        Self { folder: tempfile::tempdir().unwrap(), clock: Clock::by_hand(NOON), rooms, room }
    }

    /// With the plugin `timers`, who may talk, and what is granted.
    async fn start(&self) -> Stage {
        self.start_as(access(), granted(may()), &[("timers", guest("timers"))]).await
    }

    async fn start_as(&self, access: Access, plugin: Plugin, guests: &[(&str, Arc<[u8]>)]) -> Stage {
        let agent = Agent::new("agent".parse().unwrap(), self.rooms.account(AGENT)).access(access);
        let journal = Sqlite::open(self.folder.path().join("journal.db")).unwrap();
        Stage::start_with(self.rooms.clone(), self.room.clone(), agent, guests, |builder| {
            builder
                .clock(self.clock.clone())
                .journal(journal)
                .plugin_settings("timers".parse().unwrap(), plugin)
        })
        .await
    }

    /// It is so much later than noon.
    fn later(&self, by: u64) {
        self.clock.set(NOON + by);
    }

    /// What the agent has said of timers in a room: nobody waits for it.
    fn fired(&self, room: &RoomId) -> Vec<String> {
        let lines = self.rooms.transcript(room).into_iter();
        lines.filter(|line| line.text.contains(": due ")).map(|line| line.text).collect()
    }
}

/// Waits until so many timers have spoken in a room.
async fn until_fired(stage: &Stage, room: &RoomId, count: usize) -> Vec<String> {
    let due = |text: &str| text.contains(": due ");
    let lines = stage.until(room, |lines| lines.iter().filter(|line| due(&line.text)).count() >= count).await;
    lines.into_iter().filter(|line| due(&line.text)).map(|line| line.text).collect()
}

#[tokio::test]
async fn a_timer_is_handled_when_it_is_due_and_where_it_was_set() {
    let world = World::new();
    let stage = world.start().await;
    let room = stage.rooms.create([ALICE, BOB, AGENT]);
    let root = stage.rooms.say(ALICE, &room, "a thread");
    let asked = stage.rooms.say_in_thread(BOB, &room, &root, "/at tea 600 once ready");
    assert_eq!(stage.answer_to(&room, &asked).await.text, format!("tea {} ready", NOON + 600 * SECOND));
    world.later(600 * SECOND - 1);
    assert_eq!(stage.ask("/list").await, "nothing");
    assert!(world.fired(&room).is_empty(), "it is not due");
    world.later(600 * SECOND);
    until_fired(&stage, &room, 1).await;
    let line = stage.rooms.transcript(&room).pop().unwrap();
    let expected = format!("tea ready: due {}, missed 0, {BOB} (user), 1", NOON + 600 * SECOND);
    assert_eq!((line.text, line.thread), (expected, Some(root)));
    // Once is once, and a clock that goes back changes nothing.
    world.clock.set(NOON);
    world.later(DAY);
    assert_eq!(stage.ask("/list").await, "nothing");
    assert_eq!(world.fired(&room).len(), 1);
}

#[tokio::test]
async fn a_handler_sees_what_it_has_set_and_one_that_fails_sets_nothing() {
    let world = World::new();
    let stage = world.start().await;
    let [two, three] = [2000, 3000].map(|after| NOON + after);
    let said = stage.ask("/changes now").await;
    let gone = NOON + 1000;
    assert_eq!(said, format!("gone {gone}, kept {two} first; true false; kept {three} second"));
    assert_eq!(stage.ask("/list").await, format!("kept {three} second"));
    assert_eq!(stage.ask("/fails never 5").await, "/fails: it is no use");
    assert_eq!(stage.ask("/cancel never").await, "false");
    assert_eq!(stage.ask("/cancel kept").await, "true");
    world.later(HOUR);
    assert_eq!(stage.ask("/list").await, "nothing");
    assert!(world.fired(&world.room).is_empty());
}

/// Each session has its own, and so what is set in an encrypted room is seen there alone.
#[tokio::test]
async fn what_is_set_in_one_room_is_seen_in_that_one_alone() {
    let world = World::new();
    let stage = world.start().await;
    let sealed = stage.rooms.create_direct(ALICE, AGENT);
    stage.rooms.encrypt(&sealed);
    let group = stage.rooms.create([ALICE, BOB, AGENT]);
    stage.ask_as(ALICE, &sealed, "/at mine 60 once secret").await;
    stage.ask_as(ALICE, &group, "!at mine 120 once alices").await;
    stage.ask_as(BOB, &group, "!at mine 180 once bobs").await;
    assert_eq!(stage.ask("/list").await, "nothing");
    assert_eq!(stage.ask("/cancel mine").await, "false");
    assert!(stage.ask_as(ALICE, &group, "!list").await.ends_with("alices"));
    assert!(stage.ask_as(BOB, &group, "!list").await.ends_with("bobs"));
    assert!(stage.ask_as(ALICE, &sealed, "/list").await.ends_with("secret"));
    assert_eq!(stage.ask_as(BOB, &group, "!cancel mine").await, "true");
    world.later(HOUR);
    assert!(until_fired(&stage, &group, 1).await[0].starts_with("mine alices"));
    assert!(until_fired(&stage, &sealed, 1).await[0].starts_with("mine secret"));
    // What is remembered while it is handled is the encrypted room's, too.
    assert!(world.fired(&sealed)[0].ends_with("(admin), 1"));
    assert!(world.fired(&world.room).is_empty());
}

#[tokio::test]
async fn every_follows_the_clock_of_its_zone() {
    let world = World::new();
    // 28 March 2026, noon UTC: clocks go forward in the night.
    let before = 1_774_699_200_000;
    world.clock.set(before);
    let stage = world.start().await;
    let [first, second] = [before + 19 * HOUR, before + 43 * HOUR];
    assert_eq!(stage.ask("/every up Europe/Berlin once 0 9 * * *").await, format!("up {first}"));
    world.clock.set(first);
    let said = until_fired(&stage, &world.room, 1).await;
    assert!(said[0].starts_with(&format!("up : due {first}, missed 0")), "{said:?}");
    assert_eq!(stage.ask("/list").await, format!("up {second}"));
    world.clock.set(second);
    assert_eq!(until_fired(&stage, &world.room, 2).await.len(), 2);
}

/// Three days away, and three ways to take it.
#[tokio::test]
async fn what_was_missed_while_the_host_was_down_follows_its_rule() {
    let world = World::new();
    let stage = world.start().await;
    for rule in ["skip", "once", "all"] {
        stage.ask(&format!("/every daily-{rule} UTC {rule} 0 9 * * *")).await;
        stage.ask(&format!("/at lone-{rule} 3600 {rule}")).await;
    }
    stage.stop().await;
    world.later(3 * DAY);
    let stage = world.start().await;
    let mut said = until_fired(&stage, &world.room, 6).await;
    said.sort();
    let nine = NOON - 3 * HOUR;
    let line = |name: &str, due: u64, missed: u32, count: u32| {
        format!("{name} : due {due}, missed {missed}, {ALICE} (admin), {count}")
    };
    let expected = [
        line("daily-all", nine + DAY, 0, 1),
        line("daily-all", nine + 2 * DAY, 0, 2),
        line("daily-all", nine + 3 * DAY, 0, 3),
        line("daily-once", nine + 3 * DAY, 2, 1),
        line("lone-all", NOON + HOUR, 0, 1),
        line("lone-once", NOON + HOUR, 0, 1),
    ];
    assert_eq!(said, expected);
    // Each of a session in its order.
    let all: Vec<_> =
        world.fired(&world.room).into_iter().filter(|line| line.starts_with("daily-all")).collect();
    assert_eq!(all, expected[..3]);
    stage.noticed("left out: it is too late for it").await;
    let next = nine + 4 * DAY;
    let left = stage.ask("/list").await;
    assert_eq!(left, format!("daily-all {next}, daily-once {next}, daily-skip {next}"));
    world.clock.set(next);
    assert!(until_fired(&stage, &world.room, 9).await.iter().any(|line| line.starts_with("daily-skip")));
}

/// The host ends while the timer is handled: it is handled again, and counts once.
#[tokio::test]
async fn a_timer_whose_handler_was_ended_is_handled_again_and_once() {
    let world = World::new();
    let guests = [("timers", guest("timers"))];
    let busy = Plugin { config: [("busy".into(), true.into())].into(), ..granted(may()) };
    let stage = world.start_as(access(), busy, &guests).await;
    stage.ask("/at tea 60 once wait").await;
    let asked = stage.rooms.say(ALICE, &world.room, "/every yawn UTC once * * * * *");
    stage.answer_to(&world.room, &asked).await;
    world.later(MINUTE);
    // It is in the journal when it is gone from the list; a command would wait behind it in its session.
    let other = stage.rooms.create_direct(BOB, AGENT);
    stage.ask_as(BOB, &other, "/list").await;
    until_gone(&world, &world.room, "tea").await;
    stage.stop().await;
    assert!(world.fired(&world.room).is_empty());

    let stage = world.start().await;
    let said = until_fired(&stage, &world.room, 2).await;
    let due = NOON + MINUTE;
    let mut said: Vec<_> = said.iter().map(|line| line.split(", ").next().unwrap()).collect();
    said.sort_unstable();
    assert_eq!(said, [format!("tea wait: due {due}"), format!("yawn : due {due}")]);
    assert!(
        world.fired(&world.room).iter().all(|line| line.ends_with("(admin), 1")),
        "each was counted once"
    );
    stage.stop().await;
    let stage = world.start().await;
    assert_eq!(stage.ask("/list").await, format!("yawn {}", NOON + 2 * MINUTE));
    assert_eq!(world.fired(&world.room).len(), 2);
}

/// Waits until the journal, looked at from outside, has no such timer any more.
async fn until_gone(world: &World, room: &RoomId, key: &str) {
    until(world, room, |timers| timers.iter().all(|timer| timer.key != key)).await;
}

/// Waits until the timers of a room are so.
async fn until(world: &World, room: &RoomId, are: impl Fn(&[Timer]) -> bool) {
    use parlour::journal::Journal as _;
    let (agent, plugin) = ("agent".parse().unwrap(), "timers".parse().unwrap());
    let session = room.as_str().parse().unwrap();
    let journal = Sqlite::look(world.folder.path().join("journal.db")).unwrap();
    let wait = async {
        while !are(&journal.timers(&agent, &plugin, &session).await.unwrap()) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::stage::PATIENCE, wait).await.expect("it is due");
}

#[tokio::test]
async fn whoever_may_no_longer_talk_is_not_served_by_timers() {
    let nobody = || Access { users: Default::default(), ..access() };
    let demoted =
        || Access { users: [ALICE, BOB].map(|user| user.parse().unwrap()).into(), ..Access::default() };
    for (who, access, why) in [(BOB, nobody(), "is on no list"), (ALICE, demoted(), "has a lesser role")] {
        let world = World::new();
        let stage = world.start().await;
        let room = stage.rooms.create_direct(who, AGENT);
        stage.ask_as(who, &room, "/at tea 60 once").await;
        stage.ask_as(who, &room, "/every minutely UTC once * * * * *").await;
        stage.stop().await;
        let stage = world.start_as(access, granted(may()), &[("timers", guest("timers"))]).await;
        world.later(MINUTE);
        let said = stage.noticed(why).await.to_string();
        let expected = format!(
            "agent agent: a timer of plugin timers that {who} set in {room}: not handled: whoever set it "
        );
        assert!(said.starts_with(&expected), "{said}");
        until_gone(&world, &room, "tea").await;
        // The next minute says nothing new; and what comes again is there when they are.
        world.later(2 * MINUTE);
        stage.stop().await;
        assert!(world.fired(&room).is_empty());
        let stage = world.start().await;
        world.later(3 * MINUTE);
        let said = until_fired(&stage, &room, 1).await;
        assert!(said[0].starts_with("minutely "), "{said:?}");
    }
}

#[tokio::test]
async fn a_timer_has_no_more_rights_than_when_it_was_set() {
    let world = World::new();
    let stage = world.start().await;
    let room = stage.rooms.create_direct(BOB, AGENT);
    stage.ask_as(BOB, &room, "/at tea 60 once").await;
    stage.stop().await;
    let promoted = Access { admins: [BOB.parse().unwrap()].into(), ..Access::default() };
    let stage = world.start_as(promoted, granted(may()), &[("timers", guest("timers"))]).await;
    assert_eq!(stage.ask_as(BOB, &room, "/admin").await, "yes");
    world.later(MINUTE);
    assert!(until_fired(&stage, &room, 1).await[0].contains(&format!("{BOB} (user)")));
}

#[tokio::test]
async fn a_plugin_without_the_grant_has_no_timers() {
    let world = World::new();
    let stage = world.start().await;
    stage.ask("/at tea 60 once").await;
    stage.stop().await;
    let stage = world.start_as(access(), granted(Grants::default()), &[("timers", guest("timers"))]).await;
    assert_eq!(stage.ask("/list").await, "/list: the grant `timers` is missing");
    assert_eq!(stage.ask("/at tea 60 once").await, "/at: the grant `timers` is missing");
    world.later(MINUTE);
    stage.noticed("not handled: the plugin does not have the grant `timers`").await;
    stage.stop().await;
    assert!(world.fired(&world.room).is_empty());
}

#[tokio::test]
async fn a_room_that_the_agent_has_left_gets_nothing() {
    let world = World::new();
    let stage = world.start().await;
    let room = stage.rooms.create([ALICE, AGENT]);
    stage.ask_as(ALICE, &room, "!at tea 60 once").await;
    stage.rooms.member(AGENT, &room, Membership::Left);
    world.later(MINUTE);
    stage.noticed(&format!("set in {room}: not handled: the agent has left the room")).await;
    assert_eq!(stage.ask("/list").await, "nothing");
    assert!(world.fired(&room).is_empty());
}

#[tokio::test]
async fn timers_wait_for_their_plugin() {
    let world = World::new();
    let stage = world.start().await;
    stage.ask("/at tea 60 once").await;
    stage.ask("/every daily UTC skip 0 9 * * *").await;
    stage.stop().await;
    world.later(DAY);
    for (guests, why) in [
        (vec![("echo", example("echo"))], "timers of plugin timers wait: it is not there"),
        (vec![("timers", example("echo"))], "timers of plugin timers wait: it does not export `timers`"),
    ] {
        let stage = world.start_as(access(), granted(may()), &guests).await;
        stage.noticed(why).await;
        assert_eq!(stage.ask("/echo still here").await, "still here");
        stage.stop().await;
    }
    let stage = world.start().await;
    let said = until_fired(&stage, &world.room, 1).await;
    assert!(said[0].starts_with(&format!("tea : due {}", NOON + MINUTE)), "{said:?}");
    assert_eq!(stage.ask("/list").await, format!("daily {}", NOON + DAY + 21 * HOUR));
}

/// The plugin's file goes and comes back while the host runs, and the clock stands still.
#[tokio::test]
async fn timers_are_handled_as_soon_as_their_plugin_is_back() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("timers.wasm");
    std::fs::write(&file, guest("timers")).unwrap();
    let agent = Agent::new("agent".parse().unwrap(), world.rooms.account(AGENT)).access(access());
    let stage = Stage::start_with(world.rooms.clone(), world.room.clone(), agent, &[], |builder| {
        builder
            .clock(world.clock.clone())
            .plugin_folder(folder.path())
            .plugin_settings("timers".parse().unwrap(), granted(may()))
    })
    .await;
    stage.ask("/at tea 60 once").await;
    std::fs::remove_file(&file).unwrap();
    stage.noticed("plugin timers: removed").await;
    world.later(MINUTE);
    stage.noticed("timers of plugin timers wait").await;
    std::fs::write(folder.path().join("new"), guest("timers")).unwrap();
    std::fs::rename(folder.path().join("new"), &file).unwrap();
    until_fired(&stage, &world.room, 1).await;
}

/// The plugin goes while its timer waits for its turn.
#[tokio::test]
async fn a_timer_that_nobody_could_handle_is_handled_later() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("timers.wasm");
    std::fs::write(&file, guest("timers")).unwrap();
    let agent = Agent::new("agent".parse().unwrap(), world.rooms.account(AGENT)).access(access());
    let journal = Sqlite::open(world.folder.path().join("journal.db")).unwrap();
    let guests = [("naughty", guest("naughty"))];
    let stage = Stage::start_with(world.rooms.clone(), world.room.clone(), agent, &guests, |builder| {
        builder
            .clock(world.clock.clone())
            .journal(journal)
            .plugin_folder(folder.path())
            .plugin_settings("timers".parse().unwrap(), granted(may()))
    })
    .await;
    stage.ask("/at tea 60 once").await;
    stage.ask("/every minutely UTC all * * * * *").await;
    let waiting = stage.rooms.say(ALICE, &world.room, "/wait");
    stage.until_read(&world.room, &waiting).await;
    world.later(3 * MINUTE);
    until_gone(&world, &world.room, "tea").await;
    until(&world, &world.room, |timers| timers.iter().all(|timer| timer.next == NOON + 4 * MINUTE)).await;
    std::fs::remove_file(&file).unwrap();
    stage.noticed("plugin timers: removed").await;
    stage.rooms.say(ALICE, &world.room, "/stop");
    assert_eq!(stage.answer_to(&world.room, &waiting).await.text, "Stopped.");
    stage.noticed(&format!("set in {}: waits: the plugin is not there", world.room)).await;
    std::fs::write(folder.path().join("new"), guest("timers")).unwrap();
    std::fs::rename(folder.path().join("new"), &file).unwrap();
    let mut said = until_fired(&stage, &world.room, 4).await;
    said.sort_unstable();
    let said: Vec<_> = said.iter().map(|line| line.split(',').next().unwrap()).collect();
    let due = |minute| format!("minutely : due {}", NOON + minute * MINUTE);
    assert_eq!(said, [due(1), due(2), due(3), format!("tea : due {}", NOON + MINUTE)]);
}

/// Nobody has asked when a timer is due: what is said then has its share of a minute.
#[tokio::test]
async fn timers_say_no_more_within_a_minute_than_anything_else() {
    let clock = Clock::by_hand(NOON);
    let stage = Stage::start(&[("timers", guest("timers"))], |builder| {
        let limits = Limits { messages: NonZeroU32::new(2).unwrap(), ..Limits::default() };
        let plugin = granted(may());
        builder.clock(clock.clone()).limits(limits).plugin_settings("timers".parse().unwrap(), plugin)
    })
    .await;
    for number in 1..=3 {
        stage.ask(&format!("/at tea{number} 60 once")).await;
    }
    clock.set(NOON + MINUTE);
    assert_eq!(until_fired(&stage, &stage.room, 2).await.len(), 2);
    stage.noticed("this plugin says too much in one room within a minute").await;
}

#[tokio::test]
async fn stop_ends_a_timers_handler_too() {
    let world = World::new();
    let guests = [("timers", guest("timers"))];
    let busy = Plugin { config: [("busy".into(), true.into())].into(), ..granted(may()) };
    let stage = world.start_as(access(), busy, &guests).await;
    stage.ask("/at tea 60 once wait").await;
    world.later(MINUTE);
    until_gone(&world, &world.room, "tea").await;
    // Whether it runs by now or is about to.
    let lines = loop {
        let stop = stage.rooms.say(ALICE, &world.room, "/stop");
        let answer = stage.answer_to(&world.room, &stop).await.text;
        if answer == "Stopped." {
            break stage.rooms.transcript(&world.room);
        }
        assert_eq!(answer, "Nothing is running.");
    };
    assert!(lines.iter().all(|line| !line.text.contains(": due ")));
    assert_eq!(stage.ask("/list").await, "nothing");
}

#[tokio::test]
async fn a_timer_that_faults_ends_alone_and_nothing_of_it_is_kept() {
    let world = World::new();
    let stage = world.start().await;
    for (number, what) in (1..).zip(["trap", "fail", "loop", "again"]) {
        stage.ask(&format!("/at {what} {number} once {what}")).await;
    }
    world.later(10 * SECOND);
    until_fired(&stage, &world.room, 1).await;
    let said: Vec<_> = stage.rooms.transcript(&world.room).into_iter().map(|line| line.text).collect();
    for expected in ["Stopped: it crashed", "It is no use", "Stopped: it used up its 1 s of CPU time"] {
        assert!(said.iter().any(|line| line.starts_with(expected)), "{expected}: {said:#?}");
    }
    // One that sets itself again is set from then on.
    assert_eq!(stage.ask("/list").await, format!("again {} again", NOON + 10 * SECOND + MINUTE));
    for minute in 1..=3 {
        world.clock.set(NOON + 10 * SECOND + minute * MINUTE);
        until_fired(&stage, &world.room, minute as usize + 1).await;
    }
}

#[tokio::test]
async fn what_cannot_be_set_is_said_in_one_line() {
    let world = World::new();
    let stage = world.start().await;
    let said = stage.ask("/wrong").await;
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 13, "{said}");
    for (line, expected) in lines.iter().zip([
        "a time that is not past, and at most 366 days ahead",
        "a time that is not past, and at most 366 days ahead",
        "a time that is not past, and at most 366 days ahead",
        "a time that is not past, and at most 366 days ahead",
        "TooLarge: a timer's payload has at most 4 KiB",
        "a timer's name has 1 to 128 bytes",
        "a timer's name has 1 to 128 bytes",
        "a timer's name has 1 to 128 bytes",
        "is not five fields of cron such as 0 9 * * mon: there are not five",
        "is not five fields of cron such as 0 9 * * mon: there are not five",
        "\"0 0 31 2 *\" is not due within 366 days",
        "is not five fields of cron",
        "\"Nowhere\" is not a time zone such as Europe/Berlin or UTC",
    ]) {
        assert!(line.contains(expected), "{line}\n{expected}");
    }
    assert_eq!(stage.ask("/list").await, "nothing");
}

/// `remind`, on Monday at noon in UTC.
#[tokio::test]
async fn remind_reminds() {
    let clock = Clock::by_hand(NOON);
    let config = [("timezone".to_owned(), "Europe/Berlin".into())].into();
    let stage = Stage::start(&[("remind", example("remind"))], |builder| {
        let plugin = Plugin { config, ..granted(may()) };
        builder.clock(clock.clone()).plugin_settings("remind".parse().unwrap(), plugin)
    })
    .await;
    for (asked, answer) in [
        ("/reminders", "I have nothing to remind you of here."),
        ("/remind in 10m tea", "I will remind you on Monday, 5 January at 13:10 (Europe/Berlin)."),
        (
            "/remind tomorrow 9:00 call Bob",
            "I will remind you on Tuesday, 6 January at 09:00 (Europe/Berlin).",
        ),
        (
            "/remind every monday 9:00 stand-up",
            "I will remind you every Monday at 09:00 (Europe/Berlin), next on Monday, 12 January at 09:00.",
        ),
        (
            "/remind every tuesday 7am rubbish",
            "I will remind you every Tuesday at 07:00 (Europe/Berlin), next on Tuesday, 6 January at 07:00.",
        ),
        (
            "/remind tomorow tea",
            "/remind: I do not know when that is; try /remind in 10m tea, /remind tomorrow 9:00 call Bob, or /remind every monday 9:00 stand-up",
        ),
        (
            "/reminders",
            "In Europe/Berlin:\n1. Monday, 5 January at 13:10: tea\n2. Tuesday, 6 January at 07:00: rubbish (every Tuesday at 07:00)\n\
             3. Tuesday, 6 January at 09:00: call Bob\n4. Monday, 12 January at 09:00: stand-up (every Monday at 09:00)",
        ),
        ("/forget 3", "I will not remind you of this: call Bob"),
        ("/forget 9", "/forget: there is no reminder 9; the last is 3"),
        (
            "/remind timezone Nowhere",
            "/remind: \"Nowhere\" is no time zone; try /remind timezone Europe/Berlin",
        ),
        ("/remind timezone America/New_York", "Your time zone is America/New_York, where it is 07:00."),
    ] {
        assert_eq!(stage.ask(asked).await, answer, "{asked}");
    }
    clock.set(NOON + 10 * MINUTE);
    stage.until(&stage.room, |lines| lines.iter().any(|line| line.text == "Reminder: tea")).await;
    // In a room, others see it too; and it says so when it is late.
    let room = stage.rooms.create([BOB, AGENT]);
    stage.rooms.call(BOB, "Bob");
    stage.ask_as(BOB, &room, "!remind me in 1h to eat").await;
    clock.set(NOON + 2 * HOUR);
    let late = |lines: &[parlour::chat::memory::Line]| {
        lines.iter().any(|line| line.text == "Bob: Reminder: eat (this was for Monday, 5 January at 14:10)")
    };
    stage.until(&room, late).await;
    assert_eq!(stage.ask("/reminders").await.lines().count(), 3, "those that come again are still there");
}
