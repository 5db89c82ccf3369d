//! Bytes of adapters, and what they take in time.

use super::{Lora, Module};
use crate::scenario::{Deployment, GpuSpec, ModelSpec};
use crate::sim::facts;
use crate::units::{SimDuration, Tick};

/// Bytes of a number.
const NUMBER_BYTES: f64 = 2.0;
/// Where nobody says how fast the way from the host is: PCIe 4.0, 16 lanes.
const PCIE_GB_PER_S: f64 = 25.0;

/// How tensor parallelism cuts a matrix.
#[derive(Clone, Copy)]
enum Cut {
    /// Every GPU has all of it.
    Whole,
    ByOutput,
    ByInput,
}

/// A matrix of one layer.
struct Matrix {
    input: f64,
    output: f64,
    cut: Cut,
}

/// Bytes of an adapter per rank on one GPU of the stage with the most layers.
pub(in crate::sim) fn bytes_per_rank(lora: &Lora, d: &Deployment, m: &ModelSpec) -> f64 {
    if let Some(bytes) = lora.bytes_per_rank {
        return bytes;
    }
    let tp = f64::from(d.tp.max(1));
    let numbers = |matrix: &Matrix| match (lora.fully_sharded_loras, matrix.cut) {
        (_, Cut::Whole) => matrix.input + matrix.output,
        (true, Cut::ByOutput | Cut::ByInput) => (matrix.input + matrix.output) / tp,
        (false, Cut::ByOutput) => matrix.input + matrix.output / tp,
        (false, Cut::ByInput) => matrix.input / tp + matrix.output,
    };
    let stages = d.pp.max(1);
    let attention = f64::from(facts::cache_layers(m).div_ceil(stages));
    let dense = libm::ceil(facts::dense_layers(m) / f64::from(stages));
    let of = |module: &Module| -> f64 {
        let layers = if is_attention(*module) { attention } else { dense };
        layers * matrices(*module, m).iter().map(numbers).sum::<f64>()
    };
    lora.target_modules.iter().map(of).sum::<f64>() * NUMBER_BYTES
}

fn is_attention(module: Module) -> bool {
    match module {
        Module::QProj | Module::KProj | Module::VProj | Module::OProj => true,
        Module::GateProj | Module::UpProj | Module::DownProj => false,
    }
}

/// The matrices of a layer that go by this name.
fn matrices(module: Module, m: &ModelSpec) -> Vec<Matrix> {
    let by_output = |input: f64, output: f64| vec![Matrix { input, output, cut: Cut::ByOutput }];
    let by_input = |input: f64, output: f64| vec![Matrix { input, output, cut: Cut::ByInput }];
    let (hidden, heads, inner) = (f64::from(m.hidden), f64::from(m.heads), f64::from(m.intermediate));
    let (queries, keys) = (heads * f64::from(m.head_dim), f64::from(m.kv_heads) * f64::from(m.head_dim));
    match (module, &m.mla) {
        (Module::QProj, None) => by_output(hidden, queries),
        (Module::KProj | Module::VProj, None) => by_output(hidden, keys),
        (Module::OProj, None) => by_input(queries, hidden),
        (Module::QProj, Some(a)) => {
            let (rank, output) = (f64::from(a.q_rank), heads * f64::from(a.nope_dim + a.rope_dim));
            match a.q_rank {
                0 => by_output(hidden, output),
                _ => vec![
                    Matrix { input: hidden, output: rank, cut: Cut::Whole },
                    Matrix { input: rank, output, cut: Cut::ByOutput },
                ],
            }
        }
        (Module::KProj, Some(a)) => {
            vec![Matrix { input: hidden, output: f64::from(a.kv_rank + a.rope_dim), cut: Cut::Whole }]
        }
        (Module::VProj, Some(a)) => by_output(f64::from(a.kv_rank), heads * f64::from(a.nope_dim + a.v_dim)),
        (Module::OProj, Some(a)) => by_input(heads * f64::from(a.v_dim), hidden),
        // Only a gated network has the third matrix.
        (Module::GateProj, _) if m.mlp_matrices < 3 => Vec::new(),
        (Module::GateProj | Module::UpProj, _) => by_output(hidden, inner),
        (Module::DownProj, _) => by_input(inner, hidden),
    }
}

/// The adapters of a batch: how many distinct ones, and the largest rank among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::sim) struct Mix {
    pub adapters: u32,
    pub rank: u32,
}

/// What adapters take in time on the replicas of a pool.
#[derive(Clone, Debug)]
pub(in crate::sim) struct Costs {
    bytes_per_rank: f64,
    /// Base in nanoseconds, and bandwidth in bytes per nanosecond.
    load: (f64, f64),
    disk: Option<(f64, f64)>,
    step_ns: f64,
    per_adapter_ns: f64,
    factors: Vec<(f64, f64)>,
    quantum_ns: i64,
}

impl Costs {
    pub(in crate::sim) fn new(lora: &Lora, d: &Deployment, m: &ModelSpec, gpu: &GpuSpec) -> Costs {
        let link = if gpu.pcie_gb_per_s > 0.0 { gpu.pcie_gb_per_s } else { PCIE_GB_PER_S };
        Costs {
            bytes_per_rank: bytes_per_rank(lora, d, m),
            load: (lora.load_base_us * 1e3, lora.load_gb_per_s.unwrap_or(link)),
            disk: lora.disk_gb_per_s.map(|gb_per_s| (lora.disk_base_us * 1e3, gb_per_s)),
            step_ns: lora.step_us * 1e3,
            per_adapter_ns: lora.per_adapter_us * 1e3,
            factors: lora.factors.iter().map(|f| (f64::from(f.rank), f.factor)).collect(),
            quantum_ns: d.tick.map_or(1, |tick: Tick| tick.duration().0),
        }
    }

    /// From the host to the GPU; with `from_disk`, from there to the host before.
    pub(in crate::sim) fn load(&self, rank: u32, from_disk: bool) -> SimDuration {
        let bytes = self.bytes_per_rank * f64::from(rank);
        let way = |(base_ns, bytes_per_ns): (f64, f64)| base_ns + bytes / bytes_per_ns;
        let disk = self.disk.filter(|_| from_disk).map_or(0.0, way);
        SimDuration(libm::ceil(way(self.load) + disk) as i64)
    }

    /// A load outside of steps: whole ticks, at least one.
    pub(in crate::sim) fn in_ticks(&self, load: SimDuration) -> SimDuration {
        let quantum = self.quantum_ns;
        SimDuration((load.0 / quantum + i64::from(load.0 % quantum > 0)).max(1).saturating_mul(quantum))
    }

    /// Steps take what the latency model says.
    pub(in crate::sim) fn are_free(&self) -> bool {
        self.step_ns == 0.0 && self.per_adapter_ns == 0.0 && self.factors.iter().all(|(_, factor)| *factor == 0.0)
    }

    /// How long a step takes with these adapters in its batch, for which the latency model says `said`.
    #[inline]
    pub(in crate::sim) fn step(&self, said: SimDuration, mix: Mix) -> SimDuration {
        if mix.adapters == 0 || self.are_free() {
            return said;
        }
        let n = f64::from(mix.adapters);
        let whole = self.least(said).0 as f64;
        SimDuration((whole * (1.0 + n * self.factor(mix.rank)) + self.step_ns + n * self.per_adapter_ns) as i64)
    }

    /// No step for which the model says so much takes less, whatever is in its batch.
    pub(in crate::sim) fn least(&self, said: SimDuration) -> SimDuration {
        if self.are_free() { said } else { SimDuration(said.0 / self.quantum_ns * self.quantum_ns) }
    }

    fn factor(&self, rank: u32) -> f64 {
        let rank = f64::from(rank);
        let after = self.factors.partition_point(|(known, _)| *known < rank);
        match (self.factors.get(after.wrapping_sub(1)), self.factors.get(after)) {
            (None, None) => 0.0,
            (Some((_, only)), None) | (None, Some((_, only))) => *only,
            (Some((low, below)), Some((high, above))) => below + (above - below) * (rank - low) / (high - low),
        }
    }
}
