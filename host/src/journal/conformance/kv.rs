//! What plugins remember.

use super::*;
use crate::journal::{KeyQuery, Usage};

async fn value(journal: &dyn Journal, key: &str) -> Option<String> {
    let stored = journal.get(&own(), key).await.unwrap();
    stored.map(|stored| String::from_utf8(stored.value).unwrap())
}

pub(super) async fn a_value_is_set_and_deleted(journal: Ledger) {
    assert_eq!(value(&*journal, "k").await, None);
    remember(&*journal, "1", [set("k", "1"), set("", "no name"), set("empty", ""), set("a\0b", "zero")])
        .await;
    assert_eq!(value(&*journal, "k").await.as_deref(), Some("1"));
    assert_eq!(value(&*journal, "").await.as_deref(), Some("no name"));
    assert_eq!(value(&*journal, "empty").await.as_deref(), Some(""));
    assert_eq!(value(&*journal, "a\0b").await.as_deref(), Some("zero"));
    assert_eq!(value(&*journal, "a").await, None);
    assert_eq!(value(&*journal, "K").await, None, "case counts");
    remember(&*journal, "2", [set("k", "2"), delete("empty"), delete("never")]).await;
    assert_eq!(value(&*journal, "k").await.as_deref(), Some("2"));
    assert_eq!(value(&*journal, "empty").await, None);

    let large: Vec<u8> = (0..=u8::MAX).cycle().take(1 << 20).collect();
    remember(&*journal, "3", [Write { value: Some(large.clone()), ..set("k", "") }]).await;
    assert!(journal.get(&own(), "k").await.unwrap().unwrap().value == large, "any bytes, many of them");
}

pub(super) async fn a_version_never_comes_back(journal: Ledger) {
    let mut versions = Vec::new();
    for n in 0..4 {
        remember(&*journal, &format!("s{n}"), [set("k", "the same")]).await;
        versions.push(journal.get(&own(), "k").await.unwrap().unwrap().version);
        if n % 2 == 1 {
            remember(&*journal, &format!("d{n}"), [delete("k")]).await;
        }
    }
    let before = versions.len();
    versions.sort_unstable();
    versions.dedup();
    assert_eq!(versions.len(), before, "{versions:?}");
}

pub(super) async fn the_last_write_of_a_commit_stands(journal: Ledger) {
    remember(
        &*journal,
        "1",
        [set("a", "1"), set("a", "2"), set("b", "1"), delete("b"), delete("c"), set("c", "3")],
    )
    .await;
    assert_eq!(value(&*journal, "a").await.as_deref(), Some("2"));
    assert_eq!(value(&*journal, "b").await, None);
    assert_eq!(value(&*journal, "c").await.as_deref(), Some("3"));
}

pub(super) async fn namespaces_share_nothing(journal: Ledger) {
    let scopes = [
        Scope::Plugin,
        Scope::Room(room("!a")),
        Scope::Room(room("!b")),
        Scope::User(UserId::parse("@a:b").unwrap()),
        Scope::Sealed { room: room("!a"), user: None, gone: false },
        Scope::Sealed { room: room("!a"), user: None, gone: true },
        Scope::Sealed { room: room("!b"), user: None, gone: false },
        Scope::Sealed { room: room("!a"), user: Some(UserId::parse("@a:b").unwrap()), gone: false },
        Scope::Session(session("plugin")),
        Scope::Session(session("room:!a")),
        Scope::Session(session("!a")),
    ];
    let mut all = Vec::new();
    for agent in [agent(), other_agent()] {
        for plugin in [plugin("echo"), plugin("echo-2")] {
            all.extend(scopes.iter().map(|scope| Namespace {
                agent: agent.clone(),
                plugin: plugin.clone(),
                scope: scope.clone(),
            }));
        }
    }
    let sets = all.iter().map(|namespace| Write {
        namespace: namespace.clone(),
        key: "k".into(),
        value: Some(format!("{namespace:?}").into_bytes()),
    });
    remember(&*journal, "1", sets).await;
    for namespace in &all {
        let stored = journal.get(namespace, "k").await.unwrap().unwrap();
        assert_eq!(stored.value, format!("{namespace:?}").into_bytes());
        let query = KeyQuery { prefix: String::new(), after: None, limit: 10 };
        assert_eq!(journal.keys(namespace, &query).await.unwrap(), ["k"]);
    }
    remember(&*journal, "2", [delete("k")]).await;
    for namespace in &all {
        assert_eq!(
            journal.get(namespace, "k").await.unwrap().is_some(),
            *namespace != own(),
            "{namespace:?}"
        );
    }
}

const KEYS: [&str; 12] =
    ["", "A", "a", "a%", "a/", "a/1", "a/10", "a/2", "a_", "b", "é", "\u{10ffff}\u{10ffff}"];

async fn keys(journal: &dyn Journal, prefix: &str, after: Option<&str>, limit: u32) -> Vec<String> {
    let query = KeyQuery { prefix: prefix.into(), after: after.map(Into::into), limit };
    journal.keys(&own(), &query).await.unwrap()
}

pub(super) async fn keys_are_listed_in_byte_order(journal: Ledger) {
    assert!(keys(&*journal, "", None, 10).await.is_empty());
    remember(&*journal, "1", KEYS.iter().rev().map(|key| set(key, "x"))).await;
    assert!(KEYS.is_sorted());
    assert_eq!(keys(&*journal, "", None, 100).await, KEYS);
    assert_eq!(keys(&*journal, "", None, 3).await, KEYS[..3]);
    assert!(keys(&*journal, "", None, 0).await.is_empty());
    assert_eq!(keys(&*journal, "a", None, 100).await, ["a", "a%", "a/", "a/1", "a/10", "a/2", "a_"]);
    assert_eq!(keys(&*journal, "a/", None, 100).await, ["a/", "a/1", "a/10", "a/2"]);
    assert_eq!(keys(&*journal, "a%", None, 100).await, ["a%"], "no wildcard");
    assert_eq!(keys(&*journal, "a_", None, 100).await, ["a_"], "no wildcard");
    assert_eq!(keys(&*journal, "\u{10ffff}", None, 100).await, KEYS[11..]);
    assert!(keys(&*journal, "aa", None, 100).await.is_empty());
}

pub(super) async fn a_list_begins_where_it_is_asked_to(journal: Ledger) {
    remember(&*journal, "1", KEYS.iter().map(|key| set(key, "x"))).await;
    assert_eq!(keys(&*journal, "", Some("a/1"), 2).await, ["a/10", "a/2"]);
    assert_eq!(keys(&*journal, "", Some(""), 2).await, ["A", "a"], "after the empty key");
    assert_eq!(keys(&*journal, "a/", Some("a/1"), 100).await, ["a/10", "a/2"]);
    assert_eq!(keys(&*journal, "a/", Some("a/11"), 100).await, ["a/2"], "after a key that isn't there");
    assert_eq!(keys(&*journal, "a/", Some("A"), 100).await, ["a/", "a/1", "a/10", "a/2"], "before them all");
    assert_eq!(keys(&*journal, "a/", Some("a/"), 1).await, ["a/1"]);
    assert!(keys(&*journal, "a/", Some("b"), 100).await.is_empty(), "behind them all");
    assert!(keys(&*journal, "a/", Some("a/2"), 100).await.is_empty());
}

pub(super) async fn what_is_remembered_is_counted(journal: Ledger) {
    let usage = async || {
        let Usage { bytes, keys } = journal.usage(&own().agent, &own().plugin).await.unwrap();
        (bytes, keys)
    };
    assert_eq!(usage().await, (0, 0));
    remember(&*journal, "1", [set("k", "1"), set("\u{e9}\0", "12"), set("", "")]).await;
    assert_eq!(usage().await, (2 + 5, 3), "in bytes");
    remember(&*journal, "2", [set("k", "longer"), delete("never"), delete("")]).await;
    assert_eq!(usage().await, (7 + 5, 2));
    let room = Namespace { scope: Scope::Room(room("!a")), ..own() };
    remember(&*journal, "3", [Write { namespace: room, ..set("k", "1") }]).await;
    assert_eq!(usage().await, (14, 3), "in all scopes");
    let other = Namespace { plugin: plugin("other"), ..own() };
    remember(&*journal, "4", [Write { namespace: other, ..set("k", "1") }, set("k", ""), delete("\u{e9}\0")])
        .await;
    assert_eq!(usage().await, (1 + 2, 2), "of this plugin");
    let other = Namespace { agent: other_agent(), ..own() };
    assert_eq!(journal.usage(&other.agent, &other.plugin).await.unwrap(), Usage::default());
}
