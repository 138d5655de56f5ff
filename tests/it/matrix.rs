//! Agents in rooms on a real Synapse, with people whose client is another implementation in another process.

mod backlog;
mod connection;
mod control;
mod direct;
mod keys;
mod media;
mod refusals;
mod rooms;
mod stores;

use std::path::Path;

use crate::{
    guests::example,
    host::{Home, Running},
    person::Person,
    synapse::{NewRoom, Synapse, unique},
};

pub const PASSWORD: &str = "a password of an agent";

/// An agent's account, and the settings for it.
pub struct Account {
    pub name: String,
    pub user: String,
}

impl Account {
    pub async fn new(synapse: &Synapse, name: &str) -> Self {
        let name = unique(name);
        let user = synapse.register(&name, PASSWORD).await.unwrap();
        Self { name, user }
    }

    /// `[agents.NAME]`
    pub fn settings(&self, plugins: &str) -> String {
        let Self { name, user } = self;
        format!("[agents.{name}]\nuser = \"{user}\"\npassword = \"{PASSWORD}\"\nplugins = {plugins}\n")
    }
}

/// `parlour.toml` for one server, whose address ends in a slash as people write it.
pub fn settings(synapse: &Synapse, agents: &[String], users: &[&str], admins: &[&str]) -> String {
    let list =
        |people: &[&str]| people.iter().map(|user| format!("\"{user}\"")).collect::<Vec<_>>().join(", ");
    format!(
        "homeserver = \"{}/\"\n{}\n[access]\nusers = [{}]\nadmins = [{}]\n[plugins.sethome.grants]\nhome = true\n[plugins.deeds.grants]\nencrypted = true\n",
        synapse.base_url().trim_end_matches('/'),
        agents.concat(),
        list(users),
        list(admins),
    )
}

/// A host with one agent that has the Rust plugins.
pub struct Scene {
    pub synapse: &'static Synapse,
    pub home: Home,
    pub agent: Account,
    pub alice: Person,
    pub bob: Person,
}

impl Scene {
    /// Alice is an admin, Bob is listed.
    pub async fn new() -> Self {
        let synapse = Synapse::shared().await.unwrap();
        let (agent, alice, bob) = (
            Account::new(synapse, "agent").await,
            Person::new(synapse, "alice").await.unwrap(),
            Person::new(synapse, "bob").await.unwrap(),
        );
        let settings = settings(synapse, &[agent.settings("[\"*\"]")], &[&bob.user], &[&alice.user]);
        let plugins = ["echo", "help", "roll", "sethome"].map(|name| (name, example(name)));
        let plugins = plugins.each_ref().map(|(name, component)| (*name, &**component));
        let home = Home::new(&settings, &plugins);
        Self { synapse, home, agent, alice, bob }
    }

    /// Starts the host, and waits until it serves.
    pub async fn run(&self) -> Running {
        let running = self.home.run();
        running.said("serves as").await;
        running
    }

    /// A room of Alice's that the agent has joined.
    pub async fn room(&self, room: NewRoom) -> String {
        let room = NewRoom { invite: [vec![self.agent.user.clone()], room.invite.clone()].concat(), ..room };
        let room = self.alice.create_room(&room).await.unwrap();
        self.alice.wait_member(&room, &self.agent.user, "join").await.unwrap();
        room
    }

    /// Somebody asks, and the agent answers with these words.
    pub async fn ask(&self, person: &Person, room: &str, text: &str, words: &str) -> crate::person::Message {
        let mark = person.mark();
        person.say(room, text).await.unwrap();
        person.hear_since(mark, room, &self.agent.user, words).await.unwrap()
    }
}

/// The permissions of a file: `600`.
pub fn mode(path: &Path) -> String {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .permissions()
        .mode();
    format!("{:o}", mode & 0o777)
}

/// Every file below a folder.
pub fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() && !path.is_symlink() { files(&path) } else { vec![path] })
        .collect()
}
