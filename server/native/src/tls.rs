//! TLS, one-sided and mutual.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

/// What the server proves itself with, in PEM, and whose callers it takes.
pub struct Identity {
    /// The server's certificate, and those between it and the one that callers know.
    pub certificates: Vec<u8>,
    /// Its private key.
    pub key: Vec<u8>,
    /// Callers have to show a certificate that one of these has signed; None: they need none.
    pub authorities: Option<Vec<u8>>,
}

/// The identity is of no use; the text shows nothing of the key.
#[derive(Debug)]
pub struct Unusable(String);

impl fmt::Display for Unusable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

fn unusable(what: &str) -> Unusable {
    Unusable(what.to_owned())
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(read) if !read.is_empty() => Ok(read),
        _ => Err(unusable(what)),
    }
}

/// Make what TLS connections are accepted with; HTTP/2 is the only protocol that is offered.
pub fn config(identity: &Identity) -> Result<Arc<ServerConfig>, Unusable> {
    let chain = certificates(
        &identity.certificates,
        "server_cert: expected certificates in PEM",
    )?;
    let key = PrivateKeyDer::from_pem_slice(&identity.key)
        .map_err(|_| unusable("server_key: expected a private key in PEM without a passphrase"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|_| unusable("TLS 1.2 and 1.3 are not to be had"))?;
    let builder = match &identity.authorities {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(pem, "custom_ca: expected certificates in PEM")? {
                roots
                    .add(authority)
                    .map_err(|_| unusable("custom_ca: a certificate is of no use"))?;
            }
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(
                verifier.map_err(|_| unusable("custom_ca: expected certificates in PEM"))?,
            )
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|_| unusable("server_key: expected the private key of server_cert"))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}
