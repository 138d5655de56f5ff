//! What a plugin says of itself: `plugin.toml` as values.
//!
//! It tells who the plugin is, what it asks for and why, which settings it understands, and the limits it wants. It
//! grants nothing. In a component it stands in a custom section of its own, so that a plugin is one file
//! ([`crate::package`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use semver::Version;
use serde::{Deserialize, Serialize};
use toml_parser::lexer::TokenKind;

use crate::{
    id::PluginName,
    mistake,
    origin::{Method, Pattern, Target, has_method},
    settings::CallLimits,
    text, tool,
};

/// How deep its tables are at the most.
pub(crate) const DEEPEST: usize = 32;
/// Bytes of what is said of a wrong one.
const REASON: usize = 1024;
/// Bytes of what a schema's pattern becomes: what is larger takes long to make, and both are the plugin's own.
const PATTERN: usize = 1024 * 1024;
/// A text of a manifest is shown to people, and fits into a line of theirs.
const LINE: usize = 300;

/// `plugin.toml`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// What it calls itself. What it is called here is its file's name.
    pub name: PluginName,
    /// Its own version (semver).
    pub version: Version,
    /// What it does, in a line.
    pub description: String,
    /// An SPDX expression.
    pub license: Option<String>,
    /// Where more is to be read.
    pub homepage: Option<String>,
    /// The version of the contract that it was made for.
    pub contract: Option<Version>,
    /// The file that has the handlers; not for Rust.
    pub main: Option<String>,
    /// The interfaces that it exports; not for Rust.
    #[serde(default)]
    pub handles: Vec<Interface>,
    /// What it asks for.
    #[serde(default = "Asks::unsaid")]
    pub asks: Asks,
    /// What a call of it wants to take, where the usual is too little.
    #[serde(default)]
    pub limits: CallLimits,
    /// A JSON Schema of its settings, `plugins.NAME.config`.
    #[serde(default)]
    pub config: Option<toml::Table>,
}

/// An interface that a plugin may export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "as in wit/")]
pub enum Interface {
    Commands,
    Messages,
    Members,
    Timers,
    Tools,
    Lifecycle,
}

impl Interface {
    /// As in `wit/`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Commands => "commands",
            Self::Messages => "messages",
            Self::Members => "members",
            Self::Timers => "timers",
            Self::Tools => "tools",
            Self::Lifecycle => "lifecycle",
        }
    }
}

/// What a plugin asks for. What it does not ask for answers `denied`, whatever was granted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Asks {
    /// Answer where it was asked, write to the home, and change what it sent. Granted to all that ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outbox: Option<Ask>,
    /// Remember things of its own. Granted to all that ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv: Option<AskKv>,
    /// Show a draft while it works. Granted to all that ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Ask>,
    /// See the commands that a person may use. Granted to all that ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<Ask>,
    /// Make a conversation the agent's home, for an admin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub home: Option<Ask>,
    /// Write to other rooms than the one in which it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rooms: Option<Ask>,
    /// Write to people in direct chats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub people: Option<Ask>,
    /// Ask the language model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub llm: Option<Ask>,
    /// Send HTTP requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<AskHttp>,
    /// Read, and write, the files of a folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<AskFiles>,
    /// Read the files of messages that it handles, and send files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media: Option<AskMedia>,
    /// Be called when time has come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timers: Option<AskTimers>,
    /// Secrets that the host puts on requests; the plugin never sees one. By name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, AskSecret>,
    /// Call tools of other plugins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<AskTools>,
}

/// One thing that a plugin asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// Why, in a sentence, for whoever grants it.
    #[serde(default)]
    pub reason: String,
}

/// `asks.kv`: how much it wants to remember, where the usual is too little.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AskKv {
    /// Why, in a sentence, for whoever grants it.
    pub reason: String,
    /// Bytes of keys and values, for each agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// How many keys, for each agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<u64>,
}

/// `asks.http`: where its requests go.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AskHttp {
    /// Why, in a sentence, for whoever grants it.
    #[serde(default)]
    pub reason: String,
    /// Origins, such as `https://api.example.org`.
    pub hosts: Vec<Pattern>,
    /// With which methods; none is every one.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub methods: BTreeSet<Method>,
}

impl AskHttp {
    /// Whether it asks for a request with this method to there.
    #[must_use]
    pub fn has(&self, target: &Target, method: &str) -> bool {
        self.hosts.iter().any(|host| host.matches(target)) && has_method(&self.methods, method)
    }
}

/// `asks.files`: a folder, which it finds as `/files`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AskFiles {
    /// Why, in a sentence, for whoever grants it.
    pub reason: String,
    /// It writes, too.
    pub write: bool,
    /// Bytes of all the folder's files, where it writes and the usual is too little.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// `asks.media`: files of messages.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AskMedia {
    /// Why, in a sentence, for whoever grants it.
    pub reason: String,
    /// Bytes of one file, where it takes no larger ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// `asks.timers`: to set timers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AskTimers {
    /// Why, in a sentence, for whoever grants it.
    pub reason: String,
    /// How many, for each agent, where the usual is too few.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// `asks.secrets.NAME`: a secret that it needs on its requests.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AskSecret {
    /// Why, in a sentence, for whoever binds it.
    #[serde(default)]
    pub reason: String,
    /// To which origin it shall go.
    pub audience: Pattern,
}

/// `asks.tools`: which tools it wants to call.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AskTools {
    /// Why, in a sentence, for whoever grants it.
    pub reason: String,
    /// `weather.forecast`, or `weather.*`; any, where it names none.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub names: BTreeSet<String>,
}

/// What can be asked for and granted, by the name that it has in `plugin.toml` and `parlour.toml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "as the fields of `Asks`")]
pub enum Permission {
    Outbox,
    Kv,
    Progress,
    Directory,
    Home,
    Rooms,
    People,
    Llm,
    Http,
    Files,
    Media,
    Timers,
    Secrets,
    Tools,
}

impl Permission {
    /// Whether it is granted to all that ask.
    #[must_use]
    pub fn is_free(self) -> bool {
        matches!(self, Self::Outbox | Self::Kv | Self::Progress | Self::Directory)
    }

    /// What it lets a plugin do, in plain words.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Outbox => "answer where it was asked, write to the home, and change what it sent",
            Self::Kv => "remember things of its own",
            Self::Progress => "show a draft while it works",
            Self::Directory => "see the commands that a person may use",
            Self::Home => "make a conversation the agent's home, for an admin",
            Self::Rooms => "write to other rooms that the agent is in",
            Self::People => "write to people in direct chats",
            Self::Llm => "ask the language model",
            Self::Http => "send HTTP requests",
            Self::Files => "see the files of a folder",
            Self::Media => "read the files of messages that it handles, and send files",
            Self::Timers => "set timers, and act by itself when they are due",
            Self::Secrets => "have secrets put on its requests, without seeing them",
            Self::Tools => "call tools of other plugins",
        }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Outbox => "outbox",
            Self::Kv => "kv",
            Self::Progress => "progress",
            Self::Directory => "directory",
            Self::Home => "home",
            Self::Rooms => "rooms",
            Self::People => "people",
            Self::Llm => "llm",
            Self::Http => "http",
            Self::Files => "files",
            Self::Media => "media",
            Self::Timers => "timers",
            Self::Secrets => "secrets",
            Self::Tools => "tools",
        })
    }
}

impl Asks {
    /// What is asked for where nothing is said: to answer, and to remember.
    #[must_use]
    pub fn unsaid() -> Self {
        Self { outbox: Some(Ask::default()), kv: Some(AskKv::default()), ..Self::default() }
    }

    /// What is asked and why, in the order of [`Permission`].
    pub fn iter(&self) -> impl Iterator<Item = (Permission, &str)> {
        fn why(ask: Option<&Ask>) -> Option<&str> {
            ask.map(|ask| ask.reason.as_str())
        }
        let asks = [
            (Permission::Outbox, why(self.outbox.as_ref())),
            (Permission::Kv, self.kv.as_ref().map(|kv| kv.reason.as_str())),
            (Permission::Progress, why(self.progress.as_ref())),
            (Permission::Directory, why(self.directory.as_ref())),
            (Permission::Home, why(self.home.as_ref())),
            (Permission::Rooms, why(self.rooms.as_ref())),
            (Permission::People, why(self.people.as_ref())),
            (Permission::Llm, why(self.llm.as_ref())),
            (Permission::Http, self.http.as_ref().map(|http| http.reason.as_str())),
            (Permission::Files, self.files.as_ref().map(|files| files.reason.as_str())),
            (Permission::Media, self.media.as_ref().map(|media| media.reason.as_str())),
            (Permission::Timers, self.timers.as_ref().map(|timers| timers.reason.as_str())),
            (Permission::Secrets, (!self.secrets.is_empty()).then_some("")),
            (Permission::Tools, self.tools.as_ref().map(|tools| tools.reason.as_str())),
        ];
        asks.into_iter().filter_map(|(permission, reason)| Some((permission, reason?)))
    }

    /// Whether it is asked for.
    #[must_use]
    pub fn has(&self, permission: Permission) -> bool {
        self.iter().any(|(asked, _)| asked == permission)
    }
}

impl Manifest {
    /// Parses `plugin.toml`.
    ///
    /// # Errors
    /// One line that begins with the place.
    pub fn parse(text: &str) -> Result<Self, String> {
        // A key may hold anything, and errors name keys.
        Self::parsed(text).map_err(|reason| text::escaped(&reason, REASON))
    }

    fn parsed(text: &str) -> Result<Self, String> {
        // Whoever reads it afterwards does so recursively.
        if depth(text) > DEEPEST {
            return Err(format!("plugin.toml: its tables are more than {DEEPEST} deep"));
        }
        let manifest: Self = toml::from_str(text).map_err(|error| {
            let (place, reason) = mistake::of("plugin.toml", text, &error);
            format!("{place}: {reason}")
        })?;
        manifest.check().map_err(|reason| format!("plugin.toml: {reason}"))?;
        Ok(manifest)
    }

    /// The JSON Schema of its settings.
    #[must_use]
    pub fn schema(&self) -> Option<serde_json::Value> {
        self.config.as_ref().and_then(|schema| serde_json::to_value(schema).ok())
    }

    fn check(&self) -> Result<(), String> {
        let lines = [("description", Some(&self.description))]
            .into_iter()
            .chain([("license", self.license.as_ref()), ("homepage", self.homepage.as_ref())]);
        for (name, text) in lines {
            one_line(name, text.map_or("", String::as_str))?;
        }
        let kv = self.asks.kv.as_ref();
        if kv.is_some_and(|kv| (kv.bytes.is_some() || kv.keys.is_some()) && kv.reason.trim().is_empty()) {
            return Err("asks.kv needs a `reason` for its `bytes` and `keys`".into());
        }
        let mut names = self.asks.tools.iter().flat_map(|tools| &tools.names);
        if let Some(name) = names.find(|name| !tool::is_pattern(name)) {
            return Err(format!(
                "asks.tools.names: {name:?} is neither a tool such as weather.forecast nor weather.*"
            ));
        }
        for (permission, reason) in self.asks.iter() {
            one_line(&format!("asks.{permission}.reason"), reason)?;
            let said_apart = permission == Permission::Secrets;
            if reason.trim().is_empty() && !permission.is_free() && !said_apart {
                return Err(format!(
                    "asks.{permission} needs a `reason`: a sentence for the person who is to grant it"
                ));
            }
        }
        if self.asks.http.as_ref().is_some_and(|http| http.hosts.is_empty()) {
            return Err("asks.http needs `hosts`, such as [\"https://api.example.org\"]".into());
        }
        for (name, secret) in &self.asks.secrets {
            let place = format!("asks.secrets.{}", text::escaped(name, LINE));
            PluginName::parse(name).map_err(|_| {
                format!("{place}: a secret's name has lower-case letters, digits and hyphens, a letter first")
            })?;
            one_line(&format!("{place}.reason"), &secret.reason)?;
            if secret.reason.trim().is_empty() {
                return Err(format!("{place} needs a `reason`: a sentence for the person who is to bind it"));
            }
            if secret.audience.origin().is_none() {
                return Err(format!("{place}.audience is one origin, such as https://api.example.org"));
            }
        }
        if let Some(schema) = self.schema() {
            if refers(&schema) {
                return Err("config is a schema without $ref".into());
            }
            validator(&schema).map_err(|error| format!("config is no JSON Schema: {error}"))?;
        }
        Ok(())
    }
}

/// How deep the tables and lists of a TOML text are at the most, keys with dots counted.
pub(crate) fn depth(text: &str) -> usize {
    let (mut header, mut deepest) = (0, 0);
    // The dots of the key at each level.
    let mut open = vec![0_usize];
    let (mut fresh, mut is_header) = (true, false);
    for token in toml_parser::Source::new(text).lex() {
        let level = open.len();
        match token.kind() {
            TokenKind::Newline if level == 1 => {
                header = if is_header { open[0] + 1 } else { header };
                (open[0], fresh, is_header) = (0, true, false);
            }
            TokenKind::LeftSquareBracket if level == 1 && fresh => (header, is_header) = (0, true),
            TokenKind::LeftSquareBracket | TokenKind::LeftCurlyBracket => open.push(0),
            TokenKind::RightSquareBracket | TokenKind::RightCurlyBracket if level > 1 => drop(open.pop()),
            TokenKind::Comma => open[level - 1] = 0,
            TokenKind::Dot => open[level - 1] += 1,
            TokenKind::Whitespace | TokenKind::Comment => {}
            _ => fresh = false,
        }
        deepest = deepest.max(header + open.len() + open.iter().sum::<usize>());
    }
    deepest
}

/// Whether a schema refers to something: what that costs, nobody can tell.
pub(crate) fn refers(schema: &serde_json::Value) -> bool {
    match schema {
        serde_json::Value::Object(object) => {
            object.iter().any(|(key, value)| key == "$ref" || key == "$dynamicRef" || refers(value))
        }
        serde_json::Value::Array(list) => list.iter().any(refers),
        _ => false,
    }
}

/// A validator whose patterns take no longer than their input is long: both are the plugin's own.
///
/// # Errors
/// It is no JSON Schema.
pub(crate) fn validator(schema: &serde_json::Value) -> Result<jsonschema::Validator, String> {
    options().build(schema).map_err(|error| error.to_string())
}

/// How schemas of plugins are read.
pub(crate) fn options() -> jsonschema::ValidationOptions<'static> {
    let patterns = jsonschema::PatternOptions::regex().size_limit(PATTERN);
    jsonschema::options().with_pattern_options(patterns)
}

fn one_line(name: &str, line: &str) -> Result<(), String> {
    if line.len() > LINE || line.chars().any(text::unseen) {
        return Err(format!("{name} is one line of at most {LINE} bytes, all of which can be seen"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "name = \"a\"\nversion = \"1.0.0\"\ndescription = \"\"\n";

    #[test]
    fn a_wrong_plugin_toml_is_explained() {
        let check = |text: &str, expected: &str| {
            let error = Manifest::parse(text).expect_err(text);
            assert!(error.contains(expected) && error.lines().count() == 1, "{error}");
        };
        check("name = \"a\"", "plugin.toml:1:1: missing field `version`");
        check(
            &format!("{HEAD}handels = []"),
            "plugin.toml:4:1: unknown setting `handels`; did you mean `handles`?",
        );
        check(&format!("{HEAD}handles = [\"mesages\"]"), "unknown variant `mesages`");
        check(&HEAD.replace("\"a\"", "\"../a\""), "\"../a\" is not a name of");
        check(&HEAD.replace("1.0.0", "one"), "plugin.toml:2:11: unexpected character 'o'");
        check(&format!("{HEAD}[asks.rockets]"), "unknown setting `rockets`");
        check(&format!("{HEAD}[asks.llm]"), "asks.llm needs a `reason`");
        check(&format!("{HEAD}[asks.kv]\nreason = \"a\\nb\""), "asks.kv.reason is one line");
        check(&format!("{HEAD}[asks.tools]"), "asks.tools needs a `reason`");
        check(
            &format!("{HEAD}[asks.tools]\nnames = [\"roll\"]"),
            "asks.tools.names: \"roll\" is neither a tool",
        );
        check(&format!("{HEAD}[config]\ntype = \"rocket\""), "config is no JSON Schema");
        check(&format!("{HEAD}[config]\n\"$ref\" = \"#\""), "config is a schema without $ref");
        check(&format!("{HEAD}[asks.llm]\nreason = \"a\u{200b}b\""), "asks.llm.reason is one line");
    }

    /// 64 KiB of TOML can be thousands of tables deep, and what reads them afterwards is recursive.
    #[test]
    fn deep_tables_are_refused_before_anything_reads_them() {
        let not = vec!["not"; 79].join(".");
        let mut deep = "true".to_owned();
        while deep.len() < 60_000 {
            deep = format!("{{ {not} = {deep} }}");
        }
        let brackets = "[".repeat(60_000);
        for text in [
            format!("{HEAD}config = {deep}\n"),
            format!("{HEAD}[config]\nnot = {deep}\n"),
            format!("{HEAD}[config.{not}]\na = 1\n"),
            format!("{HEAD}config.enum = {brackets}"),
        ] {
            assert_eq!(Manifest::parse(&text), Err("plugin.toml: its tables are more than 32 deep".into()));
        }
        let usual = format!(
            "{HEAD}[config.properties.a]\nitems = {{ properties.b = {{ enum = [[1.5], \"a.b.c\"] }} }}\n"
        );
        assert!(Manifest::parse(&usual).is_ok());
    }

    #[test]
    fn what_is_asked_is_listed_with_its_reason() {
        let text = format!("{HEAD}[asks.outbox]\n[asks.llm]\nreason = \"Writes the answers\"");
        let manifest = Manifest::parse(&text).unwrap();
        let asked: Vec<_> =
            manifest.asks.iter().map(|(permission, reason)| format!("{permission}: {reason}")).collect();
        assert_eq!(asked, ["outbox: ", "llm: Writes the answers"]);
        assert!(!manifest.asks.has(Permission::Kv));
        let unsaid: Vec<_> = Asks::unsaid().iter().map(|(permission, _)| permission.to_string()).collect();
        assert_eq!(unsaid, ["outbox", "kv"]);
    }
}
