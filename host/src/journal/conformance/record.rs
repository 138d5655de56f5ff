//! What deliveries learn from outside, and what is kept of them.

use super::{
    timers::{due, set_timer, timer},
    *,
};
use crate::{
    answers::{Ended, Entry, Extent, Fact, Failure, Key, Kind, Opening, Record, Told, Writing},
    journal::{Kept, Learnt},
};

const ALL: u64 = u64::MAX;

fn opening(id: &str, event_id: &str, component: &str) -> Opening {
    Opening {
        agent: agent(),
        delivery: delivery(id),
        plugin: plugin("echo"),
        event: event(event_id),
        component: component.into(),
        begun: 1_700_000_000_000,
        said: "{}".into(),
    }
}

fn entry(key: u8, order: u32, fact: Fact, body: &[u8]) -> Entry {
    Entry { key: Key([key; 32]), order, at: 1_700_000_000_000 + i64::from(order), fact, body: body.to_vec() }
}

fn answered(key: u8, order: u32, body: &[u8]) -> Entry {
    let headers = vec![("x-any".to_owned(), (0..=255).map(char::from).collect())];
    let request = "POST http://a/".into();
    let (extent, broke) = (Extent::Left, Some(Failure::HttpResponseBodySize(Some(7))));
    let fact = Fact::Http { request, status: 200, headers, extent, changes: true, broke };
    entry(key, order, fact, body)
}

async fn learn(journal: &dyn Journal, opening: &Opening, entries: Vec<Entry>) {
    journal.learn(opening, Writing { entries, full: false }).await.unwrap();
}

async fn begun(journal: &dyn Journal, id: &str) -> Vec<Record> {
    journal.begun(&agent(), &event(id)).await.unwrap()
}

async fn past(journal: &dyn Journal, id: &str) -> Vec<Record> {
    journal.past(&event(id)).await.unwrap()
}

/// A delivery that ends and is kept, with an answer of so many bytes.
async fn keep(journal: &dyn Journal, id: &str, component: &str, ended: i64, bytes: usize) {
    let sequence = arrive(journal, &format!("${id}")).await;
    let opening = opening(id, &format!("${id}"), component);
    let entries = vec![answered(1, 0, &vec![b'x'; bytes])];
    let kept = Kept { opening, ended, entries, full: false };
    let learnt = Some(Learnt::Stays(Box::new(kept)));
    journal.commit(Commit { learnt, ..ends(sequence, id) }).await.unwrap();
}

pub(super) async fn what_was_learnt_comes_back_whole(journal: Ledger) {
    arrive(&*journal, "$1").await;
    let all: Vec<u8> = (0..=255).collect();
    let pieces = vec![("a\u{0}b".to_owned(), String::new()), (String::new(), "{\"a\":1}".into())];
    let ended = Some(Ended { finish_reason: "stop".into(), prompt_tokens: Some(7), completion_tokens: None });
    let error = Failure::HttpResponseHeaderSectionSize(Some(7));
    let (code, message) = (Some("altered".into()), Some("a\u{0}".into()));
    let told = Told { kind: Kind::NotFound, code, message, retry_after: Some(u32::MAX) };
    let entries = vec![
        entry(1, 0, Fact::Begun { request: "POST http://a/ \u{202e}".into(), changes: true }, b""),
        answered(2, 1, &all),
        entry(3, 2, Fact::Llm { request: "?".into(), pieces, ended, broke: None }, b""),
        entry(4, 3, Fact::Value { version: Some(i64::MAX) }, &all),
        entry(5, 4, Fact::Value { version: None }, b""),
        entry(6, 5, Fact::Keys { found: vec!["a".into(), String::new()] }, b""),
        entry(7, 6, Fact::File { digest: "ab".into() }, b""),
        entry(8, 7, Fact::Time, b""),
        entry(9, 8, Fact::Failed { request: "GET http://a/".into(), error, changes: false }, b""),
        entry(10, 9, Fact::Unanswered { request: "?".into(), error: told.clone() }, b""),
        entry(11, 10, Fact::Unfetched { error: told }, b""),
        entry(12, 11, Fact::Asked { request: "GET http://a/".into() }, b""),
        entry(13, 12, Fact::Waited { ready: vec![0, u32::MAX] }, b""),
        entry(14, 13, Fact::Waited { ready: vec![] }, b""),
    ];
    let opening = Opening { said: "{\"text\":\"\\u0000\"}".into(), ..opening("d1", "$1", "c1") };
    assert_eq!(begun(&*journal, "$1").await, []);
    learn(&*journal, &opening, entries[..3].to_vec()).await;
    learn(&*journal, &opening, entries[3..].to_vec()).await;
    let record = Record { opening, ended: None, full: false, entries };
    assert!(record.changed());
    assert_eq!(begun(&*journal, "$1").await, std::slice::from_ref(&record));
    assert_eq!(journal.begun(&other_agent(), &event("$1")).await.unwrap(), []);
    assert_eq!(past(&*journal, "$1").await, []);
    journal.learn(&record.opening, Writing { entries: vec![], full: true }).await.unwrap();
    assert_eq!(begun(&*journal, "$1").await, [Record { full: true, ..record }]);
}

pub(super) async fn what_is_learnt_of_the_same_takes_its_place(journal: Ledger) {
    arrive(&*journal, "$1").await;
    let opening = opening("d1", "$1", "c1");
    learn(
        &*journal,
        &opening,
        vec![entry(1, 0, Fact::Begun { request: "POST".into(), changes: false }, b"")],
    )
    .await;
    learn(&*journal, &opening, vec![entry(2, 1, Fact::Time, b"")]).await;
    learn(&*journal, &opening, vec![answered(1, 0, b"answer")]).await;
    let entries = &begun(&*journal, "$1").await[0].entries;
    assert_eq!(*entries, [answered(1, 0, b"answer"), entry(2, 1, Fact::Time, b"")]);
}

pub(super) async fn what_was_learnt_goes_with_its_delivery(journal: Ledger) {
    let sequence = arrive(&*journal, "$1").await;
    for id in ["d1", "d2"] {
        learn(&*journal, &opening(id, "$1", "c1"), vec![answered(1, 0, b"")]).await;
    }
    let commit = Commit { ends_event: false, learnt: Some(Learnt::Goes), ..ends(sequence, "d1") };
    journal.commit(commit).await.unwrap();
    let left = begun(&*journal, "$1").await;
    assert_eq!(left.iter().map(|of| of.opening.delivery.as_str()).collect::<Vec<_>>(), ["d2"]);
    assert_eq!(past(&*journal, "$1").await, []);
}

pub(super) async fn a_delivery_that_ended_is_kept_with_all_that_it_learnt(journal: Ledger) {
    let sequence = arrive(&*journal, "$1").await;
    let began = opening("d1", "$1", "c1");
    learn(&*journal, &began, vec![answered(1, 0, b"one")]).await;
    let ended = Opening { said: "{\"ended\":1}".into(), ..began };
    let kept = Kept {
        opening: ended.clone(),
        ended: 1_700_000_000_500,
        entries: vec![answered(2, 1, b"two")],
        full: true,
    };
    let stale = read(&*journal, "k").await;
    remember(&*journal, "2", [set("k", "1")]).await;
    let commit = Commit { learnt: Some(Learnt::Stays(Box::new(kept))), ..ends(sequence, "d1") };
    assert!(journal.commit(reads(commit.clone(), [stale])).await.is_err(), "a conflict");
    assert_eq!(begun(&*journal, "$1").await.len(), 1, "and nothing has ended");
    journal.commit(commit).await.unwrap();
    assert_eq!(begun(&*journal, "$1").await, []);
    let entries = vec![answered(1, 0, b"one"), answered(2, 1, b"two")];
    let record = Record { opening: ended, ended: Some(1_700_000_000_500), full: true, entries };
    assert_eq!(past(&*journal, "$1").await, [record]);
}

pub(super) async fn of_a_committed_delivery_nothing_more_is_learnt(journal: Ledger) {
    let sequence = arrive(&*journal, "$1").await;
    journal.commit(ends(sequence, "d1")).await.unwrap();
    learn(&*journal, &opening("d1", "$1", "c1"), vec![answered(1, 0, b"")]).await;
    assert_eq!(begun(&*journal, "$1").await, []);
    assert!(journal.components().await.unwrap().is_empty());
}

pub(super) async fn what_is_put_aside_is_gone(journal: Ledger) {
    keep(&*journal, "kept", "c0", 7, 10).await;
    arrive(&*journal, "$1").await;
    for id in ["d1", "d2"] {
        learn(&*journal, &opening(id, "$1", "c1"), vec![answered(1, 0, b"")]).await;
    }
    for id in ["d1", "never", "kept"] {
        journal.put_aside(&agent(), &delivery(id)).await.unwrap();
    }
    assert_eq!(begun(&*journal, "$1").await.len(), 1);
    assert_eq!(past(&*journal, "$kept").await.len(), 1, "it has ended");
    learn(&*journal, &opening("d1", "$1", "c2"), vec![]).await;
    let again = &begun(&*journal, "$1").await[1];
    assert_eq!((again.opening.component.as_str(), again.entries.len()), ("c2", 0));
}

pub(super) async fn what_is_old_is_forgotten_in_steps(journal: Ledger) {
    for number in 0..5 {
        keep(&*journal, &format!("d{number}"), "c1", number, 10).await;
    }
    assert_eq!(journal.forget_records(4, ALL, 3).await.unwrap(), 3);
    assert_eq!(past(&*journal, "$d2").await, []);
    assert_eq!(past(&*journal, "$d3").await.len(), 1);
    assert_eq!(journal.forget_records(4, ALL, 3).await.unwrap(), 1);
    assert_eq!(journal.forget_records(4, ALL, 3).await.unwrap(), 0);
    assert_eq!(past(&*journal, "$d4").await.len(), 1);
}

pub(super) async fn what_is_too_much_is_forgotten_the_oldest_first(journal: Ledger) {
    for (number, ended) in [(0, 20), (1, 10), (2, 30)] {
        keep(&*journal, &format!("d{number}"), "c1", ended, 100_000).await;
    }
    assert_eq!(journal.forget_records(0, 350_000, 10).await.unwrap(), 0);
    assert_eq!(journal.forget_records(0, 250_000, 10).await.unwrap(), 1);
    assert_eq!(past(&*journal, "$d1").await, []);
    assert_eq!(journal.forget_records(0, 0, 10).await.unwrap(), 2);
}

pub(super) async fn what_an_event_ended_without_is_forgotten(journal: Ledger) {
    let sequence = arrive(&*journal, "$1").await;
    arrive(&*journal, "$2").await;
    for (id, about) in [("d1", "$1"), ("d2", "$2")] {
        learn(&*journal, &opening(id, about, "c1"), vec![answered(1, 0, b"")]).await;
    }
    journal.commit(ends(sequence, "host")).await.unwrap();
    assert_eq!(journal.forget_records(0, ALL, 10).await.unwrap(), 1);
    assert_eq!(begun(&*journal, "$1").await, []);
    assert_eq!(begun(&*journal, "$2").await.len(), 1, "it goes on");
}

pub(super) async fn what_was_learnt_of_a_timer_stays_while_that_waits(journal: Ledger) {
    let timer = timer("d1.0", "lane", "key", 10);
    let sequence = arrive(&*journal, "$1").await;
    journal.commit(says(ends(sequence, "d1"), [set_timer(&timer)])).await.unwrap();
    let sequence = journal.fire(&agent(), &timer, None, Some(&due("$t", &timer))).await.unwrap().unwrap();
    learn(&*journal, &opening("d2", "$t", "c1"), vec![answered(1, 0, b"")]).await;
    assert_eq!(journal.forget_records(0, ALL, 10).await.unwrap(), 0);
    assert_eq!(begun(&*journal, "$t").await.len(), 1);
    journal.commit(ends(sequence, "host")).await.unwrap();
    assert_eq!(journal.forget_records(0, ALL, 10).await.unwrap(), 1);
}

pub(super) async fn components_are_known_as_long_as_they_are_needed(journal: Ledger) {
    keep(&*journal, "d1", "c2", 1, 1).await;
    keep(&*journal, "d2", "c1", 2, 1).await;
    arrive(&*journal, "$3").await;
    learn(&*journal, &opening("d3", "$3", "c3"), vec![]).await;
    learn(&*journal, &opening("d4", "$3", "c3"), vec![]).await;
    assert_eq!(journal.components().await.unwrap(), ["c1", "c2", "c3"]);
    journal.forget_records(2, ALL, 10).await.unwrap();
    assert_eq!(journal.components().await.unwrap(), ["c1", "c3"]);
    journal.put_aside(&agent(), &delivery("d3")).await.unwrap();
    assert_eq!(journal.components().await.unwrap(), ["c1", "c3"]);
}
