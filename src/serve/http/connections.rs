//! Connections: how many there may be, and that one whose client reads nothing does not stay for ever.

use std::future::{Future, Ready, ready};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready as done};
use std::time::Duration;

use axum::http::StatusCode;
use axum_server::accept::Accept;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

use super::answer::Problem;
use crate::serve::Wire;
use crate::serve::metrics::Up;
use crate::serve::service::Service;

/// That one above the limit has to hear that it is.
const FAREWELL: Duration = Duration::from_secs(1);

/// Lets connections in.
#[derive(Clone)]
pub struct Gate {
    service: Arc<Service>,
    places: Arc<Semaphore>,
    tls: bool,
}

impl Gate {
    pub fn new(service: Arc<Service>, tls: bool) -> Gate {
        let places = Arc::new(Semaphore::new(service.limits.connections.max(1)));
        Gate { service, places, tls }
    }

    fn enter(&self, stream: TcpStream) -> io::Result<Connection> {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            if !self.tls {
                tokio::spawn(tokio::time::timeout(FAREWELL, refuse(stream)));
            }
            tracing::warn!("http: a connection was refused: {} are open", self.service.limits.connections);
            return Err(io::Error::other("too many connections"));
        };
        stream.set_nodelay(true)?;
        let idle = self.service.limits.idle;
        Ok(Connection { stream, idle, stalled: None, _place: place, _up: self.service.metrics.connection(Wire::Http) })
    }
}

async fn refuse(mut stream: TcpStream) {
    let body = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "connections", "too many connections")
        .hint("close some, or ask again later; the server's limit is `--max-connections`")
        .json()
        .to_string();
    let head = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 1\r\n\
                Connection: close\r\nContent-Length:";
    let _ = stream.write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes()).await;
    let _ = stream.shutdown().await;
    // A connection closed with something unread is reset, and what was said is lost.
    let mut rest = [0; 4096];
    while stream.read(&mut rest).await.is_ok_and(|n| n > 0) {}
}

impl<S> Accept<TcpStream, S> for Gate {
    type Stream = Connection;
    type Service = S;
    type Future = Ready<io::Result<(Connection, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        ready(self.enter(stream).map(|connection| (connection, service)))
    }
}

/// A connection with its place among those that may be. Fails once nothing could be written for as long as `idle`.
pub struct Connection {
    stream: TcpStream,
    idle: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
    _up: Up,
}

impl Connection {
    fn written<T>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.stalled = None;
            return result;
        }
        let idle = self.idle;
        done!(self.stalled.get_or_insert_with(|| Box::pin(sleep(idle))).as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads nothing")))
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.written(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.written(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
