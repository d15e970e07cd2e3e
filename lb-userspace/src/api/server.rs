//! The daemon's end of the control API: HTTP over a unix socket, one [`Request`] to the
//! controller for each call. It decides nothing about backends and holds no state.
//!
//! Whatever comes in, the worst outcome is an error answer to whoever sent it.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::extract::connect_info::Connected;
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Request;
use super::routes::{self, Controller};

/// How long the controller may take for one request.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long requests under way may take when the server stops.
const STOP_WITHIN: Duration = Duration::from_secs(2);
/// Longest request body, in bytes: an edit or a flow, with plenty of room for a reason.
pub(super) const MAX_BODY: usize = 64 * 1024;
/// The same where the body holds a configuration file: thousands of backends.
pub(super) const MAX_FILE_BODY: usize = 4 * 1024 * 1024;
/// Connections that wait to be accepted; operators and scripts, not clients.
const BACKLOG: u32 = 64;
/// Owner and group may connect.
const MODE: u32 = 0o660;

/// A running server. Dropped without [`Server::shutdown`], it stops too, but leaves its socket
/// file behind.
#[derive(Debug)]
pub struct Server {
    socket: SocketFile,
    stop: DropGuard,
    task: JoinHandle<std::io::Result<()>>,
}

/// Serves the API on a unix socket at `path` until [`Server::shutdown`].
///
/// Creates the parent directory, removes a socket file on which nobody answers, and lets the
/// owner and group of the new one connect (mode 0660). Each call becomes a [`Request`] sent to
/// the controller, which answers on its oneshot within 10 seconds, or 60 where it goes through flows.
///
/// # Errors
/// When another daemon answers on the socket, when `path` is something else than a socket, or
/// when the file system refuses.
pub async fn serve(path: &Path, requests: mpsc::Sender<Request>) -> anyhow::Result<Server> {
    serve_within(path, requests, ANSWER_WITHIN).await
}

/// [`serve`], with the controller's time as the caller wants it.
pub(crate) async fn serve_within(
    path: &Path,
    requests: mpsc::Sender<Request>,
    answer_within: Duration,
) -> anyhow::Result<Server> {
    let (listener, socket) = bind(path)
        .await
        .with_context(|| format!("failed to open the control socket {}", path.display()))?;
    let service = router(Controller::new(requests, answer_within))
        .into_make_service_with_connect_info::<Peer>();
    let stop = CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    let serving = axum::serve(listener, service).with_graceful_shutdown(stopped);
    let task = tokio::spawn(serving.into_future());
    Ok(Server { socket, stop: stop.drop_guard(), task })
}

impl Server {
    /// Accepts nothing more, lets requests under way end (for two seconds at most) and removes
    /// the socket file.
    pub async fn shutdown(self) {
        let Self { socket, stop, mut task } = self;
        // First the file: from here on callers are told that no daemon runs, not left waiting.
        socket.remove();
        drop(stop);
        match tokio::time::timeout(STOP_WITHIN, &mut task).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!(%error, "control API stopped with an error"),
            Ok(Err(error)) => tracing::warn!(%error, "control API task failed"),
            Err(_) => task.abort(),
        }
    }
}

fn router(controller: Controller) -> Router {
    Router::new()
        .route("/v1/status", get(routes::status))
        .route("/v1/version", get(routes::version))
        .route("/v1/reload", post(routes::reload))
        .route("/v1/reload/dry-run", post(routes::dry_run))
        .route("/v1/diff", post(routes::diff).layer(DefaultBodyLimit::max(MAX_FILE_BODY)))
        .route("/v1/flows", get(routes::flows))
        .route("/v1/flows/count", get(routes::flow_count))
        .route("/v1/explain", post(routes::explain))
        .route("/v1/backends/{service}/{backend}", post(routes::edit))
        .fallback(routes::no_such_path)
        .method_not_allowed_fallback(routes::wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(controller)
}

/// Who is at the other end of a connection: the uid that `SO_PEERCRED` tells (unix(7)).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    /// `None` where the kernel did not tell.
    pub uid: Option<u32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self { uid: stream.io().peer_cred().ok().map(|credentials| credentials.uid()) }
    }
}

/// The socket's file, known by device and inode, so that a successor's is never removed.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn remove(&self) {
        match fs::symlink_metadata(&self.path) {
            Ok(metadata) if (metadata.dev(), metadata.ino()) == self.identity => {
                if let Err(error) = fs::remove_file(&self.path) {
                    let path = self.path.display();
                    tracing::warn!(%error, %path, "failed to remove the control socket");
                }
            }
            // Somebody else's by now, or gone.
            Ok(_) | Err(_) => {}
        }
    }
}

async fn bind(path: &Path) -> anyhow::Result<(UnixListener, SocketFile)> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent)
            .with_context(|| format!("failed to create {}", parent.display()))?;
    }
    remove_stale(path).await?;
    let socket = UnixSocket::new_stream().context("failed to create a socket")?;
    socket.bind(path).context("failed to bind")?;
    // Nobody can connect before `listen`, so there is no moment with a wider mode.
    fs::set_permissions(path, fs::Permissions::from_mode(MODE))
        .context("failed to set its mode")?;
    let metadata = fs::symlink_metadata(path).context("failed to look at the new socket")?;
    let listener = socket.listen(BACKLOG).context("failed to listen")?;
    let identity = (metadata.dev(), metadata.ino());
    Ok((listener, SocketFile { path: path.to_owned(), identity }))
}

/// Removes the socket file of a daemon that is dead.
async fn remove_stale(path: &Path) -> anyhow::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).context("failed to look at it"),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            bail!("there is a file that is no socket");
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Ok(_) => bail!("another daemon answers on it"),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "removing the socket of a daemon that is gone");
            fs::remove_file(path).context("failed to remove the old socket")
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).context("failed to find out whether a daemon answers on it"),
    }
}
