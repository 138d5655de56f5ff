//! Files that go out: how long they are kept, and where they were uploaded to.

use super::*;
use crate::{
    event::MediaSource,
    journal::{Known, Named, Sent},
};

fn accepted(id: &str) -> Sent {
    Sent::Accepted { event: event(id), room: room("!room") }
}

fn sends(mut commit: Commit, files: &[&[u8]]) -> Commit {
    commit.contribution.files.extend(files.iter().map(|bytes| blob(bytes)));
    says(commit, files.iter().map(|bytes| file(bytes, None)))
}

async fn kept(journal: &dyn Journal, of: &str, bytes: &[u8]) -> bool {
    let found = journal.blob(&agent(), &delivery(of), &blob(bytes).digest).await.unwrap();
    assert!(found.as_deref().is_none_or(|found| found == bytes));
    found.is_some()
}

pub(super) async fn a_file_is_kept_until_no_effect_needs_it(journal: Ledger) {
    let sequence = arrive(&*journal, "$1").await;
    // The one file goes to three places, and stands in the ledger once.
    let queued = journal.commit(sends(ends(sequence, "d1"), &[b"one", b"other", b"one"])).await.unwrap();
    let effects = journal.unsent(&agent()).await.unwrap();
    assert_eq!(effects, queued);
    assert_eq!(journal.blobs(&agent(), &plugin("echo")).await.unwrap(), 8);
    assert!(kept(&*journal, "d1", b"one").await && kept(&*journal, "d1", b"other").await);
    assert!(!kept(&*journal, "d1", b"none").await);
    journal.sent(&agent(), queued[0].row, &accepted("$a")).await.unwrap();
    assert!(kept(&*journal, "d1", b"one").await, "another effect needs it");
    journal.sent(&agent(), queued[2].row, &Sent::GivenUp("M_TOO_LARGE".into())).await.unwrap();
    assert!(!kept(&*journal, "d1", b"one").await && kept(&*journal, "d1", b"other").await);
    journal.sent(&agent(), queued[1].row, &accepted("$b")).await.unwrap();
    assert!(!kept(&*journal, "d1", b"other").await);
    assert_eq!(journal.blobs(&agent(), &plugin("echo")).await.unwrap(), 0);

    // What conflicts keeps nothing.
    let stale = Read::Key { namespace: own(), key: "k".into(), version: Some(1) };
    let sequence = arrive(&*journal, "$2").await;
    let refused = journal.commit(reads(sends(ends(sequence, "d2"), &[b"one"]), [stale])).await;
    assert!(refused.is_err() && !kept(&*journal, "d2", b"one").await);
}

pub(super) async fn a_file_is_its_deliverys_and_counts_as_its_plugins(journal: Ledger) {
    for id in ["1", "2"] {
        let sequence = arrive(&*journal, &format!("${id}")).await;
        let mut commit = sends(ends(sequence, id), &[b"same"]);
        if id == "2" {
            commit = helps(commit, "roll", [file(b"a tool's", None)]);
            commit.tools[0].files.push(blob(b"a tool's"));
        }
        journal.commit(commit).await.unwrap();
    }
    assert_eq!(journal.blobs(&agent(), &plugin("echo")).await.unwrap(), 8);
    assert_eq!(journal.blobs(&agent(), &plugin("roll")).await.unwrap(), 8);
    assert_eq!(journal.blobs(&other_agent(), &plugin("echo")).await.unwrap(), 0);
    assert!(journal.blob(&other_agent(), &delivery("1"), &blob(b"same").digest).await.unwrap().is_none());
    let first = journal.unsent(&agent()).await.unwrap().remove(0);
    journal.sent(&agent(), first.row, &accepted("$a")).await.unwrap();
    assert!(!kept(&*journal, "1", b"same").await && kept(&*journal, "2", b"same").await);
    assert!(kept(&*journal, "2", b"a tool's").await && !kept(&*journal, "1", b"a tool's").await);
}

pub(super) async fn where_a_file_was_uploaded_to_is_kept_until_it_is_sent(journal: Ledger) {
    let sequence = arrive(&*journal, "$1").await;
    let queued = journal.commit(sends(ends(sequence, "d1"), &[b"one", b"one"])).await.unwrap();
    let [one, other] = [queued[0].row, queued[1].row];
    assert_eq!(journal.staged(&agent(), one).await.unwrap(), None);
    let [first, last] = ["mxc://a/b", "mxc://a/c"].map(MediaSource::new);
    journal.stage(&other_agent(), one, &first).await.unwrap();
    assert_eq!(journal.staged(&agent(), one).await.unwrap(), None, "another agent's");
    journal.stage(&agent(), one, &first).await.unwrap();
    journal.stage(&agent(), one, &last).await.unwrap();
    assert_eq!(journal.staged(&agent(), one).await.unwrap(), Some(last));
    assert_eq!(journal.staged(&agent(), other).await.unwrap(), None, "each effect has its own");
    assert_eq!(journal.staged(&other_agent(), one).await.unwrap(), None);
    journal.sent(&agent(), one, &accepted("$a")).await.unwrap();
    assert_eq!(journal.staged(&agent(), one).await.unwrap(), None);
    journal.stage(&agent(), one, &first).await.unwrap();
    assert_eq!(journal.staged(&agent(), one).await.unwrap(), None, "it was sent");
}

pub(super) async fn a_message_is_known_as_a_file(journal: Ledger) {
    let named = async || journal.named(&agent(), &plugin("echo"), "n").await.unwrap();
    let sequence = arrive(&*journal, "$1").await;
    let mut commit = says(ends(sequence, "d1"), [send("text", Some("n"), false), file(b"one", Some("n"))]);
    commit.contribution.files.push(blob(b"one"));
    let queued = journal.commit(commit).await.unwrap();
    assert!(matches!(named().await, Some(Named::Waiting { id, file: true, .. }) if id == queued[1].id));
    journal.sent(&agent(), queued[1].row, &accepted("$file")).await.unwrap();
    assert!(
        matches!(named().await, Some(Named::Sent { event, file: true, .. }) if event.as_str() == "$file")
    );
    journal.sent(&agent(), queued[0].row, &accepted("$text")).await.unwrap();
    assert!(matches!(named().await, Some(Named::Sent { file: true, .. })), "the older one, heard of late");
    for (id, file) in [("$file", true), ("$text", false)] {
        let known = journal.known(&agent(), &event(id)).await.unwrap();
        assert_eq!(known, Some(Known { room: room("!room"), by: Some(plugin("echo")), file }), "{id}");
    }
}

pub(super) async fn an_event_whose_file_waits_is_not_forgotten(journal: Ledger) {
    let forget = async || journal.forget(&agent(), inbox::LATER, 10).await.unwrap();
    let sequence = arrive(&*journal, "$1").await;
    let mut commit = sends(ends(sequence, "d1"), &[b"one"]);
    // Nothing sends this one.
    commit.contribution.files.push(blob(b"other"));
    let queued = journal.commit(commit).await.unwrap();
    assert_eq!(forget().await, 0);
    assert!(kept(&*journal, "d1", b"one").await);
    journal.stage(&agent(), queued[0].row, &MediaSource::new("mxc://a/b")).await.unwrap();
    assert_eq!(forget().await, 0);
    journal.sent(&agent(), queued[0].row, &accepted("$a")).await.unwrap();
    assert!(!kept(&*journal, "d1", b"one").await);
    assert_eq!(forget().await, 1);
}
