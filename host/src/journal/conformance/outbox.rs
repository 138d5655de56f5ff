//! What goes out, in what order, and what became of it.

use super::*;
use crate::{
    effect::{EffectId, MessageRef},
    journal::{Backlog, Known, Named, Sent},
};

fn sent(id: &str) -> Named {
    Named::Sent { event: event(id), room: room("!room"), file: false }
}

fn waits(id: EffectId) -> Named {
    Named::Waiting { id, to: Target::Place(home("!room", None)), file: false }
}

fn accepted(id: &str) -> Sent {
    Sent::Accepted { event: event(id), room: room("!room") }
}

fn given_up() -> Sent {
    Sent::GivenUp("M_FORBIDDEN".into())
}

fn effect(id: &str, ordinal: u32) -> EffectId {
    EffectId { delivery: delivery(id), ordinal: Some(ordinal) }
}

pub(super) async fn effects_wait_in_order_with_their_places(journal: Ledger) {
    let to = Target::Place(home("!room", Some("$root")));
    let effects = [
        message("first"),
        Effect::Edit {
            to: to.clone(),
            message: MessageRef::Effect(effect("d1", 0)),
            body: Body::Plain("e".into()),
        },
        Effect::React { to: to.clone(), message: MessageRef::Event(event("$1")), key: "👍".into() },
        Effect::Redact { to, message: MessageRef::Effect(effect("d0", 3)), reason: Some("r".into()) },
    ];
    let mut queued = queue(&*journal, "d1", effects.clone()).await;
    assert_eq!(queued.iter().map(|it| &it.effect).collect::<Vec<_>>(), effects.iter().collect::<Vec<_>>());
    assert_eq!(
        queued.iter().map(|it| it.id.clone()).collect::<Vec<_>>(),
        [0, 1, 2, 3].map(|n| effect("d1", n))
    );
    assert!(queued.iter().all(|it| it.plugin == Some(plugin("echo"))));
    assert!(queued.is_sorted_by_key(|it| it.row));

    queued.extend(queue(&*journal, "d2", [message("next")]).await);
    assert!(queued.is_sorted_by_key(|it| it.row));
    assert_eq!(journal.unsent(&agent()).await.unwrap(), queued);
}

pub(super) async fn a_home_is_set_and_not_sent(journal: Ledger) {
    assert_eq!(journal.home(&agent()).await.unwrap(), None);
    let [thread, whole] = [home("!room", Some("$root")), home("!other", None)];
    let queued = queue(&*journal, "d1", [message("a"), Effect::SetHome(thread.clone()), message("b")]).await;
    assert_eq!(queued.iter().map(|it| it.id.clone()).collect::<Vec<_>>(), [effect("d1", 0), effect("d1", 2)]);
    assert_eq!(journal.unsent(&agent()).await.unwrap(), queued);
    assert_eq!(journal.home(&agent()).await.unwrap(), Some(thread.clone()));
    let queued = queue(&*journal, "d2", [Effect::SetHome(thread), Effect::SetHome(whole.clone())]).await;
    assert!(queued.is_empty());
    assert_eq!(journal.home(&agent()).await.unwrap(), Some(whole), "the last one, thread and all");
}

pub(super) async fn what_was_sent_waits_no_more(journal: Ledger) {
    let queued = queue(&*journal, "d1", [message("a"), message("b"), message("c")]).await;
    assert_eq!(journal.event_of(&agent(), &effect("d1", 1)).await.unwrap(), None);
    journal.sent(&agent(), queued[1].row, &accepted("$b")).await.unwrap();
    assert_eq!(journal.event_of(&agent(), &effect("d1", 1)).await.unwrap(), Some(event("$b")));
    assert_eq!(journal.event_of(&agent(), &effect("d1", 0)).await.unwrap(), None);
    assert_eq!(journal.event_of(&agent(), &effect("d0", 1)).await.unwrap(), None);
    let waits: Vec<_> = journal.unsent(&agent()).await.unwrap().into_iter().map(|it| it.id).collect();
    assert_eq!(waits, [effect("d1", 0), effect("d1", 2)]);
    for queued in &queued {
        journal.sent(&agent(), queued.row, &accepted("$x")).await.unwrap();
    }
    let next = queue(&*journal, "d2", [message("d")]).await;
    assert!(next[0].row > queued[2].row, "a row never comes back");
}

pub(super) async fn what_was_given_up_became_nothing(journal: Ledger) {
    let queued = queue(&*journal, "d1", [named("n")]).await;
    journal.sent(&agent(), queued[0].row, &given_up()).await.unwrap();
    assert!(journal.unsent(&agent()).await.unwrap().is_empty());
    assert_eq!(journal.event_of(&agent(), &effect("d1", 0)).await.unwrap(), None);
    assert_eq!(journal.named(&agent(), &plugin("echo"), "n").await.unwrap(), None);
}

pub(super) async fn the_first_note_stands(journal: Ledger) {
    let queued = queue(&*journal, "d1", [named("n"), named("m")]).await;
    for sent in [accepted("$1"), accepted("$2"), given_up()] {
        journal.sent(&agent(), queued[0].row, &sent).await.unwrap();
    }
    for sent in [given_up(), accepted("$3")] {
        journal.sent(&agent(), queued[1].row, &sent).await.unwrap();
    }
    journal.sent(&agent(), queued[1].row + 1, &accepted("$4")).await.unwrap();
    assert_eq!(journal.event_of(&agent(), &effect("d1", 0)).await.unwrap(), Some(event("$1")));
    assert_eq!(journal.named(&agent(), &plugin("echo"), "n").await.unwrap(), Some(sent("$1")));
    assert_eq!(journal.event_of(&agent(), &effect("d1", 1)).await.unwrap(), None);
    assert_eq!(journal.named(&agent(), &plugin("echo"), "m").await.unwrap(), None);
}

pub(super) async fn a_note_of_another_agent_changes_nothing(journal: Ledger) {
    let queued = queue(&*journal, "d1", [message("a")]).await;
    journal.sent(&other_agent(), queued[0].row, &accepted("$1")).await.unwrap();
    assert_eq!(journal.unsent(&agent()).await.unwrap(), queued);
    assert_eq!(journal.event_of(&other_agent(), &effect("d1", 0)).await.unwrap(), None);
}

pub(super) async fn a_name_means_the_newest_message(journal: Ledger) {
    let name = async || journal.named(&agent(), &plugin("echo"), "status").await.unwrap();
    assert_eq!(name().await, None);
    let first = queue(&*journal, "d1", [named("status"), named("other")]).await;
    assert_eq!(name().await, Some(waits(effect("d1", 0))));
    let [first, other] = [0, 1].map(|n| first[n].row);
    journal.sent(&agent(), first, &accepted("$first")).await.unwrap();
    assert_eq!(name().await, Some(sent("$first")));
    let next = queue(&*journal, "d2", [named("status"), named("status"), named("status")]).await;
    let [second, third, last] = [0, 1, 2].map(|n| next[n].row);
    assert_eq!(name().await, Some(waits(effect("d2", 2))));
    journal.sent(&agent(), last, &given_up()).await.unwrap();
    assert_eq!(name().await, Some(waits(effect("d2", 1))));
    journal.sent(&agent(), third, &accepted("$third")).await.unwrap();
    journal.sent(&agent(), other, &accepted("$other")).await.unwrap();
    assert_eq!(name().await, Some(sent("$third")), "an older message still waits");
    journal.sent(&agent(), second, &accepted("$second")).await.unwrap();
    assert_eq!(name().await, Some(sent("$third")), "an older message, heard of late");
}

pub(super) async fn what_was_received_or_sent_is_known(journal: Ledger) {
    let known = async |id: &str| journal.known(&agent(), &event(id)).await.unwrap();
    let is = |by: Option<&str>| Some(Known { room: room("!room"), by: by.map(plugin), file: false });
    receive(&*journal, &[said("$1", "hello"), refused("$2")]).await;
    assert_eq!(known("$1").await, is(None));
    assert_eq!(known("$2").await, is(None), "what the gate refused is there, too");
    assert_eq!(known("$3").await, None);
    assert_eq!(journal.known(&other_agent(), &event("$1")).await.unwrap(), None);

    let react = Effect::React {
        to: Target::Place(home("!room", None)),
        message: MessageRef::Event(event("$1")),
        key: "👍".into(),
    };
    let queued = queue(&*journal, "d1", [message("a"), react]).await;
    journal.sent(&agent(), queued[0].row, &accepted("$ours")).await.unwrap();
    journal.sent(&agent(), queued[1].row, &accepted("$reaction")).await.unwrap();
    assert_eq!(known("$ours").await, is(Some("echo")));
    assert_eq!(known("$reaction").await, None, "it is no message");
    receive(&*journal, &[refused("$ours")]).await;
    assert_eq!(known("$ours").await, is(Some("echo")), "the chat brings it, too");
    assert_eq!(journal.known(&other_agent(), &event("$ours")).await.unwrap(), None);
}

pub(super) async fn a_name_belongs_to_its_plugin(journal: Ledger) {
    let ours = queue(&*journal, "d1", [named("n")]).await;
    journal.sent(&agent(), ours[0].row, &accepted("$ours")).await.unwrap();
    let by = async |id: &str, who: Option<&str>| {
        let sequence = arrive(&*journal, &format!("${id}")).await;
        let mut commit = says(ends(sequence, id), [named("n")]);
        commit.contribution.plugin = who.map(plugin);
        journal.commit(commit).await.unwrap()[0].row
    };
    let hosts = by("d2", None).await;
    journal.sent(&agent(), hosts, &accepted("$hosts")).await.unwrap();
    let theirs = by("d3", Some("other")).await;
    journal.sent(&agent(), theirs, &accepted("$theirs")).await.unwrap();
    assert_eq!(journal.named(&agent(), &plugin("echo"), "n").await.unwrap(), Some(sent("$ours")));
    assert_eq!(journal.named(&agent(), &plugin("other"), "n").await.unwrap(), Some(sent("$theirs")));
    assert_eq!(journal.named(&agent(), &plugin("third"), "n").await.unwrap(), None);
    assert_eq!(journal.named(&other_agent(), &plugin("echo"), "n").await.unwrap(), None);
}

pub(super) async fn a_draft_is_known_before_it_is_sent(journal: Ledger) {
    let draft = delivery("d1");
    let id = EffectId { delivery: draft.clone(), ordinal: None };
    assert_eq!(journal.drafted(&agent(), &draft).await.unwrap(), None);
    let noted = journal.draft(&agent(), &draft, None).await.unwrap();
    assert_eq!(noted.transaction, id.transaction());
    assert_eq!(noted.event, None);
    assert_eq!(journal.drafted(&agent(), &draft).await.unwrap(), Some(noted.clone()));
    assert_eq!(journal.draft(&agent(), &draft, None).await.unwrap(), noted);
    assert_eq!(journal.event_of(&agent(), &id).await.unwrap(), None);

    let sent = journal.draft(&agent(), &draft, Some(&event("$draft"))).await.unwrap();
    assert_eq!(sent.transaction, noted.transaction);
    assert_eq!(sent.event, Some(event("$draft")));
    assert_eq!(journal.draft(&agent(), &draft, None).await.unwrap(), sent, "it isn't forgotten");
    assert_eq!(journal.drafted(&agent(), &draft).await.unwrap(), Some(sent));
    assert_eq!(journal.event_of(&agent(), &id).await.unwrap(), Some(event("$draft")));

    let at_once = journal.draft(&agent(), &delivery("d2"), Some(&event("$other"))).await.unwrap();
    assert_eq!(journal.drafted(&agent(), &delivery("d2")).await.unwrap(), Some(at_once));
}

pub(super) async fn a_draft_waits_for_the_effect_that_takes_it(journal: Ledger) {
    let draft = delivery("d1");
    journal.draft(&agent(), &draft, None).await.unwrap();
    let queued = queue(&*journal, "d1", [message("a"), takes_draft()]).await;
    let noted = journal.draft(&agent(), &draft, Some(&event("$draft"))).await.unwrap();
    assert_eq!(noted.event, Some(event("$draft")), "heard of after the commit");
    journal.sent(&agent(), queued[0].row, &accepted("$a")).await.unwrap();
    assert_eq!(journal.drafted(&agent(), &draft).await.unwrap(), Some(noted));
    journal.sent(&agent(), queued[1].row, &accepted("$draft")).await.unwrap();
    assert_eq!(journal.drafted(&agent(), &draft).await.unwrap(), None);
    assert_eq!(journal.event_of(&agent(), &effect("d1", 1)).await.unwrap(), Some(event("$draft")));

    journal.draft(&agent(), &delivery("d2"), None).await.unwrap();
    let queued = queue(&*journal, "d2", [takes_draft()]).await;
    journal.sent(&agent(), queued[0].row, &given_up()).await.unwrap();
    assert_eq!(journal.drafted(&agent(), &delivery("d2")).await.unwrap(), None);
}

pub(super) async fn a_draft_that_nothing_takes_goes(journal: Ledger) {
    journal.draft(&agent(), &delivery("d1"), Some(&event("$1"))).await.unwrap();
    journal.draft(&agent(), &delivery("d2"), Some(&event("$2"))).await.unwrap();
    queue(&*journal, "d1", [message("a")]).await;
    assert_eq!(journal.drafted(&agent(), &delivery("d1")).await.unwrap(), None);
    assert!(journal.drafted(&agent(), &delivery("d2")).await.unwrap().is_some(), "another delivery's");
}

pub(super) async fn a_late_word_of_a_draft_is_not_kept(journal: Ledger) {
    queue(&*journal, "d1", [message("a")]).await;
    let late = journal.draft(&agent(), &delivery("d1"), Some(&event("$draft"))).await.unwrap();
    assert_eq!(late.event, Some(event("$draft")));
    assert_eq!(journal.drafted(&agent(), &delivery("d1")).await.unwrap(), None);
}

pub(super) async fn what_the_host_says_by_itself_is_queued_once(journal: Ledger) {
    let said = delivery("host.-");
    let queued = journal.announce(&agent(), &said, vec![message("a"), message("b")]).await.unwrap();
    assert_eq!(
        queued.iter().map(|it| &it.id).collect::<Vec<_>>(),
        [&effect("host.-", 0), &effect("host.-", 1)]
    );
    assert!(queued.iter().all(|it| it.plugin.is_none()));
    assert_eq!(journal.announce(&agent(), &said, vec![message("c")]).await.unwrap(), []);
    assert_eq!(journal.unsent(&agent()).await.unwrap(), queued);
    for it in &queued {
        journal.sent(&agent(), it.row, &accepted("$sent")).await.unwrap();
    }
    assert_eq!(journal.announce(&agent(), &said, vec![message("c")]).await.unwrap(), []);
    assert_eq!(journal.event_of(&agent(), &queued[1].id).await.unwrap(), Some(event("$sent")));
    // Agents say it each for themselves, and events go on as ever.
    assert_eq!(journal.announce(&other_agent(), &said, vec![message("a")]).await.unwrap().len(), 1);
    assert_eq!(pending(&*journal).await, [""; 0]);
    arrive(&*journal, "$1").await;
    assert_eq!(pending(&*journal).await, ["$1"]);
}

pub(super) async fn what_waits_is_counted(journal: Ledger) {
    assert_eq!(journal.backlog(&agent()).await.unwrap(), Backlog::default());
    let sequence = arrive(&*journal, "$1").await;
    arrive(&*journal, "$2").await;
    assert_eq!(journal.backlog(&agent()).await.unwrap(), Backlog { events: 2, effects: 0, locked: 0 });
    let queued = journal.commit(says(ends(sequence, "d1"), [message("a"), message("b")])).await.unwrap();
    assert_eq!(journal.backlog(&agent()).await.unwrap(), Backlog { events: 1, effects: 2, locked: 0 });
    journal.sent(&agent(), queued[0].row, &given_up()).await.unwrap();
    assert_eq!(journal.backlog(&agent()).await.unwrap(), Backlog { events: 1, effects: 1, locked: 0 });
    assert_eq!(journal.backlog(&other_agent()).await.unwrap(), Backlog::default());
}
