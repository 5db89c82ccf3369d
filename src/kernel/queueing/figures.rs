//! What a run comes to, by the definitions of llm-simulator, and what those leave out.
//!
//! Everything counts what happens before the end; what would happen at it or later does not. Times to first token count
//! from the warm-up on, by the time of the first token, and so do waits; end-to-end times do by the time of the last
//! token. Throughput and utilization begin at 0, whatever the warm-up.
//!
//! **Utilization** is llm-simulator's: the prefill of a request counts when it is over (monolithic: with the first
//! token), its decode counts whole when the first token is out. So it counts decode time that lies behind the end, and
//! misses services that have not come so far; over a long run, neither matters. **Occupancy** is the time that GPUs were
//! really held up to the end, as a share of all there was.

use super::{Queueing, Request};

/// Mean and quantiles (linear interpolation) of some samples, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantiles {
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
}

/// What a run comes to. `None` where nothing was sampled, or where the mode has no such GPUs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// Requests that arrived, and those that were done.
    pub arrived: u64,
    pub completed: u64,
    /// Times to first token that count.
    pub num_samples: u64,
    pub ttft: Option<Quantiles>,
    pub prefill_wait: Option<Quantiles>,
    pub decode_wait: Option<Quantiles>,
    pub e2e: Option<Quantiles>,
    pub elapsed_s: f64,
    pub throughput_rps: f64,
    /// Of all GPUs, in mode `mono`; else of those for prompts and those for outputs.
    pub utilization_gpu: Option<f64>,
    pub utilization_prefill: Option<f64>,
    pub utilization_decode: Option<f64>,
    pub occupancy_gpu: Option<f64>,
    pub occupancy_prefill: Option<f64>,
    pub occupancy_decode: Option<f64>,
}

impl Queueing {
    /// Whether a request counts in the times to first token.
    pub fn measures(&self, request: &Request) -> bool {
        self.in_window(request.first_token)
    }

    fn in_window(&self, time: f64) -> bool {
        time >= self.warmup_seconds && time < self.sim_seconds
    }
}

/// The figures of a run of these settings.
pub fn figures(settings: &Queueing, requests: &[Request]) -> Figures {
    let end = settings.sim_seconds;
    let completed = requests.iter().filter(|r| r.finished < end).count() as u64;
    let measured: Vec<&Request> = requests.iter().filter(|r| settings.measures(r)).collect();
    let finished: Vec<&Request> = requests.iter().filter(|r| settings.in_window(r.finished)).collect();
    let work = Work::of(settings, requests);
    let cluster = settings.cluster();
    let share = |busy: f64, gpus: u32| busy / f64::from(gpus) / end;
    // One kind of GPUs, or two.
    let (one, first) =
        if cluster.decode_gpus.is_none() { (Some(cluster.gpus), None) } else { (None, Some(cluster.gpus)) };
    let second = cluster.decode_gpus;
    Figures {
        arrived: requests.len() as u64,
        completed,
        num_samples: measured.len() as u64,
        ttft: quantiles(&measured, Request::ttft),
        prefill_wait: quantiles(&measured, Request::prefill_wait),
        decode_wait: quantiles(&measured, Request::decode_wait),
        e2e: quantiles(&finished, Request::e2e),
        elapsed_s: end,
        throughput_rps: completed as f64 / end,
        utilization_gpu: one.map(|gpus| share(work.begun_whole, gpus)),
        utilization_prefill: first.map(|gpus| share(work.prefilled, gpus)),
        utilization_decode: second.map(|gpus| share(work.begun_decode, gpus)),
        occupancy_gpu: one.map(|gpus| share(work.held_prefill + work.held_decode, gpus)),
        occupancy_prefill: first.map(|gpus| share(work.held_prefill, gpus)),
        occupancy_decode: second.map(|gpus| share(work.held_decode, gpus)),
    }
}

/// Seconds of GPU time, summed in the order of the requests.
#[derive(Default)]
struct Work {
    /// Prefills that are over; decodes whose first token is out; and both together of the latter.
    prefilled: f64,
    begun_decode: f64,
    begun_whole: f64,
    /// GPUs held before the end.
    held_prefill: f64,
    held_decode: f64,
}

impl Work {
    fn of(settings: &Queueing, requests: &[Request]) -> Work {
        let cluster = settings.cluster();
        let end = settings.sim_seconds;
        let held = |from: f64, to: f64| (to.min(end) - from).max(0.0);
        let mut work = Work::default();
        for r in requests {
            let prefill = r.prompt_tokens as f64 / cluster.prefill_tokens_per_s;
            let decode = r.output_tokens.max(1) as f64 / cluster.decode_tokens_per_s;
            if r.prefill_end < end {
                work.prefilled += prefill;
            }
            if r.first_token < end {
                work.begun_decode += decode;
                work.begun_whole += prefill + decode;
            }
            work.held_prefill += held(r.prefill_start, r.prefill_end);
            work.held_decode += held(r.decode_start, r.finished);
        }
        work
    }
}

fn quantiles(requests: &[&Request], of: impl Fn(&Request) -> f64) -> Option<Quantiles> {
    if requests.is_empty() {
        return None;
    }
    let mut samples: Vec<f64> = requests.iter().map(|r| of(r)).collect();
    let mean = samples.iter().sum::<f64>() / samples.len() as f64;
    samples.sort_by(f64::total_cmp);
    let at = |q| quantile(&samples, q);
    Some(Quantiles { mean, p50: at(0.50), p90: at(0.90), p99: at(0.99) })
}

/// With linear interpolation, of at least one sample in ascending order.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let rank = q * (sorted.len() - 1) as f64;
    let low = rank as usize;
    let high = (low + 1).min(sorted.len() - 1);
    sorted[low] + (rank - low as f64) * (sorted[high] - sorted[low])
}

#[cfg(test)]
mod tests {
    use super::super::{ClusterDisagg, Mode};
    use super::*;

    /// Prefill and decode of 1000 tokens per second each, on one GPU each, from 0 to 10 s with 2 s of warm-up.
    fn settings(mode: Mode) -> Queueing {
        let mut q = Queueing { mode, sim_seconds: 10.0, warmup_seconds: 2.0, ..Queueing::default() };
        (q.cluster_mono.num_gpus, q.cluster_mono.prefill_tokens_per_s, q.cluster_mono.decode_tokens_per_s) =
            (1, 1e3, 1e3);
        q.cluster_disagg =
            ClusterDisagg { prefill_gpus: 1, decode_gpus: 1, prefill_tokens_per_s: 1e3, decode_tokens_per_s: 1e3 };
        q
    }

    /// (arrival, prefill start, decode start) and whole seconds of prompt and output, less the first token.
    fn request(arrival: f64, prefill_start: f64, decode_start: f64, prompt: i64, output: i64) -> Request {
        let prefill_end = prefill_start + prompt as f64;
        Request {
            arrival,
            prompt_tokens: prompt * 1000,
            output_tokens: output * 1000,
            prefill_start,
            prefill_end,
            decode_start,
            first_token: decode_start + 0.001,
            finished: decode_start + output as f64,
        }
    }

    #[test]
    fn a_case_by_hand() {
        let requests = [
            // Before the warm-up is over.
            request(0.0, 0.0, 1.0, 1, 1),
            request(0.5, 1.0, 3.0, 2, 3),
            // Not done at the end: two of its four seconds lie behind it.
            request(2.0, 3.0, 8.0, 2, 4),
            // Its prompt is not done at the end, and its output begins after it.
            request(6.0, 9.0, 12.0, 3, 1),
        ];
        let f = figures(&settings(Mode::Disagg), &requests);
        assert_eq!((f.arrived, f.completed, f.num_samples), (4, 2, 2));
        assert_eq!((f.elapsed_s, f.throughput_rps), (10.0, 0.2));
        let close =
            |got: Option<f64>, expect: f64| assert!((got.unwrap() - expect).abs() < 1e-12, "{got:?}, not {expect}");
        let ttft = f.ttft.unwrap();
        close(Some(ttft.mean), (2.501 + 6.001) / 2.0);
        close(Some(ttft.p50), (2.501 + 6.001) / 2.0);
        close(Some(ttft.p90), 2.501 + 0.9 * 3.5);
        assert_eq!(f.prefill_wait.map(|w| w.p99), Some(0.5 + 0.99 * 0.5));
        assert_eq!(f.decode_wait.map(|w| w.mean), Some(1.5));
        // Only the second is done within the window; the first one is done at 2 s sharp, and counts.
        assert_eq!(f.e2e.map(|w| w.mean), Some((2.0 + 5.5) / 2.0));
        assert_eq!((f.utilization_gpu, f.occupancy_gpu), (None, None));
        close(f.utilization_prefill, 0.5);
        close(f.occupancy_prefill, 0.6);
        close(f.utilization_decode, 0.8);
        close(f.occupancy_decode, 0.6);
    }

    #[test]
    fn one_kind_of_gpus_counts_as_a_whole() {
        let requests = [request(0.0, 0.0, 1.0, 1, 1), request(1.0, 2.0, 4.0, 2, 1), request(2.0, 5.0, 9.9995, 5, 3)];
        let f = figures(&settings(Mode::Mono), &requests);
        assert_eq!((f.utilization_prefill, f.utilization_decode, f.occupancy_prefill), (None, None, None));
        // The third one's first token would come after the end.
        assert!((f.utilization_gpu.unwrap() - 0.5).abs() < 1e-12);
        assert!((f.occupancy_gpu.unwrap() - 1.00005).abs() < 1e-12, "{f:?}");
        assert_eq!(f.num_samples, 1);
        let nothing = figures(&settings(Mode::Mono), &[]);
        assert_eq!((nothing.ttft, nothing.e2e, nothing.throughput_rps), (None, None, 0.0));
    }
}
