//! The README's first screen is true to the letter.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use crate::guests::checkout;

/// The fenced blocks of a language, in order.
fn blocks(readme: &str, language: &str) -> Vec<String> {
    let parts = readme.split("```").skip(1).step_by(2);
    parts.filter_map(|part| part.strip_prefix(language)?.strip_prefix('\n').map(str::to_owned)).collect()
}

fn build(folder: &std::path::Path, source: &str, out: &std::path::Path) {
    fs::write(folder.join("src/lib.rs"), source).unwrap();
    let mut parlour = Command::new(env!("CARGO_BIN_EXE_parlour"));
    parlour.arg("build").arg(folder).arg("--out").arg(out);
    parlour.env("CARGO_TARGET_DIR", crate::guests::target().join("plugins"));
    let built = parlour.output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    assert_eq!(String::from_utf8(built.stdout).unwrap().trim(), out.to_str().unwrap());
}

#[test]
fn the_plugin_and_the_transcripts() {
    let readme = fs::read_to_string(checkout().join("README.md")).unwrap();
    let source = &blocks(&readme, "rust")[0];
    let transcripts = blocks(&readme, "text");
    let folder = tempfile::tempdir().unwrap();
    let (hello, live) = (folder.path().join("hello"), folder.path().join("plugins"));
    fs::create_dir_all(hello.join("src")).unwrap();
    let sdk = checkout().join("sdk/rust");
    // The guide's own, but for where the library is, and outside of any workspace.
    let guide = fs::read_to_string(sdk.join("README.md")).unwrap();
    let manifest = blocks(&guide, "toml")[0].replace("../parlour/sdk/rust", sdk.to_str().unwrap());
    assert!(manifest.contains(sdk.to_str().unwrap()), "{manifest}");
    fs::write(hello.join("Cargo.toml"), manifest + "[workspace]\n").unwrap();
    let out = live.join("hello.wasm");
    build(&hello, source, &out);

    let mut command = Command::new(env!("CARGO_BIN_EXE_parlour"));
    command.arg("chat").arg("--plugins").arg(&live);
    command.env("XDG_CACHE_HOME", crate::guests::target().join("test-tools"));
    let mut chat =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut say = chat.stdin.take().unwrap();
    let (tell, lines) = mpsc::channel();
    let (printed, noticed) = (chat.stdout.take().unwrap(), chat.stderr.take().unwrap());
    let telling = tell.clone();
    thread::spawn(move || {
        BufReader::new(printed).lines().map_while(Result::ok).all(|line| tell.send(line).is_ok())
    });
    thread::spawn(move || {
        BufReader::new(noticed).lines().map_while(Result::ok).all(|line| telling.send(line).is_ok())
    });

    for (index, transcript) in transcripts.iter().enumerate() {
        if index == 1 {
            build(&hello, &source.replace("Hello, ", "Good day, "), &out);
        }
        let chatted =
            transcript.lines().skip_while(|line| line.starts_with('$') || *line == "plugins/hello.wasm");
        let mut expected = Vec::new();
        for line in chatted.chain(["> "]) {
            let Some(typed) = line.strip_prefix("> ") else {
                expected.push(without_digest(line).to_owned());
                continue;
            };
            // Answers and notices come on two channels: what stands between two inputs may change places.
            let mut said: Vec<String> = expected.iter().map(|line| heard(&lines, line)).collect();
            said.sort();
            expected.sort();
            assert_eq!(said, std::mem::take(&mut expected));
            writeln!(say, "{typed}").unwrap();
        }
    }
    drop(say);
    assert!(chat.wait().unwrap().success());
}

fn heard(lines: &mpsc::Receiver<String>, expected: &str) -> String {
    let said =
        lines.recv_timeout(Duration::from_secs(60)).unwrap_or_else(|_| panic!("nobody said {expected:?}"));
    without_digest(&said).to_owned()
}

/// The digest of a build is another one on each machine.
fn without_digest(line: &str) -> &str {
    line.split(" (").next().filter(|_| line.contains("took over")).unwrap_or(line)
}

/// `parlour.toml` as the README has it.
#[test]
fn the_six_lines() {
    let readme = fs::read_to_string(checkout().join("README.md")).unwrap();
    let settings = &blocks(&readme, "toml")[0];
    assert_eq!(settings.lines().count(), 6);
    let parsed = parlour::settings::parse("README.md", settings, []).unwrap();
    assert_eq!(parsed.agents.len(), 1);
    // Of the long one every line is taken, too.
    parlour::settings::parse("README.md", &blocks(&readme, "toml")[1], []).unwrap();
}
