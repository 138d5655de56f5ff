//! What a handler learnt from outside before a crash is not asked for again, and nothing is changed there twice.

use std::{
    fs,
    net::SocketAddr,
    num::NonZeroU32,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use parlour::{
    Agent, HostBuilder,
    chat::memory::{Rooms, message},
    event::{Attachment, AttachmentKind, MediaSource, Message},
    id::{EventId, RoomId},
    journal::sqlite::Sqlite,
    llm,
    settings::{Grants, InFlight, LlmGrant, Media, Plugin},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use crate::{
    guests::{guest, patched},
    stage::{AGENT, ALICE, BOB, PATIENCE, Stage, access},
};

/// A request, and the key by which it would count once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    pub line: String,
    pub key: Option<String>,
}

/// A web server that counts: each answer is the number of its request. `/hold` is answered when it is let go, `/after` when
/// something was posted, `/busy` not at first, and at `/cut` and in the middle of `/half` it hangs up at first.
pub struct Counting {
    pub address: SocketAddr,
    heard: watch::Receiver<Vec<Heard>>,
    held: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

impl Counting {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (hears, heard) = watch::channel(Vec::new());
        let (held, holds) = watch::channel(true);
        let hears = Arc::new(hears);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (hears, holds) = (hears.clone(), holds.clone());
                tokio::spawn(async move { drop(serve(stream, &hears, holds).await) });
            }
        });
        Self { address, heard, held, serving }
    }

    /// `http://127.0.0.1:PORT`
    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests so far whose line begins so.
    pub fn heard(&self, line: &str) -> Vec<Heard> {
        self.heard.borrow().iter().filter(|heard| heard.line.starts_with(line)).cloned().collect()
    }

    /// Waits for a request.
    pub async fn until_heard(&self, line: &str) {
        let mut heard = self.heard.clone();
        let wait = heard.wait_for(|heard| heard.iter().any(|heard| heard.line.starts_with(line)));
        drop(tokio::time::timeout(PATIENCE, wait).await.expect(line).unwrap());
    }

    pub fn let_go(&self) {
        self.held.send_replace(false);
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(
    mut stream: TcpStream,
    hears: &watch::Sender<Vec<Heard>>,
    mut holds: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let mut came = Vec::new();
    loop {
        let Some(end) = came.windows(4).position(|four| four == b"\r\n\r\n") else {
            if stream.read_buf(&mut came).await? == 0 {
                return Ok(());
            }
            continue;
        };
        let head = String::from_utf8_lossy(&came[..end]).to_ascii_lowercase();
        let line = String::from_utf8_lossy(&came[..end]).lines().next().unwrap().replace(" HTTP/1.1", "");
        came.drain(..end + 4);
        if head.contains("transfer-encoding: chunked") {
            while !came.ends_with(b"0\r\n\r\n") {
                if stream.read_buf(&mut came).await? == 0 {
                    return Ok(());
                }
            }
            came.clear();
        }
        let key = head.lines().find_map(|line| line.strip_prefix("idempotency-key: ").map(str::to_owned));
        let mut number = 0;
        hears.send_modify(|heard| {
            heard.push(Heard { line: line.clone(), key });
            number = heard.len();
        });
        if line.ends_with("/hold") {
            drop(holds.wait_for(|held| !held).await);
        }
        if line.ends_with("/after") {
            let mut heard = hears.subscribe();
            let posted = |heard: &Vec<Heard>| heard.iter().any(|heard| heard.line.starts_with("POST"));
            drop(heard.wait_for(posted).await);
        }
        let first = hears.borrow().iter().filter(|heard| heard.line == line).count() == 1;
        if line.ends_with("/cut") && first {
            return Ok(());
        }
        if line.ends_with("/half") && first {
            return stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf").await;
        }
        let busy = line.ends_with("/busy") && first;
        let status = if busy { "503 Service Unavailable" } else { "200 OK" };
        let body = number.to_string();
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await?;
    }
}

/// What goes on after a crash.
struct Scene {
    folder: tempfile::TempDir,
    web: Counting,
    rooms: Rooms,
    room: RoomId,
}

fn errand(web: &Counting, in_flight: Option<InFlight>) -> Plugin {
    let grants = Grants {
        http: vec![web.origin().parse().unwrap()],
        llm: Some(LlmGrant::default()),
        tools: ["*".to_owned()].into(),
        media: Some(Media::default()),
        ..Grants::default()
    };
    Plugin { grants, in_flight, ..Plugin::default() }
}

impl Scene {
    async fn new() -> Self {
        let rooms = Rooms::new();
        let room = rooms.create_direct(ALICE, AGENT);
        Self { folder: tempfile::tempdir().unwrap(), web: Counting::start().await, rooms, room }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A host that goes on where the last one was.
    async fn host(
        &self,
        guests: &[(&str, Arc<[u8]>)],
        in_flight: impl Into<Option<InFlight>>,
        also: impl FnOnce(HostBuilder) -> HostBuilder,
    ) -> Stage {
        let agent = Agent::new("agent".parse().unwrap(), self.rooms.account(AGENT)).access(access());
        Stage::start_with(self.rooms.clone(), self.room.clone(), agent, guests, |builder| {
            let builder = builder
                .journal(Sqlite::open(self.path().join("journal.db")).unwrap())
                .secret(self.path().join("secret"));
            let (names, in_flight) = (["errand", "helper"], in_flight.into());
            let builder = names.iter().fold(builder, |builder, name| {
                builder.plugin_settings(name.parse().unwrap(), errand(&self.web, in_flight))
            });
            also(builder)
        })
        .await
    }

    async fn usual(&self) -> Stage {
        self.host(&[("errand", guest("errand"))], InFlight::Fail, |builder| builder).await
    }

    /// Alice asks for this, where `URL` is the server; answers when it holds somebody.
    async fn begun(&self, steps: &str) -> EventId {
        let steps = steps.replace("URL", &self.web.origin());
        let asked = self.rooms.say(ALICE, &self.room, &format!("/errand {steps}"));
        let held = if steps.contains("post http") && steps.ends_with("/hold") && !steps.contains("get") {
            "POST /hold"
        } else {
            "GET /hold"
        };
        self.web.until_heard(held).await;
        asked
    }

    /// Alice sends a file, which is read first: the one that she kept, or one that is `lost`. It is written down with the
    /// answer after it.
    async fn posted(&self, which: &str) -> (MediaSource, EventId) {
        let file = self.rooms.keep("remember me");
        let attachment = Attachment {
            kind: AttachmentKind::File,
            name: "file".into(),
            mime: None,
            size: None,
            duration: None,
            source: Some(file.clone()),
        };
        if which == "lost" {
            self.rooms.lose(&file);
        }
        let url = self.web.origin();
        let steps = format!("/errand try read | get {url}/a | get {url}/hold");
        let message = Message { attachments: vec![attachment], ..message(&steps) };
        (file, self.rooms.post(ALICE, &self.room, message))
    }

    fn heard(&self, line: &str) -> usize {
        self.web.heard(line).len()
    }
}

#[tokio::test]
async fn what_was_answered_before_a_crash_is_not_sent_again() {
    let scene = Scene::new().await;
    let first = scene.usual().await;
    let asked = scene.begun("get URL/a | post URL/b | tell URL/c | post-drawn URL/d | get URL/hold").await;
    first.kill().await;
    scene.web.let_go();
    let second = scene.usual().await;
    let answer = second.answer_to(&scene.room, &asked).await.text;
    assert_eq!(answer, "version-1 200 1; 200 2; 200 and no more; 200 4; 200 6");
    for line in ["GET /a", "POST /b", "POST /c", "POST /d"] {
        assert_eq!(scene.heard(line), 1, "{line}");
    }
    assert_eq!(scene.heard("GET /hold"), 2, "it was not answered");
    // Another event asks for itself, and draws other numbers.
    let url = scene.web.origin();
    let again = second.ask(&format!("/errand post {url}/b | post-drawn {url}/d")).await;
    assert_eq!(again, "version-1 200 7; 200 8");
    let drawn = scene.web.heard("POST /d");
    assert_ne!(drawn[0].line, drawn[1].line);
}

#[tokio::test]
async fn what_was_in_flight_is_told_or_sent_again_with_the_same_key() {
    for in_flight in [None, Some(InFlight::Fail), Some(InFlight::Retry)] {
        let scene = Scene::new().await;
        let guests = [("errand", guest("errand"))];
        let first = scene.host(&guests, in_flight, |builder| builder).await;
        let asked = scene.begun("post URL/hold").await;
        first.kill().await;
        scene.web.let_go();
        let second = scene.host(&guests, in_flight, |builder| builder).await;
        let answer = second.answer_to(&scene.room, &asked).await.text;
        let heard = scene.web.heard("POST /hold");
        if in_flight != Some(InFlight::Retry) {
            assert!(answer.contains("error: ErrorCode::InternalError"), "{answer}");
            assert_eq!(heard, [Heard { line: "POST /hold".into(), key: None }]);
        } else {
            assert_eq!(answer, "version-1 200 2");
            let [before, after] = &heard[..] else { panic!("{heard:?}") };
            assert!(before == after && before.key.as_ref().is_some_and(|key| key.len() == 34), "{heard:?}");
            let other = second.ask(&format!("/errand post {}/hold", scene.web.origin())).await;
            assert_eq!(other, "version-1 200 3");
            assert_ne!(scene.web.heard("POST /hold")[2].key, before.key, "of another event");
        }
    }
}

/// A model that counts how often it is asked.
struct Model(Arc<AtomicU32>);

struct Words(Vec<&'static str>);

#[async_trait]
impl llm::Backend for Model {
    async fn ask(&self, _: llm::Request) -> Result<Box<dyn llm::Answer>, llm::Failure> {
        self.0.fetch_add(1, Relaxed);
        Ok(Box::new(Words(vec!["words", "two "])))
    }
}

#[async_trait]
impl llm::Answer for Words {
    async fn next(&mut self) -> Result<Option<llm::Piece>, llm::Failure> {
        Ok(self.0.pop().map(|text| llm::Piece { text: text.into(), ..llm::Piece::default() }))
    }

    fn outcome(&self) -> Option<llm::Outcome> {
        let finish_reason = "stop".into();
        self.0.is_empty().then(|| llm::Outcome { finish_reason, ..llm::Outcome::default() })
    }
}

/// A model that cannot answer at first, and then breaks off.
struct Moody(Arc<AtomicU32>);

struct Broken(bool);

#[async_trait]
impl llm::Backend for Moody {
    async fn ask(&self, _: llm::Request) -> Result<Box<dyn llm::Answer>, llm::Failure> {
        match self.0.fetch_add(1, Relaxed) {
            0 => Err(llm::Failure::RateLimited { retry_after: Some(Duration::from_millis(7)) }),
            1 => Ok(Box::new(Broken(false))),
            _ => Ok(Box::new(Words(vec!["words", "two "]))),
        }
    }
}

#[async_trait]
impl llm::Answer for Broken {
    async fn next(&mut self) -> Result<Option<llm::Piece>, llm::Failure> {
        if std::mem::replace(&mut self.0, true) {
            return Err(llm::Failure::TooLarge("it says too much".into()));
        }
        Ok(Some(llm::Piece { text: "half a".into(), ..llm::Piece::default() }))
    }

    fn outcome(&self) -> Option<llm::Outcome> {
        None
    }
}

#[tokio::test]
async fn what_failed_before_a_crash_has_failed() {
    let scene = Scene::new().await;
    let asked = Arc::<AtomicU32>::default();
    let guests = [("errand", guest("errand"))];
    let first = scene.host(&guests, InFlight::Fail, |builder| builder.llm(Moody(asked.clone()))).await;
    let steps = "get URL/cut | post URL/once/cut | try model hello | try model hello | try model hello | \
                 get URL/hold";
    let event = scene.begun(steps).await;
    first.kill().await;
    scene.web.let_go();
    let second = scene.host(&guests, InFlight::Fail, |builder| builder.llm(Moody(asked.clone()))).await;
    let answer = second.answer_to(&scene.room, &event).await.text;
    let cut = "error: ErrorCode::HttpProtocolError";
    let models = "ErrorKind::RateLimited: the model is asked too often; ErrorKind::TooLarge: it says too much; two words";
    assert_eq!(answer, format!("version-1 {cut}; {cut}; {models}; 200 4"));
    assert_eq!(
        (scene.heard("GET /cut"), scene.heard("POST /once/cut"), asked.load(Relaxed)),
        (1, 1, 3),
        "nobody is asked again"
    );
}

#[tokio::test]
async fn an_answer_that_broke_off_before_a_crash_breaks_off() {
    let scene = Scene::new().await;
    let first = scene.usual().await;
    let asked = scene.begun("get URL/half | post URL/once/half | get URL/hold").await;
    first.kill().await;
    scene.web.let_go();
    let second = scene.usual().await;
    let answer = second.answer_to(&scene.room, &asked).await.text;
    let said: Vec<_> = answer.split("; ").collect();
    assert!(said[0].starts_with("version-1 error: ") && said[1].starts_with("error: "), "{answer}");
    assert_eq!(said[2], "200 4");
    assert_eq!((scene.heard("GET /half"), scene.heard("POST /once/half")), (1, 1));
}

#[tokio::test]
async fn a_file_that_was_not_to_be_had_before_a_crash_is_not_there() {
    let scene = Scene::new().await;
    let first = scene.usual().await;
    let (file, event) = scene.posted("lost").await;
    scene.web.until_heard("GET /hold").await;
    first.kill().await;
    scene.rooms.replace(&file, "remember me");
    scene.web.let_go();
    let second = scene.usual().await;
    let answer = second.answer_to(&scene.room, &event).await.text;
    assert!(answer.starts_with("version-1 ErrorKind::NotFound: the file is not there"), "{answer}");
}

#[tokio::test]
async fn who_comes_later_asks_again_what_had_failed() {
    let scene = Scene::new().await;
    let asked = Arc::<AtomicU32>::default();
    let guests = [("errand", guest("errand"))];
    let stage = scene.host(&guests, InFlight::Fail, |builder| builder.llm(Moody(asked.clone()))).await;
    let url = scene.web.origin();
    let answer =
        stage.ask(&format!("/errand get {url}/cut | get {url}/half | try model hello | later")).await;
    assert!(answer.starts_with("version-1 200 ") && answer.ends_with("; late"), "{answer}");
    assert!(asked.load(Relaxed) > 1, "{answer}");
    assert_eq!((scene.heard("GET /cut"), scene.heard("GET /half")), (2, 2));
}

/// A model that is silent the first time.
struct Silent(watch::Sender<u32>);

#[async_trait]
impl llm::Backend for Silent {
    async fn ask(&self, _: llm::Request) -> Result<Box<dyn llm::Answer>, llm::Failure> {
        let mut asked = 0;
        self.0.send_modify(|count| {
            *count += 1;
            asked = *count;
        });
        if asked == 1 {
            std::future::pending::<()>().await;
        }
        Ok(Box::new(Words(vec!["words", "two "])))
    }
}

#[tokio::test]
async fn a_model_that_was_being_asked_is_told_or_asked_again() {
    let newer: Arc<[u8]> = patched(&guest("errand"), "version-1", "version-2").into();
    let lost = "version-1 ErrorKind::Internal: the host ended while this was under way, and nobody knows what came of it";
    for (in_flight, then, answered, count) in [
        (Some(InFlight::Fail), guest("errand"), lost, 1),
        (Some(InFlight::Retry), guest("errand"), "version-1 two words", 2),
        // A person rather waits than is told that something was interrupted.
        (None, guest("errand"), "version-1 two words", 2),
        // It has changed nothing: another version begins anew.
        (Some(InFlight::Fail), newer, "version-2 two words", 2),
    ] {
        let scene = Scene::new().await;
        let (asks, mut asked) = watch::channel(0);
        let model = |builder: HostBuilder| builder.llm(Silent(asks.clone()));
        let first = scene.host(&[("errand", guest("errand"))], in_flight, model).await;
        let event = scene.rooms.say(ALICE, &scene.room, "/errand try model hello");
        drop(tokio::time::timeout(PATIENCE, asked.wait_for(|asked| *asked == 1)).await.unwrap().unwrap());
        first.kill().await;
        let second = scene.host(&[("errand", then)], in_flight, model).await;
        assert_eq!(second.answer_to(&scene.room, &event).await.text, answered);
        assert_eq!(*asked.borrow(), count);
    }
}

/// What a plugin has used of its tokens is forgotten with the host, and its handler goes on where it was.
#[tokio::test]
async fn who_had_used_its_tokens_before_a_crash_has_used_them() {
    let scene = Scene::new().await;
    let (asked, guests) = (Arc::<AtomicU32>::default(), [("errand", guest("errand"))]);
    let start = async || {
        let mut errand = errand(&scene.web, None);
        errand.grants.llm = Some(LlmGrant { tokens_per_day: NonZeroU32::new(1), ..LlmGrant::default() });
        let with = |builder: HostBuilder| {
            builder.llm(Model(asked.clone())).plugin_settings("errand".parse().unwrap(), errand)
        };
        scene.host(&guests, None, with).await
    };
    let first = start().await;
    let event = scene.begun("model hello | try model again | post URL/a | get URL/hold").await;
    first.kill().await;
    scene.web.let_go();
    let answer = start().await.answer_to(&scene.room, &event).await.text;
    let said: Vec<_> = answer.split("; ").collect();
    assert!(said[1].starts_with("ErrorKind::RateLimited: "), "{answer}");
    assert_eq!((said[0], said[2], asked.load(Relaxed)), ("version-1 two words", "200 1", 1), "{answer}");
}

#[tokio::test]
async fn an_answer_that_nobody_read_was_not_under_way() {
    let scene = Scene::new().await;
    let asked = Arc::<AtomicU32>::default();
    let guests = [("errand", guest("errand"))];
    let first = scene.host(&guests, InFlight::Fail, |builder| builder.llm(Model(asked.clone()))).await;
    let event = scene.begun("try ask hello | post URL/a | get URL/hold").await;
    first.kill().await;
    scene.web.let_go();
    let second = scene.host(&guests, InFlight::Fail, |builder| builder.llm(Model(asked.clone()))).await;
    let answer = second.answer_to(&scene.room, &event).await.text;
    assert_eq!((answer.as_str(), asked.load(Relaxed)), ("version-1 asked; 200 1; 200 3", 1));
}

#[tokio::test]
async fn the_model_is_not_asked_twice_and_nor_is_who_a_tool_asks() {
    let scene = Scene::new().await;
    let asked = Arc::<AtomicU32>::default();
    let guests = [("errand", guest("errand")), ("helper", guest("errand"))];
    let first = scene.host(&guests, InFlight::Fail, |builder| builder.llm(Model(asked.clone()))).await;
    let steps = "model hello | tool helper.errand post URL/a & model hello & count n | \
                 tool helper.errand post URL/a & get URL/hold";
    let event = scene.begun(steps).await;
    first.kill().await;
    scene.web.let_go();
    let second = scene.host(&guests, InFlight::Fail, |builder| builder.llm(Model(asked.clone()))).await;
    let answer = second.answer_to(&scene.room, &event).await.text;
    let tools = "version-1 200 1; two words; 1; version-1 200 2; 200 4";
    assert_eq!(answer, format!("version-1 two words; {tools}"));
    assert_eq!((asked.load(Relaxed), scene.heard("POST /a")), (2, 2));
}

#[tokio::test]
async fn who_was_first_before_a_crash_is_first() {
    let scene = Scene::new().await;
    let first = scene.usual().await;
    let raced = scene.begun("race URL/after URL/quick | get URL/hold").await;
    assert_eq!(scene.heard("POST /won/1"), 1, "the other one was answered only then");
    first.kill().await;
    // Now both have been answered.
    scene.web.let_go();
    let second = scene.usual().await;
    let answer = second.answer_to(&scene.room, &raced).await.text;
    assert!(answer.starts_with("version-1 1 was first of 200 "), "{answer}");
    assert_eq!((scene.heard("POST /won/1"), scene.heard("POST /won/0")), (1, 0));
}

#[tokio::test]
async fn what_came_too_late_before_a_crash_comes_too_late() {
    let scene = Scene::new().await;
    let first = scene.usual().await;
    let hurried = scene.begun("hurry 2000 URL/slow/hold | post URL/a | get URL/hold").await;
    first.kill().await;
    // Now it would come in time.
    scene.web.let_go();
    let second = scene.usual().await;
    let answer = second.answer_to(&scene.room, &hurried).await.text;
    assert_eq!(answer, "version-1 too late; 200 2; 200 5");
    // Whoever runs again for another reason waits anew.
    let url = scene.web.origin();
    let late = second.ask(&format!("/errand hurry 60000 {url}/b | later")).await;
    assert!(late.starts_with("version-1 200 ") && late.ends_with("; late"), "{late}");
}

#[tokio::test]
async fn of_an_answer_that_nobody_read_it_is_known_that_it_came() {
    let scene = Scene::new().await;
    let first = scene.usual().await;
    let asked = scene.begun("look-at URL/busy | post URL/a | get URL/hold").await;
    first.kill().await;
    scene.web.let_go();
    let second = scene.usual().await;
    let answer = second.answer_to(&scene.room, &asked).await.text;
    assert_eq!(answer, "version-1 503 and no more; 200 2; 200 4");
    assert_eq!(scene.heard("GET /busy"), 1);
}

#[tokio::test]
async fn a_file_is_the_same_after_a_crash_or_refused() {
    for (now, read) in [
        ("remember me", "remember me"),
        ("remember you", "ErrorKind::NotFound: the file is not the one that was sent"),
    ] {
        let scene = Scene::new().await;
        let first = scene.usual().await;
        let (file, event) = scene.posted("read").await;
        scene.web.until_heard("GET /hold").await;
        first.kill().await;
        scene.web.let_go();
        scene.rooms.replace(&file, now);
        let second = scene.usual().await;
        let answer = second.answer_to(&scene.room, &event).await.text;
        assert_eq!(answer, format!("version-1 {read}; 200 1; 200 3"));
    }
}

#[tokio::test]
async fn who_was_overtaken_reads_anew_and_pays_for_nothing_twice() {
    let scene = Scene::new().await;
    let stage = scene.usual().await;
    let bobs = scene.rooms.create_direct(BOB, AGENT);
    let asked = scene.begun("count n | post URL/a | get URL/hold").await;
    assert_eq!(stage.ask_as(BOB, &bobs, "/errand count n").await, "version-1 1");
    scene.web.let_go();
    assert_eq!(stage.answer_to(&scene.room, &asked).await.text, "version-1 2; 200 1; 200 2");
    assert_eq!((scene.heard("POST /a"), scene.heard("GET /hold")), (1, 1));
}

#[tokio::test]
async fn who_comes_later_asks_again_only_what_was_not_to_be_had() {
    let scene = Scene::new().await;
    let stage = scene.usual().await;
    let url = scene.web.origin();
    let answer = stage.ask(&format!("/errand post {url}/a | get {url}/busy | later")).await;
    assert!(answer.starts_with("version-1 200 1; 200 ") && answer.ends_with("; late"), "{answer}");
    assert_eq!((scene.heard("POST /a"), scene.heard("GET /busy")), (1, 2));
}

#[tokio::test]
async fn a_version_that_is_gone_leaves_the_next_one_to_begin_anew_unless_something_was_changed() {
    let newer: Arc<[u8]> = patched(&guest("errand"), "version-1", "version-2").into();
    for (step, changed) in [("get", false), ("post", true)] {
        let scene = Scene::new().await;
        let first = scene.usual().await;
        let asked = scene.begun(&format!("{step} URL/a | get URL/hold")).await;
        first.kill().await;
        scene.web.let_go();
        let second = scene.host(&[("errand", newer.clone())], InFlight::Fail, |builder| builder).await;
        let answer = second.answer_to(&scene.room, &asked).await.text;
        if changed {
            let line = "/errand: I was interrupted, and the version that had begun is gone; \
                        something may have been done already";
            assert_eq!(answer, line);
            second.noticed("plugin errand faulted for agent agent: the host was ended while it ran").await;
            assert_eq!(scene.heard("POST /a"), 1);
        } else {
            assert_eq!(answer, "version-2 200 3; 200 4");
        }
        assert_eq!(second.ask("/errand look n").await, "version-2 nothing");
    }
}

impl Scene {
    /// A host whose plugins are files.
    async fn of_files(&self) -> Stage {
        let at = |name: &str| self.path().join(name);
        fs::create_dir_all(at("plugins")).unwrap();
        self.host(&[], InFlight::Fail, |builder| {
            builder.plugin_folder(at("plugins")).lock(at("parlour.lock"), at("kept"))
        })
        .await
    }

    /// A plugin's file, whole at once.
    fn file(&self, plugin: &str, component: &[u8]) {
        fs::create_dir_all(self.path().join("plugins")).unwrap();
        fs::write(self.path().join("newer"), component).unwrap();
        fs::rename(self.path().join("newer"), self.path().join(format!("plugins/{plugin}.wasm"))).unwrap();
    }
}

/// The next version, which traps when it is told to stand.
fn unfit() -> Vec<u8> {
    patched(&patched(&guest("errand"), "version-1", "version-2"), "fine-mode", "trap-mode")
}

#[tokio::test]
async fn the_version_that_began_finishes() {
    let scene = Scene::new().await;
    scene.file("errand", &guest("errand"));
    let first = scene.of_files().await;
    let asked = scene.begun("post URL/a | get URL/hold").await;
    scene.file("errand", &patched(&guest("errand"), "version-1", "version-2"));
    // It takes over while a handler of the old one runs.
    first.noticed("plugin errand: new version took over").await;
    first.kill().await;
    scene.web.let_go();
    let second = scene.of_files().await;
    assert_eq!(second.answer_to(&scene.room, &asked).await.text, "version-1 200 1; 200 3");
    assert_eq!(scene.heard("POST /a"), 1);
    assert_eq!(second.ask("/errand look n").await, "version-2 nothing");
}

#[tokio::test]
async fn what_a_version_on_trial_learnt_is_told_to_the_one_before_it_and_nobody_is_asked_to_compare_them() {
    let scene = Scene::new().await;
    scene.file("errand", &guest("errand"));
    let stage = scene.of_files().await;
    let url = scene.web.origin();
    assert_eq!(stage.ask("/errand count n").await, "version-1 1");
    scene.file("errand", &unfit());
    stage.noticed("plugin errand: new version took over").await;
    let answer = stage.ask(&format!("/errand count n | get {url}/a | stand | get {url}/b")).await;
    stage.noticed("plugin errand: new version rolled back").await;
    assert_eq!(
        answer, "version-1 2; 200 2; stood; 200 3",
        "it begins anew, and remembers what it did before"
    );
    assert_eq!((scene.heard("GET /a"), scene.heard("GET /b")), (2, 1), "each version has asked once");
}

#[tokio::test]
async fn what_a_version_changed_outside_before_it_was_rolled_back_is_not_changed_again() {
    let scene = Scene::new().await;
    scene.file("errand", &guest("errand"));
    let stage = scene.of_files().await;
    let url = scene.web.origin();
    scene.file("errand", &unfit());
    stage.noticed("plugin errand: new version took over").await;
    let answer = stage.ask(&format!("/errand post {url}/a | stand")).await;
    stage.noticed("plugin errand: new version rolled back").await;
    let line = "/errand: I was interrupted, and the version that had begun is gone; something may have been done already";
    assert_eq!((answer.as_str(), scene.heard("POST /a")), (line, 1));
    assert_eq!(stage.ask("/errand stand").await, "version-1 stood");
}

#[tokio::test]
async fn what_a_tool_on_trial_changed_outside_is_told_to_the_one_before_it() {
    let scene = Scene::new().await;
    scene.file("errand", &guest("errand"));
    scene.file("helper", &guest("errand"));
    let stage = scene.of_files().await;
    let url = scene.web.origin();
    scene.file("helper", &unfit());
    stage.noticed("plugin helper: new version took over").await;
    let answer = stage.ask(&format!("/errand tool helper.errand post {url}/a & stand")).await;
    stage.noticed("plugin helper: new version rolled back").await;
    assert_eq!((answer.as_str(), scene.heard("POST /a")), ("version-1 version-1 200 1; stood", 1));
}

#[tokio::test]
async fn what_was_rolled_back_finishes_nothing() {
    let scene = Scene::new().await;
    scene.file("errand", &guest("errand"));
    let first = scene.of_files().await;
    scene.file("errand", &unfit());
    first.noticed("plugin errand: new version took over").await;
    let asked = scene.begun("get URL/a | get URL/hold").await;
    let bobs = scene.rooms.create_direct(BOB, AGENT);
    assert_eq!(first.ask_as(BOB, &bobs, "/errand stand").await, "version-1 stood");
    first.noticed("plugin errand: new version rolled back").await;
    first.kill().await;
    scene.web.let_go();
    let second = scene.of_files().await;
    assert_eq!(second.answer_to(&scene.room, &asked).await.text, "version-1 200 3; 200 4");
}
