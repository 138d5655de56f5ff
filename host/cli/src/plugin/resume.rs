//! `parlour plugin resume`: a plugin that rests after too many faults serves again, and one that was rolled back is tried
//! again.

use anyhow::bail;
use clap::Args;
use parlour::{
    control::{Answer, Question},
    id::{PluginName, UserId},
};

use super::Config;
use crate::{print, status::ask};

#[derive(Args)]
pub struct Options {
    /// Which
    name: PluginName,
    /// Whose events it hears again; by default everybody's
    #[arg(long, value_name = "ID")]
    user: Option<UserId>,
    #[command(flatten)]
    config: Config,
}

/// Asks the host that runs.
pub fn resume(options: &Options) -> anyhow::Result<()> {
    let (settings, _) = options.config.load()?;
    let question = Question::Resume { plugin: options.name.clone(), user: options.user.clone() };
    let people = match ask(&settings.data, &question)? {
        Answer::Resumed(people) => people,
        Answer::TriedAgain => {
            let line =
                format!("the version of plugin {} that was rolled back is tried again\n", options.name);
            return print(&line);
        }
        _ => bail!("the host answers another question"),
    };
    let people: Vec<&str> = people.iter().map(UserId::as_str).collect();
    print(&format!("plugin {} serves {} again\n", options.name, people.join(", ")))
}
