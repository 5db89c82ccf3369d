//! Where a database is and how to get in: an address, the environment, a password file, TLS. As `psql` does it.
//!
//! Promises: no password is in a message, a table or a recipe. Left out: certificates of clients, Kerberos, services.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::diag::Diagnostic;

/// How long a server may take to answer at first, unless PGCONNECT_TIMEOUT says otherwise.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reads a variable of the environment.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A way to a database.
pub struct Way {
    pub config: tokio_postgres::Config,
    pub trust: Trust,
    /// `host:port/database`, without anything secret.
    pub server: String,
    pub user: String,
}

/// Which servers are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    pub check: Check,
    /// Certificates of authorities, as PEM.
    pub roots: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Any: the connection is encrypted, but it may be with somebody else.
    Nothing,
    /// Whose certificate an authority signed.
    Authority,
    /// And whose name is in it.
    Name,
}

fn wrong(message: impl Into<String>, help: &str) -> Diagnostic {
    Diagnostic::new("export::postgres_url", message).help(help)
}

const FORMS: &str = "write `postgresql://user@host:5432/database` or `host=... port=... dbname=... user=...`";

/// Whether an address carries a password; `false` for what is no address.
pub fn has_password(url: &str) -> bool {
    let lower = url.to_lowercase();
    // Also where the rest is malformed: `user:secret@`.
    let of_user =
        lower.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@')).is_some_and(|(u, _)| u.contains(':'));
    let close: String = lower.split_whitespace().collect();
    of_user || close.contains("password=") || parse(url).is_ok_and(|(config, _)| config.get_password().is_some())
}

/// The address, and the parameters of TLS that tokio-postgres does not know all values of.
fn parse(url: &str) -> Result<(tokio_postgres::Config, Vec<(String, String)>), Diagnostic> {
    // What the parser says may repeat a part of a password.
    let wrong = || wrong("the address of the database cannot be read", FORMS);
    let mut taken = Vec::new();
    let mut take = |key: String, value: String| {
        let ours = matches!(key.as_str(), "sslmode" | "sslrootcert");
        if ours {
            taken.push((key, value));
        }
        ours
    };
    let rest = if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        let mut is_left = |part: &&str| match part.split_once('=') {
            Some((key, value)) => !take(decoded(key), decoded(value)),
            None => true,
        };
        match url.split_once('?') {
            Some((place, options)) => {
                let options: Vec<&str> = options.split('&').filter(&mut is_left).collect();
                if options.is_empty() { place.to_string() } else { format!("{place}?{}", options.join("&")) }
            }
            None => url.to_string(),
        }
    } else {
        let settings = keywords(url).ok_or_else(wrong)?;
        let left = settings.into_iter().filter(|(key, value)| !take(key.clone(), value.clone()));
        let written =
            |(key, value): (String, String)| format!("{key}='{}'", value.replace('\\', r"\\").replace('\'', r"\'"));
        left.map(written).collect::<Vec<_>>().join(" ")
    };
    let config = rest.parse().map_err(|_| wrong())?;
    Ok((config, taken))
}

/// The settings of `key = value`, as libpq reads them: spaces around `=`, values in quotes, and `\` before what stands for
/// itself.
fn keywords(text: &str) -> Option<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Some(found);
        }
        let mut key = String::new();
        while let Some(c) = chars.next_if(|c| !c.is_whitespace() && *c != '=') {
            key.push(c);
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        chars.next_if_eq(&'=')?;
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let quoted = chars.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match chars.next() {
                None if quoted => return None,
                None => break,
                Some('\'') if quoted => break,
                Some(c) if !quoted && c.is_whitespace() => break,
                Some('\\') => value.extend(chars.next()),
                Some(c) => value.push(c),
            }
        }
        found.push((key, value));
    }
}

/// The text that a part of a URL stands for; what is no text stays as it is.
fn decoded(part: &str) -> String {
    let digit = |c: Option<&u8>| c.and_then(|c| char::from(*c).to_digit(16));
    let (bytes, mut out, mut at) = (part.as_bytes(), Vec::new(), 0_usize);
    while let Some(byte) = bytes.get(at) {
        match (byte, digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| part.to_string())
}

impl Way {
    /// To where `url` says, and for the rest the environment.
    ///
    /// # Errors
    /// An address, a mode of TLS or a port that cannot be; a file of authorities that is needed and not there.
    pub fn new(url: Option<&str>, env: Env) -> Result<Way, Diagnostic> {
        let (mut config, taken) = url.map_or_else(|| Ok((tokio_postgres::Config::new(), Vec::new())), parse)?;
        let set = |name: &str| env(name).filter(|v| !v.is_empty());
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            set("PGHOST").iter().flat_map(|hosts| hosts.split(',')).for_each(|host| {
                config.host(host);
            });
        }
        if config.get_ports().is_empty() {
            for port in set("PGPORT").iter().flat_map(|ports| ports.split(',')) {
                config.port(port.parse().map_err(|_| wrong("PGPORT is not a port", "write a number up to 65535"))?);
            }
        }
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            config.host(usual_host(config.get_ports().first().copied().unwrap_or(5432)));
        }
        let user = config.get_user().map(str::to_string);
        let user = user.or_else(|| set("PGUSER")).or_else(|| set("USER")).or_else(|| set("LOGNAME"));
        let user = user.unwrap_or_else(|| "postgres".to_string());
        config.user(&user);
        let database = config.get_dbname().map(str::to_string).or_else(|| set("PGDATABASE")).unwrap_or(user.clone());
        config.dbname(&database);
        if let (None, Some(options)) = (config.get_options(), set("PGOPTIONS")) {
            config.options(options);
        }
        if config.get_application_name().is_none() {
            config.application_name(set("PGAPPNAME").unwrap_or_else(|| "pipe".to_string()));
        }
        if config.get_connect_timeout().is_none() {
            let given = set("PGCONNECT_TIMEOUT").and_then(|s| s.parse().ok()).filter(|s| *s > 0);
            config.connect_timeout(given.map_or(PATIENCE, Duration::from_secs));
        }
        if config.get_password().is_none()
            && let Some(password) = set("PGPASSWORD").or_else(|| from_file(&config, &user, &database, &set))
        {
            config.password(password);
        }
        let trust = trust(&mut config, &taken, &set)?;
        Ok(Way { server: server(&config, &database), config, trust, user })
    }

    /// What TLS is made with.
    ///
    /// # Errors
    /// The file of authorities cannot be read.
    pub fn tls(&self) -> Result<MakeRustlsConnect, Diagnostic> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| wrong(format!("cannot set up TLS: {e}"), "sslmode=disable goes without"))?;
        let judge = Judge { check: self.trust.check, chain: self.trust.chain(&provider)?, provider };
        let config = config.dangerous().with_custom_certificate_verifier(Arc::new(judge)).with_no_client_auth();
        Ok(MakeRustlsConnect::new(config))
    }
}

impl Trust {
    fn chain(&self, provider: &Arc<CryptoProvider>) -> Result<Option<Arc<WebPkiServerVerifier>>, Diagnostic> {
        let Some(file) = self.roots.as_ref().filter(|_| self.check != Check::Nothing) else { return Ok(None) };
        let help = "PGSSLROOTCERT names a file of certificates in PEM format";
        let unreadable = |e: &dyn std::fmt::Display| wrong(format!("cannot read {}: {e}", file.display()), help);
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(file).map_err(|e| unreadable(&e))? {
            let certificate = certificate.map_err(|e| unreadable(&e))?;
            roots.add(certificate).map_err(|e| unreadable(&e))?;
        }
        let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
        built.map(Some).map_err(|e| unreadable(&e))
    }
}

fn trust(
    config: &mut tokio_postgres::Config,
    taken: &[(String, String)],
    set: &dyn Fn(&str) -> Option<String>,
) -> Result<Trust, Diagnostic> {
    let given = |key: &str| taken.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.clone());
    // What the parser found and we did not still counts.
    let found = match config.get_ssl_mode() {
        SslMode::Require => Some("require".to_string()),
        SslMode::Disable => Some("disable".to_string()),
        _ => None,
    };
    let mode = given("sslmode").or(found).or_else(|| set("PGSSLMODE")).unwrap_or_else(|| "prefer".to_string());
    let usual = || set("HOME").map(|home| Path::new(&home).join(".postgresql/root.crt")).filter(|file| file.is_file());
    let roots = given("sslrootcert").or_else(|| set("PGSSLROOTCERT")).map(PathBuf::from).or_else(usual);
    let (ssl, check) = match mode.as_str() {
        "disable" => (SslMode::Disable, Check::Nothing),
        "allow" | "prefer" => (SslMode::Prefer, Check::Nothing),
        // A file of authorities is there to be used.
        "require" if roots.is_none() => (SslMode::Require, Check::Nothing),
        "require" | "verify-ca" => (SslMode::Require, Check::Authority),
        "verify-full" => (SslMode::Require, Check::Name),
        other => {
            let help = "valid: disable, prefer, require, verify-ca, verify-full";
            return Err(wrong(format!("sslmode is `{other}`"), help));
        }
    };
    if check != Check::Nothing && roots.is_none() {
        let help = "set PGSSLROOTCERT to a file with the certificates of the authorities, in PEM format";
        return Err(wrong(format!("sslmode is `{mode}`, and there are no authorities to check with"), help));
    }
    // PostgreSQL speaks no TLS over the sockets of a machine.
    let local =
        config.get_hosts().iter().all(|host| !matches!(host, Host::Tcp(_))) && config.get_hostaddrs().is_empty();
    config.ssl_mode(if local { SslMode::Disable } else { ssl });
    Ok(Trust { check, roots })
}

/// Where a server of this machine listens.
fn usual_host(port: u16) -> String {
    let listens = |dir: &&str| Path::new(dir).join(format!(".s.PGSQL.{port}")).exists();
    ["/var/run/postgresql", "/tmp"].into_iter().find(listens).unwrap_or("localhost").to_string()
}

/// `host:port/database`.
fn server(config: &tokio_postgres::Config, database: &str) -> String {
    let port = |i: usize| config.get_ports().get(i).or(config.get_ports().first()).copied().unwrap_or(5432);
    let mut places: Vec<String> =
        config.get_hosts().iter().enumerate().map(|(i, host)| format!("{}:{}", host_name(host), port(i))).collect();
    if places.is_empty() {
        places = config.get_hostaddrs().iter().enumerate().map(|(i, a)| format!("{a}:{}", port(i))).collect();
    }
    format!("{}/{database}", places.join(","))
}

fn host_name(host: &Host) -> String {
    match host {
        Host::Tcp(name) => name.clone(),
        #[cfg(unix)]
        Host::Unix(dir) => dir.display().to_string(),
    }
}

/// The password of the first line of `~/.pgpass`, or PGPASSFILE, that fits.
fn from_file(
    config: &tokio_postgres::Config,
    user: &str,
    database: &str,
    set: &dyn Fn(&str) -> Option<String>,
) -> Option<String> {
    let file = set("PGPASSFILE").map(PathBuf::from);
    let file = file.or_else(|| set("HOME").map(|home| Path::new(&home).join(".pgpass")))?;
    let text = std::fs::read_to_string(&file).ok()?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&file).ok()?.permissions().mode();
        if mode & 0o077 != 0 {
            tracing::warn!("{} is not used: others can read it; `chmod 600` it", file.display());
            return None;
        }
    }
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(name)) => name.clone(),
        // As libpq calls the machine itself.
        _ => "localhost".to_string(),
    };
    let port = config.get_ports().first().copied().unwrap_or(5432).to_string();
    text.lines().find_map(|line| password_of(line, [&host, &port, database, user]))
}

/// The fifth field of a line of a password file, if the first four fit. `*` fits everything, `\` escapes.
fn password_of(line: &str, wanted: [&str; 4]) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let mut fields = vec![String::new()];
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            ':' if fields.len() < 5 => fields.push(String::new()),
            c => {
                let c = if c == '\\' { chars.next()? } else { c };
                fields.last_mut()?.push(c);
            }
        }
    }
    let fits = fields.iter().zip(wanted).all(|(field, wanted)| field == "*" || field == wanted);
    if fits && fields.len() == 5 { fields.pop() } else { None }
}

/// Judges the certificates of servers.
#[derive(Debug)]
struct Judge {
    check: Check,
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
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
        let Some(chain) = &self.chain else {
            return match self.check {
                Check::Nothing => Ok(ServerCertVerified::assertion()),
                Check::Authority | Check::Name => {
                    Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))
                }
            };
        };
        match chain.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            // Names are looked at last: the rest is right.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.check == Check::Authority => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(url: Option<&str>, vars: &[(&str, &str)]) -> Result<Way, Diagnostic> {
        let env = |name: &str| vars.iter().find(|(k, _)| *k == name).map(|(_, v)| (*v).to_string());
        Way::new(url, &env)
    }

    #[test]
    fn the_address_comes_first_and_then_the_environment() {
        let check = |url: Option<&str>, vars: &[(&str, &str)], server: &str, user: &str| {
            let way = way(url, vars).unwrap();
            assert_eq!((way.server.as_str(), way.user.as_str()), (server, user), "{url:?} {vars:?}");
        };
        let vars = [("PGHOST", "db.example"), ("PGPORT", "6432"), ("PGDATABASE", "d"), ("PGUSER", "u")];
        check(None, &vars, "db.example:6432/d", "u");
        check(Some("postgresql://me@other:5433/x"), &vars, "other:5433/x", "me");
        check(Some("postgresql://other"), &vars, "other:5432/d", "u");
        check(Some("host=other"), &vars, "other:6432/d", "u");
        check(Some("host=a,b port=1,2 user=me"), &[], "a:1,b:2/me", "me");
        check(Some("postgresql:///x?host=/run/pg&sslmode=verify-ca&sslrootcert=a"), &vars, "/run/pg:6432/x", "u");
        assert!(way(None, &[("PGPORT", "x"), ("PGHOST", "h")]).is_err());
        let secret = way(Some("postgresql://u:hunter2@h:port/d"), &[]).err().unwrap();
        assert!(!format!("{secret:?}").contains("hunter2"));
    }

    #[test]
    fn passwords_are_found_where_psql_finds_them() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pass");
        std::fs::write(&file, "# h:5432:d:u:no\nh:1:d:u:port\nh:*:d:u:a\\:b\\\\:c\n*:*:*:*:rest\n").unwrap();
        #[cfg(unix)]
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let path = file.to_str().unwrap();
        let password = |url: &str, vars: &[(&str, &str)]| {
            let found = way(Some(url), vars).unwrap().config;
            found.get_password().map(|p| String::from_utf8_lossy(p).into_owned())
        };
        assert_eq!(password("postgresql://u@h/d", &[("PGPASSFILE", path)]).unwrap(), "a:b\\:c");
        assert_eq!(password("postgresql://v@h/d", &[("PGPASSFILE", path)]).unwrap(), "rest");
        assert_eq!(password("postgresql://u@h/d", &[("PGPASSFILE", path), ("PGPASSWORD", "p")]).unwrap(), "p");
        assert_eq!(password("postgresql://u:q@h/d", &[("PGPASSWORD", "p")]).unwrap(), "q");
        assert_eq!(password("postgresql://u@h/d", &[]), None);
        for (url, has) in [
            ("postgresql://u:q@h/d", true),
            ("postgresql://u@h/d", false),
            ("host=h password=q", true),
            ("postgresql://h/d?password=q", true),
            ("host=h", false),
        ] {
            assert_eq!(has_password(url), has, "{url}");
        }
    }

    #[test]
    fn modes_of_tls_are_those_of_psql() {
        let check = |mode: &str, roots: Option<&str>, expect: Option<(SslMode, Check)>| {
            let mut vars = vec![("PGHOST", "h"), ("PGUSER", "u"), ("PGSSLMODE", mode)];
            vars.extend(roots.map(|r| ("PGSSLROOTCERT", r)));
            let found = way(None, &vars).ok().map(|w| (w.config.get_ssl_mode(), w.trust.check));
            assert_eq!(found, expect, "{mode} {roots:?}");
        };
        check("disable", None, Some((SslMode::Disable, Check::Nothing)));
        check("prefer", None, Some((SslMode::Prefer, Check::Nothing)));
        check("require", None, Some((SslMode::Require, Check::Nothing)));
        check("require", Some("ca.pem"), Some((SslMode::Require, Check::Authority)));
        check("verify-ca", Some("ca.pem"), Some((SslMode::Require, Check::Authority)));
        check("verify-full", Some("ca.pem"), Some((SslMode::Require, Check::Name)));
        check("verify-full", None, None);
        check("sometimes", None, None);
        let of_address = |address: &str, expect: (SslMode, Check, Option<&str>)| {
            let way = way(Some(address), &[("PGUSER", "u"), ("PGSSLMODE", "disable")]).unwrap();
            let roots = way.trust.roots.as_ref().and_then(|r| r.to_str());
            assert_eq!((way.config.get_ssl_mode(), way.trust.check, roots), expect, "{address}");
        };
        let require = (SslMode::Require, Check::Nothing, None);
        of_address("postgresql://h/d?sslmode=require", require);
        of_address("postgresql://h/d?ssl%6Dode=require&connect_timeout=3", require);
        // A `?` that should have been escaped.
        of_address("postgresql://u:a?b@h/d?sslmode=require", require);
        of_address("host=h sslmode=require", require);
        of_address("host=h password='a b' sslmode=require", require);
        of_address(r"host = h sslmode = 'require' password = 'it\'s = x'", require);
        of_address("host=h sslmode=disable sslmode=require", require);
        let full = (SslMode::Require, Check::Name, Some("/a b/ca.pem"));
        of_address("postgresql://h/d?sslmode=verify-full&sslrootcert=%2Fa%20b%2Fca.pem", full);
        of_address("host=h sslmode='verify-full' sslrootcert='/a b/ca.pem'", full);
        assert!(way(Some("host=h password='x"), &[]).is_err());
        assert!(has_password("host=h password = x"));
    }
}
