//! Where a plugin comes from, and who signed it: what is new there is said, and what has changed is agreed to.

use anyhow::{bail, ensure};
use inquire::Confirm;
use parlour::{id::PluginName, lock::Lock, signature::Publisher};

use super::{By, Options, on_a_terminal, print};
use crate::{oci::Reference, plugin::offer::Origin};

/// Who signed it is said where that is new, and agreed to where it has changed.
pub fn publisher(
    options: &Options,
    name: &PluginName,
    locked: &Lock,
    by: Option<Publisher>,
) -> anyhow::Result<()> {
    let file = options.file.display();
    if let Some(wanted) = &options.publisher {
        ensure!(wanted.0 == by, "{file}: it is signed by {}, not by {wanted}", By(by));
        return Ok(());
    }
    let before = locked.plugins.get(name).and_then(|agreed| agreed.publisher);
    if before == by {
        return Ok(());
    }
    if let Some(before) = before {
        let line = format!("it is signed by {}, and was by {before}", By(by));
        if !on_a_terminal() {
            bail!("{file}: {line}; say --publisher {} if it shall", By(by));
        }
        ensure!(Confirm::new("Take it all the same?").with_default(false).prompt()?, "it was not added");
    }
    let Some(by) = by else { return Ok(()) };
    let others = locked.plugins.iter().filter(|(other, of)| *other != name && of.publisher == Some(by));
    let others: Vec<_> = others.map(|(other, _)| other.as_str()).collect();
    print(&match others[..] {
        [] => {
            "New: its publisher; a version that somebody else has signed, or nobody, will wait.\n".to_owned()
        }
        _ => format!("Its publisher signed {}, too.\n", others.join(", ")),
    });
    Ok(())
}

/// A tag that means something else than before is agreed to, or else named with what it means now.
pub fn moved(from: &Origin, name: &PluginName, locked: &Lock) -> anyhow::Result<()> {
    let Origin::Registry { named, found } = from else { return Ok(()) };
    let (Some(tag), Some(now)) = (&named.tag, &found.digest) else { return Ok(()) };
    // Whatever the plugin calls itself this time.
    let of = |reference: &Reference| reference.same_place(named).then(|| reference.digest.clone()).flatten();
    let before = |source: &String| source.parse::<Reference>().ok().as_ref().and_then(of);
    let here = locked.plugins.get(name).and_then(|agreed| agreed.source.as_ref()).and_then(before);
    let mut all = locked.plugins.values().filter_map(|agreed| agreed.source.as_ref()).filter_map(before);
    let Some(before) = here.or_else(|| all.find(|digest| digest != now)).filter(|digest| digest != now)
    else {
        return Ok(());
    };
    print(&format!("New: the tag {tag} now means {now}, and meant {before}.\n"));
    if named.digest.as_ref() == Some(now) {
        return Ok(());
    }
    if !on_a_terminal() {
        bail!("{named}: the tag has moved; say {found} if it shall be that");
    }
    ensure!(Confirm::new("Take it all the same?").with_default(false).prompt()?, "it was not added");
    Ok(())
}
