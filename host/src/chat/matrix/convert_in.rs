//! From the JSON of a Matrix event to what happened in Parlour's words. Pure, and read by hand: what other people
//! send has any shape, and one event of the wrong shape must not cost the others.

use matrix_sdk::ruma::{MatrixToUri, MatrixUri, matrix_uri::MatrixId};
use serde_json::{Map, Value};

use crate::{
    event::{Attachment, AttachmentKind, Class, Kind, MediaSource, Member, Membership, Message, Quoted},
    id::{EventId, UserId},
    render,
};

/// Our mark: the effect's id, in the content of everything that this host sends.
pub(super) const MARK: &str = "chat.parlour.effect";

/// A longer name of a file is cut: a name is for showing.
const NAME_LENGTH: usize = 255;

/// What happened, if it is anything that Parlour knows.
pub(super) fn kind(event: &Value) -> Option<Kind> {
    let content = event.get("content")?.as_object()?;
    match event.get("type")?.as_str()? {
        "m.room.message" if event.get("state_key").is_none() => message(content).map(Kind::Message),
        "m.room.member" => member(event, content).map(Kind::Member),
        _ => None,
    }
}

/// The effect's id, or the transaction id, which is made from it. Only what the agent's own account sent is
/// believed.
pub(super) fn mark(event: &Value) -> Option<String> {
    let mark = event.get("content").and_then(|content| content.get(MARK)).and_then(Value::as_str);
    let transaction = || event.get("unsigned")?.get("transaction_id")?.as_str();
    mark.or_else(transaction).map(ToOwned::to_owned)
}

/// The message to which an edit gives another text.
pub(super) fn replaces(event: &Value) -> Option<EventId> {
    let relation = event.get("content")?.get("m.relates_to")?.as_object()?;
    (text(relation, "rel_type") == Some("m.replace")).then(|| id(relation.get("event_id")?)).flatten()
}

/// Milliseconds; nothing that a server made up makes an event unreadable.
pub(super) fn sent(event: &Value) -> u64 {
    event.get("origin_server_ts").and_then(Value::as_u64).unwrap_or(0)
}

/// The membership of `user` that a membership event brings about, if it changes anything.
pub(super) fn membership_of(event: &Value, user: &str) -> Option<Membership> {
    if event.get("type")?.as_str()? != "m.room.member" || event.get("state_key")?.as_str()? != user {
        return None;
    }
    member(event, event.get("content")?.as_object()?).map(|member| member.membership)
}

/// What is known of a message that cannot be read: in which thread it is (spec, "m.room.encrypted": relations are in clear).
pub(super) fn unread(event: &Value) -> Kind {
    let relation =
        event.get("content").and_then(|content| content.get("m.relates_to")).and_then(Value::as_object);
    let relation = relation.filter(|relation| text(relation, "rel_type") == Some("m.thread"));
    Kind::Message(Message {
        class: Class::Text,
        text: String::new(),
        html: None,
        thread: relation.and_then(|relation| id(relation.get("event_id")?)),
        reply_to: None,
        mentions: vec![],
        attachments: vec![],
    })
}

fn message(content: &Map<String, Value>) -> Option<Message> {
    let relation = content.get("m.relates_to").and_then(Value::as_object);
    let rel_type = relation.and_then(|relation| text(relation, "rel_type"));
    let edit = rel_type == Some("m.replace");
    let shown = match content.get("m.new_content").and_then(Value::as_object) {
        Some(new) if edit => new,
        _ => content,
    };
    let body = text(shown, "body")?;
    let msgtype = text(shown, "msgtype").or_else(|| text(content, "msgtype"))?;
    let class = match msgtype {
        "m.text" | "m.image" | "m.file" | "m.audio" | "m.video" => Class::Text,
        "m.emote" => Class::Emote,
        "m.notice" => Class::Notice,
        // Verification requests, polls in disguise, and whatever comes to be: no message for an agent.
        _ => return None,
    };
    let in_thread = rel_type == Some("m.thread");
    let answered = relation.and_then(|relation| id(relation.get("m.in_reply_to")?.get("event_id")?));
    let falling_back = in_thread
        && relation.and_then(|relation| relation.get("is_falling_back")) == Some(&Value::Bool(true));

    let attachment = attachment(msgtype, shown, body);
    // MSC2530 (spec 1.10): with a file, the body is a caption if `filename` is there and differs.
    let captioned = text(shown, "filename").is_some_and(|name| name != body);
    let says = attachment.is_none() || captioned;
    let body = match &answered {
        Some(_) if !edit => without_quote(body),
        _ => body,
    };
    let html = match text(shown, "format") {
        Some("org.matrix.custom.html") if says => text(shown, "formatted_body").map(without_mx_reply),
        _ => None,
    };
    Some(Message {
        class: if edit { Class::Edit } else { class },
        text: if says { body.to_owned() } else { String::new() },
        mentions: mentions(shown, html.as_deref()),
        html,
        thread: relation.filter(|_| in_thread).and_then(|relation| id(relation.get("event_id")?)),
        reply_to: answered
            .filter(|_| !falling_back)
            // The fallback's words are not taken: whoever answers can make them up.
            .map(|id| Quoted { id, sender: None, text: String::new() }),
        attachments: attachment.into_iter().collect(),
    })
}

/// `m.mentions` (spec, "User and room mentions") and the pills in the HTML.
fn mentions(content: &Map<String, Value>, html: Option<&str>) -> Vec<UserId> {
    let named =
        content.get("m.mentions").and_then(|mentions| mentions.get("user_ids")).and_then(Value::as_array);
    let named = named.into_iter().flatten().filter_map(Value::as_str).filter_map(|id| UserId::parse(id).ok());
    let pills = html.map(render::links).unwrap_or_default();
    let pills = pills.iter().filter_map(|link| pill(link));
    let mut found = Vec::new();
    for user in named.chain(pills) {
        if !found.contains(&user) {
            found.push(user);
        }
    }
    found
}

/// The person behind a `matrix.to` or `matrix:` link (spec, appendices, "URIs").
fn pill(link: &str) -> Option<UserId> {
    let id = match MatrixToUri::parse(link) {
        Ok(uri) => uri.id().clone(),
        Err(_) => MatrixUri::parse(link).ok()?.id().clone(),
    };
    match id {
        MatrixId::User(user) => UserId::parse(user).ok(),
        _ => None,
    }
}

fn attachment(msgtype: &str, content: &Map<String, Value>, body: &str) -> Option<Attachment> {
    let kind = match msgtype {
        "m.image" => AttachmentKind::Image,
        "m.video" => AttachmentKind::Video,
        "m.file" => AttachmentKind::File,
        // MSC3245.
        "m.audio" if content.contains_key("org.matrix.msc3245.voice") || content.contains_key("m.voice") => {
            AttachmentKind::Voice
        }
        "m.audio" => AttachmentKind::Audio,
        _ => return None,
    };
    let info = content.get("info").and_then(Value::as_object);
    let number = |name| info.and_then(|info| info.get(name)).and_then(Value::as_u64);
    Some(Attachment {
        kind,
        name: name(text(content, "filename").unwrap_or(body)),
        mime: info.and_then(|info| text(info, "mimetype")).map(ToOwned::to_owned),
        size: number("size"),
        duration: number("duration"),
        source: source(content),
    })
}

/// The encrypted file (spec, "Sending encrypted attachments"), or the address of one that is not.
fn source(content: &Map<String, Value>) -> Option<MediaSource> {
    let encrypted = content.get("file").filter(|file| file.is_object()).map(ToString::to_string);
    encrypted.or_else(|| text(content, "url").map(ToOwned::to_owned)).map(MediaSource::new)
}

/// A name without folders and without what a terminal would obey.
fn name(declared: &str) -> String {
    let last = declared.rsplit(['/', '\\']).next().unwrap_or_default();
    let clean: String = last.chars().filter(|c| !c.is_control()).collect();
    let mut end = clean.len().min(NAME_LENGTH);
    while !clean.is_char_boundary(end) {
        end -= 1;
    }
    match &clean[..end] {
        "" | "." | ".." => "file".to_owned(),
        name => name.to_owned(),
    }
}

fn member(event: &Value, content: &Map<String, Value>) -> Option<Member> {
    let membership = membership(content)?;
    let user = UserId::parse(event.get("state_key")?.as_str()?).ok()?;
    let before = event
        .get("unsigned")
        .and_then(|unsigned| unsigned.get("prev_content"))
        .or_else(|| event.get("prev_content"))
        .and_then(Value::as_object)
        .and_then(self::membership);
    // Somebody of whom nothing is known has left.
    if before.unwrap_or(Membership::Left) == membership {
        return None;
    }
    Some(Member { user, display_name: text(content, "displayname").map(ToOwned::to_owned), membership })
}

fn membership(content: &Map<String, Value>) -> Option<Membership> {
    Some(match text(content, "membership")? {
        "join" => Membership::Joined,
        "leave" => Membership::Left,
        "invite" => Membership::Invited,
        "ban" => Membership::Banned,
        "knock" => Membership::Knocked,
        _ => return None,
    })
}

/// Takes off the quote that older clients put before a reply (spec 1.12 and older, "Fallbacks for rich replies").
/// A body that is nothing but a quote stays.
fn without_quote(body: &str) -> &str {
    let mut rest = body;
    while let Some(line) = rest.strip_prefix('>') {
        match line.split_once('\n') {
            Some((_, after)) => rest = after,
            None => return body,
        }
    }
    if rest.len() == body.len() {
        return body;
    }
    let rest = rest.strip_prefix('\n').unwrap_or(rest);
    if rest.trim().is_empty() { body } else { rest }
}

fn without_mx_reply(html: &str) -> String {
    match html.strip_prefix("<mx-reply>").and_then(|rest| rest.split_once("</mx-reply>")) {
        Some((_, after)) => after.to_owned(),
        None => html.to_owned(),
    }
}

fn text<'a>(object: &'a Map<String, Value>, field: &str) -> Option<&'a str> {
    object.get(field)?.as_str()
}

fn id(value: &Value) -> Option<EventId> {
    EventId::parse(value.as_str()?).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "the callers write the value down")]
    fn message(content: Value) -> Option<Message> {
        match kind(&json!({ "type": "m.room.message", "content": content })) {
            Some(Kind::Message(message)) => Some(message),
            _ => None,
        }
    }

    fn plain(body: &str) -> Message {
        message(json!({ "msgtype": "m.text", "body": body })).unwrap()
    }

    #[test]
    fn kinds_of_messages() {
        for (msgtype, class) in
            [("m.text", Class::Text), ("m.emote", Class::Emote), ("m.notice", Class::Notice)]
        {
            assert_eq!(message(json!({ "msgtype": msgtype, "body": "x" })).unwrap().class, class);
        }
        for other in [
            json!({ "msgtype": "m.key.verification.request", "body": "x" }),
            json!({ "msgtype": "m.location", "body": "x" }),
            json!({ "msgtype": "org.example.new", "body": "x" }),
            json!({}),
            json!({ "msgtype": "m.text" }),
            json!({ "msgtype": "m.text", "body": 7 }),
            json!({ "msgtype": ["m.text"], "body": "x" }),
            json!("m.text"),
        ] {
            assert!(message(other.clone()).is_none(), "{other}");
        }
        for strange in [
            json!(null),
            json!({}),
            json!({ "type": 1, "content": {} }),
            json!({ "type": "m.room.member", "content": { "membership": "join" } }),
        ] {
            assert!(kind(&strange).is_none(), "{strange}");
        }
    }

    #[test]
    fn an_edit_is_known_and_shows_its_new_text() {
        let edit = message(json!({
            "msgtype": "m.text", "body": "* new", "m.new_content": { "msgtype": "m.text", "body": "new" },
            "m.relates_to": { "rel_type": "m.replace", "event_id": "$a" },
        }))
        .unwrap();
        assert_eq!((edit.class, edit.text.as_str()), (Class::Edit, "new"));
        let broken = json!({ "msgtype": "m.text", "body": "* new", "m.new_content": 3, "m.relates_to": { "rel_type": "m.replace" } });
        assert_eq!(message(broken).unwrap().class, Class::Edit);
    }

    #[test]
    fn mentions_of_every_shape() {
        let bot = UserId::parse("@bot:hs").unwrap();
        let mentioned = |mentions: Value, html: &str| {
            message(json!({
                "msgtype": "m.text", "body": "x", "m.mentions": mentions,
                "format": "org.matrix.custom.html", "formatted_body": html,
            }))
            .unwrap()
            .mentions
        };
        assert_eq!(mentioned(json!({ "user_ids": ["@bot:hs", "@bot:hs"] }), ""), vec![bot.clone()]);
        for wrong in [
            json!("@bot:hs"),
            json!(null),
            json!(["@bot:hs"]),
            json!({ "user_ids": "@bot:hs" }),
            json!({ "user_ids": [1, null, "bot"] }),
            json!({}),
        ] {
            assert_eq!(mentioned(wrong.clone(), ""), vec![], "{wrong}");
        }
        for pill in [
            r#"<a href="https://matrix.to/#/@bot:hs">Bot</a>"#,
            "<a href='https://matrix.to/#/@bot:hs'>Bot</a>",
            r#"<A HREF="https://matrix.to/#/%40bot%3Ahs">Bot</A>"#,
            r#"<a href="https://matrix.to/#/@bot:hs?via=hs&amp;via=b"><span data-mx-x="1">Bo</span>t &amp; &#38; &#99999999;</a>"#,
            r#"<p><em>hi <a href="matrix:u/bot:hs">Bot</a>"#,
        ] {
            assert_eq!(mentioned(json!({}), pill), vec![bot.clone()], "{pill}");
        }
        for none in [
            r#"<a href="https://matrix.to/#/@bot2:hs">bot</a>"#,
            r#"<a href="https://matrix.to/#/!room:hs">room</a>"#,
            r#"<a href="https://evil.example/#/@bot:hs">Bot</a>"#,
            r#"<a href="https://matrix.to/#/@bot">Bot</a>"#,
            "@bot:hs in prose",
            r#"<mx-reply><blockquote><a href="https://matrix.to/#/@bot:hs">Bot</a></blockquote></mx-reply>no"#,
        ] {
            assert!(!mentioned(json!({}), none).contains(&bot), "{none}");
        }
    }

    #[test]
    fn threads_and_replies() {
        let related = |relation: Value| {
            let message =
                message(json!({ "msgtype": "m.text", "body": "x", "m.relates_to": relation })).unwrap();
            (message.thread.map(String::from), message.reply_to.map(|quoted| String::from(quoted.id)))
        };
        let some = |id: &str| Some(id.to_owned());
        for (relation, thread, reply) in [
            (
                json!({ "rel_type": "m.thread", "event_id": "$r", "is_falling_back": true, "m.in_reply_to": { "event_id": "$l" } }),
                some("$r"),
                None,
            ),
            (
                json!({ "rel_type": "m.thread", "event_id": "$r", "is_falling_back": false, "m.in_reply_to": { "event_id": "$l" } }),
                some("$r"),
                some("$l"),
            ),
            (
                json!({ "rel_type": "m.thread", "event_id": "$r", "m.in_reply_to": { "event_id": "$l" } }),
                some("$r"),
                some("$l"),
            ),
            (json!({ "rel_type": "m.thread", "event_id": "$r" }), some("$r"), None),
            (json!({ "m.in_reply_to": { "event_id": "$l" }, "is_falling_back": true }), None, some("$l")),
            (json!({ "rel_type": "m.thread", "event_id": 5 }), None, None),
            (json!({ "m.in_reply_to": "$l" }), None, None),
            (json!("$l"), None, None),
        ] {
            assert_eq!(related(relation.clone()), (thread, reply), "{relation}");
        }
    }

    #[test]
    fn the_quote_before_a_reply_goes() {
        let reply = |body: &str| {
            let relation = json!({ "m.in_reply_to": { "event_id": "$l" } });
            message(json!({ "msgtype": "m.text", "body": body, "m.relates_to": relation })).unwrap().text
        };
        for (body, text) in [
            ("> <@bot:hs> one\n> two\n>\n\nanswer\n> mine", "answer\n> mine"),
            ("> * <@bot:hs> waves\n\nhi", "hi"),
            ("answer", "answer"),
            ("> only a quote", "> only a quote"),
            ("> only\n> a quote\n\n", "> only\n> a quote\n\n"),
        ] {
            assert_eq!(reply(body), text, "{body:?}");
        }
        assert_eq!(plain("> a\n\nb").text, "> a\n\nb", "no reply, so the quote is the writer's");
    }

    #[test]
    fn files_as_declared() {
        let file = |content: Value| {
            let message = message(content).unwrap();
            (message.text, message.attachments.into_iter().next().unwrap())
        };
        let (text, image) = file(
            json!({ "msgtype": "m.image", "body": "cat.png", "info": { "mimetype": "image/png", "size": 3 } }),
        );
        assert_eq!(
            (text.as_str(), image.kind, image.name.as_str(), image.size),
            ("", AttachmentKind::Image, "cat.png", Some(3))
        );
        let (text, _) = file(json!({ "msgtype": "m.image", "body": "cat.png", "filename": "cat.png" }));
        assert_eq!(text, "");
        let (text, image) =
            file(json!({ "msgtype": "m.image", "body": "look!", "filename": "cat.png", "info": "none" }));
        assert_eq!((text.as_str(), image.name.as_str(), image.mime), ("look!", "cat.png", None));
        let (_, voice) = file(
            json!({ "msgtype": "m.audio", "body": "v.ogg", "org.matrix.msc3245.voice": {}, "info": { "duration": 1500, "size": -1 } }),
        );
        assert_eq!((voice.kind, voice.duration, voice.size), (AttachmentKind::Voice, Some(1500), None));
        let (_, audio) = file(json!({ "msgtype": "m.audio", "body": "v.ogg" }));
        assert_eq!(audio.kind, AttachmentKind::Audio);
        let source = |content: Value| file(content).1.source.map(|source| source.as_str().to_owned());
        let plain = json!({ "msgtype": "m.file", "body": "x", "url": "mxc://hs/a" });
        assert_eq!(source(plain).as_deref(), Some("mxc://hs/a"));
        let sealed =
            json!({ "msgtype": "m.file", "body": "x", "url": "mxc://hs/a", "file": { "url": "mxc://hs/b" } });
        assert_eq!(source(sealed).as_deref(), Some(r#"{"url":"mxc://hs/b"}"#));
        assert_eq!(source(json!({ "msgtype": "m.file", "body": "x", "url": 3, "file": "x" })), None);
        for (declared, shown) in [
            ("../../etc/passwd", "passwd"),
            ("C:\\x\\y.txt", "y.txt"),
            ("a\u{1b}[2Jb", "a[2Jb"),
            ("..", "file"),
            ("", "file"),
        ] {
            assert_eq!(file(json!({ "msgtype": "m.file", "body": declared })).1.name, shown);
        }
    }

    #[test]
    fn only_real_changes_of_membership_count() {
        let change = |now: &str, before: Value| {
            let event = json!({
                "type": "m.room.member", "state_key": "@a:hs", "content": { "membership": now, "displayname": "A" },
                "unsigned": { "prev_content": before },
            });
            match kind(&event) {
                Some(Kind::Member(member)) => Some(member.membership),
                _ => None,
            }
        };
        assert_eq!(change("join", json!(null)), Some(Membership::Joined));
        assert_eq!(change("join", json!({ "membership": "invite" })), Some(Membership::Joined));
        assert_eq!(change("join", json!({ "membership": "join", "displayname": "B" })), None);
        assert_eq!(change("leave", json!({ "membership": "join" })), Some(Membership::Left));
        assert_eq!(change("leave", json!({ "membership": "ban" })), Some(Membership::Left));
        assert_eq!(change("dance", json!({ "membership": "join" })), None);
    }

    #[test]
    fn marks_and_times() {
        assert_eq!(
            mark(&json!({ "content": { MARK: "d.1" }, "unsigned": { "transaction_id": "t" } })).as_deref(),
            Some("d.1")
        );
        assert_eq!(
            mark(&json!({ "content": {}, "unsigned": { "transaction_id": "d.2" } })).as_deref(),
            Some("d.2")
        );
        assert_eq!(mark(&json!({ "content": { MARK: 1 } })), None);
        for (time, sent_at) in [(json!(12), 12), (json!(-1), 0), (json!("12"), 0), (json!(null), 0)] {
            assert_eq!(sent(&json!({ "origin_server_ts": time })), sent_at);
        }
    }
}
