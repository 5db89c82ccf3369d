//! Certificates: read and checked before anything listens, so that no server runs without the encryption it was asked for.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::access::refuse_if_shared;
use crate::diag::{Diagnostic, Result};

/// The settings of TLS 1.2 and 1.3 with this certificate chain and key, both in PEM.
///
/// # Errors
/// A file that cannot be read or holds none; a key of another certificate, or that others can read.
pub fn load(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>> {
    let wrong = |what: &str, path: &Path, why: &dyn std::fmt::Display| {
        Diagnostic::new("serve::tls", format!("no usable {what} in {}: {why}", path.display()))
            .help("give PEM files: a certificate with its chain, and its private key")
    };
    if key.exists() {
        refuse_if_shared(key)?;
    }
    let chain: Vec<CertificateDer> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|e| wrong("certificate", certificate, &e))?;
    if chain.is_empty() {
        return Err(wrong("certificate", certificate, &"there is none").into());
    }
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| wrong("private key", key, &e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|b| b.with_no_client_auth().with_single_cert(chain, secret))
        .map_err(|e| wrong("pair of certificate and key", certificate, &e))?;
    Ok(Arc::new(config))
}

/// The same with the protocols that a server speaks over TLS, in the order of preference.
pub fn speaking(config: &Arc<ServerConfig>, protocols: &[&[u8]]) -> Arc<ServerConfig> {
    let mut config = ServerConfig::clone(config);
    config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
    Arc::new(config)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        // Opened, it would be found to be no key.
        let key = tempfile::NamedTempFile::new().unwrap();
        for (mode, code) in [(0o644, "serve::secrets"), (0o600, "serve::tls")] {
            std::fs::set_permissions(key.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(load(key.path(), key.path()).unwrap_err().diagnostics[0].code, code);
        }
    }
}
