//! cargo xtask install: the release extension and its ini where one PHP looks for them, and the companion in
//! /usr/local/bin.
//!
//! The original `memcache` extension owns the class names as long as it is enabled, and its ini sorts before ours;
//! so it is looked for first. php.ini itself is never edited: it belongs to its owner.

use crate::bootstrap::{self, For};
use crate::php::Php;
use crate::run::{self, Scratch, quiet};
use crate::{Stop, failed};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What --help prints.
pub(crate) const HELP: &str = "\
cargo xtask install [--replace] [--php PHP_CONFIG] [--no-install]

Builds the release extension and puts it, with its ini, where this PHP looks. On Debian that is
mods-available, enabled by phpenmod. The companion is put into /usr/local/bin. sudo is used where a
directory is not ours to write.

  --replace         disable an enabled memcache extension, which owns the same class names
  --php PHP_CONFIG  the php-config of another PHP than the one in PATH
  --no-install      name missing packages instead of installing them";

/// Below this number conf.d reads it before other modules; none depends on it.
const PRIORITY: &str = "20";

/// The subcommand.
///
/// # Errors
/// When something is missing, memcache is enabled, or a file cannot be written.
pub(crate) fn main(mut parser: lexopt::Parser) -> Result<(), Stop> {
    use lexopt::prelude::*;
    let (mut replace, mut config, mut install) = (false, None, true);
    while let Some(word) = parser.next()? {
        match word {
            Long("replace") => replace = true,
            Long("php") => config = Some(PathBuf::from(parser.value()?)),
            Long("no-install") => install = false,
            _ => return Err(word.unexpected().into()),
        }
    }
    bootstrap::ensure(For::Build, install)?;
    let php = Php::find(config.as_deref())?;
    let home = Home::of(&php)?;
    if !replace {
        make_room(&php, &home, false)?;
    }
    let so = php.build()?;
    let companion = Php::build_companion()?;
    // Only now that ours is there: a build that fails must not leave this PHP with neither.
    make_room(&php, &home, replace)?;
    let target = php.extensions.join("memring.so");
    // Moved into place: a PHP that runs keeps the file it has mapped.
    let fresh = php.extensions.join(".memring.so.new");
    elevated(&php.extensions, &["install", "-m", "644"], &[&so, &fresh])?;
    elevated(&php.extensions, &["mv", "-f"], &[&fresh, &target])?;
    run::say(&format!("   {}", target.display()));
    put_companion(&companion)?;
    let scratch = Scratch::new("install")?;
    let ini = scratch.path().join("memring.ini");
    run::write(&ini, ini_text()?)?;
    match &home {
        Home::Debian(etc) => {
            let folder = etc.join("mods-available");
            let place = folder.join("memring.ini");
            put_ini(&ini, &place)?;
            elevated(&folder, &["phpenmod", "-v", &php.version, "memring"], &[])?;
        }
        Home::Scanned(folder) => put_ini(&ini, &folder.join(format!("{PRIORITY}-memring.ini")))?,
        Home::PhpIni(file) => {
            run::say(&format!(
                "   this PHP scans no directory; put this line into {}:",
                file.display()
            ));
            run::say("     extension=memring.so");
            return Ok(());
        }
    }
    let loaded = quiet(
        "php --ri memring",
        Command::new(&php.cli).args(["--ri", "memring"]),
    );
    let loaded = loaded.map_err(|_| {
        Stop::Failed(
            "this PHP does not load it. Is the line extension=memring.so in the memring.ini named above, and is \
             that ini enabled?"
                .to_owned(),
        )
    })?;
    run::say(loaded.trim());
    run::say("   installed. Running php-fpm and Apache read it after a restart.");
    Ok(())
}

/// Moved into place as the extension is: a daemon that runs keeps the program it was started from.
fn put_companion(from: &Path) -> Result<(), Stop> {
    let folder = Path::new("/usr/local/bin");
    let (fresh, place) = (folder.join(".memring.new"), folder.join("memring"));
    elevated(folder, &["install", "-D", "-m", "755"], &[from, &fresh])?;
    elevated(folder, &["mv", "-f"], &[&fresh, &place])?;
    run::say(&format!("   {}", place.display()));
    Ok(())
}

/// An ini that its owner has changed is kept; ours is put beside it.
fn put_ini(from: &Path, place: &Path) -> Result<(), Stop> {
    let folder = place.parent().unwrap_or(place);
    let old = std::fs::read(place).ok();
    let place = if old.is_some() && old != std::fs::read(from).ok() {
        run::say(&format!(
            "   kept {} as it is; the new one stands beside it",
            place.display()
        ));
        place.with_extension("ini.new")
    } else {
        place.to_path_buf()
    };
    elevated(folder, &["install", "-m", "644"], &[from, &place])?;
    run::say(&format!("   {}", place.display()));
    Ok(())
}

/// The ini that enables the extension: the lines every install needs, then the commented sample.
///
/// # Errors
/// When the sample cannot be read.
pub(crate) fn ini_text() -> Result<String, Stop> {
    let sample = run::root().join("php/memring.ini");
    let sample = match std::fs::read_to_string(&sample) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(failed(sample.display(), error)),
    };
    Ok(with_head(&sample))
}

/// Puts the lines every install needs above the sample, once: a second `extension` would make PHP warn at each start.
fn with_head(sample: &str) -> String {
    let loads = |line: &str| {
        line.split_once('=')
            .is_some_and(|(name, _)| name.trim() == "extension")
    };
    let mut text = format!("; priority={PRIORITY}\nextension=memring.so\n");
    for line in sample
        .lines()
        .filter(|line| !loads(line) && !line.starts_with("; priority="))
    {
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// How a PHP is told which extensions to load.
enum Home {
    /// Debian: /etc/php/VERSION with mods-available and a conf.d per SAPI.
    Debian(PathBuf),
    /// A directory of ini files.
    Scanned(PathBuf),
    /// php.ini alone.
    PhpIni(PathBuf),
}

impl Home {
    fn of(php: &Php) -> Result<Self, Stop> {
        let code = "echo PHP_CONFIG_FILE_SCAN_DIR, \"\\n\", PHP_CONFIG_FILE_PATH;";
        let text = quiet("php -r", Command::new(&php.cli).args(["-n", "-r", code]))?;
        let mut lines = text.lines();
        let scanned = PathBuf::from(lines.next().unwrap_or_default());
        let etc = PathBuf::from(format!("/etc/php/{}", php.version));
        if scanned.starts_with(&etc)
            && etc.join("mods-available").is_dir()
            && run::program("phpenmod").is_some()
        {
            return Ok(Home::Debian(etc));
        }
        if scanned.is_dir() {
            return Ok(Home::Scanned(scanned));
        }
        Ok(Home::PhpIni(
            Path::new(lines.next().unwrap_or_default()).join("php.ini"),
        ))
    }

    /// The ini files this PHP reads, those of every SAPI.
    fn files(&self) -> Vec<PathBuf> {
        let list = |folder: &Path| -> Vec<PathBuf> {
            let Ok(entries) = std::fs::read_dir(folder) else {
                return Vec::new();
            };
            entries
                .filter_map(Result::ok)
                .map(|entry| entry.path())
                .collect()
        };
        let mut files = match self {
            Home::Debian(etc) => {
                let sapis = list(etc);
                sapis
                    .iter()
                    .flat_map(|sapi| {
                        [vec![sapi.join("php.ini")], list(&sapi.join("conf.d"))].concat()
                    })
                    .collect()
            }
            Home::Scanned(folder) => list(folder),
            Home::PhpIni(file) => vec![file.clone()],
        };
        files.retain(|file| {
            file.extension().is_some_and(|extension| extension == "ini") && file.is_file()
        });
        files.sort();
        files
    }
}

/// Finds where memcache is enabled; stops with the command that disables it, or gives it with `replace`.
fn make_room(php: &Php, home: &Home, replace: bool) -> Result<(), Stop> {
    let found: Vec<PathBuf> = home
        .files()
        .into_iter()
        .filter(|file| {
            std::fs::read_to_string(file).is_ok_and(|text| text.lines().any(loads_memcache))
        })
        .collect();
    if found.is_empty() {
        return Ok(());
    }
    let (in_php_ini, in_files): (Vec<_>, Vec<_>) = found
        .iter()
        .partition(|file| file.file_name().is_some_and(|name| name == "php.ini"));
    for file in &found {
        run::say(&format!("   memcache is enabled in {}", file.display()));
    }
    if let Some(file) = in_php_ini.first() {
        return Err(Stop::Failed(format!(
            "take the line extension=memcache out of {} and call this again; php.ini is not edited for you",
            file.display()
        )));
    }
    let commands: Vec<Vec<String>> = match home {
        Home::Debian(_) => vec![words(&["phpdismod", "-v", &php.version, "memcache"])],
        _ => in_files
            .iter()
            .map(|file| {
                words(&[
                    "mv",
                    &file.display().to_string(),
                    &format!("{}.disabled", file.display()),
                ])
            })
            .collect(),
    };
    let folder = found
        .first()
        .and_then(|file| file.parent())
        .unwrap_or(Path::new("/"));
    let sudo = if may_write(folder) { "" } else { "sudo " };
    if !replace {
        let lines: Vec<String> = commands
            .iter()
            .map(|command| format!("  {sudo}{}", command.join(" ")))
            .collect();
        return Err(Stop::Failed(format!(
            "two extensions cannot both own class Memcache. Disable the other one, or give --replace:\n{}",
            lines.join("\n")
        )));
    }
    for command in commands {
        run::say(&format!("   {sudo}{}", command.join(" ")));
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        elevated(folder, &command, &[])?;
    }
    Ok(())
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Whether an ini line loads the original: by name, by file name or by path, quoted or not.
fn loads_memcache(line: &str) -> bool {
    let Some((name, value)) = line.split_once('=') else {
        return false;
    };
    let value = value
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .trim_matches(['"', '\'']);
    let file = value.rsplit('/').next().unwrap_or_default();
    name.trim() == "extension" && matches!(file, "memcache" | "memcache.so")
}

fn may_write(folder: &Path) -> bool {
    rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_ok()
}

/// Runs a command that writes in `folder`, by sudo where we may not.
fn elevated(folder: &Path, line: &[&str], files: &[&Path]) -> Result<(), Stop> {
    let (program, rest) = line
        .split_first()
        .ok_or_else(|| Stop::Failed("no command".to_owned()))?;
    let found = run::program(program).unwrap_or_else(|| PathBuf::from(program));
    let mut command = if may_write(folder) {
        Command::new(found)
    } else {
        let mut sudo = Command::new("sudo");
        sudo.arg(found);
        sudo
    };
    let mut child = run::Running::start(command.args(rest).args(files))?;
    let status = child.wait()?;
    if status.success() {
        return Ok(());
    }
    Err(Stop::Failed(format!(
        "{} did not work in {}",
        line.join(" "),
        folder.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_installed_ini_loads_the_extension_once_however_the_sample_writes_it() {
        for line in ["extension=memring.so", "extension = memring.so", ""] {
            let text = with_head(&format!(
                "; priority=7\n{line}\n;memcache.allow_failover = 1\n"
            ));
            let loads = text.lines().filter(|line| line.starts_with("extension"));
            assert_eq!(loads.count(), 1, "{text}");
            assert_eq!(text.matches("; priority=").count(), 1, "{text}");
            assert!(text.ends_with(";memcache.allow_failover = 1\n"), "{text}");
        }
    }

    #[test]
    fn every_way_to_load_the_original_is_seen_and_nothing_else() {
        for line in [
            "extension=memcache.so",
            "extension = memcache",
            "extension=\"/usr/lib/memcache.so\" ; old",
        ] {
            assert!(loads_memcache(line), "{line}");
        }
        for line in [
            ";extension=memcache.so",
            "extension=memcached.so",
            "memcache.protocol=ascii",
            "extension=redis",
        ] {
            assert!(!loads_memcache(line), "{line}");
        }
    }
}
