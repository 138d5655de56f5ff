//! Which plugin an event is for: pure, from what the plugins of an agent have.

use std::{collections::BTreeMap, sync::Arc};

use sha2::{Digest, Sha256};

use crate::{
    addressing::{Addressed, Typed},
    command::{Argument, Command},
    event::{Event, Kind},
    grant::Permissions,
    id::PluginName,
    settings::Role,
    timer::Fired,
    tool::Tool,
};

/// What one version of a plugin has.
#[derive(Debug)]
pub struct Listing {
    /// Which plugin.
    pub plugin: PluginName,
    /// SHA-256 of its file, in hexadecimal.
    pub digest: String,
    /// Its commands, if it exports `commands`.
    pub commands: Vec<Arc<Command>>,
    /// It exports `messages`.
    pub messages: bool,
    /// It exports `members`.
    pub members: bool,
    /// It exports `timers`.
    pub timers: bool,
    /// Its tools, if it exports `tools`.
    pub tools: Vec<Arc<Tool>>,
}

/// A tool that one of an agent's plugins has.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Its full name, `weather.forecast`.
    pub name: String,
    /// The plugin, as it is now.
    pub listing: Arc<Listing>,
    /// The tool.
    pub tool: Arc<Tool>,
}

/// What an agent's plugins have, in the order in which they are asked.
#[derive(Debug, Default)]
pub struct Catalogue {
    /// The plugins.
    pub listings: Vec<Arc<Listing>>,
    commands: BTreeMap<String, (PluginName, Arc<Command>)>,
    /// Commands that a later plugin has too, which stay with the first: the plugin and the command.
    pub shadowed: Vec<(PluginName, String)>,
    /// By full name.
    tools: BTreeMap<String, Offer>,
}

/// Where an event goes.
#[derive(Debug)]
pub enum Route<'a> {
    /// Ends what runs in the session.
    Stop,
    /// One plugin's command.
    Command {
        /// Which plugin.
        plugin: PluginName,
        /// As it was typed.
        typed: Typed,
        /// What was typed after it, checked.
        arguments: Vec<Argument>,
    },
    /// The host answers itself, in one line.
    Answer(String),
    /// Plugins that are asked in this order until one has handled it.
    Message(Vec<PluginName>),
    /// Plugins that are all told.
    Member(Vec<PluginName>),
    /// The plugin that set the timer which is due.
    Timer(&'a Fired),
    /// The same, while that plugin is not there or handles none.
    Wait(&'a Fired),
}

/// The host's own command.
pub const STOP: &str = "stop";

impl Catalogue {
    /// What these plugins have together.
    #[must_use]
    pub fn new(listings: Vec<Arc<Listing>>) -> Self {
        let mut commands = BTreeMap::new();
        let mut shadowed = Vec::new();
        if let Ok(stop) = Command::new(STOP.into(), "Ends what I am doing for you".into(), vec![], Role::User)
            && let Ok(host) = PluginName::parse("parlour")
        {
            commands.insert(STOP.to_owned(), (host, Arc::new(stop)));
        }
        for listing in &listings {
            for command in &listing.commands {
                if commands.contains_key(&command.name) {
                    shadowed.push((listing.plugin.clone(), command.name.clone()));
                } else {
                    commands.insert(command.name.clone(), (listing.plugin.clone(), command.clone()));
                }
            }
        }
        let offers = listings.iter().flat_map(|listing| {
            listing.tools.iter().map(|tool| {
                let name = format!("{}.{}", listing.plugin, tool.name);
                (name.clone(), Offer { name, listing: listing.clone(), tool: tool.clone() })
            })
        });
        let tools = offers.collect();
        Self { listings, commands, shadowed, tools }
    }

    /// A tool by its full name.
    #[must_use]
    pub fn tool(&self, name: &str) -> Option<&Offer> {
        self.tools.get(name)
    }

    /// The tools that a plugin sees, by name: what it may call, and none of its own. The number stays the same as long
    /// as they do.
    #[must_use]
    pub fn toolbox(&self, of: &PluginName, permissions: &Permissions) -> (u32, Vec<&Offer>) {
        let tools = self.tools.values();
        let seen: Vec<&Offer> = tools
            .filter(|offer| offer.listing.plugin != *of && permissions.tool(&offer.name).is_ok())
            .collect();
        let mut digest = Sha256::new();
        for Offer { name, listing, tool } in &seen {
            let title = tool.title.as_deref().unwrap_or_default();
            for part in [name, &listing.digest, title, &tool.description, &tool.parameters] {
                digest.update(part);
                digest.update([0]);
            }
            digest.update([u8::from(tool.read_only)]);
        }
        let generation =
            digest.finalize().iter().take(4).fold(0, |number, byte| number << 8 | u32::from(*byte));
        (generation, seen)
    }

    /// Whether a command is there.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        self.commands.contains_key(name)
    }

    /// The commands that this role may use, by name.
    pub fn commands(&self, role: Role) -> impl Iterator<Item = &Arc<Command>> {
        self.commands.values().map(|(_, command)| command).filter(move |command| command.role <= role)
    }

    /// Whether an event is the host's `/stop`, which overtakes.
    #[must_use]
    pub fn stops(addressed: &Addressed) -> bool {
        addressed
            .command
            .as_ref()
            .is_some_and(|typed| typed.name == STOP && (typed.sigil.is_some() || typed.rest.is_empty()))
    }

    /// Where an event goes that the gate let through.
    #[must_use]
    pub fn route<'a>(&self, event: &'a Event, addressed: &Addressed, role: Role) -> Route<'a> {
        match &event.kind {
            Kind::Member(_) => Route::Member(self.having(|listing| listing.members)),
            Kind::Timer(fired) => {
                let plugin = &fired.timer.plugin;
                if self.listings.iter().any(|listing| listing.plugin == *plugin && listing.timers) {
                    Route::Timer(fired)
                } else {
                    Route::Wait(fired)
                }
            }
            Kind::Message(_) => self.route_message(addressed, role),
        }
    }

    fn route_message(&self, addressed: &Addressed, role: Role) -> Route<'static> {
        let Some(typed) = &addressed.command else { return self.plain() };
        if Self::stops(addressed) {
            return Route::Stop;
        }
        match self.commands.get(&typed.name) {
            // "@agent stop the music" is prose.
            Some(_) if typed.name == STOP => self.plain(),
            Some((_, command)) if command.role > role => {
                Route::Answer(format!("/{} is for {}.", command.name, audience(command.role)))
            }
            Some((plugin, command)) => match command.arguments(&typed.rest) {
                Ok(arguments) => Route::Command { plugin: plugin.clone(), typed: typed.clone(), arguments },
                // "@agent roll me a die" may be prose, if somebody answers prose.
                Err(_) if typed.sigil.is_none() && self.answers_prose() => self.plain(),
                Err(line) => Route::Answer(format!("/{}: {line}", command.name)),
            },
            None if typed.sigil.is_some() => {
                let nearest = self
                    .nearest(&typed.name, role)
                    .map_or_else(String::new, |name| format!(" Did you mean /{name}?"));
                Route::Answer(format!("I don't know /{}.{nearest}{}", typed.name, self.hint()))
            }
            None => self.plain(),
        }
    }

    fn plain(&self) -> Route<'static> {
        if !self.answers_prose() {
            return Route::Answer(format!("I answer commands only.{}", self.hint()));
        }
        Route::Message(self.having(|listing| listing.messages))
    }

    fn answers_prose(&self) -> bool {
        self.listings.iter().any(|listing| listing.messages)
    }

    fn having(&self, has: impl Fn(&Listing) -> bool) -> Vec<PluginName> {
        self.listings.iter().filter(|listing| has(listing)).map(|listing| listing.plugin.clone()).collect()
    }

    fn hint(&self) -> &'static str {
        if self.knows("help") { " /help lists them." } else { "" }
    }

    fn nearest(&self, name: &str, role: Role) -> Option<&str> {
        self.commands(role)
            .map(|command| (strsim::damerau_levenshtein(name, &command.name), command.name.as_str()))
            .min()
            .filter(|(distance, _)| *distance <= 2)
            .map(|(_, name)| name)
    }
}

fn audience(role: Role) -> &'static str {
    match role {
        Role::Guest => "everybody",
        Role::User => "listed people only",
        Role::Admin => "admins only",
    }
}
