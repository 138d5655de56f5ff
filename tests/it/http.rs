//! Where plugins' requests may go, and the secrets that the host puts on them.

use std::{
    io,
    net::{IpAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use parlour::{
    Agent, HostBuilder,
    chat::memory::{Line, Rooms},
    engine::limits::Limits,
    http::Resolver,
    id::RoomId,
    settings::{Grants, Plugin, Secret, SecretText},
};

use crate::{
    guests::{example, guest},
    stage::{AGENT, ALICE, Stage, access},
    web::Web,
};

const SECRET: &str = "kept/from+every \"guest\"";
/// Its beginning, as the guest is told to look for it: backwards, so that it does not hold it.
const BACKWARDS: &str = "yreve+morf/tpek";

fn grants(urls: &[&str]) -> Grants {
    Grants { http: urls.iter().map(|url| url.parse().unwrap()).collect(), ..Grants::default() }
}

async fn stage(plugin: Plugin, also: impl FnOnce(HostBuilder) -> HostBuilder) -> Stage {
    let guests = [("web", guest("web")), ("echo", example("echo"))];
    Stage::start(&guests, |builder| also(builder.plugin_settings("web".parse().unwrap(), plugin))).await
}

async fn granted(urls: &[&str]) -> Stage {
    stage(Plugin { grants: grants(urls), ..Plugin::default() }, |builder| builder).await
}

async fn still_serves(stage: &Stage) {
    assert_eq!(stage.ask("/echo still here").await, "still here");
}

#[tokio::test]
async fn a_request_goes_where_it_was_granted_and_nowhere_else() {
    let (web, other) = (Web::start().await, Web::start().await);
    let stage = granted(&[&web.origin()]).await;
    let said = stage.ask(&format!("/fetch GET {}/echo?x=y X-Mine: one", web.origin())).await;
    assert!(said.starts_with("200\n") && said.contains("GET /echo?x=y HTTP/1.1"), "{said}");
    assert!(said.contains("x-mine: one") && said.contains(&format!("host: {}", web.address)), "{said}");

    let elsewhere = stage.ask(&format!("/fetch GET {}/echo", other.origin())).await;
    assert_eq!(elsewhere, "error: ErrorCode::HttpRequestDenied");
    stage.noticed("plugin web: denied: the grant `http` does not have it").await;
    assert_eq!(other.connections(), 0);

    let nothing = granted(&[]).await;
    assert!(nothing.ask(&format!("/fetch GET {}/echo", web.origin())).await.contains("HttpRequestDenied"));
    nothing.noticed("plugin web: denied: the grant `http` is missing").await;
    still_serves(&nothing).await;
}

#[tokio::test]
async fn what_is_granted_has_methods() {
    let web = Web::start().await;
    let text = format!("http = [{{ url = \"{}\", methods = [\"GET\", \"PURGE\"] }}]", web.origin());
    let grants: Grants = toml::from_str(&text).unwrap();
    let stage = stage(Plugin { grants, ..Plugin::default() }, |builder| builder).await;
    for (method, expected) in
        [("GET", "200"), ("PURGE", "200"), ("POST", "error: ErrorCode::HttpRequestDenied")]
    {
        let said = stage.ask(&format!("/fetch {method} {}/count", web.origin())).await;
        assert!(said.starts_with(expected), "{method}: {said}");
    }
    // One opens a tunnel, the other echoes whatever was put on the request.
    let all = granted(&[&web.origin()]).await;
    for method in ["TRACE", "CONNECT"] {
        let said = all.ask(&format!("/fetch {method} {}/echo", web.origin())).await;
        assert_eq!(said, "error: ErrorCode::HttpRequestDenied", "{method}");
    }
    assert!(!web.heard().iter().any(|heard| heard.starts_with("TRACE") || heard.starts_with("CONNECT")));
}

/// Answers with other addresses each time.
struct Rebinding {
    answers: Vec<Vec<IpAddr>>,
    asked: Arc<AtomicUsize>,
}

#[async_trait]
impl Resolver for Rebinding {
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        let asked = self.asked.fetch_add(1, Relaxed);
        Ok(self.answers[asked.min(self.answers.len() - 1)].clone())
    }
}

/// 18: the ways to write an address that is not public.
#[tokio::test]
async fn no_private_address_is_reached_by_accident() {
    let web = Web::start().await;
    let port = web.address.port();
    let anywhere = granted(&["http://*:*", "https://*:*"]).await;
    for host in [
        "127.0.0.1",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "127.1",
        "0.0.0.0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "169.254.169.254",
        "10.0.0.1",
        "100.64.0.1",
        "192.168.1.1",
        "[fe80::1]",
        "[fc00::1]",
        "localhost",
    ] {
        let said = anywhere.ask(&format!("/fetch GET http://{host}:{port}/echo")).await;
        assert_eq!(said, "error: ErrorCode::DestinationIpProhibited", "{host}");
    }
    assert_eq!(web.connections(), 0);
    still_serves(&anywhere).await;
    // Whoever writes the address down means it.
    let meant = granted(&[&format!("http://127.0.0.1:{port}"), &format!("http://localhost:{port}")]).await;
    for host in ["127.0.0.1", "2130706433", "localhost"] {
        let said = meant.ask(&format!("/fetch GET http://{host}:{port}/count")).await;
        assert!(said.starts_with("200"), "{host}: {said}");
    }
}

/// 19: a name that resolves to something else a moment later.
#[tokio::test]
async fn what_was_vetted_is_what_is_connected_to() {
    let web = Web::start().await;
    let port = web.address.port();
    let url = format!("http://rebinding.example:{port}");
    let local: IpAddr = "127.0.0.1".parse().unwrap();
    let with = async |answers: Vec<Vec<IpAddr>>, private: bool| {
        let asked = Arc::<AtomicUsize>::default();
        let resolver = Rebinding { answers, asked: asked.clone() };
        let text = format!("http = [{{ url = \"{url}\", private = {private} }}]");
        let grants: Grants = toml::from_str(&text).unwrap();
        let plugin = Plugin { grants, ..Plugin::default() };
        (stage(plugin, |builder| builder.resolver(resolver)).await, asked)
    };
    let fetch = format!("/fetch GET {url}/count");

    let (inside, _) = with(vec![vec![local]], false).await;
    assert_eq!(inside.ask(&fetch).await, "error: ErrorCode::DestinationIpProhibited");
    // A public address, at a port that the machine cannot reach there.
    let (rebound, asked) = with(vec![vec!["192.88.98.1".parse().unwrap()], vec![local]], false).await;
    let first = rebound.ask(&format!("/fetch GET http://rebinding.example:{port}/count")).await;
    assert!(first.starts_with("error: "), "{first}");
    assert_eq!(asked.load(Relaxed), 1, "it is resolved once for one connection");
    assert!(rebound.ask(&fetch).await.contains("DestinationIpProhibited"));
    // Of several addresses only those that may be reached are.
    let (mixed, _) = with(vec![vec!["10.0.0.1".parse().unwrap(), "::1".parse().unwrap()]], false).await;
    assert!(mixed.ask(&fetch).await.contains("DestinationIpProhibited"));
    assert_eq!(web.connections(), 0);
    still_serves(&mixed).await;
    // The twin: an operator who says that the name leads into a private network.
    let (meant, _) = with(vec![vec![local]], true).await;
    assert!(meant.ask(&fetch).await.starts_with("200"));
}

#[tokio::test]
async fn the_homeserver_is_reached_only_by_its_own_name() {
    let (web, server) = (Web::start().await, Web::start().await);
    let url = format!("http://matrix.example:{}", server.address.port());
    let with = async |grant: &str| {
        let answers = vec![vec!["127.0.0.1".parse().unwrap()]];
        let resolver = Rebinding { answers, asked: Arc::default() };
        let grants: Grants = toml::from_str(&format!("http = [{grant}]")).unwrap();
        let plugin = Plugin { grants, ..Plugin::default() };
        stage(plugin, |builder| builder.resolver(resolver).homeserver(url.clone())).await
    };
    let wide = with("{ url = \"http://*:*\", private = true }").await;
    let said = wide.ask(&format!("/fetch GET {url}/_synapse/admin")).await;
    assert_eq!(said, "error: ErrorCode::DestinationIpProhibited");
    wide.noticed("it leads to the homeserver, which the grant `http` does not name").await;
    // Another name for the same address.
    let said = wide.ask(&format!("/fetch GET http://other.example:{}/count", web.address.port())).await;
    assert_eq!(said, "error: ErrorCode::DestinationIpProhibited");
    // Its address itself, and others that lead to the same machine.
    for host in ["127.0.0.1", "0.0.0.0", "127.0.0.2", "[::1]", "[::ffff:127.0.0.1]"] {
        let said = wide.ask(&format!("/fetch GET http://{host}:{}/count", server.address.port())).await;
        assert_eq!(said, "error: ErrorCode::DestinationIpProhibited", "{host}");
    }
    assert_eq!(server.connections() + web.connections(), 0);
    let named = with(&format!("{{ url = \"{url}\", private = true }}")).await;
    assert!(named.ask(&format!("/fetch GET {url}/count")).await.starts_with("200"));
}

/// 20: redirects, users in URLs, headers that are the host's.
#[tokio::test]
async fn redirects_are_not_followed_and_no_header_leads_elsewhere() {
    let (web, inside) = (Web::start().await, Web::start().await);
    let stage = granted(&[&web.origin()]).await;
    let said = stage.ask(&format!("/fetch GET {}/inside?{}/echo", web.origin(), inside.origin())).await;
    assert!(
        said.starts_with("302\n") && said.contains(&format!("location: {}/echo", inside.origin())),
        "{said}"
    );
    assert_eq!(inside.connections(), 0);
    // Whoever follows it sends a request of its own.
    assert!(stage.ask(&format!("/fetch GET {}/echo", inside.origin())).await.contains("HttpRequestDenied"));
    let port = web.address.port();
    for url in [
        format!("http://127.0.0.1:{port}@127.0.0.1:{}/echo", inside.address.port()),
        format!("http://good:pass@127.0.0.1:{port}/echo"),
        format!("ftp://127.0.0.1:{port}/echo"),
    ] {
        let said = stage.ask(&format!("/fetch GET {url}")).await;
        assert!(said.starts_with("error: "), "{url}: {said}");
    }
    for header in [
        "Host: evil.example",
        "Connection: upgrade",
        "Upgrade: h2c",
        "Transfer-Encoding: chunked",
        "Proxy-Connection: x",
    ] {
        let said = stage.ask(&format!("/fetch GET {}/echo {header}", web.origin())).await;
        assert!(said.starts_with("error: ") && said.contains("Forbidden"), "{header}: {said}");
    }
    let split = stage.ask(&format!("/fetch GET {}/echo X-A: b%0d%0aX-Evil:", web.origin())).await;
    assert!(!split.contains("\nx-evil"), "{split}");
    assert_eq!(inside.connections(), 0);
    still_serves(&stage).await;
}

#[tokio::test]
async fn what_comes_and_goes_is_bounded() {
    let web = Web::start().await;
    let plugin = Plugin { grants: grants(&[&web.origin()]), ..Plugin::default() };
    let limits = Limits { cpu: Duration::from_secs(30), ..Limits::default() };
    let stage = stage(plugin, |builder| builder.limits(limits)).await;
    let origin = web.origin();
    assert_eq!(stage.ask(&format!("/post 1000000 {origin}/count")).await, "1000000 bytes came");
    let large = stage.ask(&format!("/post 9000000 {origin}/count")).await;
    assert_eq!(large, "error: ErrorCode::HttpRequestBodySize(Some(8388608))");
    let endless = stage.ask(&format!("/size GET {origin}/endless")).await;
    assert!(endless.contains("HTTP response body size exceeds limit: 33554432 bytes"), "{endless}");
    let heads = stage.ask(&format!("/fetch GET {origin}/heads")).await;
    assert!(heads.contains("HttpResponseHeaderSectionSize"), "{heads}");
    assert_eq!(stage.ask(&format!("/many 20 {origin}/count")).await, "8");
    still_serves(&stage).await;
}

/// 3: the other side never answers.
#[tokio::test]
async fn a_silent_server_holds_up_nobody() {
    let web = Web::start().await;
    let plugin = Plugin { grants: grants(&[&web.origin()]), ..Plugin::default() };
    let limits = Limits { wall: Duration::from_secs(1), ..Limits::default() };
    let stage = stage(plugin, |builder| builder.limits(limits)).await;
    let said = stage.ask(&format!("/fetch GET {}/silent", web.origin())).await;
    assert_eq!(said, "/fetch: stopped: it took longer than 1 s");
    still_serves(&stage).await;
}

/// 3: so long as the plugin says, and no longer than the host does.
#[tokio::test]
async fn a_plugin_says_how_long_a_connection_may_take() {
    // It is connected to, and never says anything: there is no TLS.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", silent.local_addr().unwrap());
    let stage = granted(&[&url]).await;
    let began = Instant::now();
    let said = stage.ask(&format!("/patience 300 GET {url}/x")).await;
    assert_eq!(said, "error: ErrorCode::ConnectionTimeout");
    assert!(began.elapsed() < Duration::from_secs(8), "it took {:?}", began.elapsed());
    // The twin, and one that wants more than it gets.
    let began = Instant::now();
    let said = stage.ask(&format!("/patience 3600000 GET {url}/x")).await;
    assert_eq!(said, "error: ErrorCode::ConnectionTimeout");
    assert!((9..60).contains(&began.elapsed().as_secs()), "it took {:?}", began.elapsed());
    still_serves(&stage).await;
}

/// Two agents with a plugin each, of the same component.
async fn two(plugins: [Plugin; 2], also: impl FnOnce(HostBuilder) -> HostBuilder) -> (Stage, RoomId) {
    const SECOND: &str = "@second:memory";
    let rooms = Rooms::new();
    let (room, theirs) = (rooms.create_direct(ALICE, AGENT), rooms.create_direct(ALICE, SECOND));
    let agent = |name: &str, account, plugins: [&str; 2]| {
        Agent::new(name.parse().unwrap(), rooms.account(account)).access(access()).plugins(plugins)
    };
    let first = agent("agent", AGENT, ["web", "echo"]);
    let second = agent("second", SECOND, ["other", "echo"]);
    let guests = [("web", guest("web")), ("other", guest("web")), ("echo", example("echo"))];
    let stage = Stage::start_with(rooms.clone(), room, first, &guests, |builder| {
        let [one, other] = plugins;
        let builder = builder.plugin_settings("web".parse().unwrap(), one);
        also(builder.plugin_settings("other".parse().unwrap(), other).agent(second))
    });
    (stage.await, theirs)
}

/// What the second agent answers.
async fn ask_the_second(stage: &Stage, room: &RoomId, text: &str) -> String {
    let asked = stage.rooms.say(ALICE, room, text);
    let answer = |lines: &[Line]| lines.iter().skip_while(|line| line.id != asked).nth(1).cloned();
    let lines = stage.until(room, |lines| answer(lines).is_some()).await;
    answer(&lines).unwrap().text
}

/// 22: what a server ties to a connection, it may tie to whoever signed in there.
#[tokio::test]
async fn no_plugin_goes_on_in_another_ones_connection() {
    let web = Web::start().await;
    let plain = Plugin { grants: grants(&[&web.origin()]), ..Plugin::default() };
    let (stage, theirs) = two([with_secret(&web, &web.origin()), plain], |builder| builder).await;
    let fetch = format!("/fetch GET {}/count", web.origin());
    for _ in 0..3 {
        assert!(stage.ask(&fetch).await.starts_with("200"));
        assert_eq!(web.connections(), 1, "its own is used again");
    }
    assert!(ask_the_second(&stage, &theirs, &fetch).await.starts_with("200"));
    assert_eq!(web.connections(), 2);
}

/// Looks names up as slowly as their owner likes.
#[derive(Clone, Default)]
struct Slow {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

#[async_trait]
impl Resolver for Slow {
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        if host.starts_with("slow") {
            self.most.fetch_max(self.now.fetch_add(1, Relaxed) + 1, Relaxed);
            return std::future::pending().await;
        }
        Ok(vec!["127.0.0.1".parse().unwrap()])
    }
}

/// 3: names that are never found, and servers that never answer, to which a plugin holds on in every conversation.
#[tokio::test]
async fn what_a_plugin_waits_for_at_once_is_bounded_and_others_do_not_wait() {
    let web = Web::start().await;
    let port = web.address.port();
    let grants =
        || -> Grants { toml::from_str("http = [{ url = \"http://*:*\", private = true }]").unwrap() };
    let plugins = [(); 2].map(|()| Plugin { grants: grants(), ..Plugin::default() });
    let slow = Slow::default();
    let (stage, theirs) = two(plugins, |builder| builder.resolver(slow.clone())).await;
    let fetch = format!("/fetch GET http://quick.example:{port}/count");
    let ask = |count: usize, text: &str| -> Vec<_> {
        let rooms = (0..count).map(|_| stage.rooms.create_direct(ALICE, AGENT));
        let said = rooms.map(|room| (stage.rooms.say(ALICE, &room, text), room));
        said.map(|(asked, room)| (room, asked)).collect()
    };
    for (room, asked) in ask(12, &format!("/patience 1000 GET http://slow.example:{port}/x")) {
        assert_eq!(stage.answer_to(&room, &asked).await.text, "error: ErrorCode::ConnectionTimeout");
    }
    // A lookup goes on in its thread, though nobody waits for it.
    assert_eq!(slow.most.load(Relaxed), 4);
    assert_eq!(stage.ask(&fetch).await, "error: ErrorCode::ConnectionTimeout");
    assert!(ask_the_second(&stage, &theirs, &fetch).await.starts_with("200"));

    let asked = ask(40, &format!("/patience 3000 GET http://127.0.0.1:{port}/silent"));
    let refused = "error: ErrorCode::ConnectionLimitReached";
    let limited = async {
        loop {
            let said = asked.iter().map(|(room, _)| stage.rooms.transcript(room));
            if said.filter(|lines| lines.iter().any(|line| line.text == refused)).count() == 8 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(crate::stage::PATIENCE, limited).await.expect("eight are refused");
    assert_eq!(web.heard().iter().filter(|heard| heard.contains("/silent")).count(), 32);
    assert!(ask_the_second(&stage, &theirs, &fetch).await.starts_with("200"));
}

/// As long as a report may take, if `PARLOUR_TEST_WAIT` says so many seconds.
#[tokio::test]
async fn waiting_for_an_answer_is_not_charged() {
    let seconds = std::env::var("PARLOUR_TEST_WAIT").map_or(3.0, |text| text.parse().unwrap());
    let web = Web::start().await;
    let plugin = Plugin { grants: grants(&[&web.origin()]), ..Plugin::default() };
    let limits = Limits { cpu: Duration::from_secs(1), ..Limits::default() };
    let stage = stage(plugin, |builder| builder.limits(limits)).await;
    let asked = stage.rooms.say(ALICE, &stage.room, &format!("/fetch GET {}/wait?{seconds}", web.origin()));
    let wait = Duration::from_secs_f64(seconds) + crate::stage::PATIENCE;
    let came =
        stage.rooms.until(&stage.room, wait, |lines| lines.iter().any(|line| line.text.contains("it came")));
    came.await.unwrap_or_else(|lines| panic!("no answer to {asked} in {lines:#?}"));
}

/// 23: what is said in an encrypted room stays there until somebody has agreed that it leaves.
#[tokio::test]
async fn what_is_said_in_an_encrypted_room_leaves_it_by_consent() {
    let web = Web::start().await;
    for (encrypted, expected) in [(false, "error: ErrorCode::HttpRequestDenied"), (true, "200")] {
        let grants = Grants { encrypted, ..grants(&[&web.origin()]) };
        let stage = stage(Plugin { grants, ..Plugin::default() }, |builder| builder).await;
        let room = stage.rooms.create_direct(ALICE, AGENT);
        stage.rooms.encrypt(&room);
        let said = stage.ask_as(ALICE, &room, &format!("/fetch GET {}/count", web.origin())).await;
        assert!(said.starts_with(expected), "{said}");
        // In clear it was never held back.
        assert!(stage.ask(&format!("/fetch GET {}/count", web.origin())).await.starts_with("200"));
        if !encrypted {
            stage.noticed("what is said in an encrypted room would leave it (`http`)").await;
        }
    }
}

fn with_secret(web: &Web, audience: &str) -> Plugin {
    let secret = Secret {
        value: SecretText::Literal(SECRET.into()),
        audience: audience.parse().unwrap(),
        header: "Authorization: Bearer {}".into(),
    };
    let secrets = [("api-key".to_owned(), secret)].into();
    Plugin { grants: grants(&[&web.origin()]), secrets, ..Plugin::default() }
}

/// 22: a server that echoes what it was sent, in every way.
#[tokio::test]
async fn a_secret_arrives_and_never_comes_back() {
    let web = Web::start().await;
    let stage = stage(with_secret(&web, &web.origin()), |builder| builder).await;
    assert_eq!(stage.ask("/secret api-key").await, "true");
    assert_eq!(stage.ask("/secret other").await, "false");
    let origin = web.origin();
    for path in
        ["echo", "base64", "percent", "json", "log", "gzip", "header", "redirect", "refused", "pieces"]
    {
        let said = stage.ask(&format!("/fetch GET {origin}/{path}")).await;
        assert!(said.contains("[secret]"), "{path}: {said}");
        for part in [SECRET, &SECRET[..12], &SECRET[10..]] {
            assert!(!said.contains(part), "{path}: {said}");
        }
        // Nothing that the guest holds has it, whatever it was told.
        let searched = stage.ask(&format!("/search {BACKWARDS} GET {origin}/{path}")).await;
        assert!(searched.starts_with("0 in memory"), "{path}: {searched}");
    }
    let cut = stage.ask(&format!("/fetch GET {origin}/cut")).await;
    assert!(cut.ends_with("[secret]") || cut.starts_with("error"), "{cut}");
    let deflated = stage.ask(&format!("/fetch GET {origin}/deflate")).await;
    assert!(deflated.contains("HttpResponseContentCoding"), "{deflated}");
    // A part of an answer could be a part of the secret, and what is encoded cannot be looked through.
    let range = stage.ask(&format!("/fetch GET {origin}/range Range: bytes=0-3 | Accept-Encoding: br")).await;
    assert!(range.contains("range \"\", encoding \"gzip\""), "{range}");
    // The guest's own header of the same name does not stand beside it.
    let own = stage.ask(&format!("/fetch GET {origin}/echo Authorization: Basic mine")).await;
    assert!(!own.contains("mine") && own.contains("Bearer [secret]"), "{own}");
    assert!(!format!("{:?}", stage.notices()).contains(SECRET));
    still_serves(&stage).await;
}

/// 22: a server that decodes what it was sent, before it echoes it.
#[tokio::test]
async fn credentials_do_not_come_back_decoded() {
    let web = Web::start().await;
    let (user, password) = ("somebody", "open/sesame");
    let mut plugin = with_secret(&web, &web.origin());
    let secret = plugin.secrets.get_mut("api-key").unwrap();
    secret.value = SecretText::Literal(STANDARD.encode(format!("{user}:{password}")));
    secret.header = "Authorization: Basic {}".into();
    let stage = stage(plugin, |builder| builder).await;
    for path in ["basic", "echo", "base64"] {
        let said = stage.ask(&format!("/fetch GET {}/{path}", web.origin())).await;
        assert!(said.starts_with("200") && said.contains("[secret]"), "{path}: {said}");
        let again = STANDARD.encode(format!("x{user}:{password}"));
        for part in [user, password, &again[4..12], &STANDARD.encode(user)[..10]] {
            assert!(!said.contains(part), "{path}, {part}: {said}");
        }
        let searched = stage.ask(&format!("/search emases/nepo GET {}/{path}", web.origin())).await;
        assert!(searched.starts_with("0 in memory"), "{path}: {searched}");
    }
}

/// 22: whoever can have a text reflected could find a secret by guessing, if a right guess looked otherwise than a wrong one.
#[tokio::test]
async fn no_guess_at_a_secret_is_told_from_another() {
    let web = Web::start().await;
    let stage = stage(with_secret(&web, &web.origin()), |builder| builder).await;
    for guess in ["kept", "kepz", "kept/from", "kept/frox", "6b657074"] {
        let said = stage.ask(&format!("/fetch GET {}/inside?{guess}", web.origin())).await;
        assert!(said.contains(&format!("location: {guess}")), "{guess}: {said}");
    }
}

/// The twin: what the guest holds is found in its memory, and without a secret nothing is taken out.
#[tokio::test]
async fn without_a_secret_everything_comes_back() {
    let web = Web::start().await;
    let stage = granted(&[&web.origin()]).await;
    let said =
        stage.ask(&format!("/fetch GET {}/echo Authorization: Bearer mine-all-mine", web.origin())).await;
    assert!(said.contains("Bearer mine-all-mine"), "{said}");
    let url = format!("{}/echo Authorization: Bearer mine-all-mine", web.origin());
    let searched = stage.ask(&format!("/search enim-lla-enim GET {url}")).await;
    assert!(!searched.starts_with("0 in memory"), "{searched}");
}

#[tokio::test]
async fn a_secret_goes_to_its_audience_and_nowhere_else() {
    let web = Web::start().await;
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for audience in
        [format!("http://{free}"), format!("https://{}", web.address), "http://localhost".to_owned()]
    {
        let stage = stage(with_secret(&web, &audience), |builder| builder).await;
        let said = stage.ask(&format!("/fetch GET {}/echo", web.origin())).await;
        assert!(
            said.starts_with("200") && !said.to_lowercase().contains("authorization"),
            "{audience}: {said}"
        );
    }
}
