//! What a client says after it was let in, and what it is answered.
//!
//! ```text
//!  mod.rs       messages, simple queries, transactions     extended.rs  prepared statements and portals
//!  cursor.rs    rows on their way
//! ```

mod cursor;
mod extended;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use datafusion::execution::context::SessionContext;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement as AnyStatement;
use datafusion::sql::sqlparser::ast::Statement;
use datafusion_postgres::pgwire::api::results::Tag;
use datafusion_postgres::pgwire::api::{ClientInfo, METADATA_USER};
use datafusion_postgres::pgwire::messages::response::{EmptyQueryResponse, ReadyForQuery, TransactionStatus};
use datafusion_postgres::pgwire::messages::startup::ParameterStatus;
use datafusion_postgres::pgwire::messages::{PgWireBackendMessage as Out, PgWireFrontendMessage as In};

use super::command::{self, Command};
use super::encode::Columns;
use super::fault::Fault;
use super::line::{Halt, Line};
use super::settings::{Changed, Settings};
use super::{Shared, copy, functions, names};
use crate::serve::Wire;
use crate::serve::refusal::{Reason, Refusal, discreet};
pub use cursor::Cursor;
use cursor::within;
use extended::{Portal, Prepared, no_statement};

/// Prepared statements, portals and cursors that a client may hold, of each.
const HELD: usize = 10_000;

/// Why a statement has no answer.
pub enum Trouble {
    Fault(Fault),
    Halt(Halt),
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Trouble {
        Trouble::Fault(fault)
    }
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Trouble {
        Trouble::Fault(refusal.into())
    }
}

impl From<Halt> for Trouble {
    fn from(halt: Halt) -> Trouble {
        match halt {
            Halt::Cancelled => Trouble::Fault(Fault::new("57014", "canceling statement due to user request")),
            halt => Trouble::Halt(halt),
        }
    }
}

type Done<T = ()> = Result<T, Trouble>;

/// A client with all that it made.
pub struct Connection {
    pub line: Line,
    pub shared: Arc<Shared>,
    pub settings: Arc<Mutex<Settings>>,
    ctx: SessionContext,
    statements: BTreeMap<String, Arc<Prepared>>,
    portals: BTreeMap<String, Portal>,
    cursors: BTreeMap<String, Cursor>,
    transaction: TransactionStatus,
    /// Whether the transaction can go on after a mistake.
    savepoint: bool,
    /// After an error, messages are not heard until the client asks whether there was one.
    deaf: bool,
}

/// Listens and answers until one of both ends leaves.
pub async fn talk(line: Line, shared: Arc<Shared>) {
    let mut connection = Connection::new(line, shared);
    connection.begin_with_options();
    let ended = connection.listen().await;
    let fault = match ended {
        Halt::Left | Halt::Cancelled => None,
        Halt::Broken(fault) => Some(fault),
        Halt::Stopped => Some(Fault::fatal("57P01", "the server stops")),
    };
    if let Some(fault) = &fault {
        tracing::debug!("postgres: a connection ends: {}", fault.message);
    }
    // What it runs ends with it.
    let Connection { line, portals, cursors, .. } = connection;
    drop((portals, cursors));
    line.hang_up(fault).await;
}

impl Connection {
    fn new(line: Line, shared: Arc<Shared>) -> Connection {
        let mut settings = Settings::default();
        let client = line.client();
        let user = client.metadata().get(METADATA_USER).cloned().unwrap_or_default();
        settings.fix("session_authorization", user.clone());
        let settings = Arc::new(Mutex::new(settings));
        let ctx = SessionContext::new_with_state(shared.base.state());
        let (pid, _) = client.pid_and_secret_key();
        functions::register_own(&ctx, &shared.catalog, &settings, &user, pid, client.socket_addr());
        Connection {
            line,
            shared,
            settings,
            ctx,
            statements: BTreeMap::new(),
            portals: BTreeMap::new(),
            cursors: BTreeMap::new(),
            transaction: TransactionStatus::Idle,
            savepoint: false,
            deaf: false,
        }
    }

    /// Settings that came with the greeting: as such, or as `options=-c name=value`.
    fn begin_with_options(&mut self) {
        let metadata = self.line.client().metadata().clone();
        let options = metadata.get("options").cloned().unwrap_or_default().replace("-c", " ").replace("--", " ");
        let of_options = options.split_whitespace().filter_map(|o| o.split_once('='));
        let of_client = metadata.iter().filter(|(k, _)| !["user", "database", "options"].contains(&k.as_str()));
        let all: Vec<(String, String)> = of_client
            .map(|(k, v)| (k.clone(), v.clone()))
            .chain(of_options.map(|(k, v)| (k.to_string(), v.to_string())))
            .collect();
        for (name, value) in all {
            // What is not known is not heard, as drivers send what they like.
            let _ = self.lock().set(&name, Some(&value));
        }
        self.follow_path();
    }

    pub fn lock(&self) -> std::sync::MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn listen(&mut self) -> Halt {
        loop {
            let message = match self.line.next().await {
                Ok(message) => message,
                Err(halt) => return halt,
            };
            if let Err(halt) = self.hear(message).await {
                return halt;
            }
        }
    }

    async fn hear(&mut self, message: In) -> Result<(), Halt> {
        let extended = message.is_extended_query();
        let done = match message {
            In::Terminate(_) => return Err(Halt::Left),
            In::Sync(_) => {
                self.deaf = false;
                self.end_portals();
                return self.ready().await;
            }
            _ if self.deaf => return Ok(()),
            In::Query(query) => {
                self.portals.remove("");
                let done = self.simple(&query.query).await;
                self.answer(done).await?;
                self.end_portals();
                return self.ready().await;
            }
            In::Flush(_) => return self.line.flush().await,
            In::Parse(parse) => self.parse(parse).await,
            In::Bind(bind) => self.bind(bind).await,
            In::Describe(describe) => self.describe(describe).await,
            In::Execute(execute) => self.execute(execute).await,
            In::Close(close) => self.close(close).await,
            // The remains of a COPY that was refused.
            In::CopyData(_) | In::CopyDone(_) | In::CopyFail(_) => return Ok(()),
            _ => return Err(Halt::Broken(Fault::fatal("08P01", "a message that is not expected here"))),
        };
        let failed = self.answer(done).await?;
        self.deaf = failed && extended;
        Ok(())
    }

    /// Portals live as long as their transaction, which a request has of its own outside of one.
    fn end_portals(&mut self) {
        match self.transaction {
            TransactionStatus::Idle => self.portals.clear(),
            _ => drop(self.portals.remove("")),
        }
    }

    /// Tells the client what went wrong, if it is something to tell.
    async fn answer(&mut self, done: Done) -> Result<bool, Halt> {
        match done {
            Ok(()) => Ok(false),
            Err(Trouble::Halt(halt)) => Err(halt),
            Err(Trouble::Fault(fault)) => {
                self.transaction = self.transaction.to_error_state();
                if matches!(self.transaction, TransactionStatus::Error) && !self.savepoint {
                    // Nothing of it can be asked for any more, and each may hold the place of a query.
                    self.portals.clear();
                    self.cursors.retain(|_, c| c.hold);
                }
                let fault = self.discreet(fault);
                if fault.fatal {
                    return Err(Halt::Broken(fault));
                }
                self.line.tell(fault).await?;
                // Heard at once, though the client may not ask yet.
                self.line.flush().await?;
                Ok(true)
            }
        }
    }

    /// Without the paths of this machine.
    fn discreet(&self, mut fault: Fault) -> Fault {
        let store = self.shared.service.tables.store();
        fault.message = discreet(&fault.message, store);
        fault.hint = discreet(&fault.hint, store);
        fault
    }

    async fn ready(&mut self) -> Result<(), Halt> {
        self.line.feed(vec![Out::ReadyForQuery(ReadyForQuery::new(self.transaction))]).await?;
        self.line.flush().await
    }

    /// Statements in one text, each answered with its rows.
    async fn simple(&mut self, sql: &str) -> Done {
        let statements = self.heard(command::parse(sql))?;
        if statements.is_empty() {
            return Ok(self.line.feed(vec![Out::EmptyQueryResponse(EmptyQueryResponse::new())]).await?);
        }
        let text: Arc<str> = sql.into();
        for statement in statements {
            self.line.begin().await;
            let command = self.heard(command::of(statement))?;
            self.may(&command)?;
            let tag = command.tag();
            if let Some(mut cursor) = self.run(command, &text).await? {
                let description = cursor.columns.description();
                self.line.feed(vec![Out::RowDescription(description)]).await?;
                let (sent, _) = cursor.send(&mut self.line, 0).await?;
                self.complete(done(tag, sent)).await?;
            }
        }
        Ok(())
    }

    /// In a transaction that failed, nothing is done but to end it.
    fn may(&self, command: &Command) -> Result<(), Fault> {
        if matches!(self.transaction, TransactionStatus::Error) && !command.ends_transaction() {
            return Err(Fault::new(
                "25P02",
                "current transaction is aborted, commands ignored until end of transaction block",
            ));
        }
        Ok(())
    }

    pub async fn complete(&mut self, tag: Tag) -> Done {
        Ok(self.line.feed(vec![Out::CommandComplete(tag.into())]).await?)
    }

    /// Does what a statement says. What has rows returns them.
    async fn run(&mut self, command: Command, text: &Arc<str>) -> Done<Option<Cursor>> {
        let tag = match command {
            Command::Query(mut statement) => {
                let name = self.application_name();
                let set = |name: &str, value: Option<&str>, local| {
                    self.assign(name, value, local)?;
                    Ok(self.lock().get(name)?.to_string())
                };
                command::configure(&mut statement, set)?;
                self.tell_name(&name).await?;
                return Ok(Some(self.query(&statement, text, &[]).await?));
            }
            Command::Show(name) => return Ok(Some(self.show(&name)?)),
            Command::Begin => {
                if matches!(self.transaction, TransactionStatus::Idle) {
                    self.lock().begin();
                }
                self.transaction = self.transaction.to_in_transaction_state();
                "BEGIN"
            }
            Command::Commit | Command::Rollback => {
                let failed = matches!(self.transaction, TransactionStatus::Error);
                let kept = !failed && matches!(command, Command::Commit);
                self.transaction = TransactionStatus::Idle;
                self.savepoint = false;
                self.portals.clear();
                self.cursors.retain(|_, c| c.hold);
                let name = self.application_name();
                self.lock().end(kept);
                self.follow_path();
                self.tell_name(&name).await?;
                if kept { "COMMIT" } else { "ROLLBACK" }
            }
            Command::Savepoint(tag) => {
                self.savepoint |= !matches!(self.transaction, TransactionStatus::Idle);
                if tag == "ROLLBACK" && matches!(self.transaction, TransactionStatus::Error) {
                    self.transaction = TransactionStatus::Transaction;
                }
                tag
            }
            Command::Set { name, value, local } => {
                self.set(&name, value.as_deref(), local).await?;
                "SET"
            }
            Command::ResetAll => {
                self.lock().reset();
                self.follow_path();
                "RESET"
            }
            Command::Declare { name, query, binary, hold } => {
                if self.cursors.len() >= HELD {
                    return Err(Fault::new("53400", "too many cursors").hint("CLOSE those that are read").into());
                }
                let formats: &[i16] = if binary { &[1] } else { &[] };
                let mut cursor = self.query(&query, text, formats).await?;
                cursor.hold = hold;
                self.cursors.insert(name, cursor);
                "DECLARE CURSOR"
            }
            Command::Fetch { name, rows } => {
                self.fetch(&name, rows, None, true).await?;
                return Ok(None);
            }
            Command::Close(name) => {
                match name {
                    None => self.cursors.clear(),
                    Some(name) => {
                        self.cursors.remove(&name).ok_or_else(|| no_cursor(&name))?;
                    }
                }
                "CLOSE CURSOR"
            }
            Command::Deallocate(name) => {
                match name {
                    None => self.statements.clear(),
                    Some(name) => {
                        self.statements.remove(&name).ok_or_else(|| no_statement(&name))?;
                    }
                }
                "DEALLOCATE"
            }
            Command::Discard => {
                self.statements.clear();
                self.portals.clear();
                self.cursors.clear();
                self.lock().reset();
                self.follow_path();
                "DISCARD ALL"
            }
            Command::Copy { query, format } => {
                let binary = matches!(format, command::CopyFormat::Binary);
                let formats: &[i16] = if binary { &[1] } else { &[] };
                let cursor = self.query(&query, text, formats).await?;
                copy::send(self, cursor, format).await?;
                return Ok(None);
            }
            Command::Nothing(tag) => tag,
        };
        self.complete(Tag::new(tag)).await?;
        Ok(None)
    }

    /// Counts what is refused for its words alone.
    fn heard<T>(&self, read: Result<T, Fault>) -> Result<T, Fault> {
        read.inspect_err(|fault| {
            let reason = match fault.code {
                "25006" => Reason::ReadOnly,
                "54001" => Reason::TooLarge,
                _ => Reason::Syntax,
            };
            self.shared.service.refused(Wire::Postgres, &Refusal::new(reason, fault.message.clone()));
        })
    }

    /// Plans a statement that reads.
    async fn plan(&self, statement: &Statement, text: &str) -> Result<(LogicalPlan, Option<Vec<String>>), Fault> {
        let named = names::of(statement);
        let mut statement = statement.clone();
        names::settle(&mut statement);
        let path = self.lock().path();
        let content = self.shared.catalog.refresh().await;
        content.map_err(|e| Refusal::running(&e))?;
        let statement = self.shared.compat.rewrite(statement, &path);
        let service = &self.shared.service;
        let any = AnyStatement::Statement(Box::new(statement));
        // It is a query over tables that differ from PostgreSQL's of these names.
        let of_all = matches!(&any, AnyStatement::Statement(s) if matches!(**s, Statement::ShowFunctions { .. }));
        let state = if of_all { service.session().state() } else { service.pinned(&self.ctx).state() };
        let planned = service.logical(state, any).await.and_then(|planned| {
            let plan = planned.map_err(|e| Refusal::planning(&e, text, &service.now().names))?;
            service.verify(&plan)?;
            Ok(plan)
        });
        let plan = planned.inspect_err(|refusal| service.refused(Wire::Postgres, refusal))?;
        Ok((plan, named))
    }

    /// Starts a query.
    async fn query(&mut self, statement: &Statement, text: &Arc<str>, formats: &[i16]) -> Done<Cursor> {
        let left = self.lock().timeout();
        let begun = Instant::now();
        let (plan, named) = self.plan(statement, text).await?;
        let columns = Columns::new(plan.schema().as_arrow(), named.as_deref()).with_formats(formats)?;
        let (service, ctx) = (self.shared.service.clone(), self.ctx.clone());
        let running = async move { service.run(Wire::Postgres, &ctx, plan).await };
        let rows = within(&mut self.line, left, running).await??;
        let left = left.map(|left| left.saturating_sub(begun.elapsed()));
        Ok(Cursor::of_query(columns, rows, left))
    }

    fn show(&self, name: &str) -> Result<Cursor, Fault> {
        if !name.eq_ignore_ascii_case("all") {
            return Cursor::of_texts(vec![(name, vec![self.lock().get(name)?.to_string()])]);
        }
        let all = self.lock().all();
        let (names, values): (Vec<_>, Vec<_>) = all.into_iter().map(|(n, v)| (n.to_string(), v)).unzip();
        let about = vec![String::new(); names.len()];
        Cursor::of_texts(vec![("name", names), ("setting", values), ("description", about)])
    }

    async fn set(&mut self, name: &str, value: Option<&str>, local: bool) -> Done {
        let before = self.application_name();
        if let Changed::No(why) = self.assign(name, value, local)? {
            self.line.notice(&why).await?;
        }
        self.tell_name(&before).await
    }

    /// Changes a setting, with `local` until the transaction ends.
    fn assign(&mut self, name: &str, value: Option<&str>, local: bool) -> Result<Changed, Fault> {
        let changed = match local {
            true => self.lock().set_local(name, value)?,
            false => self.lock().set(name, value)?,
        };
        self.follow_path();
        Ok(changed)
    }

    fn application_name(&self) -> String {
        self.lock().get("application_name").unwrap_or_default().to_string()
    }

    /// Reports the name of the client's program, if it is not what it was `before`: drivers keep note of it.
    async fn tell_name(&mut self, before: &str) -> Done {
        let now = self.application_name();
        if now != before {
            let status = ParameterStatus::new("application_name".into(), now);
            self.line.feed(vec![Out::ParameterStatus(status)]).await?;
        }
        Ok(())
    }

    /// Names without a schema are looked up in the first schema of the search path that is there.
    fn follow_path(&mut self) {
        let known = self.shared.catalog.schemas();
        let path = self.lock().path();
        let first = path.into_iter().find(|s| known.contains(s));
        let schema = first.unwrap_or_else(|| crate::query::session::SCHEMA.to_string());
        self.ctx.state_ref().write().config_mut().options_mut().catalog.default_schema = schema;
    }

    /// Goes on with a cursor. As a prepared statement it has been described, and its rows have the formats that it was bound
    /// with, whatever those of the cursor are.
    async fn fetch(&mut self, name: &str, rows: Option<usize>, bound: Option<&Columns>, describe: bool) -> Done {
        let mut cursor = self.cursors.remove(name).ok_or_else(|| no_cursor(name))?;
        let own = cursor.columns.clone();
        if let Some(bound) = bound
            && bound.len() == own.len()
        {
            cursor.columns = bound.clone();
        }
        if describe {
            self.line.feed(vec![Out::RowDescription(cursor.columns.description())]).await?;
        }
        let (sent, _) = match rows {
            Some(0) => (0, true),
            rows => cursor.send(&mut self.line, rows.unwrap_or(0)).await?,
        };
        cursor.columns = own;
        self.cursors.insert(name.to_string(), cursor);
        self.complete(done("FETCH", sent)).await
    }
}

/// The tag of what had rows; not all of them count those.
fn done(tag: &str, rows: usize) -> Tag {
    match tag {
        "SELECT" | "FETCH" => Tag::new(tag).with_rows(rows),
        tag => Tag::new(tag),
    }
}

fn no_cursor(name: &str) -> Fault {
    Fault::new("34000", format!("cursor \"{name}\" does not exist"))
}
