//! Files of older versions, and what they have.

use super::*;

/// A file of an older version.
fn older(path: &Path, version: usize, fill: impl FnOnce(&Connection)) {
    let db = Connection::open(path).unwrap();
    for sql in &file::MIGRATIONS[..version] {
        db.execute_batch(sql).unwrap();
    }
    fill(&db);
    db.pragma_update(None, "application_id", file::APPLICATION).unwrap();
    db.pragma_update(None, "user_version", version).unwrap();
}

/// A file of version 4 is brought up to date, and what it has is told as far as it was noted.
#[tokio::test]
async fn what_an_older_version_has_noted_is_told() {
    let (_folder, path) = folder();
    older(&path, 4, |db| {
        db.execute_batch(
            "INSERT INTO agent (id, name) VALUES (1, 'researcher');
             INSERT INTO event (sequence, agent, id, room, session) VALUES (1, 1, '$1', '!room', 'lane');
             INSERT INTO contribution (row, agent, delivery, event, plugin, outcome) VALUES (1, 1, 'd1', 1, 'echo', 'done');
             INSERT INTO sent (contribution, ordinal, event, room) VALUES (1, 0, '$sent', '!room');
             INSERT INTO draft (agent, delivery) VALUES (1, 'd2');
             INSERT INTO contribution (row, agent, delivery, event, plugin, outcome) VALUES (2, 1, 'd2', 1, 'echo', 'done');
             INSERT INTO contribution (row, agent, delivery, event, plugin, outcome) VALUES (3, 1, 'd3', 1, 'echo', 'done');
             INSERT INTO sent (contribution, ordinal, event, room) VALUES (3, 0, '$newest', '!room');
             INSERT INTO named (agent, plugin, name, row, event, room) VALUES (1, 'echo', 'n', 9, '$newest', '!room');
             UPDATE sqlite_sequence SET seq = 100;",
        )
        .unwrap();
        let effects = [named("n"), message("x")].map(|effect| serde_json::to_string(&effect).unwrap());
        db.execute(
            "INSERT INTO unsent (row, agent, contribution, ordinal, effect) VALUES (7, 1, 2, 0, ?1), (8, 1, 2, 4, ?2)",
            effects,
        )
        .unwrap();
    });
    let journal = open(&path);
    let waiting = journal.unsent(&agent()).await.unwrap();
    let ids: Vec<_> = waiting.iter().map(|it| (it.id.delivery.as_str(), it.id.ordinal)).collect();
    assert_eq!(ids, [("d2", Some(0)), ("d2", Some(4))]);
    let newest = Some(Named::Sent { event: event("$newest"), room: room("!room"), file: false });
    assert_eq!(journal.named(&agent(), &plugin("echo"), "n").await.unwrap(), newest, "it was named later");
    for waiting in waiting {
        let sent = Sent::Accepted { event: event("$late"), room: room("!room") };
        journal.sent(&agent(), waiting.row, &sent).await.unwrap();
    }
    assert_eq!(journal.named(&agent(), &plugin("echo"), "n").await.unwrap(), newest);
    let story = journal.story(&agent(), &event("$1")).await.unwrap().unwrap();
    assert_eq!(
        (story.received, story.deliveries[0].at, story.deliveries[0].effects[0].kind),
        (None, None, None)
    );
    assert!(matches!(&story.deliveries[0].effects[0].became, Became::Sent { at: None, .. }));
    let month_ago = crate::audit::now() - 30 * 24 * 60 * 60 * 1000;
    let tidy = Tidy { drafts_before: month_ago, names: 1, announcements: 1, step: 10 };
    journal.tidy(&agent(), tidy).await.unwrap();
    assert!(journal.drafted(&agent(), &delivery("d2")).await.unwrap().is_some(), "its age counts from now");
    assert_eq!(journal.newest(&agent(), &room("!room")).await.unwrap(), Some(event("$1")));
    let next = arrive(&*journal, "$2").await;
    assert!(next > Sequence(100), "numbers of what was removed are not given again: {next:?}");
    let queued = journal.commit(says(ends(next, "d4"), [message("x")])).await.unwrap();
    assert!(queued[0].row >> 16 > 100, "{queued:?}");
}

/// What version 12 kept in tables that are made anew is all there: what happened last, what deliveries have learnt, and
/// which of two messages of a name is the newer one, though that waits.
#[tokio::test]
async fn what_version_12_has_kept_is_kept() {
    let (_folder, path) = folder();
    older(&path, 12, |db| {
        let waits = serde_json::to_string(&named("n")).unwrap();
        db.execute_batch(&format!(
            "INSERT INTO agent (id, name) VALUES (1, 'researcher'), (2, 'other');
             INSERT INTO event (sequence, agent, id, room, session, at, received, again)
                 VALUES (5, 1, '$1', '!room', 'lane', 70, 60, 2);
             INSERT INTO contribution (row, agent, delivery, event, plugin, outcome, at, line)
                 VALUES (2, 1, 'd1', 5, 'echo', 'refused', 80, 'it said no');
             INSERT INTO sent (contribution, ordinal, event, room, at, kind, target)
                 VALUES (2, 0, '$older', '!room', 90, 'message', '!room');
             INSERT INTO named (agent, plugin, name, row, event, room) VALUES (1, 'echo', 'n', 10, '$older', '!room');
             INSERT INTO unsent (row, agent, contribution, ordinal, effect) VALUES (11, 1, 2, 1, '{waits}');
             INSERT INTO last (agent, what, event, room, at, why) VALUES
                 (1, 'accepted', '$1', '!room', 60, NULL), (1, 'dropped', '$2', '!other', 61, 'not listed'),
                 (1, 'acknowledged', '$3', '!room', 62, NULL), (1, 'given-up', NULL, '!room', 63, 'M_FORBIDDEN');
             INSERT INTO component (id, digest) VALUES (3, 'one'), (4, 'two');
             INSERT INTO record (row, agent, delivery, plugin, event, component, begun, ended, is_full, bytes, said) VALUES
                 (8, 1, 'd1', 'echo', '$1', 3, 60, 80, 1, 300, 'said then'),
                 (9, 1, 'd2', 'echo', '$1', 4, 81, NULL, 0, 200, 'goes on');
             INSERT INTO answer (record, key, place, at, fact, body)
                 VALUES (8, zeroblob(32), 1, 75, '{{\"what\":\"value\",\"version\":6}}', x'01'),
                        (9, zeroblob(32), 2, 82, '{{\"what\":\"time\"}}', x'');"
        ))
        .unwrap();
    });
    let journal = open(&path);
    let last = journal.last(&agent()).await.unwrap();
    let happened = |it: Option<Happening>| {
        let Happening { event, room, at, why } = it.unwrap();
        (event.map(|it| it.to_string()), room, at, why)
    };
    let at = |event: Option<&str>, room: &str, at, why: Option<&str>| {
        (event.map(str::to_owned), room.to_owned(), at, why.map(str::to_owned))
    };
    assert_eq!(happened(last.accepted), at(Some("$1"), "!room", 60, None));
    assert_eq!(happened(last.dropped), at(Some("$2"), "!other", 61, Some("not listed")));
    assert_eq!(happened(last.acknowledged), at(Some("$3"), "!room", 62, None));
    assert_eq!(happened(last.given_up), at(None, "!room", 63, Some("M_FORBIDDEN")));
    let other = journal.last(&"other".parse().unwrap()).await.unwrap();
    assert!(other.accepted.is_none() && other.given_up.is_none());

    let story = journal.story(&agent(), &event("$1")).await.unwrap().unwrap();
    assert_eq!((story.received, story.again), (Some(60), 2));
    let [told] = &story.deliveries[..] else { panic!("{story:?}") };
    assert_eq!((told.at, told.line.as_deref()), (Some(80), Some("it said no")));

    let opening = |delivery: &str, component: &str, begun, said: &str| Opening {
        agent: agent(),
        delivery: delivery.parse().unwrap(),
        plugin: plugin("echo"),
        event: event("$1"),
        component: component.into(),
        begun,
        said: said.into(),
    };
    let learnt = |order, at, fact, body: &[u8]| answers::Entry {
        key: answers::Key([0; 32]),
        order,
        at,
        fact,
        body: body.to_vec(),
    };
    let ended = Record {
        opening: opening("d1", "one", 60, "said then"),
        ended: Some(80),
        full: true,
        entries: vec![learnt(1, 75, answers::Fact::Value { version: Some(6) }, &[1])],
    };
    let open = Record {
        opening: opening("d2", "two", 81, "goes on"),
        ended: None,
        full: false,
        entries: vec![learnt(2, 82, answers::Fact::Time, &[])],
    };
    assert_eq!(journal.past(&event("$1")).await.unwrap(), [ended]);
    assert_eq!(journal.begun(&agent(), &event("$1")).await.unwrap(), [open]);
    assert_eq!(journal.components().await.unwrap(), ["one", "two"]);

    let name = async || journal.named(&agent(), &plugin("echo"), "n").await.unwrap();
    assert!(matches!(name().await, Some(Named::Waiting { .. })), "{:?}", name().await);
    let waiting = journal.unsent(&agent()).await.unwrap();
    let sent = Sent::Accepted { event: event("$newer"), room: room("!room") };
    journal.sent(&agent(), waiting[0].row, &sent).await.unwrap();
    let newer = Some(Named::Sent { event: event("$newer"), room: room("!room"), file: false });
    assert_eq!(name().await, newer);
}
