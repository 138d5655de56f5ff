//! Whatever the network and the server do, the agent comes back by itself, and does not come in a hurry.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use parlour::{
    Agent,
    chat::{
        Chat as _,
        matrix::{Account, Matrix},
    },
};
use serde_json::json;

use crate::{
    inside::{Inside, PASSWORD, Serving, eventually},
    proxy::{Fault, Proxy},
    synapse::{NewRoom, Options, Synapse, unique},
};

fn direct() -> NewRoom {
    NewRoom { direct: true, ..NewRoom::default() }
}

async fn behind(synapse: &Synapse) -> (Proxy, Inside) {
    let proxy = Proxy::before(synapse.base_url()).await;
    let inside = Inside { homeserver: proxy.url(), ..Inside::new(synapse).await };
    (proxy, inside)
}

/// Twenty commands that came while a host was down: more than one answer of its server brings.
async fn missed() -> (Synapse, Proxy, Inside, String) {
    let synapse = Synapse::start(Options { timeline: Some(5), ..Options::default() }).await.unwrap();
    let (proxy, inside) = behind(&synapse).await;
    let host = inside.start().await;
    let room = inside.room(direct()).await;
    host.stop().await;
    for number in 0..20 {
        inside.say(&room, &format!("/echo {number}")).await;
    }
    (synapse, proxy, inside, room)
}

async fn none_of_it_is_lost(inside: &Inside, room: &str) {
    let said = inside.to_the_end(room).await;
    let expected: Vec<_> = (0..20).map(|number| number.to_string()).chain(["the end".into()]).collect();
    assert_eq!(said, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_comes_back_from_whatever_happens_and_in_no_hurry() {
    let synapse = Synapse::shared().await.unwrap();
    let (proxy, inside) = behind(synapse).await;
    let host = inside.start().await;
    let room = inside.room(direct()).await;
    let odd = |status, body: &str| Fault::Answer(status, body.into());
    let faults = [
        Fault::Reset,
        odd(502, "<html>bad gateway</html>"),
        odd(500, r#"{"errcode":"M_UNKNOWN","error":"oh"}"#),
        odd(404, "<html>no such page</html>"),
        odd(403, r#"{"errcode":"M_FORBIDDEN","error":"not now"}"#),
        odd(429, r#"{"errcode":"M_LIMIT_EXCEEDED","error":"slowly"}"#),
        odd(200, "{\"next_batch\": 7, \"rooms\": \u{1}"),
        odd(200, "{}"),
    ];
    let mut expected = vec![];
    for (number, fault) in faults.into_iter().enumerate() {
        let before = proxy.count("");
        let failing = fault.clone();
        // A room may refuse a message for good; that is another matter.
        proxy.rule(move |request| if request.contains("/send/") { Fault::Reset } else { failing.clone() });
        // Wakes the request that waits at the server.
        inside.say(&room, &format!("/echo {number}")).await;
        eventually(async || (proxy.count("/sync") > 0 && proxy.count("") >= before + 2).then_some(())).await;
        let from = proxy.count("");
        tokio::time::sleep(Duration::from_secs(3)).await;
        let asked = proxy.count("") - from;
        assert!(asked < 12, "{asked} requests in three seconds: {fault:?}");
        proxy.always(Fault::None);
        expected.push(number.to_string());
        assert_eq!(inside.answers(&room, expected.len()).await, expected, "after {fault:?}");
        assert!(host.is_running());
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_repeats_nothing() {
    let synapse = Synapse::shared().await.unwrap();
    let (proxy, inside) = behind(synapse).await;
    let host = inside.start().await;
    let room = inside.room(direct()).await;
    let losing = Arc::new(AtomicBool::new(true));
    let loses = losing.clone();
    proxy.rule(
        move |request| {
            if request.contains("/send/") && loses.load(SeqCst) { Fault::Lost } else { Fault::None }
        },
    );
    for number in 0..3 {
        inside.say(&room, &format!("/echo {number}")).await;
    }
    // Each is seen in the room, and the next one goes, though no answer ever comes.
    inside.answers(&room, 3).await;
    losing.store(false, SeqCst);
    assert_eq!(inside.to_the_end(&room).await, ["0", "1", "2", "the end"]);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_soft_logout_is_followed_by_a_login_on_the_same_device() {
    let synapse = Synapse::shared().await.unwrap();
    let (proxy, inside) = behind(synapse).await;
    let host = inside.start().await;
    let room = inside.room(NewRoom { encrypted: true, ..direct() }).await;
    let devices = async || {
        let keys = synapse.keys_query(&inside.alice.token, &inside.agent).await.unwrap();
        keys["device_keys"][&inside.agent].as_object().unwrap().clone()
    };
    let before = devices().await;
    let (signed_out, [asked, tried]) = (AtomicBool::new(true), [const { AtomicBool::new(false) }; 2]);
    proxy.rule(move |request| {
        // What a server says, too, that cannot look up whose it is.
        let not_now = Fault::Answer(403, r#"{"errcode":"M_FORBIDDEN","error":"not now"}"#.into());
        if request.contains("/whoami") && !asked.swap(true, SeqCst) {
            return not_now;
        }
        if request.contains("/v3/login") {
            if !tried.swap(true, SeqCst) {
                return not_now;
            }
            signed_out.store(false, SeqCst);
        }
        let gone = json!({ "errcode": "M_UNKNOWN_TOKEN", "error": "it has ended", "soft_logout": true });
        if signed_out.load(SeqCst) { Fault::Answer(401, gone.to_string()) } else { Fault::None }
    });
    inside.say(&room, "/echo after").await;
    host.noticed("has signed in again on the same device").await;
    let answered = async || {
        let events = synapse.messages(&inside.alice.token, &room).await.unwrap();
        let by = |event: &&serde_json::Value| {
            event["sender"] == *inside.agent && event["type"] == "m.room.encrypted"
        };
        (events.iter().filter(by).count() == 1).then_some(())
    };
    eventually(answered).await;
    let after = devices().await;
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    assert_eq!(before.values().next().unwrap()["keys"], after.values().next().unwrap()["keys"]);
    assert_eq!(proxy.count("/v3/login"), 3);
    host.stop().await;
    // What it was given then is what it starts with.
    let host = inside.start().await;
    assert_eq!(proxy.count("/v3/login"), 3);
    host.stop().await;
}

/// A server that takes longer for the first answer than the agent waits has it for the next try, which is the same request.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_answer_that_is_lost_is_asked_for_as_before() {
    let synapse = Synapse::shared().await.unwrap();
    let (proxy, inside) = behind(synapse).await;
    let lost = AtomicUsize::new(0);
    proxy.rule(move |request| {
        let first = request.contains("/sync") && !request.contains("since=");
        if first && lost.fetch_add(1, SeqCst) < 2 { Fault::Lost } else { Fault::None }
    });
    let host = inside.start().await;
    let room = inside.room(direct()).await;
    inside.say(&room, "/echo here").await;
    assert_eq!(inside.answers(&room, 1).await, ["here"]);
    host.stop().await;
    let mut first = proxy.heard("/sync");
    first.retain(|request| !request.contains("since="));
    assert_eq!(first.len(), 3, "{first:?}");
    assert!(first.iter().all(|request| *request == first[0]), "{first:?}");
}

/// What is said of the account or the server is no word about the message; and who is told when to come back comes then.
#[tokio::test(flavor = "multi_thread")]
async fn only_a_word_about_the_message_itself_gives_it_up() {
    const ASKED: Duration = Duration::from_secs(4);
    let synapse = Synapse::shared().await.unwrap();
    let (proxy, inside) = behind(synapse).await;
    let host = inside.start().await;
    let room = inside.room(direct()).await;
    let limited =
        json!({ "errcode": "M_LIMIT_EXCEEDED", "error": "slowly", "retry_after_ms": ASKED.as_millis() });
    let says = |code: &str| json!({ "errcode": code, "error": "oh" }).to_string();
    let answers = [
        (429, limited.to_string()),
        (429, says("M_LIMIT_EXCEEDED")),
        (401, says("M_USER_LOCKED")),
        (404, says("M_UNRECOGNIZED")),
    ];
    let (left, times) = (Mutex::new(answers.into_iter()), Arc::new(Mutex::new(Vec::new())));
    let heard = times.clone();
    proxy.rule(move |request| {
        if !request.contains("/send/") {
            return Fault::None;
        }
        heard.lock().unwrap().push(Instant::now());
        left.lock().unwrap().next().map_or(Fault::None, |(status, body)| Fault::Answer(status, body))
    });
    inside.say(&room, "/echo patience").await;
    inside.say(&room, "/echo and order").await;
    assert_eq!(inside.answers(&room, 2).await, ["patience", "and order"]);
    let times = times.lock().unwrap().clone();
    assert_eq!(times.len(), 6);
    assert!(times[1] - times[0] >= ASKED, "it came back before it should");

    let refused = AtomicBool::new(false);
    let unknown = says("M_UNKNOWN");
    proxy.rule(move |request| match request.contains("/send/") && !refused.swap(true, SeqCst) {
        true => Fault::Answer(400, unknown.clone()),
        false => Fault::None,
    });
    inside.say(&room, "/echo never").await;
    host.noticed("M_UNKNOWN").await;
    assert_eq!(inside.to_the_end(&room).await, ["patience", "and order", "the end"]);
    host.stop().await;
}

/// The session runs out while what was missed is fetched.
#[tokio::test(flavor = "multi_thread")]
async fn a_soft_logout_in_the_middle_of_what_was_missed_loses_nothing() {
    let (_synapse, proxy, inside, room) = missed().await;
    let (fetching, signed_in) = (AtomicBool::new(false), AtomicBool::new(false));
    proxy.rule(move |request| {
        fetching.fetch_or(request.contains("/messages"), SeqCst);
        signed_in.fetch_or(fetching.load(SeqCst) && request.contains("/v3/login"), SeqCst);
        let gone = json!({ "errcode": "M_UNKNOWN_TOKEN", "error": "it has ended", "soft_logout": true });
        let out = fetching.load(SeqCst) && !signed_in.load(SeqCst);
        if out { Fault::Answer(401, gone.to_string()) } else { Fault::None }
    });
    let host = inside.start().await;
    host.noticed("has signed in again on the same device").await;
    none_of_it_is_lost(&inside, &room).await;
    host.stop().await;
}

/// Nor does a server that does not want to say what was missed, for a while, and in words that mean nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_missed_is_asked_for_until_it_is_there() {
    let (_synapse, proxy, inside, room) = missed().await;
    let odd = [
        (400, r#"{"errcode":"M_UNKNOWN","error":"oh"}"#),
        (404, r#"{"errcode":"M_UNRECOGNIZED","error":"a proxy that is being set up"}"#),
        (200, "{"),
    ];
    let left = Mutex::new(odd.into_iter());
    proxy.rule(move |request| match request.contains("/messages") {
        true => left
            .lock()
            .unwrap()
            .next()
            .map_or(Fault::None, |(status, body)| Fault::Answer(status, body.into())),
        false => Fault::None,
    });
    let host = inside.start().await;
    none_of_it_is_lost(&inside, &room).await;
    assert!(proxy.count("/messages") > 3, "it was asked for again");
    host.stop().await;
}

/// Where this machine cannot open the databases again after the session has run out, they are tried until it can.
#[tokio::test(flavor = "multi_thread")]
async fn databases_that_are_not_to_be_had_at_a_soft_logout_are_tried_again() {
    let synapse = Synapse::shared().await.unwrap();
    let (proxy, inside) = behind(synapse).await;
    let host = inside.start().await;
    let room = inside.room(direct()).await;
    inside.say(&room, "/echo before").await;
    inside.answers(&room, 1).await;
    let file = inside.folder.path().join("agent/matrix-sdk-state.sqlite3");
    let state = Arc::new(Mutex::new(rusqlite::Connection::open(file).unwrap()));
    state.lock().unwrap().busy_timeout(Duration::from_secs(10)).unwrap();
    let (signed_in, locks) = (AtomicBool::new(false), state.clone());
    proxy.rule(move |request| {
        if request.contains("/v3/login") && !signed_in.swap(true, SeqCst) {
            locks.lock().unwrap().execute_batch("BEGIN IMMEDIATE").unwrap();
        }
        let gone = json!({ "errcode": "M_UNKNOWN_TOKEN", "error": "it has ended", "soft_logout": true });
        if signed_in.load(SeqCst) { Fault::None } else { Fault::Answer(401, gone.to_string()) }
    });
    inside.say(&room, "/echo after").await;
    host.noticed("the databases in").await;
    state.lock().unwrap().execute_batch("ROLLBACK").unwrap();
    assert_eq!(inside.answers(&room, 2).await, ["before", "after"]);
    host.stop().await;
}

/// A key that was told to the session before may have been heard of by nobody.
#[tokio::test(flavor = "multi_thread")]
async fn another_session_says_that_any_key_may_have_come() {
    let synapse = Synapse::shared().await.unwrap();
    let (proxy, inside) = behind(synapse).await;
    let matrix = Arc::new(Matrix::new(inside.account(), parlour::notice::Notices::new(|_| {})));
    let keys = async || {
        tokio::time::timeout(2 * crate::stage::PATIENCE, matrix.keys()).await.expect("keys are told of")
    };
    matrix.start(None).await.unwrap();
    assert_eq!(keys().await, None);
    let signed_in = AtomicBool::new(false);
    proxy.rule(move |request| {
        signed_in.fetch_or(request.contains("/v3/login"), SeqCst);
        let gone = json!({ "errcode": "M_UNKNOWN_TOKEN", "error": "it has ended", "soft_logout": true });
        if signed_in.load(SeqCst) { Fault::None } else { Fault::Answer(401, gone.to_string()) }
    });
    let reading = matrix.clone();
    let reading = tokio::spawn(async move { while reading.next().await.is_ok() {} });
    assert_eq!(keys().await, None);
    assert_eq!(proxy.count("/v3/login"), 2);
    reading.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_end_are_refreshed() {
    let options = Options { token_life: Some("3s"), ..Options::default() };
    let synapse = Synapse::start(options).await.unwrap();
    let (proxy, inside) = behind(&synapse).await;
    let host = inside.start().await;
    let room = inside.room(direct()).await;
    let mut count = 0;
    while proxy.count("/refresh") < 3 {
        count += 1;
        inside.say(&room, &format!("/echo {count}")).await;
        assert_eq!(inside.answers(&room, count).await.len(), count);
    }
    host.stop().await;
    // It ends while nobody is there, too.
    let session = || {
        let kept = std::fs::read(inside.folder.path().join("agent/session.json")).unwrap();
        serde_json::from_slice::<serde_json::Value>(&kept).unwrap()
    };
    let before = session();
    let ended = async || synapse.whoami(before["token"].as_str().unwrap()).await.is_err().then_some(());
    eventually(ended).await;
    let host = inside.start().await;
    count += 1;
    inside.say(&room, "/echo again").await;
    inside.answers(&room, count).await;
    host.kill().await;
    assert_eq!(proxy.count("/v3/login"), 1, "no password was needed");
    let refreshed = session();
    assert_ne!(refreshed["refresh"], before["refresh"]);

    // Where the refresh token is worth nothing any more, one is: a crash before the newer one was kept.
    let ended = async || synapse.whoami(refreshed["token"].as_str().unwrap()).await.is_err().then_some(());
    eventually(ended).await;
    let used =
        json!({ "errcode": "M_UNKNOWN_TOKEN", "error": "it was used", "soft_logout": true }).to_string();
    let refused = AtomicBool::new(false);
    proxy.rule(move |request| match request.contains("/refresh") && !refused.swap(true, SeqCst) {
        true => Fault::Answer(401, used.clone()),
        false => Fault::None,
    });
    let host = inside.start().await;
    count += 1;
    inside.say(&room, "/echo and again").await;
    inside.answers(&room, count).await;
    host.stop().await;
    assert_eq!(proxy.count("/v3/login"), 2);
    assert_eq!(session()["device"], before["device"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_agents_trouble_is_its_own() {
    let synapse = Synapse::shared().await.unwrap();
    let (proxy, inside) = behind(synapse).await;
    let other = synapse.register(&unique("other"), PASSWORD).await.unwrap();
    let account = Account {
        agent: "other".parse().unwrap(),
        homeserver: synapse.base_url().to_owned(),
        user: Some(other.parse().unwrap()),
        store: inside.folder.path().join("other"),
        ..inside.account()
    };
    let (serving, heard) = Serving::heard();
    let agents = [inside.account(), account].map(|account| {
        Agent::new(account.agent.clone(), Matrix::new(account, heard.clone())).access(inside.access())
    });
    let host = serving.run(&inside, agents.into(), heard.clone()).await;
    let room = inside.room(direct()).await;
    let others = NewRoom { invite: vec![other.clone()], ..direct() };
    let others = synapse.create_room(&inside.alice.token, &others).await.unwrap();
    for fault in [
        Fault::Silence,
        Fault::Answer(500, String::new()),
        Fault::Answer(401, json!({ "errcode": "M_UNKNOWN_TOKEN", "error": "gone" }).to_string()),
    ] {
        proxy.always(fault);
        inside.say(&room, "/echo in trouble").await;
        let text = format!("well {}", inside.said_by(&others, &other).await.len());
        inside.say(&others, &format!("/echo {text}")).await;
        eventually(async || inside.said_by(&others, &other).await.contains(&text).then_some(())).await;
    }
    host.noticed("agent agent does not run").await;
    inside.say(&others, "/echo still").await;
    eventually(async || inside.said_by(&others, &other).await.contains(&"still".to_owned()).then_some(()))
        .await;
    host.stop().await;
}
