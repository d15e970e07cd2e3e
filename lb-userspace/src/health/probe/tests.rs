//! Probes against servers on loopback that behave, and that misbehave in each of the usual ways.

use std::io::Write;
use std::net::Ipv4Addr;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::config::Tls;

const LONG: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_millis(300);

/// What a server does with a connection whose request it has read.
#[derive(Clone)]
enum Manner {
    Says(&'static [u8]),
    EndlessHeaders,
    Silent,
    Closes,
    Resets,
}

/// Starts a server for many connections; gives its port.
async fn serve(manner: Manner, tls: Option<TlsAcceptor>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (manner, tls) = (manner.clone(), tls.clone());
            tokio::spawn(async move {
                match tls {
                    None => {
                        if matches!(manner, Manner::Resets) {
                            // A close with time zero sends RST instead of FIN.
                            stream.set_zero_linger().unwrap();
                        }
                        behave(stream, manner).await;
                    }
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            behave(stream, manner).await;
                        }
                    }
                }
            });
        }
    });
    port
}

async fn behave<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, manner: Manner) {
    let mut request = vec![0; 4096];
    let length = stream.read(&mut request).await.unwrap_or(0);
    let request = String::from_utf8_lossy(&request[..length]).into_owned();
    match manner {
        Manner::Says(b"echo") => {
            // The request comes back as the reason phrase's place holder: in a header.
            let seen = request.replace("\r\n", "|");
            let wanted = "GET /healthz?x=1 HTTP/1.1|host: www.foobar.com|user-agent: lb/";
            let fine = seen.starts_with(wanted) && seen.contains("|connection: close|");
            let status = if fine { "204 No Content" } else { "400 Bad Request" };
            let answer = format!("HTTP/1.1 {status}\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.ok();
        }
        Manner::Says(bytes) => {
            stream.write_all(bytes).await.ok();
            stream.shutdown().await.ok();
        }
        Manner::EndlessHeaders => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n").await.ok();
            while stream.write_all(b"x-more: and more and more and more\r\n").await.is_ok() {}
        }
        Manner::Silent => std::future::pending().await,
        Manner::Closes | Manner::Resets => {}
    }
}

async fn ask(port: u16, probe: Probe, timeout: Duration) -> Finding {
    Prober::new(Ipv4Addr::LOCALHOST.into(), port, probe).probe(timeout).await
}

fn http(expect: &[u16]) -> Probe {
    Probe::Http { path: "/".to_owned(), host: None, expect: expect.to_vec(), tls: None }
}

fn https(host: &str, tls: Tls) -> Probe {
    Probe::Http {
        path: "/".to_owned(),
        host: Some(host.to_owned()),
        expect: vec![],
        tls: Some(tls),
    }
}

fn assert_failed(finding: &Finding, words: &str) {
    assert_eq!((finding.passed, finding.words.as_str()), (false, words));
    assert_eq!(finding.what, words);
}

fn assert_passed(finding: &Finding, what: &str) {
    assert!(finding.passed, "{finding:?}");
    assert_eq!(finding.what, what);
    assert_eq!(finding.words, format!("{what} in {}", spoken(finding.took)));
}

#[tokio::test]
async fn a_listening_port_passes_the_tcp_probe_and_sees_an_orderly_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // A greeting, as MySQL or SSH send: unread, it must not turn the end into a reset.
        stream.write_all(b"hello").await.unwrap();
        stream.read(&mut [0; 10]).await
    });
    assert_passed(&ask(port, Probe::Tcp, LONG).await, "connected");
    assert_eq!(server.await.unwrap().expect("reset instead of an end"), 0);
}

#[tokio::test]
async fn a_closed_port_refuses() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    assert_failed(&ask(port, Probe::Tcp, LONG).await, "connection refused");
    assert_failed(&ask(port, http(&[]), LONG).await, "connection refused");
}

#[tokio::test]
async fn a_full_accept_queue_gives_no_answer_in_time() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    // One connection fills the queue; the next ones' SYNs are dropped.
    let mut held = Vec::new();
    for _ in 0..4 {
        let attempt = tokio::time::timeout(Duration::from_millis(50), TcpStream::connect(address));
        held.push(attempt.await);
    }
    let finding = ask(address.port(), Probe::Tcp, SHORT).await;
    assert_failed(&finding, "no answer in 300ms");
    assert!(finding.took >= SHORT && finding.took < SHORT * 3, "{finding:?}");
}

#[tokio::test]
async fn a_good_answer_passes_and_the_request_is_as_promised() {
    let port = serve(Manner::Says(b"echo"), None).await;
    let probe = Probe::Http {
        path: "/healthz?x=1".to_owned(),
        host: Some("www.foobar.com".to_owned()),
        expect: vec![204],
        tls: None,
    };
    assert_passed(&ask(port, probe, LONG).await, "204 No Content");
}

#[tokio::test]
async fn bad_answers_are_named() {
    let mut long_line = Vec::from(*b"HTTP/1.1 200 OK\r\nx: ");
    long_line.resize(100_000, b'y');
    let long_line: &'static [u8] = long_line.leak();
    let too_large = "the answer's headers are larger than 16 KiB";
    let closed = "connection closed before the answer";
    let table = [
        (Manner::Says(b"HTTP/1.1 503 Busy\r\n\r\n"), "status 503, wanted 200-399"),
        (Manner::Says(b"HTTP/1.0 404 Gone fishing\r\n\r\n"), "status 404, wanted 200-399"),
        (Manner::Says(b"SSH-2.0-OpenSSH_9.2p1\r\n"), "answer is not HTTP"),
        (Manner::Says(b"\x16\x03\x01\x00\x00\xff\xfe\n\n\n"), "answer is not HTTP"),
        (Manner::Says(b"HTTP/1.1 2"), closed),
        (Manner::Says(b""), closed),
        (Manner::Closes, closed),
        (Manner::Resets, "connection reset"),
        (Manner::EndlessHeaders, too_large),
        (Manner::Says(long_line), too_large),
        (Manner::Silent, "connected, but no HTTP answer in 300ms"),
    ];
    for (manner, words) in table {
        let timeout = if matches!(manner, Manner::Silent) { SHORT } else { LONG };
        let port = serve(manner, None).await;
        assert_failed(&ask(port, http(&[]), timeout).await, words);
    }
}

#[tokio::test]
async fn only_the_wanted_statuses_pass() {
    let port = serve(Manner::Says(b"HTTP/1.1 503 Busy\r\n\r\n"), None).await;
    assert_passed(&ask(port, http(&[503]), LONG).await, "503 Service Unavailable");
    assert_failed(&ask(port, http(&[200, 204]), LONG).await, "status 503, wanted 200, 204");
}

#[tokio::test]
async fn a_body_that_never_comes_is_not_waited_for() {
    let port = serve(Manner::Says(b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\nx"), None).await;
    assert_passed(&ask(port, http(&[]), LONG).await, "200 OK");
}

/// A certificate authority, as a PEM file, and servers with certificates by it.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: tempfile::NamedTempFile,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Authorities differ by name as well as by key, as they do in the world.
        let name = format!("Authority {:?}", key.public_key_raw());
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(certificate.pem().as_bytes()).unwrap();
        Self { issuer: Issuer::new(params, key), file }
    }

    fn tls(&self) -> Tls {
        Tls::Ca(self.file.path().to_owned())
    }

    async fn serve(&self, names: &[&str], until: i32, manner: Manner) -> u16 {
        let key = KeyPair::generate().unwrap();
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        serve(manner, Some(acceptor(&certificate, &key))).await
    }
}

fn acceptor(certificate: &Certificate, key: &KeyPair) -> TlsAcceptor {
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

const FINE: Manner = Manner::Says(b"HTTP/1.1 200 OK\r\n\r\n");

#[tokio::test]
async fn https_passes_with_the_right_certificate_and_again_on_later_probes() {
    let authority = Authority::new();
    let port = authority.serve(&["www.foobar.com"], 2099, FINE).await;
    let probe = https("www.foobar.com:8443", authority.tls());
    let mut prober = Prober::new(Ipv4Addr::LOCALHOST.into(), port, probe);
    for _ in 0..3 {
        assert_passed(&prober.probe(LONG).await, "200 OK");
    }
}

#[tokio::test]
async fn https_by_address_verifies_the_address() {
    let authority = Authority::new();
    let probe = Probe::Http {
        path: "/".to_owned(),
        host: None,
        expect: vec![],
        tls: Some(authority.tls()),
    };
    let port = authority.serve(&["127.0.0.1"], 2099, FINE).await;
    assert_passed(&ask(port, probe.clone(), LONG).await, "200 OK");
    let port = authority.serve(&["other.example", "192.0.2.1"], 2099, FINE).await;
    let words = "TLS: certificate is for other.example, 192.0.2.1, not 127.0.0.1";
    assert_failed(&ask(port, probe, LONG).await, words);
}

#[tokio::test]
async fn certificates_that_are_wrong_are_named_and_pass_without_verification() {
    let authority = Authority::new();
    let port = authority.serve(&["other.example", "*.sub.example"], 2099, FINE).await;
    let finding = ask(port, https("www.foobar.com", authority.tls()), LONG).await;
    let words = "TLS: certificate is for other.example, *.sub.example, not www.foobar.com";
    assert_failed(&finding, words);
    assert_passed(&ask(port, https("www.foobar.com", Tls::None), LONG).await, "200 OK");

    let port = authority.serve(&["www.foobar.com"], 2021, FINE).await;
    let finding = ask(port, https("www.foobar.com", authority.tls()), LONG).await;
    assert_failed(&finding, "TLS: certificate expired");
    assert_passed(&ask(port, https("www.foobar.com", Tls::None), LONG).await, "200 OK");

    let port = authority.serve(&["www.foobar.com"], 2099, FINE).await;
    let stranger = Authority::new();
    let finding = ask(port, https("www.foobar.com", stranger.tls()), LONG).await;
    assert_failed(&finding, "TLS: certificate is from an issuer that is not trusted");
}

#[tokio::test]
async fn a_self_signed_certificate_passes_if_it_is_the_ca_file_and_right_otherwise() {
    let name = "www.foobar.com";
    let trusted = "200 OK";
    let table = [
        (2099, name, true, Ok(trusted)),
        (
            2099,
            "other.example",
            true,
            Err("TLS: certificate is for www.foobar.com, not other.example"),
        ),
        (2021, name, true, Err("TLS: certificate expired")),
        (
            2099,
            name,
            false,
            Err("TLS: certificate is a CA's or self-signed, and not trusted itself"),
        ),
    ];
    for (until, host, is_in_file, answer) in table {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        // As `openssl req -x509` does.
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let certificate = params.self_signed(&key).unwrap();
        let authority = Authority::new();
        if is_in_file {
            std::fs::write(authority.file.path(), certificate.pem()).unwrap();
        }
        let port = serve(FINE, Some(acceptor(&certificate, &key))).await;
        let finding = ask(port, https(host, authority.tls()), LONG).await;
        match answer {
            Ok(what) => assert_passed(&finding, what),
            Err(words) => assert_failed(&finding, words),
        }
    }
}

#[tokio::test]
async fn the_hosts_store_does_not_trust_a_private_authority() {
    let authority = Authority::new();
    let port = authority.serve(&["www.foobar.com"], 2099, FINE).await;
    let finding = ask(port, https("www.foobar.com", Tls::System), LONG).await;
    // A minimal host has no store at all.
    let expected = [
        "TLS: certificate is from an issuer that is not trusted",
        "TLS: no certificates in the host's store",
    ];
    assert!(!finding.passed && expected.contains(&finding.words.as_str()), "{finding:?}");
}

#[tokio::test]
async fn servers_that_do_not_speak_tls_are_named() {
    let closed = "TLS: connection closed before the answer";
    let table = [
        (Manner::Says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "TLS: answer is not TLS"),
        (Manner::Closes, closed),
        (Manner::Resets, "TLS: connection reset"),
        (Manner::Silent, "connected, but no TLS answer in 300ms"),
    ];
    for (manner, words) in table {
        let timeout = if matches!(manner, Manner::Silent) { SHORT } else { LONG };
        let port = serve(manner, None).await;
        assert_failed(&ask(port, https("www.foobar.com", Tls::None), timeout).await, words);
    }
    let authority = Authority::new();
    let port = authority.serve(&["www.foobar.com"], 2099, Manner::Silent).await;
    let finding = ask(port, https("www.foobar.com", authority.tls()), SHORT).await;
    assert_failed(&finding, "connected, but no HTTP answer in 300ms");
}

#[tokio::test]
async fn a_bad_ca_file_fails_the_check_in_words_until_it_is_mended() {
    let authority = Authority::new();
    let port = authority.serve(&["www.foobar.com"], 2099, FINE).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca.pem");
    let probe = https("www.foobar.com", Tls::Ca(path.clone()));
    let mut prober = Prober::new(Ipv4Addr::LOCALHOST.into(), port, probe);
    let wrong = |what: &str| format!("TLS: CA file {}: {what}", path.display());

    let missing = wrong("No such file or directory (os error 2)");
    assert_failed(&prober.probe(LONG).await, &missing);
    std::fs::write(&path, "nothing that looks like PEM").unwrap();
    assert_failed(&prober.probe(LONG).await, &wrong("no certificate in it"));
    let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    std::fs::write(&path, nonsense).unwrap();
    let finding = prober.probe(LONG).await;
    assert!(!finding.passed && finding.words.starts_with(&wrong("")), "{finding:?}");

    std::fs::copy(authority.file.path(), &path).unwrap();
    assert_passed(&prober.probe(LONG).await, "200 OK");
}

#[test]
fn errors_of_sockets_are_named_as_people_do() {
    for (code, words) in [
        (libc::ECONNREFUSED, "connection refused"),
        (libc::ECONNRESET, "connection reset"),
        (libc::EHOSTUNREACH, "host unreachable"),
        (libc::ENETUNREACH, "network unreachable"),
        (libc::ETIMEDOUT, "no answer"),
        (libc::EADDRNOTAVAIL, "no free local address or port"),
        (libc::EMFILE, "failed to talk to the backend: Too many open files (os error 24)"),
    ] {
        assert_eq!(reason(&io::Error::from_raw_os_error(code)), words);
    }
}

#[test]
fn times_are_spoken_shortly() {
    let table = [(400, "0.4 ms"), (3_140, "3.1 ms"), (31_400, "31 ms"), (1_240_000, "1.2 s")];
    for (micros, words) in table {
        assert_eq!(spoken(Duration::from_micros(micros)), words);
    }
}
