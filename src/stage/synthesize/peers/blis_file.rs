//! The keys of a workload specification of inference-sim (BLIS): what they mean here is said in `blis.rs`. Times are in
//! microseconds, rates in requests per second.

use indexmap::IndexMap;
use serde::Deserialize;

use super::inference_perf;
use crate::spec::{Text, Tree};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Spec {
    #[serde(default)]
    pub version: Option<Tree>,
    #[serde(default, rename = "seed")]
    pub _seed: Option<i64>,
    #[serde(default)]
    pub category: Option<String>,
    #[serde(default)]
    pub aggregate_rate: f64,
    #[serde(default)]
    pub num_requests: u32,
    #[serde(default)]
    pub horizon: i64,
    #[serde(default)]
    pub clients: Vec<ClientSpec>,
    #[serde(default)]
    pub cohorts: Vec<Cohort>,
    #[serde(default)]
    pub servegen_data: Option<Tree>,
    #[serde(default)]
    pub inference_perf: Option<InferencePerf>,
    #[serde(default, rename = "goodput_slo_targets")]
    pub _goodput_slo_targets: Option<Tree>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InferencePerf {
    pub stages: Vec<inference_perf::Stage>,
    pub shared_prefix: inference_perf::SharedPrefix,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClientSpec {
    #[serde(default)]
    pub id: Option<String>,
    #[serde(default)]
    pub tenant_id: Option<String>,
    #[serde(default)]
    pub slo_class: Option<String>,
    #[serde(default)]
    pub model: Option<String>,
    #[serde(default)]
    pub adapter: Option<String>,
    #[serde(default)]
    pub rate_fraction: f64,
    #[serde(default)]
    pub concurrency: u32,
    #[serde(default)]
    pub think_time_us: f64,
    #[serde(default)]
    pub arrival: Option<Arrival>,
    #[serde(default)]
    pub input_distribution: Option<Dist>,
    #[serde(default)]
    pub output_distribution: Option<Dist>,
    #[serde(default)]
    pub prefix_group: Option<String>,
    #[serde(default)]
    pub prefix_length: u32,
    #[serde(default, rename = "streaming")]
    pub _streaming: Option<bool>,
    #[serde(default, rename = "network")]
    pub _network: Option<Tree>,
    #[serde(default)]
    pub lifecycle: Option<Lifecycle>,
    #[serde(default)]
    pub multimodal: Option<Multimodal>,
    #[serde(default)]
    pub reasoning: Option<ReasoningSpec>,
    #[serde(default)]
    pub timeout: Option<f64>,
    #[serde(default)]
    pub slo_target_us: Option<f64>,
    #[serde(default, rename = "closed_loop")]
    pub _closed_loop: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cohort {
    pub id: String,
    pub population: u32,
    #[serde(default)]
    pub tenant_id: Option<String>,
    #[serde(default)]
    pub slo_class: Option<String>,
    #[serde(default)]
    pub model: Option<String>,
    #[serde(default)]
    pub adapter: Option<String>,
    #[serde(default)]
    pub arrival: Option<Arrival>,
    #[serde(default)]
    pub input_distribution: Option<Dist>,
    #[serde(default)]
    pub output_distribution: Option<Dist>,
    #[serde(default)]
    pub prefix_group: Option<String>,
    #[serde(default)]
    pub prefix_sharing: Option<String>,
    #[serde(default, rename = "streaming")]
    pub _streaming: Option<bool>,
    pub rate_fraction: f64,
    #[serde(default)]
    pub diurnal: Option<DiurnalSpec>,
    #[serde(default)]
    pub spike: Option<SpikeSpec>,
    #[serde(default)]
    pub drain: Option<Drain>,
    #[serde(default)]
    pub prefix_length: u32,
    #[serde(default)]
    pub reasoning: Option<ReasoningSpec>,
    #[serde(default, rename = "closed_loop")]
    pub _closed_loop: Option<bool>,
    #[serde(default)]
    pub timeout: Option<f64>,
    #[serde(default)]
    pub slo_target_us: Option<f64>,
    #[serde(default, rename = "network")]
    pub _network: Option<Tree>,
    #[serde(default)]
    pub multimodal: Option<Multimodal>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DiurnalSpec {
    pub peak_hour: f64,
    pub peak_to_trough_ratio: f64,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SpikeSpec {
    pub start_time_us: f64,
    pub duration_us: f64,
    #[serde(default)]
    pub trace_rate: Option<f64>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Drain {
    pub start_time_us: f64,
    pub ramp_duration_us: f64,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Arrival {
    #[serde(default)]
    pub process: Option<String>,
    #[serde(default)]
    pub cv: Option<f64>,
    #[serde(default)]
    pub shape: Option<f64>,
    #[serde(default)]
    pub scale: Option<f64>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Dist {
    pub r#type: Text,
    #[serde(default)]
    pub params: IndexMap<Text, f64>,
    #[serde(default)]
    pub file: Option<Text>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lifecycle {
    pub windows: Vec<WindowSpec>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WindowSpec {
    pub start_us: f64,
    pub end_us: f64,
    #[serde(default)]
    pub trace_rate: Option<f64>,
    #[serde(default)]
    pub arrival: Option<Arrival>,
    #[serde(default)]
    pub input_distribution: Option<Dist>,
    #[serde(default)]
    pub output_distribution: Option<Dist>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Multimodal {
    #[serde(default)]
    pub text_distribution: Option<Dist>,
    #[serde(default)]
    pub image_distribution: Option<Dist>,
    #[serde(default)]
    pub image_count_distribution: Option<Dist>,
    #[serde(default)]
    pub audio_distribution: Option<Dist>,
    #[serde(default)]
    pub audio_count_distribution: Option<Dist>,
    #[serde(default)]
    pub video_distribution: Option<Dist>,
    #[serde(default)]
    pub video_count_distribution: Option<Dist>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReasoningSpec {
    #[serde(default)]
    pub reason_ratio_distribution: Option<Dist>,
    #[serde(default)]
    pub multi_turn: Option<MultiTurn>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MultiTurn {
    pub max_rounds: u32,
    #[serde(default)]
    pub think_time_us: f64,
    #[serde(default)]
    pub context_growth: String,
    #[serde(default)]
    pub single_session: bool,
}
