//! cargo xtask package: a Debian package of the companion, one of the extension for the API of one PHP, and the proof
//! that they install where there is neither a compiler nor a toolchain.
//!
//! The extension's does what Debian's own PHP modules do: the .so in the extension directory, an ini in mods-available
//! that phpenmod links into every SAPI, and an administrator's choice to disable it is kept. The companion and its
//! unit are a package of their own, which the extension's of every PHP depends on: two of them may be installed, and a
//! file belongs to one package only. The unit is enabled where /etc/memring.toml says what to tend, and only by the
//! first installation; what it was at a removal it is again at the next installation.

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

Builds two .deb into target/package, which are installed together: memring, with the companion /usr/bin/memring and
its systemd unit memring-tend.service, and the release extension for this PHP's API, such as php8.2-memring. Those of
several PHPs share the one memring.

  --check           also install them in a bare Debian (debootstrap, kept under target/debootstrap),
                    load the extension, run the companion, add that of a second PHP, remove all, see that PHP is
                    as before, and that the unit stays enabled or disabled over a removal; needs root
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
    let debs = [build_companion()?, build_extension(&php)?];
    if check {
        check_in_bare_debian(&php, &debs, install)?;
    }
    Ok(())
}

/// A package under construction.
struct Package {
    name: String,
    scratch: Scratch,
    /// What its files need of glibc is read from these.
    programs: Vec<PathBuf>,
}

impl Package {
    fn begin(name: &str) -> Result<Self, Stop> {
        run::headline(&format!("package {name}"));
        let package = Self {
            name: name.to_owned(),
            scratch: Scratch::new("package")?,
            programs: Vec::new(),
        };
        let docs = package.folder(&format!("usr/share/doc/{name}"))?;
        documents(&docs)?;
        Ok(package)
    }

    fn tree(&self) -> PathBuf {
        self.scratch.path().join("tree")
    }

    /// Makes a directory of the package, named without its first slash, and says where it is now.
    fn folder(&self, path: &str) -> Result<PathBuf, Stop> {
        let folder = self.tree().join(path);
        run::make_dir(&folder)?;
        Ok(folder)
    }

    /// Puts what was built there, without its symbols.
    fn program(&mut self, from: &Path, to: PathBuf, rights: u32) -> Result<(), Stop> {
        quiet(
            "strip",
            Command::new("strip")
                .arg("--strip-unneeded")
                .arg("-o")
                .arg(&to)
                .arg(from),
        )?;
        mode(&to, rights)?;
        self.programs.push(to);
        Ok(())
    }

    /// Builds the .deb and returns its path. `fields` are lines of its control file, `@LIBRARIES@` among them stands for
    /// the libraries its programs need; `scripts` are the maintainer's.
    fn build(&self, fields: &str, scripts: &[(&str, String)]) -> Result<PathBuf, Stop> {
        let (name, tree) = (&self.name, self.tree());
        let architecture = quiet("dpkg", Command::new("dpkg").arg("--print-architecture"))?
            .trim()
            .to_owned();
        let size = quiet("du", Command::new("du").args(["-sk"]).arg(&tree))?;
        let size = size.split_whitespace().next().unwrap_or("0").to_owned();
        let control = self.folder("DEBIAN")?;
        let libraries = format!(
            "libc6 (>= {}), libgcc-s1",
            newest_glibc_symbol(&self.programs)?
        );
        run::write(
            &control.join("control"),
            format!(
                "Package: {name}\nVersion: {VERSION}\nArchitecture: {architecture}\nPriority: optional\n\
                 Maintainer: the memring developers <maintainers@memring.invalid>\nInstalled-Size: {size}\n{}",
                fields.replace("@LIBRARIES@", &libraries)
            ),
        )?;
        for (file, text) in scripts {
            let path = control.join(file);
            run::write(&path, text)?;
            // A list of conffiles stands among the scripts, and is none.
            mode(&path, if text.starts_with("#!") { 0o755 } else { 0o644 })?;
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
}

/// Builds the package of the companion and its unit, which know no PHP.
fn build_companion() -> Result<PathBuf, Stop> {
    let companion = Php::build_companion()?;
    let mut package = Package::begin("memring")?;
    let program = package.folder("usr/bin")?.join("memring");
    package.program(&companion, program, 0o755)?;
    let unit = "memring-tend.service";
    run::copy(
        &run::root().join("src/companion").join(unit),
        &package.folder("lib/systemd/system")?.join(unit),
    )?;
    package.build(
        "Section: admin\nDepends: @LIBRARIES@\nSuggests: memcached\n\
         Description: looks after pools of memcached and Redis nodes that keep copies\n \
         The command memring, which shows what state the nodes of a pool are in, and the service\n \
         memring-tend, which gives a node that came back what it missed.\n",
        &[
            ("postinst", UNIT_POSTINST.to_owned()),
            ("prerm", UNIT_PRERM.to_owned()),
            ("postrm", UNIT_POSTRM.to_owned()),
        ],
    )
}

/// Builds the package of the extension for one PHP.
fn build_extension(php: &Php) -> Result<PathBuf, Stop> {
    let (so, version) = (php.build()?, &php.version);
    let mut package = Package::begin(&format!("php{version}-memring"))?;
    let extensions = php.extensions.display().to_string();
    let extensions = package.folder(extensions.trim_start_matches('/'))?;
    package.program(&so, extensions.join("memring.so"), 0o644)?;
    let mods = format!("etc/php/{version}/mods-available");
    run::write(
        &package.folder(&mods)?.join("memring.ini"),
        install::ini_text()?,
    )?;
    package.build(
        &format!(
            "Section: php\n\
             Depends: php{version}-cli | phpapi-{api}, phpapi-{api}, php-common (>= 2:69), memring (>= {VERSION}), @LIBRARIES@\n\
             Suggests: memcached\n\
             Description: PHP's Memcache API and sessions on pools of memcached nodes\n \
             The Memcache and MemcachePool classes, the memcache_* functions and a session handler,\n \
             on consistent-hashed pools. Takes the place of the memcache extension.\n",
            api = php.api,
        ),
        &[
            ("conffiles", format!("/{mods}/memring.ini\n")),
            ("postinst", POSTINST.replace("@VERSION@", version)),
            ("postrm", POSTRM.replace("@VERSION@", version)),
        ],
    )
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
fn newest_glibc_symbol(files: &[PathBuf]) -> Result<String, Stop> {
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
const POSTINST: &str = r#"#!/bin/sh
set -e
if [ "$1" = configure ]; then
    if [ -e /usr/lib/php/php-maintscript-helper ]; then
        . /usr/lib/php/php-maintscript-helper
        php_invoke enmod @VERSION@ ALL memring
    elif [ -x /usr/sbin/phpenmod ]; then
        phpenmod -v @VERSION@ memring
    fi
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
esac
"#;

/// As debhelper writes it (dh_installsystemd): the helper of init-system-helpers, which is essential, remembers over a
/// removal and until a purge whether the unit was enabled. `$2` tells a first installation from any other: it is also
/// set where the package was removed before. An upgrade restarts the daemon; one that is not enabled is not started.
const UNIT_POSTINST: &str = r#"#!/bin/sh
set -e
unit=memring-tend.service
if [ "$1" = configure ]; then
    if [ -z "$2" ] && [ ! -e /etc/memring.toml ]; then
        # Nothing to tend: remembered as disabled.
        deb-systemd-helper update-state "$unit" > /dev/null || true
    elif deb-systemd-helper --quiet was-enabled "$unit"; then
        deb-systemd-helper enable "$unit" > /dev/null || true
    else
        deb-systemd-helper update-state "$unit" > /dev/null || true
    fi
    if [ -d /run/systemd/system ]; then
        systemctl daemon-reload || true
        if [ -n "$2" ]; then deed=restart; else deed=start; fi
        deb-systemd-invoke "$deed" "$unit" > /dev/null || true
    fi
fi
"#;

/// The daemon ends before its program goes.
const UNIT_PRERM: &str = r#"#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    deb-systemd-invoke stop memring-tend.service > /dev/null || true
fi
"#;

/// The link that enables it stays on removal, as that of any package does; systemd ignores it without the unit.
const UNIT_POSTRM: &str = r#"#!/bin/sh
set -e
if [ "$1" = purge ]; then deb-systemd-helper purge memring-tend.service > /dev/null || true; fi
if [ -d /run/systemd/system ]; then systemctl daemon-reload || true; fi
"#;

/// Runs inside the bare system, `$1` being the companion's package and `$2` the extension's: a system without a
/// compiler, PHP before and after. The second PHP is the first one's package under another name, for no Debian has two.
const CHECK: &str = r#"
set -e
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
get() { apt-get -q -o Dpkg::Use-Pty=0 "$@"; }
is() { test "$(dpkg-query -W -f '${db:Status-Abbrev}' "$1")" = "$2 " || { dpkg-query -W "$1"; echo "$1 is not $2"; exit 1; }; }
! command -v cc && ! command -v cargo || { echo "this system is not bare"; exit 1; }
name=$(dpkg-deb -f "$2" Package)
link=/etc/systemd/system/multi-user.target.wants/memring-tend.service
here=$(dpkg-query -W -f '${db:Status-Abbrev}${Package}\n' 'php*' memring 2> /dev/null | sed -n 's/^[ir][a-z] *//p')
if [ -n "$here" ]; then get autoremove --purge -y $here > /dev/null; fi
rm -f /etc/memring.toml
get update
get install -y --no-install-recommends "$1" "$2"
echo "== inside: php --ri memring"
php --ri memring
test -z "$(php -v 2>&1 > /dev/null)" || { echo "PHP complains at its start"; php -v; exit 1; }
echo "== inside: memring --version"
memring --version
test "$(memring status --list 127.0.0.1:1,127.0.0.1:2 | tail -n 1)" = "safe to touch the next node: no"
test -e /lib/systemd/system/memring-tend.service
test ! -L "$link" || { echo "the unit is enabled without /etc/memring.toml"; exit 1; }
echo "== inside: the package of a second PHP"
version=${name#php}; version=${version%-memring}
rm -rf /tmp/second && dpkg-deb -R "$2" /tmp/second
mv "/tmp/second/usr/lib/php/$(ls /tmp/second/usr/lib/php)" /tmp/second/usr/lib/php/20990101
mv "/tmp/second/etc/php/$version" /tmp/second/etc/php/99.1
mv "/tmp/second/usr/share/doc/$name" /tmp/second/usr/share/doc/php99.1-memring
sed -i -e "s/^Package:.*/Package: php99.1-memring/" -e "s/^Depends:.*\\(memring ([^)]*)\\).*/Depends: \\1/" /tmp/second/DEBIAN/control
sed -i "s/$version/99.1/g" /tmp/second/DEBIAN/conffiles /tmp/second/DEBIAN/p*
rm /tmp/second/DEBIAN/md5sums
dpkg-deb --root-owner-group --build /tmp/second /tmp/second.deb > /dev/null
get install -y --no-install-recommends /tmp/second.deb
is "$name" ii; is php99.1-memring ii; is memring ii
get purge -y php99.1-memring
php --ri memring > /dev/null
echo "== inside: remove"
get remove -y "$name" memring
test -z "$(php -m 2>&1 | grep -i -e memring -e warning)" || { php -m; echo "removal left a trace"; exit 1; }
test -z "$(find /etc/php -name '*memring*' -type l)" || { find /etc/php -name '*memring*'; exit 1; }
get purge -y "$name" memring
none() { test -z "$(find /etc/php /etc/systemd /usr/lib/php /usr/share/doc /usr/bin /lib/systemd/system /var/lib/systemd -name '*memring*')" || { echo "purge left a file"; exit 1; }; }
none
echo "== inside: the unit over removals"
touch /etc/memring.toml
get install -y "$1"
test -L "$link" || { echo "the first installation did not enable the unit"; exit 1; }
get remove -y memring
get install -y "$1"
test -e "$link" || { echo "removed and installed again, the unit is no longer enabled"; exit 1; }
# As systemctl disable does.
rm "$link"
get remove -y memring
get install -y "$1"
test ! -L "$link" || { echo "what an administrator disabled is enabled again"; exit 1; }
get install -y --reinstall "$1"
test ! -L "$link" || { echo "an upgrade enabled what was disabled"; exit 1; }
get purge -y memring
none
rm /etc/memring.toml
echo "== inside: PHP is clean, the unit is as it was left"
"#;

/// Installs the packages in a bare Debian of the same release, loads the extension, removes and purges them.
fn check_in_bare_debian(php: &Php, debs: &[PathBuf], install: bool) -> Result<(), Stop> {
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
    let mut command = Command::new("chroot");
    command.arg(&folder).args(["sh", "-c", CHECK, "sh"]);
    let mut names = Vec::new();
    for deb in debs {
        let name = deb.file_name().unwrap_or_default();
        run::copy(deb, &folder.join("tmp").join(name))?;
        command.arg(Path::new("/tmp").join(name));
        names.push(name.display().to_string());
    }
    run::shown(
        &format!(
            "apt install {} in a bare {suite}, PHP {}",
            names.join(" "),
            php.version
        ),
        &mut command,
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
