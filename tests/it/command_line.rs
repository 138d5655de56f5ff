//! The program as a person types it.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use crate::guests::{component, example, guest};

/// Nothing that a person types takes longer, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(180);

fn parlour(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_parlour"));
    command.args(arguments).env("XDG_CACHE_HOME", crate::guests::target().join("test-tools"));
    finish(&mut command, input)
}

/// Runs a command with all that it starts, to its end.
fn finish(command: &mut Command, input: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.process_group(0).spawn().unwrap();
    let group = Pid::from_raw(child.id().cast_signed());
    // It may have ended before it read anything.
    drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
    let (ended, end) = mpsc::channel();
    thread::spawn(move || ended.send(child.wait_with_output()));
    match end.recv_timeout(PATIENCE) {
        Ok(output) => output.unwrap(),
        Err(_) => {
            killpg(group, Signal::SIGKILL).ok();
            panic!("{command:?} does not end");
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_pipe_gets_the_answers_and_the_end() {
    for arguments in [&["chat"][..], &[]] {
        let output = parlour(arguments, "/echo hello\n/roll 2d6\n\nhello\n");
        assert!(output.status.success());
        let lines: Vec<String> = text(&output.stdout).lines().map(str::to_owned).collect();
        assert_eq!(lines.first().map(String::as_str), Some("hello"), "{lines:?}");
        assert!(lines[1].contains("2d6"), "{lines:?}");
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert_eq!(lines.last().map(String::as_str), Some("I answer commands only. /help lists them."));
        assert_eq!(text(&output.stderr), "");
    }
}

#[test]
fn somebody_else_is_no_admin() {
    let output = parlour(&["chat", "--as", "bob"], "/sethome\n");
    assert_eq!(text(&output.stdout), "/sethome is for admins only.\n");
}

#[test]
fn inspect_says_in_plain_words_what_a_component_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("echo.wasm");
    fs::write(&file, example("echo")).unwrap();
    let output = parlour(&["plugin", "inspect", file.to_str().unwrap()], "");
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}");
    for expected in [
        "\necho 0.1.0: Says what it is told\nApache-2.0\n",
        "\nIt asks to:\n  outbox      answer where it was asked, write to the home, and change what it sent\n              “Says it”\n\n",
        "\nIt exports:\n  commands    has commands that people type\n",
        "\n  outbox      sends, edits and removes messages, reacts, and names a home\n",
        "\nThis host can load it, by the names",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }

    fs::write(&file, "nothing").unwrap();
    let output = parlour(&["plugin", "inspect", file.to_str().unwrap()], "");
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        text(&output.stderr),
        format!("parlour: {}: it is no WebAssembly component\n", file.display())
    );
}

#[test]
fn bad_input_is_one_line_and_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let agent = "homeserver = \"https://example.org\"\n[agents.a]\nuser = \"@a:example.org\"\npassword = \"p\"\nplugins = [\"echo\"]\n";
    fs::create_dir(at("plugins")).unwrap();
    let broken = |bytes: &[u8]| fs::write(at("plugins/echo.wasm"), bytes).unwrap();
    let settings = |text: &str| fs::write(at("parlour.toml"), text).unwrap();

    settings("homeservr = 1\n");
    refused(&at("parlour.toml"), "parlour.toml:1:1: unknown setting `homeservr`; did you mean `homeserver`?");
    settings(agent);
    refused(&at("parlour.toml"), "agents.a.plugins: there is no ");
    broken(b"\0asm\x01\0\0\0");
    refused(&at("parlour.toml"), "plugins/echo.wasm: it is a core WebAssembly module, not a component");
    let other =
        wat::parse_str(r#"(component (instance $i) (export "parlour:plugin/commands@0.9.0" (instance $i)))"#);
    broken(&other.unwrap());
    refused(
        &at("parlour.toml"),
        "plugins/echo.wasm: it was made for parlour:plugin@0.9.0; this host speaks 0.1.0",
    );
    settings(&agent.replace("\"p\"", "{ env = \"NOT_SET_ANYWHERE\" }"));
    refused(&at("parlour.toml"), "agents.a.password: the environment variable NOT_SET_ANYWHERE is not set");

    let output = parlour(&["run", "-c", &at("none.toml")], "");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("[agents.helper]"), "it says what to write");
}

fn refused(settings: &str, expected: &str) {
    let output = parlour(&["run", "-c", settings], "");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(expected), "{expected}: {said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn a_folder_of_plugins_joins_the_chat() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("steady.wasm"), guest("deeds")).unwrap();
    let output = parlour(&["chat", "--plugins", folder.path().to_str().unwrap()], "/count\n/count\n");
    assert_eq!(text(&output.stdout), "1\n2\n");
    let output = parlour(&["chat", "--plugins", "/nowhere"], "");
    assert_eq!(text(&output.stderr), "parlour: --plugins: there is no folder /nowhere\n");
}

#[test]
fn the_environment_holds_settings_and_other_things() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("parlour.toml");
    fs::write(&file, "[agents.helper]\npassword = \"p\"\nuser = \"@helper:hs.test\"\nplugins = []\n")
        .unwrap();
    let run = |name: &str, value: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_parlour"));
        command.args(["run", "-c"]).arg(&file).env(name, value);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        text(&output.stderr)
    };
    let needs =
        format!("parlour: {}: agents.helper: needs a `homeserver`, here or at the top\n", file.display());
    assert_eq!(run("PARLOUR_LOG", "debug"), needs);
    assert_eq!(run("PARLOUR_SOMETHING", "else"), needs);
    let there = run("PARLOUR_HOMESERVER", "http://127.0.0.1:1");
    assert!(there.contains("http://127.0.0.1:1"), "{there}");
    let wrong = run("PARLOUR_AGENTS__HELPER__PASWORD", "secret");
    assert!(
        wrong.contains("environment (PARLOUR_AGENTS__HELPER__PASWORD): unknown setting `pasword`"),
        "{wrong}"
    );
    assert!(!wrong.contains("secret"), "{wrong}");
}

#[test]
fn a_folder_that_others_can_read_is_no_place_for_state() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let (file, data) = (folder.path().join("parlour.toml"), folder.path().join("data"));
    fs::write(&file, "homeserver = \"http://127.0.0.1:1\"\n[agents.helper]\npassword = \"p\"\nuser = \"@helper:hs.test\"\nplugins = []\n").unwrap();
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).unwrap();
    let output = parlour(&["run", "-c", file.to_str().unwrap()], "");
    assert_eq!(output.status.code(), Some(2));
    let expected = "others can look into it; chmod 700 it, or name another folder as `data`";
    assert_eq!(
        text(&output.stderr),
        format!("parlour: {}: data: {}: {expected}\n", file.display(), data.display())
    );
    assert_eq!(fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o755, "it is left alone");
}

#[test]
fn bytes_that_are_no_text_end_nothing() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_parlour"));
    command.arg("chat").env("XDG_CACHE_HOME", crate::guests::target().join("test-tools"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"/echo one\n/echo \xff\xfe\n/echo three\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(text(&output.stdout), "one\n\u{fffd}\u{fffd}\nthree\n");
}

/// `yes | parlour chat | head -1`, and the like.
#[test]
fn a_reader_who_has_seen_enough_ends_it_quietly() {
    let cache = crate::guests::target().join("test-tools");
    for command in ["yes '/echo more' | $PARLOUR chat | head -1", "$PARLOUR plugin inspect $ECHO | head -1"] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("echo.wasm");
        fs::write(&file, example("echo")).unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).env("PARLOUR", env!("CARGO_BIN_EXE_parlour"));
        let output = finish(shell.env("ECHO", &file).env("XDG_CACHE_HOME", &cache), "");
        assert_eq!((text(&output.stdout).lines().count(), text(&output.stderr)), (1, String::new()));
    }
}

/// What has not been answered waits outside, and what was answered is forgotten some day.
#[test]
fn a_flood_costs_no_memory() {
    const KIB: u64 = 1024;
    let mut command = Command::new(env!("CARGO_BIN_EXE_parlour"));
    command.arg("chat").env("XDG_CACHE_HOME", crate::guests::target().join("test-tools"));
    let mut chat = command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0).spawn().unwrap();
    let group = Pid::from_raw(chat.id().cast_signed());
    let (ended, end) = mpsc::channel::<()>();
    thread::spawn(move || end.recv_timeout(PATIENCE).is_err().then(|| killpg(group, Signal::SIGKILL)));
    let mut says = chat.stdin.take().unwrap();
    let line = format!("{}\n", "x".repeat(1000));
    let flood = thread::spawn(move || while says.write_all(line.as_bytes()).is_ok() {});
    let status = format!("/proc/{}/status", chat.id());
    let mut answers = BufReader::new(chat.stdout.take().unwrap()).lines();
    let mut after = |count| {
        let expected = "I answer commands only. /help lists them.";
        let answered = answers.by_ref().take(count).filter(|answer| answer.as_deref().ok() == Some(expected));
        assert_eq!(answered.count(), count);
        let status = fs::read_to_string(&status).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        resident.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / KIB
    };
    let (early, late) = (after(12_000), after(12_000));
    chat.kill().unwrap();
    chat.wait().unwrap();
    flood.join().unwrap();
    drop(ended);
    assert!(late < early + 16, "{early} MiB after 12,000 lines, {late} MiB after as many again");
}

#[test]
fn what_is_too_long_for_a_line_is_left_out() {
    let longest = format!("/echo {}", "x".repeat(1000));
    let input = format!("{}\n{longest}\n{}", "y".repeat(10_000_000), "z".repeat(100_000));
    let output = parlour(&["chat"], &input);
    assert_eq!(text(&output.stdout), format!("{}\n", "x".repeat(1000)));
    assert_eq!(text(&output.stderr), "a line of more than 64 KiB is left out\n".repeat(2));
}

/// What waits for its turn does not wait for this.
#[test]
fn stop_on_a_pipe_overtakes_what_waits() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("naughty.wasm"), guest("naughty")).unwrap();
    let input = format!("/wait\n{}/stop\n", "/echo then\n".repeat(200));
    let output = parlour(&["chat", "--plugins", folder.path().to_str().unwrap()], &input);
    assert_eq!(text(&output.stdout), format!("Stopped.\n{}", "then\n".repeat(200)));
}

#[test]
fn who_speaks_is_somebody_else() {
    for name in ["", "@", "b b", "@bob:example.org", "you", "parlour", "Bob"] {
        let output = parlour(&["chat", "--as", name], "/echo hello\n");
        assert_eq!(output.status.code(), Some(2), "{name:?}");
        let said = text(&output.stderr);
        assert!(said.starts_with("parlour: --as: ") && said.lines().count() == 1, "{said}");
    }
    assert_eq!(text(&parlour(&["chat", "--as", "@bob"], "/echo hello\n").stdout), "hello\n");
}

#[test]
fn only_plugins_are_built_and_where_one_wants_them() {
    let folder = tempfile::tempdir().unwrap();
    let build = |source: &str, out: &str| {
        let source = folder.path().join(source);
        let mut command = Command::new(env!("CARGO_BIN_EXE_parlour"));
        command.arg("build").arg(source).args(["--out", out]).current_dir(folder.path());
        command.env("CARGO_TARGET_DIR", crate::guests::target().join("plugins"));
        command.output().unwrap()
    };
    fs::create_dir_all(folder.path().join("empty/src")).unwrap();
    fs::write(
        folder.path().join("empty/Cargo.toml"),
        "[package]\nname = \"empty\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[workspace]\n",
    )
    .unwrap();
    fs::write(folder.path().join("empty/src/main.rs"), "fn main() {}").unwrap();
    let refused = build("empty", "empty.wasm");
    assert_eq!(refused.status.code(), Some(2));
    let said = text(&refused.stderr);
    assert!(
        said.ends_with(
            "makes no plugin: it exports none of parlour:plugin's commands, messages, members, timers and tools\n"
        ),
        "{said}"
    );
    assert!(!folder.path().join("empty.wasm").exists());

    let echo = crate::guests::checkout().join("plugins/echo");
    for (out, made) in
        [("new/folder/", "new/folder/echo.wasm"), ("new", "new/echo.wasm"), ("other/e.wasm", "other/e.wasm")]
    {
        let built = build(echo.to_str().unwrap(), out);
        assert_eq!(text(&built.stdout), format!("{made}\n"), "{}", text(&built.stderr));
        let surface = |bytes: &[u8]| parlour::engine::admission::surface(bytes).unwrap();
        let made = surface(&fs::read(folder.path().join(made)).unwrap());
        assert!(made == surface(&example("echo")) && made.manifest.is_some());
    }
    let file = build(echo.join("Cargo.toml").to_str().unwrap(), "x.wasm");
    assert!(text(&file.stderr).ends_with("Cargo.toml is no folder\n"), "{}", text(&file.stderr));
}

#[test]
fn what_is_probably_not_meant_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("parlour.toml");
    fs::write(&file, "homeserver = \"http://127.0.0.1:1\"\n[agents.helper]\npassword = \"p\"\nuser = \"@helper:hs.test\"\nplugins = [\"*\"]\n[plugins.wether.grants]\nllm = true\n").unwrap();
    let said = text(&parlour(&["run", "-c", file.to_str().unwrap()], "").stderr);
    for doubt in [
        "agents.helper: access lists nobody",
        "plugins.wether: grants.llm is of no use without [llm]",
        "plugin_folder: there is no ",
    ] {
        assert!(said.contains(doubt), "{doubt}: {said}");
    }
}

#[test]
fn help_and_version_are_there() {
    let help = text(&parlour(&["--help"], "").stdout);
    for command in ["chat", "run", "plugin", "build"] {
        assert!(help.contains(command), "{help}");
    }
    assert!(text(&parlour(&["--version"], "").stdout).starts_with("parlour "));
}

/// `parlour plugin …` in a folder with a `parlour.toml`.
fn plugin(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_parlour"));
    finish(command.arg("plugin").args(arguments).current_dir(folder), "")
}

#[test]
fn a_plugin_is_added_with_what_was_granted_and_removed_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    fs::write(folder.join("deeds.wasm"), guest("deeds")).unwrap();

    let said = plugin(folder, &["add", "deeds.wasm"]);
    assert_eq!((said.status.code(), text(&said.stdout)), (Some(2), String::new()));
    assert_eq!(text(&said.stderr), "parlour: there is no parlour.toml; `parlour run` says what to write\n");

    fs::write(folder.join("parlour.toml"), "# mine\n[llm]\nurl = \"http://127.0.0.1:1\"\nmodel = \"m\"\n")
        .unwrap();
    let said = plugin(folder, &["add", "deeds.wasm", "--grant", "llm", "--deny", "home"]);
    assert_eq!(said.status.code(), Some(2));
    let shown = text(&said.stdout);
    for asked in [
        "deeds 1.0.0: Does one thing of each kind",
        "  llm         ask the language model  (needs a grant)\n              “To be tried”",
    ] {
        assert!(shown.contains(asked), "{asked}: {shown}");
    }
    assert_eq!(
        text(&said.stderr),
        "parlour: it asks for rooms, people, which nobody has granted or denied; say --grant rooms=!abc:example.org or --deny rooms\n"
    );
    assert!(!folder.join("plugins").exists() && !folder.join("parlour.lock").exists(), "nothing has changed");

    let grants = [
        "add",
        "deeds.wasm",
        "--grant",
        "llm",
        "--deny",
        "home",
        "--grant",
        "rooms=!a:b",
        "--deny",
        "people",
    ];
    let said = plugin(folder, &grants);
    assert!(said.status.success(), "{}", text(&said.stderr));
    assert!(text(&said.stdout).contains("plugin deeds: plugins/deeds.wasm\n"), "{}", text(&said.stdout));
    assert_eq!(fs::read(folder.join("plugins/deeds.wasm")).unwrap(), *guest("deeds"));
    assert_eq!(
        read("parlour.toml"),
        "# mine\n[llm]\nurl = \"http://127.0.0.1:1\"\nmodel = \"m\"\n\n[plugins.deeds.grants]\nrooms = [\"!a:b\"]\nllm = true\n"
    );
    assert!(read("parlour.lock").contains("\nsource = \"deeds.wasm\"\n"), "{}", read("parlour.lock"));

    let listed = text(&plugin(folder, &["list"]).stdout);
    let (first, rest) = listed.split_once('\n').unwrap();
    assert!(first.starts_with("deeds 1.0.0  ("), "{listed}");
    assert_eq!(rest, "  may: outbox, kv, progress, rooms, llm\n  asks for, not granted: home, people\n");
    let listed: serde_json::Value =
        serde_json::from_slice(&plugin(folder, &["list", "--json"]).stdout).unwrap();
    assert_eq!(listed[0]["missing"], serde_json::json!(["home", "people"]));

    // A version that asks for less and is older.
    let manifest = "name = \"deeds\"\nversion = \"0.9.0\"\ndescription = \"\"\n[asks.outbox]\n";
    let older = parlour::package::embed(component("deeds"), manifest).unwrap();
    fs::write(folder.join("deeds.wasm"), older).unwrap();
    fs::copy(folder.join("deeds.wasm"), folder.join("from elsewhere.wasm")).unwrap();
    let said = plugin(folder, &["add", "from elsewhere.wasm", "--downgrade"]);
    assert_eq!(
        text(&said.stderr),
        "parlour: it takes the place of plugin deeds 1.0.0, with what is granted to it: rooms, llm; say --name deeds if it shall\n"
    );
    let said = plugin(folder, &["add", "deeds.wasm"]);
    assert_eq!(
        text(&said.stderr),
        "parlour: deeds.wasm: it is version 0.9.0, and 1.0.0 was agreed to; --downgrade takes it all the same\n"
    );
    assert!(plugin(folder, &["add", "deeds.wasm", "--downgrade"]).status.success());
    // One that asks for more again, put there by hand.
    fs::write(folder.join("plugins/deeds.wasm"), guest("deeds")).unwrap();
    let listed = text(&plugin(folder, &["list"]).stdout);
    assert!(
        listed.contains("deeds 0.9.0") && listed.contains("its file waits: it now asks to remember"),
        "{listed}"
    );

    assert!(plugin(folder, &["remove", "deeds"]).status.success());
    assert_eq!(read("parlour.toml"), "# mine\n[llm]\nurl = \"http://127.0.0.1:1\"\nmodel = \"m\"\n");
    assert!(!folder.join("plugins/deeds.wasm").exists() && !read("parlour.lock").contains("deeds"));
    assert_eq!(text(&plugin(folder, &["remove", "deeds"]).stderr), "parlour: there is no plugin deeds\n");
    assert_eq!(text(&plugin(folder, &["list"]).stdout), "There is no plugin in plugins yet.\n");
}

#[test]
fn more_memory_than_the_usual_needs_a_grant() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let manifest = "name = \"hoard\"\nversion = \"1.0.0\"\ndescription = \"\"\n[asks.kv]\nbytes = 1000000000\nreason = \"Much\"\n";
    fs::write(folder.join("hoard.wasm"), parlour::package::embed(component("deeds"), manifest).unwrap())
        .unwrap();
    fs::write(folder.join("parlour.toml"), "").unwrap();
    let said = plugin(folder, &["add", "hoard.wasm"]);
    assert!(
        text(&said.stdout).contains("“Much”\n              up to 1000000000 bytes\n"),
        "{}",
        text(&said.stdout)
    );
    assert_eq!(
        text(&said.stderr),
        "parlour: it asks for kv, which nobody has granted or denied; say --grant kv or --deny kv\n"
    );
    assert!(plugin(folder, &["add", "hoard.wasm", "--grant", "kv"]).status.success());
    let settings = fs::read_to_string(folder.join("parlour.toml")).unwrap();
    assert_eq!(settings, "[plugins.hoard.grants]\nkv = { bytes = 1000000000 }\n");
    assert!(plugin(folder, &["add", "hoard.wasm"]).status.success(), "it was granted");
}

/// A plugin that wants to send requests: where to is shown, and why, before anything of it runs.
#[test]
fn where_requests_go_is_shown_and_granted() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let manifest = "name = \"weather\"\nversion = \"1.0.0\"\ndescription = \"Says how the weather is\"\n[asks.outbox]\n\
                    [asks.http]\nhosts = [\"https://api.weather.example\"]\nmethods = [\"GET\"]\nreason = \"Asks for the forecast\"\n\
                    [asks.secrets.api-key]\naudience = \"https://api.weather.example\"\nreason = \"Signs in\"\n";
    fs::write(folder.join("weather.wasm"), parlour::package::embed(component("web"), manifest).unwrap())
        .unwrap();
    fs::write(folder.join("parlour.toml"), "").unwrap();
    let said = plugin(folder, &["add", "weather.wasm"]);
    let shown = text(&said.stdout);
    for line in [
        "  http        send HTTP requests  (needs a grant)\n              “Asks for the forecast”\n              to https://api.weather.example, with GET\n",
        "  secrets     have secrets put on its requests, without seeing them  (needs to be bound)\n              api-key, to https://api.weather.example\n              “Signs in”\n",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    assert_eq!(
        text(&said.stderr),
        "parlour: it asks for http, which nobody has granted or denied; say --grant http or --deny http\n"
    );
    assert!(!folder.join("plugins").exists(), "nothing has changed");

    let said = plugin(folder, &["add", "weather.wasm", "--grant", "http"]);
    let shown = text(&said.stdout);
    for line in [
        "What it hears in encrypted rooms does not leave them; --grant encrypted lets it, all of these ways: \
         by HTTP requests, to the agent's home, by edits of what it wrote elsewhere.\n",
        "It needs the secret api-key. Bind it:\n\n    [plugins.weather.secrets.api-key]\n    value = { env = \"NAME\" }\n    audience = \"https://api.weather.example\"\n",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    let settings = || fs::read_to_string(folder.join("parlour.toml")).unwrap();
    assert_eq!(settings(), "[plugins.weather.grants]\nhttp = [\"https://api.weather.example\"]\n");
    assert!(plugin(folder, &["add", "weather.wasm", "--grant", "encrypted"]).status.success());
    assert!(settings().ends_with("encrypted = true\n"), "{}", settings());

    // A version that wants to reach more.
    let more =
        manifest.replace("hosts = [", "hosts = [\"https://*.tracker.example\", ").replace("1.0.0", "1.1.0");
    fs::write(folder.join("weather.wasm"), parlour::package::embed(component("web"), &more).unwrap())
        .unwrap();
    let said = plugin(folder, &["add", "weather.wasm"]);
    assert!(
        text(&said.stdout).contains("New: it now asks for https://*.tracker.example (`http`).\n"),
        "{said:?}"
    );
    assert!(text(&said.stderr).contains("it asks for http, which nobody has granted or denied"), "{said:?}");
}

#[test]
fn what_is_granted_is_written_down_as_it_was_meant() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let manifest = "name = \"notes\"\nversion = \"1.0.0\"\ndescription = \"\"\n[asks.outbox]\n[asks.kv]\n\
                    [asks.files]\nwrite = true\nreason = \"Keeps notes\"\n";
    let notes = parlour::package::embed(component("files"), manifest).unwrap();
    fs::write(folder.join("notes.wasm"), &notes).unwrap();
    fs::create_dir(folder.join("settings")).unwrap();
    fs::write(folder.join("settings/parlour.toml"), "").unwrap();
    let config = ["-c", "settings/parlour.toml"];
    let add = |more: &[&str]| plugin(folder, &[&["add", "notes.wasm"], &config[..], more].concat());

    let said = add(&["--deny", "llm"]);
    assert_eq!(text(&said.stderr), "parlour: --deny: it does not ask for llm\n");
    let said = add(&["--grant", "files=mine"]);
    assert!(said.status.success(), "{}", text(&said.stderr));
    // All ways out, those that need no grant as well.
    let ways = "all of these ways: into files, to the agent's home, by edits of what it wrote elsewhere, \
                in its memory, which it has in every room.\n";
    assert!(text(&said.stdout).contains(ways), "{}", text(&said.stdout));
    let settings = parlour::settings::load(&folder.join("settings/parlour.toml")).unwrap();
    let granted = settings.plugins["notes"].grants.files.as_ref().unwrap();
    assert_eq!(granted.folder, folder.canonicalize().unwrap().join("mine"));
    // Where the settings are it stays as it was written.
    fs::write(folder.join("parlour.toml"), "").unwrap();
    assert!(plugin(folder, &["add", "notes.wasm", "--grant", "files=mine"]).status.success());
    let written = fs::read_to_string(folder.join("parlour.toml")).unwrap();
    assert!(written.contains("folder = \"mine\""), "{written}");
}

#[test]
fn which_of_several_components_is_meant_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::create_dir_all(folder.join("plugins/notes")).unwrap();
    fs::write(folder.join("parlour.toml"), "").unwrap();
    let manifest = "name = \"notes\"\nversion = \"1.0.0\"\ndescription = \"\"\n[asks.outbox]\n";
    fs::write(folder.join("plugins/notes/plugin.toml"), manifest).unwrap();
    for name in ["one.wasm", "other.wasm"] {
        fs::write(folder.join("plugins/notes").join(name), component("files")).unwrap();
    }
    let which = "plugins/notes/notes.wasm: there is no such component, and several others: the one that is meant has \
                 the name of its folder\n";
    for arguments in [["check", "notes"], ["add", "plugins/notes"], ["inspect", "plugins/notes"]] {
        let said = plugin(folder, &arguments);
        assert_eq!(said.status.code(), Some(2), "{said:?}");
        assert!(text(&said.stderr).ends_with(which), "{}", text(&said.stderr));
    }
    fs::rename(folder.join("plugins/notes/one.wasm"), folder.join("plugins/notes/notes.wasm")).unwrap();
    assert!(plugin(folder, &["check", "notes"]).status.success());
}

#[test]
fn what_root_adds_belongs_to_whom_the_folder_belongs_to() {
    use std::os::unix::fs::{MetadataExt as _, chown};
    const SOMEBODY: u32 = 12_345;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("parlour.toml"), "").unwrap();
    fs::write(folder.join("deeds.wasm"), guest("deeds")).unwrap();
    for path in [folder, &folder.join("parlour.toml")] {
        if chown(path, Some(SOMEBODY), Some(SOMEBODY)).is_err() {
            // Only root can give anything away, and so can only root write what is somebody else's.
            return;
        }
    }
    let said = plugin(folder, &["add", "deeds.wasm", "--grant", "llm", "--audit-only"]);
    assert!(said.status.success(), "{}", text(&said.stderr));
    for path in ["parlour.toml", "parlour.lock", "plugins", "plugins/deeds.wasm"] {
        assert_eq!(fs::metadata(folder.join(path)).unwrap().uid(), SOMEBODY, "{path}");
    }
}
