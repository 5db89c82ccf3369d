//! A connection's socket: messages in and out, and what may end a wait for either.
//!
//! While a query works, the socket is still watched: a client that leaves ends its query, and so do a request to cancel it
//! and the end of the server. Messages that arrive meanwhile are kept for later, a few of them.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use datafusion_postgres::pgwire::api::{ClientInfo, ConnectionHandle, PgWireConnectionState};
use datafusion_postgres::pgwire::messages::response::{ErrorResponse, NoticeResponse};
use datafusion_postgres::pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage};
use datafusion_postgres::pgwire::tokio::server::{MaybeTls, PgWireMessageServerCodec};
use futures::SinkExt;
use futures::channel::oneshot;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::codec::{Decoder, Framed};
use tokio_util::sync::CancellationToken;

use super::fault::Fault;
use super::message;

/// A socket after the choice of TLS.
pub type Socket = Framed<MaybeTls, PgWireMessageServerCodec<()>>;

/// Bytes of a message of a client that is logged in.
const LONGEST: usize = 16 << 20;
/// Bytes of a message before that.
const LONGEST_OF_STRANGERS: usize = 16 << 10;
/// Bytes that are read at once.
const READ: usize = 8 << 10;
/// Messages that are kept while a query works, and bytes after which no further one is.
const EARLY: usize = 8;
const EARLY_BYTES: usize = 1 << 20;

/// Why a wait ended before what was waited for.
#[derive(Debug)]
pub enum Halt {
    /// The client is gone, or does not read.
    Left,
    /// The client does not keep to the protocol.
    Broken(Fault),
    /// Somebody asked to end the statement.
    Cancelled,
    /// The server ends.
    Stopped,
}

/// See the module.
pub struct Line {
    socket: Socket,
    early: VecDeque<PgWireFrontendMessage>,
    stop: CancellationToken,
    /// After which a client that does not read is dropped.
    idle: Duration,
    handle: Arc<ConnectionHandle>,
    cancel: Option<oneshot::Receiver<()>>,
}

/// The next message, `None` if the client is gone.
///
/// # Errors
/// Bytes that are no message, or announce one that is too long.
pub async fn next_message(socket: &mut Socket) -> Result<Option<PgWireFrontendMessage>, Fault> {
    futures::future::poll_fn(|cx| {
        loop {
            if let Some(message) = first_message(socket)? {
                return Poll::Ready(Ok(Some(message)));
            }
            match ready!(read_more(socket, cx)) {
                Ok(0) | Err(_) => return Poll::Ready(Ok(None)),
                Ok(_) => {}
            }
        }
    })
    .await
}

fn read_more(socket: &mut Socket, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
    let mut bytes = [0; READ];
    let mut read = ReadBuf::new(&mut bytes);
    ready!(Pin::new(socket.get_mut()).poll_read(cx, &mut read))?;
    socket.read_buffer_mut().extend_from_slice(read.filled());
    Poll::Ready(Ok(read.filled().len()))
}

/// The first of the messages that were read, once all of it is here. The decoder gets nothing but that, and only if it is
/// whole: see [`message`].
fn first_message(socket: &mut Socket) -> Result<Option<PgWireFrontendMessage>, Fault> {
    let broken = || Fault::fatal("08P01", "a message is not whole: its parts do not fill it");
    // Without a letter, messages have a length and a number at least.
    let (at, least, most) = match socket.state() {
        PgWireConnectionState::AwaitingSslRequest | PgWireConnectionState::AwaitingStartup => {
            (0, 8, LONGEST_OF_STRANGERS)
        }
        PgWireConnectionState::AuthenticationInProgress => (1, 4, LONGEST_OF_STRANGERS),
        _ => (1, 4, LONGEST),
    };
    let bytes = socket.read_buffer_mut();
    let Some(length) = bytes.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok()) else { return Ok(None) };
    let length = u32::from_be_bytes(length) as usize;
    if length > most {
        let message = format!("a message of {length} bytes is too long: at most {most} are read");
        return Err(Fault::fatal("54000", message));
    }
    if length < least {
        return Err(broken());
    }
    if bytes.len() < at + length {
        return Ok(None);
    }
    let mut bytes = bytes.split_to(at + length);
    if let (1, Some((kind, [_, _, _, _, body @ ..]))) = (at, bytes.split_first())
        && !message::is_whole(*kind, body)
    {
        return Err(broken());
    }
    let decoded = socket.codec_mut().decode(&mut bytes).map_err(|e| Fault::fatal("08P01", e.to_string()))?;
    // There is no more of it to come.
    decoded.map(Some).ok_or_else(broken)
}

/// The bytes that a message holds, about.
fn bytes(message: &PgWireFrontendMessage) -> usize {
    match message {
        PgWireFrontendMessage::Query(query) => query.query.len(),
        PgWireFrontendMessage::Parse(parse) => parse.query.len(),
        PgWireFrontendMessage::Bind(bind) => bind.parameters.iter().flatten().map(|p| p.len()).sum(),
        PgWireFrontendMessage::CopyData(data) => data.data.len(),
        PgWireFrontendMessage::Describe(describe) => describe.name.as_ref().map_or(0, String::len),
        PgWireFrontendMessage::Execute(execute) => execute.name.as_ref().map_or(0, String::len),
        PgWireFrontendMessage::Sync(_) | PgWireFrontendMessage::Flush(_) | PgWireFrontendMessage::CopyDone(_) => 0,
        // Not what clients send ahead.
        _ => EARLY_BYTES,
    }
}

impl Line {
    pub fn new(socket: Socket, handle: Arc<ConnectionHandle>, stop: CancellationToken, idle: Duration) -> Line {
        Line { socket, early: VecDeque::new(), stop, idle, handle, cancel: None }
    }

    pub fn client(&self) -> &impl ClientInfo {
        &self.socket
    }

    /// The next message of the client.
    ///
    /// # Errors
    /// Anything but a request to cancel, which has nothing to cancel here.
    pub async fn next(&mut self) -> Result<PgWireFrontendMessage, Halt> {
        if let Some(message) = self.early.pop_front() {
            return Ok(message);
        }
        let stop = self.stop.clone();
        tokio::select! {
            () = stop.cancelled() => Err(Halt::Stopped),
            message = next_message(&mut self.socket) => match message {
                Ok(Some(message)) => Ok(message),
                Ok(None) => Err(Halt::Left),
                Err(fault) => Err(Halt::Broken(fault)),
            },
        }
    }

    /// A statement begins: requests to cancel are meant for it from now on.
    pub async fn begin(&mut self) {
        self.cancel = Some(self.handle.start_query().await);
    }

    /// Waits for `work`, and for what may end it before.
    ///
    /// # Errors
    /// It was ended; `work` is dropped then.
    pub async fn wait<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Halt> {
        let stop = self.stop.clone();
        tokio::pin!(work);
        loop {
            let bytes: usize = self.early.iter().map(bytes).sum();
            let listening = self.early.len() < EARLY && bytes < EARLY_BYTES;
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = stop.cancelled() => return Err(Halt::Stopped),
                () = cancelled(&mut self.cancel) => return Err(Halt::Cancelled),
                message = next_message(&mut self.socket), if listening => match message {
                    Ok(Some(PgWireFrontendMessage::Terminate(_)) | None) => return Err(Halt::Left),
                    Ok(Some(message)) => self.early.push_back(message),
                    Err(fault) => return Err(Halt::Broken(fault)),
                },
            }
        }
    }

    /// Hands messages to the socket, which sends them when it has enough of them, or on [`Line::flush`].
    ///
    /// # Errors
    /// The client is gone or does not read, or the statement was ended.
    pub async fn feed(&mut self, messages: Vec<PgWireBackendMessage>) -> Result<(), Halt> {
        let Line { socket, stop, idle, cancel, .. } = self;
        let feeding = async {
            for message in messages {
                socket.feed(message).await?;
            }
            Ok::<_, std::io::Error>(())
        };
        tokio::select! {
            biased;
            done = tokio::time::timeout(*idle, feeding) => match done {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) | Err(_) => Err(Halt::Left),
            },
            () = stop.cancelled() => Err(Halt::Stopped),
            () = cancelled(cancel) => Err(Halt::Cancelled),
        }
    }

    /// Sends all that was fed.
    ///
    /// # Errors
    /// The client is gone or does not read.
    pub async fn flush(&mut self) -> Result<(), Halt> {
        let flushing = SinkExt::<PgWireBackendMessage>::flush(&mut self.socket);
        match tokio::time::timeout(self.idle, flushing).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Halt::Left),
        }
    }

    /// An error, or with `notice` one that is not.
    ///
    /// # Errors
    /// As [`Line::flush`].
    pub async fn tell(&mut self, fault: Fault) -> Result<(), Halt> {
        // What ended the statement must not end the message about it.
        self.cancel = None;
        self.feed(vec![PgWireBackendMessage::ErrorResponse(ErrorResponse::from(fault.info()))]).await
    }

    /// A notice, which changes nothing.
    ///
    /// # Errors
    /// As [`Line::flush`].
    pub async fn notice(&mut self, message: &str) -> Result<(), Halt> {
        let mut info = Fault::new("00000", message).info();
        info.severity = "NOTICE".into();
        info.severity_nonlocalized = Some("NOTICE".into());
        self.feed(vec![PgWireBackendMessage::NoticeResponse(NoticeResponse::from(info))]).await
    }

    /// Says why, where that can be heard, and hangs up.
    pub async fn hang_up(mut self, fault: Option<Fault>) {
        self.cancel = None;
        let ending = async {
            if let Some(fault) = fault {
                let _ = self.socket.send(PgWireBackendMessage::ErrorResponse(ErrorResponse::from(fault.info()))).await;
            }
            let _ = SinkExt::<PgWireBackendMessage>::close(&mut self.socket).await;
        };
        let _ = tokio::time::timeout(Duration::from_millis(500), ending).await;
    }
}

/// Waits for a request to cancel; for ever if there is none to come.
async fn cancelled(cancel: &mut Option<oneshot::Receiver<()>>) {
    if let Some(receiver) = cancel {
        let asked = receiver.await.is_ok();
        *cancel = None;
        if asked {
            return;
        }
    }
    std::future::pending().await
}
