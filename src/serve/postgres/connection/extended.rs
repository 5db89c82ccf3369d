//! The extended protocol: statements that are prepared, given values, described, and run in parts.

use std::sync::Arc;

use datafusion_postgres::pgwire::api::Type;
use datafusion_postgres::pgwire::messages::PgWireBackendMessage as Out;
use datafusion_postgres::pgwire::messages::data::{NoData, ParameterDescription};
use datafusion_postgres::pgwire::messages::extendedquery::{
    Bind, BindComplete, Close, CloseComplete, Describe, Execute, Parse, ParseComplete, PortalSuspended,
};
use datafusion_postgres::pgwire::messages::response::EmptyQueryResponse;

use super::{Connection, Cursor, Done, HELD, done};
use crate::serve::postgres::command::{self, Command};
use crate::serve::postgres::encode::Columns;
use crate::serve::postgres::fault::Fault;
use crate::serve::postgres::params;

/// Bytes of the texts and values of all that a client has prepared: the two longest messages there can be.
const HELD_BYTES: usize = 32 << 20;

/// A prepared statement.
pub struct Prepared {
    /// `None` where there was no statement in the text.
    command: Option<Command>,
    text: Arc<str>,
    types: Vec<Type>,
    columns: Option<Columns>,
}

/// A prepared statement with values.
pub struct Portal {
    prepared: Arc<Prepared>,
    values: Vec<params::Given>,
    columns: Option<Columns>,
    /// Once it runs.
    cursor: Option<Cursor>,
    /// Whether it has run to its end.
    ended: bool,
}

/// The part that one of those who hold a statement has in its bytes.
fn share(prepared: &Arc<Prepared>) -> usize {
    prepared.text.len() / Arc::strong_count(prepared)
}

impl Connection {
    /// Whether `more` bytes may be kept besides what is.
    fn room_for(&self, more: usize) -> Result<(), Fault> {
        let statements: usize = self.statements.values().map(share).sum();
        let portals: usize = self.portals.values().map(|p| share(&p.prepared) + params::size(&p.values)).sum();
        if statements + portals + more <= HELD_BYTES {
            return Ok(());
        }
        let message = format!("prepared statements and their values take more than {} MiB", HELD_BYTES >> 20);
        Err(Fault::new("53400", message).hint("close those that are not needed: DEALLOCATE ALL"))
    }

    pub(super) async fn parse(&mut self, message: Parse) -> Done {
        let name = message.name.unwrap_or_default();
        if name.is_empty() {
            // Each takes the place of the one before, whatever becomes of it.
            self.statements.remove("");
        } else if self.statements.contains_key(&name) {
            return Err(Fault::new("42P05", format!("prepared statement \"{name}\" already exists")).into());
        } else if self.statements.len() >= HELD {
            return Err(Fault::new("53400", "too many prepared statements").hint("DEALLOCATE ALL").into());
        }
        self.room_for(message.query.len())?;
        let mut statements = self.heard(command::parse(&message.query))?;
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
            let command = self.heard(command::of(statement))?;
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

    pub(super) async fn bind(&mut self, message: Bind) -> Done {
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
        let name = message.portal_name.unwrap_or_default();
        if name.is_empty() {
            self.portals.remove("");
        } else if self.portals.contains_key(&name) {
            return Err(Fault::new("42P03", format!("portal \"{name}\" already exists")).into());
        } else if self.portals.len() >= HELD {
            return Err(Fault::new("53400", "too many portals").into());
        }
        let binary = |i: usize| match formats.as_slice() {
            [] => false,
            [all] => *all == 1,
            each => each.get(i) == Some(&1),
        };
        let values = prepared.types.iter().zip(&message.parameters).enumerate();
        let values = values.map(|(i, (kind, value))| params::read(kind, binary(i), value.as_deref()));
        let values = values.collect::<Result<Vec<_>, _>>()?;
        self.room_for(params::size(&values))?;
        let columns = match &prepared.command {
            // The cursor of that name may be another one by now.
            Some(Command::Fetch { name, .. }) => self.cursors.get(name).map(|c| &c.columns),
            _ => prepared.columns.as_ref(),
        };
        let columns = columns.map(|c| c.with_formats(&message.result_column_format_codes)).transpose()?;
        self.portals.insert(name, Portal { prepared, values, columns, cursor: None, ended: false });
        Ok(self.line.feed(vec![Out::BindComplete(BindComplete::new())]).await?)
    }

    pub(super) async fn describe(&mut self, message: Describe) -> Done {
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

    pub(super) async fn execute(&mut self, message: Execute) -> Done {
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
        let tag = command.tag();
        if portal.ended {
            return self.complete(done(tag, 0)).await;
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
                if let Command::Fetch { name, rows } = &command {
                    return self.fetch(name, *rows, portal.columns.as_ref(), false).await;
                }
                let text = portal.prepared.text.clone();
                match self.run(command, &text).await? {
                    Some(cursor) => cursor,
                    None => return Ok(()),
                }
            }
        };
        if let Some(columns) = &portal.columns
            && columns.len() == cursor.columns.len()
        {
            cursor.columns = columns.clone();
        }
        let (sent, more) = cursor.send(&mut self.line, most).await?;
        if more {
            portal.cursor = Some(cursor);
            return Ok(self.line.feed(vec![Out::PortalSuspended(PortalSuspended::new())]).await?);
        }
        portal.ended = true;
        self.complete(done(tag, sent)).await
    }

    pub(super) async fn close(&mut self, message: Close) -> Done {
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

fn no_portal(name: &str) -> Fault {
    Fault::new("34000", format!("portal \"{name}\" does not exist"))
}

pub(super) fn no_statement(name: &str) -> Fault {
    Fault::new("26000", format!("prepared statement \"{name}\" does not exist"))
}
