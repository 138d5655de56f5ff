//! What is told of an event, and what is put away.

use super::*;
use crate::{
    audit::now,
    effect::MessageRef,
    journal::{Became, EffectKind, Happening, Last, Sent, Story, Tidy},
};

async fn story(journal: &dyn Journal, id: &str) -> Option<Story> {
    journal.story(&agent(), &event(id)).await.unwrap()
}

fn accepted(id: &str) -> Sent {
    Sent::Accepted { event: event(id), room: room("!room") }
}

/// Between `since` and now.
fn lately(at: Option<i64>, since: i64) -> bool {
    at.is_some_and(|at| (since..=now()).contains(&at))
}

pub(super) async fn an_event_tells_what_became_of_it(journal: Ledger) {
    let begun = now();
    assert_eq!(story(&*journal, "$1").await, None);
    let sequence = arrive(&*journal, "$1").await;
    let found = story(&*journal, "$1").await.unwrap();
    assert!(found.waits && found.deliveries.is_empty() && lately(found.received, begun), "{found:?}");
    assert_eq!((found.verdict, found.again), (Verdict::Allow, 0));
    assert_eq!((found.room, found.session), (room("!room"), session("lane")));
    receive(&*journal, &[said("$1", "again"), said("$1", "and again")]).await;
    assert_eq!(story(&*journal, "$1").await.unwrap().again, 2);

    let line = |line: &str| Some(line.to_owned());
    let mut first = Commit { ends_event: false, line: line("it crashed"), ..ends(sequence, "d1") };
    first.contribution.outcome = Outcome::Faulted;
    journal.commit(first).await.unwrap();
    let mut rests = Commit { ends_event: false, line: line("it rests"), ..ends(sequence, "d2") };
    rests.contribution.outcome = Outcome::Rested;
    rests.contribution.plugin = Some(plugin("other"));
    journal.commit(rests).await.unwrap();
    let mut own = ends(sequence, "d3");
    own.contribution.plugin = None;
    journal.commit(own).await.unwrap();
    let found = story(&*journal, "$1").await.unwrap();
    assert!(!found.waits);
    let told: Vec<_> = found
        .deliveries
        .iter()
        .map(|told| {
            assert!(lately(told.at, begun));
            (told.plugin.as_ref().map(PluginName::as_str), told.outcome, told.line.as_deref())
        })
        .collect();
    assert_eq!(
        told,
        [
            (Some("echo"), Outcome::Faulted, Some("it crashed")),
            (Some("other"), Outcome::Rested, Some("it rests")),
            (None, Outcome::Done, None)
        ]
    );
    assert_eq!(journal.story(&other_agent(), &event("$1")).await.unwrap(), None);
}

pub(super) async fn what_is_refused_tells_why_and_nothing_else(journal: Ledger) {
    let denials = [
        Denial::Own,
        Denial::NotListed,
        Denial::NotAddressed,
        Denial::Edit,
        Denial::Notice,
        Denial::Room,
        Denial::UnknownCommand,
        Denial::Undecryptable,
        Denial::Unheard,
    ];
    for (number, denial) in denials.into_iter().enumerate() {
        let id = format!("${number}");
        receive(&*journal, &[Arrival { verdict: Verdict::Deny(denial), ..said(&id, "secret") }]).await;
        let found = story(&*journal, &id).await.unwrap();
        assert_eq!(found.verdict, Verdict::Deny(denial));
        assert!(!found.waits && found.deliveries.is_empty());
        assert!(!format!("{found:?}").contains("secret"));
    }
}

pub(super) async fn an_effect_tells_what_became_of_it(journal: Ledger) {
    let begun = now();
    let to = || Target::Place(home("!room", None));
    let sequence = arrive(&*journal, "$1").await;
    let person = Target::Direct(UserId::parse("@bob:example.org").unwrap());
    let Effect::Send { body, .. } = message("secret") else { unreachable!() };
    let direct = Effect::Send { to: person, body, reply_to: None, name: None, takes_draft: false };
    let react = Effect::React { to: to(), message: MessageRef::Event(event("$1")), key: "👍".into() };
    let edit = Effect::Edit {
        to: to(),
        message: MessageRef::Event(event("$1")),
        body: Body::Plain("secret".into()),
    };
    let redact = Effect::Redact { to: to(), message: MessageRef::Event(event("$1")), reason: None };
    let all = [message("secret"), Effect::SetHome(home("!other", None)), direct, react, edit];
    let commit = helps(says(ends(sequence, "d1"), all), "tool", [redact]);
    let queued = journal.commit(commit).await.unwrap();
    let fates = async || {
        let mut story = story(&*journal, "$1").await.unwrap();
        assert!(!format!("{story:?}").contains("secret"));
        story.deliveries.remove(0).effects
    };
    let kinds: Vec<_> = fates().await.into_iter().map(|fate| (fate.ordinal, fate.kind.unwrap())).collect();
    assert_eq!(
        kinds,
        [
            (0, EffectKind::Message),
            (1, EffectKind::Home),
            (2, EffectKind::Message),
            (3, EffectKind::Reaction),
            (4, EffectKind::Edit),
            (5, EffectKind::Removal)
        ]
    );
    let waiting: Vec<_> = fates().await.into_iter().map(|fate| fate.became == Became::Waiting).collect();
    assert_eq!(waiting, [true, false, true, true, true, true]);
    journal.sent(&agent(), queued[0].row, &accepted("$sent")).await.unwrap();
    journal.sent(&agent(), queued[1].row, &Sent::GivenUp("M_FORBIDDEN: no".into())).await.unwrap();
    journal
        .sent(&agent(), queued[2].row, &Sent::Accepted { event: event("$r"), room: room("!room") })
        .await
        .unwrap();
    let after = fates().await;
    let to: Vec<_> = after.iter().map(|fate| fate.to.as_deref().unwrap()).collect();
    assert_eq!(to, ["!room", "!other", "@bob:example.org", "!room", "!room", "!room"]);
    let tools: Vec<_> = after.iter().map(|fate| fate.tool.is_some()).collect();
    assert_eq!(tools, [false, false, false, false, false, true]);
    assert!(
        matches!(&after[0].became, Became::Sent { event: id, at } if *id == event("$sent") && lately(*at, begun))
    );
    assert_eq!(after[1].became, Became::Done);
    assert!(
        matches!(&after[2].became, Became::GivenUp { reason, at } if reason == "M_FORBIDDEN: no" && lately(*at, begun))
    );
    assert!(matches!(&after[3].became, Became::Sent { event: id, .. } if *id == event("$r")));
    assert_eq!(after[4].became, Became::Waiting);
}

pub(super) async fn the_agents_own_message_tells_what_it_was_sent_for(journal: Ledger) {
    let queued = queue(&*journal, "d1", [message("a")]).await;
    journal.sent(&agent(), queued[0].row, &accepted("$ours")).await.unwrap();
    receive(&*journal, &[Arrival { verdict: Verdict::Deny(Denial::Own), ..said("$ours", "a") }]).await;
    assert_eq!(story(&*journal, "$ours").await.unwrap().sent_for, Some(event("$d1")));
    assert_eq!(story(&*journal, "$d1").await.unwrap().sent_for, None);
    // What the host says by itself is said for no event.
    let queued = journal.announce(&agent(), &delivery("own"), vec![message("b")]).await.unwrap();
    journal.sent(&agent(), queued[0].row, &accepted("$host")).await.unwrap();
    receive(&*journal, &[Arrival { verdict: Verdict::Deny(Denial::Own), ..said("$host", "b") }]).await;
    assert_eq!(story(&*journal, "$host").await.unwrap().sent_for, None);
}

pub(super) async fn what_happened_last_is_known(journal: Ledger) {
    let begun = now();
    let last = async || journal.last(&agent()).await.unwrap();
    assert_eq!(last().await, Last::default());
    let sequence = arrive(&*journal, "$1").await;
    arrive(&*journal, "$2").await;
    let own = Arrival { verdict: Verdict::Deny(Denial::Own), ..said("$own", "x") };
    receive(&*journal, &[refused("$3"), own, said("$1", "again")]).await;
    let found = last().await;
    let id = |of: Option<&Happening>| of.unwrap().event.clone();
    assert_eq!(
        (id(found.accepted.as_ref()), id(found.dropped.as_ref())),
        (Some(event("$2")), Some(event("$3")))
    );
    let dropped = found.dropped.unwrap();
    assert_eq!(dropped.why, Some(Denial::NotListed.to_string()));
    assert!(lately(Some(dropped.at), begun) && lately(found.oldest_event, begun));
    assert_eq!((dropped.room.as_str(), &found.acknowledged, found.oldest_effect), ("!room", &None, None));

    let queued = journal.commit(says(ends(sequence, "d1"), [message("a"), message("b"), message("c")])).await;
    let rows: Vec<_> = queued.unwrap().iter().map(|it| it.row).collect();
    assert!(lately(last().await.oldest_effect, begun));
    journal.sent(&agent(), rows[2], &accepted("$c")).await.unwrap();
    journal.sent(&agent(), rows[0], &accepted("$a")).await.unwrap();
    journal.sent(&agent(), rows[1], &Sent::GivenUp("no".into())).await.unwrap();
    let found = last().await;
    assert_eq!(id(found.acknowledged.as_ref()), Some(event("$a")), "the last note, not the last effect");
    assert_eq!(found.given_up.unwrap().why.as_deref(), Some("no"));
    assert_eq!(found.oldest_effect, None);
    assert_eq!(journal.last(&other_agent()).await.unwrap(), Last::default());
}

pub(super) async fn agents_are_listed(journal: Ledger) {
    assert!(journal.agents().await.unwrap().is_empty());
    journal.receive(&agent(), &[], &Position("here".into())).await.unwrap();
    journal.receive(&other_agent(), &[], &Position("here".into())).await.unwrap();
    assert_eq!(journal.agents().await.unwrap(), [other_agent(), agent()]);
}

pub(super) async fn what_nobody_needs_any_more_is_put_away(journal: Ledger) {
    const LATER: i64 = 100_000_000_000_000;
    let tidy = Tidy { drafts_before: 0, names: 2, announcements: 1, step: 2 };
    assert!(!journal.tidy(&agent(), tidy).await.unwrap(), "there is no agent yet");
    // A draft that nobody came back to, and one whose last text waits.
    journal.draft(&agent(), &delivery("gone"), Some(&event("$gone"))).await.unwrap();
    journal.draft(&agent(), &delivery("d0"), None).await.unwrap();
    queue(&*journal, "d0", [takes_draft()]).await;
    for number in 0..5 {
        let name = format!("n{number}");
        let queued = queue(&*journal, &format!("e{number}"), [named(&name)]).await;
        journal.sent(&agent(), queued[0].row, &accepted(&format!("$n{number}"))).await.unwrap();
        let said = delivery(&format!("host{number}"));
        let queued = journal.announce(&agent(), &said, vec![message("news")]).await.unwrap();
        if number > 0 {
            journal.sent(&agent(), queued[0].row, &accepted(&format!("$h{number}"))).await.unwrap();
        }
    }
    let mut encrypted = said("$secret", "x");
    encrypted.event.room = Room { id: room("!secret"), direct: false, encrypted: true };
    receive(&*journal, &[encrypted]).await;
    remember(&*journal, "kv", [set("k", "v")]).await;

    let named = async |name: &str| journal.named(&agent(), &plugin("echo"), name).await.unwrap().is_some();
    let drafted = async |of: &str| journal.drafted(&agent(), &delivery(of)).await.unwrap().is_some();
    // In steps, until there is nothing more.
    assert!(journal.tidy(&agent(), tidy).await.unwrap());
    assert!(named("n2").await, "the oldest go first");
    let mut steps = 1;
    while journal.tidy(&agent(), tidy).await.unwrap() {
        steps += 1;
        assert!(steps < 10);
    }
    let mut names = Vec::new();
    for number in 0..5 {
        names.push(named(&format!("n{number}")).await);
    }
    assert_eq!(names, [false, false, false, true, true]);
    assert!(drafted("gone").await && drafted("d0").await, "they are new");
    // What has not been sent is known, and so is the newest; what is older may be said again.
    for (number, again) in [(0, 0), (4, 0), (1, 1)] {
        let said = delivery(&format!("host{number}"));
        let queued = journal.announce(&agent(), &said, vec![message("news")]).await.unwrap();
        assert_eq!(queued.len(), again, "{number}");
    }

    let tidy = Tidy { drafts_before: LATER, ..tidy };
    while journal.tidy(&agent(), tidy).await.unwrap() {}
    assert!(!drafted("gone").await && drafted("d0").await);
    assert!(journal.was_encrypted(&agent(), &room("!secret")).await.unwrap());
    assert!(journal.get(&own(), "k").await.unwrap().is_some());
    assert_eq!(pending(&*journal).await, ["$secret"]);
    assert_eq!(journal.record_head().await.unwrap().count, 0);
}
