//! What the fields of a row mean, and the columns that rows are collected in.
//!
//! Every format says with [`Fields`] which of its names plays which [`Role`]; a [`Rows`] takes the values of one row
//! at a time, checks them, and keeps them as Arrow columns.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Builder, Int64Array, Int64Builder, ListBuilder, RecordBatch, StringBuilder};
use arrow::array::{UInt64Builder, new_null_array};
use arrow::datatypes::{DataType, Field};

use super::{Fault, Layout, MAX_TOKENS, Parsed, Problem, number};
use crate::diag::{Failure, Result};
use crate::spec::TimeUnit;
use crate::table::requests::numbers;

/// What a field of a row is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Arrival,
    InputTokens,
    OutputTokens,
    Input,
    Output,
    Session,
    Class,
    Hashes,
    BlockTokens,
    Turn,
    Think,
    Model,
    Adapter,
    EncoderTokens,
}

pub const ROLES: [Role; 14] = [
    Role::Arrival,
    Role::InputTokens,
    Role::OutputTokens,
    Role::Input,
    Role::Output,
    Role::Session,
    Role::Class,
    Role::Hashes,
    Role::BlockTokens,
    Role::Turn,
    Role::Think,
    Role::Model,
    Role::Adapter,
    Role::EncoderTokens,
];

impl Role {
    fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// Which field plays which role.
#[derive(Clone, Debug)]
pub struct Fields {
    pub layout: Layout,
    /// Name per role, in the order of [`ROLES`].
    names: [Option<String>; 14],
    required: u16,
    /// Fields that must stay empty: the first row has no arrival, so no other row may have one.
    forbidden: u16,
    pub unit: TimeUnit,
    /// Tokens per block, unless a row says otherwise.
    pub block_tokens: Option<u32>,
    /// `block_tokens` comes from the user and beats what rows say.
    pub block_tokens_fixed: bool,
}

impl Fields {
    pub fn new(layout: Layout, unit: TimeUnit) -> Self {
        Fields {
            layout,
            names: Default::default(),
            required: 0,
            forbidden: 0,
            unit,
            block_tokens: None,
            block_tokens_fixed: false,
        }
    }

    pub fn required(mut self, role: Role, name: impl Into<String>) -> Self {
        self.required |= role.bit();
        self.optional(role, name)
    }

    pub fn optional(mut self, role: Role, name: impl Into<String>) -> Self {
        self.names[role as usize] = Some(name.into());
        self
    }

    pub fn forbidden(mut self, role: Role, name: impl Into<String>) -> Self {
        self.forbidden |= role.bit();
        self.optional(role, name)
    }

    /// Tokens per block: what the user says, else what rows say, else `default`.
    pub fn block_tokens(mut self, user: Option<u32>, default: Option<u32>) -> Self {
        self.block_tokens = user.or(default);
        self.block_tokens_fixed = user.is_some();
        self
    }

    pub fn name(&self, role: Role) -> Option<&str> {
        self.names[role as usize].as_deref()
    }

    pub fn is_required(&self, role: Role) -> bool {
        self.required & role.bit() != 0
    }

    /// Roles that have a name, with it.
    pub fn named(&self) -> impl Iterator<Item = (Role, &str)> {
        ROLES.iter().filter_map(|r| self.name(*r).map(|n| (*r, n)))
    }
}

/// Rows in the making. One row at a time: set its fields, then [`Rows::commit`] or [`Rows::clear`].
pub struct Rows<'f> {
    fields: &'f Fields,
    row: Row,
    lines: Vec<u64>,
    problems: Vec<Problem>,
    arrival: Int64Builder,
    session: StringBuilder,
    turn: Int32Builder,
    class: StringBuilder,
    think: Int64Builder,
    model: StringBuilder,
    adapter: StringBuilder,
    input_tokens: Int32Builder,
    output_tokens: Int32Builder,
    hashes: ListBuilder<UInt64Builder>,
    block_tokens: Int32Builder,
    encoder_tokens: Int32Builder,
    input: ListBuilder<StringBuilder>,
    output: StringBuilder,
}

/// The row that is being read. Buffers are reused from row to row.
#[derive(Default)]
struct Row {
    seen: u16,
    arrival: i64,
    input_tokens: i32,
    output_tokens: i32,
    block_tokens: i32,
    encoder_tokens: i32,
    turn: i32,
    think: i64,
    session: String,
    class: String,
    model: String,
    adapter: String,
    output: String,
    input: Vec<String>,
    hashes: Vec<u64>,
}

impl<'f> Rows<'f> {
    pub fn new(fields: &'f Fields) -> Self {
        let item = |kind| Arc::new(Field::new_list_field(kind, false));
        Rows {
            fields,
            row: Row::default(),
            lines: Vec::new(),
            problems: Vec::new(),
            arrival: Int64Builder::new(),
            session: StringBuilder::new(),
            turn: Int32Builder::new(),
            class: StringBuilder::new(),
            think: Int64Builder::new(),
            model: StringBuilder::new(),
            adapter: StringBuilder::new(),
            input_tokens: Int32Builder::new(),
            output_tokens: Int32Builder::new(),
            hashes: ListBuilder::new(UInt64Builder::new()).with_field(item(DataType::UInt64)),
            block_tokens: Int32Builder::new(),
            encoder_tokens: Int32Builder::new(),
            input: ListBuilder::new(StringBuilder::new()).with_field(item(DataType::Utf8)),
            output: StringBuilder::new(),
        }
    }

    /// A field as text, at byte `at` of the row.
    pub fn text(&mut self, role: Role, text: &str, at: usize) -> std::result::Result<(), Fault> {
        self.once(role, at)?;
        let row = &mut self.row;
        let wrong = match role {
            Role::Arrival => number::time_ns(text, self.fields.unit).map(|t| row.arrival = t).err(),
            Role::InputTokens => number::tokens(text).map(|n| row.input_tokens = n).err(),
            Role::OutputTokens => number::tokens(text).map(|n| row.output_tokens = n).err(),
            Role::BlockTokens => number::tokens(text).map(|n| row.block_tokens = n).err(),
            Role::Hashes => Some("is not a list: expected the identifiers of blocks".to_string()),
            Role::Output if text.is_empty() => Some("is empty: expected the text of the reply".to_string()),
            Role::Session => keep(&mut row.session, text),
            Role::Class => keep(&mut row.class, text),
            Role::Model => keep(&mut row.model, text),
            Role::Adapter => keep(&mut row.adapter, text),
            Role::Turn => number::whole(text, i32::MAX as u64).map(|n| row.turn = n as i32).err(),
            // Half of what fits, as of arrivals, so that the sum of two times always fits.
            Role::Think => number::whole(text, i64::MAX as u64 / 2).map(|n| row.think = n as i64).err(),
            Role::EncoderTokens => number::whole(text, MAX_TOKENS as u64).map(|n| row.encoder_tokens = n as i32).err(),
            Role::Output => keep(&mut row.output, text),
            Role::Input => {
                row.input.push(text.to_string());
                None
            }
        };
        wrong.map_or(Ok(()), |reason| Err(self.fault(role, at, &reason)))
    }

    /// A field that is a list of texts or of block identifiers: call [`Self::message`] or [`Self::hash`] per item.
    pub fn list(&mut self, role: Role, at: usize) -> std::result::Result<(), Fault> {
        self.once(role, at)?;
        match role {
            Role::Input | Role::Hashes => Ok(()),
            _ => Err(self.fault(role, at, "is a list: expected a single value")),
        }
    }

    pub fn message(&mut self, text: &str) {
        self.row.input.push(text.to_string());
    }

    pub fn hash(&mut self, text: &str, at: usize) -> std::result::Result<(), Fault> {
        let hash = number::whole(text, u64::MAX)
            .map_err(|r| self.fault(Role::Hashes, at, &format!("has an item that {r}")))?;
        self.row.hashes.push(hash);
        Ok(())
    }

    /// An arrival that is a number of nanoseconds already.
    pub fn arrival_ns(&mut self, ns: i64, at: usize) -> std::result::Result<(), Fault> {
        self.once(Role::Arrival, at)?;
        // Half of what fits, so that the difference of two times always fits.
        if !(0..=i64::MAX / 2).contains(&ns) {
            return Err(self.fault(Role::Arrival, at, "is before 1970 or too late: expected a time between"));
        }
        self.row.arrival = ns;
        Ok(())
    }

    /// What is wrong with the value of a field.
    pub fn fault(&self, role: Role, at: usize, reason: &str) -> Fault {
        Fault::new(at, format!("`{}` {reason}", self.fields.name(role).unwrap_or("row")))
    }

    fn once(&mut self, role: Role, at: usize) -> std::result::Result<(), Fault> {
        if self.row.seen & role.bit() != 0 {
            return Err(self.fault(role, at, "is there twice"));
        }
        if self.fields.forbidden & role.bit() != 0 {
            return Err(self.fault(role, at, "is there, but the first row of the file has none: expected none or all"));
        }
        self.row.seen |= role.bit();
        Ok(())
    }

    /// Ends the row that stands at `line`.
    pub fn commit(&mut self, line: u64) -> std::result::Result<(), Fault> {
        let missing = self.fields.required & !self.row.seen;
        if missing != 0 {
            let names: Vec<_> = self.fields.named().filter(|(r, _)| missing & r.bit() != 0).collect();
            let names: Vec<_> = names.iter().map(|(_, n)| format!("`{n}`")).collect();
            return Err(Fault::new(0, format!("missing {}", names.join(", "))));
        }
        let block_tokens = self.block_tokens_of_row()?;
        self.append(block_tokens);
        self.lines.push(line);
        self.clear();
        Ok(())
    }

    /// Tokens per block of the row; `None` where it has no hashes.
    fn block_tokens_of_row(&self) -> std::result::Result<Option<i32>, Fault> {
        if !self.row.has(Role::Hashes) {
            return Ok(None);
        }
        let said = self.row.has(Role::BlockTokens).then_some(self.row.block_tokens);
        let default = self.fields.block_tokens.and_then(|n| i32::try_from(n).ok());
        let block_tokens = if self.fields.block_tokens_fixed { default } else { said.or(default) };
        let missing = "is there, but not how many tokens a block has: set `block_tokens` of the stage";
        block_tokens.ok_or_else(|| self.fault(Role::Hashes, 0, missing)).map(Some)
    }

    fn append(&mut self, block_tokens: Option<i32>) {
        let row = &self.row;
        self.arrival.append_option(row.has(Role::Arrival).then_some(row.arrival));
        self.session.append_option(row.has(Role::Session).then_some(&row.session));
        self.turn.append_option(row.has(Role::Turn).then_some(row.turn));
        self.class.append_option(row.has(Role::Class).then_some(&row.class));
        self.think.append_option(row.has(Role::Think).then_some(row.think));
        self.model.append_option(row.has(Role::Model).then_some(&row.model));
        self.adapter.append_option(row.has(Role::Adapter).then_some(&row.adapter));
        match self.fields.layout {
            Layout::Tokens => {
                self.input_tokens.append_value(row.input_tokens);
                self.output_tokens.append_value(row.output_tokens);
                self.hashes.values().append_slice(&row.hashes);
                self.hashes.append(row.has(Role::Hashes));
                self.block_tokens.append_option(block_tokens);
                self.encoder_tokens.append_option(row.has(Role::EncoderTokens).then_some(row.encoder_tokens));
            }
            Layout::Texts => {
                row.input.iter().for_each(|m| self.input.values().append_value(m));
                self.input.append(true);
                self.output.append_value(&row.output);
            }
        }
    }

    /// Forgets the fields set since the last row.
    pub fn clear(&mut self) {
        let row = &mut self.row;
        row.seen = 0;
        row.session.clear();
        row.class.clear();
        row.model.clear();
        row.adapter.clear();
        row.output.clear();
        row.input.clear();
        row.hashes.clear();
    }

    /// Forgets the row, and notes why.
    pub fn reject(&mut self, problem: Problem) {
        self.clear();
        self.problems.push(problem);
    }

    /// The rows collected.
    pub fn finish(mut self) -> Result<Parsed> {
        let rows = self.lines.len();
        let schema = self.fields.layout.schema();
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![0; rows])),
            Arc::new(self.arrival.finish()),
            Arc::new(self.session.finish()),
            Arc::new(self.turn.finish()),
            Arc::new(self.class.finish()),
            Arc::new(self.think.finish()),
            // Files number their requests in ways of their own; the numbers of the table are given later.
            new_null_array(&numbers(), rows),
            Arc::new(self.model.finish()),
            Arc::new(self.adapter.finish()),
        ];
        match self.fields.layout {
            Layout::Tokens => columns.extend([
                Arc::new(self.input_tokens.finish()) as ArrayRef,
                Arc::new(self.output_tokens.finish()),
                Arc::new(self.hashes.finish()),
                Arc::new(self.block_tokens.finish()),
                Arc::new(self.encoder_tokens.finish()),
            ]),
            Layout::Texts => {
                columns.extend([Arc::new(self.input.finish()) as ArrayRef, Arc::new(self.output.finish())]);
            }
        }
        let rows = RecordBatch::try_new(schema, columns).map_err(|e| Failure::stage("trace::arrow", e.to_string()))?;
        Ok(Parsed { rows, lines: self.lines, problems: self.problems, conversations: Vec::new() })
    }
}

/// Keeps a text, of which nothing can be wrong.
fn keep(buffer: &mut String, text: &str) -> Option<String> {
    buffer.push_str(text);
    None
}

impl Row {
    fn has(&self, role: Role) -> bool {
        self.seen & role.bit() != 0
    }
}
