//! What a client says after it was let in, and what it is answered: simple queries, prepared statements, portals, cursors.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::execution::context::SessionContext;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement as AnyStatement;
use datafusion::sql::sqlparser::ast::Statement;
use datafusion_postgres::pgwire::api::results::Tag;
use datafusion_postgres::pgwire::api::{ClientInfo, METADATA_USER, Type};
use datafusion_postgres::pgwire::messages::data::{NoData, ParameterDescription};
use datafusion_postgres::pgwire::messages::extendedquery::{
    Bind, BindComplete, Close, CloseComplete, Describe, Execute, Parse, ParseComplete, PortalSuspended,
};
use datafusion_postgres::pgwire::messages::response::{EmptyQueryResponse, ReadyForQuery, TransactionStatus};
use datafusion_postgres::pgwire::messages::startup::ParameterStatus;
use datafusion_postgres::pgwire::messages::{PgWireBackendMessage as Out, PgWireFrontendMessage as In};
use futures::StreamExt;

use super::command::{self, Command};
use super::encode::Columns;
use super::fault::Fault;
use super::line::{Halt, Line};
use super::settings::{Changed, Settings};
use super::{Shared, copy, functions, names, params};
use crate::serve::Wire;
use crate::serve::refusal::Refusal;
use crate::serve::service::Rows;

/// Rows that are encoded at once.
const CHUNK: usize = 1024;
/// Prepared statements and portals that a client may hold.
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

/// A prepared statement.
struct Prepared {
    /// `None` where there was no statement in the text.
    command: Option<Command>,
    text: Arc<str>,
    types: Vec<Type>,
    columns: Option<Columns>,
}

/// A prepared statement with values.
struct Portal {
    prepared: Arc<Prepared>,
    values: Vec<params::Given>,
    columns: Option<Columns>,
    /// Once it runs.
    cursor: Option<Cursor>,
    /// Whether it has run to its end.
    ended: bool,
}

/// Rows on their way.
pub struct Cursor {
    pub columns: Columns,
    source: Source,
    /// What is left of a batch.
    rest: Option<RecordBatch>,
    /// Time that it may still work.
    left: Option<Duration>,
    /// Whether it outlives its transaction.
    hold: bool,
}

enum Source {
    Query(Box<Rows>),
    Fixed(Option<RecordBatch>),
}

impl Cursor {
    /// At most `most` further rows; `None` at the end.
    pub async fn next(&mut self, line: &mut Line, most: usize) -> Done<Option<RecordBatch>> {
        loop {
            if let Some(rest) = self.rest.take() {
                let taken = rest.num_rows().min(most).min(CHUNK);
                if taken < rest.num_rows() {
                    self.rest = Some(rest.slice(taken, rest.num_rows() - taken));
                }
                if taken > 0 {
                    return Ok(Some(rest.slice(0, taken)));
                }
            }
            let next = match &mut self.source {
                Source::Fixed(batch) => batch.take(),
                Source::Query(rows) => {
                    let begun = Instant::now();
                    let next = within(line, self.left, rows.next()).await?;
                    self.left = self.left.map(|left| left.saturating_sub(begun.elapsed()));
                    next.transpose()?
                }
            };
            match next {
                None => return Ok(None),
                batch => self.rest = batch,
            }
        }
    }
}

/// Waits for `work` as long as the client's `statement_timeout` allows.
async fn within<T>(line: &mut Line, left: Option<Duration>, work: impl Future<Output = T>) -> Done<T> {
    match left {
        None => Ok(line.wait(work).await?),
        Some(left) => match line.wait(tokio::time::timeout(left, work)).await? {
            Ok(done) => Ok(done),
            Err(_) => Err(Fault::new("57014", "canceling statement due to statement timeout").into()),
        },
    }
}

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
                self.portals.remove("");
                return self.ready().await;
            }
            In::Query(query) => {
                self.deaf = false;
                self.portals.remove("");
                let done = self.simple(&query.query).await;
                self.answer(done).await?;
                return self.ready().await;
            }
            In::Flush(_) => return self.line.flush().await,
            _ if self.deaf => return Ok(()),
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

    /// Tells the client what went wrong, if it is something to tell.
    async fn answer(&mut self, done: Done) -> Result<bool, Halt> {
        match done {
            Ok(()) => Ok(false),
            Err(Trouble::Halt(halt)) => Err(halt),
            Err(Trouble::Fault(fault)) => {
                self.transaction = self.transaction.to_error_state();
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
        for (path, name) in [(store.root(), "the store"), (store.project(), "the project")] {
            let path = path.display().to_string();
            let bare = path.trim_start_matches('/').to_string();
            if bare.len() > 1 {
                fault.message = fault.message.replace(&path, name).replace(&bare, name);
                fault.hint = fault.hint.replace(&path, name).replace(&bare, name);
            }
        }
        fault
    }

    async fn ready(&mut self) -> Result<(), Halt> {
        self.line.feed(vec![Out::ReadyForQuery(ReadyForQuery::new(self.transaction))]).await?;
        self.line.flush().await
    }

    /// Statements in one text, each answered with its rows.
    async fn simple(&mut self, sql: &str) -> Done {
        let statements = command::parse(sql)?;
        if statements.is_empty() {
            return Ok(self.line.feed(vec![Out::EmptyQueryResponse(EmptyQueryResponse::new())]).await?);
        }
        let text: Arc<str> = sql.into();
        for statement in statements {
            self.line.begin().await;
            let command = command::of(statement)?;
            self.may(&command)?;
            if let Some(mut cursor) = self.run(command, &text, &[]).await? {
                let description = cursor.0.columns.description();
                self.line.feed(vec![Out::RowDescription(description)]).await?;
                let sent = self.send(&mut cursor.0, 0).await?;
                self.complete(Tag::new(cursor.1).with_rows(sent.0)).await?;
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

    /// Sends rows, all of them if `most` is 0. Returns their number and whether there may be more.
    async fn send(&mut self, cursor: &mut Cursor, most: usize) -> Done<(usize, bool)> {
        let mut sent = 0;
        let most = if most == 0 { usize::MAX } else { most };
        while sent < most {
            let Some(batch) = cursor.next(&mut self.line, most - sent).await? else { return Ok((sent, false)) };
            sent += batch.num_rows();
            let rows = cursor.columns.rows(&batch)?;
            self.line.feed(rows.into_iter().map(Out::DataRow).collect()).await?;
        }
        Ok((sent, true))
    }

    /// Does what a statement says. What has rows returns them, with the tag that follows.
    async fn run(
        &mut self,
        command: Command,
        text: &Arc<str>,
        formats: &[i16],
    ) -> Done<Option<(Cursor, &'static str)>> {
        let tag = match command {
            Command::Query(statement) => {
                let tag = match statement.as_ref() {
                    Statement::Explain { .. } | Statement::ExplainTable { .. } => "EXPLAIN",
                    _ => "SELECT",
                };
                return Ok(Some((self.query(&statement, text, formats).await?, tag)));
            }
            Command::Show(name) => return Ok(Some((self.show(&name)?, "SHOW"))),
            Command::Begin => {
                self.transaction = self.transaction.to_in_transaction_state();
                "BEGIN"
            }
            Command::Commit | Command::Rollback => {
                let failed = matches!(self.transaction, TransactionStatus::Error);
                self.transaction = TransactionStatus::Idle;
                self.cursors.retain(|_, c| c.hold);
                if failed || matches!(command, Command::Rollback) { "ROLLBACK" } else { "COMMIT" }
            }
            Command::Savepoint(tag) => {
                if tag == "ROLLBACK" && matches!(self.transaction, TransactionStatus::Error) {
                    self.transaction = TransactionStatus::Transaction;
                }
                tag
            }
            Command::Set { name, value } => {
                self.set(&name, value.as_deref()).await?;
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
                self.fetch(&name, rows).await?;
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
        let state = if of_all { service.session().state() } else { self.ctx.state() };
        let planned = state.statement_to_plan(any).await;
        let plan = planned.map_err(|e| Refusal::planning(&e, text, &service.now().names))?;
        service.verify(&plan)?;
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
        Ok(Cursor { columns, source: Source::Query(Box::new(rows)), rest: None, left, hold: false })
    }

    fn show(&self, name: &str) -> Result<Cursor, Fault> {
        let (names, values): (Vec<&str>, Vec<Vec<String>>) = if name.eq_ignore_ascii_case("all") {
            let all = self.lock().all();
            let (names, values): (Vec<_>, Vec<_>) = all.into_iter().map(|(n, v)| (n.to_string(), v)).unzip();
            let about = vec![String::new(); names.len()];
            (vec!["name", "setting", "description"], vec![names, values, about])
        } else {
            (vec![name], vec![vec![self.lock().get(name)?.to_string()]])
        };
        let schema = show_schema(&names);
        let arrays = values.into_iter().map(|v| Arc::new(StringArray::from(v)) as ArrayRef).collect();
        let batch = RecordBatch::try_new(Arc::new(schema), arrays).map_err(|e| Fault::new("XX000", e.to_string()))?;
        let columns = Columns::new(&batch.schema(), None);
        Ok(Cursor { columns, source: Source::Fixed(Some(batch)), rest: None, left: None, hold: false })
    }

    async fn set(&mut self, name: &str, value: Option<&str>) -> Done {
        let changed = self.lock().set(name, value)?;
        match changed {
            Changed::No(why) => self.line.notice(&why).await?,
            Changed::Yes => {
                self.follow_path();
                if name.eq_ignore_ascii_case("application_name") {
                    let value = self.lock().get(name)?.to_string();
                    let status = ParameterStatus::new("application_name".into(), value);
                    self.line.feed(vec![Out::ParameterStatus(status)]).await?;
                }
            }
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

    async fn fetch(&mut self, name: &str, rows: Option<usize>) -> Done {
        let mut cursor = self.cursors.remove(name).ok_or_else(|| no_cursor(name))?;
        self.line.feed(vec![Out::RowDescription(cursor.columns.description())]).await?;
        let sent = match rows {
            Some(0) => (0, true),
            rows => self.send(&mut cursor, rows.unwrap_or(0)).await?,
        };
        self.cursors.insert(name.to_string(), cursor);
        self.complete(Tag::new("FETCH").with_rows(sent.0)).await
    }

    async fn parse(&mut self, message: Parse) -> Done {
        let name = message.name.unwrap_or_default();
        if self.statements.len() >= HELD {
            return Err(Fault::new("53400", "too many prepared statements").hint("DEALLOCATE ALL").into());
        }
        let mut statements = command::parse(&message.query)?;
        if statements.len() > 1 {
            return Err(Fault::new("42601", "cannot insert multiple commands into a prepared statement").into());
        }
        let text: Arc<str> = message.query.as_str().into();
        let mut prepared = Prepared { command: None, text, types: Vec::new(), columns: None };
        if let Some(statement) = statements.pop() {
            let count = params::count(&statement)?.max(message.type_oids.len());
            let planned = if count > 0 { self.plan(&statement, &prepared.text).await.ok() } else { None };
            let plan = planned.as_ref().map(|p| &p.0);
            prepared.types = params::types(count, &message.type_oids, &statement, plan);
            let command = command::of(statement)?;
            self.may(&command)?;
            prepared.columns = self.columns(&command, &prepared).await?;
            prepared.command = Some(command);
        }
        self.statements.insert(name, Arc::new(prepared));
        Ok(self.line.feed(vec![Out::ParseComplete(ParseComplete::new())]).await?)
    }

    /// What a statement returns, whatever its parameters are.
    async fn columns(&self, command: &Command, prepared: &Prepared) -> Result<Option<Columns>, Fault> {
        match command {
            Command::Query(statement) => {
                let mut statement = statement.clone();
                let nothing = vec![params::Given::Null; prepared.types.len()];
                params::fill(&mut statement, &prepared.types, &nothing)?;
                let (plan, named) = self.plan(&statement, &prepared.text).await?;
                Ok(Some(Columns::new(plan.schema().as_arrow(), named.as_deref())))
            }
            Command::Show(name) => Ok(Some(self.show(name)?.columns)),
            Command::Fetch { name, .. } => Ok(self.cursors.get(name).map(|c| c.columns.clone())),
            _ => Ok(None),
        }
    }

    async fn bind(&mut self, message: Bind) -> Done {
        let statement = message.statement_name.unwrap_or_default();
        let prepared = self.statements.get(&statement).ok_or_else(|| no_statement(&statement))?.clone();
        let (given, needed) = (message.parameters.len(), prepared.types.len());
        if given != needed {
            let message = format!("bind message supplies {given} parameters, but the statement requires {needed}");
            return Err(Fault::protocol(message).into());
        }
        let formats = &message.parameter_format_codes;
        if formats.len() > 1 && formats.len() != needed {
            let message = format!("bind message has {} formats for {needed} parameters", formats.len());
            return Err(Fault::protocol(message).into());
        }
        let binary = |i: usize| match formats.as_slice() {
            [] => false,
            [all] => *all == 1,
            each => each.get(i) == Some(&1),
        };
        let values = prepared.types.iter().zip(&message.parameters).enumerate();
        let values = values.map(|(i, (kind, value))| params::read(kind, binary(i), value.as_deref()));
        let values = values.collect::<Result<Vec<_>, _>>()?;
        let columns = prepared.columns.as_ref();
        let columns = columns.map(|c| c.with_formats(&message.result_column_format_codes)).transpose()?;
        if self.portals.len() >= HELD {
            return Err(Fault::new("53400", "too many portals").into());
        }
        let portal = Portal { prepared, values, columns, cursor: None, ended: false };
        self.portals.insert(message.portal_name.unwrap_or_default(), portal);
        Ok(self.line.feed(vec![Out::BindComplete(BindComplete::new())]).await?)
    }

    async fn describe(&mut self, message: Describe) -> Done {
        let name = message.name.unwrap_or_default();
        let mut out = Vec::new();
        let columns = if message.target_type == b'S' {
            let prepared = self.statements.get(&name).ok_or_else(|| no_statement(&name))?;
            let types = prepared.types.iter().map(Type::oid).collect();
            out.push(Out::ParameterDescription(ParameterDescription::new(types)));
            prepared.columns.as_ref()
        } else {
            match (self.portals.get(&name), self.cursors.get(&name)) {
                (Some(portal), _) => portal.columns.as_ref(),
                // A cursor is a portal that was opened by a statement.
                (None, Some(cursor)) => Some(&cursor.columns),
                (None, None) => return Err(no_portal(&name).into()),
            }
        };
        out.push(match columns {
            Some(columns) => Out::RowDescription(columns.description()),
            None => Out::NoData(NoData::new()),
        });
        Ok(self.line.feed(out).await?)
    }

    async fn execute(&mut self, message: Execute) -> Done {
        let name = message.name.unwrap_or_default();
        let most = usize::try_from(message.max_rows).unwrap_or(0);
        let mut portal = self.portals.remove(&name).ok_or_else(|| no_portal(&name))?;
        self.line.begin().await;
        self.go_on(&mut portal, most).await?;
        self.portals.insert(name, portal);
        Ok(())
    }

    async fn go_on(&mut self, portal: &mut Portal, most: usize) -> Done {
        let Some(command) = &portal.prepared.command else {
            return Ok(self.line.feed(vec![Out::EmptyQueryResponse(EmptyQueryResponse::new())]).await?);
        };
        self.may(command)?;
        let tag = match command {
            Command::Show(_) => "SHOW",
            _ => "SELECT",
        };
        if portal.ended {
            return self.complete(Tag::new(tag).with_rows(0)).await;
        }
        let mut cursor = match portal.cursor.take() {
            Some(cursor) => cursor,
            None => {
                let mut command = command.clone();
                if let Command::Query(s) | Command::Declare { query: s, .. } | Command::Copy { query: s, .. } =
                    &mut command
                {
                    params::fill(s, &portal.prepared.types, &portal.values)?;
                }
                let text = portal.prepared.text.clone();
                match command {
                    Command::Fetch { name, rows } => return self.fetch_portal(&name, rows).await,
                    command => match self.run(command, &text, &[]).await? {
                        Some((cursor, _)) => cursor,
                        None => return Ok(()),
                    },
                }
            }
        };
        if let Some(columns) = &portal.columns
            && columns.len() == cursor.columns.len()
        {
            cursor.columns = columns.clone();
        }
        let (sent, more) = self.send(&mut cursor, most).await?;
        if more {
            portal.cursor = Some(cursor);
            return Ok(self.line.feed(vec![Out::PortalSuspended(PortalSuspended::new())]).await?);
        }
        portal.ended = true;
        self.complete(Tag::new(tag).with_rows(sent)).await
    }

    /// FETCH as a prepared statement: its columns were described already.
    async fn fetch_portal(&mut self, name: &str, rows: Option<usize>) -> Done {
        let mut cursor = self.cursors.remove(name).ok_or_else(|| no_cursor(name))?;
        let sent = match rows {
            Some(0) => (0, true),
            rows => self.send(&mut cursor, rows.unwrap_or(0)).await?,
        };
        self.cursors.insert(name.to_string(), cursor);
        self.complete(Tag::new("FETCH").with_rows(sent.0)).await
    }

    async fn close(&mut self, message: Close) -> Done {
        let name = message.name.unwrap_or_default();
        if message.target_type == b'S' {
            self.statements.remove(&name);
        } else {
            self.portals.remove(&name);
            self.cursors.remove(&name);
        }
        Ok(self.line.feed(vec![Out::CloseComplete(CloseComplete::new())]).await?)
    }
}

fn show_schema(names: &[&str]) -> Schema {
    Schema::new(names.iter().map(|n| Field::new(*n, DataType::Utf8, false)).collect::<Vec<_>>())
}

fn no_cursor(name: &str) -> Fault {
    Fault::new("34000", format!("cursor \"{name}\" does not exist"))
}

fn no_portal(name: &str) -> Fault {
    Fault::new("34000", format!("portal \"{name}\" does not exist"))
}

fn no_statement(name: &str) -> Fault {
    Fault::new("26000", format!("prepared statement \"{name}\" does not exist"))
}
