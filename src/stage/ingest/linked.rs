//! Requests that wait for others: who waits for whom is settled once all rows are known.
//!
//! A parser gives every request a key of its name, and the keys of those that it waits for; or, where a log has only times,
//! sessions and when each request was done ([`Links`]). Here they become numbers of the table (`depends_on`). A request
//! without an arrival stands where it would be sent if requests took no time: after the latest of those that it waits for,
//! or after the request before it in its session, its `think_ns` later. What waits for a request that is not there does not
//! wait for it; that is counted.
//!
//! All rows are held: whom a request waits for may come after it.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, Int64Builder, ListBuilder, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type};

use super::arrow;
use super::rows::{ARRIVAL, Requests};
use super::sort::gather;
use crate::diag::Result;
use crate::trace::{self, Call, Links, Parsed};

/// Rows of a batch that is handed on.
const ROWS: usize = 8192;

/// The rows of all files.
pub struct Linked {
    links: Links,
    batches: Vec<RecordBatch>,
    /// Of each row: its file, its batch and its place there.
    places: Vec<(usize, (usize, usize))>,
    parent_sessions: Vec<Option<String>>,
}

/// What is known of rows, in the order of the files.
struct Rows {
    arrival: Vec<Option<i64>>,
    think: Vec<Option<i64>>,
    session: Vec<Option<String>>,
    waits: Vec<Vec<usize>>,
}

impl Linked {
    pub fn new(links: Links) -> Linked {
        Linked { links, batches: Vec::new(), places: Vec::new(), parent_sessions: Vec::new() }
    }

    /// Takes the next rows, of the file number `file`.
    pub fn push(&mut self, file: usize, parsed: Parsed) {
        let rows = parsed.rows.num_rows();
        let batch = self.batches.len();
        self.places.extend((0..rows).map(|row| (file, (batch, row))));
        self.parent_sessions.extend(parsed.parent_sessions.into_iter().take(rows));
        self.parent_sessions.resize(self.places.len(), None);
        self.batches.push(parsed.rows);
    }

    /// Hands the rows on, in order. Says for each file how many waits were for requests that are not there.
    pub fn settle(self, table: &mut Requests) -> Result<Vec<u64>> {
        let files = self.places.iter().map(|(file, _)| file + 1).max().unwrap_or(0);
        let mut lost = vec![0; files];
        let mut rows = Rows {
            arrival: self.integers("arrival_ns"),
            think: self.integers("think_ns"),
            session: self.texts("session_id"),
            waits: Vec::new(),
        };
        match self.links {
            Links::Names => rows.waits = self.named(&mut lost),
            Links::Times => self.timed(&mut rows),
        }
        // Rows of files that have no times at all have no order, and keep that of the files.
        let timed = rows.arrival.iter().any(Option::is_some);
        let arrival = if timed { self.arrivals(&rows) } else { Vec::new() };
        let mut order: Vec<usize> = (0..self.places.len()).collect();
        let late = arrival.windows(2).filter(|pair| pair[1] < pair[0]).count() as u64;
        if timed {
            order.sort_by_key(|i| arrival[*i]);
        }
        let mut number = vec![0; order.len()];
        (0..).zip(&order).for_each(|(n, i)| number[*i] = n);
        for part in order.chunks(ROWS) {
            let places: Vec<(usize, usize)> = part.iter().map(|i| self.places[*i].1).collect();
            let batch = gather(&self.batches[0].schema(), &self.batches, &places)?;
            let (schema, mut columns, _) = batch.into_parts();
            if timed {
                columns[ARRIVAL] = Arc::new(Int64Array::from_iter_values(part.iter().map(|i| arrival[*i])));
            }
            columns[schema.index_of("think_ns").map_err(arrow)?] =
                Arc::new(part.iter().map(|i| rows.think[*i]).collect::<Int64Array>());
            columns[schema.index_of("depends_on").map_err(arrow)?] =
                numbers(part.iter().map(|i| rows.waits[*i].iter().map(|on| number[*on]).collect()));
            // In order: nothing has to be begun anew.
            let _ = table.push(RecordBatch::try_new(schema, columns).map_err(arrow)?)?;
        }
        table.late += late;
        Ok(lost)
    }

    /// Whom rows wait for, by names, which are those of one file.
    fn named(&self, lost: &mut [u64]) -> Vec<Vec<usize>> {
        let keys = self.integers("request_id");
        let mut known: HashMap<(usize, i64), usize> = HashMap::new();
        for (i, ((file, _), key)) in self.places.iter().zip(keys).enumerate() {
            if let Some(key) = key.filter(|key| *key != 0) {
                known.entry((*file, key)).or_insert(i);
            }
        }
        let lists = self.batches.iter().map(|b| b.column_by_name("depends_on").map(|c| c.as_list::<i32>()));
        let lists: Vec<_> = lists.collect();
        let mut all = Vec::with_capacity(self.places.len());
        for (i, (file, (batch, row))) in self.places.iter().enumerate() {
            let list = lists[*batch].filter(|list| list.is_valid(*row)).map(|list| list.value(*row));
            let mut on = Vec::new();
            for key in list.iter().flat_map(|list| list.as_primitive::<Int64Type>().values()) {
                match known.get(&(*file, *key)) {
                    Some(other) if *other != i => on.push(*other),
                    _ => lost[*file] += 1,
                }
            }
            all.push(on);
        }
        all
    }

    /// Whom rows wait for, by the times of their sessions, and for how long after.
    fn timed(&self, rows: &mut Rows) {
        let took = self.integers("observed_e2e_ns");
        let mut streams: HashMap<&str, usize> = HashMap::new();
        let (mut calls, mut of, mut began) = (Vec::new(), Vec::new(), Vec::new());
        for (i, session) in rows.session.iter().enumerate() {
            let (Some(session), Some(start_ns)) = (session, rows.arrival[i]) else { continue };
            let stream = *streams.entry(session).or_insert_with(|| {
                began.push(None);
                began.len() - 1
            });
            calls.push(Call { stream, start_ns, end_ns: start_ns.saturating_add(took[i].unwrap_or(0)) });
            of.push(i);
        }
        for (call, i) in calls.iter().zip(&of) {
            let by = self.parent_sessions[*i].as_deref().and_then(|by| streams.get(by).copied());
            began[call.stream] = began[call.stream].or(by.filter(|by| *by != call.stream));
        }
        rows.waits = vec![Vec::new(); self.places.len()];
        for (waits, i) in trace::waits(&calls, &began).into_iter().zip(&of) {
            if !waits.on.is_empty() {
                rows.think[*i] = Some(waits.think_ns);
                rows.waits[*i] = waits.on.into_iter().map(|call| of[call]).collect();
            }
        }
    }

    /// When each row arrives. Rows that wait for each other in a circle arrive with the first of all.
    fn arrivals(&self, rows: &Rows) -> Vec<i64> {
        let first = rows.arrival.iter().flatten().min().copied().unwrap_or(0);
        let mut last: HashMap<(usize, &str), usize> = HashMap::new();
        let mut before = vec![None; rows.arrival.len()];
        for (i, session) in rows.session.iter().enumerate() {
            if let Some(session) = session {
                before[i] = last.insert((self.places[i].0, session.as_str()), i);
            }
        }
        let parents = |i: usize| rows.waits[i].iter().copied().chain(before[i].filter(|_| rows.waits[i].is_empty()));
        let mut known = rows.arrival.clone();
        let mut under_way = vec![false; known.len()];
        for start in 0..known.len() {
            let mut stack = vec![start];
            while let Some(i) = stack.last().copied() {
                let open: Vec<usize> = parents(i).filter(|p| known[*p].is_none() && !under_way[*p]).collect();
                if known[i].is_none() && !std::mem::replace(&mut under_way[i], true) && !open.is_empty() {
                    stack.extend(open);
                    continue;
                }
                let latest = parents(i).filter_map(|p| known[p]).max();
                known[i] = known[i].or_else(|| {
                    let sent = latest?.saturating_add(rows.think[i].unwrap_or(0));
                    Some(sent.min(i64::MAX / 2))
                });
                known[i] = known[i].or(Some(first));
                stack.pop();
            }
        }
        known.into_iter().map(|ns| ns.unwrap_or(first)).collect()
    }

    fn column(&self, name: &str) -> impl Iterator<Item = &ArrayRef> {
        self.batches.iter().flat_map(move |b| b.column_by_name(name))
    }

    fn integers(&self, name: &str) -> Vec<Option<i64>> {
        self.column(name).flat_map(|c| c.as_primitive::<Int64Type>().iter()).collect()
    }

    fn texts(&self, name: &str) -> Vec<Option<String>> {
        self.column(name).flat_map(|c| c.as_string::<i32>().iter().map(|t| t.map(str::to_string))).collect()
    }
}

/// Lists of numbers, in order; an empty one is none.
fn numbers(lists: impl Iterator<Item = Vec<i64>>) -> ArrayRef {
    let item = Arc::new(Field::new_list_field(DataType::Int64, false));
    let mut builder = ListBuilder::new(Int64Builder::new()).with_field(item);
    for mut list in lists {
        list.sort_unstable();
        list.dedup();
        builder.values().append_slice(&list);
        builder.append(!list.is_empty());
    }
    Arc::new(builder.finish())
}
