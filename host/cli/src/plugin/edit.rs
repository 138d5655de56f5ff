//! Changes `parlour.toml` where a grant is given or taken, and leaves all else as somebody wrote it.

use std::{fs, io::Write as _, path::Path};

use anyhow::{Context, anyhow};
use parlour::{
    id::{AgentName, PluginName},
    owner,
};
use toml_edit::{DocumentMut, Item, Table, TableLike, Value};

/// Changes the grants of one plugin.
pub fn grants(file: &Path, name: &PluginName, how: impl FnOnce(&mut dyn TableLike)) -> anyhow::Result<()> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let mut document: DocumentMut = text.parse().map_err(|error| anyhow!("{}: {error}", file.display()))?;
    let odd = || anyhow!("{}: plugins.{name}.grants is no table", file.display());
    let plugins = document.entry("plugins").or_insert_with(implicit).as_table_like_mut().ok_or_else(odd)?;
    let plugin = plugins.entry(name.as_str()).or_insert_with(implicit).as_table_like_mut().ok_or_else(odd)?;
    let grants = plugin.entry("grants").or_insert_with(|| Item::Table(Table::new()));
    how(grants.as_table_like_mut().ok_or_else(odd)?);
    if let Some(inline) = grants.as_inline_table_mut() {
        inline.fmt();
    }
    if grants.as_table_like().is_some_and(TableLike::is_empty) {
        plugin.remove("grants");
    }
    write(file, &document.to_string())
}

/// Sets one key of a plugin beside its grants, or takes it away.
pub fn key(file: &Path, name: &PluginName, key: &str, value: Option<Value>) -> anyhow::Result<()> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let mut document: DocumentMut = text.parse().map_err(|error| anyhow!("{}: {error}", file.display()))?;
    let odd = || anyhow!("{}: plugins.{name} is no table", file.display());
    let plugins = document.entry("plugins").or_insert_with(implicit).as_table_like_mut().ok_or_else(odd)?;
    let plugin = plugins.entry(name.as_str()).or_insert_with(implicit).as_table_like_mut().ok_or_else(odd)?;
    match value {
        Some(value) => plugin.insert(key, Item::Value(value)),
        None => plugin.remove(key),
    };
    write(file, &document.to_string())
}

/// Takes away what an agent grants to a plugin by itself.
pub fn agent_grants(file: &Path, agent: &AgentName, name: &PluginName) -> anyhow::Result<()> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let mut document: DocumentMut = text.parse().map_err(|error| anyhow!("{}: {error}", file.display()))?;
    let agents = document.get_mut("agents").and_then(Item::as_table_like_mut);
    let agent = agents.and_then(|agents| agents.get_mut(agent.as_str())).and_then(Item::as_table_like_mut);
    if let Some(grants) = agent.and_then(|agent| agent.get_mut("grants")).and_then(Item::as_table_like_mut) {
        grants.remove(name.as_str());
    }
    write(file, &document.to_string())
}

/// A key of a table, as a list of texts to which one is added.
pub fn append(table: &mut dyn TableLike, key: &str, text: &str) {
    let list = table.entry(key).or_insert_with(|| Item::Value(Value::Array(toml_edit::Array::new())));
    if let Some(list) = list.as_array_mut()
        && !list.iter().any(|value| value.as_str() == Some(text))
    {
        list.push(text);
    }
}

/// A table that shows nothing of its own.
fn implicit() -> Item {
    let mut table = Table::new();
    table.set_implicit(true);
    Item::Table(table)
}

/// In one step, with the mode that the file has.
fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    let place = || file.display().to_string();
    // A link stays one.
    let file = &file.canonicalize().with_context(place)?;
    let folder = file.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    let mut written = tempfile::NamedTempFile::new_in(folder).with_context(place)?;
    written.write_all(text.as_bytes()).with_context(place)?;
    let mode = fs::metadata(file).with_context(place)?.permissions();
    written.as_file().set_permissions(mode).with_context(place)?;
    owner::inherit(written.as_file(), file).with_context(place)?;
    written.persist(file).with_context(place)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_is_written_and_all_else_stays() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("parlour.toml");
        let changed = |before: &str, how: &dyn Fn(&mut dyn TableLike)| {
            fs::write(&file, before).expect("it can be written");
            grants(&file, &"weather".parse().expect("a name"), how).expect("it can be changed");
            fs::read_to_string(&file).expect("it can be read")
        };
        let llm = |table: &mut dyn TableLike| drop(table.insert("llm", toml_edit::value(true)));
        assert_eq!(
            changed("# mine\ndata = \"d\"  # here\n", &llm),
            "# mine\ndata = \"d\"  # here\n\n[plugins.weather.grants]\nllm = true\n"
        );
        assert_eq!(
            changed("[plugins.weather]\ngrants = { home = true }\n", &llm),
            "[plugins.weather]\ngrants = { home = true, llm = true }\n"
        );
        let rooms = |table: &mut dyn TableLike| append(table, "rooms", "!a");
        assert_eq!(
            changed("[plugins.weather.grants]\nrooms = [\"!b\"] # why\n", &rooms),
            "[plugins.weather.grants]\nrooms = [\"!b\", \"!a\"] # why\n"
        );
        let none = |table: &mut dyn TableLike| drop(table.remove("llm"));
        assert_eq!(changed("data = \"d\"\n[plugins.weather.grants]\nllm = true\n", &none), "data = \"d\"\n");
    }
}
