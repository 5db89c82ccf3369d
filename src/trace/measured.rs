//! What was measured of requests: the readings of a file, and the table that they make.
//!
//! Files differ in what they say (spans of time, or readings of one or two clocks) and in where their time begins.
//! [`Raw`] is what a row says; [`settle`] turns the rows of one run into [`Measured`]. A time that a file does not give and
//! that does not follow from others is missing, never 0.

use super::fields::{Fields, Role};
use crate::spec::{Format, MeasuredColumns};

/// A reading of a row, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    /// When the engine had it in its queue. This and the next three are readings of a clock.
    Queued,
    /// When the engine began with it.
    Scheduled,
    FirstToken,
    LastToken,
    /// From arrival until the engine began with it. This and those that follow are spans.
    Queue,
    Ttft,
    Tpot,
    E2e,
    Prefill,
    Decode,
}

/// How many kinds of [`Time`] there are.
pub const TIMES: usize = 10;

/// What a row of a file says about how the request was served.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Raw {
    /// The request's name in the file; may be empty.
    pub name: String,
    pub run: String,
    /// As written; empty where the file does not say.
    pub status: String,
    pub prefix_group: String,
    /// Tokens of the shared prefix, which the length in the file does not count.
    pub prefix_tokens: i32,
    /// It has no reply, so that its length in the table of requests is made up.
    pub no_reply: bool,
    times: [Option<i64>; TIMES],
}

impl Raw {
    pub fn set(&mut self, time: Time, ns: i64) {
        self.times[time as usize] = Some(ns);
    }

    pub fn get(&self, time: Time) -> Option<i64> {
        self.times[time as usize]
    }

    /// It was served to its end.
    pub fn completed(&self) -> bool {
        completed(&self.status)
    }
}

/// What is written of a request that was served to its end; nothing is written where all were.
pub fn completed(status: &str) -> bool {
    let done = ["", "ok", "complete", "success", "succeeded", "finished", "200", COMPLETED];
    done.iter().any(|d| d.eq_ignore_ascii_case(status))
}

/// Status of a request that was served to its end.
pub const COMPLETED: &str = "completed";
/// Status of a request that failed, where the file does not say how.
pub const FAILED: &str = "failed";
/// Status of a request that was served to its end, but while the client was still warming the server up.
pub const WARMUP: &str = "warmup";

/// What was measured of a request: a row of [`crate::table::measured`].
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    pub run: String,
    pub status: String,
    /// The reply's length in the file is 0.
    pub no_reply: bool,
    pub queue_ns: Option<i64>,
    pub ttft_ns: Option<i64>,
    pub tpot_ns: Option<i64>,
    pub e2e_ns: Option<i64>,
    pub prefill_ns: Option<i64>,
    pub decode_ns: Option<i64>,
}

/// The rows of one run, in the order of the file. `arrivals` are of the file's clock, `outputs` the lengths of replies;
/// the first `warmup` requests by arrival are marked. A row whose times run backwards is none: what is wrong with it is
/// there instead.
pub fn settle(
    format: Format,
    raws: &[Raw],
    arrivals: &[Option<i64>],
    outputs: &[i32],
    warmup: usize,
) -> Vec<Result<Measured, String>> {
    let shift = shift(format, raws, arrivals);
    let rows = raws.iter().zip(arrivals).zip(outputs);
    let mut rows: Vec<_> = rows.map(|((raw, at), n)| one(raw, at.map(|a| i128::from(a) + shift), *n)).collect();
    let mut order: Vec<usize> = (0..rows.len()).filter(|i| rows[*i].is_ok()).collect();
    order.sort_by_key(|i| arrivals[*i]);
    for i in order.into_iter().take(warmup) {
        if let Ok(row) = &mut rows[i]
            && row.status == COMPLETED
        {
            row.status = WARMUP.to_string();
        }
    }
    rows
}

/// What is added to an arrival to have it on the clock of the other readings.
///
/// A benchmark inside the engine's process takes arrivals from the wall clock and the rest from a clock that starts with the
/// machine. The request that was queued soonest after its arrival shows how far they are apart: to less than a
/// millisecond or two, the least time that a request takes to the queue.
fn shift(format: Format, raws: &[Raw], arrivals: &[Option<i64>]) -> i128 {
    match format {
        Format::VllmBench => {
            let apart = |(raw, arrival): (&Raw, &Option<i64>)| {
                Some(i128::from(raw.get(Time::Queued)?) - i128::from((*arrival)?))
            };
            raws.iter().zip(arrivals).filter_map(apart).min().unwrap_or(0)
        }
        Format::Auto
        | Format::Mooncake
        | Format::Azure
        | Format::Apex
        | Format::Burstgpt
        | Format::Dynamo
        | Format::GuidellmTrace
        | Format::Ragpulse
        | Format::Splitwise
        | Format::Weka
        | Format::Vidur
        | Format::Sharegpt
        | Format::Llmservingsim
        | Format::Otel
        | Format::TraceV2
        | Format::OpenaiChat
        | Format::OpenaiBatch
        | Format::VllmPrompts
        | Format::VllmResult
        | Format::Guidellm
        | Format::Aiperf
        | Format::GenaiPerf
        | Format::InferencePerf
        | Format::DetailedResults
        | Format::Jsonl
        | Format::Csv
        | Format::Parquet => 0,
    }
}

fn one(raw: &Raw, arrival: Option<i128>, output: i32) -> Result<Measured, String> {
    // A client writes 0 for what it never saw.
    let clock = |time: Time| raw.get(time).filter(|ns| *ns != 0).map(i128::from);
    let span = |from: Option<i128>, to: Option<i128>, what: &str| match (from, to) {
        (Some(from), Some(to)) if to < from => Err(format!("{what} is before what comes ahead of it")),
        (Some(from), Some(to)) => {
            i64::try_from(to - from).map(Some).map_err(|_| format!("{what} is too late for its arrival"))
        }
        _ => Ok(None),
    };
    let (scheduled, first, last) = (clock(Time::Scheduled), clock(Time::FirstToken), clock(Time::LastToken));
    let queue = raw.get(Time::Queue).map_or_else(|| span(arrival, scheduled, "the start"), |ns| Ok(Some(ns)))?;
    let ttft = raw.get(Time::Ttft).map_or_else(|| span(arrival, first, "the first token"), |ns| Ok(Some(ns)))?;
    let e2e = raw.get(Time::E2e).map_or_else(|| span(arrival, last, "the last token"), |ns| Ok(Some(ns)))?;
    let prefill =
        raw.get(Time::Prefill).map_or_else(|| span(scheduled, first, "the first token"), |ns| Ok(Some(ns)))?;
    let between = match (ttft, e2e) {
        (Some(ttft), Some(e2e)) if e2e < ttft => return Err("the last token is before the first".to_string()),
        (Some(ttft), Some(e2e)) => Some(e2e - ttft),
        _ => None,
    };
    let decode = raw.get(Time::Decode).or(between);
    // One token has no time between tokens; some files write 0 there.
    let tpot = match between {
        _ if output < 2 => None,
        _ if raw.get(Time::Tpot).is_some() => raw.get(Time::Tpot),
        between => between.map(|ns| per_token(ns, i64::from(output - 1))),
    };
    let status = if raw.completed() { COMPLETED.to_string() } else { raw.status.clone() };
    let Raw { run, no_reply, .. } = raw;
    Ok(Measured {
        run: run.clone(),
        status,
        no_reply: *no_reply,
        queue_ns: queue,
        ttft_ns: ttft,
        tpot_ns: tpot,
        e2e_ns: e2e,
        prefill_ns: prefill,
        decode_ns: decode,
    })
}

/// To the nearest nanosecond, halves up.
fn per_token(ns: i64, tokens: i64) -> i64 {
    ((2 * i128::from(ns) + i128::from(tokens)) / (2 * i128::from(tokens))) as i64
}

impl MeasuredColumns {
    /// The columns that are named, with what they hold.
    pub(super) fn named(&self) -> impl Iterator<Item = (Role, &str)> {
        let MeasuredColumns { unit: _, queue, ttft, tpot, e2e, prefill, decode, status, run } = self;
        let all = [
            (Role::Measured(Time::Queue), queue),
            (Role::Measured(Time::Ttft), ttft),
            (Role::Measured(Time::Tpot), tpot),
            (Role::Measured(Time::E2e), e2e),
            (Role::Measured(Time::Prefill), prefill),
            (Role::Measured(Time::Decode), decode),
            (Role::Status, status),
            (Role::Run, run),
        ];
        all.into_iter().filter_map(|(role, name)| Some((role, name.as_deref()?)))
    }
}

/// The fields of a generic file, with those that hold what was measured.
pub(super) fn generic(fields: Fields, columns: Option<&MeasuredColumns>) -> Fields {
    let Some(columns) = columns else { return fields };
    let fields = fields.measured(columns.unit);
    columns.named().fold(fields, |fields, (role, name)| fields.optional(role, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bench(arrival: i64, queued: i64, first: i64, last: i64) -> (Raw, Option<i64>) {
        let mut raw = Raw::default();
        raw.set(Time::Queued, queued);
        raw.set(Time::Scheduled, queued + 1);
        raw.set(Time::FirstToken, first);
        raw.set(Time::LastToken, last);
        (raw, Some(arrival))
    }

    #[test]
    fn two_clocks_meet_at_the_request_that_was_queued_soonest() {
        let rows = [bench(5_000, 120, 150, 250), bench(5_010, 110, 160, 160)];
        let (raws, arrivals): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        // The second was queued at 110 and arrived at 5010: the clocks are 4900 apart.
        let rows: Vec<_> =
            settle(Format::VllmBench, &raws, &arrivals, &[11, 1], 0).into_iter().map(Result::unwrap).collect();
        assert_eq!((rows[0].queue_ns, rows[0].ttft_ns, rows[0].e2e_ns), (Some(21), Some(50), Some(150)));
        assert_eq!((rows[0].prefill_ns, rows[0].decode_ns, rows[0].tpot_ns), (Some(29), Some(100), Some(10)));
        assert_eq!((rows[1].queue_ns, rows[1].ttft_ns, rows[1].tpot_ns), (Some(1), Some(50), None));
    }

    #[test]
    fn times_that_run_backwards_are_refused_with_their_row() {
        let rows = [bench(5_000, 100, 150, 250), bench(5_010, 120, 160, 155)];
        let (raws, arrivals): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        let rows = settle(Format::VllmBench, &raws, &arrivals, &[11, 2], 0);
        assert!(rows[0].is_ok());
        assert_eq!(rows[1], Err("the last token is before the first".to_string()));
    }

    #[test]
    fn a_request_that_failed_keeps_its_status_and_warm_up_counts_by_arrival() {
        let mut rows = [bench(30, 30, 40, 50), bench(10, 10, 20, 30), bench(0, 5, 6, 7)];
        rows[2].0.status = "timeout".to_string();
        let (raws, arrivals): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        let rows = settle(Format::TraceV2, &raws, &arrivals, &[2, 2, 2], 2);
        let status: Vec<&str> = rows.iter().flatten().map(|r| r.status.as_str()).collect();
        assert_eq!(status, ["completed", "warmup", "timeout"]);
    }
}
