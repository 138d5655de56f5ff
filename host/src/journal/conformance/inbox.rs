//! What comes in, and until when it stays.

use super::*;
use crate::{
    event::{Attachment, AttachmentKind, MediaSource, Member, Membership, Quoted},
    journal::Sent,
};

pub(super) async fn an_event_is_pending_until_it_ends(journal: Ledger) {
    let sequence = arrive(&*journal, "$1").await;
    assert_eq!(pending(&*journal).await, ["$1"]);
    let goes_on = Commit { ends_event: false, ..ends(sequence, "d1") };
    journal.commit(goes_on).await.unwrap();
    assert_eq!(pending(&*journal).await, ["$1"]);
    journal.commit(ends(sequence, "d2")).await.unwrap();
    assert!(pending(&*journal).await.is_empty());
}

pub(super) async fn an_event_comes_back_whole(journal: Ledger) {
    let mut full = said("$1", "'quotes', \"more\", \\ and \0 zero\n🐦");
    full.event.mark = Some("d0.1".into());
    full.event.room.direct = true;
    let Kind::Message(message) = &mut full.event.kind else { unreachable!() };
    message.html = Some("<b>bold</b>".into());
    message.thread = Some(event("$root"));
    message.mentions = vec![UserId::parse("@bob:example.org").unwrap()];
    message.reply_to = Some(Quoted { id: event("$0"), sender: None, text: String::new() });
    message.attachments = vec![Attachment {
        kind: AttachmentKind::Voice,
        name: "a.ogg".into(),
        mime: None,
        size: Some(u64::from(u32::MAX) + 1),
        duration: Some(3),
        source: Some(MediaSource::new("{\"url\":\"mxc://a/b\"}")),
    }];
    let mut left = said("$2", "");
    left.event.kind = Kind::Member(Member {
        user: UserId::parse("@bob:example.org").unwrap(),
        display_name: None,
        membership: Membership::Left,
    });
    let sequences = receive(&*journal, &[full.clone(), left.clone()]).await;

    let found = journal.pending(&agent(), None, None, 10).await.unwrap();
    assert_eq!(found.len(), 2);
    for ((found, came), sequence) in found.iter().zip([full, left]).zip(sequences) {
        assert_eq!(Some(found.sequence), sequence);
        assert_eq!(found.session, came.session);
        assert!(found.ended.is_empty());
        assert_eq!(serde_json::to_value(&found.event).unwrap(), serde_json::to_value(&came.event).unwrap());
    }
}

pub(super) async fn an_event_counts_once(journal: Ledger) {
    let twice = receive(&*journal, &[said("$1", "first"), said("$1", "again"), said("$2", "x")]).await;
    assert!(matches!(twice[..], [Some(_), None, Some(_)]), "{twice:?}");
    assert!(twice[0] < twice[2]);
    assert_eq!(receive(&*journal, &[said("$2", "x")]).await, [None], "while it is pending");
    journal.commit(ends(twice[0].unwrap(), "d1")).await.unwrap();
    assert_eq!(receive(&*journal, &[said("$1", "again")]).await, [None], "after it has ended");
    assert_eq!(pending(&*journal).await, ["$2"]);
}

pub(super) async fn the_position_is_that_of_the_last_batch(journal: Ledger) {
    assert_eq!(journal.position(&agent()).await.unwrap(), None);
    let batches: [(&str, &[Arrival]); 4] =
        [("s1", &[said("$1", "x")]), ("s2", &[]), ("s3", &[said("$1", "known")]), ("s4", &[refused("$2")])];
    for (at, arrivals) in batches {
        journal.receive(&agent(), arrivals, &Position(at.into())).await.unwrap();
        assert_eq!(journal.position(&agent()).await.unwrap(), Some(Position(at.into())));
    }
}

pub(super) async fn what_is_refused_is_never_pending(journal: Ledger) {
    assert_eq!(receive(&*journal, &[refused("$1"), said("$2", "x")]).await[0], None);
    assert_eq!(receive(&*journal, &[said("$1", "allowed meanwhile")]).await, [None], "it was seen before");
    assert_eq!(pending(&*journal).await, ["$2"]);
}

pub(super) async fn pending_is_in_order_and_can_be_read_in_parts(journal: Ledger) {
    let ids = ["$e", "$b", "$d", "$a", "$c"];
    let first = receive(&*journal, &ids.map(|id| said(id, "x"))[..3]).await;
    let rest = receive(&*journal, &ids.map(|id| said(id, "x"))[3..]).await;
    let sequences: Vec<_> = first.into_iter().chain(rest).map(Option::unwrap).collect();
    assert!(sequences.is_sorted());
    assert_eq!(pending(&*journal).await, ids);

    let agent = agent();
    let after = |after, limit| journal.pending(&agent, None, after, limit);
    let mut read = Vec::new();
    let mut last = None;
    loop {
        let part = after(last, 2).await.unwrap();
        let Some(end) = part.last() else { break };
        assert!(part.len() <= 2);
        last = Some(end.sequence);
        read.extend(part.into_iter().map(|pending| pending.sequence));
    }
    assert_eq!(read, sequences);
    assert!(after(None, 0).await.unwrap().is_empty());
    assert!(after(Some(Sequence(i64::MAX)), 2).await.unwrap().is_empty());

    journal.commit(ends(sequences[1], "d1")).await.unwrap();
    assert_eq!(pending(&*journal).await, ["$e", "$d", "$a", "$c"]);
}

pub(super) async fn each_lane_has_its_own_events(journal: Ledger) {
    let came =
        receive(&*journal, &[in_lane("$1", "a"), in_lane("$2", "b"), in_lane("$3", "a"), in_lane("$4", "a")])
            .await;
    let lane = async |lane: &str, after, limit| {
        let found = journal.pending(&agent(), Some(&session(lane)), after, limit).await.unwrap();
        found.into_iter().map(|pending| pending.event.id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(lane("a", None, 10).await, ["$1", "$3", "$4"]);
    assert_eq!(lane("a", None, 2).await, ["$1", "$3"]);
    assert_eq!(lane("a", came[0], 10).await, ["$3", "$4"]);
    assert_eq!(lane("b", None, 10).await, ["$2"]);
    assert!(lane("c", None, 10).await.is_empty());
    journal.commit(ends(came[2].unwrap(), "d1")).await.unwrap();
    assert_eq!(lane("a", None, 10).await, ["$1", "$4"]);
}

pub(super) async fn a_room_that_was_encrypted_stays_so(journal: Ledger) {
    let mut secret = said("$1", "x");
    secret.event.room = Room { id: room("!secret"), direct: false, encrypted: true };
    let mut strangers = refused("$2");
    strangers.event.room = Room { id: room("!strangers"), direct: false, encrypted: true };
    let mut later = said("$3", "x");
    later.event.room = Room { id: room("!later"), direct: false, encrypted: false };
    let was = |id: &str| {
        let (journal, id) = (journal.clone(), room(id));
        async move { journal.was_encrypted(&agent(), &id).await.unwrap() }
    };
    assert!(!was("!secret").await);
    receive(&*journal, &[secret.clone(), strangers, later.clone()]).await;
    assert!(was("!secret").await);
    assert!(was("!strangers").await, "whoever wrote there");
    assert!(!was("!later").await);

    later.event.room.encrypted = true;
    secret.event.room.encrypted = false;
    secret.event.id = event("$4");
    receive(&*journal, &[later, secret]).await;
    assert!(was("!later").await, "though the event was known");
    assert!(was("!secret").await, "though it is said not to be any more");
}

pub(super) async fn agents_know_nothing_of_each_other(journal: Ledger) {
    let other = other_agent();
    let mut secret = said("$1", "x");
    secret.event.room.encrypted = true;
    let sequence = receive(&*journal, &[secret]).await[0].unwrap();
    let goes_on = says(
        Commit { ends_event: false, ..ends(sequence, "d1") },
        [message("x"), Effect::SetHome(home("!room", None))],
    );
    journal.commit(goes_on).await.unwrap();
    journal.draft(&agent(), &delivery("d2"), None).await.unwrap();

    assert_eq!(journal.position(&other).await.unwrap(), None);
    assert!(journal.pending(&other, None, None, 10).await.unwrap().is_empty());
    assert!(journal.unsent(&other).await.unwrap().is_empty());
    assert_eq!(journal.home(&other).await.unwrap(), None);
    assert_eq!(journal.drafted(&other, &delivery("d2")).await.unwrap(), None);
    assert!(!journal.was_encrypted(&other, &room("!room")).await.unwrap());

    let theirs = journal.receive(&other, &[said("$1", "x")], &Position("p".into())).await.unwrap();
    let theirs = theirs[0].expect("the same event is new to another agent");
    assert_ne!(theirs, sequence);
    let same = says(Commit { agent: other.clone(), ..ends(theirs, "d1") }, [message("y")]);
    assert_eq!(journal.commit(same).await.unwrap().len(), 1, "the same delivery is another's");
    assert_eq!(pending(&*journal).await, ["$1"]);
    let foreign = Commit { agent: other, ..ends(sequence, "d3") };
    journal.commit(foreign).await.expect_err("nobody ends another's event");
}

/// A time at which everything that was received is old.
pub(super) const LATER: u64 = 100_000_000_000_000;

pub(super) async fn what_is_over_is_forgotten_when_it_is_old(journal: Ledger) {
    let forget = async |before, limit| journal.forget(&agent(), before, limit).await.unwrap();
    let mut ahead = said("$ahead", "of a server whose clock is wrong");
    ahead.event.sent = 2 * LATER;
    let came = receive(&*journal, &[said("$1", "x"), refused("$2"), said("$3", "x"), ahead]).await;
    for (sequence, id) in came.iter().flatten().zip(["d1", "d3", "d4"]) {
        let queued = journal.commit(says(ends(*sequence, id), [message("hello")])).await.unwrap();
        let sent = Sent::Accepted { event: event(&format!("$sent-{id}")), room: room("!room") };
        journal.sent(&agent(), queued[0].row, &sent).await.unwrap();
    }
    // All of it came just now, however long ago it says that it was sent.
    assert_eq!(forget(1_700_000_000_001, 10).await, 0);
    assert_eq!(forget(LATER, 2).await, 2, "a step");
    assert_eq!(forget(LATER, 10).await, 1);
    assert_eq!(forget(LATER, 10).await, 0, "as long as its own time says that it is new");
    let known = async |id: &str| journal.known(&agent(), &event(id)).await.unwrap().is_some();
    assert!(!known("$1").await && !known("$2").await && !known("$3").await && known("$ahead").await);
    assert_eq!(receive(&*journal, &[said("$ahead", "again")]).await, [None]);
    assert!(receive(&*journal, &[said("$1", "again")]).await[0] > came[3], "no number is given twice");
    assert_eq!(journal.forget(&other_agent(), LATER, 10).await.unwrap(), 0);
}

pub(super) async fn what_waits_is_not_forgotten(journal: Ledger) {
    let came = receive(&*journal, &[said("$pending", "x"), said("$unsent", "x")]).await;
    let queued = journal.commit(says(ends(came[1].unwrap(), "d1"), [message("hello")])).await.unwrap();
    let announced = journal.announce(&agent(), &delivery("own"), vec![message("news")]).await.unwrap();
    assert_eq!(journal.forget(&agent(), LATER, 10).await.unwrap(), 0);
    assert_eq!(pending(&*journal).await, ["$pending"]);
    assert_eq!(journal.unsent(&agent()).await.unwrap().len(), 2);

    for queued in [&queued[0], &announced[0]] {
        journal.sent(&agent(), queued.row, &Sent::GivenUp("no".into())).await.unwrap();
    }
    journal.commit(ends(came[0].unwrap(), "d2")).await.unwrap();
    assert_eq!(journal.forget(&agent(), LATER, 10).await.unwrap(), 2);
    let again = journal.announce(&agent(), &delivery("own"), vec![message("news")]).await.unwrap();
    assert!(again.is_empty(), "what the host has said by itself is not said again");
}

pub(super) async fn the_newest_event_of_a_room_is_known_for_ever(journal: Ledger) {
    let newest =
        async |of: &str| journal.newest(&agent(), &room(of)).await.unwrap().map(|event| event.to_string());
    assert_eq!(newest("!room").await, None);
    journal
        .remember(&agent(), &[(room("!room"), event("$old")), (room("!quiet"), event("$q"))])
        .await
        .unwrap();
    assert_eq!(newest("!room").await.as_deref(), Some("$old"));
    receive(&*journal, &[refused("$1"), refused("$2"), refused("$1")]).await;
    assert_eq!(newest("!room").await.as_deref(), Some("$2"));
    assert_eq!(journal.forget(&agent(), LATER, 10).await.unwrap(), 2);
    assert_eq!(newest("!room").await.as_deref(), Some("$2"));
    assert_eq!(newest("!quiet").await.as_deref(), Some("$q"));
    assert_eq!(journal.newest(&other_agent(), &room("!room")).await.unwrap(), None);

    // However many there are, and whatever is brought in between.
    for number in 0..600 {
        receive(&*journal, &[refused(&format!("$many{number}"))]).await;
    }
    assert_eq!(newest("!room").await.as_deref(), Some("$many599"));
    journal.remember(&agent(), &[(room("!room"), event("$told"))]).await.unwrap();
    assert_eq!(newest("!room").await.as_deref(), Some("$told"), "it was told later");
    for number in 600..1200 {
        receive(&*journal, &[refused(&format!("$many{number}"))]).await;
    }
    journal.announce(&agent(), &delivery("own"), vec![message("news")]).await.unwrap();
    assert_eq!(newest("!room").await.as_deref(), Some("$many1199"));
    while journal.forget(&agent(), LATER, 100).await.unwrap() > 0 {}
    assert_eq!(newest("!room").await.as_deref(), Some("$many1199"));
    assert_eq!(newest("!quiet").await.as_deref(), Some("$q"));
}

pub(super) async fn no_number_is_given_twice_though_all_is_forgotten(journal: Ledger) {
    let handle = async |number: u8| {
        let sequence = arrive(&*journal, &format!("${number}")).await;
        let commit = says(ends(sequence, &format!("d{number}")), [message("x")]);
        let queued = journal.commit(writes(commit, [set("k", "x")])).await.unwrap();
        journal.sent(&agent(), queued[0].row, &Sent::GivenUp("no".into())).await.unwrap();
        let version = journal.get(&own(), "k").await.unwrap().unwrap().version;
        (sequence, queued[0].row, version)
    };
    let mut before = handle(0).await;
    for number in 1..4 {
        while journal.forget(&agent(), LATER, 10).await.unwrap() > 0 {}
        let after = handle(number).await;
        assert!(before.0 < after.0 && before.1 < after.1 && before.2 < after.2, "{before:?} {after:?}");
        before = after;
    }
}

fn locked(id: &str) -> Arrival {
    let mut arrival = said(id, "");
    arrival.event.reading = Reading::Locked(Locked {
        reason: "its key has not come".into(),
        key: Some("k".into()),
        raw: "{}".into(),
        at: 1,
        missed: true,
    });
    arrival
}

pub(super) async fn what_cannot_be_read_waits_apart_and_keeps_its_place(journal: Ledger) {
    let came = receive(&*journal, &[said("$1", "x"), locked("$2"), said("$3", "x"), locked("$4")]).await;
    let came: Vec<Sequence> = came.into_iter().map(Option::unwrap).collect();
    assert!(came.is_sorted());
    assert_eq!(pending(&*journal).await, ["$1", "$3"]);
    let waits = journal.locked(&agent()).await.unwrap();
    let ids: Vec<_> = waits.iter().map(|(at, _, event)| (*at, event.id.as_str())).collect();
    assert_eq!(ids, [(came[1], "$2"), (came[3], "$4")]);
    assert_eq!(waits[0].2.reading, locked("$2").event.reading);
    assert_eq!(journal.backlog(&agent()).await.unwrap().locked, 2);
    assert_eq!(journal.forget(&agent(), LATER, 10).await.unwrap(), 0);
    assert!(journal.locked(&other_agent()).await.unwrap().is_empty());
    assert!(!journal.unlock(&other_agent(), came[1], &said("$2", "x")).await.unwrap());

    assert!(journal.unlock(&agent(), came[1], &said("$2", "secret")).await.unwrap());
    assert_eq!(pending(&*journal).await, ["$1", "$2", "$3"]);
    assert!(!journal.unlock(&agent(), came[3], &refused("$4")).await.unwrap());
    assert_eq!(pending(&*journal).await, ["$1", "$2", "$3"]);
    assert!(journal.locked(&agent()).await.unwrap().is_empty());
    assert_eq!(receive(&*journal, &[said("$4", "x")]).await, [None], "it was given up");
}

pub(super) async fn what_is_read_after_all_is_handed_out_once(journal: Ledger) {
    let sequence = receive(&*journal, &[locked("$1")]).await[0].unwrap();
    assert_eq!(receive(&*journal, &[locked("$1")]).await, [None], "it waits already");
    // The same event comes again, and can be read.
    assert_eq!(receive(&*journal, &[said("$1", "x")]).await, [Some(sequence)]);
    assert!(!journal.unlock(&agent(), sequence, &said("$1", "x")).await.unwrap());
    assert_eq!(receive(&*journal, &[said("$1", "x")]).await, [None]);
    assert_eq!(pending(&*journal).await, ["$1"]);
    journal.commit(ends(sequence, "d1")).await.unwrap();
    assert!(!journal.unlock(&agent(), sequence, &said("$1", "x")).await.unwrap());
    assert!(pending(&*journal).await.is_empty());

    let sequence = receive(&*journal, &[locked("$2")]).await[0].unwrap();
    assert_eq!(receive(&*journal, &[refused("$2")]).await, [None]);
    assert!(!journal.unlock(&agent(), sequence, &said("$2", "x")).await.unwrap());
}
