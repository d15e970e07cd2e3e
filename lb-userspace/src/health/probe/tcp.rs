//! The TCP probe: a connection is opened and closed again.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::{Deadline, Finding, connect};

/// How long the backend gets to close its side.
const GOODBYE: Duration = Duration::from_millis(200);

pub(super) async fn probe(backend: SocketAddr, start: Instant, deadline: Deadline) -> Finding {
    match connect(backend, deadline).await {
        Ok(stream) => {
            let finding = Finding::passed("connected".to_owned(), start.elapsed());
            close(stream).await;
            finding
        }
        Err(what) => Finding::failed(what, start.elapsed()),
    }
}

/// Closes with FIN. A socket that is dropped with unread bytes, such as a server's greeting,
/// sends RST instead, which many servers log or even count against the client (MySQL's
/// `max_connect_errors`): read until the backend closes too, for a while.
async fn close(mut stream: TcpStream) {
    // Whether the backend likes the goodbye does not matter: it has accepted the connection.
    let _ = timeout(GOODBYE, async {
        if stream.shutdown().await.is_ok() {
            let mut unread = [0; 1024];
            while matches!(stream.read(&mut unread).await, Ok(1..)) {}
        }
    })
    .await;
}
