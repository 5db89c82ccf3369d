//! Pairing, corrections and figures, on requests written by hand; statistics are tested where they are.

use super::judge::{Detail, Figure, judge};
use super::side::Request;
use crate::spec::{Artefact, ClockOffset, Compare, CompareMetric, Margin, PairBy, Ref, Text, Upload, Verdicts};

const MS: f64 = 1e6;

fn spec() -> Compare {
    let table = |name: &str| Ref(Text::new(name.to_string(), None));
    Compare {
        measured: table("real"),
        simulated: table("sim"),
        metrics: CompareMetric::ALL.to_vec(),
        pair: PairBy::RequestId,
        warmup: Margin::default(),
        cooldown: Margin::default(),
        clock_offset: ClockOffset::None,
        network_rtt_ms: 0.0,
        artefacts: Vec::new(),
        bootstrap: 50,
        confidence: 0.9,
        seed: None,
        verdicts: Verdicts::default(),
    }
}

/// A request with ten tokens that arrives every 100 ms; TTFT and E2E in ms.
fn request(id: i64, ttft: f64, e2e: f64) -> Request {
    Request {
        id,
        served: true,
        arrival_ns: Some(id as f64 * 100.0 * MS),
        ttft_ns: Some(ttft * MS),
        tpot_ns: Some((e2e - ttft) / 10.0 * MS),
        e2e_ns: Some(e2e * MS),
        output_tokens: Some(11.0),
        input_tokens: Some(1000.0),
        queue_ns: Some(2.0 * MS),
        ..Request::default()
    }
}

fn figures(spec: &Compare, measured: &[Request], simulated: &[Request]) -> (Vec<Figure>, Vec<Detail>) {
    judge(spec, 1, 7, measured, simulated)
}

#[track_caller]
fn figure<'a>(figures: &'a [Figure], metric: &str) -> &'a Figure {
    figures.iter().find(|f| f.metric == metric).unwrap()
}

#[track_caller]
fn close(value: Option<f64>, expected: f64) {
    let value = value.unwrap();
    assert!((value - expected).abs() < 1e-9, "{value}, expected {expected}");
}

#[test]
fn requests_are_paired_by_number_and_what_is_missing_is_counted() {
    let measured = [request(0, 10.0, 110.0), request(1, 20.0, 220.0), request(3, 30.0, 330.0)];
    let mut failed = request(3, 5.0, 5.0);
    failed.served = false;
    let simulated = [request(0, 11.0, 121.0), request(1, 18.0, 198.0), request(2, 1.0, 2.0), failed];
    let (all, details) = figures(&spec(), &measured, &simulated);
    let ttft = figure(&all, "ttft");
    assert_eq!((ttft.scenario, ttft.pairs, ttft.missing_measured, ttft.missing_simulated), (7, 2, 1, 1));
    close(ttft.measured, 15.0);
    close(ttft.simulated, 14.5);
    close(ttft.mean_error, -0.5 / 15.0);
    close(ttft.mape, 0.1);
    close(ttft.bias, 0.0);
    close(ttft.rmse, libm::sqrt(2.5));
    // TPOT is 10 and 20 ms against 11 and 18.
    close(figure(&all, "tpot").measured, 15.0);
    close(figure(&all, "itl").simulated, 14.5);
    let ids: Vec<(&str, i64)> = details.iter().map(|d| (d.metric, d.request)).collect();
    assert_eq!(ids[..4], [("ttft", 0), ("ttft", 1), ("tpot", 0), ("tpot", 1)]);
    // 22 tokens from 0 ms to 320 ms, and to 298 ms.
    close(figure(&all, "output_tps").measured, 22.0 / 0.32);
    close(figure(&all, "output_tps").simulated, 22.0 / 0.298);
    close(figure(&all, "request_rps").mean_error, 0.32 / 0.298 - 1.0);
}

#[test]
fn pairs_by_order_need_no_numbers() {
    let measured = [request(5, 10.0, 20.0), request(9, 20.0, 40.0)];
    let simulated = [request(0, 11.0, 20.0), request(1, 22.0, 40.0), request(2, 1.0, 1.0)];
    let (all, details) = figures(&Compare { pair: PairBy::Order, ..spec() }, &measured, &simulated);
    let ttft = figure(&all, "ttft");
    assert_eq!((ttft.pairs, ttft.missing_measured, details[1].request), (2, 1, 9));
    close(ttft.mape, 0.1);
}

#[test]
fn zeros_have_no_relative_error_and_single_tokens_no_tpot() {
    let mut one = request(1, 10.0, 10.0);
    one.output_tokens = Some(1.0);
    let measured = [request(0, 0.0, 100.0), one];
    let (all, _) = figures(&spec(), &measured, &[request(0, 5.0, 100.0), one]);
    let ttft = figure(&all, "ttft");
    assert_eq!((ttft.pairs, ttft.zero_measured), (2, 1));
    close(ttft.mape, 0.0);
    assert_eq!(figure(&all, "tpot").pairs, 1);
}

#[test]
fn warm_up_and_cool_down_do_not_count_on_either_side() {
    let run: Vec<Request> = (0..10).map(|i| request(i, 10.0, 100.0)).collect();
    let pairs = |change: fn(&mut Compare)| {
        let mut spec = spec();
        change(&mut spec);
        let (all, _) = figures(&spec, &run, &run);
        (all[0].pairs, all[0].left_out)
    };
    assert_eq!(pairs(|_| ()), (10, 0));
    assert_eq!(pairs(|s| s.warmup.requests = 3), (7, 3));
    assert_eq!(pairs(|s| s.cooldown.requests = 12), (0, 10));
    // Arrivals at 0, 100, ... 900 ms: below 250 ms, and within 100 ms of the last (which does not take in 800 ms).
    assert_eq!(pairs(|s| s.warmup.s = 0.25), (7, 3));
    assert_eq!(pairs(|s| s.cooldown.s = 0.1), (9, 1));
    let mut marked = run.clone();
    marked[4].left_out = true;
    assert_eq!(figures(&spec(), &run, &marked).0[0].pairs, 9);
}

#[test]
fn clocks_are_brought_together() {
    let simulated: Vec<Request> = (0..4).map(|i| request(i, 10.0, 100.0)).collect();
    let late = |r: &Request| Request { arrival_ns: r.arrival_ns.map(|a| a + 30.0 * MS + r.id as f64 * MS), ..*r };
    let measured: Vec<Request> = simulated.iter().map(late).collect();
    let offset = |clock_offset| {
        let (all, _) = figures(&Compare { clock_offset, ..spec() }, &measured, &simulated);
        (all[0].clock_offset_ms, all[0].arrival_error_ms_max.unwrap())
    };
    assert_eq!(offset(ClockOffset::None), (0.0, 33.0));
    assert_eq!(offset(ClockOffset::Auto), (31.5, 1.5));
    assert_eq!(offset(ClockOffset::Ms(30.0)), (30.0, 3.0));
}

#[test]
fn what_clients_do_is_taken_off_by_name() {
    let true_one = request(0, 20.0, 120.0);
    let read = |artefacts: &[Artefact], rtt: f64, change: fn(&mut Request)| {
        let mut client = true_one;
        change(&mut client);
        let spec = Compare { artefacts: artefacts.to_vec(), network_rtt_ms: rtt, bootstrap: 0, ..spec() };
        let (all, _) = figures(&spec, &[client], &[true_one]);
        ["ttft", "tpot", "e2e"].map(|m| figure(&all, m).measured.map(|v| (v * 1e6).round() / 1e6))
    };
    let truth = [Some(20.0), Some(10.0), Some(120.0)];
    assert_eq!(read(&[], 0.0, |_| ()), truth);
    let later = |r: &mut Request| (r.ttft_ns, r.e2e_ns) = (Some(22.5 * MS), Some(122.5 * MS));
    assert_eq!(read(&[], 2.5, later), truth);
    assert_eq!(read(&[Artefact::TpotCountsFirstToken], 0.0, |r| r.tpot_ns = Some(120.0 / 11.0 * MS)), truth);
    let acknowledged = |r: &mut Request| {
        (r.ttft_ns, r.second_chunk_ns, r.tpot_ns) = (Some(1.0 * MS), Some(20.0 * MS), Some(119.0 / 11.0 * MS));
    };
    assert_eq!(read(&[Artefact::AcknowledgedFirstChunk], 0.0, acknowledged), truth);
    let chunks = |r: &mut Request| (r.output_tokens, r.tpot_ns) = (Some(6.0), Some(20.0 * MS));
    assert_eq!(read(&[Artefact::ChunksCountedAsTokens], 0.0, chunks), truth);
    let engine = |r: &mut Request| (r.ttft_ns, r.e2e_ns) = (Some(18.0 * MS), Some(118.0 * MS));
    assert_eq!(read(&[Artefact::TimesStartAtEngine], 0.0, engine), truth);
    // 1000 tokens of 4 bytes take 3.2 ms at 10 Mbit/s.
    let uploaded = |r: &mut Request| (r.ttft_ns, r.e2e_ns) = (Some(23.2 * MS), Some(123.2 * MS));
    assert_eq!(read(&[Artefact::Upload(Upload { bandwidth_mbit_s: 10.0 })], 0.0, uploaded), truth);
    // Nobody answers before it is asked: such a time is none.
    assert_eq!(read(&[], 30.0, |_| ())[0], None);
}
