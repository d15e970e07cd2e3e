//! TLS for probes: which certificates are believed, and what is wrong with the others, in words.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::reason as io_reason;
use crate::config::Tls;

/// How one backend's certificate is checked. The certificates to check against are read by the
/// first probe; one that cannot read them fails, and the next one tries again.
#[derive(Debug)]
pub(super) struct Connector {
    tls: Tls,
    config: Option<Arc<ClientConfig>>,
}

impl Connector {
    pub(super) const fn new(tls: Tls) -> Self {
        Self { tls, config: None }
    }

    pub(super) async fn config(&mut self) -> Result<Arc<ClientConfig>, String> {
        if let Some(config) = &self.config {
            return Ok(Arc::clone(config));
        }
        let tls = self.tls.clone();
        // Files are read: not on a thread that other tasks wait for.
        let loaded = tokio::task::spawn_blocking(move || load(&tls))
            .await
            .map_err(|error| format!("TLS: failed to read certificates: {error}"))??;
        self.config = Some(Arc::clone(&loaded));
        Ok(loaded)
    }
}

fn load(tls: &Tls) -> Result<Arc<ClientConfig>, String> {
    /// The host's store is large, and shared by all backends that are checked against it.
    static SYSTEM: OnceLock<Arc<ClientConfig>> = OnceLock::new();

    let provider = Arc::new(ring::default_provider());
    match tls {
        Tls::None => {
            let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .map_err(|error| format!("TLS: {error}"))?;
            let verifier = Arc::new(BelieveAll(provider));
            Ok(finish(
                builder
                    .dangerous()
                    .with_custom_certificate_verifier(verifier)
                    .with_no_client_auth(),
            ))
        }
        Tls::System => {
            if let Some(config) = SYSTEM.get() {
                return Ok(Arc::clone(config));
            }
            let found = rustls_native_certs::load_native_certs();
            let mut roots = RootCertStore::empty();
            // Stores hold odd certificates; those that can be read are enough.
            let (added, _) = roots.add_parsable_certificates(found.certs);
            if added == 0 {
                return Err("TLS: no certificates in the host's store".to_owned());
            }
            let config = verifying(provider, roots, Vec::new())?;
            Ok(Arc::clone(SYSTEM.get_or_init(|| config)))
        }
        Tls::Ca(path) => {
            let (certificates, roots) = ca_file(path)?;
            verifying(provider, roots, certificates)
        }
    }
}

fn ca_file(path: &Path) -> Result<(Vec<CertificateDer<'static>>, RootCertStore), String> {
    let wrong = |what: &str| format!("TLS: CA file {}: {what}", path.display());
    let pem = std::fs::read(path).map_err(|error| wrong(&error.to_string()))?;
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        certificates.push(certificate.map_err(|error| wrong(&error.to_string()))?);
    }
    if certificates.is_empty() {
        return Err(wrong("no certificate in it"));
    }
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        roots.add(certificate.clone()).map_err(|error| wrong(&error.to_string()))?;
    }
    Ok((certificates, roots))
}

/// Verifies against `roots`; a certificate in `pinned` needs no issuer.
fn verifying(
    provider: Arc<CryptoProvider>,
    roots: RootCertStore,
    pinned: Vec<CertificateDer<'static>>,
) -> Result<Arc<ClientConfig>, String> {
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|error| format!("TLS: {error}"))?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?;
    let verifier = Arc::new(IssuerOrPinned { verifier, pinned });
    Ok(finish(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()))
}

fn finish(mut config: ClientConfig) -> Arc<ClientConfig> {
    // A resumed session does not show the certificate again: its expiry would go unseen.
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// The name that the certificate must be for: `host` without its port, else the address.
/// Only names are sent as SNI (RFC 6066 section 3).
pub(super) fn server_name(
    host: Option<&str>,
    address: IpAddr,
) -> Result<ServerName<'static>, String> {
    let Some(host) = host else { return Ok(ServerName::from(address)) };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') && port.bytes().all(|b| b.is_ascii_digit()) => {
            name
        }
        _ => host,
    };
    ServerName::try_from(name.to_owned())
        .map_err(|_| format!("TLS: `{host}` is no name that a certificate can be for"))
}

pub(super) async fn handshake(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, String> {
    TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(|error| reason(&error).unwrap_or_else(|| format!("TLS: {}", io_reason(&error))))
}

/// What is wrong, if the error is one of TLS.
pub(super) fn reason(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let words = match error {
        rustls::Error::InvalidCertificate(error) => match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "certificate expired".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "certificate is not valid yet".to_owned()
            }
            CertificateError::UnknownIssuer => {
                "certificate is from an issuer that is not trusted".to_owned()
            }
            CertificateError::NotValidForNameContext { expected, presented } => {
                let names = match presented.as_slice() {
                    [] => "no name".to_owned(),
                    names => names.iter().map(|name| bare(name)).collect::<Vec<_>>().join(", "),
                };
                format!("certificate is for {names}, not {}", expected.to_str())
            }
            CertificateError::NotValidForName => "certificate is for another name".to_owned(),
            error if is_marked_as_ca(error) => {
                "certificate is a CA's or self-signed, and not trusted itself".to_owned()
            }
            other => format!("certificate is not valid: {other}"),
        },
        rustls::Error::InvalidMessage(_) => "answer is not TLS".to_owned(),
        rustls::Error::AlertReceived(alert) => format!("the backend refused: {alert:?}"),
        other => other.to_string(),
    };
    Some(format!("TLS: {words}"))
}

/// `other.example` of `DnsName("other.example")`, `192.0.2.1` of `IpAddress(192.0.2.1)`: how
/// rustls tells names.
fn bare(name: &str) -> &str {
    let dns = name.strip_prefix("DnsName(\"").and_then(|rest| rest.strip_suffix("\")"));
    let ip = || name.strip_prefix("IpAddress(").and_then(|rest| rest.strip_suffix(')'));
    dns.or_else(ip).unwrap_or(name)
}

/// Verifies as rustls does, and takes a self-signed certificate that is itself in the CA file:
/// `openssl req -x509` makes such ones, marked as a CA's, which rustls refuses for a server.
#[derive(Debug)]
struct IssuerOrPinned {
    verifier: Arc<WebPkiServerVerifier>,
    pinned: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for IssuerOrPinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.verifier.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match verified {
            // Dates are looked at before this mark: one that is out of date does not come here.
            Err(rustls::Error::InvalidCertificate(error))
                if is_marked_as_ca(&error) && self.pinned.contains(end_entity) =>
            {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// rustls has no variant for this error of webpki's, and hands it on by its name.
fn is_marked_as_ca(error: &CertificateError) -> bool {
    matches!(error, CertificateError::Other(cause) if cause.0.to_string() == "CaUsedAsEndEntity")
}

/// Believes any certificate: for backends whose operator asked for no verification.
#[derive(Debug)]
struct BelieveAll(Arc<CryptoProvider>);

impl ServerCertVerifier for BelieveAll {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    // Old or odd certificates, such as X.509 version 1, cannot be parsed for their key: the
    // operator asked for no verification, so the signature is not looked at either.
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
