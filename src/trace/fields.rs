//! What the fields of a row mean, and the columns that rows are collected in.
//!
//! Every format says with [`Fields`] which of its names plays which [`Role`]; a [`Rows`] takes the values of one row
//! at a time, checks them, and keeps them as Arrow columns. What was measured of a request is kept beside them, as
//! [`Raw`].

use std::sync::Arc;

use arrow::array::UInt64Builder;
use arrow::array::{ArrayRef, Int32Builder, Int64Array, Int64Builder, ListBuilder, StringBuilder};
use arrow::datatypes::{DataType, Field};

use super::extra::{self, Extra};
use super::json::Scanner;
use super::measured::{COMPLETED, FAILED, Raw, Time, WARMUP, completed};
use super::ragpulse::Lengths;
pub use super::role::{EXTRA_BITS, ROLE_COUNT, ROLES, Role};
use super::sparse::Sparse;
use super::{Counts, Fault, Layout, MAX_TOKENS, Parsed, Problem, number};
use crate::diag::{Failure, Result};
use crate::spec::TimeUnit;
use crate::table::requests;

/// Tokens of a hashed block where neither the file nor the user says: that of vLLM.
pub const BLOCK_TOKENS: u32 = 16;

/// How requests that wait for others are linked with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// By names: `depends_on` has the keys of those that a row waits for, `request_id` its own. A row of a session, or one
    /// that waits, may have no arrival: then it is sent when those that it waits for are done.
    Names,
    /// By times: a request of a session waits for what was done when it was sent.
    Times,
}

/// Which field plays which role.
#[derive(Clone, Debug)]
pub struct Fields {
    pub layout: Layout,
    /// Name per role, in the order of [`ROLES`].
    names: [Option<String>; ROLE_COUNT],
    required: u64,
    /// Fields that must stay empty: the first row has no arrival, so no other row may have one.
    forbidden: u64,
    /// Of arrivals.
    pub unit: TimeUnit,
    /// Of think times and of times that few files have.
    pub span_unit: TimeUnit,
    /// A request without a reply is one that failed.
    pub no_reply_fails: bool,
    /// How requests that wait for others are linked with them.
    pub links: Option<Links>,
    /// Lengths of the parts of prompts.
    pub parts: Option<Arc<Lengths>>,
    /// Of measured times; `None`: nothing is measured.
    pub measured: Option<TimeUnit>,
    /// Tokens per block, unless a row says otherwise.
    pub block_tokens: Option<u32>,
    /// `block_tokens` comes from the user and beats what rows say.
    pub block_tokens_fixed: bool,
    /// The file is one document, which is read as a whole.
    pub whole: bool,
    /// Rows are what a client wrote down: 0 stands for nothing, a deadline is a time of the arrivals' clock, and a turn
    /// is one of a session.
    pub client_log: bool,
}

impl Fields {
    pub fn new(layout: Layout, unit: TimeUnit) -> Self {
        Fields {
            layout,
            names: [const { None }; ROLE_COUNT],
            required: 0,
            forbidden: 0,
            unit,
            span_unit: TimeUnit::Ns,
            no_reply_fails: false,
            links: None,
            parts: None,
            measured: None,
            block_tokens: None,
            block_tokens_fixed: false,
            whole: false,
            client_log: false,
        }
    }

    pub fn required(mut self, role: Role, name: impl Into<String>) -> Self {
        self.required |= role.bit();
        self.optional(role, name)
    }

    pub fn optional(mut self, role: Role, name: impl Into<String>) -> Self {
        self.names[role.place()] = Some(name.into());
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

    /// Rows are what a client wrote down.
    pub fn client_log(mut self) -> Self {
        self.client_log = true;
        self
    }

    /// The file is one document.
    pub fn whole(mut self) -> Self {
        self.whole = true;
        self
    }

    /// Unit of think times and of times that few files have.
    pub fn spans(mut self, unit: TimeUnit) -> Self {
        self.span_unit = unit;
        self
    }

    /// Lengths of the parts of prompts.
    pub fn parts(mut self, lengths: Lengths) -> Self {
        self.parts = Some(Arc::new(lengths));
        self
    }

    /// Requests may wait for others.
    pub fn links(mut self, links: Links) -> Self {
        self.links = Some(links);
        self
    }

    /// A request without a reply is one that failed.
    pub fn no_reply_fails(mut self) -> Self {
        self.no_reply_fails = true;
        self
    }

    /// Rows have measured times, in `unit`.
    pub fn measured(mut self, unit: TimeUnit) -> Self {
        self.measured = Some(unit);
        self
    }

    pub fn name(&self, role: Role) -> Option<&str> {
        self.names[role.place()].as_deref()
    }

    pub fn is_required(&self, role: Role) -> bool {
        self.required & role.bit() != 0
    }

    fn extras(&self) -> impl Iterator<Item = Extra> {
        Extra::ALL.into_iter().filter(|e| self.name(Role::Extra(*e)).is_some() || self.made(*e))
    }

    /// Columns that follow from others.
    fn made(&self, extra: Extra) -> bool {
        match extra {
            Extra::ObservedStatus => self.no_reply_fails,
            Extra::Request | Extra::DependsOn => self.links.is_some(),
            _ => false,
        }
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
    measured: Vec<Raw>,
    counts: Counts,
    arrival: Int64Builder,
    session: Sparse<StringBuilder>,
    turn: Sparse<Int32Builder>,
    class: Sparse<StringBuilder>,
    think: Sparse<Int64Builder>,
    model: Sparse<StringBuilder>,
    adapter: Sparse<StringBuilder>,
    input_tokens: Int32Builder,
    output_tokens: Int32Builder,
    hashes: ListBuilder<UInt64Builder>,
    block_tokens: Sparse<Int32Builder>,
    encoder_tokens: Sparse<Int32Builder>,
    extras: extra::Columns,
    parent_sessions: Vec<Option<String>>,
    input: ListBuilder<StringBuilder>,
    output: StringBuilder,
}

/// The row that is being read. Buffers are reused from row to row.
#[derive(Default)]
struct Row {
    seen: u64,
    extra: extra::Values,
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
    input_ids: Vec<u32>,
    output_ids: Vec<u32>,
    raw: Raw,
    string_numbers: u64,
}

impl<'f> Rows<'f> {
    pub fn new(fields: &'f Fields) -> Self {
        let item = |kind| Arc::new(Field::new_list_field(kind, false));
        Rows {
            fields,
            row: Row::default(),
            lines: Vec::new(),
            problems: Vec::new(),
            measured: Vec::new(),
            counts: Counts::default(),
            arrival: Int64Builder::new(),
            session: Sparse::new(),
            turn: Sparse::new(),
            class: Sparse::new(),
            think: Sparse::new(),
            model: Sparse::new(),
            adapter: Sparse::new(),
            input_tokens: Int32Builder::new(),
            output_tokens: Int32Builder::new(),
            hashes: ListBuilder::new(UInt64Builder::new()).with_field(item(DataType::UInt64)),
            block_tokens: Sparse::new(),
            encoder_tokens: Sparse::new(),
            extras: extra::Columns::new(fields.extras()),
            parent_sessions: Vec::new(),
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
            Role::InputTokens => number::length(text).map(|n| row.input_tokens = n).err(),
            Role::OutputTokens => number::length(text).map(|n| row.output_tokens = n).err(),
            Role::BlockTokens => number::tokens(text).map(|n| row.block_tokens = n).err(),
            Role::Hashes => Some("is not a list: expected the identifiers of blocks".to_string()),
            Role::Output if text.is_empty() => Some("is empty: expected the text of the reply".to_string()),
            Role::Session => keep(&mut row.session, text),
            Role::Class => keep(&mut row.class, text),
            Role::Model => keep(&mut row.model, text),
            Role::Adapter => keep(&mut row.adapter, text),
            Role::Turn => number::whole(text, i32::MAX as u64).map(|n| row.turn = n as i32).err(),
            Role::Think if self.fields.span_unit != TimeUnit::Ns => {
                number::time_ns(text, self.fields.span_unit).map(|t| row.think = t).err()
            }
            // Half of what fits, as of arrivals, so that the sum of two times always fits.
            Role::Think => number::whole(text, i64::MAX as u64 / 2).map(|n| row.think = n as i64).err(),
            Role::EncoderTokens => number::whole(text, MAX_TOKENS as u64).map(|n| row.encoder_tokens = n as i32).err(),
            Role::Output => keep(&mut row.output, text),
            Role::InputIds | Role::OutputIds => Some("is not a list: expected the numbers of tokens".to_string()),
            Role::Name => keep(&mut row.raw.name, text),
            Role::Run => keep(&mut row.raw.run, text),
            Role::Status => keep(&mut row.raw.status, text),
            Role::PrefixGroup => keep(&mut row.raw.prefix_group, text),
            Role::PrefixTokens => {
                number::whole(text, MAX_TOKENS as u64).map(|n| row.raw.prefix_tokens = n as i32).err()
            }
            Role::Measured(time) => {
                number::time_ns(text, self.fields.measured.unwrap_or_default()).map(|t| row.raw.set(time, t)).err()
            }
            Role::Input => {
                row.input.push(text.to_string());
                None
            }
            Role::Extra(extra) => row.extra.set(extra, text, self.fields.span_unit),
        };
        wrong.map_or(Ok(()), |reason| Err(self.fault(role, at, &reason)))
    }

    /// A field that is a list of texts or of numbers: call [`Self::message`] or [`Self::number`] per item.
    pub fn list(&mut self, role: Role, at: usize) -> std::result::Result<(), Fault> {
        self.once(role, at)?;
        match role {
            Role::Input | Role::Hashes | Role::InputIds | Role::OutputIds | Role::Extra(Extra::DependsOn) => Ok(()),
            _ => Err(self.fault(role, at, "is a list: expected a single value")),
        }
    }

    pub fn message(&mut self, text: &str) {
        self.row.input.push(text.to_string());
    }

    /// The items of a list of block identifiers, if they are plain numbers all; else nothing was read.
    pub fn plain_numbers(&mut self, role: Role, scanner: &mut Scanner) -> bool {
        role == Role::Hashes && scanner.plain_numbers(&mut self.row.hashes)
    }

    /// An item of a list of block identifiers or of token numbers.
    pub fn number(&mut self, role: Role, text: &str, at: usize) -> std::result::Result<(), Fault> {
        let most = if role == Role::Hashes { u64::MAX } else { u64::from(u32::MAX) };
        let n = number::whole(text, most).map_err(|r| self.fault(role, at, &format!("has an item that {r}")))?;
        match role {
            Role::InputIds => self.row.input_ids.push(n as u32),
            Role::OutputIds => self.row.output_ids.push(n as u32),
            _ => self.row.hashes.push(n),
        }
        Ok(())
    }

    /// An item of a list of names of requests.
    pub fn parent(&mut self, name: &str) {
        self.row.extra.parents.push(extra::key(name.as_bytes()));
    }

    /// A field whose value is known and checked.
    pub fn put(&mut self, role: Role, n: i64) {
        let row = &mut self.row;
        row.seen |= role.bit();
        match role {
            Role::Arrival => row.arrival = n,
            Role::InputTokens => row.input_tokens = n as i32,
            Role::OutputTokens => row.output_tokens = n as i32,
            Role::BlockTokens => row.block_tokens = n as i32,
            Role::Turn => row.turn = n as i32,
            Role::Think => row.think = n,
            Role::Extra(extra) => row.extra.put(extra, n),
            _ => unreachable!("of other roles values are read as text"),
        }
    }

    /// The identifiers of the row's blocks.
    pub fn blocks(&mut self, hashes: impl IntoIterator<Item = u64>) {
        self.row.seen |= Role::Hashes.bit();
        self.row.hashes.extend(hashes);
    }

    /// Keys of the requests that the row waits for.
    pub fn parents(&mut self, keys: impl IntoIterator<Item = i64>) {
        self.row.seen |= Role::Extra(Extra::DependsOn).bit();
        self.row.extra.parents.extend(keys);
    }

    /// The numbers of the tokens of prompt and reply.
    pub fn ids(&mut self, input: Vec<u32>, output: Vec<u32>) {
        self.row.seen |= Role::InputIds.bit();
        self.row.seen |= if output.is_empty() { 0 } else { Role::OutputIds.bit() };
        self.row.input_ids = input;
        self.row.output_ids = output;
    }

    /// So many numbers of the row stand in quotes.
    pub fn quoted_numbers(&mut self, n: u64) {
        self.row.string_numbers += n;
    }

    /// Length of the prompt.
    pub fn input_tokens(&self) -> i32 {
        self.row.input_tokens
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

    /// A measured time that is a number of nanoseconds already.
    pub fn measured_ns(&mut self, time: Time, ns: i64, at: usize) -> std::result::Result<(), Fault> {
        self.once(Role::Measured(time), at)?;
        self.row.raw.set(time, ns);
        Ok(())
    }

    /// What the text around the rows has.
    pub fn counts(&mut self) -> &mut Counts {
        &mut self.counts
    }

    /// The number of this field stands in quotes. Dates and names are texts, and not noted.
    pub fn quoted(&mut self, role: Role, text: &str) {
        self.row.string_numbers += u64::from(role.is_number() && text.trim().parse::<f64>().is_ok());
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
        self.linked()?;
        self.derive()?;
        let raw = self.fields.measured.map(|_| self.complete()).transpose()?;
        self.hash_ids()?;
        let block_tokens = self.block_tokens_of_row()?;
        if self.fields.layout == Layout::Tokens {
            self.at_least_one(raw.as_ref());
        }
        self.counts.string_numbers += self.row.string_numbers;
        self.append(block_tokens);
        self.measured.extend(raw);
        self.lines.push(line);
        self.clear();
        Ok(())
    }

    /// What follows from fields that have no column of their own, and what a client means by 0.
    fn derive(&mut self) -> std::result::Result<(), Fault> {
        let row = &mut self.row;
        let parts = [Extra::AudioTokens, Extra::VideoTokens, Extra::ReasonRatio];
        if !self.fields.client_log && parts.iter().all(|part| !row.has(Role::Extra(*part))) {
            return Ok(());
        }
        let mut encoder = i64::from(if row.has(Role::EncoderTokens) { row.encoder_tokens } else { 0 });
        for media in [Extra::AudioTokens, Extra::VideoTokens] {
            if row.has(Role::Extra(media)) {
                encoder += row.extra.number(media);
                row.seen |= Role::EncoderTokens.bit();
            }
        }
        if encoder > i64::from(MAX_TOKENS) {
            return Err(self.fault(Role::EncoderTokens, 0, "is too large together with sound and video"));
        }
        row.encoder_tokens = encoder as i32;
        let reasoning = Role::Extra(Extra::ReasoningTokens);
        if row.has(Role::Extra(Extra::ReasonRatio)) && !row.has(reasoning) {
            let share = f64::from_bits(row.extra.number(Extra::ReasonRatio) as u64);
            row.extra.put(Extra::ReasoningTokens, libm::round(share * f64::from(row.output_tokens)) as i64);
            row.seen |= reasoning.bit();
        }
        if !self.fields.client_log {
            return Ok(());
        }
        let deadline = Role::Extra(Extra::Deadline);
        let at = row.extra.number(Extra::Deadline);
        let mut forget = |nothing: bool, role: Role| row.seen &= if nothing { !role.bit() } else { u64::MAX };
        forget(encoder == 0, Role::EncoderTokens);
        forget(at == 0, deadline);
        if row.extra.number(Extra::ReasoningTokens) == 0 {
            row.seen &= !reasoning.bit();
        }
        if !row.has(Role::Session) {
            row.seen &= !Role::Turn.bit();
        }
        if row.has(deadline) && row.has(Role::Arrival) {
            if at < row.arrival {
                return Err(self.fault(deadline, 0, "is before the request was sent"));
            }
            row.extra.put(Extra::Deadline, at - row.arrival);
        }
        Ok(())
    }

    /// Checks what was measured, and completes the lengths with what it says.
    fn complete(&mut self) -> std::result::Result<Raw, Fault> {
        let mut raw = std::mem::take(&mut self.row.raw);
        raw.no_reply = self.row.output_tokens == 0;
        if raw.no_reply && raw.completed() {
            return Err(self.fault(
                Role::OutputTokens,
                0,
                "is 0: expected at least 1 token of a request that was served",
            ));
        }
        let total = i64::from(self.row.input_tokens) + i64::from(raw.prefix_tokens);
        if total > i64::from(MAX_TOKENS) {
            return Err(self.fault(Role::InputTokens, 0, "is too large together with the shared prefix"));
        }
        self.row.input_tokens = total as i32;
        if !raw.prefix_group.is_empty() {
            let size = self.fields.block_tokens.unwrap_or(BLOCK_TOKENS);
            let blocks = raw.prefix_tokens as u32 / size.max(1);
            let block = |block: u32| content(&[raw.prefix_group.as_bytes(), &block.to_le_bytes()].concat());
            self.row.hashes.extend((0..blocks).map(block));
            self.row.seen |= Role::Hashes.bit();
        }
        Ok(raw)
    }

    /// What the row says of others: the time that it waits, and when it can arrive without saying so.
    fn linked(&mut self) -> std::result::Result<(), Fault> {
        let row = &mut self.row;
        for wait in [Extra::Wait, Extra::OtherWait] {
            if !row.has(Role::Extra(wait)) {
                continue;
            }
            // Three times of at most a quarter of what fits.
            let so_far = if row.has(Role::Think) { row.think } else { 0 };
            row.think = so_far.saturating_add(row.extra.number(wait)).min(i64::MAX / 2);
            row.seen |= Role::Think.bit();
        }
        let (end, e2e) = (Role::Extra(Extra::End), Role::Extra(Extra::ObservedE2e));
        if row.has(end) && row.has(Role::Arrival) && !row.has(e2e) {
            row.extra.put(Extra::ObservedE2e, (row.extra.number(Extra::End) - row.arrival).max(0));
            row.seen |= e2e.bit();
        }
        let waits = row.has(Role::Session) || !row.extra.parents.is_empty();
        let may_have = self.fields.forbidden & Role::Arrival.bit() == 0;
        if self.fields.links == Some(Links::Names) && may_have && !row.has(Role::Arrival) && !waits {
            let name = self.fields.name(Role::Arrival).unwrap_or("arrival");
            return Err(Fault::new(0, format!("missing `{name}`: expected it of a request that waits for no other")));
        }
        Ok(())
    }

    /// An engine computes at least one token of a prompt, and makes at least one of a reply. A request that failed without
    /// a reply loaded it with its prompt all the same.
    fn at_least_one(&mut self, raw: Option<&Raw>) {
        let row = &mut self.row;
        let said = Role::Extra(Extra::ObservedStatus);
        if self.fields.no_reply_fails {
            let status = if row.output_tokens == 0 { FAILED } else { COMPLETED };
            row.extra.set(Extra::ObservedStatus, status, TimeUnit::Ns);
            row.seen |= said.bit();
        }
        let status = row.extra.text(Extra::ObservedStatus);
        let failed = match raw {
            Some(raw) => !raw.completed(),
            None => row.has(said) && status != WARMUP && !completed(status),
        };
        self.counts.failed += u64::from(failed);
        self.counts.zero_inputs += u64::from(row.input_tokens == 0);
        self.counts.zero_outputs += u64::from(row.output_tokens == 0 && !failed);
        row.input_tokens = row.input_tokens.max(1);
        row.output_tokens = row.output_tokens.max(1);
    }

    /// Turns the numbers of tokens into identifiers of the full blocks of prompt and reply.
    fn hash_ids(&mut self) -> std::result::Result<(), Fault> {
        for (role, of) in [(Role::InputIds, Role::InputTokens), (Role::OutputIds, Role::OutputTokens)] {
            let row = &self.row;
            let (ids, length) = match role {
                Role::InputIds => (row.input_ids.len(), row.input_tokens),
                _ => (row.output_ids.len(), row.output_tokens),
            };
            if row.has(role) && ids != length as usize {
                let said = self.fields.name(of).unwrap_or("length");
                return Err(self.fault(role, 0, &format!("has {ids} items: expected {length}, as `{said}` says")));
            }
        }
        let row = &mut self.row;
        if row.has(Role::InputIds) {
            let size = self.fields.block_tokens.unwrap_or(BLOCK_TOKENS).max(1) as usize;
            row.input_ids.append(&mut row.output_ids);
            let mut bytes = Vec::with_capacity(4 * size);
            for block in row.input_ids.chunks_exact(size) {
                bytes.clear();
                block.iter().for_each(|id| bytes.extend(id.to_le_bytes()));
                row.hashes.push(content(&bytes));
            }
            row.seen |= Role::Hashes.bit();
        }
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
        self.extras.append(&row.extra, |extra| row.has(Role::Extra(extra)));
        let parent_session = Role::Extra(Extra::ParentSession);
        if self.fields.name(parent_session).is_some() {
            let name = row.has(parent_session).then(|| row.extra.text(Extra::ParentSession).to_string());
            self.parent_sessions.push(name);
        }
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
        if row.seen & EXTRA_BITS != 0 {
            row.extra.clear();
        }
        row.seen = 0;
        row.session.clear();
        row.class.clear();
        row.model.clear();
        row.adapter.clear();
        row.output.clear();
        row.input.clear();
        row.hashes.clear();
        row.input_ids.clear();
        row.output_ids.clear();
        if self.fields.measured.is_some() {
            row.raw = Raw::default();
        }
        row.string_numbers = 0;
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
        // Files number their requests in ways of their own; the numbers of the table are given later.
        let mut columns: Vec<(&str, ArrayRef)> = vec![
            ("request_id", Arc::new(Int64Array::from(vec![0; rows]))),
            ("arrival_ns", Arc::new(self.arrival.finish())),
            ("session_id", self.session.finish()),
            ("turn", self.turn.finish()),
            ("class", self.class.finish()),
            ("think_ns", self.think.finish()),
            ("model", self.model.finish()),
            ("adapter", self.adapter.finish()),
        ];
        match self.fields.layout {
            Layout::Tokens => columns.extend([
                ("input_tokens", Arc::new(self.input_tokens.finish()) as ArrayRef),
                ("output_tokens", Arc::new(self.output_tokens.finish())),
                ("block_hashes", Arc::new(self.hashes.finish())),
                ("block_tokens", self.block_tokens.finish()),
                ("encoder_tokens", self.encoder_tokens.finish()),
            ]),
            Layout::Texts => columns.extend([
                ("input", Arc::new(self.input.finish()) as ArrayRef),
                ("output", Arc::new(self.output.finish())),
            ]),
        }
        // `images` and `reasoning_tokens` are of token counts only.
        columns.extend(self.extras.finish().filter(|(name, _)| schema.index_of(name).is_ok()));
        let rows = requests::assemble(&schema, rows, columns);
        let rows = rows.map_err(|e| Failure::stage("trace::arrow", e.to_string()))?;
        let Rows { lines, problems, measured, counts, parent_sessions, .. } = self;
        Ok(Parsed { rows, lines, problems, conversations: Vec::new(), measured, counts, parent_sessions })
    }
}

/// Identifier of what a block holds: the first 8 bytes of its BLAKE3 hash, little endian, as of `tokenize`.
pub fn content(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(blake3::hash(bytes).as_bytes().first_chunk::<8>().copied().unwrap_or_default())
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
