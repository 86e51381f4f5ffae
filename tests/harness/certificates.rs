//! Certificates for servers and clients, made by the openssl program: a CA of this test, and what it signs.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::place::{TempDir, program};

/// A certificate authority of its own, in a folder that goes with the value.
#[derive(Debug)]
pub struct Certificates {
    directory: TempDir,
}

/// A certificate and its key, as PEM files.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Valid {
    /// Now.
    Now,
    /// Until some years ago.
    Before,
    /// In some years.
    Later,
}

const CONFIG: &str = "
[req]
distinguished_name = name
[name]
[ca]
default_ca = own
[own]
database = index.txt
serial = serial
new_certs_dir = .
default_md = sha256
policy = any
copy_extensions = copy
unique_subject = no
[any]
commonName = supplied
";

impl Certificates {
    /// Makes the CA.
    pub fn new() -> Certificates {
        let directory = TempDir::new("certificates");
        directory.file("config", CONFIG);
        directory.file("index.txt", "");
        directory.file("serial", "01");
        let made = Certificates { directory };
        let key = [
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ];
        let extensions = ["-addext", "basicConstraints=critical,CA:TRUE"];
        let out = ["-keyout", "ca.key", "-out", "ca.pem", "-days", "30"];
        made.openssl(
            &[
                &["req", "-x509", "-subj", "/CN=CA of a test"],
                &key[..],
                &extensions,
                &out,
            ]
            .concat(),
        );
        made
    }

    /// The CA's own certificate.
    pub fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// A folder for whatever belongs to them.
    pub fn directory(&self) -> &TempDir {
        &self.directory
    }

    /// One for these names (`DNS:localhost`, `IP:127.0.0.1`), kept as `name`.
    pub fn issue(&self, name: &str, names: &str, valid: Valid) -> Issued {
        let [cert, key, request] = ["pem", "key", "request"].map(|end| format!("{name}.{end}"));
        let subject = format!("/CN={name}");
        let names = format!("subjectAltName={names}");
        self.openssl(&[
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            &subject,
            "-addext",
            &names,
            "-addext",
            "basicConstraints=CA:FALSE",
            "-keyout",
            &key,
            "-out",
            &request,
        ]);
        let (start, end) = match valid {
            Valid::Now => ("20200101000000Z", "20491231000000Z"),
            Valid::Before => ("20200101000000Z", "20210101000000Z"),
            Valid::Later => ("20480101000000Z", "20491231000000Z"),
        };
        self.openssl(&[
            "ca",
            "-batch",
            "-notext",
            "-in",
            &request,
            "-out",
            &cert,
            "-cert",
            "ca.pem",
            "-keyfile",
            "ca.key",
            "-startdate",
            start,
            "-enddate",
            end,
        ]);
        let place = |file: &str| self.directory.path().join(file);
        Issued {
            cert: place(&cert),
            key: place(&key),
        }
    }

    /// The usual one of a server here.
    pub fn server(&self) -> Issued {
        self.issue("server", "DNS:localhost,IP:127.0.0.1", Valid::Now)
    }

    fn openssl(&self, arguments: &[&str]) {
        let openssl =
            program(&["openssl"]).expect("openssl is not installed: apt-get install openssl");
        let mut command = Command::new(openssl);
        let (verb, rest) = arguments.split_first().expect("a command of openssl");
        command.arg(verb).args(["-config", "config"]).args(rest);
        let output = command
            .current_dir(self.directory.path())
            .output()
            .expect("run openssl");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {arguments:?}: {said}");
    }
}

impl Default for Certificates {
    fn default() -> Certificates {
        Certificates::new()
    }
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> String {
    path.display().to_string()
}
