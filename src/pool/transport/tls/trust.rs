//! Whom TLS trusts and who we are: the files of a wish as rustls takes them, and its verdicts in words.
//!
//! What was agreed with a server is kept for its next connection in this thread (resumption),
//! whoever opens it; files are looked at when a connection is opened, so that a renewed
//! certificate needs no restart.

use crate::config::{Tls, Trust};
use crate::error::{Error, Kind};
use rustix::io::Errno;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore,
    SignatureScheme,
};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// Sessions kept for each server.
const KEPT: usize = 8;
/// So many wishes, and servers of each, are kept; who names more begins anew.
const MOST: usize = 256;
/// Where systems keep the certificates they trust: Debian, Fedora, SUSE, Alpine.
const SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What differs when a file was written or replaced: inode, bytes, time of the last change.
type Stamp = Option<(u64, u64, i64, i64)>;

/// What all connections of one wish share, and what each server keeps.
struct Kept {
    files: Vec<(PathBuf, Stamp)>,
    shared: ClientConfig,
    servers: HashMap<(String, u16), Rc<Server>>,
}

thread_local! {
    static KEPT_BY_WISH: RefCell<HashMap<Tls, Kept>> = RefCell::default();
}

/// The settings of connections to one server, with the sessions it can resume.
#[derive(Debug)]
pub(super) struct Server {
    config: RefCell<Arc<ClientConfig>>,
    /// A handshake with it came to an end since the settings were made.
    agreed: Cell<bool>,
}

impl Server {
    pub(super) fn config(&self) -> Arc<ClientConfig> {
        self.config.borrow().clone()
    }

    /// Notes that a handshake is over.
    pub(super) fn agreed(&self) {
        self.agreed.set(true);
    }

    /// Did one, so that the next may resume its session?
    pub(super) fn has_agreed(&self) -> bool {
        self.agreed.get()
    }

    /// Resumes no session any more; false when no handshake went well, so that it is not that.
    ///
    /// Servers exist that offer sessions and break off when one is taken up: OpenSSL does, where
    /// certificates are asked for and the program named no session id context (memcached 1.6.18).
    pub(super) fn give_up_resumption(&self) -> bool {
        let mut own = (*self.config()).clone();
        own.resumption = Resumption::disabled();
        self.config.replace(Arc::new(own));
        self.agreed.replace(false)
    }
}

/// What is kept of the server at `host` and `port`, made anew when a file of the wish has changed.
///
/// # Errors
/// `Tls` for a file that cannot be read or used.
pub(super) fn server(wish: &Tls, host: &str, port: u16) -> Result<Rc<Server>, Error> {
    KEPT_BY_WISH.with_borrow_mut(|all| {
        let stale = |kept: &Kept| kept.files.iter().any(|(path, seen)| stamp(path) != *seen);
        if all.get(wish).is_none_or(stale) {
            if all.len() >= MOST {
                all.clear();
            }
            let files = files(wish)?;
            let files = files.into_iter().map(|path| (stamp(&path), path));
            let files = files.map(|(stamp, path)| (path, stamp)).collect();
            let shared = config(wish)?;
            let servers = HashMap::new();
            all.insert(
                wish.clone(),
                Kept {
                    files,
                    shared,
                    servers,
                },
            );
        }
        let Some(kept) = all.get_mut(wish) else {
            // It was put there just now; this is only for the compiler.
            return Err(refuse("no settings", "Try again"));
        };
        if kept.servers.len() >= MOST {
            kept.servers.clear();
        }
        let server = kept.servers.entry((host.to_owned(), port));
        let own = server.or_insert_with(|| {
            let mut own = kept.shared.clone();
            own.resumption = Resumption::in_memory_sessions(KEPT);
            Rc::new(Server {
                config: RefCell::new(Arc::new(own)),
                agreed: Cell::new(false),
            })
        });
        Ok(own.clone())
    })
}

fn stamp(path: &Path) -> Stamp {
    let about = std::fs::metadata(path).ok()?;
    Some((about.ino(), about.len(), about.mtime(), about.mtime_nsec()))
}

/// The files that a wish is made of.
fn files(wish: &Tls) -> Result<Vec<PathBuf>, Error> {
    let ca = match (&wish.ca, wish.trust) {
        (_, Trust::Anybody) => None,
        (Some(path), _) => Some(path.clone()),
        (None, _) => Some(system_ca()?),
    };
    Ok([ca, wish.cert.clone(), wish.key.clone()]
        .into_iter()
        .flatten()
        .collect())
}

/// The file of the certificates this system trusts.
fn system_ca() -> Result<PathBuf, Error> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let known = SYSTEM.iter().map(PathBuf::from);
    named
        .into_iter()
        .chain(known)
        .find(|path| path.is_file())
        .ok_or_else(|| {
            refuse(
                "this system has no file of certificates to trust",
                "Write ca=FILE, or install ca-certificates",
            )
        })
}

fn config(wish: &Tls) -> Result<ClientConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let versions = ClientConfig::builder_with_provider(provider.clone());
    let builder = versions
        .with_safe_default_protocol_versions()
        .map_err(|error| said(&error, wish))?;
    let verifier = Judge {
        inner: match wish.trust {
            Trust::Anybody => None,
            Trust::Name | Trust::Certificate => Some(roots(wish, provider)?),
        },
        any_name: wish.trust != Trust::Name,
        algorithms,
    };
    let builder = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let Some(path) = &wish.cert else {
        return Ok(builder.with_no_client_auth());
    };
    let certificates = certificates(path)?;
    let key_path = wish.key.as_ref().unwrap_or(path);
    let key = PrivateKeyDer::from_pem_slice(&read(key_path)?).map_err(|_| {
        refuse(
            format!("{} holds no private key", key_path.display()),
            "Write key=FILE with a PEM file that has one, without a passphrase",
        )
    })?;
    builder
        .with_client_auth_cert(certificates, key)
        .map_err(|_| {
            refuse(
                format!(
                    "{} and {} do not belong together",
                    path.display(),
                    key_path.display()
                ),
                "Write the key that the certificate was made for",
            )
        })
}

/// Who is trusted.
fn roots(wish: &Tls, provider: Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, Error> {
    let path = match &wish.ca {
        Some(path) => path.clone(),
        None => system_ca()?,
    };
    let mut roots = RootCertStore::empty();
    // A system's file may have some that are of no use; others' are not thrown away for them.
    let (usable, _) = roots.add_parsable_certificates(certificates(&path)?);
    let unusable = || {
        refuse(
            format!("{} holds no certificate that can be used", path.display()),
            "Write ca=FILE with the certificate of the server's CA (PEM)",
        )
    };
    if usable == 0 {
        return Err(unusable());
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|_| unusable())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bytes = read(path)?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .filter_map(Result::ok)
        .collect();
    match found.is_empty() {
        true => Err(refuse(
            format!("{} holds no certificate", path.display()),
            "Name a PEM file (-----BEGIN CERTIFICATE-----)",
        )),
        false => Ok(found),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|error| {
        refuse(
            format!("{} cannot be read: {}", path.display(), words_of(&error)),
            "Let the user PHP runs as read it",
        )
    })
}

/// The operating system's words, without Rust's "(os error N)".
fn words_of(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

/// Who decides whether a server is the one that was meant.
#[derive(Debug)]
struct Judge {
    /// `None` to take anybody.
    inner: Option<Arc<WebPkiServerVerifier>>,
    any_name: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(inner) = &self.inner else {
            return Ok(ServerCertVerified::assertion());
        };
        match inner.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            // The name is looked at last, behind everything else.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.any_name => Ok(ServerCertVerified::assertion()),
            judged => judged,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// What to do where nobody speaks TLS.
pub const PLAIN: &str = "Name its TLS port, or take TLS out: redis:// in place of rediss://, memcached:// of memcacheds://";

/// What rustls says, in words that tell what to do.
pub(super) fn said(error: &rustls::Error, wish: &Tls) -> Error {
    use rustls::Error as E;
    let trusted = match &wish.ca {
        Some(path) => path.display().to_string(),
        None => "this system's certificates".to_owned(),
    };
    let wants_ours = "the server does not take who we are without a certificate it knows";
    match error {
        E::InvalidCertificate(reason) => match reason {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => refuse(
                "the server's certificate has expired",
                "Renew it on the server, or set this host's clock",
            ),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => refuse(
                "the server's certificate is not valid yet",
                "Set this host's clock, or the one of the host that made it",
            ),
            CertificateError::NotValidForNameContext {
                expected,
                presented,
            } => refuse(
                format!(
                    "the server's certificate is for {}, not for {}",
                    match presented.is_empty() {
                        true => "no name".to_owned(),
                        false => presented
                            .iter()
                            .map(|name| plain(name))
                            .collect::<Vec<_>>()
                            .join(", "),
                    },
                    expected.to_str()
                ),
                "Is it the right server? Then write server_name= with a name it is for",
            ),
            CertificateError::NotValidForName => refuse(
                "the server's certificate is for another name",
                "Is it the right server? Then write server_name= with a name it is for",
            ),
            // Somebody of that name did, with another key.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => refuse(
                format!("nobody in {trusted} signed the server's certificate"),
                "Write ca=FILE with the certificate of its CA",
            ),
            other => refuse(
                format!("the server's certificate cannot be used: {other:?}"),
                "It has to be one for servers (X.509 version 3, no CA's own), signed by the CA in ca=FILE",
            ),
        },
        E::InvalidMessage(_) => refuse("the server speaks no TLS", PLAIN),
        E::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::AccessDenied,
        ) => refuse(
            format!("{wants_ours} ({error})"),
            "Write cert=FILE and key=FILE, signed by the CA that the server trusts",
        ),
        E::AlertReceived(_) | E::PeerIncompatible(_) => refuse(
            format!("the server speaks TLS in another way ({error})"),
            "It has to take TLS 1.2 or 1.3",
        ),
        other => refuse(
            format!("TLS was broken off ({other})"),
            "Look into the log of the server",
        ),
    }
}

/// A name without rustls' `DnsName("…")` or `IpAddress(…)` around it.
fn plain(name: &str) -> &str {
    let inner = name.split_once('(').map_or(name, |(_, inner)| inner);
    inner.trim_end_matches(')').trim_matches('"')
}

/// The connection broke in the middle of the handshake.
pub(super) fn cut(errno: Errno) -> Error {
    let cause = match errno {
        Errno::CONNRESET | Errno::PIPE => "the server hung up on the first words of TLS".to_owned(),
        other => format!("the first words of TLS failed: {other}"),
    };
    refuse(
        cause,
        "Does this port speak TLS? Then the log of the server says more",
    )
}

pub(super) fn refuse(cause: impl fmt::Display, hint: &str) -> Error {
    Error::new(Kind::Tls, format!("Connection failed: {cause}. {hint}"))
}
