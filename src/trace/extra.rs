//! Columns that few files have: built only where the fields name them, so that others do not pay for them.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Builder, Int32Builder, Int64Builder, ListBuilder, StringBuilder};
use arrow::datatypes::{DataType, Field};

use super::{MAX_TOKENS, number};
use crate::spec::TimeUnit;

/// What a field that few files have is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    Tenant,
    Client,
    Priority,
    MaxTokens,
    Acceptance,
    Deadline,
    Timeout,
    Cancel,
    ObservedQueue,
    ObservedTtft,
    ObservedTpot,
    ObservedE2e,
    ObservedStatus,
    Images,
    ReasoningTokens,
    /// The request's own name, by which others say that they wait for it.
    Request,
    /// Names of the requests that it waits for.
    DependsOn,
    /// Time to be added to that from the end of those that it waits for until it is sent.
    Wait,
    /// As [`Extra::Wait`].
    OtherWait,
    /// Requests that the row stands for: 1.
    Batch,
    /// The session that began the row's session.
    ParentSession,
    /// When it was done, by the clock of the arrivals.
    End,
    /// Tokens of sound and of video, which count to those of an encoder.
    AudioTokens,
    VideoTokens,
    /// Share of the reply that is reasoning.
    ReasonRatio,
}

/// How many kinds of [`Extra`] there are.
pub const EXTRAS: usize = 25;

/// What the values of a field are.
enum Holds {
    Text,
    Count(i32),
    /// Negative ones too.
    Int,
    Time,
    Share,
    One,
    Name,
}

impl Extra {
    pub const ALL: [Extra; EXTRAS] = [
        Extra::Tenant,
        Extra::Client,
        Extra::Priority,
        Extra::MaxTokens,
        Extra::Acceptance,
        Extra::Deadline,
        Extra::Timeout,
        Extra::Cancel,
        Extra::ObservedQueue,
        Extra::ObservedTtft,
        Extra::ObservedTpot,
        Extra::ObservedE2e,
        Extra::ObservedStatus,
        Extra::Images,
        Extra::ReasoningTokens,
        Extra::Request,
        Extra::DependsOn,
        Extra::Wait,
        Extra::OtherWait,
        Extra::Batch,
        Extra::ParentSession,
        Extra::End,
        Extra::AudioTokens,
        Extra::VideoTokens,
        Extra::ReasonRatio,
    ];

    /// Its column of the table, where it is one of its own.
    pub fn column(self) -> Option<&'static str> {
        Some(match self {
            Extra::Tenant => "tenant",
            Extra::Client => "client",
            Extra::Priority => "priority",
            Extra::MaxTokens => "max_tokens",
            Extra::Acceptance => "acceptance",
            Extra::Deadline => "deadline_ns",
            Extra::Timeout => "timeout_ns",
            Extra::Cancel => "cancel_ns",
            Extra::ObservedQueue => "observed_queue_ns",
            Extra::ObservedTtft => "observed_ttft_ns",
            Extra::ObservedTpot => "observed_tpot_ns",
            Extra::ObservedE2e => "observed_e2e_ns",
            Extra::ObservedStatus => "observed_status",
            Extra::Images => "images",
            Extra::ReasoningTokens => "reasoning_tokens",
            Extra::Request => "request_id",
            Extra::DependsOn => "depends_on",
            Extra::Wait | Extra::OtherWait | Extra::Batch | Extra::ParentSession | Extra::End => return None,
            Extra::AudioTokens | Extra::VideoTokens | Extra::ReasonRatio => return None,
        })
    }

    fn holds(self) -> Holds {
        match self {
            Extra::Tenant | Extra::Client | Extra::ObservedStatus | Extra::ParentSession => Holds::Text,
            Extra::Priority => Holds::Int,
            Extra::MaxTokens | Extra::ReasoningTokens | Extra::AudioTokens | Extra::VideoTokens => {
                Holds::Count(MAX_TOKENS)
            }
            Extra::Images => Holds::Count(i32::MAX),
            Extra::Acceptance | Extra::ReasonRatio => Holds::Share,
            Extra::Deadline
            | Extra::Timeout
            | Extra::Cancel
            | Extra::ObservedQueue
            | Extra::ObservedTtft
            | Extra::ObservedTpot
            | Extra::ObservedE2e
            | Extra::Wait
            | Extra::OtherWait
            | Extra::End => Holds::Time,
            Extra::Request | Extra::DependsOn => Holds::Name,
            Extra::Batch => Holds::One,
        }
    }

    /// Its values are numbers.
    pub fn is_number(self) -> bool {
        !matches!(self.holds(), Holds::Text | Holds::Name)
    }

    /// Its values may have a fraction.
    pub fn is_real(self) -> bool {
        matches!(self.holds(), Holds::Time | Holds::Share)
    }
}

/// A request's name as a number that is not 0.
pub fn key(name: &[u8]) -> i64 {
    ((super::fields::content(name) >> 1) as i64).max(1)
}

/// The values of one row.
#[derive(Debug, Default)]
pub struct Values {
    numbers: [i64; EXTRAS],
    texts: [String; EXTRAS],
    /// Keys of the requests that it waits for.
    pub parents: Vec<i64>,
}

impl Values {
    /// Takes a value; says what is wrong with it.
    pub fn set(&mut self, extra: Extra, text: &str, unit: TimeUnit) -> Option<String> {
        let n = match extra.holds() {
            Holds::Text => {
                self.texts[extra as usize].push_str(text);
                return None;
            }
            Holds::Name if extra == Extra::DependsOn => {
                self.parents.push(key(text.as_bytes()));
                return None;
            }
            Holds::Name => Ok(key(text.as_bytes())),
            Holds::Count(most) => number::whole(text, most as u64).map(|n| n as i64),
            Holds::Int => text
                .parse::<i32>()
                .map(i64::from)
                .map_err(|_| format!("is `{}`: expected a whole number from -2^31 to 2^31 - 1", number::shorten(text))),
            Holds::Time => number::time_ns(text, unit),
            Holds::Share => match text.parse::<f64>() {
                Ok(share) if (0.0..=1.0).contains(&share) => Ok(share.to_bits() as i64),
                _ => Err(format!("is `{}`: expected a share from 0 to 1", number::shorten(text))),
            },
            Holds::One => match number::whole(text, u64::MAX) {
                Ok(1) => Ok(1),
                Ok(n) => Err(format!("is {n}: a row is one request here, expected 1")),
                Err(reason) => Err(reason),
            },
        };
        n.map(|n| self.numbers[extra as usize] = n).err()
    }

    pub fn put(&mut self, extra: Extra, n: i64) {
        self.numbers[extra as usize] = n;
    }

    pub fn number(&self, extra: Extra) -> i64 {
        self.numbers[extra as usize]
    }

    pub fn text(&self, extra: Extra) -> &str {
        &self.texts[extra as usize]
    }

    pub fn clear(&mut self) {
        self.texts.iter_mut().for_each(String::clear);
        self.parents.clear();
    }
}

enum Builder {
    Int(Int32Builder),
    Wide(Int64Builder),
    Real(Float64Builder),
    Text(StringBuilder),
    Keys(ListBuilder<Int64Builder>),
}

/// The columns in the making.
pub struct Columns(Vec<(Extra, &'static str, Builder)>);

impl Columns {
    pub fn new(extras: impl Iterator<Item = Extra>) -> Self {
        let item = || Arc::new(Field::new_list_field(DataType::Int64, false));
        let builder = |extra: Extra| match extra.holds() {
            Holds::Text => Builder::Text(StringBuilder::new()),
            Holds::Count(_) | Holds::Int | Holds::One => Builder::Int(Int32Builder::new()),
            Holds::Time => Builder::Wide(Int64Builder::new()),
            Holds::Share => Builder::Real(Float64Builder::new()),
            Holds::Name if extra == Extra::Request => Builder::Wide(Int64Builder::new()),
            Holds::Name => Builder::Keys(ListBuilder::new(Int64Builder::new()).with_field(item())),
        };
        Columns(extras.filter_map(|e| Some((e, e.column()?, builder(e)))).collect())
    }

    pub fn append(&mut self, values: &Values, has: impl Fn(Extra) -> bool) {
        for (extra, _, builder) in &mut self.0 {
            let n = has(*extra).then(|| values.number(*extra));
            match builder {
                Builder::Int(b) => b.append_option(n.map(|n| n as i32)),
                // Without a name of its own nobody can wait for it.
                Builder::Wide(b) if *extra == Extra::Request => b.append_value(n.unwrap_or(0)),
                Builder::Wide(b) => b.append_option(n),
                Builder::Real(b) => b.append_option(n.map(|n| f64::from_bits(n as u64))),
                Builder::Text(b) => b.append_option(has(*extra).then(|| values.text(*extra))),
                Builder::Keys(b) => {
                    b.values().append_slice(&values.parents);
                    b.append(has(*extra) && !values.parents.is_empty());
                }
            }
        }
    }

    /// The columns, by name.
    pub fn finish(self) -> impl Iterator<Item = (&'static str, ArrayRef)> {
        self.0.into_iter().map(|(_, name, builder)| {
            let column: ArrayRef = match builder {
                Builder::Int(mut b) => Arc::new(b.finish()),
                Builder::Wide(mut b) => Arc::new(b.finish()),
                Builder::Real(mut b) => Arc::new(b.finish()),
                Builder::Text(mut b) => Arc::new(b.finish()),
                Builder::Keys(mut b) => Arc::new(b.finish()),
            };
            (name, column)
        })
    }
}
