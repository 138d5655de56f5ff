//! From text to [`Settings`], with errors that name the place and the nearest key.

use std::path::{Path, PathBuf};

use super::{Settings, homeserver};
use crate::{
    manifest::{DEEPEST, depth},
    mistake,
    text::escaped,
};

/// Bytes of a place, and of what is wrong there.
const REASON: usize = 1024;

/// Settings that cannot be used: one line with file, line and column.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("{}: {reason}", file.display())]
    Unreadable {
        /// Which file.
        file: PathBuf,
        /// Why.
        reason: std::io::Error,
    },
    /// Its text is not what it should be.
    #[error("{place}: {reason}")]
    Invalid {
        /// `parlour.toml:3:1`
        place: String,
        /// What is wrong there.
        reason: String,
    },
}

/// Reads `parlour.toml`. Relative paths in it are relative to its folder. Environment variables such as
/// `PARLOUR_AGENTS__RESEARCHER__PASSWORD` win over what it says.
///
/// # Errors
/// [`SettingsError`] with the place.
pub fn load(file: &Path) -> Result<Settings, SettingsError> {
    let text = std::fs::read_to_string(file)
        .map_err(|reason| SettingsError::Unreadable { file: file.into(), reason })?;
    // What is no Unicode is no setting.
    let env = std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
    let mut settings = parse(&file.display().to_string(), &text, env)?;
    let folder = file.parent().unwrap_or(Path::new(""));
    settings.secrets(|secret| secret.relative_to(folder));
    settings.data = folder.join(&settings.data);
    settings.plugin_folder = folder.join(&settings.plugin_folder);
    for plugin in settings.plugins.values_mut() {
        plugin.source = plugin.source.take().map(|source| folder.join(source));
    }
    let here = settings.agents.values_mut().flat_map(|agent| agent.grants.values_mut());
    let grants = settings.plugins.values_mut().map(|plugin| &mut plugin.grants).chain(here);
    for files in grants.filter_map(|grants| grants.files.as_mut()) {
        files.folder = folder.join(&files.folder);
    }
    Ok(settings)
}

/// Parses `text`; `name` is what errors call it, `env` what may override it.
///
/// # Errors
/// [`SettingsError::Invalid`] with line and column.
pub fn parse(
    name: &str,
    text: &str,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<Settings, SettingsError> {
    parsed(name, text, env).map_err(|error| match error {
        SettingsError::Invalid { place, reason } => {
            SettingsError::Invalid { place: escaped(&place, REASON), reason: escaped(&reason, REASON) }
        }
        unreadable @ SettingsError::Unreadable { .. } => unreadable,
    })
}

fn parsed(
    name: &str,
    text: &str,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<Settings, SettingsError> {
    // Whoever reads it afterwards does so recursively.
    let shallow = |place: &str, depth: usize| match depth {
        0..=DEEPEST => Ok(()),
        _ => Err(SettingsError::Invalid {
            place: place.into(),
            reason: format!("its tables are more than {DEEPEST} deep"),
        }),
    };
    shallow(name, depth(text))?;
    // Parsed as it stands first: only then do errors have a line.
    let settings: Settings = toml::from_str(text).map_err(|error| invalid(name, text, &error))?;
    let overrides: Vec<_> = env
        .into_iter()
        .filter_map(|(key, value)| Some((key.strip_prefix("PARLOUR_")?.to_owned(), value)))
        .filter(|(key, _)| is_setting(key))
        .collect();
    for (key, value) in &overrides {
        shallow(&format!("environment (PARLOUR_{key})"), key.split("__").count() + depth(value))?;
    }
    let settings = if overrides.is_empty() {
        settings
    } else {
        let table: toml::Table = toml::from_str(text).map_err(|error| invalid(name, text, &error))?;
        overridden(&table, &overrides)?
    };
    check(name, settings)
}

/// The settings with what the environment says. `4` may be a number, or the name of a model: what does not fit as
/// the one is taken as the other.
fn overridden(table: &toml::Table, overrides: &[(String, String)]) -> Result<Settings, SettingsError> {
    let take = |as_text: &dyn Fn(usize) -> bool| {
        let mut table = table.clone();
        for (number, (key, value)) in overrides.iter().enumerate() {
            set(&mut table, key, value, as_text(number));
        }
        toml::Value::Table(table).try_into::<Settings>()
    };
    let first = match take(&|_| false) {
        Ok(settings) => return Ok(settings),
        Err(error) => error,
    };
    let one_as_text = (0..overrides.len()).find_map(|text| take(&|number| number == text).ok());
    one_as_text.or_else(|| take(&|_| true).ok()).ok_or_else(|| {
        let names: Vec<_> = overrides.iter().map(|(key, _)| format!("PARLOUR_{key}")).collect();
        let place = format!("environment ({})", names.join(", "));
        SettingsError::Invalid { place, reason: mistake::reason(first.message()) }
    })
}

fn check(name: &str, settings: Settings) -> Result<Settings, SettingsError> {
    let invalid = |place: String, reason: &str| SettingsError::Invalid {
        place: format!("{name}: {place}"),
        reason: reason.into(),
    };
    for (agent, of) in &settings.agents {
        let place = || format!("agents.{agent}");
        match (&of.password, &of.token) {
            (Some(_), Some(_)) => {
                return Err(invalid(place(), "has a password and a token; give one of them"));
            }
            (None, None) => return Err(invalid(place(), "needs a `password` or a `token`")),
            (Some(_), None) if of.user.is_none() => {
                return Err(invalid(place(), "needs `user` beside `password`, such as @agent:example.org"));
            }
            _ => {}
        }
        match of.homeserver.as_ref().or(settings.homeserver.as_ref()) {
            None => return Err(invalid(place(), "needs a `homeserver`, here or at the top")),
            Some(url) => drop(homeserver::parse(url).map_err(|reason| invalid(place(), &reason))?),
        }
        for plugin in of.plugins.iter().filter(|plugin| *plugin != "*") {
            if let Err(error) = crate::id::PluginName::parse(plugin) {
                return Err(invalid(format!("agents.{agent}.plugins"), &error.to_string()));
            }
        }
    }
    for (plugin, of) in &settings.plugins {
        for (name, secret) in &of.secrets {
            let place = format!("plugins.{plugin}.secrets.{name}");
            if secret.audience.origin().is_none() {
                return Err(invalid(
                    format!("{place}.audience"),
                    "a secret goes to one origin, such as https://api.example.org",
                ));
            }
            crate::secret::header(&secret.header, "x")
                .map_err(|reason| invalid(format!("{place}.header"), &reason))?;
        }
        if of.limits.memory_mib.is_some_and(|memory| memory > 1024) {
            let place = format!("plugins.{plugin}.limits.memory_mib");
            return Err(invalid(place, "an instance has at most 1024 MiB"));
        }
    }
    let everywhere =
        settings.plugins.iter().map(|(plugin, of)| (format!("plugins.{plugin}.grants"), &of.grants));
    let here = settings.agents.iter().flat_map(|(agent, of)| {
        of.grants.iter().map(move |(plugin, grants)| (format!("agents.{agent}.grants.{plugin}"), grants))
    });
    let own = settings.agents.iter().filter_map(|(agent, of)| Some((Some(agent), of.behaviour.as_ref()?)));
    for (agent, behaviour) in own.chain([(None, &settings.behaviour)]) {
        if let Some(reason) = behaviour.nonsense() {
            let place = agent.map_or_else(|| "behaviour".into(), |agent| format!("agents.{agent}.behaviour"));
            return Err(invalid(place, &reason));
        }
    }
    for (place, grants) in everywhere.chain(here) {
        if let Some(reason) = grants.nonsense() {
            return Err(invalid(place, &reason));
        }
    }
    Ok(settings)
}

/// Whether `AGENTS__RESEARCHER__PASSWORD` begins as a setting does. The environment holds other variables of that
/// prefix: `PARLOUR_LOG`, and whatever else people put there.
fn is_setting(path: &str) -> bool {
    let first = path.split("__").next().unwrap_or(path).to_ascii_lowercase();
    Settings::KEYS.contains(&first.as_str())
}

/// A secret is text, whatever it looks like: `true` and `12345` are passwords, too.
fn is_secret(key: &str) -> bool {
    ["password", "token", "key", "recovery_key", "value"].contains(&key)
}

/// Sets `AGENTS__RESEARCHER__PASSWORD` in a table, where the spelling of a part follows a key that is there.
fn set(table: &mut toml::Table, path: &str, value: &str, as_text: bool) {
    let (first, rest) = path.split_once("__").map_or((path, None), |(first, rest)| (first, Some(rest)));
    let lower = first.to_ascii_lowercase();
    let key = table
        .keys()
        .find(|key| key.to_ascii_lowercase().replace('-', "_") == lower)
        .cloned()
        .unwrap_or(lower);
    match rest {
        None => {
            let parsed = value.parse::<toml::Value>().ok();
            let parsed = parsed.filter(|value| !value.is_datetime() && !as_text && !is_secret(&key));
            table.insert(key, parsed.unwrap_or_else(|| toml::Value::String(value.to_owned())));
        }
        Some(rest) => {
            let entry = table.entry(key).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            if !entry.is_table() {
                *entry = toml::Value::Table(toml::Table::new());
            }
            if let toml::Value::Table(inner) = entry {
                set(inner, rest, value, as_text);
            }
        }
    }
}

fn invalid(name: &str, text: &str, error: &toml::de::Error) -> SettingsError {
    let (place, reason) = mistake::of(name, text, error);
    SettingsError::Invalid { place, reason }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn parsed(text: &str) -> Result<Settings, String> {
        parse("parlour.toml", text, []).map_err(|error| error.to_string())
    }

    const AGENT: &str = "homeserver = \"https://example.org\"\n[agents.a]\nuser = \"@a:example.org\"\npassword = \"p\"\nplugins = []\n";

    #[test]
    fn a_mistake_is_named_with_its_place() {
        for (text, expected) in [
            ("dta = 1", "parlour.toml:1:1: unknown setting `dta`; did you mean `data`?"),
            ("\n[access]\n  usrs = []", "parlour.toml:3:3: unknown setting `usrs`; did you mean `users`?"),
            ("[access]\nusers = [\"alice\"]", "\"alice\" is not a user id such as @alice:example.org"),
            ("[agents.a]\nplugins = []", "parlour.toml: agents.a: needs a `password` or a `token`"),
            (
                "[agents.a]\nplugins = \"*\"",
                "parlour.toml:2:11: invalid type: string \"*\", expected a list such as [\"…\"]",
            ),
            ("[agents]\nuser = \"@a:b\"", "expected a table with a name of its own, such as [agents.helper]"),
            (
                "homeserver = \"http://example.org\"\n[agents.a]\ntoken = \"t\"\nplugins = []",
                "parlour.toml: agents.a: homeserver \"http://example.org\" is plain http",
            ),
            (
                "[plugins.a.grants]\nrooms = [\"nonsense\"]",
                "plugins.a.grants: rooms: \"nonsense\" is neither",
            ),
            ("[plugins.a.grants]\npeople = [\"bob\"]", "plugins.a.grants: people: \"bob\" is neither"),
            ("[plugins.a.grants]\ntools = [\"weather\"]", "plugins.a.grants: tools: \"weather\" is neither"),
            ("[agents.A]\nplugins = []", "\"A\" is not a name of lower-case letters"),
            (
                "[behaviour]\nbacklog = \"some\"",
                "parlour.toml:2:11: \"some\" is neither \"all\", \"mentions\"",
            ),
            ("[behaviour]\nhorizon = \"5m\"", "\"5m\" is no time of an hour or more"),
            ("[behaviour]\nbacklog = \"60d\"", "behaviour: backlog: 60d is longer than the horizon of 30d"),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn the_environment_wins() {
        let env =
            [("PARLOUR_AGENTS__A__PASSWORD".to_owned(), "secret".to_owned()), ("HOME".into(), "/".into())];
        let settings = parse("parlour.toml", AGENT, env).unwrap();
        let agent = settings.agents.values().next().unwrap();
        assert_eq!(agent.password.as_ref().unwrap().reveal().unwrap(), "secret");
        assert!(!format!("{settings:?}").contains("secret"));
    }

    #[test]
    fn only_settings_are_taken_from_the_environment() {
        let env = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
        };
        let others = env(&[("PARLOUR_LOG", "debug"), ("PARLOUR_", ""), ("PARLOUR_CI_CACHE", "/tmp")]);
        assert!(parse("parlour.toml", AGENT, others).is_ok());
        let wrong = env(&[("PARLOUR_AGENTS__A__PASWORD", "secret")]);
        let error = parse("parlour.toml", AGENT, wrong).unwrap_err().to_string();
        assert_eq!(
            error,
            "environment (PARLOUR_AGENTS__A__PASWORD): unknown setting `pasword`; did you mean `password`?"
        );
        // What looks like a number or a table is a password all the same.
        for password in ["12345", "true", "[x]", "\"quoted\"", "{ env = \"HOME\" }"] {
            let settings =
                parse("parlour.toml", AGENT, env(&[("PARLOUR_AGENTS__A__PASSWORD", password)])).unwrap();
            let agent = settings.agents.values().next().unwrap();
            assert_eq!(agent.password.as_ref().unwrap().reveal().unwrap(), password);
        }
    }

    #[test]
    fn the_environment_replaces_whatever_was_there() {
        let env = |key: &str, value: &str| [(key.to_owned(), value.to_owned())];
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        std::fs::write(&file, "hidden").unwrap();
        let settings =
            parse("x", AGENT, env("PARLOUR_AGENTS__A__PASSWORD__FILE", file.to_str().unwrap())).unwrap();
        let agent = settings.agents.values().next().unwrap();
        assert_eq!(agent.password.as_ref().unwrap().reveal().unwrap(), "hidden");
        let settings = parse("x", AGENT, env("PARLOUR_AGENTS__A__DEVICE_ID", "4711")).unwrap();
        assert_eq!(settings.agents.values().next().unwrap().device_id.as_deref(), Some("4711"));
        let settings = parse("x", AGENT, env("PARLOUR_BEHAVIOUR__REQUIRE_MENTION", "false")).unwrap();
        assert!(!settings.behaviour.require_mention);
    }

    #[test]
    fn every_key_of_the_top_level_is_known() {
        let error = parsed("nothing-like-it = 1").unwrap_err();
        assert!(error.ends_with(&Settings::KEYS.join(", ")), "{error}");
    }

    #[test]
    fn what_is_probably_not_meant_is_said() {
        let settings = parsed(&format!("{AGENT}[plugins.b.grants]\nllm = true\n")).unwrap();
        let doubts = settings.doubts();
        assert_eq!(doubts.len(), 2, "{doubts:?}");
        assert!(
            doubts[0].contains("agents.a: access lists nobody")
                && doubts[1].contains("plugins.b: grants.llm")
        );
        let listed = format!("{AGENT}[access]\nusers = [\"@a:b\"]\n");
        assert_eq!(parsed(&listed).unwrap().doubts(), Vec::<String>::new());
    }

    #[test]
    fn the_backlog_is_said_for_all_for_an_agent_and_for_a_room() {
        let text = format!(
            "{AGENT}behaviour = {{ backlog = \"skip\", horizon = \"90d\", backlog_rooms = {{ \"!r\" = \"60d\" }} }}\n[behaviour]\nbacklog = \"90m\"\n"
        );
        let settings = parsed(&text).unwrap();
        let room = |id| crate::id::RoomId::parse(id).unwrap();
        assert_eq!(settings.behaviour.backlog_in(&room("!r")), Backlog::Within(Duration::from_secs(5400)));
        let own = settings.agents.values().next().unwrap().behaviour.as_ref().unwrap();
        assert_eq!(own.backlog_in(&room("!other")), Backlog::Skip);
        assert_eq!(own.backlog_in(&room("!r")), Backlog::Within(Duration::from_secs(60 * 86_400)));
        assert_eq!(own.horizon.to_string(), "90d");
    }

    #[test]
    fn media_is_granted_as_a_whole_or_with_a_size() {
        let media = |text: &str| {
            let settings = parsed(&format!("{AGENT}[plugins.b.grants]\nmedia = {text}\n"))?;
            Ok::<_, String>(settings.plugins["b"].grants.media.clone())
        };
        assert_eq!(media("true").unwrap(), Some(Media::default()));
        assert_eq!(media("false").unwrap(), None);
        assert_eq!(media("{ bytes = 1_000 }").unwrap(), Some(Media { bytes: Some(1000) }));
        for (wrong, said) in [("3", "true, or a table"), ("{ byte = 1 }", "did you mean `bytes`?")] {
            let error = media(wrong).unwrap_err();
            assert!(error.starts_with("parlour.toml:") && error.contains(said), "{error}");
        }
    }

    #[test]
    fn the_model_is_granted_as_a_whole_or_by_name_and_cost() {
        let llm = |text: &str| {
            let settings = parsed(&format!("{AGENT}[plugins.b.grants]\nllm = {text}\n"))?;
            Ok::<_, String>(settings.plugins["b"].grants.llm.clone())
        };
        assert_eq!(llm("true").unwrap(), Some(LlmGrant::default()));
        assert_eq!(llm("false").unwrap(), None);
        let some = LlmGrant { models: ["small".to_owned()].into(), tokens_per_day: NonZeroU32::new(1000) };
        assert_eq!(llm("{ models = [\"small\"], tokens_per_day = 1_000 }").unwrap(), Some(some));
        let wrong = [
            ("3", "true, or a table"),
            ("{ tokens_per_day = 0 }", "nonzero"),
            ("{ model = \"small\" }", "did you mean `models`?"),
        ];
        for (wrong, said) in wrong {
            let error = llm(wrong).unwrap_err();
            assert!(error.starts_with("parlour.toml:") && error.contains(said), "{error}");
        }
    }

    #[test]
    fn timers_are_granted_as_a_whole_or_with_a_count() {
        let timers = |text: &str| {
            let settings = parsed(&format!("{AGENT}[plugins.b.grants]\ntimers = {text}\n"))?;
            Ok::<_, String>(settings.plugins["b"].grants.timers.clone())
        };
        assert_eq!(timers("true").unwrap(), Some(Timers::default()));
        assert_eq!(timers("false").unwrap(), None);
        assert_eq!(timers("{ count = 50 }").unwrap(), Some(Timers { count: Some(50) }));
        for (wrong, said) in [("3", "true, or a table"), ("{ cont = 1 }", "did you mean `count`?")] {
            let error = timers(wrong).unwrap_err();
            assert!(error.starts_with("parlour.toml:") && error.contains(said), "{error}");
        }
    }

    #[test]
    fn files_are_relative_to_the_settings() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("secret"), "hidden\n").unwrap();
        let file = folder.path().join("parlour.toml");
        std::fs::write(&file, AGENT.replace("\"p\"", "{ file = \"secret\" }")).unwrap();
        let settings = load(&file).unwrap();
        let password = settings.agents.values().next().unwrap().password.clone().unwrap();
        assert_eq!(password.reveal().unwrap(), "hidden");
        assert_eq!(settings.data, folder.path().join("data"));
    }

    #[test]
    fn nobody_is_listed_by_default() {
        let settings = parsed(AGENT).unwrap();
        assert_eq!(settings.access.role(&UserId::parse("@alice:example.org").unwrap()), None);
        assert!(settings.behaviour.require_mention);
    }

    use std::time::Duration;

    use crate::{
        id::UserId,
        settings::{Backlog, LlmGrant, Media, Timers},
    };
}
