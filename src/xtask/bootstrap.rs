//! What the machine lacks: names it, and lets apt-get install it.
//!
//! Looked for is the thing itself (a program, a library, a PHP module), not the package, so that a PHP built by
//! hand is as good as Debian's. Services that come with a package are not started: what we need we start ourselves,
//! on free ports, and stop again. It is no package manager: without apt-get it names what is missing and stops.

use crate::run;
use crate::{Stop, failed};
use std::path::{Path, PathBuf};
use std::process::Command;

/// How much of the list a command needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum For {
    /// Building the extension.
    Build,
    /// Building it and showing it with real nodes.
    Demo,
    /// Running every test.
    Test,
}

/// One thing looked for.
struct Need {
    what: &'static str,
    package: &'static str,
    from: For,
    there: fn() -> bool,
}

/// The whole list, in the order it is named and installed.
const NEEDS: &[Need] = &[
    Need {
        what: "a C compiler",
        package: "gcc",
        from: For::Build,
        there: || any_program(&["cc"]),
    },
    Need {
        what: "the C library's headers",
        package: "libc6-dev",
        from: For::Build,
        there: || Path::new("/usr/include/stdlib.h").exists(),
    },
    Need {
        what: "php",
        package: "php-cli",
        from: For::Build,
        there: || any_program(&["php"]),
    },
    Need {
        what: "php-config and PHP's headers",
        package: "php-dev",
        from: For::Build,
        there: || any_program(&["php-config"]),
    },
    Need {
        what: "libclang (reads PHP's headers)",
        package: "libclang-dev",
        from: For::Build,
        there: libclang,
    },
    Need {
        what: "memcached",
        package: "memcached",
        from: For::Demo,
        there: || any_program(&["memcached"]),
    },
    Need {
        what: "redis-server",
        package: "redis-server",
        from: For::Test,
        there: || any_program(&["redis-server"]),
    },
    Need {
        what: "php-fpm",
        package: "php-fpm",
        from: For::Test,
        there: || starts_with("/usr/sbin", "php-fpm"),
    },
    Need {
        what: "Apache",
        package: "apache2",
        from: For::Test,
        there: || any_program(&["apache2"]),
    },
    Need {
        what: "Apache's PHP module",
        package: "libapache2-mod-php",
        from: For::Test,
        there: || starts_with("/usr/lib/apache2/modules", "libphp"),
    },
    Need {
        what: "valgrind",
        package: "valgrind",
        from: For::Test,
        there: || any_program(&["valgrind"]),
    },
    Need {
        what: "strace",
        package: "strace",
        from: For::Test,
        there: || any_program(&["strace"]),
    },
    Need {
        what: "php-memcached (agreement is tested against it)",
        package: "php-memcached",
        from: For::Test,
        there: || php_module("memcached.so"),
    },
    Need {
        what: "php-igbinary",
        package: "php-igbinary",
        from: For::Test,
        there: || php_module("igbinary.so"),
    },
    Need {
        what: "php-msgpack",
        package: "php-msgpack",
        from: For::Test,
        there: || php_module("msgpack.so"),
    },
    Need {
        what: "php-redis (agreement is tested against it)",
        package: "php-redis",
        from: For::Test,
        there: || php_module("redis.so"),
    },
    Need {
        what: "openssl (makes the certificates of tests)",
        package: "openssl",
        from: For::Test,
        there: || any_program(&["openssl"]),
    },
    Need {
        what: "cgi-fcgi",
        package: "libfcgi-bin",
        from: For::Test,
        there: || any_program(&["cgi-fcgi"]),
    },
    Need {
        what: "libfaketime (gives the hosts of a test clocks apart)",
        package: "libfaketime",
        from: For::Test,
        there: libfaketime,
    },
];

/// Makes sure that everything is there.
///
/// # Errors
/// When something is missing and may not or cannot be installed; the message carries the command to type.
pub(crate) fn ensure(level: For, install: bool) -> Result<(), Stop> {
    let missing = missing(level);
    if missing.is_empty() {
        return Ok(());
    }
    run::headline("missing on this machine");
    for need in &missing {
        run::say(&format!("   {} (package {})", need.what, need.package));
    }
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    install_packages(&packages, install)?;
    match self::missing(level).first() {
        None => Ok(()),
        Some(need) => Err(Stop::Failed(format!(
            "{} is still not found after installing {}; is another one first in PATH?",
            need.what, need.package
        ))),
    }
}

/// Installs Debian packages, or refuses with the line to type.
///
/// # Errors
/// When it may not (`install` is false), cannot (no apt-get, no sudo), or apt-get fails.
pub(crate) fn install_packages(packages: &[&str], install: bool) -> Result<(), Stop> {
    let sudo = if run::is_root() { "" } else { "sudo " };
    let line = format!(
        "{sudo}apt-get install -y --no-install-recommends {}",
        packages.join(" ")
    );
    if !install {
        return Err(Stop::Failed(format!(
            "not installed, because of --no-install. The command is:\n  {line}"
        )));
    }
    if run::program("apt-get").is_none() {
        return Err(Stop::Failed(
            "there is no apt-get here; install the above by this system's own means".to_owned(),
        ));
    }
    if !run::is_root() && run::program("sudo").is_none() {
        return Err(Stop::Failed(format!(
            "neither root nor sudo; let an administrator type:\n  {line}"
        )));
    }
    run::say(&format!("   {line}"));
    let mut command = if run::is_root() {
        Command::new("sh")
    } else {
        let mut command = Command::new("sudo");
        command.arg("sh");
        command
    };
    command.args(["-c", INSTALL, "install"]).args(packages);
    run::shown("install what is missing", &mut command)
        .map_err(|_| Stop::Failed(format!("apt-get failed on:\n  {line}")))
}

/// `apt-get update` only when the lists are empty or too old to serve; packages bring their services asleep.
const INSTALL: &str = r#"
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' > "$policy" && chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
fi
get() { apt-get -q -o Dpkg::Use-Pty=0 "$@"; }
if ! get install -y --no-install-recommends --simulate "$@" > /dev/null 2>&1; then get update || exit; fi
get install -y --no-install-recommends "$@" && exit
echo "the package lists look old; once more with fresh ones"
get update && get install -y --no-install-recommends "$@"
"#;

fn missing(level: For) -> Vec<&'static Need> {
    NEEDS
        .iter()
        .filter(|need| need.from <= level && !(need.there)())
        .collect()
}

fn any_program(names: &[&str]) -> bool {
    names.iter().any(|name| run::program(name).is_some())
}

fn starts_with(folder: &str, prefix: &str) -> bool {
    entries(Path::new(folder)).iter().any(|path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(prefix) && !path.is_dir())
    })
}

fn php_module(file: &str) -> bool {
    let folder = Command::new("php-config").arg("--extension-dir").output();
    folder.is_ok_and(|output| {
        Path::new(String::from_utf8_lossy(&output.stdout).trim())
            .join(file)
            .exists()
    })
}

/// Where clang-sys, which loads it for bindgen, looks on Debian; LIBCLANG_PATH names any other place.
fn libclang() -> bool {
    if std::env::var_os("LIBCLANG_PATH").is_some() {
        return true;
    }
    let mut folders = vec![
        PathBuf::from("/usr/lib"),
        PathBuf::from("/usr/lib64"),
        PathBuf::from("/usr/local/lib"),
    ];
    for folder in entries(Path::new("/usr/lib")) {
        folders.push(folder.join("lib"));
        folders.push(folder);
    }
    // The headers stand beside the library in libclang-dev; the bare library cannot read <stddef.h>.
    folders
        .iter()
        .any(|folder| folder.join("libclang.so").exists())
}

/// Below the folder of this machine's architecture, as Debian has it.
fn libfaketime() -> bool {
    entries(Path::new("/usr/lib"))
        .iter()
        .any(|folder| folder.join("faketime/libfaketime.so.1").exists())
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(list) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    list.filter_map(Result::ok)
        .map(|entry| entry.path())
        .collect()
}

/// Says that a file of the system could not be found although its package is there.
pub(crate) fn not_found(what: &str) -> Stop {
    failed(what, "not found although its package is installed")
}
