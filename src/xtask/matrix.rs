//! cargo xtask test --matrix: the other PHPs the extension is meant for, each made once and kept under target/matrix,
//! and the newer servers that come with one of them.
//!
//! | name | what it is | what it finds |
//! |---|---|---|
//! | trixie | Debian 13 by debootstrap: PHP 8.4, memcached 1.6.38 | what changed in PHP and in memcached |
//! | zts-debug | PHP of this Debian's source package, thread-safe and with assertions | leaks, wrong return types |
//!
//! The suite, which runs outside, gets the servers of Debian 13 as commands that chroot there ([`servers`]).
//!
//! Each runs this very command again, with a target directory of its own, so that no build disturbs another. Root is
//! needed for the chroot; its mounts live in a mount namespace and end with the process.

use crate::package::bare_debian;
use crate::run::{self, quiet};
use crate::test::{Counts, remember_failure};
use crate::{Stop, bootstrap, failed};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs the matrix and adds up what its runs counted.
///
/// # Errors
/// When a PHP cannot be made. A run that fails is in the counts.
pub(crate) fn run_all(
    filter: Option<&str>,
    install: bool,
    counts: &mut Counts,
) -> Result<(), Stop> {
    if !run::is_root() {
        return Err(Stop::Failed(
            "--matrix needs root, for debootstrap and chroot".to_owned(),
        ));
    }
    zts_debug(filter, install, counts)?;
    debian_13(filter, install, counts)
}

/// What the suite uses of Debian 13: the variable that names it to the tests, and the program.
const SERVERS: &[(&str, &str)] = &[
    ("MEMRING_MEMCACHED_NEW", "/usr/bin/memcached"),
    ("MEMRING_REDIS_NEW", "/usr/bin/redis-server"),
    ("MEMRING_VALKEY", "/usr/bin/valkey-server"),
    ("MEMRING_PHP_MEMCACHED", "/usr/bin/php8.4"),
];

/// The packages with these programs; the last three are what the PHP among them needs.
const PACKAGES: &[&str] = &[
    "memcached",
    "redis-server",
    "valkey-server",
    "php8.4-cli",
    "php8.4-memcached",
    "php8.4-igbinary",
    "php8.4-msgpack",
];

/// Makes Debian 13 with its servers, and returns the variables by which the tests find them. A variable that is set
/// already keeps its value.
///
/// # Errors
/// When it cannot be made: no root, no debootstrap, no packages.
pub(crate) fn servers(install: bool) -> Result<Vec<(&'static str, String)>, Stop> {
    let folder = trixie(install)?;
    // The tests take such a command apart at its spaces.
    if folder.to_string_lossy().contains(char::is_whitespace) {
        return Err(Stop::Failed(format!(
            "{} has a space in it, and the newer servers are named by commands without; set CARGO_TARGET_DIR to another folder",
            folder.display()
        )));
    }
    packages(&folder, PACKAGES, install)?;
    Ok(SERVERS
        .iter()
        .filter(|(variable, _)| std::env::var_os(variable).is_none())
        .map(|(variable, program)| (*variable, format!("chroot {} {program}", folder.display())))
        .collect())
}

/// Has Debian 13 in `folder` install what it lacks of these packages.
fn packages(folder: &Path, names: &[&str], install: bool) -> Result<(), Stop> {
    let mut asked = Command::new("chroot");
    asked
        .arg(folder)
        .args([
            "dpkg-query",
            "--show",
            "--showformat",
            "${db:Status-Abbrev}\n",
        ])
        .args(names);
    let (_, answer) = run::merged(&mut asked, b"", None)?;
    let there = String::from_utf8_lossy(&answer);
    if there.lines().filter(|line| line.starts_with("ii")).count() >= names.len() {
        return Ok(());
    }
    let line = format!(
        "apt-get update && apt-get -q install -y --no-install-recommends {}",
        names.join(" ")
    );
    if !install {
        return Err(Stop::Failed(format!(
            "not installed, because of --no-install. The command is:\n  chroot {} sh -c \"{line}\"",
            folder.display()
        )));
    }
    run::shown(
        "install packages in Debian 13",
        Command::new("chroot")
            .arg(folder)
            .args(["sh", "-c", &line])
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

/// What the bench needs of Debian 13: to build the extension, the servers, the rivals, and what counts calls.
const BENCH_PACKAGES: &[&str] = &[
    "ca-certificates",
    "gcc",
    "git",
    "libc6-dev",
    "libclang-dev",
    "memcached",
    "php8.4-cli",
    "php8.4-dev",
    "php8.4-igbinary",
    "php8.4-memcached",
    "php8.4-msgpack",
    "php8.4-redis",
    "redis-server",
    "strace",
    "valgrind",
];

/// Runs the bench with these options inside of Debian 13, beside the clients that come with it.
///
/// # Errors
/// When it cannot be made (no root, no debootstrap, no packages), and the bench's own.
pub(crate) fn bench(options: &[String]) -> Result<(), Stop> {
    let folder = trixie(true)?;
    packages(&folder, BENCH_PACKAGES, true)?;
    let mut command = inside(&folder)?;
    command
        .args([
            "sh",
            "-c",
            "cd \"$1\" && shift && exec cargo xtask bench \"$@\"",
            "sh",
        ])
        .arg(run::root())
        .args(options);
    run::shown("bench in Debian 13", &mut command)
}

/// Debian 13 as it was debootstrapped.
fn trixie(install: bool) -> Result<PathBuf, Stop> {
    if !run::is_root() {
        return Err(Stop::Failed(
            "Debian 13 beside this one needs root, for debootstrap and chroot".to_owned(),
        ));
    }
    if run::program("debootstrap").is_none() {
        bootstrap::install_packages(&["debootstrap"], install)?;
    }
    let folder = run::target().join("matrix/trixie");
    bare_debian(&folder, "trixie")?;
    Ok(folder)
}

/// Debian 13 in a chroot, with this work tree and this toolchain lent to it.
fn debian_13(filter: Option<&str>, install: bool, counts: &mut Counts) -> Result<(), Stop> {
    let mut command = inside(&trixie(install)?)?;
    command
        .arg(run::root().join(".ci/run"))
        .args(["--only", "phpt"]);
    add_options(&mut command, filter, install);
    inner("matrix: Debian trixie", &mut command, counts)
}

/// The beginning of a command that runs in Debian 13 in `folder`, with this work tree and this toolchain at their own
/// paths; the words that follow are the command.
fn inside(folder: &Path) -> Result<Command, Stop> {
    let toolchain =
        PathBuf::from(quiet("rustc", Command::new("rustc").args(["--print", "sysroot"]))?.trim());
    if toolchain == Path::new("/usr") {
        return Err(Stop::Failed(
            "the Rust in /usr cannot be lent to a chroot; Debian 13 needs one from rustup"
                .to_owned(),
        ));
    }
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into()));
    let crates = std::env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    // Everything stands at its own path, inside as outside.
    let target = run::target().join("matrix/trixie-target");
    run::make_dir(&target)?;
    let mut script = String::from("set -e\nroot=$1; shift\n");
    for lent in [
        run::root(),
        toolchain.clone(),
        crates.clone(),
        target.clone(),
    ] {
        let path = lent.display();
        script.push_str(&format!(
            "mkdir -p \"$root{path}\" && mount --bind \"{path}\" \"$root{path}\"\n"
        ));
    }
    script.push_str(
        "mount -t proc proc \"$root/proc\"\nmkdir -p \"$root/dev/shm\" && mount -t tmpfs tmpfs \"$root/dev/shm\"\n\
         exec chroot \"$root\" \"$@\"\n",
    );
    let mut command = Command::new("unshare");
    command
        .args([
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            &script,
            "sh",
        ])
        .arg(folder);
    command
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_HOME", &crates);
    command.env(
        "PATH",
        format!(
            "{}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            toolchain.display()
        ),
    );
    // What cargo told us about itself is not true in there.
    command
        .env_remove("CARGO")
        .env_remove("LD_LIBRARY_PATH")
        .env_remove("TMPDIR");
    Ok(command)
}

/// The flags of the issue-finding PHP: nothing but what the extension needs, threads, and every assertion.
const CONFIGURE: &[&str] = &[
    "--disable-all",
    "--enable-session",
    "--enable-zts",
    "--enable-debug",
    "--enable-pcntl",
    "--enable-posix",
    "--disable-cgi",
    "--disable-phpdbg",
];

/// Fetches the source package into `$1`, without its Debian patches: what is tested is PHP's own code. The lists stay
/// there, too; the machine's are not touched.
const FETCH: &str = r#"
set -e
mkdir -p "$1/lists/partial" && cd "$1"
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $suite main" > sources
apt() { apt-get -q -o Dir::Etc::SourceList="$1/sources" -o Dir::Etc::SourceParts=/nonexistent \
    -o Dir::State::Lists="$1/lists" -o APT::Sandbox::User=root "${@:2}"; }
apt "$1" update
apt "$1" source --download-only "$2"
rm -rf source && mkdir source
tar -xf "$2"_*.orig.tar.?z -C source --strip-components=1
"#;

/// A thread-safe debug PHP, built from source once.
fn zts_debug(filter: Option<&str>, install: bool, counts: &mut Counts) -> Result<(), Stop> {
    let folder = run::target().join("matrix/zts-debug");
    let config = folder.join("php/bin/php-config");
    if !config.exists() {
        let needs = [("make", "make"), ("xz", "xz-utils"), ("bash", "bash")];
        let missing: Vec<&str> = needs
            .iter()
            .filter(|(name, _)| run::program(name).is_none())
            .map(|(_, package)| *package)
            .collect();
        if !missing.is_empty() {
            bootstrap::install_packages(&missing, install)?;
        }
        let php = crate::php::Php::find(None)?;
        let package = format!("php{}", php.version);
        run::make_dir(&folder)?;
        let source = folder.join("source");
        // Made by configure at its end: from there make goes on where it was interrupted.
        if !source.join("Makefile").exists() {
            run::shown(
                &format!("source of {package}"),
                Command::new("bash")
                    .args(["-c", FETCH, "bash"])
                    .arg(&folder)
                    .arg(&package),
            )?;
            let mut configure = Command::new("./configure");
            configure
                .args(CONFIGURE)
                .arg(format!("--prefix={}", folder.join("php").display()))
                .arg("--quiet");
            run::shown(
                "configure a thread-safe debug PHP",
                configure.current_dir(&source),
            )?;
        }
        quiet(
            "build it (some minutes)",
            Command::new("make")
                .args(["-s", "-j2"])
                .current_dir(&source),
        )?;
        // php-config is installed last but one; a half-made install is made again.
        quiet(
            "install it",
            Command::new("make")
                .args(["-s", "install"])
                .current_dir(&source),
        )?;
    }
    let own = std::env::current_exe().map_err(|why| failed("the path of this program", why))?;
    let mut command = Command::new(own);
    command
        .args(["test", "--only", "phpt", "--php"])
        .arg(&config);
    add_options(&mut command, filter, install);
    command.env("CARGO_TARGET_DIR", folder.join("target"));
    inner(
        "matrix: PHP thread-safe and with assertions",
        &mut command,
        counts,
    )
}

fn add_options(command: &mut Command, filter: Option<&str>, install: bool) {
    if let Some(filter) = filter {
        command.args(["--filter", filter]);
    }
    if !install {
        command.arg("--no-install");
    }
}

/// Runs a test command inside of this one; its sum becomes part of ours.
fn inner(label: &str, command: &mut Command, counts: &mut Counts) -> Result<(), Stop> {
    let mut sum = None;
    let status = run::lines(label, command, |line| {
        run::say(&format!("   {line}"));
        sum = Counts::parse(line).or(sum);
    })?;
    match sum {
        Some(sum) => {
            if sum.failed > 0 {
                remember_failure(label);
            }
            counts.add(sum);
        }
        None => {
            run::say(&format!(
                "   failed  {label}: ended with {status} and no sum"
            ));
            remember_failure(label);
            counts.failed += 1;
        }
    }
    Ok(())
}
