//! Vidur's operators: its predictions exactly as it looks them up, and its profiling files, interpolated.
//!
//! Source: microsoft/vidur (MIT), execution time of a batch. A layer takes projections, rotation and norms at the number
//! of new tokens rounded up to 8, the saving of the cache at the number itself, attention of requests that decode at their
//! number and mean context, attention of prompts at the sum of their contexts and the root of the sum of their squared
//! chunks; with tensor parallelism two all-reduces. Embedding, output matrix and sampling are not in it, nor is the
//! launching of its steps unless CPU overheads were profiled.
//!
//! Of predictions there are two kinds, told apart by the chunks that they are tabulated for. With every chunk (branch
//! main): contexts of prompts are rounded up to 64 one by one, attention of several requests with grouped heads takes a
//! tenth longer, an all-reduce 20 us more. With every 32nd (branch canary): sums are rounded, and nothing is added. A
//! step is rounded to the nearest nanosecond.

use std::sync::atomic::{AtomicU64, Ordering};

use super::dense::Dense;
use super::grid::{Read, Series, Table};
use super::{Attention, Composed, Decodes, Making, Prompts};
use crate::profile::{Operator, Point};
use crate::sim::WorkSums;
use crate::sim::facts::ACTIVATION_BYTES;
use crate::sim::latency::work::{Costs, Work};
use crate::sim::latency::{BatchShape, CONTEXT_PAGE, LatencyModel};
use crate::units::SimDuration;

/// Token counts are rounded up to multiples of this.
const TILE: u64 = 8;
/// How much longer attention of several requests with grouped heads takes (main).
const GROUPED: f64 = 0.1;
/// Launch of an all-reduce, in ms (main).
const LAUNCH_MS: f64 = 0.02;
const FIRST: [&str; 3] = ["attn_pre_proj", "attn_post_proj", "attn_rope"];
const MLP: [&str; 3] = ["mlp_up_proj", "mlp_down_proj", "mlp_act"];
const INPUT_NORM: &str = "input_layernorm";
const POST_NORM: &str = "post_attention_layernorm";

/// Values at multiples of two steps.
struct Lattice {
    steps: (u64, u64),
    lengths: (usize, usize),
    /// NaN where there is none.
    values: Vec<f64>,
    /// Of each x, itself or the nearest with values: the one before it first.
    rows: Vec<usize>,
}

impl Lattice {
    /// From `(x, y, value)`; the smallest number above 0 of each axis is its step.
    fn new(points: &[(u64, u64, f64)]) -> Option<Lattice> {
        let step = |of: fn(&(u64, u64, f64)) -> u64| points.iter().map(of).filter(|n| *n > 0).min();
        let most = |of: fn(&(u64, u64, f64)) -> u64| points.iter().map(of).max();
        let steps = (step(|p| p.0)?, step(|p| p.1)?);
        let lengths = ((most(|p| p.0)? / steps.0 + 1) as usize, (most(|p| p.1)? / steps.1 + 1) as usize);
        let mut values = vec![f64::NAN; lengths.0.checked_mul(lengths.1).filter(|n| *n <= 1 << 26)?];
        for &(x, y, value) in points {
            values[(x / steps.0) as usize * lengths.1 + (y / steps.1) as usize] = value;
        }
        let has = |i: &usize| values[i * lengths.1..(i + 1) * lengths.1].iter().any(|v| !v.is_nan());
        let mut rows: Vec<usize> = (0..lengths.0).collect();
        let mut last = rows.iter().copied().find(has)?;
        for row in &mut rows {
            last = if has(row) { *row } else { last };
            *row = last;
        }
        Some(Lattice { steps, lengths, values, rows })
    }

    /// At the numbers rounded up to the lattice.
    fn at(&self, x: u64, y: u64) -> Read {
        let (i, j) = (x.div_ceil(self.steps.0) as usize, y.div_ceil(self.steps.1) as usize);
        let (ki, cj) = (self.rows[i.min(self.lengths.0 - 1)], j.min(self.lengths.1 - 1));
        // A hole of the lattice: the next value before it, or else behind it.
        let row = &self.values[ki * self.lengths.1..(ki + 1) * self.lengths.1];
        let kj = (0..=cj).rev().chain(cj + 1..row.len()).find(|j| !row[*j].is_nan()).unwrap_or(cj);
        // Below what is known, its value: fixed costs do not shrink.
        let ratio = |asked: usize, known: usize| (asked.max(1) as f64 / known.max(1) as f64).max(1.0);
        match (i, j) == (ki, kj) {
            true => Read { value: row[kj], inside: true },
            false => Read { value: row[kj] * ratio(i, ki) * ratio(j, kj), inside: false },
        }
    }
}

/// Times in ms of one layer that depend on the number of tokens alone, summed up in the order in which Vidur does.
pub(super) struct Predicted {
    /// At multiples of 8: projections and rotation; the norm before; feed-forward with all-reduce and norm; residual.
    tiles: Vec<[f64; 4]>,
    save: Vec<f64>,
    /// Of the attention, at multiples of 8; 0 without tensor parallelism.
    reduce: Vec<f64>,
    /// What stages of a pipeline hand over, once per step, at multiples of 8.
    hand_over: Vec<f64>,
    /// By requests and context.
    decode: Lattice,
    /// By context and chunk.
    prefill: Lattice,
    main: bool,
    grouped: bool,
    layers: f64,
    scale: f64,
    extra_ns: f64,
    costs: Costs,
    outside: AtomicU64,
}

/// The points of a token layer as ms by tokens.
fn column(making: &Making<'_>, name: &str) -> Option<Vec<f64>> {
    let variant = making.profile.name(name)?;
    by_tokens(making.profile.of(Operator::TokenLayer).iter().filter(|p| p.variant == variant))
}

/// Points as ms by tokens, from 1 on without a gap.
fn by_tokens<'a>(points: impl Iterator<Item = &'a Point>) -> Option<Vec<f64>> {
    let mut points: Vec<(u32, f64)> = points.map(|p| (p.shape[0], p.latency_us / 1e3)).collect();
    points.sort_by_key(|p| p.0);
    let gapless = points.iter().enumerate().all(|(i, (n, _))| *n as usize == i + 1);
    (gapless && !points.is_empty()).then(|| points.into_iter().map(|(_, ms)| ms).collect())
}

/// Predictions, exactly.
pub(super) fn predicted(making: Making<'_>) -> Result<Predicted, Vec<String>> {
    let Making { settings, d, m, g, profile } = making;
    let mut lacking = Vec::new();
    let mut some = |name: &str, column: Option<Vec<f64>>| {
        column.unwrap_or_else(|| {
            lacking.push(format!("it has no predictions `{name}` for every number of tokens"));
            vec![0.0]
        })
    };
    let save = some("attn_kv_cache_save", by_tokens(profile.of(Operator::KvCacheSave).iter()));
    let mut get = |name: &str| some(name, column(&making, name));
    let (first, mlp, add, norm) = (FIRST.map(&mut get), MLP.map(&mut get), get("add"), get(INPUT_NORM));
    let reduce = (d.tp > 1).then(|| get("all_reduce"));
    let hand_over = (d.pp > 1).then(|| get("send_recv"));
    let post = profile.name(POST_NORM).map(|_| get(POST_NORM));
    let lattice = |operator: Operator, [x, y]: [usize; 2]| {
        let points = profile.of(operator).iter();
        Lattice::new(&points.map(|p| (p.shape[x].into(), p.shape[y].into(), p.latency_us / 1e3)).collect::<Vec<_>>())
    };
    let decode = lattice(Operator::DecodeAttention, [1, 0]);
    let prefill = lattice(Operator::PrefillAttention, [0, 1]);
    let (Some(decode), Some(prefill), true) = (decode, prefill, lacking.is_empty()) else {
        if lacking.is_empty() {
            lacking.push("it has no predictions of attention".to_string());
        }
        return Err(lacking);
    };
    if !m.layers.is_multiple_of(d.pp.max(1)) {
        return Err(vec![format!("{} stages do not divide the {} layers, as Vidur wants", d.pp, m.layers)]);
    }
    let main = prefill.steps.1 == 1;
    let launch = if main { LAUNCH_MS } else { 0.0 };
    // As far as all columns go.
    let columns = [&add, &norm].into_iter().chain(&first).chain(&mlp).chain(&reduce).chain(&hand_over).chain(&post);
    let count = columns.map(Vec::len).min().unwrap_or(0);
    let reduce: Vec<f64> = (0..count).map(|i| reduce.as_ref().map_or(0.0, |ms| ms[i] + launch)).collect();
    let tile = |i: usize| {
        let mlp = mlp[0][i] + mlp[1][i] + mlp[2][i] + reduce[i] + post.as_ref().map_or(0.0, |ms| ms[i]);
        let [a, b, c] = &first;
        [a[i] + b[i] + c[i], norm[i], mlp, add[i]]
    };
    // Every stage but the last hands its batch over.
    let stages = f64::from(d.pp.saturating_sub(1));
    let hand_over = (0..count).map(|i| hand_over.as_ref().map_or(0.0, |ms| ms[i] * stages)).collect();
    Ok(Predicted {
        tiles: (0..count).map(tile).collect(),
        save,
        reduce,
        hand_over,
        decode,
        prefill,
        main,
        grouped: m.heads > m.kv_heads,
        layers: f64::from(m.layers),
        scale: settings.scale,
        extra_ns: (settings.step_us + settings.layer_us * f64::from(m.layers)) * 1e3,
        costs: Costs::new(d, m, g),
        outside: AtomicU64::new(0),
    })
}

impl LatencyModel for Predicted {
    fn step(&self, s: &BatchShape) -> SimDuration {
        let tokens = s.decode_requests + s.prefill_tokens;
        if tokens == 0 {
            return SimDuration::ZERO;
        }
        let mut inside = true;
        // The value at an index, or at the last in proportion.
        let mut at = |len: usize, index: usize| {
            let last = len - 1;
            inside &= index <= last;
            (index.min(last), (index + 1) as f64 / (index.min(last) + 1) as f64)
        };
        let (i, ratio) = at(self.tiles.len(), tokens.next_multiple_of(TILE) as usize - 1);
        let (j, save_ratio) = at(self.save.len(), tokens as usize - 1);
        let grouped = |n: u64| if self.main && self.grouped && n > 1 { 1.0 + GROUPED } else { 1.0 };
        // The first token of a reply counts there from the end of the prompt on.
        let decode = match s.decode_requests {
            0 => 0.0,
            n => {
                let read = self.decode.at(n, s.decode_context / n + 1);
                inside &= read.inside;
                read.value * grouped(n)
            }
        };
        let prefill = match s.prefill_tokens_squared {
            0 => 0.0,
            squares => {
                let chunk = libm::round(libm::sqrt(squares as f64)) as u64;
                let context = if self.main { s.prefill_context_pages * CONTEXT_PAGE } else { s.prefill_context };
                let read = self.prefill.at(context, chunk);
                inside &= read.inside;
                read.value * grouped(s.prefill_requests)
            }
        };
        let [first, norm, mlp, add] = self.tiles[i].map(|ms| ms * ratio);
        let attention = first + self.save[j] * save_ratio;
        let attention = attention + decode + prefill + self.reduce[i] * ratio + norm;
        let ms = (attention + mlp + add) * self.layers + self.hand_over[i] * ratio;
        if !inside {
            self.outside.fetch_add(1, Ordering::Relaxed);
        }
        SimDuration(libm::round((ms * 1e6 + self.extra_ns) * self.scale) as i64)
    }

    fn shortest_step(&self) -> SimDuration {
        let tiles = self.tiles.iter().map(|t| t.iter().sum::<f64>()).fold(f64::INFINITY, f64::min);
        SimDuration((tiles * self.layers * 1e6 * self.scale) as i64)
    }

    fn work(&self, sums: &WorkSums) -> Option<Work> {
        Some(self.costs.work(sums))
    }

    fn peak(&self) -> Option<Work> {
        Some(self.costs.peak())
    }

    fn extrapolated(&self) -> u64 {
        self.outside.load(Ordering::Relaxed)
    }
}

/// Points of one model and tensor-parallel size: those of the sizes of the model, or that do not say their sizes.
fn fitting<'a>(making: &Making<'a>, operator: Operator, sizes: [(usize, u32); 4]) -> Vec<&'a Point> {
    let fits = |p: &&Point| sizes.iter().all(|&(at, size)| p.shape[at] == 0 || p.shape[at] == size);
    let mut points: Vec<&Point> = making.profile.of(operator).iter().filter(fits).collect();
    points.sort_by_key(|p| (p.variant, p.shape));
    points
}

/// Profiling files: the medians, interpolated.
pub(super) fn profiled(making: Making<'_>) -> Result<Composed, Vec<String>> {
    let Making { d, m, g, profile, .. } = making;
    let layers = f64::from(m.layers);
    let tokens = fitting(&making, Operator::TokenLayer, [(1, d.tp), (2, m.heads), (3, m.kv_heads), (4, m.hidden)]);
    let of_attention = [(2, d.tp), (3, m.heads), (4, m.kv_heads), (5, m.hidden)];
    let decode = fitting(&making, Operator::DecodeAttention, of_attention);
    let prefill = fitting(&making, Operator::PrefillAttention, of_attention);
    let save = fitting(&making, Operator::KvCacheSave, [(1, d.tp), (2, m.heads), (3, m.kv_heads), (4, m.hidden)]);
    let mut lacking = Vec::new();
    let sizes = format!("{} heads, {} kv heads, hidden {}, tp {}", m.heads, m.kv_heads, m.hidden, d.tp);
    let mut parts = Vec::new();
    let by_name = |points: &[&Point], name: &str| {
        let variant = profile.name(name);
        let points = points.iter().filter(|p| variant == Some(p.variant));
        Series::new(points.map(|p| (f64::from(p.shape[0]), p.latency_us * 1e3)))
    };
    let needed = FIRST.iter().chain(&MLP).chain(&[INPUT_NORM, "add"]);
    for name in needed {
        match by_name(&tokens, name) {
            Some(series) => parts.push((layers, series)),
            None => lacking.push(format!("it has no `{name}` of a model with {sizes}")),
        }
    }
    parts.extend(by_name(&tokens, POST_NORM).map(|series| (layers, series)));
    parts.extend(Series::new(save.iter().map(|p| (f64::from(p.shape[0]), p.latency_us * 1e3))).map(|s| (layers, s)));
    let bytes_per_token = f64::from(m.hidden) * ACTIVATION_BYTES;
    let mut collective = |operator: Operator, times: f64, gpus: u32, in_a_node: u32| {
        // Variants are numbers of GPUs of the group that share a node: the one that is asked for, or the next.
        let share = |p: &Point| profile.names[usize::from(p.variant)].parse::<u32>().unwrap_or(0);
        let of_group = || profile.of(operator).iter().filter(|p| p.shape[0] == gpus);
        let nearest = of_group().map(share).min_by_key(|n| (n.abs_diff(in_a_node), *n));
        let mut points: Vec<&Point> = of_group().filter(|p| Some(share(p)) == nearest).collect();
        points.sort_by_key(|p| p.shape);
        let points = points.into_iter();
        match Series::new(points.map(|p| (f64::from(p.shape[1]) / bytes_per_token, p.latency_us * 1e3))) {
            Some(series) => parts.push((times, series)),
            None => lacking.push(format!("it has no `{}` of {gpus} GPUs", operator.name())),
        }
    };
    if d.tp > 1 {
        collective(Operator::AllReduce, 2.0 * layers, d.tp, d.tp);
    }
    if d.pp > 1 {
        // Stages of a group that does not fit into a node may be on two.
        let apart = g.gpus_per_node > 0 && d.tp.saturating_mul(d.pp) > g.gpus_per_node;
        collective(Operator::SendRecv, f64::from(d.pp - 1), 2, if apart { 1 } else { 2 });
    }
    let attention = Separate::new(&decode, &prefill, layers);
    if attention.is_none() {
        lacking.push(format!("it has no attention of a model with {sizes}"));
    }
    let (Some(attention), true) = (attention, lacking.is_empty()) else { return Err(lacking) };
    let mut cpu: Vec<&Point> = profile.of(Operator::Cpu).iter().filter(|p| p.shape[1] == d.tp).collect();
    cpu.sort_by_key(|p| (p.variant, p.shape));
    let cpu = cpu.chunk_by(|a, b| a.variant == b.variant);
    let by_requests = cpu.filter_map(|group| {
        Some((1.0, Series::new(group.iter().map(|p| (f64::from(p.shape[0]), p.latency_us * 1e3)))?))
    });
    let by_sequences = Dense::new(by_requests.collect(), (0.0, 0.0), making.most_sequences());
    let by_tokens = Dense::new(parts, (0.0, 0.0), making.most_tokens());
    Ok(Composed::new(making, by_tokens, by_sequences, Box::new(attention)))
}

/// Attention of prompts and of requests that decode, one after the other.
struct Separate {
    /// Number, context.
    decode: Table<Series>,
    /// Context, chunk.
    prefill: Table<Series>,
    layers: f64,
}

impl Separate {
    fn new(decode: &[&Point], prefill: &[&Point], layers: f64) -> Option<Separate> {
        // Both have the context first, then the number or the chunk.
        let mut by_number: Vec<&Point> = decode.to_vec();
        by_number.sort_by_key(|p| (p.shape[1], p.shape[0]));
        let rows = |points: &[&Point], outer: usize, inner: usize| {
            Table::new(points.chunk_by(|a, b| a.shape[outer] == b.shape[outer]).filter_map(|row| {
                let mut row = row.to_vec();
                row.dedup_by_key(|p| p.shape[inner]);
                let series = Series::new(row.iter().map(|p| (f64::from(p.shape[inner]), p.latency_us * 1e3)))?;
                Some((f64::from(row[0].shape[outer]), series))
            }))
        };
        let mut by_context: Vec<&Point> = prefill.to_vec();
        by_context.sort_by_key(|p| (p.shape[0], p.shape[1]));
        Some(Separate { decode: rows(&by_number, 1, 0)?, prefill: rows(&by_context, 0, 1)?, layers })
    }
}

impl Attention for Separate {
    fn decode(&self, &Decodes { n, context, .. }: &Decodes) -> Read {
        let read = self.decode.at(n, |row| row.at(context));
        Read { value: read.value * self.layers, ..read }
    }

    fn prefill(&self, prompts: &Prompts) -> Read {
        let (chunk, context) = prompts.as_one();
        let read = self.prefill.at(context, |row| row.at(chunk));
        Read { value: read.value * self.layers, ..read }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_takes_a_neighbour_and_says_so() {
        // Rows 1 and 3; the first has no value at 0, 2 and 3.
        let lattice = Lattice::new(&[(1, 10, 5.0), (3, 0, 1.0), (3, 10, 2.0), (3, 20, 3.0), (3, 30, 4.0)]).unwrap();
        for (x, y, value, inside) in [
            (1, 10, 5.0, true),
            (1, 3, 5.0, true),
            (3, 30, 4.0, true),
            // Behind it: its value. Before it: in proportion.
            (1, 0, 5.0, false),
            (1, 30, 15.0, false),
            // A row without values: that before it, or else the next.
            (2, 10, 10.0, false),
            (0, 10, 5.0, false),
            // Beyond both ends.
            (6, 60, 16.0, false),
        ] {
            assert_eq!(lattice.at(x, y), Read { value, inside }, "{x} {y}");
        }
        assert!(Lattice::new(&[]).is_none());
    }
}
