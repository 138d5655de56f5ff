//! Timers are set with what a handler did, and become events once.

use super::*;
use crate::{
    event::Kind,
    journal::Error,
    settings::Role,
    timer::{CatchUp, Fired, Rhythm, Timer},
};

/// A timer of the plugin `echo`, of this setting.
pub(in crate::journal) fn timer(id: &str, lane: &str, key: &str, next: u64) -> Timer {
    let Event { room, sender, .. } = said("$any", "").event;
    Timer {
        id: id.into(),
        plugin: plugin("echo"),
        session: session(lane),
        key: key.into(),
        room,
        thread: None,
        sender,
        role: Role::User,
        payload: "the payload".into(),
        rhythm: Rhythm::Once,
        catch_up: CatchUp::Once,
        next,
    }
}

pub(super) fn comes_again(timer: Timer) -> Timer {
    let rhythm = Rhythm::Every { cron: "* * * * *".into(), zone: "UTC".into() };
    Timer { rhythm, ..timer }
}

pub(in crate::journal) fn set_timer(timer: &Timer) -> Effect {
    Effect::SetTimer(Box::new(timer.clone()))
}

pub(super) fn cancel(lane: &str, key: &str) -> Effect {
    Effect::CancelTimer { session: session(lane), key: key.into() }
}

/// A timer as the event that it becomes.
pub(in crate::journal) fn due(id: &str, timer: &Timer) -> Arrival {
    let fired = Fired { timer: timer.clone(), due: timer.next, missed: 0 };
    let event = Event { kind: Kind::Timer(Box::new(fired)), ..said(id, "").event };
    Arrival { event, verdict: Verdict::Allow, session: timer.session.clone() }
}

pub(super) async fn listed(journal: &dyn Journal, lane: &str) -> Vec<String> {
    let timers = journal.timers(&agent(), &plugin("echo"), &session(lane)).await.unwrap();
    timers.into_iter().map(|timer| format!("{} {}", timer.key, timer.next)).collect()
}

async fn next(journal: &dyn Journal) -> Option<u64> {
    let next = journal.next_timers(&agent()).await.unwrap();
    next.into_iter().find(|(of, _)| *of == plugin("echo")).map(|(_, next)| next)
}

pub(super) async fn a_timer_is_set_and_cancelled_with_the_commit(journal: Ledger) {
    let [a, b] = [timer("d1.0", "lane", "a", 30), timer("d1.1", "lane", "b", 20)];
    let elsewhere = timer("d1.2", "other", "a", 10);
    let theirs = Timer { plugin: plugin("roll"), ..timer("d1.3", "lane", "a", 5) };
    let sequence = arrive(&*journal, "$1").await;
    let effects = [&a, &b, &elsewhere].map(set_timer);
    let commit = helps(says(ends(sequence, "d1"), effects), "roll", [set_timer(&theirs), message("x")]);
    // Nothing of it is sent, but for the message.
    assert_eq!(journal.commit(commit).await.unwrap().len(), 1);
    assert_eq!(journal.timers(&agent(), &plugin("echo"), &session("lane")).await.unwrap(), [b, a]);
    assert_eq!(listed(&*journal, "other").await, ["a 10"]);
    assert_eq!(journal.timer_count(&agent(), &plugin("echo")).await.unwrap(), 3);
    assert_eq!(journal.timer_count(&other_agent(), &plugin("echo")).await.unwrap(), 0);
    let first = journal.next_timers(&agent()).await.unwrap();
    assert_eq!(first, [(plugin("echo"), 10), (plugin("roll"), 5)]);

    // A tool cancels its own, and no other plugin's.
    let sequence = arrive(&*journal, "$2").await;
    let again = timer("d2.0", "lane", "b", 40);
    let effects = [set_timer(&again), cancel("lane", "never"), cancel("other", "a")];
    let commit = helps(says(ends(sequence, "d2"), effects), "roll", [cancel("lane", "a")]);
    journal.commit(commit).await.unwrap();
    assert_eq!(listed(&*journal, "lane").await, ["a 30", "b 40"]);
    assert!(listed(&*journal, "other").await.is_empty());
    assert_eq!(journal.timer_count(&agent(), &plugin("roll")).await.unwrap(), 0);
}

pub(super) async fn a_commit_that_fails_sets_no_timer(journal: Ledger) {
    let sequence = arrive(&*journal, "$1").await;
    remember(&*journal, "0", [set("k", "1")]).await;
    let stale = Read::Key { namespace: own(), key: "k".into(), version: None };
    let sets = says(ends(sequence, "d1"), [set_timer(&timer("d1.0", "lane", "a", 30))]);
    assert!(matches!(journal.commit(reads(sets.clone(), [stale])).await, Err(Error::Conflict)));
    assert_eq!(next(&*journal).await, None);
    journal.commit(sets.clone()).await.unwrap();
    // A delivery that was committed before sets nothing again.
    let sequence = arrive(&*journal, "$2").await;
    journal.commit(says(ends(sequence, "d2"), [cancel("lane", "a")])).await.unwrap();
    journal.commit(sets).await.unwrap();
    assert_eq!(next(&*journal).await, None);
}

pub(super) async fn a_changed_list_of_timers_is_a_conflict(journal: Ledger) {
    let look = async || {
        let found = journal.timers(&agent(), &plugin("echo"), &session("lane")).await.unwrap();
        Read::Timers { agent: agent(), plugin: plugin("echo"), session: session("lane"), found }
    };
    let nothing = look().await;
    let first = timer("q.0", "lane", "a", 30);
    queue(&*journal, "q", [set_timer(&first), set_timer(&timer("q.1", "other", "a", 30))]).await;
    let one = look().await;
    let sequence = arrive(&*journal, "$2").await;
    let mut tries = 0;
    let mut commit = async |read: &Read| {
        tries += 1;
        let commit = Commit { ends_event: false, ..ends(sequence, &format!("try{tries}")) };
        journal.commit(reads(commit, [read.clone()])).await.map(drop)
    };
    assert!(matches!(commit(&nothing).await, Err(Error::Conflict)));
    commit(&one).await.unwrap();
    journal.fire(&agent(), &first, None, None).await.unwrap();
    assert!(matches!(commit(&one).await, Err(Error::Conflict)));
    commit(&nothing).await.unwrap();
}

pub(super) async fn a_timer_that_is_due_becomes_an_event_once(journal: Ledger) {
    let once = timer("q.0", "lane", "once", 20);
    let again = comes_again(timer("q.1", "lane", "again", 10));
    let later = timer("q.2", "lane", "later", 21);
    queue(&*journal, "q", [&once, &again, &later].map(set_timer)).await;
    let found = journal.due_timers(&agent(), &plugin("echo"), 20, 10).await.unwrap();
    assert_eq!(found, [again.clone(), once.clone()]);
    assert_eq!(journal.due_timers(&agent(), &plugin("echo"), 20, 1).await.unwrap(), found[..1]);
    assert!(journal.due_timers(&agent(), &plugin("roll"), 20, 10).await.unwrap().is_empty());

    let fire = async |timer: &Timer, next, arrival: &Arrival| {
        journal.fire(&agent(), timer, next, Some(arrival)).await.unwrap()
    };
    let first = fire(&again, Some(70), &due("$t1", &again)).await.unwrap();
    // Twice by mistake: it has moved on.
    assert_eq!(fire(&again, Some(70), &due("$t2", &again)).await, None);
    let second = fire(&once, None, &due("$t3", &once)).await.unwrap();
    assert_eq!(fire(&once, None, &due("$t4", &once)).await, None);
    assert!(second > first);
    assert_eq!(listed(&*journal, "lane").await, ["later 21", "again 70"]);

    let found = journal.pending(&agent(), Some(&session("lane")), None, 10).await.unwrap();
    assert_eq!(found.iter().map(|pending| pending.sequence).collect::<Vec<_>>(), [first, second]);
    let Kind::Timer(fired) = &found[0].event.kind else { panic!("{:?}", found[0].event) };
    assert_eq!((&fired.timer, fired.due), (&again, 10));
    // Its id is that of none: nothing can refer to it.
    assert_eq!(journal.known(&agent(), &event("$t1")).await.unwrap(), None);
    // It is committed as any event, and ends.
    journal.commit(says(ends(first, "d1"), [message("x")])).await.unwrap();
    assert_eq!(pending(&*journal).await, ["$t3"]);
}

pub(super) async fn a_timer_that_may_not_pass_moves_on_all_the_same(journal: Ledger) {
    let again = comes_again(timer("q.0", "lane", "again", 10));
    let once = timer("q.1", "lane", "once", 20);
    queue(&*journal, "q", [&again, &once].map(set_timer)).await;
    let verdict = Verdict::Deny(Denial::Role);
    let refused = Arrival { verdict, ..due("$t1", &again) };
    assert_eq!(journal.fire(&agent(), &again, Some(70), Some(&refused)).await.unwrap(), None);
    // What is left out is no event at all.
    assert_eq!(journal.fire(&agent(), &once, None, None).await.unwrap(), None);
    assert!(pending(&*journal).await.is_empty());
    assert_eq!(listed(&*journal, "lane").await, ["again 70"]);
}

pub(super) async fn a_timer_that_nobody_could_handle_is_put_back(journal: Ledger) {
    let once = timer("q.0", "lane", "once", 10);
    let again = comes_again(timer("q.1", "lane", "again", 10));
    let gone = comes_again(timer("q.2", "lane", "gone", 10));
    let replaced = timer("q.3", "lane", "replaced", 10);
    let all = [once, again, gone, replaced];
    queue(&*journal, "q", all.iter().map(set_timer)).await;
    let mut sequences = Vec::new();
    for timer in &all {
        let next = (timer.rhythm != Rhythm::Once).then_some(70);
        let id = format!("${}", timer.key);
        let fired = journal.fire(&agent(), timer, next, Some(&due(&id, timer))).await.unwrap();
        sequences.push(fired.unwrap());
    }
    // Meanwhile one is cancelled, and another has the name of one that is over.
    queue(&*journal, "r", [cancel("lane", "gone"), set_timer(&timer("r.1", "lane", "replaced", 99))]).await;
    for (timer, sequence) in all.iter().zip(sequences) {
        let own = Commit::own(
            agent(),
            sequence,
            delivery(&format!("back-{}", timer.key)),
            vec![Effect::PutBack(Box::new(timer.clone()))],
        );
        journal.commit(own).await.unwrap();
    }
    assert_eq!(listed(&*journal, "lane").await, ["again 10", "once 10", "replaced 99"]);
    assert!(pending(&*journal).await.is_empty());
}

pub(super) async fn of_several_times_that_nobody_could_handle_none_is_lost(journal: Ledger) {
    let timer = comes_again(timer("q.0", "lane", "again", 10));
    queue(&*journal, "q", [set_timer(&timer)]).await;
    let mut fired = Vec::new();
    for time in [10, 70, 130] {
        let timer = Timer { next: time, ..timer.clone() };
        let arrival = due(&format!("${time}"), &timer);
        let sequence = journal.fire(&agent(), &timer, Some(time + 60), Some(&arrival)).await.unwrap();
        fired.push((sequence.unwrap(), timer));
    }
    assert_eq!(listed(&*journal, "lane").await, ["again 190"]);
    for (sequence, timer) in fired {
        let id = delivery(&format!("back-{}", timer.next));
        let back = vec![Effect::PutBack(Box::new(timer))];
        journal.commit(Commit::own(agent(), sequence, id, back)).await.unwrap();
    }
    assert_eq!(listed(&*journal, "lane").await, ["again 10"], "the others come after it");
}

pub(super) async fn a_timer_is_forgotten_as_an_event_and_is_none_of_its_room(journal: Ledger) {
    let forget = async || journal.forget(&agent(), inbox::LATER, 10).await.unwrap();
    let newest = async || journal.newest(&agent(), &room("!room")).await.unwrap();
    let [passes, refused] = ["passes", "refused"].map(|key| timer("q.0", "lane", key, 10));
    queue(&*journal, "q", [&passes, &refused].map(set_timer)).await;
    let before = newest().await;
    assert!(before.is_some());
    assert_eq!(forget().await, 1, "what set them");
    let sequence = journal.fire(&agent(), &passes, None, Some(&due("$t1", &passes))).await.unwrap();
    let denied = Arrival { verdict: Verdict::Deny(Denial::Role), ..due("$t2", &refused) };
    journal.fire(&agent(), &refused, None, Some(&denied)).await.unwrap();
    assert_eq!(newest().await, before);
    assert_eq!(forget().await, 1, "the one that was refused");
    assert_eq!(pending(&*journal).await, ["$t1"]);
    journal.commit(says(ends(sequence.unwrap(), "d1"), [])).await.unwrap();
    assert_eq!(forget().await, 1);
}
