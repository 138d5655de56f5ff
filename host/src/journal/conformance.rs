//! What every backend of [`Journal`] promises, each promise a test that all of them pass. The names are the
//! promises; [`model`] adds what nobody thought of: random calls, which all backends answer alike.

mod audit;
mod commits;
mod files;
mod inbox;
mod kv;
mod model;
mod outbox;
mod record;
mod story;
mod timers;
mod versions;

use std::sync::Arc;

use super::{
    Arrival, Blob, Commit, Contribution, Journal, Namespace, Outcome, Queued, Read, Scope, Sequence, Write,
    memory::Memory, sqlite::Sqlite,
};
use crate::{
    effect::{Body, Effect, File, Place, Target},
    event::{Class, DeviceTrust, Event, Kind, Locked, Message, Position, Reading, Room, Sender},
    gate::{Denial, Verdict},
    id::{AgentName, DeliveryId, EventId, PluginName, RoomId, SessionId, UserId},
};

macro_rules! promises {
    ($($room:ident { $($promise:ident)* })*) => {
        mod memory {$(mod $room {$(
            #[tokio::test(flavor = "multi_thread")]
            async fn $promise() {
                super::super::super::$room::$promise(super::super::super::memory()).await;
            }
        )*})*}
        mod sqlite {$(mod $room {$(
            #[tokio::test(flavor = "multi_thread")]
            async fn $promise() {
                let (_folder, journal) = super::super::super::sqlite();
                super::super::super::$room::$promise(journal).await;
            }
        )*})*}
    };
}

mod keeps {
    promises! {
        inbox {
            an_event_is_pending_until_it_ends
            an_event_comes_back_whole
            an_event_counts_once
            the_position_is_that_of_the_last_batch
            what_is_refused_is_never_pending
            pending_is_in_order_and_can_be_read_in_parts
            each_lane_has_its_own_events
            a_room_that_was_encrypted_stays_so
            agents_know_nothing_of_each_other
            what_is_over_is_forgotten_when_it_is_old
            what_waits_is_not_forgotten
            what_cannot_be_read_waits_apart_and_keeps_its_place
            what_is_read_after_all_is_handed_out_once
            the_newest_event_of_a_room_is_known_for_ever
            no_number_is_given_twice_though_all_is_forgotten
        }
        commits {
            a_plugin_that_ended_is_not_asked_again
            it_is_known_whether_those_that_ended_said_anything
            what_tools_did_is_part_of_the_commit_and_their_own
            what_a_tool_read_is_checked_too
            the_host_can_end_an_event
            an_event_ends_however_a_delivery_ends
            a_delivery_is_committed_once
            a_delivery_of_an_event_that_never_came_fails
            a_delivery_of_an_event_that_has_ended_is_kept
            a_changed_value_is_a_conflict
            a_changed_list_is_a_conflict
            a_conflict_writes_nothing
            what_nobody_read_is_no_conflict
            increments_from_many_tasks_add_up
        }
        outbox {
            effects_wait_in_order_with_their_places
            a_home_is_set_and_not_sent
            what_was_sent_waits_no_more
            what_was_given_up_became_nothing
            the_first_note_stands
            a_note_of_another_agent_changes_nothing
            a_name_means_the_newest_message
            what_was_received_or_sent_is_known
            a_name_belongs_to_its_plugin
            a_draft_is_known_before_it_is_sent
            a_draft_waits_for_the_effect_that_takes_it
            a_draft_that_nothing_takes_goes
            a_late_word_of_a_draft_is_not_kept
            what_the_host_says_by_itself_is_queued_once
            what_waits_is_counted
        }
        files {
            a_file_is_kept_until_no_effect_needs_it
            a_file_is_its_deliverys_and_counts_as_its_plugins
            where_a_file_was_uploaded_to_is_kept_until_it_is_sent
            a_message_is_known_as_a_file
            an_event_whose_file_waits_is_not_forgotten
        }
        kv {
            what_is_remembered_is_counted
            a_value_is_set_and_deleted
            a_version_never_comes_back
            the_last_write_of_a_commit_stands
            namespaces_share_nothing
            keys_are_listed_in_byte_order
            a_list_begins_where_it_is_asked_to
        }
        record {
            what_was_learnt_comes_back_whole
            what_is_learnt_of_the_same_takes_its_place
            what_was_learnt_goes_with_its_delivery
            a_delivery_that_ended_is_kept_with_all_that_it_learnt
            of_a_committed_delivery_nothing_more_is_learnt
            what_is_put_aside_is_gone
            what_is_old_is_forgotten_in_steps
            what_is_too_much_is_forgotten_the_oldest_first
            what_an_event_ended_without_is_forgotten
            what_was_learnt_of_a_timer_stays_while_that_waits
            components_are_known_as_long_as_they_are_needed
        }
        story {
            an_event_tells_what_became_of_it
            what_is_refused_tells_why_and_nothing_else
            an_effect_tells_what_became_of_it
            the_agents_own_message_tells_what_it_was_sent_for
            what_happened_last_is_known
            agents_are_listed
            what_nobody_needs_any_more_is_put_away
        }
        timers {
            a_timer_is_set_and_cancelled_with_the_commit
            a_commit_that_fails_sets_no_timer
            a_changed_list_of_timers_is_a_conflict
            a_timer_that_is_due_becomes_an_event_once
            a_timer_that_may_not_pass_moves_on_all_the_same
            a_timer_that_nobody_could_handle_is_put_back
            of_several_times_that_nobody_could_handle_none_is_lost
            a_timer_is_forgotten_as_an_event_and_is_none_of_its_room
        }
        versions {
            a_version_is_accepted_at_once_or_after_its_trial
            what_a_version_on_trial_wrote_is_undone_with_it
            what_was_rolled_back_commits_nothing_more
            what_may_be_gone_back_to_is_not_put_away
            what_another_takes_the_place_of_stays_if_it_was_used
            what_is_withdrawn_is_undone_and_may_come_again
            a_handler_of_before_does_not_rest_on_what_may_be_undone
            timers_of_a_version_on_trial_are_as_they_were_without_it
            what_was_due_during_a_trial_is_not_due_again_after_it
            what_is_remembered_is_moved_with_the_version_and_back_with_it
            what_appears_while_a_version_moves_is_moved_too
            a_straggler_writes_only_in_the_shape_that_there_is
        }
        audit {
            the_record_is_one_chain
            what_is_written_at_once_is_still_one_chain
        }
    }
}

type Ledger = Arc<dyn Journal>;

fn memory() -> Ledger {
    Arc::new(Memory::default())
}

/// The folder goes when it is dropped.
fn sqlite() -> (tempfile::TempDir, Ledger) {
    let folder = tempfile::tempdir().unwrap();
    let journal = Sqlite::open(folder.path().join("journal.db")).unwrap();
    (folder, Arc::new(journal))
}

pub(super) fn agent() -> AgentName {
    AgentName::parse("researcher").unwrap()
}

fn other_agent() -> AgentName {
    AgentName::parse("clerk").unwrap()
}

pub(super) fn plugin(name: &str) -> PluginName {
    PluginName::parse(name).unwrap()
}

pub(super) fn room(id: &str) -> RoomId {
    RoomId::parse(id).unwrap()
}

fn session(id: &str) -> SessionId {
    SessionId::parse(id).unwrap()
}

pub(super) fn event(id: &str) -> EventId {
    EventId::parse(id).unwrap()
}

pub(super) fn delivery(id: &str) -> DeliveryId {
    DeliveryId::parse(id).unwrap()
}

/// Somebody says something, in the lane `lane`.
pub(super) fn said(id: &str, text: &str) -> Arrival {
    let message = Message {
        class: Class::Text,
        text: text.into(),
        html: None,
        thread: None,
        reply_to: None,
        mentions: Vec::new(),
        attachments: Vec::new(),
    };
    let sender = Sender {
        id: UserId::parse("@alice:example.org").unwrap(),
        display_name: Some("Alice".into()),
        device: DeviceTrust::Cleartext,
    };
    let room = Room { id: room("!room"), direct: false, encrypted: false };
    let event = Event {
        id: event(id),
        room,
        sender,
        sent: 1_700_000_000_000,
        mark: None,
        kind: Kind::Message(message),
        reading: Reading::AtOnce,
    };
    Arrival { event, verdict: Verdict::Allow, session: session("lane") }
}

fn in_lane(id: &str, lane: &str) -> Arrival {
    Arrival { session: session(lane), ..said(id, "hello") }
}

pub(super) fn refused(id: &str) -> Arrival {
    Arrival { verdict: Verdict::Deny(Denial::NotListed), ..said(id, "hello") }
}

pub(super) async fn receive(journal: &dyn Journal, arrivals: &[Arrival]) -> Vec<Option<Sequence>> {
    journal.receive(&agent(), arrivals, &Position("here".into())).await.unwrap()
}

/// One event comes in.
pub(super) async fn arrive(journal: &dyn Journal, id: &str) -> Sequence {
    receive(journal, &[said(id, "hello")]).await[0].unwrap()
}

/// The ids of what has not ended.
pub(super) async fn pending(journal: &dyn Journal) -> Vec<String> {
    let pending = journal.pending(&agent(), None, None, u32::MAX).await.unwrap();
    pending.into_iter().map(|pending| pending.event.id.to_string()).collect()
}

/// The plugin `echo` has done its part, without a word, and the event has ended.
pub(super) fn ends(sequence: Sequence, id: &str) -> Commit {
    let contribution = Contribution {
        plugin: Some(plugin("echo")),
        digest: None,
        outcome: Outcome::Done,
        effects: Vec::new(),
        files: Vec::new(),
        writes: Vec::new(),
        reads: Vec::new(),
    };
    let delivery = delivery(id);
    Commit {
        agent: agent(),
        sequence,
        delivery,
        contribution,
        tools: Vec::new(),
        ends_event: true,
        line: None,
        learnt: None,
    }
}

pub(super) fn says(mut commit: Commit, effects: impl IntoIterator<Item = Effect>) -> Commit {
    let next: u32 = commit.effects().len().try_into().unwrap();
    commit.contribution.effects.extend((next..).zip(effects));
    commit
}

/// A tool of this plugin has done its part.
fn helps(mut commit: Commit, of: &str, effects: impl IntoIterator<Item = Effect>) -> Commit {
    let next: u32 = commit.effects().len().try_into().unwrap();
    commit.tools.push(Contribution {
        plugin: Some(plugin(of)),
        digest: None,
        outcome: Outcome::Done,
        effects: (next..).zip(effects).collect(),
        files: Vec::new(),
        writes: Vec::new(),
        reads: Vec::new(),
    });
    commit
}

pub(super) fn writes(mut commit: Commit, writes: impl IntoIterator<Item = Write>) -> Commit {
    commit.contribution.writes.extend(writes);
    commit
}

pub(super) fn reads(mut commit: Commit, reads: impl IntoIterator<Item = Read>) -> Commit {
    commit.contribution.reads.extend(reads);
    commit
}

fn home(id: &str, thread: Option<&str>) -> Place {
    Place { room: room(id), thread: thread.map(event) }
}

pub(super) fn message(text: &str) -> Effect {
    send(text, None, false)
}

pub(super) fn named(name: &str) -> Effect {
    send("a name", Some(name), false)
}

fn takes_draft() -> Effect {
    send("at last", None, true)
}

fn send(text: &str, name: Option<&str>, takes_draft: bool) -> Effect {
    Effect::Send {
        to: Target::Place(home("!room", None)),
        body: Body::Markdown(text.into()),
        reply_to: None,
        name: name.map(Into::into),
        takes_draft,
    }
}

/// A message that is a file, under this name.
fn file(bytes: &[u8], name: Option<&str>) -> Effect {
    let Blob { digest, bytes } = blob(bytes);
    let (size, mime) = (bytes.len() as u64, "text/plain".into());
    Effect::File {
        to: Target::Place(home("!room", None)),
        file: File { name: "a.txt".into(), mime, size, digest },
        caption: None,
        reply_to: None,
        name: name.map(Into::into),
    }
}

fn blob(bytes: &[u8]) -> Blob {
    Blob { digest: blake3::hash(bytes).to_hex().to_string(), bytes: bytes.to_vec().into() }
}

/// The plugin's own memory.
pub(super) fn own() -> Namespace {
    Namespace { agent: agent(), plugin: plugin("echo"), scope: Scope::Plugin }
}

pub(super) fn set(key: &str, value: &str) -> Write {
    Write { namespace: own(), key: key.into(), value: Some(value.into()) }
}

fn delete(key: &str) -> Write {
    Write { namespace: own(), key: key.into(), value: None }
}

/// What a handler reads, as it is now.
pub(super) async fn read(journal: &dyn Journal, key: &str) -> Read {
    let version = journal.get(&own(), key).await.unwrap().map(|stored| stored.version);
    Read::Key { namespace: own(), key: key.into(), version }
}

/// An event comes, and these are written about it.
async fn remember(journal: &dyn Journal, id: &str, them: impl IntoIterator<Item = Write>) {
    let sequence = arrive(journal, &format!("${id}")).await;
    journal.commit(writes(ends(sequence, id), them)).await.unwrap();
}

/// An event comes, and these are queued about it.
async fn queue(journal: &dyn Journal, id: &str, effects: impl IntoIterator<Item = Effect>) -> Vec<Queued> {
    let sequence = arrive(journal, &format!("${id}")).await;
    journal.commit(says(ends(sequence, id), effects)).await.unwrap()
}
