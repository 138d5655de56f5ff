//! Sending: what an [`Outgoing`] is as a Matrix event, and the checks that keep it from leaving in clear.

use std::time::Duration;

use matrix_sdk::{
    Client, Room, RoomState,
    ruma::{EventId as MatrixEventId, OwnedTransactionId, RoomId as MatrixRoomId},
};
use serde_json::{Map, Value, json};

use super::{
    account::Encryption,
    convert_in::MARK,
    encrypting::encrypting,
    failure::{http_error, not_joined, send_error},
    upload,
};
use crate::{
    chat::SendError,
    effect::{Body, Content, Outgoing, is_emoji},
    event::{AttachmentKind, MediaSource},
    id::{EventId, RoomId},
    mime, render,
};

/// Text and HTML as JSON: an event has at most 64 KiB (spec, "Size limits"), and encryption makes four bytes of
/// three.
const CONTENT: usize = 45 * 1024;
/// How many characters of an edit are for clients that know no edits.
const FALLBACK: usize = 200;

/// Encrypting for a room first fetches its members and their keys, request by request.
const PATIENCE: Duration = Duration::from_mins(2);

pub(super) async fn send(
    client: &Client,
    encryption: Encryption,
    outgoing: &Outgoing,
) -> Result<EventId, SendError> {
    tokio::time::timeout(PATIENCE, async {
        let room = joined(client, &outgoing.room)?;
        let encrypted = agreed_encryption(&room, encryption, outgoing.must_encrypt).await?;
        let transaction = OwnedTransactionId::from(outgoing.transaction.as_str());
        let id = if let Content::Redaction { event, reason } = &outgoing.content {
            let event = MatrixEventId::parse(event.as_str()).map_err(|error| invalid(&error))?;
            // The reason of a redaction travels in clear.
            let reason = reason.as_deref().filter(|_| !encrypted);
            let answer = room.redact(&event, reason, Some(transaction)).await;
            answer.map_err(|error| http_error(&error))?.event_id
        } else {
            let (kind, mut content) = event(&outgoing.content, &outgoing.mark)?;
            // It was uploaded in clear, when the room was not encrypted yet.
            if encrypted && content.get("url").is_some() {
                let reason = "the room is encrypted by now, and the file is not".into();
                return Err(SendError::Final { code: "not-encrypted".into(), reason });
            }
            // A reaction travels in clear, and tells no more than it must. The room may have been encrypted since
            // the plugin was told that it may use words.
            if let Content::Reaction { key, .. } = &outgoing.content
                && encrypted
            {
                if !is_emoji(key) {
                    let reason = "the room is encrypted, and the reaction would travel in clear".into();
                    return Err(SendError::Final { code: "not-encrypted".into(), reason });
                }
                content.as_object_mut().map(|content| content.remove(MARK));
            }
            let sent = encrypting(|| {
                room.send_raw(kind, content.clone()).with_transaction_id(&transaction).into_future()
            });
            sent.await.map_err(|error| send_error(&error))?.response.event_id
        };
        EventId::parse(&id).map_err(|error| invalid(&error))
    })
    .await
    .unwrap_or_else(|_| Err(SendError::Later { after: None, reason: "the server took too long".into() }))
}

/// The room, if the agent is in it.
pub(super) fn joined(client: &Client, room: &RoomId) -> Result<Room, SendError> {
    let id = MatrixRoomId::parse(room.as_str()).map_err(|error| invalid(&error))?;
    client.get_room(&id).filter(|room| room.state() == RoomState::Joined).ok_or_else(not_joined)
}

/// Whether what is sent will be encrypted, which is the room's affair; an error where that is not what the
/// ledger remembers or the settings ask for. Nothing is ever downgraded.
pub(super) async fn agreed_encryption(
    room: &Room,
    encryption: Encryption,
    must_encrypt: bool,
) -> Result<bool, SendError> {
    let refuse =
        |code: &str, reason: &str| Err(SendError::Final { code: code.into(), reason: reason.into() });
    // matrix-sdk asks the server where it does not know, and takes a 404 for "not encrypted". A sync brings a
    // room's state before this is asked, so a 404 is believed only where nobody remembers otherwise.
    let state = room.latest_encryption_state().await.map_err(|error| send_error(&error))?;
    if state.is_encrypted() {
        if encryption == Encryption::Off {
            return refuse(
                "encryption-off",
                "the room is encrypted, and the settings say encryption = \"off\"",
            );
        }
        return Ok(true);
    }
    if state.is_unknown() {
        return Err(SendError::Later {
            after: None,
            reason: "it is not known whether the room is encrypted".into(),
        });
    }
    if must_encrypt {
        return refuse("not-encrypted", "the room was encrypted, and the server says that it is not");
    }
    if encryption == Encryption::Required {
        return refuse(
            "not-encrypted",
            "the room is not encrypted, and the settings say encryption = \"required\"",
        );
    }
    Ok(false)
}

fn invalid(error: &dyn std::error::Error) -> SendError {
    SendError::Final { code: "invalid".into(), reason: error.to_string() }
}

/// The type and content of the event.
fn event(content: &Content, mark: &str) -> Result<(&'static str, Value), SendError> {
    let (kind, mut event) = match content {
        Content::Message { body, thread, reply_to } => {
            let mut event = words(body);
            if let Some(relation) = relation(thread.as_ref(), reply_to.as_ref()) {
                event.insert("m.relates_to".into(), relation);
            }
            ("m.room.message", event)
        }
        Content::File { source, name, mime, size, caption, thread, reply_to } => {
            let mut event = file(source, name, mime, *size, caption.as_ref())?;
            if let Some(relation) = relation(thread.as_ref(), reply_to.as_ref()) {
                event.insert("m.relates_to".into(), relation);
            }
            ("m.room.message", event)
        }
        // Spec, "Event replacements": the new content, and a text for clients that don't know edits. They get
        // its beginning: the whole text twice would be too large for an event.
        Content::Edit { event, body } => {
            let new = words(body);
            let beginning: String = body.text().chars().take(FALLBACK).collect();
            let mut edit = Map::from_iter([
                ("msgtype".into(), new["msgtype"].clone()),
                ("body".into(), format!("* {beginning}").into()),
                ("m.mentions".into(), json!({})),
                ("m.new_content".into(), Value::Object(new)),
            ]);
            edit.insert(
                "m.relates_to".into(),
                json!({ "rel_type": "m.replace", "event_id": event.as_str() }),
            );
            ("m.room.message", edit)
        }
        Content::Reaction { event, key } => {
            let relation = json!({ "rel_type": "m.annotation", "event_id": event.as_str(), "key": key });
            ("m.reaction", Map::from_iter([("m.relates_to".into(), relation)]))
        }
        Content::Redaction { .. } => unreachable!("a redaction is a request of its own"),
    };
    event.insert(MARK.into(), mark.into());
    Ok((kind, Value::Object(event)))
}

/// A file (spec, "m.file" and "Media captions"): with a caption, the body says that, and else the name.
fn file(
    source: &MediaSource,
    name: &str,
    mime: &str,
    size: u64,
    caption: Option<&Body>,
) -> Result<Map<String, Value>, SendError> {
    let named = || words(&Body::Plain(name.into()));
    let mut content = caption.map_or_else(named, words);
    let msgtype = match mime::kind(mime) {
        AttachmentKind::Image => "m.image",
        AttachmentKind::Audio | AttachmentKind::Voice => "m.audio",
        AttachmentKind::Video => "m.video",
        AttachmentKind::File | AttachmentKind::Other => "m.file",
    };
    content.insert("msgtype".into(), msgtype.into());
    content.insert("filename".into(), name.into());
    content.insert("info".into(), json!({ "mimetype": mime, "size": size }));
    let (key, place) = upload::place(source).map_err(|error| invalid(&error))?;
    content.insert(key.into(), place);
    Ok(content)
}

/// Spec, "Threading" and "Rich replies". In a thread, a message that answers nothing names what clients without
/// threads should show it under.
fn relation(thread: Option<&EventId>, reply_to: Option<&EventId>) -> Option<Value> {
    let in_reply_to = |event: &EventId| json!({ "event_id": event.as_str() });
    match (thread, reply_to) {
        (Some(root), answered) => Some(json!({
            "rel_type": "m.thread",
            "event_id": root.as_str(),
            "is_falling_back": answered.is_none(),
            "m.in_reply_to": in_reply_to(answered.unwrap_or(root)),
        })),
        (None, Some(answered)) => Some(json!({ "m.in_reply_to": in_reply_to(answered) })),
        (None, None) => None,
    }
}

/// `m.text` or `m.notice`. `m.mentions` is there and empty: nobody is mentioned by accident, whatever the words
/// are (spec, "User and room mentions").
fn words(body: &Body) -> Map<String, Value> {
    let (msgtype, rendered) = match body {
        Body::Plain(text) => ("m.text", render::Rendered { body: text.clone(), html: None }),
        Body::Markdown(text) => ("m.text", render::markdown(text)),
        Body::Notice(text) => ("m.notice", render::Rendered { body: text.clone(), html: None }),
    };
    let mut content = Map::from_iter([
        ("msgtype".into(), msgtype.into()),
        ("body".into(), rendered.body.into()),
        ("m.mentions".into(), json!({})),
    ]);
    if let Some(html) = rendered.html {
        let html = Value::from(html);
        // The body says the same; rather without its looks than not at all.
        if content["body"].to_string().len() + html.to_string().len() <= CONTENT {
            content.insert("format".into(), "org.matrix.custom.html".into());
            content.insert("formatted_body".into(), html);
        }
    }
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(id: &str) -> EventId {
        EventId::parse(id).unwrap()
    }

    #[test]
    fn a_message_carries_the_mark_and_mentions_nobody() {
        let body = Body::Markdown("**hi** @alice:hs".into());
        let (kind, event) = event(&Content::Message { body, thread: None, reply_to: None }, "d.0").unwrap();
        assert_eq!(kind, "m.room.message");
        assert_eq!(
            event,
            json!({
                "msgtype": "m.text", "body": "**hi** @alice:hs", "m.mentions": {}, "chat.parlour.effect": "d.0",
                "format": "org.matrix.custom.html", "formatted_body": "<p><strong>hi</strong> @alice:hs</p>",
            })
        );
        let (_, notice) = super::event(
            &Content::Message { body: Body::Notice("x".into()), thread: None, reply_to: None },
            "d",
        )
        .unwrap();
        assert_eq!(notice["msgtype"], "m.notice");
    }

    #[test]
    fn relations_are_the_specifications() {
        let (root, other) = (id("$root"), id("$other"));
        assert_eq!(relation(None, None), None);
        assert_eq!(relation(None, Some(&other)), Some(json!({ "m.in_reply_to": { "event_id": "$other" } })));
        assert_eq!(
            relation(Some(&root), None),
            Some(
                json!({ "rel_type": "m.thread", "event_id": "$root", "is_falling_back": true, "m.in_reply_to": { "event_id": "$root" } })
            )
        );
        assert_eq!(
            relation(Some(&root), Some(&other)),
            Some(
                json!({ "rel_type": "m.thread", "event_id": "$root", "is_falling_back": false, "m.in_reply_to": { "event_id": "$other" } })
            )
        );
    }

    #[test]
    fn an_edit_says_both_texts() {
        let (_, edit) =
            event(&Content::Edit { event: id("$a"), body: Body::Plain("new".into()) }, "d.1").unwrap();
        assert_eq!(edit["body"], "* new");
        assert_eq!(edit["m.new_content"], json!({ "msgtype": "m.text", "body": "new", "m.mentions": {} }));
        assert_eq!(edit["m.relates_to"], json!({ "rel_type": "m.replace", "event_id": "$a" }));
        let long = Body::Markdown("**x** <&> \"y\"\n\n".repeat(1800));
        assert!(crate::capability::outbox::fits(long.text()));
        let (_, edit) = event(&Content::Edit { event: id("$a"), body: long.clone() }, "d.1").unwrap();
        assert_eq!(edit["m.new_content"]["body"], long.text());
        assert!(edit.to_string().len() < 47 * 1024, "{}", edit.to_string().len());
        let (kind, reaction) =
            event(&Content::Reaction { event: id("$a"), key: "👍".into() }, "d.2").unwrap();
        assert_eq!(kind, "m.reaction");
        assert_eq!(
            reaction["m.relates_to"],
            json!({ "rel_type": "m.annotation", "event_id": "$a", "key": "👍" })
        );
    }

    #[test]
    fn a_file_says_what_it_is() {
        let file = |source: &str, mime: &str, caption: Option<Body>| {
            let source = MediaSource::new(source);
            let (name, mime, thread) = ("a.txt".into(), mime.into(), Some(id("$root")));
            let content = Content::File { source, name, mime, size: 3, caption, thread, reply_to: None };
            event(&content, "d.0")
        };
        let (kind, plain) = file("mxc://hs/a", "text/plain", None).unwrap();
        assert_eq!((kind, &plain["m.relates_to"]["event_id"]), ("m.room.message", &json!("$root")));
        let content = json!({
            "msgtype": "m.file", "body": "a.txt", "filename": "a.txt", "url": "mxc://hs/a", "m.mentions": {},
            "info": { "mimetype": "text/plain", "size": 3 }, "chat.parlour.effect": "d.0",
            "m.relates_to": plain["m.relates_to"],
        });
        assert_eq!(plain, content);
        let sealed = json!({ "v": "v2", "url": "mxc://hs/b" });
        let (_, image) =
            file(&sealed.to_string(), "image/png", Some(Body::Markdown("*look*".into()))).unwrap();
        assert_eq!(
            [&image["msgtype"], &image["body"], &image["filename"], &image["formatted_body"]],
            ["m.image", "*look*", "a.txt", "<p><em>look</em></p>"]
        );
        assert_eq!((&image["file"], image.get("url")), (&sealed, None));
        for (mime, msgtype) in
            [("audio/ogg", "m.audio"), ("video/mp4", "m.video"), ("image/svg+xml", "m.file")]
        {
            assert_eq!(file("mxc://hs/a", mime, None).unwrap().1["msgtype"], msgtype);
        }
        assert!(matches!(file("nonsense", "text/plain", None), Err(SendError::Final { .. })));
    }
}
