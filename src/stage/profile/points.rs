//! The points of a profile in the making: gathered in any order, sorted, repetitions merged, written.
//!
//! Promises: the table depends on the points alone. Of several times of one shape the median counts; of an even number
//! the mean of the two in the middle.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Builder, Int32Builder, Int64Builder, RecordBatch, StringBuilder};
use pipe_kernel::profile::{DIMS, Layout, Operator};

use super::frame::Header;
use crate::diag::{Diagnostic, Exit, Failure, Result};
use crate::spec::BadRows;
use crate::stage::RunCx;
use crate::table::profile::{schema, shape_columns};

/// Bad rows that are shown at once.
const PROBLEMS_MAX: usize = 20;
/// Rows of a batch that is written.
const BATCH_ROWS: usize = 1 << 16;

/// A measurement, before repetitions are merged.
#[derive(Clone, Debug)]
pub(super) struct Raw {
    pub operator: Operator,
    pub variant: u32,
    pub dtype: u32,
    pub kv_dtype: u32,
    /// In the order of [`Operator::dims`].
    pub shape: [u32; DIMS],
    pub latency_us: f64,
    pub source: u32,
    pub row: u32,
}

/// What is known of a file: a row of the table of sources.
#[derive(Clone, Debug, Default)]
pub(super) struct Source {
    pub file: String,
    pub operators: BTreeSet<Operator>,
    pub rows: u64,
    pub points: u64,
    pub duplicates: u64,
    /// Why rows were refused -> how many.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Why it was not read, or what else is to be said.
    pub note: String,
}

pub(super) struct Points {
    layout: Layout,
    bad_rows: BadRows,
    names: Vec<String>,
    numbers: HashMap<String, u32>,
    last: Option<u32>,
    raw: Vec<Raw>,
    pub sources: Vec<Source>,
    problems: Vec<Diagnostic>,
    problems_more: u64,
    pub warnings: Vec<String>,
}

/// A distinct shape.
struct Point {
    at: usize,
    latency_us: f64,
    samples: u32,
}

impl Points {
    pub fn new(layout: Layout, bad_rows: BadRows) -> Points {
        Points {
            layout,
            bad_rows,
            names: Vec::new(),
            numbers: HashMap::new(),
            last: None,
            raw: Vec::new(),
            sources: Vec::new(),
            problems: Vec::new(),
            problems_more: 0,
            warnings: Vec::new(),
        }
    }

    /// The number of a name.
    pub fn name(&mut self, name: &str) -> u32 {
        // Names repeat from row to row.
        if let Some(last) = self.last
            && self.names[last as usize] == name
        {
            return last;
        }
        let number = match self.numbers.get(name) {
            Some(number) => *number,
            None => {
                let number = self.names.len() as u32;
                self.names.push(name.to_string());
                self.numbers.insert(name.to_string(), number);
                number
            }
        };
        self.last = Some(number);
        number
    }

    pub fn push(&mut self, raw: Raw) {
        self.raw.push(raw);
    }

    /// A row that cannot be.
    pub fn refuse(&mut self, source: usize, reason: &'static str, what: Diagnostic) {
        *self.sources[source].rejected.entry(reason).or_default() += 1;
        match self.bad_rows {
            BadRows::Fail if self.problems.len() < PROBLEMS_MAX => self.problems.push(what),
            BadRows::Fail => self.problems_more += 1,
            BadRows::Reject => {}
        }
    }

    /// A file without rows.
    pub fn empty(&mut self, source: usize, header: &Header) {
        let message = format!("{} has no rows", header.written);
        self.sources[source].note = "no rows".to_string();
        match self.bad_rows {
            BadRows::Fail => self.problems.push(Diagnostic::new("profile::empty", message)),
            BadRows::Reject => self.warnings.push(message),
        }
    }

    /// Fails if there are rows that cannot be, and they are not to be left out.
    pub fn check(&mut self) -> Result<()> {
        if self.problems.is_empty() {
            return Ok(());
        }
        let more = match self.problems_more {
            0 => String::new(),
            n => format!("{n} more are not shown; "),
        };
        let mut diagnostics = std::mem::take(&mut self.problems);
        if let Some(last) = diagnostics.last_mut() {
            let help = last.help.take().map_or(String::new(), |h| format!("{h}\n"));
            last.help = Some(format!("{help}{more}`bad_rows: reject` goes on without such rows and counts them"));
        }
        Err(Failure { exit: Exit::Stage, diagnostics })
    }

    /// Sorts, merges, looks for what is odd, and writes the table.
    ///
    /// # Errors
    /// There is no point at all; full disk and the like.
    pub fn write(&mut self, cx: &RunCx) -> Result<()> {
        self.sort();
        let points = self.merge();
        if points.is_empty() {
            let what = Diagnostic::new("profile::nothing", "there is no point in these files");
            return Err(Failure { exit: Exit::Stage, diagnostics: vec![what] });
        }
        self.look(&points);
        let mut writer = cx.out.table(&cx.stage, schema())?;
        for part in points.chunks(BATCH_ROWS) {
            cx.cancel.check()?;
            writer.write(&self.batch(part)?)?;
        }
        writer.finish()
    }

    /// By operator, names and the columns of the shape as they stand in the table; then by time, then by place.
    fn sort(&mut self) {
        let mut ranks: Vec<u32> = (0..self.names.len() as u32).collect();
        ranks.sort_unstable_by(|a, b| self.names[*a as usize].cmp(&self.names[*b as usize]));
        let mut rank = vec![0_u32; ranks.len()];
        for (i, name) in ranks.iter().enumerate() {
            rank[*name as usize] = i as u32;
        }
        let orders: Vec<Vec<usize>> = Operator::ALL.iter().map(|o| order(*o)).collect();
        let names = |r: &Raw| (r.operator, rank[r.variant as usize], rank[r.dtype as usize], rank[r.kv_dtype as usize]);
        let shape = |a: &Raw, b: &Raw| {
            // Operators are numbered as they stand in `ALL`.
            let order = &orders[a.operator as usize];
            order.iter().map(|d| a.shape[*d].cmp(&b.shape[*d])).find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
        };
        self.raw.sort_unstable_by(|a, b| {
            let time = || a.latency_us.total_cmp(&b.latency_us);
            let place = || (a.source, a.row).cmp(&(b.source, b.row));
            names(a).cmp(&names(b)).then_with(|| shape(a, b)).then_with(time).then_with(place)
        });
    }

    fn merge(&mut self) -> Vec<Point> {
        let mut points = Vec::with_capacity(self.raw.len());
        let mut start = 0;
        while start < self.raw.len() {
            let first = &self.raw[start];
            let end = start + self.raw[start..].iter().take_while(|r| same(first, r)).count();
            let group = &self.raw[start..end];
            let middle = group.len() / 2;
            let latency_us = if group.len() % 2 == 1 {
                group[middle].latency_us
            } else {
                (group[middle - 1].latency_us + group[middle].latency_us) / 2.0
            };
            let samples = u32::try_from(group.len()).unwrap_or(u32::MAX);
            // The first in the order of the files keeps the point.
            let owner = group.iter().map(|r| (r.source, r.row)).min().map_or(0, |(source, _)| source);
            for r in group {
                self.sources[r.source as usize].duplicates += 1;
            }
            let owner = &mut self.sources[owner as usize];
            owner.duplicates -= 1;
            owner.points += 1;
            points.push(Point { at: start, latency_us, samples });
            start = end;
        }
        points
    }

    /// Warns of times that their neighbours do not have, and of series of one point.
    fn look(&mut self, points: &[Point]) {
        let mut all = Vec::new();
        for part in points.chunk_by(|a, b| self.operator(a) == self.operator(b)) {
            let operator = self.operator(&part[0]);
            let Some(axis) = axis(operator) else { continue };
            let mut own: Vec<&Point> = part.iter().collect();
            let key = |p: &Point| {
                let r = &self.raw[p.at];
                let mut shape = r.shape;
                let x = std::mem::take(&mut shape[axis]);
                ((r.variant, r.dtype, r.kv_dtype, shape), x)
            };
            own.sort_unstable_by_key(|p| key(p));
            let (mut series, mut single) = (0_u64, Vec::new());
            let mut found = Vec::new();
            for run in own.chunk_by(|a, b| key(a).0 == key(b).0) {
                series += 1;
                if run.len() < 2 {
                    single.push(run[0]);
                }
                let line: Vec<(u32, f64)> = run.iter().map(|p| (key(p).1, p.latency_us)).collect();
                found.extend(odd(&line).into_iter().map(|(i, ratio)| (run[i], ratio)));
            }
            let dim = operator.dims()[axis];
            let mut warnings = Vec::new();
            for (p, ratio) in found.iter().take(PROBLEMS_MAX) {
                let (times, than) = if *ratio > 1.0 { (*ratio, "longer") } else { (1.0 / *ratio, "shorter") };
                warnings.push(format!(
                    "{}: `{}` takes {} us, {times:.0} times {than} than beside it along `{dim}`: is the unit right?",
                    self.place(p),
                    operator.name(),
                    p.latency_us,
                ));
            }
            if found.len() > PROBLEMS_MAX {
                warnings.push(format!(
                    "{} more points of `{}` are as odd",
                    found.len() - PROBLEMS_MAX,
                    operator.name()
                ));
            }
            if let Some(first) = single.first() {
                warnings.push(format!(
                    "{} of {series} series of `{}` along `{dim}` have one point, too few to look \
                     between: the first is {}",
                    single.len(),
                    operator.name(),
                    self.place(first),
                ));
            }
            all.extend(warnings);
        }
        self.warnings.extend(all);
    }

    fn operator(&self, point: &Point) -> Operator {
        self.raw[point.at].operator
    }

    /// File and row of the first measurement of a point.
    fn place(&self, point: &Point) -> String {
        let r = &self.raw[point.at];
        format!("{} row {}", self.sources[r.source as usize].file, r.row + 1)
    }

    fn batch(&self, points: &[Point]) -> Result<RecordBatch> {
        let columns = shape_columns();
        let text = |of: &dyn Fn(&Raw) -> u32| -> ArrayRef {
            let mut builder = StringBuilder::new();
            points.iter().for_each(|p| builder.append_value(&self.names[of(&self.raw[p.at]) as usize]));
            Arc::new(builder.finish())
        };
        let mut layouts = StringBuilder::new();
        let mut operators = StringBuilder::new();
        for p in points {
            layouts.append_value(self.layout.name());
            operators.append_value(self.raw[p.at].operator.name());
        }
        let mut all: Vec<ArrayRef> = vec![
            Arc::new(layouts.finish()),
            Arc::new(operators.finish()),
            text(&|r| r.variant),
            text(&|r| r.dtype),
            text(&|r| r.kv_dtype),
        ];
        for column in columns {
            let mut builder = Int64Builder::with_capacity(points.len());
            for run in points.chunk_by(|a, b| self.operator(a) == self.operator(b)) {
                match self.operator(&run[0]).dims().iter().position(|d| *d == column) {
                    Some(d) => run.iter().for_each(|p| builder.append_value(i64::from(self.raw[p.at].shape[d]))),
                    None => builder.append_nulls(run.len()),
                }
            }
            all.push(Arc::new(builder.finish()));
        }
        let mut times = Float64Builder::with_capacity(points.len());
        let mut samples = Int32Builder::with_capacity(points.len());
        for p in points {
            times.append_value(p.latency_us);
            samples.append_value(i32::try_from(p.samples).unwrap_or(i32::MAX));
        }
        all.push(Arc::new(times.finish()));
        all.push(Arc::new(samples.finish()));
        RecordBatch::try_new(schema(), all)
            .map_err(|e| Failure::stage("profile::arrow", format!("cannot put the rows together: {e}")))
    }
}

fn same(a: &Raw, b: &Raw) -> bool {
    let names = |r: &Raw| (r.operator, r.variant, r.dtype, r.kv_dtype);
    names(a) == names(b) && a.shape == b.shape
}

/// The numbers of a shape in the order of the table's columns.
fn order(operator: Operator) -> Vec<usize> {
    let place = |c: &&str| operator.dims().iter().position(|d| d == c);
    shape_columns().iter().filter_map(place).collect()
}

/// The number of a shape along which times are a curve, if there is one.
fn axis(operator: Operator) -> Option<usize> {
    match operator {
        Operator::Gemm
        | Operator::Moe
        | Operator::TokenLayer
        | Operator::SequenceLayer
        | Operator::MoeLayer
        | Operator::KvCacheSave
        | Operator::Cpu => Some(0),
        Operator::ContextAttention
        | Operator::ContextMla
        | Operator::ContextMlaModule
        | Operator::GenerationAttention
        | Operator::GenerationMla
        | Operator::GenerationMlaModule
        | Operator::AllReduce
        | Operator::AllGather
        | Operator::ReduceScatter
        | Operator::AllToAll
        | Operator::SendRecv
        | Operator::PrefillAttention => Some(1),
        Operator::DecodeAttention => Some(0),
        // A grid of which some sides are one point long by design.
        Operator::BatchAttention => None,
        // A share, and batches as they came.
        Operator::SkewAlpha | Operator::Step => None,
    }
}

/// Factor between neighbours that is taken for a wrong unit.
const ODD: f64 = 300.0;

/// Points of a curve that are far off their neighbours, and how far.
fn odd(line: &[(u32, f64)]) -> Vec<(usize, f64)> {
    // Between two neighbours the geometric mean is what a power of any degree would have.
    let inner = |i: usize| -> Option<f64> {
        let (before, own, after) = (line[i - 1].1, line[i].1, line[i + 1].1);
        let peak = own > before.max(after) || own < before.min(after);
        let ratio = own / libm::sqrt(before * after);
        (peak && before > 0.0 && own > 0.0 && after > 0.0 && !(1.0 / ODD..=ODD).contains(&ratio)).then_some(ratio)
    };
    // At an end: what the step along the axis may do to the time is its square at most.
    let end = |i: usize, j: usize| -> Option<f64> {
        let ((xi, yi), (xj, yj)) = (line[i], line[j]);
        let step = f64::from(xi.max(1)) / f64::from(xj.max(1));
        let most = ODD * (step * step).max(1.0 / (step * step));
        let ratio = yi / yj;
        (yi > 0.0 && yj > 0.0 && !(1.0 / most..=most).contains(&ratio)).then_some(ratio)
    };
    let last = line.len().saturating_sub(1);
    if last < 2 {
        return Vec::new();
    }
    let mut found: Vec<(usize, f64)> = (1..last).filter_map(|i| Some((i, inner(i)?))).collect();
    for (i, beside, behind) in [(0, 1, 2), (last, last - 1, last - 2)] {
        // An end is odd where the two beside it are of one kind.
        if end(beside, behind).is_none() {
            found.extend(end(i, beside).map(|ratio| (i, ratio)));
        }
    }
    found.sort_unstable_by_key(|(i, _)| *i);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_points_are_those_with_another_unit() {
        let line = |times: &[f64]| -> Vec<(u32, f64)> { (0..).map(|i| 1 << i).zip(times.iter().copied()).collect() };
        let at = |times: &[f64]| odd(&line(times)).into_iter().map(|(i, _)| i).collect::<Vec<_>>();
        assert!(at(&[5.0, 6.0, 9.0, 16.0, 30.0]).is_empty());
        assert_eq!(at(&[5.0, 6.0, 9e3, 16.0, 30.0]), [2]);
        assert_eq!(at(&[5.0, 6e-3, 9.0, 16.0, 30.0]), [1]);
        assert_eq!(at(&[5e4, 6.0, 9.0, 16.0]), [0]);
        assert_eq!(at(&[5.0, 6.0, 9.0, 16e3]), [3]);
        // A step in the curve is none, and zeros are times below the clock's resolution.
        assert!(at(&[5.0, 6.0, 9e3, 16e3]).is_empty());
        assert!(at(&[0.0, 0.0, 9.0, 0.0]).is_empty());
        // A cubic over a long step.
        assert!(odd(&[(16, 1.0), (1024, 200_000.0), (2048, 1_000_000.0)]).is_empty());
    }
}
