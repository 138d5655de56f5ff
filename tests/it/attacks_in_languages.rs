//! Attacks in Python and JavaScript, by number as in `tests/README.md`: what their standard libraries reach for, and what the
//! languages let a plugin catch, change and keep. Each fails, the next event is answered by the same plugin and by another
//! one, and where the one defence against it can be taken away, it succeeds without it.

use std::{net::TcpListener, sync::Arc, time::Duration};

use parlour::{
    engine::limits::Limits,
    settings::{Files, Grants, LlmGrant},
};

use crate::{
    guests::{example, guest, hostile_javascript, hostile_python},
    stage::{AGENT, ALICE, BOB, Stage, granted},
};

/// The same attacks in each language, and some of its own.
fn languages() -> [(&'static str, Arc<[u8]>); 2] {
    [("python", hostile_python()), ("javascript", hostile_javascript())]
}

/// Half a second of CPU time: to start, Python needs a tenth in a debug build.
fn short() -> Limits {
    Limits { cpu: Duration::from_millis(500), ..Limits::default() }
}

/// As much as anybody wants.
fn long() -> Limits {
    Limits { cpu: Duration::from_secs(60), ..Limits::default() }
}

async fn stage(component: &Arc<[u8]>, limits: Limits, grants: Grants) -> Stage {
    let guests = [("hostile", component.clone()), ("echo", example("echo")), ("handy", guest("handy"))];
    let also = |builder: parlour::HostBuilder| {
        builder.limits(limits).plugin_settings("hostile".parse().unwrap(), granted(grants))
    };
    Stage::start(&guests, also).await
}

async fn still_serves(stage: &Stage) {
    assert_eq!(stage.ask("/remember").await, "0", "the plugin itself, and it has found nothing");
    assert_eq!(stage.ask("/echo still here").await, "still here");
}

/// 1: whatever a language has that need not end, and is not to be caught.
#[tokio::test]
async fn what_need_not_end_is_ended() {
    let both = ["spin", "survive", "generate", "backtrack 32", "hoard 300"];
    for (language, component) in languages() {
        let own = if language == "python" { &["coroutine", "collide 60000"][..] } else { &["sort", "proxy"] };
        let stage = stage(&component, short(), Grants::default()).await;
        for attack in both.iter().chain(own) {
            let answer = stage.ask(&format!("/{attack}")).await;
            let name = attack.split(' ').next().unwrap();
            assert_eq!(answer, format!("/{name}: stopped: it used up its 0.5 s of CPU time"), "{language}");
            still_serves(&stage).await;
        }
    }
}

/// 1: the twin.
#[tokio::test]
async fn what_ends_some_day_does_so_in_time_enough() {
    for (language, component) in languages() {
        let stage = stage(&component, Limits { memory: 1 << 30, ..long() }, Grants::default()).await;
        assert_eq!(stage.ask("/backtrack 24").await, "no match", "{language}");
        assert_eq!(stage.ask("/hoard 300").await, "300 MiB", "{language}");
        if language == "python" {
            assert_eq!(stage.ask("/collide 6000").await, "6000 keys");
        }
    }
}

/// 5: more memory than there is. Whoever insists is ended by his time, above.
#[tokio::test]
async fn what_asks_for_too_much_memory_is_ended() {
    let limits = |mebibytes: usize| Limits { memory: mebibytes << 20, ..long() };
    let python = hostile_python();
    let small = stage(&python, limits(64), Grants::default()).await;
    let answer = small.ask("/power 1000").await;
    assert_eq!(answer, "/power: stopped: it wanted more than its 64 MiB of memory");
    still_serves(&small).await;
    let large = stage(&python, limits(1024), Grants::default()).await;
    assert_eq!(large.ask("/power 1000").await, "1048576001 bits");
}

/// 7: in the language's own calls, in the interpreter's stack, and in its parsers.
#[tokio::test]
async fn what_is_too_deep_is_ended() {
    for (language, component) in languages() {
        let stage = stage(&component, long(), Grants::default()).await;
        for (shallow, said) in [("recurse 100", "100 deep"), ("nest 50", " long"), ("parse 50", "50")] {
            let answer = stage.ask(&format!("/{shallow}")).await;
            assert!(answer.contains(said) && !answer.starts_with('/'), "{language}: {answer}");
        }
        let own = if language == "python" { "finalize" } else { "recurse 1000000" };
        for attack in ["nest 1000000", "parse 1000000", own] {
            let answer = stage.ask(&format!("/{attack}")).await;
            let name = attack.split(' ').next().unwrap();
            let expected = format!("/{name}: stopped: it crashed: wasm trap: call stack exhausted");
            assert_eq!(answer, expected, "{language}");
            still_serves(&stage).await;
        }
        if language == "python" {
            // Its calls are on the heap.
            assert_eq!(stage.ask("/recurse 300000").await, "300000 deep");
        }
    }
}

/// 8 and 45: giants and nonsense in a host call.
#[tokio::test]
async fn what_no_call_takes_ends_alone() {
    for (language, component) in languages() {
        let usual = stage(&component, long(), Grants::default()).await;
        let answer = usual.ask("/giant 32").await;
        assert!(answer.starts_with("/giant: stopped: it crashed: too much data"), "{language}: {answer}");
        still_serves(&usual).await;
        let nonsense = if language == "python" { &["reach nothing"][..] } else { &["wait", "convert"] };
        for attack in nonsense {
            let answer = usual.ask(&format!("/{attack}")).await;
            assert!(answer.contains(": stopped: it crashed: "), "{language}: {attack}: {answer}");
            still_serves(&usual).await;
        }
        let all = Limits { host_call: 256 << 20, ..long() };
        let answer = stage(&component, all, Grants::default()).await.ask("/giant 8").await;
        assert_eq!(answer, "/giant: a message has at most 32 KiB", "{language}: it was copied");
    }
}

/// 10: by the log, and by standard error.
#[tokio::test]
async fn nobody_forges_or_floods_the_log() {
    for (language, component) in languages() {
        let stage = stage(&component, long(), Grants::default()).await;
        assert_eq!(stage.ask("/shout").await, "shouted");
        still_serves(&stage).await;
        let lines = stage.notices().into_iter().map(|notice| notice.to_string());
        let lines: Vec<String> = lines.filter(|line| line.contains("forged")).collect();
        assert!((100..=200).contains(&lines.len()), "{language}: {}", lines.len());
        let plain = |line: &String| line.starts_with("plugin hostile: ") && !line.contains(char::is_control);
        assert!(lines.iter().all(plain), "{language}: {lines:?}");
    }
}

/// 21, 25, 32 and 38: the network, files, processes, the environment, arguments, input, native code.
#[tokio::test]
async fn there_is_nothing_to_see_of_the_machine() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let look = format!("/look {}", listener.local_addr().unwrap());
    for (language, component) in languages() {
        let stage = stage(&component, long(), Grants::default()).await;
        let nothing = if language == "python" { "worked: []; seen: [], [], [], ''" } else { "worked: []" };
        assert_eq!(stage.ask(&look).await, nothing, "{language}");
        still_serves(&stage).await;
    }
    assert!(listener.accept().is_err(), "nobody came");
}

/// 25: files, by the language's own `open`.
#[tokio::test]
async fn a_file_is_opened_where_its_folder_was_granted() {
    let python = hostile_python();
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("inner");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("note"), "remember me").unwrap();
    std::fs::write(outer.path().join("secret"), "nobody's").unwrap();
    let files = Files { folder, write: false, bytes: None };
    let denied = stage(&python, long(), Grants::default()).await;
    let may = stage(&python, long(), Grants { files: Some(files), ..Grants::default() }).await;
    assert_eq!(may.ask("/read /files/note").await, "remember me");
    assert!(denied.ask("/read /files/note").await.ends_with("Error"));
    for outside in ["/files/../secret", "/etc/passwd", "/proc/self/environ", "../../etc/passwd", "/dev/zero"]
    {
        let answer = may.ask(&format!("/read {outside}")).await;
        assert!(answer.ends_with("Error"), "{outside}: {answer}");
    }
    still_serves(&may).await;
}

/// 13, 32: calls that nobody has granted.
#[tokio::test]
async fn what_was_not_granted_is_denied() {
    for (language, component) in languages() {
        let stage_with = async |grants| stage(&component, long(), grants).await;
        let denied = stage_with(Grants::default()).await;
        for what in ["llm", "people", "tools"] {
            assert_eq!(denied.ask(&format!("/reach {what}")).await, format!("{what}: denied"), "{language}");
        }
        still_serves(&denied).await;
        let may = stage_with(Grants {
            llm: Some(LlmGrant::default()),
            people: [BOB.into()].into(),
            tools: ["handy.answer".into()].into(),
            ..Grants::default()
        })
        .await;
        assert_eq!(may.ask("/reach llm").await, "llm: unsupported", "{language}: there is no model");
        assert_eq!(may.ask("/reach tools").await, "tools: hello", "{language}");
        let room = may.rooms.create_direct(BOB, AGENT);
        may.rooms.say(ALICE, &may.room, "/reach people");
        assert_eq!(may.until(&room, |lines| lines.len() == 1).await[0].text, "hello", "{language}");
    }
}

/// 29: the end of the process is the end of one call.
#[tokio::test]
async fn nobody_ends_the_process() {
    let stage = stage(&hostile_python(), long(), Grants::default()).await;
    for how in ["sys", "os", "abort"] {
        let answer = stage.ask(&format!("/exit {how}")).await;
        assert!(answer.starts_with("/exit: stopped: it crashed: "), "{how}: {answer}");
        still_serves(&stage).await;
    }
}

/// 30: what one event leaves in modules, classes, prototypes and the environment, it finds itself, and the next one does not;
/// nor does what was put off run later.
#[tokio::test]
async fn what_is_left_ends_with_the_event() {
    for (language, component) in languages() {
        let stage = stage(&component, long(), Grants::default()).await;
        let room = stage.rooms.create_direct(BOB, AGENT);
        for _ in 0..3 {
            assert_eq!(stage.ask("/remember twice").await, "4", "{language}");
            assert_eq!(stage.ask("/remember").await, "0", "{language}");
            assert_eq!(stage.ask_as(BOB, &room, "/remember").await, "0", "{language}");
        }
        if language == "javascript" {
            assert_eq!(stage.ask("/promise").await, "promised");
            still_serves(&stage).await;
        }
    }
}
