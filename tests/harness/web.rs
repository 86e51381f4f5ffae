//! PHP behind a web server: php-fpm asked over FastCGI, and Apache with mod_php (prefork) asked over HTTP.
//!
//! Both run from a temp directory with their own configuration and see none of this machine's.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::fastcgi::{self, Reply};
use crate::php::{Php, extension};
use crate::place::{TempDir, free_port, listens, program, wait_until};
use crate::process::Process;

/// How long a page may take before the test fails.
const PAGE_LIMIT: Duration = Duration::from_secs(60);

/// A php-fpm with one pool of a fixed number of workers.
#[derive(Debug)]
pub struct PhpFpm {
    process: Process,
    port: u16,
    directory: TempDir,
    _php: Php, // keeps the directory its workers share
}

impl PhpFpm {
    /// Starts one with this many workers; `pool` is added to the pool's section, for example
    /// `php_admin_value[memcache.protocol] = binary`.
    pub fn start(workers: usize, pool: &str) -> PhpFpm {
        PhpFpm::with(&Php::new(), workers, pool)
    }

    /// The same with the extensions, ini lines and environment of `php`.
    pub fn with(php: &Php, workers: usize, pool: &str) -> PhpFpm {
        PhpFpm::of(php, workers, pool, None)
    }

    /// The same run by another user, named by its number, where this process may do that (root may).
    pub fn of(php: &Php, workers: usize, pool: &str, user: Option<u32>) -> PhpFpm {
        let user = user.filter(|_| is_root());
        let binary = program(&[
            "php-fpm",
            "php-fpm8.2",
            "php-fpm8.4",
            "php-fpm8.3",
            "php-fpm8.1",
        ])
        .expect("php-fpm is not installed: apt-get install php-fpm");
        let directory = TempDir::new("fpm");
        let port = free_port();
        let log = directory.path().join("fpm.log");
        let configuration = directory.file(
            "fpm.conf",
            format!(
                "[global]\nerror_log = {log}\ndaemonize = no\n\n[www]\nlisten = 127.0.0.1:{port}\npm = static\n\
                 pm.max_children = {workers}\ncatch_workers_output = yes\nclear_env = no\n{pool}\n{user}",
                log = log.display(),
                // As root each pool must name its user; it stays root, so that it can read what the test wrote.
                user = if is_root() && user.is_none() { "user = root\ngroup = root\n" } else { "" },
            ),
        );
        let mut command = Command::new(binary);
        if let Some(user) = user {
            std::os::unix::fs::chown(directory.path(), Some(user), Some(user))
                .expect("give the directory to its user");
            command.uid(user).gid(user);
        }
        command
            .envs(php.environment().iter().map(|(name, value)| (name, value)))
            .args(php.arguments())
            .arg("-F")
            .arg("-y")
            .arg(configuration);
        if is_root() && user.is_none() {
            command.arg("-R");
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = Process::start(&mut command).expect("start php-fpm");
        let ready = wait_until(Duration::from_secs(20), || process.ended() || listens(port));
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        assert!(
            ready && !process.ended(),
            "php-fpm did not start; its log:\n{log}"
        );
        PhpFpm {
            process,
            port,
            directory,
            _php: php.clone(),
        }
    }

    /// Its FastCGI port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id of the master.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Puts a page into the document root.
    pub fn page(&self, name: &str, script: &str) -> PathBuf {
        self.directory.file(name, format!("<?php\n{script}"))
    }

    /// Asks for a page; `query` may be empty, `cookie` too.
    pub fn get(&self, page: &str, query: &str, cookie: &str) -> Reply {
        self.try_get(page, query, cookie)
            .unwrap_or_else(|e| panic!("php-fpm: {e}; its log:\n{}", self.log()))
    }

    /// The same for pages that are meant to break.
    ///
    /// # Errors
    /// Whatever happened to the connection.
    pub fn try_get(&self, page: &str, query: &str, cookie: &str) -> std::io::Result<Reply> {
        let file = self.directory.path().join(page);
        let variables = [
            ("SCRIPT_FILENAME", file.display().to_string()),
            ("SCRIPT_NAME", format!("/{page}")),
            ("REQUEST_URI", format!("/{page}?{query}")),
            ("DOCUMENT_ROOT", self.directory.path().display().to_string()),
            ("QUERY_STRING", query.to_string()),
            ("REQUEST_METHOD", "GET".to_string()),
            ("SERVER_PROTOCOL", "HTTP/1.1".to_string()),
            ("SERVER_NAME", "localhost".to_string()),
            ("REMOTE_ADDR", "127.0.0.1".to_string()),
            ("HTTP_COOKIE", cookie.to_string()),
        ];
        fastcgi::ask(self.port, &variables, b"", PAGE_LIMIT)
    }

    /// What php-fpm logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("fpm.log")).unwrap_or_default()
    }
}

impl Drop for PhpFpm {
    fn drop(&mut self) {
        self.process.stop();
    }
}

/// An Apache with mod_php and prefork workers, `.htaccess` files allowed.
#[derive(Debug)]
pub struct Apache {
    process: Process,
    port: u16,
    directory: TempDir,
}

impl Apache {
    /// Whether this machine has Apache and its PHP module.
    pub fn available() -> bool {
        program(&["apache2", "httpd"]).is_some() && php_module().is_some()
    }

    /// Starts one with the extension under test; `ini` is added to its php.ini.
    pub fn start(ini: &str) -> Apache {
        Apache::with(|directory| {
            format!(
                "extension={}\nmemring.state_dir={directory}\n{ini}",
                extension().display()
            )
        })
    }

    /// The same without any extension of ours.
    pub fn bare(ini: &str) -> Apache {
        Apache::with(|_| ini.to_string())
    }

    /// Starts one whose php.ini is made from the name of a directory its workers may write to.
    fn with(ini: impl FnOnce(&str) -> String) -> Apache {
        let binary = program(&["apache2", "httpd"])
            .expect("apache is not installed: apt-get install apache2");
        let module =
            php_module().expect("mod_php is not installed: apt-get install libapache2-mod-php");
        let modules = Path::new(&module)
            .parent()
            .expect("a file lies in a directory")
            .to_path_buf();
        let directory = TempDir::new("apache");
        let root = directory.path().display().to_string();
        let port = free_port();
        directory.file(
            "php.ini",
            format!(
                "display_errors=1\nhtml_errors=0\n{}\n",
                ini(&format!("{root}/state"))
            ),
        );
        directory.file("htdocs/alive.php", "<?php echo 'alive';");
        directory.file("state/.keep", "");
        let user = if is_root() {
            "User www-data\nGroup www-data\n"
        } else {
            ""
        };
        let configuration = directory.file(
            "httpd.conf",
            format!(
                "ServerRoot {root}\nDefaultRuntimeDir {root}\nPidFile {root}/pid\nErrorLog {root}/error.log\n\
                 ServerName localhost\nListen 127.0.0.1:{port}\n\
                 LoadModule mpm_prefork_module {m}/mod_mpm_prefork.so\n\
                 LoadModule authz_core_module {m}/mod_authz_core.so\n\
                 LoadModule php_module {php}\nPHPIniDir {root}\n{user}\
                 StartServers 2\nMinSpareServers 2\nMaxRequestWorkers 8\n\
                 DocumentRoot {root}/htdocs\n<Directory {root}/htdocs>\nAllowOverride All\nRequire all granted\n</Directory>\n\
                 <FilesMatch \\.php$>\nSetHandler application/x-httpd-php\n</FilesMatch>\n",
                m = modules.display(),
                php = module.display(),
            ),
        );
        for path in [
            directory.path().to_path_buf(),
            directory.path().join("htdocs"),
        ] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755))
                .expect("let the web server's user in");
        }
        std::fs::set_permissions(
            directory.path().join("state"),
            PermissionsExt::from_mode(0o1777),
        )
        .expect("let the web server's user write");
        let mut command = Command::new(binary);
        command.arg("-f").arg(configuration).arg("-DFOREGROUND");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = Process::start(&mut command).expect("start apache");
        let ready = wait_until(Duration::from_secs(20), || process.ended() || listens(port));
        let log = std::fs::read_to_string(directory.path().join("error.log")).unwrap_or_default();
        assert!(
            ready && !process.ended(),
            "apache did not start; its log:\n{log}"
        );
        Apache {
            process,
            port,
            directory,
        }
    }

    /// Puts a page, or an `.htaccess`, into the document root as it stands.
    pub fn file(&self, name: &str, text: &str) {
        self.directory.file(&format!("htdocs/{name}"), text);
    }

    /// Asks for a path such as `page.php?x=1`.
    pub fn get(&self, path: &str, cookie: &str) -> Reply {
        let ask = || -> std::io::Result<Reply> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_read_timeout(Some(PAGE_LIMIT))?;
            write!(
                stream,
                "GET /{path} HTTP/1.0\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n"
            )?;
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes)?;
            Ok(Reply::parse(&bytes))
        };
        ask().unwrap_or_else(|e| panic!("apache: {e}; its log:\n{}", self.log()))
    }

    /// What Apache and PHP logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("error.log")).unwrap_or_default()
    }
}

impl Drop for Apache {
    fn drop(&mut self) {
        self.process.stop();
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn php_module() -> Option<PathBuf> {
    ["/usr/lib/apache2/modules", "/usr/lib64/httpd/modules"]
        .iter()
        .find_map(|directory| {
            let mut modules: Vec<PathBuf> = std::fs::read_dir(directory)
                .ok()?
                .filter_map(|entry| Some(entry.ok()?.path()))
                .filter(|path| {
                    let name = path.file_name().unwrap_or_default().to_string_lossy();
                    name.starts_with("libphp") && name.ends_with(".so")
                })
                .collect();
            modules.sort();
            modules.pop()
        })
}
