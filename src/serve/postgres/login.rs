//! Who may connect: TLS where it is configured, and SCRAM-SHA-256 where there are users.
//!
//! A name that is not known takes the same way, with a salt of its own and the same work, as a wrong password does: what a
//! stranger sees tells nothing about who is known. No password is written anywhere.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use datafusion_postgres::pgwire::api::auth::sasl::SASLAuthStartupHandler;
use datafusion_postgres::pgwire::api::auth::sasl::scram::{SCRAM_ITERATIONS, ScramAuth, gen_salted_password};
use datafusion_postgres::pgwire::api::auth::{
    AuthSource, LoginInfo, Password, ServerParameterProvider, StartupHandler, finish_authentication,
    protocol_negotiation, save_startup_parameters_to_metadata,
};
use datafusion_postgres::pgwire::api::{
    ClientInfo, METADATA_APPLICATION_NAME, METADATA_USER, PgWireConnectionState, PidSecretKeyGenerator,
};
use datafusion_postgres::pgwire::error::{PgWireError, PgWireResult};
use datafusion_postgres::pgwire::messages::startup::{PasswordMessageFamily, Startup};
use datafusion_postgres::pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage};
use futures::SinkExt;
use tokio::sync::OwnedSemaphorePermit;

use super::Shared;
use super::fault::Fault;
use super::line::{Socket, next_message};
use super::message::begins_sasl;
use super::settings::SERVER_VERSION;
use crate::serve::Wire;
use crate::serve::access::Access;

/// Within which a client has to say who it is.
const PATIENCE: Duration = Duration::from_secs(30);

/// Lets a client in. Returns the place that it has then; a request to cancel, and a client that left, have none.
///
/// # Errors
/// Why not.
pub async fn login(socket: &mut Socket, shared: &Arc<Shared>) -> Result<Option<OwnedSemaphorePermit>, Fault> {
    let late = || Fault::fatal("08P01", format!("nobody said who they are within {} s", PATIENCE.as_secs()));
    tokio::time::timeout(PATIENCE, handshake(socket, shared)).await.unwrap_or_else(|_| Err(late()))
}

async fn handshake(socket: &mut Socket, shared: &Arc<Shared>) -> Result<Option<OwnedSemaphorePermit>, Fault> {
    let mut scram = None;
    // Whether no password message was heard yet.
    let mut first = true;
    while let Some(message) = next_message(socket).await? {
        match (message, scram.as_ref()) {
            (PgWireFrontendMessage::CancelRequest(request), None) => {
                shared.connections.cancel(request.pid, &request.secret_key).await;
                return Ok(None);
            }
            (PgWireFrontendMessage::Startup(startup), None) => {
                if shared.tls && !socket.is_secure() {
                    let name = startup.parameters.get(METADATA_USER).map_or("", String::as_str);
                    denied(socket, shared, name, "no TLS");
                    return Err(Fault::fatal("28000", "this server talks over TLS alone")
                        .hint("connect with sslmode=require, or verify-full with the server's certificate"));
                }
                if startup.parameters.get(METADATA_USER).is_none_or(String::is_empty) {
                    return Err(Fault::fatal("28000", "no user name was given"));
                }
                if shared.service.access.is_open() {
                    let place = place(shared)?;
                    trust(socket, shared, &startup).await.map_err(broken)?;
                    return Ok(Some(place));
                }
                let handler = handler(shared);
                handler.on_startup(socket, PgWireFrontendMessage::Startup(startup)).await.map_err(broken)?;
                scram = Some(handler);
            }
            (PgWireFrontendMessage::PasswordMessageFamily(message), Some(handler)) => {
                if let (true, PasswordMessageFamily::Raw(body)) = (std::mem::take(&mut first), &message)
                    && !begins_sasl(body)
                {
                    return Err(Fault::fatal("08P01", "expected the first message of SASL"));
                }
                let message = PgWireFrontendMessage::PasswordMessageFamily(message);
                // Before the client hears that it is in; given back where it is not.
                let place = place(shared)?;
                if let Err(e) = handler.on_startup(socket, message).await {
                    return Err(refused(socket, shared, &e));
                }
                if matches!(socket.state(), PgWireConnectionState::ReadyForQuery) {
                    return Ok(Some(place));
                }
            }
            (PgWireFrontendMessage::Terminate(_), _) => return Ok(None),
            _ => return Err(Fault::fatal("08P01", "expected to hear first who connects")),
        }
    }
    Ok(None)
}

fn place(shared: &Shared) -> Result<OwnedSemaphorePermit, Fault> {
    shared.places.clone().try_acquire_owned().map_err(|_| {
        let message = format!("there are {} connections already", shared.service.limits.connections);
        Fault::fatal("53300", message).hint("the server's limit is `--max-connections`")
    })
}

type Handler = SASLAuthStartupHandler<Parameters>;

fn handler(shared: &Arc<Shared>) -> Handler {
    let users: Arc<dyn AuthSource> = shared.users.clone();
    let mut scram = ScramAuth::new(users);
    scram.set_iterations(SCRAM_ITERATIONS);
    let pids: Arc<dyn PidSecretKeyGenerator> = shared.pids.clone();
    SASLAuthStartupHandler::new(Arc::new(Parameters)).with_scram(scram).with_pid_secret_key_generator(pids)
}

/// Lets everybody in.
async fn trust(socket: &mut Socket, shared: &Shared, startup: &Startup) -> PgWireResult<()> {
    protocol_negotiation(socket, startup).await?;
    save_startup_parameters_to_metadata(socket, startup);
    let (pid, secret) = shared.pids.generate(socket);
    socket.set_pid_and_secret_key(pid, secret);
    finish_authentication(socket, &Parameters).await?;
    SinkExt::<PgWireBackendMessage>::flush(socket).await.map_err(PgWireError::from)
}

fn broken(error: PgWireError) -> Fault {
    Fault::fatal("08P01", error.to_string())
}

fn user(socket: &Socket) -> &str {
    socket.metadata().get(METADATA_USER).map_or("", String::as_str)
}

/// A name as a line of the log, or a message, can have it.
fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(64).collect()
}

fn denied(socket: &Socket, shared: &Shared, name: &str, why: &str) {
    shared.service.metrics.denied(Wire::Postgres);
    tracing::warn!("postgres: {} was not let in as `{}`: {why}", socket.socket_addr(), shown(name));
}

fn refused(socket: &Socket, shared: &Shared, error: &PgWireError) -> Fault {
    if matches!(error, PgWireError::IoError(_)) {
        return broken(PgWireError::InvalidStartupMessage);
    }
    denied(socket, shared, user(socket), "wrong user or password");
    Fault::fatal("28P01", format!("password authentication failed for user \"{}\"", shown(user(socket))))
}

/// Passwords as SCRAM wants them, salted at the start: that takes thousands of hashes, which no stranger shall ask for.
pub struct Users {
    salted: BTreeMap<String, Vec<u8>>,
    /// Makes salts; another one with each start.
    secret: [u8; 32],
}

impl Users {
    pub fn new(access: &Access, secret: [u8; 32]) -> Users {
        let salted = access.users().map(|(name, password)| {
            let salted = gen_salted_password(password, &salt(&secret, name), SCRAM_ITERATIONS);
            (name.to_string(), salted)
        });
        Users { salted: salted.collect(), secret }
    }
}

fn salt(secret: &[u8; 32], user: &str) -> Vec<u8> {
    let hash = blake3::keyed_hash(secret, user.as_bytes());
    hash.as_bytes().iter().take(16).copied().collect()
}

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Users")
    }
}

#[async_trait]
impl AuthSource for Users {
    async fn get_password(&self, login: &LoginInfo) -> PgWireResult<Password> {
        let user = login.user().unwrap_or_default();
        let salt = salt(&self.secret, user);
        // Nobody can know this one.
        let unknown = blake3::keyed_hash(&self.secret, &salt);
        let salted = self.salted.get(user).cloned().unwrap_or_else(|| unknown.as_bytes().to_vec());
        Ok(Password::new(Some(salt), salted))
    }
}

/// What clients are told about the server when they are let in.
#[derive(Debug)]
struct Parameters;

impl ServerParameterProvider for Parameters {
    fn server_parameters<C: ClientInfo>(&self, client: &C) -> Option<HashMap<String, String>> {
        let fixed = [
            ("server_version", SERVER_VERSION),
            ("server_encoding", "UTF8"),
            ("client_encoding", "UTF8"),
            ("integer_datetimes", "on"),
            ("standard_conforming_strings", "on"),
            ("in_hot_standby", "off"),
            ("is_superuser", "off"),
            ("default_transaction_read_only", "on"),
            ("TimeZone", "UTC"),
            ("DateStyle", "ISO, MDY"),
            ("IntervalStyle", "postgres"),
        ];
        let mut all: HashMap<String, String> = fixed.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        for (parameter, key) in
            [("session_authorization", METADATA_USER), ("application_name", METADATA_APPLICATION_NAME)]
        {
            all.insert(parameter.to_string(), client.metadata().get(key).cloned().unwrap_or_default());
        }
        Some(all)
    }
}
