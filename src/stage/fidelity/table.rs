//! Tables of configurations, row by row: the server that a row was measured on, and the client that drove it.

use csv::StringRecord;
use pipe_kernel::request::Requests;
use pipe_kernel::rng;
use pipe_kernel::units::SimTime;
use serde_json::{Value, json};

use super::trial::server;
use crate::diag::{Diagnostic, Failure, Result};
use crate::spec::{Candidate, Client, MeasuredConfigurations, System, Text, Tree};

/// Where users would send more requests than so many in all, each sends fewer.
const REQUESTS: u64 = 20_000;
/// No configuration is simulated with more requests.
const REQUESTS_MAX: u64 = 1_000_000;

const COLUMNS: [&str; 13] = [
    "model_path",
    "system",
    "tp_size",
    "pp_size",
    "attention_dp_size",
    "moe_ep_size",
    "isl",
    "osl",
    "batch_size",
    "gemm_quant_mode",
    "moe_quant_mode",
    "silicon_ttft_ms",
    "silicon_tpot_ms",
];

/// A row of the table.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub line: u64,
    pub model: String,
    pub system: String,
    pub tp: u32,
    pub pp: u32,
    pub dp: u32,
    pub experts_spread: bool,
    pub isl: u32,
    pub osl: u32,
    pub users: u32,
    pub gemm: String,
    pub moe: String,
    pub ttft_ms: f64,
    pub tpot_ms: f64,
    /// It is for fitting.
    pub train: bool,
}

/// Reads the rows that are asked for, and draws which of them are for fitting.
///
/// # Errors
/// A file that cannot be read, lacks a column, or has a value that is none.
pub(super) fn read(name: &Text, table: &MeasuredConfigurations, seed: u64) -> Result<Vec<Row>> {
    let failed = |e: csv::Error| wrong(table, 0, e.to_string());
    let mut reader = csv::Reader::from_path(&table.path.path).map_err(failed)?;
    let headers = reader.headers().map_err(failed)?.clone();
    let column = |name: &str| {
        let at = headers.iter().position(|h| h == name);
        let there = || headers.iter().collect::<Vec<_>>().join(", ");
        at.ok_or_else(|| wrong(table, 1, format!("no column `{name}`; there are {}", there())))
    };
    let at = COLUMNS.into_iter().map(column).collect::<Result<Vec<usize>>>()?;
    let only = table.only.iter().map(|(name, values)| Ok((column(name)?, values))).collect::<Result<Vec<_>>>()?;
    let mut stream = rng::stream(seed, &format!("fidelity/{}/split", name.value));
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(failed)?;
        let cells = Cells { table, at: &at, record: &record };
        let taken = only.iter().all(|(at, values)| values.iter().any(|v| Some(v.as_str()) == record.get(*at)));
        if taken && table.systems.keys().any(|s| s.value == cells.text(1)) {
            rows.push(cells.row(rng::below(&mut stream, 2) == 0)?);
        }
    }
    if rows.is_empty() {
        return Err(wrong(table, 0, "no row is asked for by `only` and `systems`".to_string()));
    }
    Ok(rows)
}

fn wrong(table: &MeasuredConfigurations, line: u64, what: String) -> Failure {
    let place = if line > 0 { format!(":{line}") } else { String::new() };
    let message = format!("{}{place}: {what}", table.path.path.display());
    Diagnostic::new("fidelity::configurations", message).at(table.path.at.clone()).into()
}

/// The cells of a row, by the place of their column in [`COLUMNS`].
struct Cells<'a> {
    table: &'a MeasuredConfigurations,
    at: &'a [usize],
    record: &'a StringRecord,
}

impl Cells<'_> {
    fn line(&self) -> u64 {
        self.record.position().map_or(0, csv::Position::line)
    }

    fn text(&self, column: usize) -> &str {
        self.record.get(self.at[column]).unwrap_or_default()
    }

    /// A number of things; 1 where nobody says.
    fn count(&self, column: usize) -> Result<u32> {
        let text = self.text(column);
        if text.is_empty() {
            return Ok(1);
        }
        let number = text.parse::<f64>().ok().filter(|n| (0.0..=f64::from(u32::MAX)).contains(n));
        let none = || wrong(self.table, self.line(), format!("`{}` is `{text}`: expected a number", COLUMNS[column]));
        Ok((number.ok_or_else(none)? as u32).max(1))
    }

    fn time(&self, column: usize) -> Result<f64> {
        let text = self.text(column);
        let number = text.parse::<f64>().ok().filter(|n| n.is_finite() && *n > 0.0);
        let none = || format!("`{}` is `{text}`: expected ms above 0", COLUMNS[column]);
        number.ok_or_else(|| wrong(self.table, self.line(), none()))
    }

    fn row(&self, train: bool) -> Result<Row> {
        Ok(Row {
            line: self.line(),
            model: self.text(0).to_string(),
            system: self.text(1).to_string(),
            tp: self.count(2)?,
            pp: self.count(3)?,
            dp: self.count(4)?,
            experts_spread: self.count(5)? > 1,
            isl: self.count(6)?,
            osl: self.count(7)?,
            users: self.count(8)?,
            gemm: self.text(9).to_string(),
            moe: self.text(10).to_string(),
            ttft_ms: self.time(11)?,
            tpot_ms: self.time(12)?,
            train,
        })
    }
}

impl Row {
    /// The settings of the server.
    pub fn tree(&self, table: &MeasuredConfigurations, system: &System, candidate: &Candidate, seed: u64) -> Tree {
        let mut deployment = table.deployment.clone().unwrap_or_else(|| Tree::from_json(json!({})));
        for (path, value) in [
            ("model", Value::from(self.model.clone())),
            ("gpu", Value::from(system.gpu.value.clone())),
            ("tp", Value::from(self.tp)),
            ("pp", Value::from(self.pp)),
            ("dp", Value::from(self.dp)),
            ("dtype", Value::from(if self.gemm.starts_with("fp8") { "fp8" } else { "bf16" })),
        ] {
            deployment.set_path(path, Tree::from_json(value));
        }
        if self.experts_spread && self.dp > 1 {
            deployment.set_path("enable_expert_parallel", Tree::from_json(Value::Bool(true)));
        }
        let mut tree = server(&deployment, candidate, seed);
        tree.set_path("workload.concurrency", Tree::from_json(Value::from(self.users)));
        tree
    }

    /// What a scenario has no word for.
    pub fn beyond(&self, client: Client) -> Option<String> {
        let known = |name: &str| ["", "fp8", "fp8_block", "bfloat16", "float16"].contains(&name);
        if let Some(name) = [&self.gemm, &self.moe].into_iter().find(|name| !known(name)) {
            return Some(format!("weights of type {name} are not modelled"));
        }
        let (users, each) = (u64::from(self.users), self.requests_per_user(client));
        (users * each > REQUESTS_MAX)
            .then(|| format!("{users} users who send {each} requests each are more than {REQUESTS_MAX} requests"))
    }

    /// Requests of every user: so many that one of them is no warm-up.
    fn requests_per_user(&self, client: Client) -> u64 {
        let least = u64::from(client.warmup_per_user) + 1;
        u64::from(client.requests_per_user).min((REQUESTS / u64::from(self.users)).max(least))
    }

    /// Requests from the first that are warm-up.
    pub fn warmup(&self, client: Client) -> usize {
        (u64::from(self.users) * u64::from(client.warmup_per_user)) as usize
    }

    pub fn requests(&self, client: Client, seed: u64) -> Requests {
        let mut stream = rng::stream(seed, &format!("fidelity/client/{}", self.line));
        let mut length = |most: u32| {
            let least = (f64::from(most) * client.shortest) as u32;
            (least + rng::below(&mut stream, u64::from(most - least.min(most)) + 1) as u32).clamp(1, most)
        };
        let mut requests = Requests::default();
        for _ in 0..u64::from(self.users) * self.requests_per_user(client) {
            requests.arrival.push(SimTime::ZERO);
            requests.input_tokens.push(length(self.isl));
            requests.output_tokens.push(length(self.osl));
        }
        requests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(users: u32) -> Row {
        Row {
            line: 2,
            model: "m".into(),
            system: "s".into(),
            tp: 1,
            pp: 1,
            dp: 1,
            experts_spread: false,
            isl: 8,
            osl: 1,
            users,
            gemm: String::new(),
            moe: String::new(),
            ttft_ms: 1.0,
            tpot_ms: 1.0,
            train: true,
        }
    }

    /// Some request is left after the warm-up, however many users there are.
    #[test]
    fn users_send_more_than_their_warm_up() {
        let client = |requests_per_user, warmup_per_user| Client { requests_per_user, shortest: 0.5, warmup_per_user };
        for (users, client, requests, warmup) in [
            (10, client(10, 2), 100, 20),
            (4_000, client(10, 0), 20_000, 0),
            (4_000, client(10, 8), 36_000, 32_000),
            (30_000, client(10, 0), 30_000, 0),
        ] {
            let row = row(users);
            assert_eq!(row.beyond(client), None);
            let made = row.requests(client, 1);
            assert_eq!((made.len(), row.warmup(client)), (requests, warmup), "{users} {client:?}");
            assert!(made.output_tokens.iter().all(|n| *n == 1));
        }
        let why = row(u32::MAX).beyond(client(u32::MAX, u32::MAX - 1)).unwrap();
        assert!(why.starts_with("4294967295 users who send 4294967295 requests each"), "{why}");
    }
}
