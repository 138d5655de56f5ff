//! Random calls, from a world so small that they meet: every backend gives the same answers, number for number,
//! and ends in the same state, also if the file is closed and opened again in between.

use std::fmt::Debug;

use proptest::{collection::vec, option, prelude::*};

use super::*;
use crate::{
    effect::EffectId,
    event::MediaSource,
    journal::{Decision, Error, KeyQuery, Moved, Queued, Release, Sent},
};

#[derive(Debug, Clone)]
enum Call {
    Receive {
        agent: usize,
        arrivals: Vec<(usize, usize, Manner)>,
    },
    Commit {
        agent: usize,
        sequence: i64,
        delivery: usize,
        plugin: Option<usize>,
        does: Does,
        ends: bool,
    },
    /// What became of the effect that was queued as this one.
    Sent {
        agent: usize,
        effect: usize,
        event: Option<usize>,
    },
    Announce {
        agent: usize,
        delivery: usize,
    },
    Stage {
        agent: usize,
        effect: usize,
    },
    Draft {
        agent: usize,
        delivery: usize,
        event: Option<usize>,
    },
    /// A timer that is due, if there is one, becomes an event.
    Fire {
        agent: usize,
        next: Option<u64>,
        refused: bool,
    },
    /// Reads, for the commits that follow.
    Look {
        key: usize,
    },
    List {
        prefix: usize,
        limit: u32,
    },
    LookAtTimers,
    /// A version takes over, and moves a key or none.
    TakeOver {
        digest: usize,
        on_trial: bool,
        moves: Option<usize>,
    },
    Decide(usize),
    Reopen,
}

#[derive(Debug, Clone, Copy)]
enum Manner {
    Allowed,
    Refused,
    Encrypted,
}

#[derive(Debug, Clone)]
struct Does {
    effects: Vec<usize>,
    writes: Vec<(usize, Option<u8>)>,
    /// The last effect and the last write are those of a tool of this plugin.
    tool: Option<usize>,
    /// How many of the newest reads it rests on.
    reads: usize,
    /// Which version of the plugin it is.
    digest: Option<usize>,
}

const AGENTS: usize = 2;
const DELIVERIES: usize = 5;
const PLUGINS: [&str; 2] = ["echo", "assistant"];
const KEYS: [&str; 4] = ["a", "a/b", "a/c", "b"];

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let agent = 0..AGENTS;
    let manner = prop_oneof![Just(Manner::Allowed), Just(Manner::Refused), Just(Manner::Encrypted)];
    let writes = vec((0..KEYS.len(), option::of(0..3_u8)), 0..3);
    let does =
        (vec(0..9_usize, 0..4), writes, option::of(0..PLUGINS.len()), 0..3_usize, option::of(0..3_usize))
            .prop_map(|(effects, writes, tool, reads, digest)| Does { effects, writes, tool, reads, digest });
    let take_over = (0..3_usize, any::<bool>(), option::of(0..KEYS.len()))
        .prop_map(|(digest, on_trial, moves)| Call::TakeOver { digest, on_trial, moves });
    let decide = (0..5_usize).prop_map(Call::Decide);
    let receive = (agent.clone(), vec((0..8_usize, 0..2_usize, manner), 0..4))
        .prop_map(|(agent, arrivals)| Call::Receive { agent, arrivals });
    let commit = (agent.clone(), 0..8_i64, 0..DELIVERIES, option::of(0..PLUGINS.len()), does, any::<bool>())
        .prop_map(|(agent, sequence, delivery, plugin, does, ends)| Call::Commit {
            agent,
            sequence,
            delivery,
            plugin,
            does,
            ends,
        });
    let sent = (agent.clone(), 0..10_usize, option::of(0..4_usize))
        .prop_map(|(agent, effect, event)| Call::Sent { agent, effect, event });
    let stage = (agent.clone(), 0..10_usize).prop_map(|(agent, effect)| Call::Stage { agent, effect });
    let announce =
        (agent.clone(), 0..DELIVERIES).prop_map(|(agent, delivery)| Call::Announce { agent, delivery });
    let fire = (agent.clone(), option::of(10..13_u64), any::<bool>())
        .prop_map(|(agent, next, refused)| Call::Fire { agent, next, refused });
    let draft = (agent, 0..DELIVERIES, option::of(0..4_usize))
        .prop_map(|(agent, delivery, event)| Call::Draft { agent, delivery, event });
    let look = (0..KEYS.len()).prop_map(|key| Call::Look { key });
    let list = (0..KEYS.len(), 0..4_u32).prop_map(|(prefix, limit)| Call::List { prefix, limit });
    let call = prop_oneof![
        4 => receive, 8 => commit, 3 => sent, 1 => stage, 2 => draft, 1 => announce, 2 => look, 1 => list, 3 => fire,
        1 => Just(Call::LookAtTimers), 2 => take_over, 2 => decide, 1 => Just(Call::Reopen)
    ];
    vec(call, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]
    #[test]
    fn all_backends_answer_alike(calls in calls()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(play(&calls));
    }
}

async fn play(calls: &[Call]) {
    let folder = tempfile::tempdir().unwrap();
    let open = || Sqlite::open(folder.path().join("journal.db")).unwrap();
    let memory = Memory::default();
    let mut sqlite = open();
    let (mut theirs, mut ours) = (Seen::default(), Seen::default());
    for call in calls {
        if matches!(call, Call::Reopen) {
            drop(sqlite);
            sqlite = open();
        }
        let answer = answer(&memory, &mut theirs, call).await;
        assert_eq!(answer, self::answer(&sqlite, &mut ours, call).await, "to {call:?}");
    }
    for agent in 0..AGENTS {
        assert_eq!(
            state(&memory, &theirs, &name(agent)).await,
            state(&sqlite, &ours, &name(agent)).await,
            "of {}",
            name(agent)
        );
    }
}

fn name(agent: usize) -> AgentName {
    [self::agent(), other_agent()][agent].clone()
}

fn base(n: usize) -> DeliveryId {
    delivery(&format!("d{n}"))
}

fn numbered(n: usize) -> EventId {
    event(&format!("${n}"))
}

fn arrival(&(id, lane, manner): &(usize, usize, Manner)) -> Arrival {
    let mut arrival = in_lane(&format!("${id}"), &format!("lane{lane}"));
    arrival.event.room.id = room(&format!("!{lane}"));
    match manner {
        Manner::Allowed => {}
        Manner::Refused => arrival.verdict = Verdict::Deny(Denial::NotListed),
        Manner::Encrypted => arrival.event.room.encrypted = true,
    }
    arrival
}

/// One of the effects, for a delivery.
fn effect(which: usize, delivery: usize) -> Effect {
    let timer = |key: usize| {
        let id = format!("d{delivery}.{key}");
        timers::set_timer(&timers::timer(&id, "lane0", KEYS[key], 10 + key as u64))
    };
    match which {
        0 => message("x"),
        1 => named("n"),
        2 => takes_draft(),
        3 => named("m"),
        4 => file(b"x", Some("n")),
        5 => timer(0),
        6 => timer(1),
        7 => Effect::CancelTimer { session: session("lane0"), key: KEYS[0].into() },
        _ => Effect::SetHome(home(&format!("!{delivery}"), None)),
    }
}

impl Does {
    fn contributions(
        &self,
        plugin: Option<usize>,
        delivery: usize,
        reads: Vec<Read>,
    ) -> (Contribution, Vec<Contribution>) {
        let effects = self.effects.iter().map(|it| effect(*it, delivery));
        let write = |(key, value): &(usize, Option<u8>)| Write {
            namespace: own(),
            key: KEYS[*key].into(),
            value: value.map(|value| vec![value]),
        };
        let mut contribution = Contribution {
            plugin: plugin.map(|it| self::plugin(PLUGINS[it])),
            digest: self.digest.map(|it| it.to_string()),
            outcome: Outcome::Done,
            effects: (0..).zip(effects).collect(),
            files: vec![blob(b"x")],
            writes: self.writes.iter().map(write).collect(),
            reads,
        };
        let tools = self.tool.map(|of| Contribution {
            plugin: Some(self::plugin(PLUGINS[of])),
            digest: self.digest.map(|it| it.to_string()),
            outcome: Outcome::Done,
            effects: contribution.effects.pop().into_iter().collect(),
            files: vec![blob(b"x")],
            writes: contribution.writes.pop().into_iter().collect(),
            reads: Vec::new(),
        });
        (contribution, tools.into_iter().collect())
    }
}

/// What a journal has answered, for the calls that follow.
#[derive(Default)]
struct Seen {
    reads: Vec<Read>,
    /// Of the effects that were queued, in order.
    rows: Vec<i64>,
}

impl Seen {
    fn queued(&mut self, queued: Result<Vec<Queued>, Error>) -> String {
        self.rows.extend(queued.iter().flatten().map(|queued| queued.row));
        told(queued)
    }

    /// One that was never queued has a number of none.
    fn row(&self, effect: usize) -> i64 {
        self.rows.get(effect).copied().unwrap_or(i64::MAX)
    }
}

async fn answer(journal: &dyn Journal, seen: &mut Seen, call: &Call) -> String {
    let looked = &mut seen.reads;
    match call {
        Call::Receive { agent, arrivals } => {
            let arrivals: Vec<_> = arrivals.iter().map(arrival).collect();
            let position = Position(format!("{arrivals:?}"));
            told(journal.receive(&name(*agent), &arrivals, &position).await)
        }
        Call::Commit { agent, sequence, delivery, plugin, does, ends } => {
            let reads = looked.iter().rev().take(does.reads).cloned().collect();
            let (contribution, tools) = does.contributions(*plugin, *delivery, reads);
            let commit = Commit {
                agent: name(*agent),
                sequence: Sequence(*sequence),
                delivery: base(*delivery),
                contribution,
                tools,
                ends_event: *ends,
                line: None,
                learnt: None,
            };
            seen.queued(journal.commit(commit).await)
        }
        Call::Sent { agent, effect, event } => {
            let sent = event.map_or_else(
                || Sent::GivenUp("no".into()),
                |it| Sent::Accepted { event: numbered(it), room: room("!1") },
            );
            told(journal.sent(&name(*agent), seen.row(*effect), &sent).await)
        }
        Call::Stage { agent, effect } => {
            let (source, row) = (MediaSource::new(format!("at {effect}")), seen.row(*effect));
            told(journal.stage(&name(*agent), row, &source).await)
        }
        Call::Announce { agent, delivery } => {
            let queued = journal.announce(&name(*agent), &base(*delivery), vec![message("by itself")]).await;
            seen.queued(queued)
        }
        Call::Draft { agent, delivery, event } => {
            told(journal.draft(&name(*agent), &base(*delivery), event.map(numbered).as_ref()).await)
        }
        Call::Look { key } => {
            looked.push(read(journal, KEYS[*key]).await);
            told(looked.last())
        }
        Call::List { prefix, limit } => {
            let query = KeyQuery { prefix: KEYS[*prefix].into(), after: None, limit: *limit };
            let found = journal.keys(&own(), &query).await.unwrap();
            looked.push(Read::Keys { namespace: own(), query, found });
            told(looked.last())
        }
        Call::Fire { agent, next, refused } => {
            let timers = journal.due_timers(&name(*agent), &plugin(PLUGINS[0]), 11, 10).await.unwrap();
            let Some(timer) = timers.first() else { return told(timers) };
            let mut arrival = timers::due(&format!("$t{}{}", timer.id, timer.next), timer);
            if *refused {
                arrival.verdict = Verdict::Deny(Denial::Role);
            }
            told((journal.fire(&name(*agent), timer, *next, Some(&arrival)).await, timers))
        }
        Call::LookAtTimers => {
            let (agent, plugin, session) = (name(0), plugin(PLUGINS[0]), session("lane0"));
            let found = journal.timers(&agent, &plugin, &session).await.unwrap();
            looked.push(Read::Timers { agent, plugin, session, found });
            told(looked.last())
        }
        Call::TakeOver { digest, on_trial, moves } => {
            let (of, release) = (own(), Release { digest: digest.to_string(), version: None });
            let mut moved = moves.map(|_| vec![]);
            for agent in journal.remembering(&of.plugin).await.unwrap() {
                let now = journal.remembered(&agent, &of.plugin, false).await.unwrap();
                let seen = now.into_iter().map(|it| (it.namespace, it.key, it.stored.version)).collect();
                let writes = moves.filter(|_| agent == of.agent).map(|key| set(KEYS[key], "moved"));
                if let Some(moved) = &mut moved {
                    moved.push(Moved { agent, seen, writes: writes.into_iter().collect() });
                }
            }
            told(journal.take_over(&of.plugin, &release, *on_trial, moved).await)
        }
        Call::Decide(how) => {
            let how = [
                Decision::Accepted,
                Decision::RolledBack,
                Decision::Superseded,
                Decision::Withdrawn,
                Decision::Forgiven,
            ][*how];
            told(journal.decide(&own().plugin, how).await)
        }
        Call::Reopen => String::new(),
    }
}

/// All that can be asked, one answer a line.
async fn state(journal: &dyn Journal, seen: &Seen, agent: &AgentName) -> String {
    let mut all = vec![
        told(journal.position(agent).await),
        told(journal.pending(agent, None, None, 100).await),
        told(journal.unsent(agent).await),
        told(journal.home(agent).await),
        told(journal.backlog(agent).await),
        told(journal.next_timers(agent).await),
        told(journal.timers(agent, &plugin(PLUGINS[0]), &session("lane0")).await),
        told(journal.timer_count(agent, &plugin(PLUGINS[0])).await),
    ];
    for lane in ["0", "1"] {
        all.push(told(journal.was_encrypted(agent, &room(&format!("!{lane}"))).await));
        all.push(told(
            journal.pending(agent, Some(&session(&format!("lane{lane}"))), Some(Sequence(1)), 2).await,
        ));
    }
    for delivery in (0..DELIVERIES).map(base) {
        all.push(told(journal.drafted(agent, &delivery).await));
        all.push(told(journal.blob(agent, &delivery, &blob(b"x").digest).await));
        for ordinal in [None, Some(0), Some(1), Some(2), Some(3)] {
            all.push(told(journal.event_of(agent, &EffectId { delivery: delivery.clone(), ordinal }).await));
        }
    }
    for row in &seen.rows {
        // A source does not show itself.
        let staged = journal.staged(agent, *row).await.unwrap();
        all.push(told(staged.map(|staged| staged.as_str().to_owned())));
    }
    for plugin in PLUGINS {
        all.push(told(journal.blobs(agent, &self::plugin(plugin)).await));
        all.push(told(journal.named(agent, &self::plugin(plugin), "n").await));
        all.push(told(journal.named(agent, &self::plugin(plugin), "m").await));
    }
    for event in (0..8).map(numbered) {
        all.push(told(journal.known(agent, &event).await));
    }
    for plugin in PLUGINS {
        all.push(told(journal.versions(&self::plugin(plugin)).await));
        all.push(told(journal.remembering(&self::plugin(plugin)).await));
        for before in [false, true] {
            all.push(told(journal.remembered(agent, &self::plugin(plugin), before).await));
        }
    }
    for key in KEYS {
        all.push(told(journal.get(&own(), key).await));
    }
    all.join("\n")
}

fn told(answer: impl Debug) -> String {
    format!("{answer:?}")
}
