//! How versions of plugins stand, and what becomes of what they wrote.

use super::{
    timers::{cancel, comes_again, listed, set_timer, timer},
    *,
};
use crate::journal::{Decision, Error, Moved, Release, Tidy, Undone, Versions};
use crate::timer::Timer;

fn release(digest: &str) -> Release {
    Release { digest: digest.into(), version: Some(format!("{digest}.0.0")) }
}

fn echo() -> PluginName {
    plugin("echo")
}

async fn value(journal: &dyn Journal, key: &str) -> Option<String> {
    let stored = journal.get(&own(), key).await.unwrap();
    stored.map(|stored| String::from_utf8(stored.value).unwrap())
}

/// A version of `echo` does this at an event of its own.
async fn by(
    journal: &dyn Journal,
    digest: &str,
    id: &str,
    reads: Vec<Read>,
    them: impl IntoIterator<Item = Write>,
) -> Result<(), Error> {
    let sequence = arrive(journal, &format!("${id}")).await;
    let mut commit = super::reads(writes(ends(sequence, id), them), reads);
    commit.contribution.digest = Some(digest.into());
    journal.commit(commit).await.map(drop)
}

/// `a` was accepted and remembers `k` and `gone`; `b` is on trial.
async fn on_trial(journal: &dyn Journal) {
    journal.take_over(&echo(), &release("a"), false, None).await.unwrap();
    by(journal, "a", "0", vec![], [set("k", "old"), set("gone", "old")]).await.unwrap();
    journal.take_over(&echo(), &release("b"), true, None).await.unwrap();
}

pub(super) async fn a_version_is_accepted_at_once_or_after_its_trial(journal: Ledger) {
    assert_eq!(journal.versions(&echo()).await.unwrap(), Versions::default());
    on_trial(&*journal).await;
    let versions = journal.versions(&echo()).await.unwrap();
    assert_eq!((versions.accepted, versions.trial), (Some(release("a")), Some(release("b"))));
    by(&*journal, "b", "1", vec![], [set("k", "new")]).await.unwrap();
    assert_eq!(journal.decide(&echo(), Decision::Accepted).await.unwrap(), Undone::default());
    let versions = journal.versions(&echo()).await.unwrap();
    assert_eq!((versions.accepted, versions.trial), (Some(release("b")), None));
    assert_eq!(value(&*journal, "k").await.as_deref(), Some("new"));
    let undone = journal.decide(&echo(), Decision::RolledBack).await.unwrap();
    assert_eq!(undone, Undone::default(), "there is no trial");
    assert_eq!(value(&*journal, "k").await.as_deref(), Some("new"));
    assert_eq!(journal.versions(&plugin("other")).await.unwrap(), Versions::default());
}

pub(super) async fn what_a_version_on_trial_wrote_is_undone_with_it(journal: Ledger) {
    on_trial(&*journal).await;
    let before = journal.remembered(&agent(), &echo(), false).await.unwrap();
    let usage = journal.usage(&agent(), &echo()).await.unwrap();
    let others = Namespace { plugin: plugin("other"), ..own() };
    let other = Write { namespace: others.clone(), ..set("k", "other") };
    by(&*journal, "b", "1", vec![], [set("k", "1"), set("made", "1"), delete("gone"), other]).await.unwrap();
    by(&*journal, "b", "2", vec![], [set("k", "2"), set("gone", "again")]).await.unwrap();
    assert_eq!(value(&*journal, "k").await.as_deref(), Some("2"), "it reads what it wrote");
    assert_eq!(journal.remembered(&agent(), &echo(), true).await.unwrap(), before);
    assert_ne!(journal.remembered(&agent(), &echo(), false).await.unwrap(), before);

    let undone = journal.decide(&echo(), Decision::RolledBack).await.unwrap();
    assert_eq!(undone, Undone { keys: 3, timers: 0 });
    assert_eq!(journal.remembered(&agent(), &echo(), false).await.unwrap(), before, "with their versions");
    assert_eq!(journal.usage(&agent(), &echo()).await.unwrap(), usage);
    let versions = journal.versions(&echo()).await.unwrap();
    assert_eq!(
        versions,
        Versions { accepted: Some(release("a")), rejected: Some("b".into()), ..versions.clone() }
    );
    assert_eq!(versions.trial, None);
    assert_eq!(journal.remembering(&echo()).await.unwrap(), [agent()]);
}

pub(super) async fn what_may_be_gone_back_to_is_not_put_away(journal: Ledger) {
    on_trial(&*journal).await;
    let before = journal.remembered(&agent(), &echo(), false).await.unwrap();
    by(&*journal, "b", "1", vec![], [set("k", "1"), delete("gone")]).await.unwrap();
    let tidy = Tidy { drafts_before: i64::MAX, names: 0, announcements: 0, step: 100 };
    while journal.tidy(&agent(), tidy).await.unwrap() {}
    assert_eq!(journal.forget(&agent(), inbox::LATER, 100).await.unwrap(), 2, "both events");
    journal.forget_records(i64::MAX, 0, 100).await.unwrap();
    assert_eq!(journal.versions(&echo()).await.unwrap().trial, Some(release("b")));
    let undone = journal.decide(&echo(), Decision::RolledBack).await.unwrap();
    assert_eq!(undone, Undone { keys: 2, timers: 0 });
    assert_eq!(journal.remembered(&agent(), &echo(), false).await.unwrap(), before);
}

pub(super) async fn what_was_rolled_back_commits_nothing_more(journal: Ledger) {
    on_trial(&*journal).await;
    journal.decide(&echo(), Decision::RolledBack).await.unwrap();
    let late = by(&*journal, "b", "1", vec![], []).await;
    assert!(matches!(late, Err(Error::Conflict)));
    assert_eq!(pending(&*journal).await, ["$1"], "it is handled by another");
    by(&*journal, "a", "2", vec![], [set("k", "1")]).await.unwrap();
    journal.decide(&echo(), Decision::Forgiven).await.unwrap();
    assert_eq!(journal.versions(&echo()).await.unwrap().rejected, None);
    journal.take_over(&echo(), &release("b"), true, None).await.unwrap();
    by(&*journal, "b", "3", vec![], [set("k", "2")]).await.unwrap();
}

pub(super) async fn what_another_takes_the_place_of_stays_if_it_was_used(journal: Ledger) {
    on_trial(&*journal).await;
    assert!(!journal.versions(&echo()).await.unwrap().used);
    // Whatever others do meanwhile.
    by(&*journal, "a", "1", vec![], [set("other", "1")]).await.unwrap();
    assert_eq!(journal.decide(&echo(), Decision::Superseded).await.unwrap(), Undone::default());
    let versions = journal.versions(&echo()).await.unwrap();
    assert_eq!(versions, Versions { accepted: Some(release("a")), ..Versions::default() });

    journal.take_over(&echo(), &release("b"), true, None).await.unwrap();
    by(&*journal, "b", "2", vec![], [set("k", "new")]).await.unwrap();
    assert!(journal.versions(&echo()).await.unwrap().used);
    journal.decide(&echo(), Decision::Superseded).await.unwrap();
    let versions = journal.versions(&echo()).await.unwrap();
    assert_eq!(versions, Versions { accepted: Some(release("b")), ..Versions::default() });
    assert_eq!(value(&*journal, "k").await.as_deref(), Some("new"));
}

pub(super) async fn what_is_withdrawn_is_undone_and_may_come_again(journal: Ledger) {
    on_trial(&*journal).await;
    let before = journal.remembered(&agent(), &echo(), false).await.unwrap();
    by(&*journal, "b", "1", vec![], [set("k", "new"), set("made", "1")]).await.unwrap();
    let undone = journal.decide(&echo(), Decision::Withdrawn).await.unwrap();
    assert_eq!(undone, Undone { keys: 2, timers: 0 });
    assert_eq!(journal.remembered(&agent(), &echo(), false).await.unwrap(), before);
    let versions = journal.versions(&echo()).await.unwrap();
    assert_eq!(versions, Versions { accepted: Some(release("a")), ..Versions::default() });
    journal.take_over(&echo(), &release("b"), true, None).await.unwrap();
    by(&*journal, "b", "2", vec![], [set("k", "again")]).await.unwrap();
}

pub(super) async fn a_handler_of_before_does_not_rest_on_what_may_be_undone(journal: Ledger) {
    on_trial(&*journal).await;
    by(&*journal, "a", "1", vec![], [set("other", "1")]).await.unwrap();
    by(&*journal, "b", "2", vec![], [set("k", "new")]).await.unwrap();
    let read = read(&*journal, "k").await;
    assert!(matches!(by(&*journal, "a", "3", vec![read], []).await, Err(Error::Conflict)));
    assert!(matches!(by(&*journal, "a", "4", vec![], [set("k", "blind")]).await, Err(Error::Conflict)));
    let query = crate::journal::KeyQuery { prefix: String::new(), after: None, limit: 10 };
    let found = journal.keys(&own(), &query).await.unwrap();
    let list = Read::Keys { namespace: own(), query, found };
    assert!(matches!(by(&*journal, "a", "5", vec![list], []).await, Err(Error::Conflict)));
    by(&*journal, "a", "6", vec![], [set("other", "2")]).await.unwrap();
    by(&*journal, "a", "7", vec![], []).await.unwrap();
}

/// A version of `echo` does this about timers, and has read that.
async fn about_timers(
    journal: &dyn Journal,
    digest: &str,
    id: &str,
    read: Option<Read>,
    them: impl IntoIterator<Item = Effect>,
) -> Result<(), Error> {
    let sequence = arrive(journal, &format!("${id}")).await;
    let mut commit = reads(says(ends(sequence, id), them), read);
    commit.contribution.digest = Some(digest.into());
    journal.commit(commit).await.map(drop)
}

async fn list(journal: &dyn Journal, lane: &str) -> Read {
    let (agent, plugin, session) = (agent(), echo(), session(lane));
    let found = journal.timers(&agent, &plugin, &session).await.unwrap();
    Read::Timers { agent, plugin, session, found }
}

pub(super) async fn timers_of_a_version_on_trial_are_as_they_were_without_it(journal: Ledger) {
    let journal = &*journal;
    journal.take_over(&echo(), &release("a"), false, None).await.unwrap();
    let [kept, gone, other] = [("1", "kept", 10), ("2", "gone", 20), ("3", "other", 30)]
        .map(|(id, key, next)| timer(id, "lane", key, next));
    about_timers(journal, "a", "1", None, [&kept, &gone, &other].map(set_timer)).await.unwrap();
    journal.take_over(&echo(), &release("b"), true, None).await.unwrap();
    let made = [timer("4", "lane", "made", 5), timer("5", "lane", "other", 6)];
    about_timers(journal, "b", "2", None, made.iter().map(set_timer)).await.unwrap();
    let again = timer("6", "lane", "other", 7);
    about_timers(journal, "b", "3", None, [cancel("lane", "gone"), set_timer(&again)]).await.unwrap();
    assert_eq!(listed(journal, "lane").await, ["made 5", "other 7", "kept 10"]);

    // A handler of the version before does not rest on what may be undone.
    let read = list(journal, "lane").await;
    assert!(matches!(about_timers(journal, "a", "4", Some(read), []).await, Err(Error::Conflict)));
    let blind = about_timers(journal, "a", "5", None, [cancel("lane", "other")]).await;
    assert!(matches!(blind, Err(Error::Conflict)));
    let elsewhere = list(journal, "elsewhere").await;
    about_timers(journal, "a", "6", Some(elsewhere), []).await.unwrap();
    // What was due meanwhile is over.
    journal.fire(&agent(), &kept, Some(100), None).await.unwrap();
    journal.fire(&agent(), &again, None, None).await.unwrap();
    let undone = journal.decide(&echo(), Decision::RolledBack).await.unwrap();
    assert_eq!(undone, Undone { keys: 0, timers: 3 });
    assert_eq!(listed(journal, "lane").await, ["gone 20", "other 30", "kept 100"]);
    let read = list(journal, "lane").await;
    about_timers(journal, "a", "7", Some(read), [cancel("lane", "gone")]).await.unwrap();

    journal.take_over(&echo(), &release("c"), true, None).await.unwrap();
    about_timers(journal, "c", "8", None, [cancel("lane", "kept")]).await.unwrap();
    journal.decide(&echo(), Decision::Accepted).await.unwrap();
    journal.decide(&echo(), Decision::RolledBack).await.unwrap();
    assert_eq!(listed(journal, "lane").await, ["other 30"]);
}

pub(super) async fn what_was_due_during_a_trial_is_not_due_again_after_it(journal: Ledger) {
    const MINUTE: u64 = 60_000;
    let journal = &*journal;
    journal.take_over(&echo(), &release("a"), false, None).await.unwrap();
    let before = ["once", "every", "earlier", "later"].map(|key| timer("1", "lane", key, 10));
    let [once, every, earlier, later] = before;
    let every = comes_again(every);
    let later = Timer { next: 30, ..later };
    about_timers(journal, "a", "1", None, [&once, &every, &earlier, &later].map(set_timer)).await.unwrap();
    journal.take_over(&echo(), &release("b"), true, None).await.unwrap();
    let [once, every, later] =
        [&once, &every, &later].map(|of| Timer { id: "2".into(), next: 20, ..of.clone() });
    let effects = [set_timer(&once), set_timer(&every), set_timer(&later), cancel("lane", "earlier")];
    about_timers(journal, "b", "2", None, effects).await.unwrap();
    journal.fire(&agent(), &once, None, None).await.unwrap();
    journal.fire(&agent(), &every, Some(MINUTE), None).await.unwrap();
    journal.fire(&agent(), &later, None, None).await.unwrap();
    let undone = journal.decide(&echo(), Decision::RolledBack).await.unwrap();
    assert_eq!(undone, Undone { keys: 0, timers: 4 });
    // Nobody has heard of what was cancelled, and the later one is due yet.
    assert_eq!(listed(journal, "lane").await, ["earlier 10", "later 30", "every 60000"]);
}

pub(super) async fn what_is_remembered_is_moved_with_the_version_and_back_with_it(journal: Ledger) {
    on_trial(&*journal).await;
    let before = journal.remembered(&agent(), &echo(), false).await.unwrap();
    let moved = |of: &[crate::journal::Remembered]| Moved {
        agent: agent(),
        seen: of.iter().map(|it| (it.namespace.clone(), it.key.clone(), it.stored.version)).collect(),
        writes: vec![delete("k"), set("moved", "old")],
    };
    journal.take_over(&echo(), &release("c"), true, Some(vec![moved(&before)])).await.unwrap();
    assert_eq!(value(&*journal, "moved").await.as_deref(), Some("old"));
    // Whoever does not know the new shape comes too late.
    assert!(matches!(by(&*journal, "a", "1", vec![], [set("blind", "1")]).await, Err(Error::Conflict)));
    by(&*journal, "a", "2", vec![], []).await.unwrap();
    by(&*journal, "c", "3", vec![], [set("moved", "new")]).await.unwrap();
    journal.decide(&echo(), Decision::RolledBack).await.unwrap();
    assert_eq!(journal.remembered(&agent(), &echo(), false).await.unwrap(), before);
    by(&*journal, "a", "4", vec![], [set("k", "1")]).await.unwrap();

    // What has changed meanwhile is not moved.
    let late = journal.take_over(&echo(), &release("c"), true, Some(vec![moved(&before)])).await;
    assert!(matches!(late, Err(Error::Conflict)));
    assert_eq!(value(&*journal, "moved").await, None);
    let now = journal.remembered(&agent(), &echo(), false).await.unwrap();
    journal.take_over(&echo(), &release("c"), true, Some(vec![moved(&now)])).await.unwrap();
    journal.decide(&echo(), Decision::Accepted).await.unwrap();
    assert!(matches!(by(&*journal, "a", "5", vec![], [set("blind", "1")]).await, Err(Error::Conflict)));
}

pub(super) async fn what_appears_while_a_version_moves_is_moved_too(journal: Ledger) {
    let journal = &*journal;
    journal.take_over(&echo(), &release("a"), false, None).await.unwrap();
    // There was nothing when it looked.
    by(journal, "a", "1", vec![], [set("k", "1")]).await.unwrap();
    let late = journal.take_over(&echo(), &release("b"), true, Some(vec![])).await;
    assert!(matches!(late, Err(Error::Conflict)));
    assert_eq!(journal.versions(&echo()).await.unwrap().trial, None);
    let whole = |of: &[crate::journal::Remembered]| Moved {
        agent: agent(),
        seen: of.iter().map(|it| (it.namespace.clone(), it.key.clone(), it.stored.version)).collect(),
        writes: vec![],
    };
    let seen = whole(&journal.remembered(&agent(), &echo(), false).await.unwrap());
    journal.take_over(&echo(), &release("b"), true, Some(vec![seen])).await.unwrap();
    journal.decide(&echo(), Decision::Accepted).await.unwrap();
    by(journal, "b", "2", vec![], [delete("k")]).await.unwrap();

    // Nothing is there when it takes over: what a handler of before remembers then is in no shape that it knows.
    journal.take_over(&echo(), &release("c"), true, Some(vec![])).await.unwrap();
    assert!(matches!(by(journal, "b", "3", vec![], [set("k", "old")]).await, Err(Error::Conflict)));
    by(journal, "c", "4", vec![], [set("k", "new")]).await.unwrap();
}

pub(super) async fn a_straggler_writes_only_in_the_shape_that_there_is(journal: Ledger) {
    let journal = &*journal;
    let accepted = async |digest: &str, moved| {
        journal.take_over(&echo(), &release(digest), true, moved).await.unwrap();
        journal.decide(&echo(), Decision::Accepted).await.unwrap();
    };
    let tries = std::cell::Cell::new(0);
    let may = async |digest: &str| {
        tries.set(tries.get() + 1);
        let (id, made) = (tries.get().to_string(), format!("{digest}{}", tries.get()));
        // It leaves nothing to be moved.
        let done = by(journal, digest, &id, vec![], [delete(&made)]).await;
        assert!(matches!(done, Ok(()) | Err(Error::Conflict)), "{done:?}");
        done.is_ok()
    };
    journal.take_over(&echo(), &release("a"), false, None).await.unwrap();
    accepted("b", Some(vec![])).await;
    accepted("c", None).await;
    assert!(!may("a").await, "b moved what it knew");
    assert!(may("b").await, "who began finishes");
    assert!(may("c").await);
    for broken in ["d", "e"] {
        journal.take_over(&echo(), &release(broken), true, Some(vec![])).await.unwrap();
        assert!(!may("c").await && may(broken).await);
        journal.decide(&echo(), Decision::RolledBack).await.unwrap();
        assert!(!may("a").await && may("b").await && may("c").await);
    }
    assert!(!may("d").await && !may("e").await, "nor who was rolled back");
    by(journal, "a", "nothing", vec![], []).await.unwrap();
}
