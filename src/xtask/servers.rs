//! The servers a run needs: memcached, php-fpm, Apache with mod_php. Each listens on a free loopback port or on a
//! socket in a directory of ours, has a configuration of its own, and ends when its value is dropped.
//!
//! Nothing of the machine's own servers is read or touched: no /etc/memcached.conf, no conf.d, no service.

use crate::php::Php;
use crate::run::{self, Running};
use crate::{Stop, bootstrap, fastcgi};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take until it answers. Long, because valgrind and a loaded machine are allowed.
const START: Duration = Duration::from_secs(20);
/// How long one page may take; above the longest time limit inside the pages themselves.
const PAGE: Duration = Duration::from_secs(120);

/// A port that was free a moment ago. Somebody may take it before it is used, so its users try again.
fn free_port() -> Result<u16, Stop> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .map_err(|why| crate::failed("no free port", why))?;
    let address = listener
        .local_addr()
        .map_err(|why| crate::failed("no free port", why))?;
    Ok(address.port())
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Starts what `command` makes for a free port and waits until it accepts connections; another port when it does not.
fn on_free_port(what: &str, command: impl Fn(u16) -> Command) -> Result<(Running, u16), Stop> {
    for _ in 0..5 {
        let port = free_port()?;
        let mut running = Running::start_in_group(&mut command(port))?;
        if until(&mut running, || {
            TcpStream::connect_timeout(&loopback(port), START).is_ok()
        }) {
            return Ok((running, port));
        }
    }
    Err(Stop::Failed(format!(
        "{what} does not start on any of five free ports; start it by hand to see why"
    )))
}

/// Waits until `ready` holds; false when the server ends first or the time is over.
fn until(server: &mut Running, ready: impl Fn() -> bool) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < START {
        // Asked first: on a port somebody else holds, the connection works and our server is gone.
        if server.ended() {
            return false;
        }
        if ready() {
            std::thread::sleep(Duration::from_millis(2));
            return !server.ended();
        }
        std::thread::sleep(Duration::from_millis(3));
    }
    false
}

/// A memcached.
pub(crate) struct Memcached {
    /// Its TCP port on 127.0.0.1; 0 when it listens on a unix socket.
    pub(crate) port: u16,
    running: Running,
}

impl Memcached {
    /// One on a free port.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn start() -> Result<Self, Stop> {
        let (running, port) = on_free_port("memcached", on_port)?;
        Ok(Self { port, running })
    }

    /// Ends it at once, as a crash does.
    pub(crate) fn kill(&mut self) {
        self.running.kill();
    }

    /// Starts a killed one again on its port, with nothing in it.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn start_again(&mut self) -> Result<(), Stop> {
        self.running = Running::start_in_group(&mut on_port(self.port))?;
        let port = self.port;
        if until(&mut self.running, || {
            TcpStream::connect_timeout(&loopback(port), START).is_ok()
        }) {
            return Ok(());
        }
        Err(Stop::Failed(format!(
            "memcached does not start again on port {port}"
        )))
    }

    /// One on a unix socket.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn start_on_socket(path: &Path) -> Result<Self, Stop> {
        let mut command = memcached();
        command.arg("-s").arg(path).args(["-a", "0777"]);
        let mut running = Running::start_in_group(&mut command)?;
        if until(&mut running, || UnixStream::connect(path).is_ok()) {
            return Ok(Self { port: 0, running });
        }
        Err(Stop::Failed(format!(
            "memcached does not start on {}",
            path.display()
        )))
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Sends one command line and returns everything up to the line that ends the answer.
    ///
    /// # Errors
    /// When it does not answer within ten seconds.
    pub(crate) fn ask(&self, line: &str) -> Result<String, Stop> {
        let ask = || -> std::io::Result<Vec<u8>> {
            let mut stream = TcpStream::connect(loopback(self.port))?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            stream.write_all(line.as_bytes())?;
            let mut answer = Vec::new();
            let mut piece = [0; 65_536];
            while !answer.ends_with(b"END\r\n") {
                match stream.read(&mut piece)? {
                    0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                    read => answer.extend_from_slice(piece.get(..read).unwrap_or_default()),
                }
            }
            Ok(answer)
        };
        match ask() {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(why) => Err(crate::failed(
                format!("memcached on port {} did not answer", self.port),
                why,
            )),
        }
    }
}

impl Drop for Memcached {
    fn drop(&mut self) {
        // On TERM it looks up only once a second, and it has nothing to save.
        self.running.kill();
    }
}

fn on_port(port: u16) -> Command {
    let mut command = memcached();
    command.args(["-l", "127.0.0.1", "-p", &port.to_string()]);
    command
}

fn memcached() -> Command {
    let mut command =
        Command::new(run::program("memcached").unwrap_or_else(|| PathBuf::from("memcached")));
    // As root it wants to be told whom to become; it lives for seconds, on loopback, with nothing of value in it.
    if run::is_root() {
        command.args(["-u", "root"]);
    }
    command
        .args(["-U", "0", "-m", "64", "-t", "1"])
        .stdin(Stdio::null())
        // Says no more than that a port was taken meanwhile, and then another one is tried.
        .stderr(Stdio::null());
    command
}

/// Whom a server started by root becomes for its workers.
const WORKER: &str = "www-data";

/// Gives a file or directory to the worker, where we are root and there is one.
pub(crate) fn give_to_worker(path: &Path) {
    if !run::is_root() {
        return;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let ids = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(WORKER)).then_some(())?;
        Some((fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?))
    });
    if let Some((user, group)) = ids {
        // Where it fails, the page that cannot write says so.
        let _ = chown(path, Some(user), Some(group));
    }
}

/// Reads back what a server wrote into its log.
fn log_tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    // That a server started is no news.
    let news = |line: &&str| !line.contains("NOTICE:") && !line.contains(":notice]");
    let lines: Vec<&str> = text.lines().filter(news).collect();
    let tail = lines.iter().skip(lines.len().saturating_sub(12));
    tail.map(|line| format!("   {line}\n")).collect()
}

/// Opens a fresh log file that the server's stdout and stderr go to.
fn log_file(path: &Path) -> Result<std::fs::File, Stop> {
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o666)
        .open(path)
        .map_err(|why| crate::failed(format!("cannot write {}", path.display()), why))
}

/// Something that runs PHP files.
pub(crate) trait Sapi {
    /// Runs the file and returns the page's body. `None` when the connection ended without a whole answer, that is,
    /// when PHP crashed.
    ///
    /// # Errors
    /// When the server is not reached at all.
    fn page(&mut self, file: &Path, request: &Request) -> Result<Option<Vec<u8>>, Stop>;

    /// The last lines of its log, for a failed test.
    fn log(&self) -> String;
}

/// What a page is asked with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    /// The query string, without the question mark.
    pub(crate) query: String,
    /// A form-encoded body; none makes it a GET.
    pub(crate) post: Option<String>,
    /// The Cookie header.
    pub(crate) cookie: Option<String>,
}

/// php-fpm with one pool of two workers, each request in a fresh process.
pub(crate) struct Fpm {
    socket: PathBuf,
    log: PathBuf,
    _running: Running,
}

impl Fpm {
    /// Starts it in `folder` with this php.ini and these variables.
    ///
    /// # Errors
    /// When it is missing or does not start; the message carries its log.
    pub(crate) fn start(
        php: &Php,
        folder: &Path,
        ini: &Path,
        env: &[(String, String)],
    ) -> Result<Self, Stop> {
        let program = php.fpm().ok_or_else(|| bootstrap::not_found("php-fpm"))?;
        let (socket, log) = (folder.join("fpm.sock"), folder.join("fpm.log"));
        let mut conf = format!(
            "[global]\ndaemonize = no\nerror_log = {log}\n[test]\nlisten = {socket}\npm = static\n\
             pm.max_children = 2\npm.max_requests = 1\nclear_env = no\ncatch_workers_output = yes\n",
            log = log.display(),
            socket = socket.display()
        );
        if run::is_root() {
            conf.push_str(&format!("user = {WORKER}\ngroup = {WORKER}\n"));
        }
        let file = folder.join("fpm.conf");
        run::write(&file, conf)?;
        let output = log_file(&log)?;
        let mut command = Command::new(program);
        command
            .arg("--nodaemonize")
            .arg("--fpm-config")
            .arg(&file)
            .arg("-c")
            .arg(ini);
        command
            .env("PHP_INI_SCAN_DIR", "")
            .envs(env.iter().cloned())
            .stdin(Stdio::null());
        command
            .stderr(
                output
                    .try_clone()
                    .map_or_else(|_| Stdio::null(), Stdio::from),
            )
            .stdout(output);
        let mut running = Running::start_in_group(&mut command)?;
        if until(&mut running, || UnixStream::connect(&socket).is_ok()) {
            return Ok(Self {
                socket,
                log,
                _running: running,
            });
        }
        Err(Stop::Failed(format!(
            "php-fpm does not start:\n{}",
            log_tail(&log)
        )))
    }
}

impl Sapi for Fpm {
    fn page(&mut self, file: &Path, request: &Request) -> Result<Option<Vec<u8>>, Stop> {
        let stream =
            UnixStream::connect(&self.socket).map_err(|why| crate::failed("php-fpm", why))?;
        let _ = stream.set_read_timeout(Some(PAGE));
        let answer =
            fastcgi::request(stream, file, request).map_err(|why| crate::failed("php-fpm", why))?;
        Ok(answer.and_then(|page| split_page(&page)))
    }

    fn log(&self) -> String {
        log_tail(&self.log)
    }
}

/// Apache with the prefork module and mod_php, serving one directory.
pub(crate) struct Apache {
    /// Where it listens on 127.0.0.1.
    pub(crate) port: u16,
    log: PathBuf,
    _running: Running,
}

impl Apache {
    /// Starts it in `folder`, serving `pages`, with this php.ini and these variables.
    ///
    /// # Errors
    /// When it is missing or does not start; the message carries its log.
    pub(crate) fn start(
        php: &Php,
        folder: &Path,
        pages: &Path,
        ini: &Path,
        env: &[(String, String)],
    ) -> Result<Self, Stop> {
        let module = php
            .apache_module()
            .ok_or_else(|| bootstrap::not_found("Apache's PHP module"))?;
        let program = run::program("apache2").ok_or_else(|| bootstrap::not_found("apache2"))?;
        let log = folder.join("apache.log");
        let worker = if run::is_root() {
            format!("User {WORKER}\nGroup {WORKER}\n")
        } else {
            String::new()
        };
        let output = log_file(&log)?;
        let started = on_free_port("Apache", |port| {
            let conf = format!(
                "ServerRoot \"{folder}\"\nDefaultRuntimeDir \"{folder}\"\nPidFile \"{folder}/apache.pid\"\n\
                 Mutex file:{folder} default\nListen 127.0.0.1:{port}\nServerName 127.0.0.1\n{worker}\
                 LoadModule mpm_prefork_module /usr/lib/apache2/modules/mod_mpm_prefork.so\n\
                 LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so\n\
                 LoadModule php_module \"{module}\"\nPHPINIDir \"{ini}\"\nErrorLog \"{log}\"\n\
                 StartServers 2\nMinSpareServers 1\nMaxSpareServers 2\nMaxRequestWorkers 4\n\
                 DocumentRoot \"{pages}\"\n<Directory \"{pages}\">\nAllowOverride All\nRequire all granted\n</Directory>\n\
                 <FilesMatch \"\\.php$\">\nSetHandler application/x-httpd-php\n</FilesMatch>\n",
                folder = folder.display(),
                module = module.display(),
                ini = ini.display(),
                log = log.display(),
                pages = pages.display(),
            );
            let file = folder.join("apache.conf");
            // Where this fails, Apache does not start and says why.
            let _ = std::fs::write(&file, conf);
            let mut command = Command::new(&program);
            command.args(["-D", "FOREGROUND", "-f"]).arg(&file);
            command
                .env("PHP_INI_SCAN_DIR", "")
                .envs(env.iter().cloned())
                .stdin(Stdio::null());
            for stream in [Command::stdout, Command::stderr] {
                stream(
                    &mut command,
                    output
                        .try_clone()
                        .map_or_else(|_| Stdio::null(), Stdio::from),
                );
            }
            command
        });
        match started {
            Ok((running, port)) => Ok(Self {
                port,
                log,
                _running: running,
            }),
            Err(_) => Err(Stop::Failed(format!(
                "Apache does not start:\n{}",
                log_tail(&log)
            ))),
        }
    }
}

impl Sapi for Apache {
    fn page(&mut self, file: &Path, request: &Request) -> Result<Option<Vec<u8>>, Stop> {
        let name = file
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        http(self.port, &name, request).map_err(|why| crate::failed("Apache", why))
    }

    fn log(&self) -> String {
        log_tail(&self.log)
    }
}

/// PHP's own web server, for a page to look at.
pub(crate) struct PhpServer {
    /// Where it listens on 127.0.0.1.
    pub(crate) port: u16,
    running: Running,
}

impl PhpServer {
    /// Starts it on a free port, serving `folder`.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn start(
        php: &Php,
        folder: &Path,
        ini: &Path,
        env: &[(String, String)],
    ) -> Result<Self, Stop> {
        let (running, port) = on_free_port("php -S", |port| {
            let mut command = Command::new(&php.cli);
            command
                .arg("-c")
                .arg(ini)
                .args(["-q", "-S", &format!("127.0.0.1:{port}"), "-t"])
                .arg(folder);
            command
                .env("PHP_INI_SCAN_DIR", "")
                .env("PHP_CLI_SERVER_WORKERS", "4")
                .envs(env.iter().cloned());
            command.stdin(Stdio::null());
            command
        })?;
        Ok(Self { port, running })
    }

    /// Waits for its end; that of a page kept open is Ctrl-C.
    ///
    /// # Errors
    /// When it ends by itself.
    pub(crate) fn wait(mut self) -> Result<(), Stop> {
        let status = self.running.wait()?;
        Err(Stop::Failed(format!("php -S ended with {status}")))
    }
}

/// Asks 127.0.0.1 for a page over HTTP/1.0, which has no chunks to put together.
fn http(port: u16, name: &str, request: &Request) -> std::io::Result<Option<Vec<u8>>> {
    let mut stream = TcpStream::connect(loopback(port))?;
    stream.set_read_timeout(Some(PAGE))?;
    let mark = if request.query.is_empty() { "" } else { "?" };
    let method = if request.post.is_some() {
        "POST"
    } else {
        "GET"
    };
    let mut head = format!(
        "{method} /{name}{mark}{} HTTP/1.0\r\nHost: 127.0.0.1\r\n",
        request.query
    );
    if let Some(cookie) = &request.cookie {
        head.push_str(&format!("Cookie: {cookie}\r\n"));
    }
    let body = request.post.as_deref().unwrap_or_default();
    if request.post.is_some() {
        head.push_str("Content-Type: application/x-www-form-urlencoded\r\n");
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    stream.write_all(format!("{head}\r\n{body}").as_bytes())?;
    let mut page = Vec::new();
    match stream.read_to_end(&mut page) {
        Ok(_) => Ok(split_page(&page)),
        // A killed worker resets the connection.
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(None),
        Err(error) => Err(error),
    }
}

/// The body behind the header lines; `None` where no header block ends.
fn split_page(page: &[u8]) -> Option<Vec<u8>> {
    let end = page.windows(4).position(|four| four == b"\r\n\r\n")?;
    page.get(end + 4..).map(<[u8]>::to_vec)
}

/// Lets every user read a file or enter a directory, as a server that dropped root must.
pub(crate) fn open_to_all(path: &Path) {
    if let Ok(meta) = std::fs::metadata(path) {
        let mode = meta.permissions().mode() | if meta.is_dir() { 0o755 } else { 0o644 };
        let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode));
    }
}
