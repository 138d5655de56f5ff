//! The short run: real examples and changes to them, the same ones every time.

use std::{fs, path::Path};

use proptest::{
    prelude::*,
    sample::Index,
    test_runner::{RngAlgorithm, TestRng, TestRunner},
};
use wasm_encoder::{
    Component, ComponentExportKind, ComponentExportSection, ComponentImportSection, ComponentSection,
    ComponentTypeRef, ComponentTypeSection, CustomSection, InstanceType, Module, ModuleSection,
    NestedComponentSection, PrimitiveValType,
};

use super::*;

/// What is often where something goes wrong.
const WORDS: [&str; 40] = [
    "\0",
    "\n",
    "\r\n",
    "\u{1b}[2J",
    "\u{202e}",
    "\u{200b}",
    "\u{301}",
    "\u{feff}",
    "é",
    "👍",
    "\"",
    "\"\"\"",
    "'",
    "\\",
    "[",
    "]",
    "[[",
    "{",
    "}",
    "=",
    ".",
    "#",
    "<",
    ">",
    "</",
    "&#x",
    "%",
    "%25",
    "://",
    "@",
    ":",
    "*",
    "!",
    "-9223372036854775809",
    "18446744073709551616",
    "1e999",
    "nan",
    "$ref",
    "javascript:",
    "__",
];

/// One change.
#[derive(Debug, Clone)]
enum Change {
    Set(Index, u8),
    Flip(Index, u8),
    Word(Index, &'static str),
    Cut(Index, usize),
    Repeat(Index, usize, usize),
    Splice(Index, Index, Index),
    End(Index),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let at = any::<Index>;
    let change = prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (at(), 0..8_u8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        (at(), prop::sample::select(&WORDS[..])).prop_map(|(at, word)| Change::Word(at, word)),
        (at(), 1..40_usize).prop_map(|(at, length)| Change::Cut(at, length)),
        (at(), 1..40_usize, 1..60_usize).prop_map(|(at, length, times)| Change::Repeat(at, length, times)),
        (at(), at(), at()).prop_map(|(at, which, from)| Change::Splice(at, which, from)),
        at().prop_map(Change::End),
    ];
    prop::collection::vec(change, 0..6)
}

fn changed(examples: &[Vec<u8>], which: Index, changes: &[Change]) -> Vec<u8> {
    let mut data = which.get(examples).clone();
    for change in changes {
        let place = |at: &Index| at.index(data.len() + 1);
        match change {
            Change::Set(at, byte) => {
                let at = place(at);
                if let Some(there) = data.get_mut(at) {
                    *there = *byte;
                }
            }
            Change::Flip(at, bit) => {
                let at = place(at);
                if let Some(there) = data.get_mut(at) {
                    *there ^= 1 << bit;
                }
            }
            Change::Word(at, word) => {
                let at = place(at);
                data.splice(at..at, word.bytes());
            }
            Change::Cut(at, length) => {
                let at = place(at);
                data.drain(at..(at + length).min(data.len()));
            }
            Change::Repeat(at, length, times) => {
                let at = place(at);
                let piece = data[at..(at + length).min(data.len())].repeat(*times);
                data.splice(at..at, piece);
            }
            Change::Splice(at, which, from) => {
                let at = place(at);
                let other = which.get(examples);
                data.truncate(at);
                data.extend(&other[from.index(other.len() + 1)..]);
            }
            Change::End(at) => data.truncate(place(at)),
        }
    }
    data
}

/// Each example as it is, and then this many changed ones, or as many times more as `PARLOUR_TEST_FUZZ` says; a failure
/// is made smaller before it is shown.
fn run(body: fn(&[u8]), cases: u32, examples: &[Vec<u8>]) {
    for example in examples {
        body(example);
    }
    let times = std::env::var("PARLOUR_TEST_FUZZ").map_or(1, |text| text.parse().unwrap());
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases * times) };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let strategy = (any::<Index>(), changes());
    let ran = runner.run(&strategy, |(which, changes)| {
        body(&changed(examples, which, &changes));
        Ok(())
    });
    if let Err(failed) = ran {
        panic!("{failed}");
    }
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Every `plugin.toml` of this checkout.
fn manifests() -> Vec<Vec<u8>> {
    let plugins = fs::read_dir("../plugins").unwrap().map(|entry| entry.unwrap().path().join("plugin.toml"));
    let guests = fs::read_dir("../tests/guests").unwrap().map(|entry| entry.unwrap().path());
    let is_manifest =
        |file: &Path| file.extension().is_some_and(|it| it == "toml") && !file.ends_with("Cargo.toml");
    let files = plugins.chain(guests).filter(|file| is_manifest(file) && file.exists());
    let mut manifests: Vec<_> = files.map(|file| fs::read(file).unwrap()).collect();
    manifests.push(FULL.as_bytes().to_vec());
    manifests.sort();
    manifests
}

/// One that asks for everything.
const FULL: &str = r#"name = "full"
version = "1.2.3-rc.1+7"
description = "Asks for everything"
license = "Apache-2.0"
homepage = "https://example.org"
contract = "0.1.0"
handles = ["commands", "messages", "members"]
limits = { cpu_ms = 5000, wall_s = 60, memory_mib = 512 }
[asks.outbox]
[asks.kv]
bytes = 1_000_000
keys = 10
reason = "Remembers much"
[asks.http]
hosts = ["https://*.example.org:8443", "http://[::1]:*"]
methods = ["GET"]
reason = "Fetches"
[asks.files]
write = true
reason = "Keeps notes"
[asks.secrets.api-key]
audience = "https://api.example.org"
reason = "Signs in"
[config]
additionalProperties = false
properties.city = { type = "string", default = "Rome", pattern = "^[A-Z]" }
properties.days = { type = "integer", minimum = 1, default = 3 }
"#;

#[test]
fn manifests_are_read_or_refused() {
    run(manifest, 1500, &manifests());
}

/// The settings that the README shows, each block by itself, and with an environment.
#[test]
fn settings_are_read_or_refused() {
    let readme = fs::read_to_string("../README.md").unwrap();
    let blocks = readme.split("```toml\n").skip(1).map(|block| block.split("```").next().unwrap());
    let mut examples: Vec<Vec<u8>> = blocks.map(|block| block.as_bytes().to_vec()).collect();
    let taken = examples
        .iter()
        .filter(|text| settings::parse("parlour.toml", std::str::from_utf8(text).unwrap(), []).is_ok());
    assert!(taken.count() >= 1, "the README has settings");
    for example in examples.clone() {
        let env = "\0PARLOUR_AGENTS__HELPER__PASSWORD=x\nPARLOUR_DATA=[1]\nPARLOUR_BEHAVIOUR__REQUIRE_MENTION=false";
        examples.push([example, env.into()].concat());
    }
    run(settings, 600, &examples);
    settings(format!("[plugins.a.config]\n{} = 1", vec!["a"; 100_000].join(".")).as_bytes());
    settings(format!("\0PARLOUR_PLUGINS{}=1", "__A".repeat(100_000)).as_bytes());
}

/// A component as the tools make them: modules and components in it, imports, exports, a manifest, a signature.
fn component(manifest: Option<&str>) -> Vec<u8> {
    let mut component = Component::new();
    component.section(&ModuleSection(&Module::new()));
    let mut inner = Component::new();
    inner.section(&CustomSection { name: package::SECTION.into(), data: b"not here"[..].into() });
    component.section(&NestedComponentSection(&inner));
    let mut types = ComponentTypeSection::new();
    let mut instance = InstanceType::new();
    instance.ty().function().params([("key", PrimitiveValType::String)]).result(None);
    types.instance(&instance);
    component.section(&types);
    let mut imports = ComponentImportSection::new();
    for name in ["parlour:plugin/outbox@0.1.0", "wasi:random/random@0.2.0", "acme:rockets/launch"] {
        imports.import(name, ComponentTypeRef::Instance(0));
    }
    component.section(&imports);
    let mut exports = ComponentExportSection::new();
    for name in ["parlour:plugin/commands@0.1.0", "parlour:plugin/members@0.1.0"] {
        exports.export(name, ComponentExportKind::Instance, 0, None);
    }
    component.section(&exports);
    let bytes = component.finish();
    match manifest {
        Some(manifest) => package::embed(bytes, manifest).unwrap(),
        None => bytes,
    }
}

#[test]
fn components_are_admitted_or_refused() {
    let whole = component(Some(FULL));
    let signed = sign(whole.clone(), &Key::new(&[1; 32]));
    let examples = [component(None), whole.clone(), signed];
    for example in &examples {
        assert!(Candidate::read(example.clone().into(), 1024 * 1024).is_ok(), "the examples are good ones");
    }
    let mut imports = ComponentImportSection::new();
    for number in 0..2000 {
        imports.import(format!("a:b/c{number}").as_str(), ComponentTypeRef::Instance(0));
    }
    let mut crowded = whole;
    imports.append_to_component(&mut crowded);
    let refused = admission::surface(&crowded).unwrap_err().to_string();
    assert!(refused.contains("more than 1000 things"), "{refused}");
    let others = [b"\0asm\x01\0\0\0".to_vec(), crowded, vec![]];
    run(admission, 2000, &[&examples[..], &others[..]].concat());
}

#[test]
fn origins_are_read_as_they_are_written() {
    let examples = texts(&[
        "https://api.example.org\nhttps://api.example.org/x?y#z\nhttps://API.example.org.:443/",
        "https://*.example.org:8443\nhttps://a.b.example.org:8443/\nhttps://example.org:8443/",
        "http://*:*\nhttp://0x7f.1:80/\nhttp://2130706433/\nhttp://[::ffff:127.0.0.1]/\nhttp://user@host/",
        "http://[::1]:8080\nhttp://[0:0::1]:8080/a%2f..\\b",
        "https://bücher.example\nhttps://xn--bcher-kva.example/\nhttps://bu\u{308}cher.example",
        "https://any\nhttps://any/\nhttps://*/",
        "https://*.:*\nhttps://.\nhttps://..",
    ]);
    run(origin, 3000, &examples);
}

#[test]
fn what_people_type_is_read() {
    let examples = texts(&[
        "The Bot\n@bot:good.org: roll 2d6 +1",
        "The Bot\n/remind 10 @alice:example.org feed the \"cat\"",
        "The Bot\nThe Bot, !Roll  2d6 ",
        "\nhello, @bot",
        "Ⅷ İ\n@Ⅷ İ: /a\u{a0}b\u{2028}c",
        "x\n/a \"\"\"x\" [1, {\"a\": 2}] two",
    ]);
    run(typed, 2000, &examples);
    let long = format!("Bot\n@bot:good.org /remind {}", "a \"b\" 7 ".repeat(8000));
    typed(long.as_bytes());
}

#[test]
fn schemas_are_taken_or_refused() {
    let examples = texts(&[
        "when\n{\"type\":\"integer\",\"minimum\":1}",
        "who\n{\"type\":[\"string\",\"null\"],\"format\":\"matrix-user-id\",\"maxLength\":40}",
        "text\n{\"anyOf\":[{\"pattern\":\"^(a|b)*$\"},{\"enum\":[1,2.5,null,[\"x\"]]}],\"not\":{\"const\":7}}",
        "x\n{\"allOf\":[{\"$ref\":\"#\"}]}",
        "x\n{\"if\":{\"minItems\":1},\"then\":{\"uniqueItems\":true},\"patternProperties\":{\"^a\":false}}",
    ]);
    run(schema, 1000, &examples);
}

#[test]
fn messages_become_harmless_html() {
    let examples = texts(&[
        "# Title\n\n- **a** _b_ ~~c~~ `d<e>`\n- [x](https://e.org/?a=1&b=2 \"t\")\n\n| a | b |\n|---|---|\n| 1 | 2 |\n",
        "```rust\nfn x() {}\n```\n![cat](mxc://hs/1) ![dog](https://e.org/d.png)\n> quote\n>> deeper",
        "<div><b onclick=\"y()\">z</b><script>alert(1)</script><a href=\"javascript:x\">l</a></div> **x**",
        "[a]: javascript:alert(1)\n[a] <https://e.org> <u data-mx-color=red>so</u> <img src=mxc://hs/2 onerror=x>",
        "<table><tr><td><b x=1></table><p>x<p>y <details><summary>s</summary>t</details> **&#106;avascript:**",
        "<a href=\"&#x6A;avascript:x\">a</a><svg><style><img src=x onerror=alert(1)></style></svg><math><mi>**b**",
        "<A HREF='https://matrix.to/#/@a:hs'>x</A><!-- c --><![CDATA[d]]><textarea><plaintext>**e**",
    ]);
    run(render, 2000, &examples);
    // Not longer than a message may be, and as bad as it can be.
    for piece in [
        "<div>",
        "<b x>",
        "*_",
        "[a](",
        "<a href=x>",
        "> ",
        "- ",
        "|a",
        "&amp;",
        "`a`",
        "<td>",
        "![",
        "\\*",
        "<p>x",
    ] {
        let text = piece.repeat(32 * 1024 / piece.len());
        render(text.as_bytes());
        let table =
            format!("{}\n{}\n{}", "|a".repeat(500), "|-".repeat(500), format!("{piece}\n").repeat(2000));
        render(table.as_bytes());
    }
}

#[test]
fn what_is_shown_is_one_line_and_bounded() {
    let examples =
        texts(&["\u{ff}x\u{1b}[2J\nplugin echo: loaded\u{202e}", "\u{8}é👍👍👍👍", "\0abc", "\u{5}abcde"]);
    run(shown, 2000, &examples);
}

#[test]
fn names_are_taken_as_they_are_or_refused() {
    let key = Key::new(&[3; 32]);
    let publisher = key.publisher().to_string();
    let file = key.file();
    let examples = texts(&[
        "@alice:example.org\n!room:example.org\n$event\necho\nGET",
        "@:\n!\n$\n@a:b:c\n!\u{202e}\n$\u{301}",
        &publisher,
        &file,
    ]);
    run(names, 2000, &examples);
    names("@".repeat(4 * 1024 * 1024).as_bytes());
}

#[test]
fn secrets_are_taken_out() {
    let examples = texts(&[
        "s3cr\"t/+ %&key\0you said: s3cr\"t/+ %&key, and s3cr%22t%2f%2b%20%25%26key.",
        "password1\0pass\\u0077ord1 70617373776f726431 cGFzc3dvcmQx",
        "aaaaaaaaaaaa\0aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "\\\\\\\\\\\\\\\\\0\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\x",
    ]);
    run(scrub, 1500, &examples);
}
