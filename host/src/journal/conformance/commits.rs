//! All of it or nothing, once, and only if what was read still holds.

use super::*;
use crate::journal::{Error, KeyQuery, Named, Sent};

pub(super) async fn a_plugin_that_ended_is_not_asked_again(journal: Ledger) {
    let sequence = arrive(&*journal, "$1").await;
    let another = arrive(&*journal, "$2").await;
    for (id, name) in [("d1", Some("echo")), ("d2", Some("assistant")), ("d3", None), ("d4", Some("echo"))] {
        let mut goes_on = Commit { ends_event: false, ..ends(sequence, id) };
        goes_on.contribution.plugin = name.map(plugin);
        journal.commit(goes_on).await.unwrap();
    }
    let found = journal.pending(&agent(), None, None, 10).await.unwrap();
    assert_eq!(found[0].ended, [plugin("echo"), plugin("assistant")]);
    assert_eq!(found[1].sequence, another);
    assert!(found[1].ended.is_empty());
}

pub(super) async fn it_is_known_whether_those_that_ended_said_anything(journal: Ledger) {
    let said = async || {
        let found = journal.pending(&agent(), None, None, 10).await.unwrap();
        found.iter().map(|pending| pending.said).collect::<Vec<_>>()
    };
    let [first, second] = [arrive(&*journal, "$1").await, arrive(&*journal, "$2").await];
    let goes_on = |sequence, id| Commit { ends_event: false, ..ends(sequence, id) };
    journal.commit(writes(goes_on(first, "d1"), [set("k", "v")])).await.unwrap();
    assert_eq!(said().await, [false, false]);
    let queued = journal.commit(says(goes_on(second, "d2"), [message("x")])).await.unwrap();
    assert_eq!(said().await, [false, true]);
    journal.sent(&agent(), queued[0].row, &Sent::GivenUp("no".into())).await.unwrap();
    assert_eq!(said().await, [false, true], "it was about to be sent");
    journal.commit(helps(goes_on(first, "d3"), "roll", [message("rolled")])).await.unwrap();
    assert_eq!(said().await, [true, true]);
}

pub(super) async fn what_tools_did_is_part_of_the_commit_and_their_own(journal: Ledger) {
    let sequence = arrive(&*journal, "$1").await;
    let commit =
        helps(says(ends(sequence, "d1"), [message("before")]), "roll", [named("n"), message("rolled")]);
    let mut commit = says(commit, [named("n")]);
    let theirs = Namespace { plugin: plugin("roll"), ..own() };
    let write = Write { namespace: theirs.clone(), key: "k".into(), value: Some(b"1".to_vec()) };
    commit.tools[0].writes.push(write);
    // The tool's plugin may be asked about the event, too.
    let queued = journal.commit(Commit { ends_event: false, ..commit }).await.unwrap();
    assert_eq!(journal.pending(&agent(), None, None, 10).await.unwrap()[0].ended, [plugin("echo")]);
    assert_eq!(journal.unsent(&agent()).await.unwrap(), queued);
    let of: Vec<_> = queued.iter().map(|it| (it.id.ordinal.unwrap(), it.plugin.clone().unwrap())).collect();
    assert_eq!(of, [(0, "echo"), (1, "roll"), (2, "roll"), (3, "echo")].map(|(n, name)| (n, plugin(name))));
    assert_eq!(journal.get(&theirs, "k").await.unwrap().unwrap().value, b"1");
    assert_eq!(journal.get(&own(), "k").await.unwrap(), None);

    // One name, of two plugins: waiting, and sent.
    for sent in [false, true] {
        for (at, of) in [(1, "roll"), (3, "echo")] {
            if sent {
                let accepted = Sent::Accepted { event: event(&format!("${of}")), room: room("!room") };
                journal.sent(&agent(), queued[at].row, &accepted).await.unwrap();
                let known = journal.known(&agent(), &event(&format!("${of}"))).await.unwrap().unwrap();
                assert_eq!(known.by, Some(plugin(of)));
            }
            match journal.named(&agent(), &plugin(of), "n").await.unwrap().unwrap() {
                Named::Waiting { id, .. } => assert!(!sent && id == queued[at].id, "{of}"),
                Named::Sent { event, .. } => assert!(sent && event.as_str() == format!("${of}"), "{of}"),
            }
        }
    }
}

pub(super) async fn what_a_tool_read_is_checked_too(journal: Ledger) {
    remember(&*journal, "0", [set("k", "1")]).await;
    let stale = read(&*journal, "k").await;
    remember(&*journal, "1", [set("k", "2")]).await;
    let sequence = arrive(&*journal, "$2").await;
    let mut commit = helps(says(ends(sequence, "d2"), [message("x")]), "roll", [message("rolled")]);
    commit.tools[0].reads.push(stale);
    commit.tools[0].writes.push(set("new", "1"));
    assert!(matches!(journal.commit(commit.clone()).await, Err(Error::Conflict)));
    assert!(journal.unsent(&agent()).await.unwrap().is_empty());
    assert_eq!(journal.get(&own(), "new").await.unwrap(), None);
    assert_eq!(pending(&*journal).await, ["$2"]);
    commit.tools[0].reads = vec![read(&*journal, "k").await];
    assert_eq!(journal.commit(commit).await.unwrap().len(), 2);
}

pub(super) async fn the_host_can_end_an_event(journal: Ledger) {
    let sequence = arrive(&*journal, "$1").await;
    let mut nobody_wants_it = says(ends(sequence, "d1"), [message("no such command")]);
    nobody_wants_it.contribution.plugin = None;
    let queued = journal.commit(nobody_wants_it).await.unwrap();
    assert_eq!(queued[0].plugin, None);
    assert_eq!(journal.unsent(&agent()).await.unwrap(), queued);
    assert!(pending(&*journal).await.is_empty());
}

pub(super) async fn an_event_ends_however_a_delivery_ends(journal: Ledger) {
    for (n, outcome) in
        [Outcome::Done, Outcome::Refused, Outcome::Faulted, Outcome::Cancelled].into_iter().enumerate()
    {
        let sequence = arrive(&*journal, &format!("${n}")).await;
        let mut commit = ends(sequence, &format!("d{n}"));
        commit.contribution.outcome = outcome;
        journal.commit(commit).await.unwrap();
        assert!(pending(&*journal).await.is_empty(), "{outcome:?}");
    }
}

pub(super) async fn a_delivery_is_committed_once(journal: Ledger) {
    let sequence = arrive(&*journal, "$1").await;
    let commit = writes(says(ends(sequence, "d1"), [message("once")]), [set("k", "1")]);
    let queued = journal.commit(commit.clone()).await.unwrap();
    assert_eq!(queued.len(), 1);
    let stored = journal.get(&own(), "k").await.unwrap();

    assert!(journal.commit(commit.clone()).await.unwrap().is_empty());
    // Even if what it says is another thing, or no longer true: it has happened.
    let stale = Read::Key { namespace: own(), key: "k".into(), version: None };
    let home = Effect::SetHome(home("!room", None));
    let changed = reads(writes(says(commit, [home]), [set("k", "2")]), [stale]);
    assert!(journal.commit(changed).await.unwrap().is_empty());
    assert_eq!(journal.unsent(&agent()).await.unwrap(), queued);
    assert_eq!(journal.get(&own(), "k").await.unwrap(), stored);
    assert_eq!(journal.home(&agent()).await.unwrap(), None);

    let second = arrive(&*journal, "$2").await;
    assert!(journal.commit(ends(second, "d1")).await.unwrap().is_empty());
    assert_eq!(pending(&*journal).await, ["$2"], "nothing has changed");
}

pub(super) async fn a_delivery_of_an_event_that_never_came_fails(journal: Ledger) {
    let error = journal.commit(ends(Sequence(7), "d0")).await.unwrap_err();
    assert!(matches!(error, Error::Storage(_)));
    let sequence = arrive(&*journal, "$1").await;
    let never = writes(says(ends(Sequence(sequence.0 + 1), "d1"), [message("x")]), [set("k", "1")]);
    let error = journal.commit(never).await.unwrap_err();
    assert_eq!(error.to_string(), format!("agent researcher never received an event {}", sequence.0 + 1));
    assert!(journal.unsent(&agent()).await.unwrap().is_empty());
    assert_eq!(journal.get(&own(), "k").await.unwrap(), None);
    assert_eq!(journal.commit(says(ends(sequence, "d1"), [message("x")])).await.unwrap().len(), 1);
}

pub(super) async fn a_delivery_of_an_event_that_has_ended_is_kept(journal: Ledger) {
    let sequence = arrive(&*journal, "$1").await;
    journal.commit(ends(sequence, "d1")).await.unwrap();
    let late = writes(says(ends(sequence, "d2"), [message("late")]), [set("k", "1")]);
    assert_eq!(journal.commit(late).await.unwrap().len(), 1);
    assert!(journal.get(&own(), "k").await.unwrap().is_some());
    assert!(pending(&*journal).await.is_empty());
}

pub(super) async fn a_changed_value_is_a_conflict(journal: Ledger) {
    remember(&*journal, "0", [set("changes", "1"), set("goes", "1"), set("returns", "1"), set("stays", "1")])
        .await;
    let mut found = Vec::new();
    for key in ["changes", "goes", "returns", "comes", "stays", "never"] {
        found.push((key, read(&*journal, key).await));
    }
    remember(&*journal, "1", [set("changes", "2"), delete("goes"), delete("returns"), set("comes", "1")])
        .await;
    remember(&*journal, "2", [set("returns", "1")]).await;

    let sequence = arrive(&*journal, "$3").await;
    for (key, read) in found {
        let commit = Commit { ends_event: false, ..reads(ends(sequence, key), [read]) };
        match journal.commit(commit).await {
            Ok(_) => assert!(["stays", "never"].contains(&key), "{key}: no conflict"),
            Err(Error::Conflict) => assert!(!["stays", "never"].contains(&key), "{key}: a conflict"),
            Err(error) => panic!("{key}: {error}"),
        }
    }
}

pub(super) async fn a_changed_list_is_a_conflict(journal: Ledger) {
    remember(&*journal, "0", [set("a/1", "x"), set("a/2", "x"), set("a/3", "x"), set("b", "x")]).await;
    let query = KeyQuery { prefix: "a/".into(), after: None, limit: 2 };
    let found = journal.keys(&own(), &query).await.unwrap();
    let listed = Read::Keys { namespace: own(), query, found };

    let sequence = arrive(&*journal, "$again").await;
    let mut tries = 0;
    let mut again = async || {
        tries += 1;
        let commit = ends(sequence, &format!("try{tries}"));
        journal.commit(Commit { ends_event: false, ..reads(commit, [listed.clone()]) }).await.map(drop)
    };
    again().await.unwrap();
    remember(&*journal, "1", [set("a/1", "another value"), delete("a/3"), set("a/4", "behind"), delete("b")])
        .await;
    again().await.unwrap();
    remember(&*journal, "2", [set("a/11", "between")]).await;
    assert!(matches!(again().await, Err(Error::Conflict)));
    remember(&*journal, "3", [delete("a/11")]).await;
    again().await.unwrap();
    remember(&*journal, "4", [delete("a/2")]).await;
    assert!(matches!(again().await, Err(Error::Conflict)));
}

pub(super) async fn a_conflict_writes_nothing(journal: Ledger) {
    remember(&*journal, "0", [set("k", "1"), set("gone", "1")]).await;
    let stale = read(&*journal, "k").await;
    remember(&*journal, "1", [set("k", "2")]).await;
    let sequence = arrive(&*journal, "$2").await;
    journal.draft(&agent(), &delivery("d2"), Some(&event("$draft"))).await.unwrap();
    let effects = [message("x"), Effect::SetHome(home("!room", None))];
    let commit =
        writes(says(ends(sequence, "d2"), effects), [set("k", "3"), set("new", "3"), delete("gone")]);
    let still = read(&*journal, "gone").await;
    let stale = reads(commit.clone(), [still, stale]);
    assert!(matches!(journal.commit(stale).await, Err(Error::Conflict)));

    assert_eq!(journal.get(&own(), "k").await.unwrap().unwrap().value, b"2");
    assert_eq!(journal.get(&own(), "new").await.unwrap(), None);
    assert!(journal.get(&own(), "gone").await.unwrap().is_some());
    assert!(journal.unsent(&agent()).await.unwrap().is_empty());
    assert_eq!(journal.home(&agent()).await.unwrap(), None);
    assert!(journal.drafted(&agent(), &delivery("d2")).await.unwrap().is_some());
    assert_eq!(pending(&*journal).await, ["$2"]);

    let again = reads(commit, [read(&*journal, "k").await]);
    assert_eq!(journal.commit(again).await.unwrap().len(), 1, "run again, it is committed");
}

pub(super) async fn what_nobody_read_is_no_conflict(journal: Ledger) {
    remember(&*journal, "0", [set("k", "1")]).await;
    let sequence = arrive(&*journal, "$1").await;
    let found = read(&*journal, "other").await;
    remember(&*journal, "2", [set("k", "2")]).await;
    journal.commit(reads(writes(ends(sequence, "d1"), [set("k", "3")]), [found])).await.unwrap();
    assert_eq!(journal.get(&own(), "k").await.unwrap().unwrap().value, b"3");
}

pub(super) async fn increments_from_many_tasks_add_up(journal: Ledger) {
    const TASKS: usize = 20;
    const EACH: usize = 10;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let journal = journal.clone();
        tasks.spawn(async move {
            let mut conflicts = 0;
            for n in 0..EACH {
                let id = format!("{task}-{n}");
                let sequence = arrive(&*journal, &format!("${id}")).await;
                while !increment(&*journal, sequence, &id).await {
                    conflicts += 1;
                }
            }
            conflicts
        });
    }
    let conflicts: usize = tasks.join_all().await.into_iter().sum();
    let count = journal.get(&own(), "count").await.unwrap().unwrap();
    assert_eq!(count.value, (TASKS * EACH).to_string().into_bytes(), "after {conflicts} conflicts");
    assert!(pending(&*journal).await.is_empty());
    assert_eq!(journal.unsent(&agent()).await.unwrap().len(), TASKS * EACH);
}

/// Reads, adds one, and commits; whether nobody else was quicker.
async fn increment(journal: &dyn Journal, sequence: Sequence, id: &str) -> bool {
    let found = journal.get(&own(), "count").await.unwrap();
    let count: usize = found.as_ref().map_or(0, |it| String::from_utf8_lossy(&it.value).parse().unwrap());
    let version = found.map(|it| it.version);
    let found = Read::Key { namespace: own(), key: "count".into(), version };
    let next = (count + 1).to_string();
    let commit = says(writes(ends(sequence, id), [set("count", &next)]), [message(&next)]);
    match journal.commit(reads(commit, [found])).await {
        Ok(queued) => queued.len() == 1,
        Err(Error::Conflict) => false,
        Err(error) => panic!("{error}"),
    }
}
