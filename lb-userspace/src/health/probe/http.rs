//! The HTTP probe: one HTTP/1.1 request on a connection of its own, plain or over TLS. Only the
//! status line and the headers are read.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;

use http_body_util::Empty;
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Answer, Deadline, connect, reason, tls};

/// Most bytes of status line and headers.
const MAX_HEAD: usize = 16 * 1024;

/// What is asked, and what counts as success.
pub(super) struct Request<'a> {
    pub(super) path: &'a str,
    pub(super) host: Option<&'a str>,
    /// Status codes; empty: 200 to 399.
    pub(super) expect: &'a [u16],
}

pub(super) async fn probe(
    backend: SocketAddr,
    request: &Request<'_>,
    tls: Option<&mut tls::Connector>,
    deadline: Deadline,
) -> Answer {
    let Some(tls) = tls else {
        let stream = connect(backend, deadline).await?;
        let host = host_header(request.host, backend, 80);
        return deadline
            .limit("connected, but no HTTP answer", exchange(stream, request, &host))
            .await;
    };
    // A certificate file that cannot be read is found before the backend is bothered.
    let config = deadline.limit("no certificates to verify with", tls.config()).await?;
    let name = tls::server_name(request.host, backend.ip())?;
    let stream = connect(backend, deadline).await?;
    let stream = deadline
        .limit("connected, but no TLS answer", tls::handshake(config, name, stream))
        .await?;
    let host = host_header(request.host, backend, 443);
    deadline.limit("connected, but no HTTP answer", exchange(stream, request, &host)).await
}

/// RFC 9110 section 7.2: the port is there unless it is the scheme's own.
fn host_header(host: Option<&str>, backend: SocketAddr, default_port: u16) -> String {
    match (host, backend.ip()) {
        (Some(host), _) => host.to_owned(),
        (None, IpAddr::V4(ip)) if backend.port() == default_port => ip.to_string(),
        (None, IpAddr::V6(ip)) if backend.port() == default_port => format!("[{ip}]"),
        (None, _) => backend.to_string(),
    }
}

async fn exchange<S>(stream: S, request: &Request<'_>, host: &str) -> Answer
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let message = hyper::Request::get(request.path)
        .header(HOST, host)
        .header(USER_AGENT, concat!("lb/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "*/*")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| format!("failed to form the request: {error}"))?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| http_reason(&error))?;
    let mut connection = pin!(connection);
    let mut answer = pin!(sender.send_request(message));
    let answer = tokio::select! {
        answer = &mut answer => answer,
        // The connection's end, good or bad, reaches the request as well.
        _ = &mut connection => answer.await,
    };
    judge(answer.map_err(|error| http_reason(&error))?.status(), request.expect)
}

fn judge(status: StatusCode, expect: &[u16]) -> Answer {
    let code = status.as_u16();
    let wanted = if expect.is_empty() {
        if (200..400).contains(&code) {
            return Ok(spoken(status));
        }
        "200-399".to_owned()
    } else {
        if expect.contains(&code) {
            return Ok(spoken(status));
        }
        expect.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")
    };
    Err(format!("status {code}, wanted {wanted}"))
}

fn spoken(status: StatusCode) -> String {
    match status.canonical_reason() {
        Some(phrase) => format!("{} {phrase}", status.as_u16()),
        None => format!("status {}", status.as_u16()),
    }
}

/// An error of HTTP, or of what lies under it, as people say it.
fn http_reason(error: &hyper::Error) -> String {
    if error.is_parse_too_large() {
        return format!("the answer's headers are larger than {} KiB", MAX_HEAD / 1024);
    }
    if error.is_parse() {
        return "answer is not HTTP".to_owned();
    }
    if error.is_incomplete_message() || error.is_closed() {
        return "connection closed before the answer".to_owned();
    }
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            return tls::reason(io).unwrap_or_else(|| reason(io));
        }
        source = cause.source();
    }
    format!("failed to talk HTTP: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_header_names_the_port_unless_it_is_the_default() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(host_header(Some("www.foobar.com"), at("192.0.2.1:8000"), 80), "www.foobar.com");
        assert_eq!(host_header(None, at("192.0.2.1:8000"), 80), "192.0.2.1:8000");
        assert_eq!(host_header(None, at("192.0.2.1:80"), 80), "192.0.2.1");
        assert_eq!(host_header(None, at("[2001:db8::1]:443"), 443), "[2001:db8::1]");
        assert_eq!(host_header(None, at("[2001:db8::1]:80"), 443), "[2001:db8::1]:80");
    }

    #[test]
    fn a_status_is_judged_by_the_list_or_by_its_class() {
        let status = |code| StatusCode::from_u16(code).unwrap();
        let table: &[(u16, &[u16], Result<&str, &str>)] = &[
            (200, &[], Ok("200 OK")),
            (302, &[], Ok("302 Found")),
            (399, &[], Ok("status 399")),
            (199, &[], Err("status 199, wanted 200-399")),
            (400, &[], Err("status 400, wanted 200-399")),
            (503, &[200, 204], Err("status 503, wanted 200, 204")),
            (503, &[503], Ok("503 Service Unavailable")),
            (200, &[204], Err("status 200, wanted 204")),
        ];
        for &(code, expect, answer) in table {
            let expected = answer.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(judge(status(code), expect), expected, "{code} {expect:?}");
        }
    }
}
