//! Listening, connections, and an orderly end.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::middleware::from_fn_with_state;
use axum::{Extension, Router};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use levain_chat::Provider;
use levain_wire::openai::ApiError;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::access::Access;
use crate::config::{Limits, ServerConfig};
use crate::error::ServerError;
use crate::guard::{Peer, guard};
use crate::io::Patient;
use crate::state::Shared;
use crate::{openapi, routes};

/// After the answers were cut: for their last bytes to reach the clients.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// After the system could not accept a connection, for example because files ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Between two words in the log about that.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(60);
/// No limit makes sense above this; it keeps arithmetic and the runtime's own counters far from their ends.
const LIMIT_MAX: usize = 1 << 31;

/// A server that does not listen yet.
pub struct Server {
    listen: SocketAddr,
    shared: Arc<Shared>,
}

impl Server {
    /// Checks the configuration.
    ///
    /// # Errors
    /// If other machines could use the model without a key, or an origin or a limit makes no sense.
    pub fn new(config: &ServerConfig, provider: Arc<dyn Provider>) -> Result<Self, ServerError> {
        let access = Access::new(config)?;
        let limits = config.limits;
        for (name, value, min) in [
            ("connections_max", limits.connections_max, 1),
            ("requests_max", limits.requests_max, 1),
            ("headers_max", limits.headers_max, 8),
            ("header_bytes_max", limits.header_bytes_max, 8 << 10),
            ("body_bytes_max", limits.body_bytes_max, 1 << 10),
            ("memory_bytes_max", limits.memory_bytes_max, limits.body_bytes_max),
        ] {
            if value < min || value > LIMIT_MAX {
                return Err(ServerError::BadLimit { name, min, max: LIMIT_MAX });
            }
        }
        let description = openapi::describe().to_string().into_bytes();
        let shared = Arc::new(Shared::new(provider, access, config, description));
        Ok(Self { listen: config.listen, shared })
    }

    /// All routes behind the guard, to be called without a connection. Bounds on connections and heads of
    /// requests hold only in [`BoundServer::serve`].
    pub fn router(&self) -> Router {
        let guarded = from_fn_with_state(Arc::clone(&self.shared), guard);
        // The inner router is the outer one's fallback: whatever it would answer, the guard comes first.
        Router::new().fallback_service(routes::router(Arc::clone(&self.shared))).layer(guarded)
    }

    /// Starts to listen.
    ///
    /// # Errors
    /// If the port is taken or the address is not this machine's.
    pub async fn bind(self) -> Result<BoundServer, ServerError> {
        let listen = self.listen;
        let listener = TcpListener::bind(listen).await.map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => ServerError::AddressInUse { listen },
            _ => ServerError::Bind { listen, source },
        })?;
        let address = listener.local_addr().map_err(|source| ServerError::Bind { listen, source })?;
        let router = self.router();
        Ok(BoundServer { listener, address, router, shared: self.shared })
    }
}

/// A server that listens.
pub struct BoundServer {
    listener: TcpListener,
    address: SocketAddr,
    router: Router,
    shared: Arc<Shared>,
}

impl BoundServer {
    /// Where it listens, with the real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` is ready. Then new work is refused, running answers have
    /// [`Limits::drain_timeout`] to end and are cut with an error event after that.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) {
        let Self { listener, router, shared, .. } = self;
        let slots = Arc::new(Semaphore::new(shared.limits.connections_max));
        let closing = watch::Sender::new(false);
        let mut connections = JoinSet::new();
        let turned_away = turned_away(shared.access.any_origin());
        let end = async {
            shutdown.await;
            tracing::info!("shutting down: no new work is taken");
            shared.drain();
            closing.send_replace(true);
            // All permits are back when the last answer ends.
            if timeout(shared.limits.drain_timeout, shared.work.are_free()).await.is_err() {
                tracing::warn!("cutting the answers that still run");
                shared.cut();
                let _ = timeout(LAST_WORDS, shared.work.are_free()).await;
            }
        };
        tokio::pin!(end);
        let mut complained: Option<Instant> = None;
        loop {
            let (stream, peer) = tokio::select! {
                () = &mut end => break,
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // It may last, for example while files have run out.
                        if complained.is_none_or(|at| at.elapsed() >= COMPLAINT_PAUSE) {
                            tracing::warn!(%error, "can't accept connections");
                            complained = Some(Instant::now());
                        }
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                // A fresh socket's buffer takes this without waiting.
                let _ = stream.try_write(&turned_away);
                continue;
            };
            let served =
                connection(stream, peer.ip(), router.clone(), Arc::clone(&shared), closing.subscribe());
            connections.spawn(async move {
                served.await;
                drop(slot);
            });
        }
        drop(listener);
        let _ = timeout(LAST_WORDS, async { while connections.join_next().await.is_some() {} }).await;
        connections.shutdown().await;
    }
}

/// What a connection is told that is one too many. Its request is not read, so nobody knows which page it comes from.
fn turned_away(any_origin: bool) -> Vec<u8> {
    let error = ApiError::with_status(
        503,
        "overloaded",
        "the server has too many connections; try again in a moment",
    );
    let body = error.to_json();
    let origin = if any_origin { "access-control-allow-origin: *\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n{origin}vary: origin\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.into_bytes(), body].concat()
}

/// Serves one connection to its end.
async fn connection(
    stream: TcpStream,
    peer: IpAddr,
    router: Router,
    shared: Arc<Shared>,
    mut closing: watch::Receiver<bool>,
) {
    let limits: Limits = shared.limits;
    // Without it, small events wait for the client's acknowledgement of the one before.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "can't set TCP_NODELAY");
    }
    shared.metrics.connections.fetch_add(1, Ordering::Relaxed);
    let io = TokioIo::new(Patient::new(stream, limits.write_timeout));
    // A connection that comes after shutdown was asked for gets one answer, which is a refusal.
    let late = shared.is_draining();
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(!late)
        .header_read_timeout(limits.header_timeout)
        .max_headers(limits.headers_max.saturating_mul(2))
        .max_header_size(limits.header_bytes_max.saturating_mul(2))
        .max_buf_size(limits.header_bytes_max.saturating_mul(2).max(64 << 10))
        .serve_connection(io, TowerToHyperService::new(router.layer(Extension(Peer(peer)))));
    tokio::pin!(served);
    let outcome = tokio::select! {
        outcome = &mut served => outcome,
        () = async { let _ = closing.wait_for(|closing| *closing).await; }, if !late => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a connection ended early");
    }
    shared.metrics.connections.fetch_sub(1, Ordering::Relaxed);
}
