//! Which PHP: what one php-config says about the PHP it belongs to, the extension built for it, and the companion
//! that goes with any.
//!
//! Everything here is asked from PHP itself; Debian's file names are only used where PHP has no answer
//! (php-fpm and Apache's module).

use crate::run::{self, cargo, quiet};
use crate::{Stop, failed};
use std::path::{Path, PathBuf};
use std::process::Command;

/// One installed PHP.
#[derive(Clone, Debug)]
pub(crate) struct Php {
    /// Its php-config.
    pub(crate) config: PathBuf,
    /// Its command line binary.
    pub(crate) cli: PathBuf,
    /// "8.2".
    pub(crate) version: String,
    /// "20220829": extensions built for another number are refused by it.
    pub(crate) api: String,
    /// Where `extension=name` is looked up.
    pub(crate) extensions: PathBuf,
    /// The modules it has without any php.ini, in lower case.
    pub(crate) built_in: Vec<String>,
}

impl Php {
    /// Asks the given php-config, or the one in PATH.
    ///
    /// # Errors
    /// When there is none or it does not answer.
    pub(crate) fn find(config: Option<&Path>) -> Result<Self, Stop> {
        let config = match config {
            Some(path) => path.to_path_buf(),
            None => run::program("php-config").ok_or_else(|| {
                Stop::Failed("php-config is not in PATH; apt-get install php-dev brings it".into())
            })?,
        };
        let ask = |option: &str| -> Result<String, Stop> {
            let text = quiet("php-config", Command::new(&config).arg(option))?;
            Ok(text.trim().to_owned())
        };
        let number = ask("--vernum")?;
        let number: u32 = number
            .parse()
            .map_err(|why| failed(format!("php-config --vernum said \"{number}\""), why))?;
        let cli = PathBuf::from(ask("--php-binary")?);
        let modules = quiet("php -n -m", Command::new(&cli).args(["-n", "-m"]))?;
        Ok(Self {
            version: format!("{}.{}", number / 10_000, number / 100 % 100),
            api: api_of(&cli)?,
            extensions: PathBuf::from(ask("--extension-dir")?),
            built_in: modules
                .lines()
                .map(|line| line.trim().to_lowercase())
                .collect(),
            config,
            cli,
        })
    }

    /// Its FastCGI server, where one is installed.
    pub(crate) fn fpm(&self) -> Option<PathBuf> {
        if self.is_debian() {
            return run::program(&format!("php-fpm{}", self.version));
        }
        let file = self.cli.ancestors().nth(2)?.join("sbin/php-fpm");
        file.is_file().then_some(file)
    }

    /// Its Apache module, where one is installed; one built by hand could be anywhere and is not looked for.
    pub(crate) fn apache_module(&self) -> Option<PathBuf> {
        let file = PathBuf::from(format!(
            "/usr/lib/apache2/modules/libphp{}.so",
            self.version
        ));
        (self.is_debian() && file.is_file()).then_some(file)
    }

    /// Whether it is a packaged one: then the version in a file's name says to which PHP it belongs.
    fn is_debian(&self) -> bool {
        self.cli == Path::new(&format!("/usr/bin/php{}", self.version))
    }

    /// Builds the release extension for this PHP and returns the path of the .so.
    ///
    /// # Errors
    /// When cargo fails.
    pub(crate) fn build(&self) -> Result<PathBuf, Stop> {
        let mut command = cargo(["build", "--release", "--package", "memring"]);
        self.name_to_build_scripts(&mut command);
        run::shown("build the release extension", &mut command)?;
        let so = run::target().join("release/libmemring.so");
        if so.is_file() {
            return Ok(so);
        }
        Err(Stop::Failed(format!("cargo built no {}", so.display())))
    }

    /// Builds the release companion, which knows no PHP, and returns the path of the program.
    ///
    /// # Errors
    /// When cargo fails.
    pub(crate) fn build_companion() -> Result<PathBuf, Stop> {
        let mut command = cargo(["build", "--release", "--package", "memring-companion"]);
        run::shown("build the release companion", &mut command)?;
        let program = run::target().join("release/memring");
        if program.is_file() {
            return Ok(program);
        }
        Err(Stop::Failed(format!(
            "cargo built no {}",
            program.display()
        )))
    }

    /// Tells the build scripts which PHP is meant. Left out for the default one, so that a plain `cargo build`
    /// beside us finds everything fresh.
    pub(crate) fn name_to_build_scripts(&self, command: &mut Command) {
        if run::program("php-config").as_deref() != Some(self.config.as_path()) {
            command
                .env("PHP_CONFIG", &self.config)
                .env("PHP", &self.cli);
        }
    }
}

/// The number of the module API; only Debian's php-config tells it.
fn api_of(cli: &Path) -> Result<String, Stop> {
    let info = quiet("php -i", Command::new(cli).args(["-n", "-i"]))?;
    info.lines()
        .find_map(|line| line.strip_prefix("PHP Extension => "))
        .map(|api| api.trim().to_owned())
        .ok_or_else(|| Stop::Failed(format!("{} -i names no PHP API", cli.display())))
}
