//! What people in a room see.

use super::{Account, Scene, files, mode, settings};
use crate::{
    guests::example,
    host::Home,
    person::{Person, Say, Seen},
    synapse::{NewRoom, Synapse},
};

async fn an_encrypted_room_is_answered_encrypted(version: &'static str) {
    let scene = Scene::new().await;
    let mallory = Person::new(scene.synapse, "mallory").await.unwrap();
    let host = scene.run().await;
    let room = NewRoom { version, encrypted: true, invite: vec![mallory.user.clone()], ..NewRoom::default() };
    let room = scene.room(room).await;
    mallory.join(&room).await.unwrap();

    // Letters and digits, which no escaping hides.
    let secret = format!("asecretofversion{version}");
    let mark = scene.alice.mark();
    let asked = scene.alice.say(&room, format!("!echo {secret}").as_str()).await.unwrap();
    let answer = scene.alice.hear_since(mark, &room, &scene.agent.user, &secret).await.unwrap();
    assert!(answer.sealed(), "{answer:#?}");
    scene.alice.wait_receipt(&room, &scene.agent.user, &asked).await.unwrap();
    assert_eq!(
        scene.synapse.event(&scene.alice.token, &room, &answer.id).await.unwrap()["type"],
        "m.room.encrypted"
    );
    assert_eq!(scene.synapse.places_of(&secret).unwrap(), Vec::<String>::new());
    // The search finds what is there: the same in a room in clear.
    let clear = scene.room(NewRoom::default()).await;
    let open = format!("nosecretofversion{version}");
    scene.ask(&scene.alice, &clear, &format!("!echo {open}"), &open).await;
    assert_ne!(scene.synapse.places_of(&open).unwrap(), Vec::<String>::new());
    sees_typing(&scene, &room).await;

    // Nobody answers a stranger, and nothing shows that somebody has read it or is at work. What Alice asks next, in
    // another room, is judged after it.
    let agent = &scene.agent.user;
    let quiet = |seen: &crate::person::Log| {
        let mut typing = seen.seen.iter().rev().filter_map(|seen| match seen {
            Seen::Typing { room: of, users } if *of == room => Some(users.contains(agent)),
            _ => None,
        });
        (typing.next() == Some(false)).then_some(())
    };
    scene.alice.wait("the agent to type no more", quiet).await.unwrap();
    let mark = scene.alice.mark();
    let strange = mallory.say(&room, "!echo strange").await.unwrap();
    scene.ask(&scene.alice, &clear, "!echo after", "after").await;
    for seen in scene.alice.log().since(mark) {
        let reads =
            matches!(seen, Seen::Receipt { user, event_id, .. } if user == agent && *event_id == strange);
        let types = matches!(seen, Seen::Typing { room: of, users } if *of == room && users.contains(agent));
        assert!(!reads && !types, "{seen:?}");
    }
    let answers = scene.alice.messages(&room).into_iter().filter(|message| message.sender == *agent);
    assert!(answers.into_iter().all(|message| message.text() != "strange"));

    // The same device after a restart, and what was said meanwhile is answered once.
    let device = scene.alice.devices(&scene.agent.user).await.unwrap();
    assert_eq!(host.stop().await, 0);
    let mark = scene.alice.mark();
    scene.alice.say(&room, "!echo while you were away").await.unwrap();
    let host = scene.run().await;
    let answer = scene.alice.hear_since(mark, &room, &scene.agent.user, "while you were away").await.unwrap();
    assert!(answer.sealed());
    let again = scene.alice.devices(&scene.agent.user).await.unwrap();
    assert_eq!(device.len(), 1);
    assert_eq!((&device[0].id, &device[0].ed25519), (&again[0].id, &again[0].ed25519));
    assert_eq!(again.len(), 1);
    scene.ask(&scene.alice, &room, "!echo end", "end").await;
    let twice =
        scene.alice.messages(&room).into_iter().filter(|message| message.text() == "while you were away");
    assert_eq!(twice.count(), 1);
    drop(host);
}

/// What takes a few milliseconds may be over before anybody looks: people see it in one answer of several.
async fn sees_typing(scene: &Scene, room: &str) {
    for number in 0..10 {
        let mark = scene.alice.mark();
        let words = format!("typed {number}");
        scene.ask(&scene.alice, room, &format!("!echo {words}"), &words).await;
        let agent = &scene.agent.user;
        let typing = |seen: &Seen| matches!(seen, Seen::Typing { room: of, users } if of == room && users.contains(agent));
        if scene.alice.log().since(mark).any(typing) {
            return;
        }
    }
    panic!("nobody saw the agent type:\n{}", scene.alice.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_room_of_version_11() {
    an_encrypted_room_is_answered_encrypted("11").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_room_of_version_12() {
    an_encrypted_room_is_answered_encrypted("12").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_device_is_signed_by_its_owner_and_secrets_are_private() {
    let scene = Scene::new().await;
    let host = scene.run().await;
    let keys = scene.synapse.keys_query(&scene.alice.token, &scene.agent.user).await.unwrap();
    let user = &scene.agent.user;
    let owner = keys["self_signing_keys"][user]["keys"]
        .as_object()
        .expect("the account has an identity")
        .keys()
        .next()
        .unwrap();
    let devices = keys["device_keys"][user].as_object().unwrap();
    assert_eq!(devices.len(), 1);
    let signatures = devices.values().next().unwrap()["signatures"][user].as_object().unwrap();
    assert!(signatures.contains_key(owner), "clients show a red shield: {signatures:?}");

    let data = scene.home.data();
    let store = data.join("agents").join(&scene.agent.name);
    for folder in [&data, &store] {
        assert_eq!(mode(folder), "700", "{}", folder.display());
    }
    let kept: Vec<_> = files(&data).into_iter().filter(|file| !file.is_symlink()).collect();
    assert!(kept.iter().any(|file| file.ends_with("recovery.key")), "{kept:?}");
    for file in &kept {
        assert_eq!(mode(file), "600", "{}", file.display());
    }
    let key = std::fs::read_to_string(store.join("recovery.key")).unwrap();
    assert_eq!(host.stop().await, 0);
    let host = scene.run().await;
    assert_eq!(std::fs::read_to_string(store.join("recovery.key")).unwrap(), key, "it is never overwritten");
    let log = host.log();
    for secret in [key.trim(), super::PASSWORD] {
        assert!(!log.contains(secret));
    }
}

/// An event holds 64 KiB, and an edit in an encrypted room says its text once.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_answer_and_its_draft_fit_into_an_encrypted_room() {
    let scene = Scene::new().await;
    let deeds = crate::guests::guest("deeds");
    scene.home.plugin("deeds", &deeds);
    let host = scene.run().await;
    let room = scene.room(NewRoom { encrypted: true, ..NewRoom::default() }).await;
    for size in [12_000, 24_000, 32_000] {
        let mark = scene.alice.mark();
        scene.alice.say(&room, format!("!long {size}").as_str()).await.unwrap();
        let whole = |seen: &crate::person::Log| {
            let mut messages = seen.messages_since(mark, &room).into_iter();
            messages.find(|it| it.sender == scene.agent.user && !it.edits.is_empty())
        };
        let message = scene.alice.wait("the long answer", whole).await.unwrap();
        assert!(message.text().len() > size - 40, "{}", message.text().len());
        assert!(message.sealed());
    }
    assert!(!host.log().contains("not sent"), "{}", host.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persons_own_account_hears_the_person_and_not_itself() {
    let synapse = Synapse::shared().await.unwrap();
    // The same account, as a person uses it on another device.
    let account = Account::new(synapse, "own").await;
    let person = Person::login(synapse, &account.user, super::PASSWORD).await.unwrap();
    let own = account.settings("[\"echo\"]") + "own_account = true\n";
    let echo = example("echo");
    let home = Home::new(&settings(synapse, &[own], &[&account.user], &[]), &[("echo", &echo)]);
    let host = home.run();
    host.said("serves as").await;
    let room = person.create_room(&NewRoom { encrypted: true, ..NewRoom::default() }).await.unwrap();
    for text in ["!echo !echo twice", "!echo end"] {
        let mark = person.mark();
        person.say(&room, text).await.unwrap();
        let words = text.strip_prefix("!echo ").unwrap();
        let answered = |seen: &crate::person::Log| {
            seen.messages_since(mark, &room).into_iter().find(|it| it.text() == words)
        };
        assert!(person.wait("the answer", answered).await.unwrap().sealed());
    }
    assert_eq!(person.messages(&room).len(), 4, "its own words are not heard again:\n{}", person.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_home_is_an_admins_to_set_and_survives_a_restart() {
    let scene = Scene::new().await;
    let host = scene.run().await;
    let room = scene
        .room(NewRoom { encrypted: true, invite: vec![scene.bob.user.clone()], ..NewRoom::default() })
        .await;
    scene.bob.join(&room).await.unwrap();
    let refused = scene.ask(&scene.bob, &room, "!sethome", "/sethome is for admins only.").await;
    assert_eq!(refused.text().lines().count(), 1);
    scene.ask(&scene.alice, &room, "!sethome", "home").await;
    assert_eq!(host.stop().await, 0);
    let deeds = crate::guests::guest("deeds");
    scene.home.plugin("deeds", &deeds);
    let _host = scene.run().await;
    let other = scene.room(NewRoom { encrypted: true, ..NewRoom::default() }).await;
    let mark = scene.alice.mark();
    scene.alice.say(&other, "!home after a restart").await.unwrap();
    let heard = scene.alice.hear_since(mark, &room, &scene.agent.user, "after a restart").await.unwrap();
    assert!(heard.sealed());
}

#[tokio::test(flavor = "multi_thread")]
async fn mentions_threads_and_direct_chats() {
    let scene = Scene::new().await;
    let _host = scene.run().await;
    let room = scene.room(NewRoom { encrypted: true, ..NewRoom::default() }).await;
    let agent = scene.agent.user.clone();

    // A pill, as Element writes it.
    let mark = scene.alice.mark();
    let pill = format!("<a href=\"https://matrix.to/#/{agent}\">{}</a> echo by pill", scene.agent.name);
    let text = format!("{} echo by pill", scene.agent.name);
    scene.alice.say(&room, Say::text(text).html(&pill).mentions(&[&agent])).await.unwrap();
    scene.alice.hear_since(mark, &room, &agent, "by pill").await.unwrap();

    // Neither a name like it nor the word in prose, nor an edit, nor a notice.
    scene.alice.say(&room, Say::text(format!("{} echo prose", scene.agent.name))).await.unwrap();
    scene.alice.say(&room, Say::text("@agent2:hs.test echo other")).await.unwrap();
    scene.alice.say(&room, Say::text("!echo notice").msgtype("m.notice")).await.unwrap();
    let root = scene.alice.say(&room, "!echo root").await.unwrap();
    // A thread is a session of its own: its answers do not wait for the room's.
    scene.alice.hear_since(mark, &room, &agent, "root").await.unwrap();
    scene.alice.say(&room, Say::text("!echo edited").edit_of(&root)).await.unwrap();
    let mark = scene.alice.mark();
    scene.alice.say(&room, Say::text("!echo in a thread").in_thread(&root)).await.unwrap();
    let answer = scene.alice.hear_since(mark, &room, &agent, "in a thread").await.unwrap();
    assert_eq!(answer.thread(), Some(root.as_str()));
    let answers: Vec<_> =
        scene.alice.messages(&room).into_iter().filter(|message| message.sender == agent).collect();
    let texts: Vec<_> = answers.iter().map(|answer| answer.text()).collect();
    assert_eq!(texts, ["by pill", "root", "in a thread"]);

    let direct = scene
        .room(NewRoom { encrypted: true, direct: true, preset: "trusted_private_chat", ..NewRoom::default() })
        .await;
    scene.ask(&scene.alice, &direct, "hello", "I answer commands only").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invitations_that_waited_are_answered_by_who_sent_them() {
    let scene = Scene::new().await;
    let mallory = Person::new(scene.synapse, "mallory").await.unwrap();
    let invite = vec![scene.agent.user.clone()];
    let strange =
        mallory.create_room(&NewRoom { invite: invite.clone(), ..NewRoom::default() }).await.unwrap();
    let host = scene.run().await;
    let room = scene.room(NewRoom { encrypted: true, ..NewRoom::default() }).await;
    scene.ask(&scene.alice, &room, "!echo first", "first").await;
    mallory.wait_member(&strange, &scene.agent.user, "leave").await.unwrap();
    assert_eq!(host.stop().await, 0);
    let (later, strange) = (
        scene.alice.create_room(&NewRoom { invite: invite.clone(), ..NewRoom::default() }).await.unwrap(),
        mallory.create_room(&NewRoom { invite, ..NewRoom::default() }).await.unwrap(),
    );
    let _host = scene.run().await;
    scene.alice.wait_member(&later, &scene.agent.user, "join").await.unwrap();
    mallory.wait_member(&strange, &scene.agent.user, "leave").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_agents_share_a_room_and_answer_only_for_themselves() {
    let synapse = Synapse::shared().await.unwrap();
    let (one, other) = (Account::new(synapse, "one").await, Account::new(synapse, "other").await);
    let alice = Person::new(synapse, "alice").await.unwrap();
    let agents = [one.settings("[\"echo\"]"), other.settings("[\"roll\"]")];
    // Each is listed, so that only what they say keeps them apart.
    let settings = settings(synapse, &agents, &[&one.user, &other.user], &[&alice.user]);
    let (echo, roll) = (example("echo"), example("roll"));
    let home = Home::new(&settings, &[("echo", &echo), ("roll", &roll)]);
    let host = home.run();
    host.said(&format!("agent {}: serves as", one.name)).await;
    host.said(&format!("agent {}: serves as", other.name)).await;
    let invite = vec![one.user.clone(), other.user.clone()];
    let room = alice.create_room(&NewRoom { encrypted: true, invite, ..NewRoom::default() }).await.unwrap();
    for agent in [&one, &other] {
        alice.wait_member(&room, &agent.user, "join").await.unwrap();
    }
    for (command, agent, words) in
        [("!echo !roll 1d6", &one, "!roll 1d6"), ("!roll 3d6", &other, ""), ("!echo end", &one, "end")]
    {
        let mark = alice.mark();
        alice.say(&room, command).await.unwrap();
        alice.hear_since(mark, &room, &agent.user, words).await.unwrap();
    }
    let answers = alice.messages(&room).into_iter().filter(|message| message.sender != alice.user);
    assert_eq!(answers.count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_said_once_and_lived_through() {
    let synapse = Synapse::start(crate::synapse::Options::default()).await.unwrap();
    let agent = Account::new(&synapse, "agent").await;
    let alice = synapse.account("alice").await.unwrap();
    let settings = settings(&synapse, &[agent.settings("[\"echo\"]")], &[&alice.user], &[]);
    let echo = example("echo");
    let home = Home::new(&settings, &[("echo", &echo)]);
    let host = home.run();
    host.said("serves as").await;
    let room = NewRoom { invite: vec![agent.user.clone()], direct: true, ..NewRoom::default() };
    let room = synapse.create_room(&alice.token, &room).await.unwrap();
    let answers = async |text: &str| {
        let content = serde_json::json!({ "msgtype": "m.text", "body": format!("/echo {text}") });
        synapse.send_event(&alice.token, &room, "m.room.message", content).await.unwrap();
        loop {
            let found = synapse.messages(&alice.token, &room).await.unwrap();
            if found.iter().any(|event| event["content"]["body"] == text && event["sender"] == agent.user) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    answers("before").await;
    synapse.stop().await.unwrap();
    host.said("is out of reach").await;
    // With a stored session a start needs no server either.
    assert_eq!(host.stop().await, 0);
    let host = home.run();
    host.said("is out of reach").await;
    synapse.restart().await.unwrap();
    tokio::time::timeout(crate::host::PATIENCE, answers("after")).await.expect("an answer after the outage");
    assert_eq!(host.log().matches("is out of reach").count(), 1, "{}", host.log());
}
