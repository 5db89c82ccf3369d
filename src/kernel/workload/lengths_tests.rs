//! Families of lengths, and lengths that go together, against closed forms.

use super::*;
use crate::rng;

const N: usize = 200_000;

fn parse(text: &str) -> Lengths {
    let lengths: Lengths = serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    assert_eq!(lengths.problems("input"), [], "{text}");
    lengths
}

fn draw(text: &str, seed: u64) -> Vec<f64> {
    let sampler = parse(text).sampler();
    let mut rng = rng::stream(seed, "workload/input");
    (0..N).map(|_| f64::from(sampler.sample(&mut rng))).collect()
}

fn mean_std(xs: &[f64]) -> (f64, f64) {
    let mean = xs.iter().sum::<f64>() / xs.len() as f64;
    (mean, (xs.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / xs.len() as f64).sqrt())
}

#[test]
fn moments_are_those_of_the_formulas() {
    let seed = 7;
    println!("seed {seed}");
    // Lengths are long, so that rounding and the limit at 1 change nothing that could be seen.
    for (text, mean, std) in [
        (r#"{"exponential": {"mean": 3000}}"#, 3000.0, 3000.0),
        (r#"{"gamma": {"mean": 5000, "std": 2000}}"#, 5000.0, 2000.0),
        (r#"{"gamma": {"mean": 5000, "std": 9000}}"#, 5000.0, 9000.0),
        // alpha xm / (alpha - 1) and xm / (alpha - 1) sqrt(alpha / (alpha - 2)) for alpha 6.
        (r#"{"pareto": {"alpha": 6, "xm": 1000}}"#, 1200.0, 200.0 * 1.5f64.sqrt()),
        // Location 1000, scale 400, delta = 3 / sqrt(10).
        (
            r#"{"skew_normal": {"location": 1000, "scale": 400, "shape": 3}}"#,
            1000.0 + 400.0 * (0.9f64).sqrt() * (2.0 / std::f64::consts::PI).sqrt(),
            400.0 * (1.0 - 1.8 / std::f64::consts::PI).sqrt(),
        ),
        (r#"{"empirical": {"values": [10, 20, 40], "weights": [1, 2, 1]}}"#, 22.5, 118.75f64.sqrt()),
        (r#"{"empirical": {"values": [40, 20, 20, 10]}}"#, 22.5, 118.75f64.sqrt()),
    ] {
        let (got_mean, got_std) = mean_std(&draw(text, seed));
        assert!((got_mean - mean).abs() < 5.0 * std / (N as f64).sqrt() + 0.01, "{text}: mean {got_mean}, not {mean}");
        assert!((got_std / std - 1.0).abs() < 0.03, "{text}: std {got_std}, not {std}");
    }
}

#[test]
fn mixes_and_power_laws_have_their_quantiles() {
    // Two thirds lognormal, one third Pareto: the share below x is known in closed form.
    let xs = draw(
        r#"{"pareto_lognormal": {"alpha": 1.5, "xm": 2000, "mu": 6, "sigma": 0.8, "mix_weight": 0.3333333333333333}}"#,
        3,
    );
    for x in [100.0, 403.0, 1000.0, 2500.0, 10_000.0, 100_000.0f64] {
        let pareto = if x > 2000.0 { 1.0 - (2000.0 / x).powf(1.5) } else { 0.0 };
        let lognormal = 0.5 * libm::erfc(-(x.ln() - 6.0) / 0.8 / std::f64::consts::SQRT_2);
        let expect = pareto / 3.0 + 2.0 / 3.0 * lognormal;
        // Rounding to the nearest token moves the edge by half a token.
        let got = xs.iter().filter(|v| **v < x + 0.5).count() as f64 / N as f64;
        assert!((got - expect).abs() < 4.0 * (0.25 / N as f64).sqrt(), "{x}: {got} instead of {expect}");
    }
    let xs = draw(r#"{"zipf": {"min": 5, "max": 104, "theta": 1.2}}"#, 3);
    let sum: f64 = (1..=100).map(|k| f64::from(k).powf(-1.2)).sum();
    for k in [1.0, 2.0, 10.0, 100.0f64] {
        let (expect, got) = (k.powf(-1.2) / sum, xs.iter().filter(|x| **x == k + 4.0).count() as f64 / N as f64);
        assert!((got - expect).abs() < 5.0 * (expect / N as f64).sqrt(), "{k}: {got} instead of {expect}");
    }
    let even = draw(r#"{"zipf": {"min": 1, "max": 9, "theta": 0}}"#, 3);
    assert!((mean_std(&even).0 - 5.0).abs() < 0.03);
    // A gamma distribution of shape 1 is exponential: quantiles of both are the same.
    let (gamma, exponential) =
        (parse(r#"{"gamma": {"mean": 1e6, "std": 1e6}}"#), parse(r#"{"exponential": {"mean": 1e6}}"#));
    for u in [1e-4, 0.1, 0.5, 0.9, 0.999_999] {
        assert!(gamma.quantile(u).abs_diff(exponential.quantile(u)) <= 1, "{u}");
    }
}

#[test]
fn samples_are_quantiles_and_stay_within_the_clamps() {
    for text in [
        r#"{"normal": {"mean": 300, "std": 200, "min": 50, "max": 400}}"#,
        r#"{"lognormal_p50_p90": {"p50": 200, "p90": 1000}}"#,
        r#"{"exponential": {"mean": 300, "min": 7, "max": 900}}"#,
        r#"{"pareto": {"alpha": 0.2, "xm": 1}}"#,
        r#"{"gamma": {"mean": 10, "std": 100, "max": 50}}"#,
        r#"{"zipf": {"min": 3, "max": 3, "theta": 2}}"#,
        r#"{"empirical": {"values": [9]}}"#,
    ] {
        let lengths = parse(text);
        let (sampler, mut a, mut b) = (lengths.sampler(), rng::stream(1, "x"), rng::stream(1, "x"));
        let mut last = 0;
        for _ in 0..500 {
            let u = rng::uniform_open(&mut b);
            let tokens = sampler.sample(&mut a);
            assert_eq!((tokens, tokens), (lengths.quantile(u), sampler.quantile(u)), "{text}");
            assert!((1..=MAX_TOKENS).contains(&tokens), "{text}: {tokens}");
        }
        for u in (1..1000).map(|i| f64::from(i) / 1000.0) {
            assert!(sampler.quantile(u) >= last, "{text}: not monotone at {u}");
            last = sampler.quantile(u);
        }
    }
}

fn pairs(more: &str, seed: u64) -> (Vec<u32>, Vec<u32>) {
    let text = format!(
        r#"{{"requests": 50000, "rate_rps": 4, "input": {{"lognormal_p50_p90": {{"p50": 1000, "p90": 4000}}}},
            "output": {{"gamma": {{"mean": 3000, "std": 2500}}}} {more}}}"#
    );
    let workload: Synthetic = serde_json::from_str(&text).unwrap();
    assert_eq!(workload.problems(), []);
    let made = generate(&workload, seed);
    (made.input_tokens, made.output_tokens)
}

#[test]
fn lengths_go_together_as_asked() {
    let seed = 13;
    println!("seed {seed}");
    let (alone, replies) = pairs("", seed);
    assert!(rank_correlation(&alone, &replies).unwrap().abs() < 0.02);
    for rho in [-0.8, 0.3, 0.9f64] {
        let (input, output) = pairs(&format!(r#", "correlation": {{"gaussian": {{"rho": {rho}}}}}"#), seed);
        assert_eq!(input, alone);
        let expect = 6.0 / std::f64::consts::PI * (rho / 2.0).asin();
        let got = rank_correlation(&input, &output).unwrap();
        assert!((got - expect).abs() < 0.015, "{rho}: {got} instead of {expect}");
        // The distribution of the replies stays what it was.
        let (mut a, mut b) = (output, replies.clone());
        a.sort_unstable();
        b.sort_unstable();
        for q in [0.1, 0.5, 0.9] {
            let at = (q * 50_000.0) as usize;
            assert!((f64::from(a[at]) / f64::from(b[at]) - 1.0).abs() < 0.06, "{q}: {} {}", a[at], b[at]);
        }
    }
    let (input, output) = pairs(r#", "correlation": "comonotone""#, seed);
    let mut both: Vec<(u32, u32)> = input.into_iter().zip(output).collect();
    both.sort_unstable();
    assert!(both.is_sorted_by_key(|(_, o)| *o));
    let (input, output) = pairs(r#", "joint": {"pairs": [[10, 3], [20, 2], [30, 1]]}"#, seed);
    assert!(input.iter().zip(&output).all(|(i, o)| i / 10 == 4 - o));
    let tens = input.iter().filter(|i| **i == 10).count();
    assert!(tens.abs_diff(16_667) < 450, "{tens}");
}

#[test]
fn media_and_reasoning_are_counted() {
    let text = r#"{"requests": 20000, "rate_rps": 4, "input": {"constant": {"tokens": 100}}, "output": {"constant": {"tokens": 200}},
        "images": {"share": 0.5, "count": {"uniform": {"min": 1, "max": 3}}, "tokens": {"constant": {"tokens": 50}}},
        "audio": {"count": {"constant": {"tokens": 1}}, "tokens": {"constant": {"tokens": 7}}},
        "reasoning": {"share": {"uniform": {"min": 0.2, "max": 0.6}}}}"#;
    let workload: Synthetic = serde_json::from_str(text).unwrap();
    assert_eq!(workload.problems(), []);
    let made = generate_all(&workload, 5);
    let (mut images, mut reasoning) = (0.0, 0.0);
    for i in 0..20_000 {
        let (count, tokens) = (made.images[i].unwrap(), made.requests.encoder_tokens[i].unwrap());
        assert_eq!((tokens, made.requests.input_tokens[i]), (50 * (count - 1) + 7, 100 + tokens));
        images += f64::from(count - 1) / 20_000.0;
        let of = made.reasoning[i].unwrap();
        assert!((40..=120).contains(&of));
        reasoning += f64::from(of) / 20_000.0;
    }
    assert!((images - 1.0).abs() < 0.03 && (reasoning - 80.0).abs() < 0.6, "{images} {reasoning}");
    let percent =
        text.replace(r#"{"uniform": {"min": 0.2, "max": 0.6}}"#, r#"{"percent": {"constant": {"tokens": 250}}}"#);
    let all = generate_all(&serde_json::from_str(&percent).unwrap(), 5);
    assert!(all.reasoning.iter().all(|r| *r == Some(200)));
    assert_eq!(all.requests, made.requests);
}

#[test]
fn all_problems_are_found_at_once() {
    for (text, expect) in [
        (r#"{"exponential": {"mean": 0, "min": 9, "max": 8}}"#, vec!["exponential.mean", "exponential.max"]),
        (r#"{"gamma": {"mean": 1, "std": 1000}}"#, vec!["gamma.std"]),
        (r#"{"pareto": {"alpha": 0, "xm": -1}}"#, vec!["pareto.alpha", "pareto.xm"]),
        (
            r#"{"pareto_lognormal": {"alpha": 1, "xm": 1, "mu": 99, "sigma": 0, "mix_weight": 2}}"#,
            vec!["pareto_lognormal.mu", "pareto_lognormal.sigma", "pareto_lognormal.mix_weight"],
        ),
        (r#"{"zipf": {"min": 1, "max": 2000000, "theta": -1}}"#, vec!["zipf.max", "zipf.theta"]),
        (r#"{"skew_normal": {"location": 1, "scale": 0, "shape": 1}}"#, vec!["skew_normal.scale"]),
        (r#"{"empirical": {}}"#, vec!["empirical.values"]),
        (
            r#"{"empirical": {"values": [0, 1], "weights": [0]}}"#,
            vec!["empirical.values.0", "empirical.weights", "empirical.weights"],
        ),
        (r#"{"empirical": {"values": [1], "from": "t"}}"#, vec!["empirical.values", "empirical.column"]),
        (r#"{"empirical": {"values": [1], "column": "c"}}"#, vec!["empirical.column"]),
    ] {
        let lengths: Lengths = serde_json::from_str(text).unwrap();
        let paths: Vec<String> = lengths.problems("input").into_iter().map(|p| p.path).collect();
        assert_eq!(paths, expect.iter().map(|e| format!("input.{e}")).collect::<Vec<_>>(), "{text}");
    }
    let skewed = r#"{"requests": 1, "rate_rps": 1, "correlation": "comonotone", "output": {"constant": {"tokens": 1}},
        "input": {"skew_normal": {"location": 9, "scale": 1, "shape": 1}}, "joint": {"pairs": []}}"#;
    let mut workload: Synthetic = serde_json::from_str(skewed).unwrap();
    assert_eq!(workload.problems().into_iter().map(|p| p.path).collect::<Vec<_>>(), ["joint.pairs"]);
    workload.joint = None;
    assert_eq!(workload.problems().into_iter().map(|p| p.path).collect::<Vec<_>>(), ["correlation"]);
}
