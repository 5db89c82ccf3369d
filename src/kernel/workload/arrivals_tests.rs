//! Arrival processes and changing rates against their closed forms.

use super::schedule::{Base, Clock};
use super::*;
use crate::rng;
use crate::units::{SimDuration, SimTime};

fn workload(more: &str) -> Synthetic {
    let text =
        format!(r#"{{"input": {{"constant": {{"tokens": 5}}}}, "output": {{"constant": {{"tokens": 5}}}}, {more}}}"#);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn times_s(more: &str, seed: u64) -> Vec<f64> {
    let workload = workload(more);
    assert_eq!(workload.problems(), [], "{more}");
    generate(&workload, seed).arrival.iter().map(|t| t.0 as f64 / 1e9).collect()
}

fn gaps(times: &[f64]) -> Vec<f64> {
    let mut last = 0.0;
    times.iter().map(|t| t - std::mem::replace(&mut last, *t)).collect()
}

/// Mean and coefficient of variation.
fn mean_cv(xs: &[f64]) -> (f64, f64) {
    let n = xs.len() as f64;
    let mean = xs.iter().sum::<f64>() / n;
    (mean, (xs.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt() / mean)
}

/// Requests in windows of this length.
fn counts(times: &[f64], window_s: f64, windows: usize) -> Vec<f64> {
    let mut counts = vec![0.0; windows];
    for t in times {
        if let Some(count) = counts.get_mut((t / window_s) as usize) {
            *count += 1.0;
        }
    }
    counts
}

#[test]
fn gaps_have_the_asked_mean_and_variation() {
    let seed = 11;
    println!("seed {seed}");
    for (arrivals, cv) in [
        (r#""poisson""#, 1.0),
        (r#""constant""#, 0.0),
        (r#"{"gamma": {"cv": 0.5}}"#, 0.5),
        (r#"{"gamma": {"cv": 2}}"#, 2.0),
        (r#"{"weibull": {"cv": 0.3}}"#, 0.3),
        (r#"{"weibull": {"cv": 2.5}}"#, 2.5),
        // Gamma(3) / Gamma(2)^2 - 1 = 5 for shape 1/2.
        (r#"{"weibull": {"shape": 0.5}}"#, 5f64.sqrt()),
        (r#"{"weibull": {"shape": 1}}"#, 1.0),
    ] {
        let n = 200_000;
        let more = format!(r#""requests": {n}, "rate_rps": 8, "arrivals": {arrivals}"#);
        let (mean, got) = mean_cv(&gaps(&times_s(&more, seed)));
        let off = (mean * 8.0 - 1.0).abs();
        assert!(off <= 4.0 * cv / f64::from(n).sqrt() + 1e-9, "{arrivals}: mean gap {mean} s");
        assert!((got - cv).abs() <= 0.04 * cv + 1e-9, "{arrivals}: cv {got} instead of {cv}");
    }
}

#[test]
fn weibull_gaps_follow_their_law() {
    let shape = 0.7;
    let more = format!(r#""requests": 100000, "rate_rps": 1, "arrivals": {{"weibull": {{"shape": {shape}}}}}"#);
    let mut xs = gaps(&times_s(&more, 3));
    xs.sort_by(f64::total_cmp);
    let scale = 1.0 / libm::tgamma(1.0 + 1.0 / shape);
    let n = xs.len() as f64;
    let worst = (0..xs.len()).fold(0.0f64, |worst, i| {
        let below = 1.0 - (-(xs[i] / scale).powf(shape)).exp();
        worst.max((below - i as f64 / n).abs())
    });
    // Kolmogorov's statistic is above 1.95 with probability 0.001.
    assert!(worst * n.sqrt() < 1.95, "{}", worst * n.sqrt());
}

/// Two states: mean rate, and the index of dispersion of counts by the formula of Heffes and Lucantoni (1986).
#[test]
fn modulated_arrivals_have_their_rate_and_dispersion() {
    let seed = 5;
    println!("seed {seed}");
    let (rate, window, windows) = (10.0, 20.0, 20_000usize);
    let (low, high, dwell_low, dwell_high) = (1.0f64, 9.0, 30.0, 10.0f64);
    let more = format!(
        r#""duration_s": {}, "rate_rps": {rate}, "arrivals": {{"mmpp": {{"states": [
            {{"rate": {low}, "dwell_s": {dwell_low}}}, {{"rate": {high}, "dwell_s": {dwell_high}}}]}}}}"#,
        window * windows as f64
    );
    let counts = counts(&times_s(&more, seed), window, windows);
    let (mean, cv) = mean_cv(&counts);
    let share_high = dwell_high / (dwell_low + dwell_high);
    let scale = rate / (low * (1.0 - share_high) + high * share_high);
    let (l1, l2, r1, r2) = (low * scale, high * scale, 1.0 / dwell_low, 1.0 / dwell_high);
    let limit = 2.0 * (l1 - l2).powi(2) * r1 * r2 / ((r1 + r2).powi(2) * (l1 * r2 + l2 * r1));
    let x = (r1 + r2) * window;
    let dispersion = 1.0 + limit * (1.0 - (1.0 - (-x).exp()) / x);
    let got = cv * cv * mean;
    assert!((mean / window - rate).abs() < 0.03 * rate, "mean rate {}", mean / window);
    assert!((got - dispersion).abs() < 0.05 * dispersion, "dispersion {got} instead of {dispersion}");
}

#[test]
fn batches_arrive_together_at_the_rate_of_their_requests() {
    for (size, mean_size, second) in [
        (r#"{"constant": {"requests": 4}}"#, 4.0, 16.0),
        (r#"{"uniform": {"min": 1, "max": 5}}"#, 3.0, 11.0),
        // Geometric: E[X^2] = (2 - p) / p^2.
        (r#"{"geometric": {"mean": 5}}"#, 5.0, 45.0),
    ] {
        let more = format!(r#""duration_s": 40000, "rate_rps": 6, "arrivals": {{"batch": {{"size": {size}}}}}"#);
        let times = times_s(&more, 2);
        let groups = 1 + times.windows(2).filter(|w| w[1] > w[0]).count();
        let got = times.len() as f64 / groups as f64;
        assert!((got - mean_size).abs() < 0.03 * mean_size, "{size}: {got}");
        assert!((times.len() as f64 / 240_000.0 - 1.0).abs() < 0.03, "{size}: {}", times.len());
        // A compound Poisson process: the variance of counts over their mean is E[X^2] / E[X].
        let (mean, cv) = mean_cv(&counts(&times, 10.0, 4000));
        let (got, dispersion) = (cv * cv * mean, second / mean_size);
        assert!((got - dispersion).abs() < 0.12 * dispersion, "{size}: {got} instead of {dispersion}");
    }
}

#[test]
fn schedules_have_their_rates_and_keep_the_variation() {
    let schedule = r#""rate_schedule": {"pieces": [{"for_s": 1000, "rate_rps": 2}, {"until_s": 2000, "rate_rps": 2, "to_rps": 12},
        {"for_s": 500, "rate_rps": 0}, {"for_s": 1500, "rate_rps": 20}], "after": "stop"}"#;
    for (arrivals, cv) in [(r#""poisson""#, 1.0), (r#"{"gamma": {"cv": 0.2}}"#, 0.2), (r#""constant""#, 0.0)] {
        let times = times_s(&format!(r#""duration_s": 1e6, "arrivals": {arrivals}, {schedule}"#), 9);
        let within = |from: f64, to: f64| times.iter().filter(|t| (from..to).contains(*t)).count() as f64;
        // 2000 in the first thousand seconds, 7000 on the ramp, 30000 at the end, and nobody in between or after.
        for (from, to, expect) in
            [(0.0, 1000.0, 2000.0), (1000.0, 2000.0, 7000.0), (1000.0, 1500.0, 2250.0), (2500.0, 4000.0, 30_000.0)]
        {
            let got = within(from, to);
            assert!((got - expect).abs() <= 4.0 * cv * f64::sqrt(expect) + 1.0, "{arrivals}: {got} not {expect}");
        }
        // What is due at the very end of a piece is within it.
        assert_eq!((within(2000.001, 2500.0), within(4000.001, 1e9)), (0.0, 0.0));
        let steady: Vec<f64> = times.iter().copied().filter(|t| *t >= 2500.0).collect();
        let (_, got) = mean_cv(&gaps(&steady)[1..]);
        assert!((got - cv).abs() < 0.03 * cv + 1e-6, "{arrivals}: cv {got}");
    }
}

#[test]
fn schedules_hold_repeat_and_share_their_draws() {
    let times = |after: &str, factor: f64| {
        let more = format!(
            r#""requests": 3000, "rate_schedule": {{"pieces": [{{"for_s": 50, "rate_rps": {}}}, {{"for_s": 50, "rate_rps": {}}}],
                "after": "{after}"}}"#,
            2.0 * factor,
            6.0 * factor
        );
        times_s(&more, 4)
    };
    // 400 in a round: three thousand take seven rounds and a half.
    let repeated = times("repeat", 1.0);
    assert!((repeated[2999] / 750.0 - 1.0).abs() < 0.06, "{}", repeated[2999]);
    let held = times("hold", 1.0);
    assert!((held[2999] / (100.0 + 2600.0 / 6.0) - 1.0).abs() < 0.06, "{}", held[2999]);
    // The same numbers on a faster clock: request by request the same share of the work.
    let twice = times("repeat", 2.0);
    let work = |t: f64, factor: f64| {
        let rest = t % 100.0;
        factor * ((t / 100.0).floor() * 400.0 + if rest < 50.0 { 2.0 * rest } else { 100.0 + 6.0 * (rest - 50.0) })
    };
    for (a, b) in repeated.iter().zip(&twice) {
        assert!((work(*a, 1.0) - work(*b, 2.0)).abs() < 1e-3, "{a} {b}");
    }
}

#[test]
fn a_day_has_the_mean_rate_its_peak_and_its_trough() {
    let more = r#""duration_s": 864000, "rate_rps": 2, "arrivals": "constant",
        "diurnal": {"peak_hour": 14, "peak_to_trough": 4, "start_hour": 6}"#;
    let times = times_s(more, 1);
    assert!(times.len().abs_diff(2 * 864_000) <= 1, "{}", times.len());
    // Hours of the day, of ten days that begin at six: the peak is 1.6 times the mean, the trough 0.4.
    let mut hours = [0.0; 24];
    times.iter().for_each(|t| hours[((t / 3600.0) as usize + 6) % 24] += 1.0 / 72_000.0);
    let around = |h: f64| 1.0 + 0.6 * ((h + 0.5 - 14.0) * std::f64::consts::PI / 12.0).cos() * 0.99715;
    for (h, got) in (0u8..).zip(hours) {
        assert!((got - around(f64::from(h))).abs() < 0.001, "{h}: {got} instead of {}", around(f64::from(h)));
    }
}

#[test]
fn spikes_multiply_the_rate() {
    let more = r#""duration_s": 3000, "rate_rps": 10, "arrivals": "constant", "spikes": [
        {"at_s": 1000, "for_s": 100, "factor": 5}, {"at_s": 1050, "for_s": 100, "factor": 0}]"#;
    let times = times_s(more, 1);
    let within = |from: f64, to: f64| times.iter().filter(|t| (from..to).contains(*t)).count();
    assert!(within(0.0, 1000.0).abs_diff(10_000) <= 1);
    assert!(within(1000.0, 1050.0).abs_diff(2500) <= 1);
    assert_eq!(within(1050.001, 1149.999), 0);
    assert!(within(1150.0, 3000.0).abs_diff(18_500) <= 1);
}

/// The clock never stands still, and goes back never, whatever is put together.
#[test]
fn clocks_go_on() {
    let diurnal = Some(Diurnal { peak_hour: 3.0, peak_to_trough: 50.0, start_hour: 20.0 });
    let spikes = [Spike { at_s: 0.1, for_s: 0.1, factor: 0.0 }, Spike { at_s: 500.0, for_s: 1e-3, factor: 1e3 }];
    let active = [Active { from_s: 0.0, to_s: 7000.0 }, Active { from_s: 7200.0, to_s: 9000.0 }];
    let schedule = RateSchedule {
        pieces: vec![
            RatePiece { for_s: Some(0.3), until_s: None, rate_rps: 0.0, to_rps: Some(3.0) },
            RatePiece { for_s: Some(0.7), until_s: None, rate_rps: 1.0, to_rps: None },
        ],
        after: After::Repeat,
        ..RateSchedule::default()
    };
    let mut clock = Clock::new(Base::Schedule(&schedule), diurnal, &spikes, &active, None);
    let mut rng = rng::stream(1, "x");
    let mut last = SimTime::ZERO;
    let mut made = 0;
    while let Some(at) = clock.advance(rng::exponential(&mut rng, 1.0), 1e9) {
        assert!(at >= last && !(at > SimTime::ZERO + SimDuration::from_s(7000.0) && at.0 < 7_200_000_000_000));
        last = at;
        made += 1;
    }
    // The schedule has 1.15 per second on average, for 8800 seconds of a rate that the day changes.
    assert!((2000..22_000).contains(&made), "{made}");
    assert!(last < SimTime::ZERO + SimDuration::from_s(9000.0));
}

#[test]
fn users_of_a_closed_loop_are_sessions() {
    let closed = r#""requests": 1000, "arrivals": {"closed_loop": {"users": 10, "turn_s": 2,
        "think_time": {"exponential": {"mean_s": 3}}}}"#;
    let made = generate(&workload(closed), 3);
    assert_eq!(workload(closed).problems(), []);
    let mut turns = [0u32; 10];
    made.session.iter().for_each(|s| turns[s.unwrap() as usize] += 1);
    assert!(turns.iter().all(|t| (70..130).contains(t)), "{turns:?}");
    let begins: Vec<i64> =
        made.arrival.iter().zip(&made.think).filter(|(_, t)| t.is_none()).map(|(a, _)| a.0).collect();
    assert_eq!(begins, (0..10).map(|u| u * 300_000_000).collect::<Vec<_>>());
    assert!(made.input_tokens.iter().all(|t| *t == 5) && made.block_hashes.is_empty());
}

#[test]
fn all_problems_are_found_at_once() {
    let bad = workload(
        r#""rate_rps": 1, "arrivals": {"mmpp": {"states": [{"rate": -1, "dwell_s": 0}]}}, "diurnal": {"peak_hour": 25,
        "peak_to_trough": 0.5}, "spikes": [{"at_s": -1, "for_s": 0, "factor": -2}], "active": [{"from_s": 2, "to_s": 1}],
        "rate_schedule": {"pieces": [{"rate_rps": 1}, {"until_s": -1, "rate_rps": -1}]}, "starts": 0"#,
    );
    let paths: Vec<String> = bad.problems().into_iter().map(|p| p.path).collect();
    let expect = [
        "requests",
        "rate_rps",
        "starts",
        "arrivals.mmpp.states",
        "arrivals.mmpp.states.0.rate",
        "arrivals.mmpp.states.0.dwell_s",
        "arrivals.mmpp.states",
        "rate_schedule.pieces.0",
        "rate_schedule.pieces.1.until_s",
        "rate_schedule.pieces.1.rate_rps",
        "diurnal.peak_hour",
        "diurnal.peak_to_trough",
        "spikes.0.at_s",
        "spikes.0.for_s",
        "spikes.0.factor",
        "active.0.to_s",
    ];
    assert_eq!(paths, expect);
    for (arrivals, path) in [
        (r#"{"weibull": {}}"#, "arrivals.weibull"),
        (r#"{"weibull": {"cv": 1, "shape": 1}}"#, "arrivals.weibull"),
        (r#"{"weibull": {"cv": 100}}"#, "arrivals.weibull.cv"),
        (r#"{"gamma": {"cv": 0}}"#, "arrivals.gamma.cv"),
        (r#"{"batch": {"size": {"geometric": {"mean": 0.5}}}}"#, "arrivals.batch.size.geometric.mean"),
        (
            r#"{"batch": {"size": {"constant": {"requests": 1}}, "gaps": {"gamma": {"cv": -1}}}}"#,
            "arrivals.batch.gaps.gamma.cv",
        ),
    ] {
        let bad = workload(&format!(r#""requests": 1, "rate_rps": 1, "arrivals": {arrivals}"#));
        let paths: Vec<String> = bad.problems().into_iter().map(|p| p.path).collect();
        assert_eq!(paths, [path], "{arrivals}");
    }
    let closed = workload(r#""requests": 1, "rate_rps": 1, "arrivals": {"closed_loop": {"users": 0, "turn_s": 0}}"#);
    let paths: Vec<String> = closed.problems().into_iter().map(|p| p.path).collect();
    assert_eq!(paths, ["rate_rps", "arrivals.closed_loop.users", "arrivals.closed_loop.turn_s"]);
}
