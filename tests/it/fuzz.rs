//! What nobody expects: odd values in every import, calls below the level of types, and components with a few bytes
//! changed. Each ends as an error, or as the end of that one call; the host serves the next event.

use std::{io, net::IpAddr, num::NonZeroU32, sync::Arc, time::Duration};

use async_trait::async_trait;
use parlour::{
    engine::limits::Limits,
    http::Resolver,
    llm::openai::OpenAi,
    notice::Notice,
    settings::{self, Grants, LlmGrant, Plugin},
};

use crate::{
    guests::{example, greet, guest, host},
    model::{Model, Reply},
    stage::{AGENT, ALICE, BOB, Stage},
    web::Web,
};

/// Every name is this machine.
struct Here;

#[async_trait]
impl Resolver for Here {
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        Ok(vec!["127.0.0.1".parse().unwrap()])
    }
}

/// All that can be granted.
fn everything(folder: &std::path::Path) -> Plugin {
    let all = ["*".to_owned()];
    let http = ["http://*:*", "https://*:*"].map(|url| {
        toml::from_str::<Plugin>(&format!("grants.http = [{{ url = \"{url}\", private = true }}]")).unwrap()
    });
    let grants = Grants {
        home: true,
        llm: Some(LlmGrant::default()),
        rooms: all.clone().into(),
        people: all.into(),
        http: http.into_iter().flat_map(|plugin| plugin.grants.http).collect(),
        files: Some(settings::Files { folder: folder.to_owned(), write: true, bytes: None }),
        media: Some(settings::Media::default()),
        encrypted: true,
        timers: Some(settings::Timers::default()),
        ..Grants::default()
    };
    let config = toml::from_str("city = \"Rome\"").unwrap();
    Plugin { grants, config, ..Plugin::default() }
}

/// What the host says of its own failures, and of plugins that were ended.
fn faults(stage: &Stage) -> Vec<String> {
    let fault = |notice| match notice {
        Notice::PluginFaulted { fault, .. } => Some(fault),
        _ => None,
    };
    stage.notices().into_iter().filter_map(fault).collect()
}

/// 45: every import, with values from a list of nasty ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_values_are_errors_and_nothing_else() {
    let seeds = std::env::var("PARLOUR_TEST_SEEDS").map_or(16, |text| text.parse().unwrap());
    let (web, model) = (Web::start().await, Model::start().await.unwrap());
    let outside = tempfile::tempdir().unwrap();
    let folder = outside.path().join("inside");
    std::fs::create_dir(&folder).unwrap();
    let backend = OpenAi::new(&model.url(), None, "m".into(), Duration::from_secs(5)).unwrap();
    let limits = Limits { cpu: Duration::from_secs(60), ..Limits::default() };
    let guests = [("odd", guest("odd")), ("echo", example("echo"))];
    let stage = Stage::start(&guests, |builder| {
        let builder = builder.plugin_settings("odd".parse().unwrap(), everything(&folder));
        builder.limits(limits).resolver(Here).llm(backend)
    })
    .await;
    let mut well = 0;
    for seed in 0..seeds {
        for _ in 0..3 {
            model.answer(Reply::text("It is so."));
        }
        // Everybody has a room of their own, so that what is sent late is in nobody's way.
        let user = if seed % 2 == 0 { ALICE } else { BOB };
        let room = stage.rooms.create_direct(user, AGENT);
        if seed % 5 == 4 {
            stage.rooms.encrypt(&room);
        }
        stage.rooms.say(user, &room, &format!("/odd {seed} {}", web.address));
        let said = stage.noticed(&format!("odd {seed}: 300 calls, ")).await.to_string();
        let said = said.rsplit("calls, ").next().unwrap().split(' ').next().unwrap();
        well += said.parse::<u32>().unwrap();
        let here = format!("still here {seed}");
        stage.rooms.say(user, &room, &format!("/echo {here}"));
        stage
            .until(&room, |lines| lines.iter().any(|line| line.sender.as_str() == AGENT && line.text == here))
            .await;
        assert_eq!(faults(&stage), Vec::<String>::new(), "seed {seed}");
    }
    // Much of it was odd, and not all: it came where it was meant to.
    assert!(well > 30 * seeds && well < 200 * seeds, "{well} calls went well");
    assert!(web.connections() > 0, "no request has left, of {well} calls");
    assert!(!model.requests().is_empty(), "no model was asked, of {well} calls");
    assert!(std::fs::read_dir(&folder).unwrap().count() > 0);
    // Nothing has left the folder.
    let around: Vec<_> =
        std::fs::read_dir(outside.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(around, ["inside"]);
    for notice in stage.notices() {
        let line = notice.to_string();
        assert!(line.len() < 10_000 && !line.contains(parlour::text::hidden), "{line:?}");
    }
}

/// 45: what no language with types can say: wrong pointers, lengths, cases and memory.
#[tokio::test]
async fn calls_below_the_level_of_types_end_alone() {
    let limits = Limits { messages: NonZeroU32::MAX, cpu: Duration::from_secs(20), ..Limits::default() };
    let guests = [("raw", guest("raw")), ("echo", example("echo"))];
    let model = Model::start().await.unwrap();
    let backend = OpenAi::new(&model.url(), None, "m".into(), Duration::from_secs(5)).unwrap();
    let stage = Stage::start(&guests, |builder| {
        let grants = Grants { home: true, llm: Some(LlmGrant::default()), ..Grants::default() };
        let plugin = Plugin { grants, ..Plugin::default() };
        builder.plugin_settings("raw".parse().unwrap(), plugin).limits(limits).llm(backend)
    })
    .await;
    let mut crashed = 0;
    for number in 0..63 {
        let said = stage.ask(&format!("/raw {number}")).await;
        assert!(said == "went on" || said.starts_with("/raw: stopped: it crashed: "), "{number}: {said}");
        assert!(!said.contains("the host itself failed"), "{number}: {said}");
        // The first twenty and some are no text, no case and no memory at all: none of them can have gone on.
        crashed += usize::from(said != "went on");
        assert!(said != "went on" || !(0..36).contains(&number), "{number} went on");
        assert_eq!(stage.ask("/fine").await, "went on", "after {number}");
        assert_eq!(stage.ask(&format!("/echo still here {number}")).await, format!("still here {number}"));
    }
    assert_eq!(faults(&stage).len(), crashed);
}

/// 31: real components with a few bytes changed are refused in a line, or load and serve.
#[tokio::test]
async fn changed_components_are_refused_or_serve() {
    let signed = {
        let key = parlour::signature::Key::new(&[9; 32]);
        parlour::signature::sign(guest("steady").to_vec(), &key)
    };
    let javascript = greet();
    let (mut refused, mut served) = (0, 0);
    let mut state = 45_u64;
    let mut draw = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for number in 0..80 {
        // What costs seconds to compile is changed where that is not reached, too.
        let mut bytes = match number % 10 {
            0 => javascript[..javascript.len().min(20_000 + draw(1_000_000))].to_vec(),
            1 | 2 => signed.clone(),
            _ => guest("steady").to_vec(),
        };
        // Of some the size stays, so that what is in them is reached.
        let kinds = if number % 10 < 6 { 4 } else { 2 };
        for _ in 0..=draw(kinds) / 2 {
            let at = draw(bytes.len());
            match draw(kinds) {
                0 => bytes[at] ^= 1 << draw(8),
                1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][draw(5)],
                2 => drop(bytes.drain(at..(at + 1 + draw(8)).min(bytes.len()))),
                _ => {
                    let piece = bytes[at..(at + 1 + draw(64)).min(bytes.len())].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
        }
        let component: Arc<[u8]> = bytes.into();
        let limits = Limits { cpu: Duration::from_secs(1), ..Limits::default() };
        let built = host().limits(limits).plugin("steady".parse().unwrap(), component.clone()).build().await;
        match built.map(drop) {
            Ok(()) => served += 1,
            Err(error) => {
                let line = error.to_string();
                assert!(line.len() < 2300 && !line.contains(parlour::text::hidden), "{line:?}");
                refused += 1;
            }
        }
    }
    // Most changes are fatal; some are in what is data.
    assert!(refused > 20 && served > 2, "{refused} refused, {served} served");
}
