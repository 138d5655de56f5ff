//! Reads and writes files, as it is told, and says what came of it.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
};

use parlour_plugin::prelude::*;
use wasip2::filesystem::preopens::get_directories;

struct Files;

impl Commands for Files {
    fn list_commands() -> Vec<Command> {
        let rest = |name, description| Command::new(name, description).rest("text", "What it is done with");
        vec![
            rest("read", "PATH"),
            rest("write", "PATH TEXT"),
            rest("fill", "BYTES PATH: appends so many"),
            rest("sparse", "OFFSET PATH: writes a byte there"),
            rest("grow", "BYTES PATH: makes it so long"),
            rest("litter", "COUNT: makes so many files"),
            rest("list", "PATH"),
            rest("hold", "COUNT PATH: opens it so often, and says how often"),
            rest(
                "hide",
                "BYTES HOW: so many into each of ten open files without a name, and how often it could",
            ),
            rest("changed", "PATH: nanoseconds of the second in which it was"),
            rest("remove", "PATH"),
            rest("rename", "PATH PATH"),
            rest("link", "PATH PATH: a second name"),
            rest("symlink", "PATH PATH: a link"),
        ]
    }

    fn run(call: Invocation) -> Result<(), Error> {
        let said = done(&call.name, &call.rest).unwrap_or_else(|error| format!("error: {error}"));
        outbox::say(said)?;
        Ok(())
    }
}

fn done(name: &str, rest: &str) -> std::io::Result<String> {
    let (first, second) = rest.split_once(' ').unwrap_or((rest, ""));
    let number = || first.parse::<u64>().unwrap_or_default();
    match name {
        "read" => {
            let mut text = String::new();
            File::open(rest)?.take(1000).read_to_string(&mut text)?;
            return Ok(text);
        }
        "write" => fs::write(first, second)?,
        "fill" => {
            let mut file = OpenOptions::new().append(true).create(true).open(second)?;
            let piece = vec![b'x'; 64 * 1024];
            let mut left = number();
            while left > 0 {
                let size = left.min(piece.len() as u64);
                file.write_all(&piece[..size as usize])?;
                left -= size;
            }
        }
        "sparse" => {
            let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(second)?;
            file.seek(SeekFrom::Start(number()))?;
            file.write_all(b"x")?;
        }
        "grow" => {
            OpenOptions::new().write(true).create(true).truncate(false).open(second)?.set_len(number())?
        }
        "litter" => {
            for count in 0..number() {
                fs::write(format!("/files/{count}"), "")?;
            }
        }
        "list" => {
            let names =
                fs::read_dir(rest)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
            let mut names = names.collect::<std::io::Result<Vec<_>>>()?;
            names.sort();
            return Ok(format!("[{}]", names.join(" ")));
        }
        "hold" => {
            let open: Vec<_> = (0..number()).map_while(|_| File::open(second).ok()).collect();
            return Ok(open.len().to_string());
        }
        "hide" => {
            let mut open = vec![];
            for count in 0..10 {
                let path = format!("/files/hidden-{count}");
                let Ok(mut file) = File::create(&path) else { break };
                let piece = vec![b'x'; number() as usize];
                if file.write_all(&piece).is_err() {
                    fs::remove_file(&path)?;
                    break;
                }
                match second {
                    "rename" => {
                        fs::write("/files/over", "")?;
                        fs::rename("/files/over", &path)?;
                        fs::remove_file(&path)?;
                    }
                    "read" => {
                        file = File::open(&path)?;
                        fs::remove_file(&path)?;
                    }
                    _ => fs::remove_file(&path)?,
                }
                open.push(file);
            }
            return Ok(open.len().to_string());
        }
        "changed" => {
            let changed = fs::metadata(rest)?.modified()?.duration_since(std::time::UNIX_EPOCH);
            return Ok(changed.map_err(std::io::Error::other)?.subsec_nanos().to_string());
        }
        "remove" => fs::remove_file(rest)?,
        "rename" => fs::rename(first, second)?,
        "link" => fs::hard_link(first, second)?,
        _ => return symlink(first, second),
    }
    Ok("done".into())
}

/// By hand: the library has no links on this target.
fn symlink(to: &str, at: &str) -> std::io::Result<String> {
    let folders = get_directories();
    let (folder, _) = folders.first().ok_or(std::io::ErrorKind::NotFound)?;
    let made = folder.symlink_at(to, at);
    Ok(made.map_or_else(|error| format!("error: {error}"), |()| "done".into()))
}

parlour_plugin::export!(Files: commands);
