//! What is granted when a plugin is added: as the options say, or as the person at the terminal answers.

use std::{fmt, path::Path};

use anyhow::{Context, bail, ensure};
use inquire::{Confirm, Text};
use parlour::{
    grant::Permissions,
    id::{RoomId, UserId},
    manifest::{Asks, Permission},
    origin::Pattern,
    settings::Grants,
    tool::is_pattern,
};
use toml_edit::TableLike;

use super::{Options, on_a_terminal, print, same};
use crate::plugin::{edit, inspect};

/// `llm`, or `rooms=!abc:example.org`.
#[derive(Clone)]
pub struct Grant {
    what: What,
    /// A room, a person, an origin, a folder or a tool.
    whom: Option<String>,
}

/// What can be granted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum What {
    Permission(Permission),
    /// That what is said in encrypted rooms leaves them by what is granted.
    Encrypted,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Permission(permission) => permission.fmt(f),
            Self::Encrypted => f.write_str("encrypted"),
        }
    }
}

impl std::str::FromStr for Grant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, whom) = text.split_once('=').map_or((text, None), |(name, whom)| (name, Some(whom)));
        let known = || NEED_A_GRANT.into_iter().map(What::Permission).chain([What::Encrypted]);
        let what = known().find(|what| what.to_string() == name).ok_or_else(|| {
            let known: Vec<_> = known().map(|what| what.to_string()).collect();
            format!("it is none of {}", known.join(", "))
        })?;
        Ok(Self { what, whom: whom.map(str::to_owned) })
    }
}

const NEED_A_GRANT: [Permission; 10] = [
    Permission::Kv,
    Permission::Home,
    Permission::Rooms,
    Permission::People,
    Permission::Llm,
    Permission::Http,
    Permission::Files,
    Permission::Media,
    Permission::Timers,
    Permission::Tools,
];
/// What carries words out of the room in which they were said.
const CARRY_OUT: [Permission; 6] = [
    Permission::Rooms,
    Permission::People,
    Permission::Llm,
    Permission::Http,
    Permission::Files,
    Permission::Tools,
];

/// What carries them out as well once that is agreed to, and needs no grant by itself.
const OTHER_WAYS: [(Permission, &str); 3] = [
    (Permission::Outbox, "to the agent's home"),
    (Permission::Outbox, "by edits of what it wrote elsewhere"),
    (Permission::Kv, "in its memory, which it has in every room"),
];

/// How words go out by what is granted.
fn way(permission: Permission) -> &'static str {
    match permission {
        Permission::Rooms => "to other rooms",
        Permission::People => "to people in direct chats",
        Permission::Llm => "to the language model",
        Permission::Http => "by HTTP requests",
        Permission::Files => "into files",
        Permission::Tools => "to plugins whose tools it calls",
        other => other.meaning(),
    }
}

/// What is newly granted: of all that is asked for and was not granted before.
pub fn decide(options: &Options, asks: &Asks, before: &Grants) -> anyhow::Result<Vec<Grant>> {
    for (flag, grants) in [("--grant", &options.grant), ("--deny", &options.deny)] {
        for grant in grants {
            if let What::Permission(permission) = grant.what {
                ensure!(asks.has(permission), "{flag}: it does not ask for {permission}");
            }
        }
    }
    for denied in options.deny.iter().map(|grant| grant.what) {
        let held = match denied {
            What::Permission(Permission::Kv) => false,
            What::Permission(permission) => has(before, asks, permission),
            What::Encrypted => before.encrypted,
        };
        ensure!(!held, "--deny: {denied} is granted already; take it out of the settings");
    }
    let terminal = on_a_terminal();
    let mut decided = Vec::new();
    let mut open = Vec::new();
    let kv = Permissions::new(asks.clone(), before.clone()).wants_more();
    let needs_grant =
        |permission: &Permission| !permission.is_free() || (*permission == Permission::Kv && kv);
    for permission in asks.iter().map(|(permission, _)| permission).filter(needs_grant) {
        let named = |grants: &[Grant]| {
            let grants = grants.iter().filter(|grant| grant.what == What::Permission(permission));
            grants.cloned().collect::<Vec<_>>()
        };
        let granted = named(&options.grant);
        if !granted.is_empty() {
            decided.extend(granted);
        } else if !named(&options.deny).is_empty()
            || (permission != Permission::Kv && has(before, asks, permission))
        {
        } else if terminal {
            decided.extend(ask(permission, asks)?);
        } else if !options.audit_only {
            open.push(permission);
        }
    }
    if let [first, ..] = open[..] {
        let open: Vec<_> = open.iter().map(ToString::to_string).collect();
        bail!(
            "it asks for {}, which nobody has granted or denied; say --grant {first}{} or --deny {first}",
            open.join(", "),
            example(first)
        );
    }
    for grant in &decided {
        check(grant)?;
    }
    decided.extend(consent(options, &decided, asks, before)?);
    if terminal && decided.is_empty() && !Confirm::new("Add it?").with_default(true).prompt()? {
        bail!("it was not added");
    }
    Ok(decided)
}

/// Whether what it hears in encrypted rooms may leave them: one consent for all that carries words out.
fn consent(
    options: &Options,
    decided: &[Grant],
    asks: &Asks,
    before: &Grants,
) -> anyhow::Result<Option<Grant>> {
    let consent = Grant { what: What::Encrypted, whom: None };
    let said = |grants: &[Grant]| grants.iter().any(|grant| grant.what == What::Encrypted);
    let granted = |permission: &Permission| {
        asks.has(*permission)
            && (decided.iter().any(|grant| grant.what == What::Permission(*permission))
                || has(before, asks, *permission))
    };
    let ways: Vec<&str> = CARRY_OUT.into_iter().filter(granted).map(way).collect();
    if said(&options.grant) {
        return Ok(Some(consent));
    }
    let new = decided.iter().any(|grant| CARRY_OUT.iter().any(|way| grant.what == What::Permission(*way)));
    if ways.is_empty() || (before.encrypted && !new) || (said(&options.deny) && !before.encrypted) {
        return Ok(None);
    }
    if before.encrypted && !on_a_terminal() {
        bail!(
            "what it hears in encrypted rooms may leave them already, and would by what is new, too; say --grant encrypted"
        );
    }
    let others = OTHER_WAYS.into_iter().filter(|(permission, _)| asks.has(*permission));
    let ways = ways.into_iter().chain(others.map(|(_, way)| way)).collect::<Vec<_>>().join(", ");
    if !on_a_terminal() {
        print(&format!(
            "What it hears in encrypted rooms does not leave them; --grant encrypted lets it, all of these ways: {ways}.\n"
        ));
        return Ok(None);
    }
    let question = format!("May what it hears in encrypted rooms leave them, all of these ways: {ways}?");
    Ok(Confirm::new(&question).with_default(false).prompt()?.then_some(consent))
}

/// A folder is named from where somebody is, and written down from where the settings are: where these are two places, it
/// is written down in full.
///
/// # Errors
/// Nobody knows where that is.
pub fn absolute(decided: &mut [Grant], settings: &Path) -> anyhow::Result<()> {
    let folder = settings.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    if same(folder, Path::new(".")) {
        return Ok(());
    }
    let files = decided.iter_mut().filter(|grant| grant.what == What::Permission(Permission::Files));
    for folder in files.filter_map(|grant| grant.whom.as_mut()) {
        let full = std::path::absolute(&*folder).with_context(|| format!("--grant files={folder}"))?;
        let text = full.to_str().with_context(|| format!("{}: it is no text", full.display()))?;
        text.clone_into(folder);
    }
    Ok(())
}

/// Writes down what was decided.
pub fn write(table: &mut dyn TableLike, decided: Vec<Grant>, asks: &Asks) {
    for grant in decided {
        let key = grant.what.to_string();
        match (grant.what, grant.whom) {
            (What::Permission(Permission::Kv), _) => drop(table.insert(&key, remembering(asks))),
            (What::Permission(Permission::Files), Some(folder)) => {
                table.insert(&key, files(asks, &folder));
            }
            (What::Permission(Permission::Http), None) => {
                let hosts = asks.http.iter().flat_map(|http| &http.hosts);
                hosts.for_each(|host| edit::append(table, &key, &host.to_string()));
            }
            (_, Some(whom)) => edit::append(table, &key, &whom),
            (_, None) => drop(table.insert(&key, toml_edit::value(true))),
        }
    }
}

/// What is granted by name.
pub fn held(grants: &Grants) -> impl Iterator<Item = Permission> {
    let needed = NEED_A_GRANT.into_iter().filter(|permission| *permission != Permission::Kv);
    needed.filter(|permission| is_held(grants, *permission))
}

/// Whether what is asked for of this kind is granted.
fn has(grants: &Grants, asks: &Asks, permission: Permission) -> bool {
    let Some(http) = asks.http.as_ref().filter(|_| permission == Permission::Http) else {
        return is_held(grants, permission);
    };
    http.hosts.iter().all(|host| grants.http.iter().any(|grant| grant.url.covers(host)))
}

/// Whether anything of this kind is granted.
fn is_held(grants: &Grants, permission: Permission) -> bool {
    match permission {
        Permission::Home => grants.home,
        Permission::Llm => grants.llm.is_some(),
        Permission::Rooms => !grants.rooms.is_empty(),
        Permission::People => !grants.people.is_empty(),
        Permission::Http => !grants.http.is_empty(),
        Permission::Files => grants.files.is_some(),
        Permission::Media => grants.media.is_some(),
        Permission::Timers => grants.timers.is_some(),
        Permission::Tools => !grants.tools.is_empty(),
        Permission::Outbox
        | Permission::Kv
        | Permission::Progress
        | Permission::Directory
        | Permission::Secrets => true,
    }
}

fn example(permission: Permission) -> &'static str {
    match permission {
        Permission::Rooms => "=!abc:example.org",
        Permission::Files => "=FOLDER",
        Permission::People => "=@alice:example.org",
        Permission::Tools => "=weather.forecast",
        // Without more, it is what the plugin asks for.
        _ => "",
    }
}

/// Whether what is granted is something.
fn check(grant: &Grant) -> anyhow::Result<()> {
    let whom = grant.whom.as_deref();
    let What::Permission(permission) = grant.what else {
        ensure!(whom.is_none(), "--grant encrypted: it stands alone");
        return Ok(());
    };
    let fits = match permission {
        Permission::Files => whom.is_some_and(|folder| !folder.is_empty()),
        Permission::Http => whom.is_none_or(|host| host.parse::<Pattern>().is_ok()),
        Permission::Tools => whom.is_some_and(|tool| tool == "*" || is_pattern(tool)),
        Permission::Rooms => whom.is_some_and(|room| room == "*" || RoomId::parse(room).is_ok()),
        Permission::People => {
            whom.is_some_and(|user| user == "*" || user.starts_with("*:") || UserId::parse(user).is_ok())
        }
        _ => whom.is_none(),
    };
    ensure!(fits, "--grant {permission}: say --grant {permission}{}", example(permission));
    Ok(())
}

/// `kv = { bytes = …, keys = … }`: what it asks for.
fn remembering(asks: &Asks) -> toml_edit::Item {
    let mut table = toml_edit::InlineTable::new();
    let kv = asks.kv.clone().unwrap_or_default();
    for (key, count) in [("bytes", kv.bytes), ("keys", kv.keys)] {
        if let Some(count) = count.and_then(|count| i64::try_from(count).ok()) {
            table.insert(key, count.into());
        }
    }
    toml_edit::value(table)
}

/// `files = { folder = …, write = true }`: the folder, and what it asks for.
fn files(asks: &Asks, folder: &str) -> toml_edit::Item {
    let mut table = toml_edit::InlineTable::new();
    let asked = asks.files.clone().unwrap_or_default();
    table.insert("folder", folder.into());
    if asked.write {
        table.insert("write", true.into());
    }
    if let Some(bytes) = asked.bytes.and_then(|bytes| i64::try_from(bytes).ok()) {
        table.insert("bytes", bytes.into());
    }
    toml_edit::value(table)
}

/// Asks the person at the terminal.
fn ask(permission: Permission, asks: &Asks) -> anyhow::Result<Vec<Grant>> {
    let more = match (permission, &asks.http) {
        (Permission::Kv, _) => ", as much as it asks for".to_owned(),
        (Permission::Http, Some(http)) => format!(" to {}", inspect::reach(http)),
        _ => String::new(),
    };
    let question = format!("May it {}{more}?", permission.meaning());
    if !Confirm::new(&question).with_default(false).prompt()? {
        return Ok(vec![]);
    }
    if example(permission).is_empty() {
        return Ok(vec![Grant { what: What::Permission(permission), whom: None }]);
    }
    if permission == Permission::Files {
        let folder = Text::new("Which folder?").prompt()?;
        return Ok(vec![Grant { what: What::Permission(permission), whom: Some(folder) }]);
    }
    let which = Text::new("Which? With spaces between, or * for all").prompt()?;
    let what = What::Permission(permission);
    let grants = which.split_whitespace().map(|whom| Grant { what, whom: Some(whom.to_owned()) });
    Ok(grants.collect())
}
