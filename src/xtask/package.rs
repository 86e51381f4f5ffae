//! cargo xtask package: one Debian package for the API of one PHP, and the proof that it installs where there is
//! neither a compiler nor a toolchain.
//!
//! The package does what Debian's own PHP modules do: the .so in the extension directory, an ini in mods-available
//! that phpenmod links into every SAPI, and an administrator's choice to disable it is kept. The companion and its
//! unit come along; the unit is enabled where /etc/memring.toml says what to tend, and only by the first installation.

use crate::bootstrap::{self, For};
use crate::php::Php;
use crate::run::{self, Scratch, quiet};
use crate::{Stop, failed, install};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What --help prints.
pub(crate) const HELP: &str = "\
cargo xtask package [--check] [--php PHP_CONFIG] [--no-install]

Builds the release extension and a .deb of it for this PHP's API, into target/package, with the companion
/usr/bin/memring and its systemd unit memring-tend.service.

  --check           also install it in a bare Debian (debootstrap, kept under target/debootstrap),
                    load it, run the companion, remove it, and see that PHP is as before; needs root
  --php PHP_CONFIG  the php-config of another PHP than the one in PATH
  --no-install      name missing packages instead of installing them";

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The subcommand.
///
/// # Errors
/// When something is missing, does not build, or the check fails.
pub(crate) fn main(mut parser: lexopt::Parser) -> Result<(), Stop> {
    use lexopt::prelude::*;
    let (mut check, mut config, mut install) = (false, None, true);
    while let Some(word) = parser.next()? {
        match word {
            Long("check") => check = true,
            Long("php") => config = Some(PathBuf::from(parser.value()?)),
            Long("no-install") => install = false,
            _ => return Err(word.unexpected().into()),
        }
    }
    if check && !run::is_root() {
        return Err(Stop::Failed(
            "--check needs root, for debootstrap and chroot".to_owned(),
        ));
    }
    bootstrap::ensure(For::Build, install)?;
    let php = Php::find(config.as_deref())?;
    let deb = build(&php)?;
    if check {
        check_in_bare_debian(&php, &deb, install)?;
    }
    Ok(())
}

/// Builds the package and returns its path.
fn build(php: &Php) -> Result<PathBuf, Stop> {
    let so = php.build()?;
    let companion = Php::build_companion()?;
    run::headline("package");
    let name = format!("php{}-memring", php.version);
    let architecture = quiet("dpkg", Command::new("dpkg").arg("--print-architecture"))?
        .trim()
        .to_owned();
    let scratch = Scratch::new("package")?;
    let tree = scratch.path().join("tree");
    let extensions = tree.join(php.extensions.strip_prefix("/").unwrap_or(&php.extensions));
    let mods = tree.join(format!("etc/php/{}/mods-available", php.version));
    let docs = tree.join(format!("usr/share/doc/{name}"));
    let control = tree.join("DEBIAN");
    let (bin, units) = (tree.join("usr/bin"), tree.join("lib/systemd/system"));
    for folder in [&extensions, &mods, &docs, &control, &bin, &units] {
        run::make_dir(folder)?;
    }
    let stripped = extensions.join("memring.so");
    let program = bin.join("memring");
    for (from, to, rights) in [(&so, &stripped, 0o644), (&companion, &program, 0o755)] {
        quiet(
            "strip",
            Command::new("strip")
                .arg("--strip-unneeded")
                .arg("-o")
                .arg(to)
                .arg(from),
        )?;
        mode(to, rights)?;
    }
    let unit = "memring-tend.service";
    run::copy(
        &run::root().join("src/companion").join(unit),
        &units.join(unit),
    )?;
    run::write(&mods.join("memring.ini"), install::ini_text()?)?;
    documents(&docs)?;
    let size = quiet("du", Command::new("du").args(["-sk"]).arg(&tree))?;
    let size = size.split_whitespace().next().unwrap_or("0").to_owned();
    run::write(
        &control.join("control"),
        format!(
            "Package: {name}\nVersion: {VERSION}\nArchitecture: {architecture}\nSection: php\nPriority: optional\n\
             Maintainer: the memring developers <maintainers@memring.invalid>\nInstalled-Size: {size}\n\
             Depends: php{version}-cli | phpapi-{api}, phpapi-{api}, php-common (>= 2:69), libc6 (>= {libc}), libgcc-s1\nSuggests: memcached\n\
             Description: PHP's Memcache API and sessions on pools of memcached nodes\n \
             The Memcache and MemcachePool classes, the memcache_* functions and a session handler,\n \
             on consistent-hashed pools. Takes the place of the memcache extension.\n",
            api = php.api,
            version = php.version,
            libc = newest_glibc_symbol(&[&stripped, &program])?,
        ),
    )?;
    run::write(
        &control.join("conffiles"),
        format!("/etc/php/{}/mods-available/memring.ini\n", php.version),
    )?;
    for (file, text) in [("postinst", POSTINST), ("prerm", PRERM), ("postrm", POSTRM)] {
        let path = control.join(file);
        run::write(&path, text.replace("@VERSION@", &php.version))?;
        mode(&path, 0o755)?;
    }
    let sums = "cd \"$1\" && find . -type f ! -path './DEBIAN/*' -printf '%P\\0' | sort -z | xargs -0 md5sum";
    run::write(
        &control.join("md5sums"),
        quiet(
            "md5sum",
            Command::new("sh").args(["-c", sums, "sh"]).arg(&tree),
        )?,
    )?;
    // Whatever umask this runs under, the files of a package can be read by all.
    quiet(
        "chmod",
        Command::new("chmod").args(["-R", "u=rwX,go=rX"]).arg(&tree),
    )?;
    let folder = run::target().join("package");
    run::make_dir(&folder)?;
    let deb = folder.join(format!("{name}_{VERSION}_{architecture}.deb"));
    quiet(
        "dpkg-deb",
        Command::new("dpkg-deb")
            .args(["--root-owner-group", "-Zxz", "--build"])
            .arg(&tree)
            .arg(&deb),
    )?;
    let bytes = std::fs::metadata(&deb)
        .map_err(|why| failed(deb.display(), why))?
        .len();
    run::say(&format!("   {} ({} KB)", deb.display(), bytes / 1024));
    Ok(deb)
}

/// What a reader finds under /usr/share/doc: the licences always, the rest where the tree has it.
fn documents(docs: &Path) -> Result<(), Stop> {
    let root = run::root();
    let read = |name: &str| {
        std::fs::read_to_string(root.join(name))
            .map_err(|why| failed(root.join(name).display(), why))
    };
    // Debian looks for this name.
    run::write(
        &docs.join("copyright"),
        format!(
            "memring is used under either of two licences, at your choice: MIT, or the Apache License 2.0\n\
             (/usr/share/common-licenses/Apache-2.0). The crates inside are in THIRD-PARTY.md.\n\n{}",
            read("LICENSE-MIT")?
        ),
    )?;
    for name in [
        "LICENSE-MIT",
        "LICENSE-APACHE",
        "THIRD-PARTY.md",
        "CHANGELOG.md",
        "SECURITY.md",
    ] {
        run::copy(&root.join(name), &docs.join(name))?;
    }
    if root.join("README.md").is_file() {
        run::copy(&root.join("README.md"), &docs.join("README.md"))?;
    }
    for (from, to) in [("php/examples", "examples"), ("stubs", "stubs")] {
        let Ok(list) = std::fs::read_dir(root.join(from)) else {
            continue;
        };
        for file in list
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .filter(|path| path.is_file())
        {
            run::make_dir(&docs.join(to))?;
            run::copy(
                &file,
                &docs.join(to).join(file.file_name().unwrap_or_default()),
            )?;
        }
    }
    Ok(())
}

/// The newest glibc any symbol of these files asks for, read from their dynamic symbols.
fn newest_glibc_symbol(files: &[&Path]) -> Result<String, Stop> {
    let text = quiet("objdump", Command::new("objdump").arg("-T").args(files))?;
    let number = |version: &str| -> Vec<u32> {
        version
            .split('.')
            .filter_map(|part| part.parse().ok())
            .collect()
    };
    text.split("GLIBC_")
        .skip(1)
        .filter_map(|rest| {
            rest.split(|letter: char| !letter.is_ascii_digit() && letter != '.')
                .next()
        })
        .max_by_key(|version| number(version))
        .map(str::to_owned)
        .ok_or_else(|| Stop::Failed(format!("{files:?} name no glibc symbol")))
}

fn mode(path: &Path, mode: u32) -> Result<(), Stop> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(|why| failed(path.display(), why))
}

/// The helper is php-common's: it keeps what an administrator has disabled, and has php-fpm and Apache reloaded.
/// An upgrade restarts the daemon where it runs, and enables nothing.
const POSTINST: &str = r#"#!/bin/sh
set -e
if [ "$1" = configure ]; then
    if [ -e /usr/lib/php/php-maintscript-helper ]; then
        . /usr/lib/php/php-maintscript-helper
        php_invoke enmod @VERSION@ ALL memring
    elif [ -x /usr/sbin/phpenmod ]; then
        phpenmod -v @VERSION@ memring
    fi
    if [ -d /run/systemd/system ]; then
        systemctl daemon-reload || true
        if [ -n "$2" ]; then
            systemctl try-restart memring-tend.service || true
        elif [ -e /etc/memring.toml ]; then
            systemctl enable --now memring-tend.service || true
        fi
    fi
fi
"#;

/// The daemon ends before its program goes.
const PRERM: &str = r#"#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    systemctl disable --now memring-tend.service || true
fi
"#;

/// On removal the ini stays, as a conffile does; what links to it must not, or every PHP would warn.
const POSTRM: &str = r#"#!/bin/sh
set -e
case "$1" in remove|purge)
    if [ -e /usr/lib/php/php-maintscript-helper ]; then
        . /usr/lib/php/php-maintscript-helper
        # On purge it warns that the ini is gone, which is what a purge is.
        php_invoke dismod @VERSION@ ALL memring 2> /dev/null || true
    fi
    for link in /etc/php/@VERSION@/*/conf.d/*-memring.ini; do
        if [ -L "$link" ]; then rm -f "$link"; fi
    done
    if [ -d /run/systemd/system ]; then systemctl daemon-reload || true; fi
esac
"#;

/// Runs inside the bare system, `$1` being the package: a system without a compiler, PHP before and after.
const CHECK: &str = r#"
set -e
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
get() { apt-get -q -o Dpkg::Use-Pty=0 "$@"; }
! command -v cc && ! command -v cargo || { echo "this system is not bare"; exit 1; }
name=$(dpkg-deb -f "$1" Package)
here=$(dpkg-query -W -f '${db:Status-Abbrev}${Package}\n' 'php*' | sed -n 's/^[ir][a-z] *//p')
if [ -n "$here" ]; then get autoremove --purge -y $here > /dev/null; fi
get update
get install -y --no-install-recommends "$1"
echo "== inside: php --ri memring"
php --ri memring
test -z "$(php -v 2>&1 > /dev/null)" || { echo "PHP complains at its start"; php -v; exit 1; }
echo "== inside: memring --version"
memring --version
test "$(memring status --list 127.0.0.1:1,127.0.0.1:2 | tail -n 1)" = "safe to touch the next node: no"
test -e /lib/systemd/system/memring-tend.service
echo "== inside: remove"
get remove -y "$name"
test -z "$(php -m 2>&1 | grep -i -e memring -e warning)" || { php -m; echo "removal left a trace"; exit 1; }
test -z "$(find /etc/php -name '*memring*' -type l)" || { find /etc/php -name '*memring*'; exit 1; }
get purge -y "$name"
test -z "$(find /etc/php /usr/lib/php /usr/share/doc /usr/bin /lib/systemd/system -name '*memring*')" || { echo "purge left a file"; exit 1; }
echo "== inside: PHP is clean"
"#;

/// Installs the package in a bare Debian of the same release, loads it, removes it, purges it.
fn check_in_bare_debian(php: &Php, deb: &Path, install: bool) -> Result<(), Stop> {
    if run::program("debootstrap").is_none() {
        bootstrap::install_packages(&["debootstrap"], install)?;
    }
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let suite = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .ok_or_else(|| Stop::Failed("/etc/os-release names no VERSION_CODENAME".to_owned()))?;
    let folder = run::target().join("debootstrap").join(suite);
    bare_debian(&folder, suite)?;
    let name = deb.file_name().unwrap_or_default();
    run::copy(deb, &folder.join("tmp").join(name))?;
    run::shown(
        &format!(
            "apt install {} in a bare {suite}, PHP {}",
            name.display(),
            php.version
        ),
        Command::new("chroot")
            .arg(&folder)
            .args(["sh", "-c", CHECK, "sh"])
            .arg(Path::new("/tmp").join(name)),
    )
}

/// A minimal Debian under `folder`, made once and kept.
///
/// # Errors
/// When debootstrap fails; its half-made directory is removed.
pub(crate) fn bare_debian(folder: &Path, suite: &str) -> Result<(), Stop> {
    // Written last, so that an interrupted debootstrap is not taken for a whole one.
    let whole = folder.join("etc/memring-bare");
    if !whole.exists() {
        let _ = std::fs::remove_dir_all(folder);
        run::make_dir(folder)?;
        run::shown(
            &format!("debootstrap {suite}"),
            Command::new("debootstrap")
                .args(["--variant=minbase", suite])
                .arg(folder),
        )?;
        let policy = folder.join("usr/sbin/policy-rc.d");
        run::write(&policy, "#!/bin/sh\nexit 101\n")?;
        mode(&policy, 0o755)?;
        run::write(&whole, "")?;
    }
    // The host's way to its mirror, should it have changed.
    let _ = std::fs::copy("/etc/resolv.conf", folder.join("etc/resolv.conf"));
    Ok(())
}
