//! What prompts share, and clients that share a workload.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::request::Requests;
use crate::rng;

fn parse(more: &str) -> Synthetic {
    let text = format!(
        r#"{{"requests": 3000, "rate_rps": 4, "input": {{"uniform": {{"min": 1, "max": 90}}}},
            "output": {{"uniform": {{"min": 1, "max": 40}}}}, {more}}}"#
    );
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// By block hash, the requests that have it, and at which place.
fn owners(made: &Requests) -> BTreeMap<u64, (usize, BTreeSet<usize>)> {
    let mut owners: BTreeMap<u64, (usize, BTreeSet<usize>)> = BTreeMap::new();
    for i in 0..made.len() {
        for (block, hash) in made.hashes(i).iter().enumerate() {
            let (at, of) = owners.entry(*hash).or_insert((block, BTreeSet::new()));
            assert_eq!(*at, block);
            of.insert(i);
        }
    }
    owners
}

#[test]
fn trees_share_their_paths_and_nothing_else() {
    let tree = r#""prefix_tree": {"levels": [{"branching": 2, "tokens": 40}, {"branching": 5, "tokens": 24, "skew": 1},
        {"branching": 3, "tokens": 16}]}"#;
    let workload = parse(tree);
    assert_eq!(workload.problems(), []);
    let made = generate(&workload, 3);
    let plain = generate(&parse(r#""starts": 3000"#), 3);
    assert!(made.input_tokens.iter().zip(&plain.input_tokens).all(|(with, without)| *with == without + 80));
    assert_eq!((&made.arrival, &made.output_tokens), (&plain.arrival, &plain.output_tokens));
    // 80 tokens are five blocks: two of the first level; one with words of both; one of the second; one of the third.
    let shared: Vec<usize> = owners(&made).into_values().filter(|(_, of)| of.len() > 1).map(|(at, _)| at).collect();
    let at = |block: usize| shared.iter().filter(|b| **b == block).count();
    assert_eq!([at(0), at(1), at(2), at(3), at(4), at(5)], [2, 2, 10, 10, 30, 0]);
    // The children of the second level: 1 / k of 137/60, below both roots.
    let mut used: Vec<usize> =
        owners(&made).into_values().filter(|(at, of)| *at == 3 && of.len() > 1).map(|(_, of)| of.len()).collect();
    used.sort_unstable_by(|a, b| b.cmp(a));
    assert!(used[0].abs_diff(657) < 90 && used[9].abs_diff(131) < 45, "{used:?}");
}

#[test]
fn groups_and_system_prompts_come_before_the_rest() {
    let workload = parse(
        r#""system_prompt": {"name": "all", "tokens": 32}, "prefix_groups": [{"weight": 1, "tokens": 0},
        {"weight": 2, "count": 2, "tokens": 64}, {"weight": 1, "tokens": 160}]"#,
    );
    assert_eq!(workload.problems(), []);
    let made = generate(&workload, 3);
    let shared: Vec<(usize, usize)> =
        owners(&made).into_values().filter(|(_, of)| of.len() > 1).map(|(at, of)| (at, of.len())).collect();
    let at = |block: usize| shared.iter().filter(|(b, _)| *b == block).map(|(_, n)| *n).collect::<Vec<_>>();
    assert_eq!((at(0), at(1)), (vec![3000], vec![3000]));
    // Three prefixes of a quarter each, of which one goes on.
    assert!(at(2).len() == 3 && at(2).iter().all(|n| n.abs_diff(750) < 110), "{:?}", at(2));
    assert_eq!((at(5).len(), at(6).len(), at(11).len(), at(12).len()), (3, 1, 1, 0));
    // Sessions have the same prefix in all turns.
    let sessions = parse(
        r#""system_prompt": {"name": "all", "tokens": 32}, "prefix_tree": {"levels": [{"branching": 4, "tokens": 64}]},
        "sessions": {"turns": {"constant": {"tokens": 3}}, "think_time": {"constant": {"s": 1}}}"#,
    );
    let talk = generate(&sessions, 3);
    let mut of_session: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
    for i in 0..talk.len() {
        of_session.entry(talk.session[i].unwrap()).or_default().insert(talk.hashes(i)[5]);
    }
    assert!(of_session.values().all(|h| h.len() == 1));
    assert_eq!(of_session.values().flatten().collect::<BTreeSet<_>>().len(), 4);
    // The words of the system prompt are those of its name, in every workload of the seed.
    assert_eq!(talk.hashes(0)[1], made.hashes(0)[1]);
}

fn client(name: &str, tenant: &str, rate: f64) -> Client {
    let mut body = parse(r#""duration_s": 1, "system_prompt": {"tokens": 32}"#);
    (body.requests, body.rate_rps) = (None, Some(rate));
    let tenant = Some(tenant.to_owned());
    Client { tenant, class: Some("gold".to_owned()), ..Client::new(name, Body::Alike(Box::new(body))) }
}

#[test]
fn clients_are_merged_and_do_not_disturb_each_other() {
    let three = Clients {
        clients: vec![client("a", "acme", 6.0), client("b", "acme", 3.0), client("c", "lab", 1.0)],
        requests: Some(5000),
        duration_s: None,
    };
    assert_eq!(three.problems(), []);
    let made = generate_clients(&three, 8);
    assert!(made.requests.arrival.is_sorted() && made.requests.len() == 5000);
    assert_eq!((made.client_names.join(""), made.tenant_names.join(" ")), ("abc".to_owned(), "acme lab".to_owned()));
    let count = |c| made.client.iter().filter(|of| **of == Some(c)).count();
    assert!(count(0).abs_diff(3000) < 150 && count(1).abs_diff(1500) < 150 && count(2).abs_diff(500) < 90);
    // Tenants have a system prompt each, and share it.
    let first: BTreeSet<(Option<u32>, u64)> =
        (0..5000).map(|i| (made.requests.tenant[i], made.requests.hashes(i)[0])).collect();
    assert_eq!(first.len(), 2);
    // Without the second one the others send what they sent; so they do for longer.
    let two = Clients { clients: vec![client("a", "acme", 6.0), client("c", "lab", 1.0)], ..three.clone() };
    let fewer = generate_clients(&two, 8);
    let of = |made: &Made, name: &str| -> Vec<(i64, u32, u32, u64)> {
        let number = made.client_names.iter().position(|n| n == name).map(|n| n as u32);
        let rows = (0..made.requests.len()).filter(|i| made.client[*i] == number);
        let r = &made.requests;
        rows.map(|i| (r.arrival[i].0, r.input_tokens[i], r.output_tokens[i], r.hashes(i)[r.hashes(i).len() - 1]))
            .collect()
    };
    for name in ["a", "c"] {
        let (some, more) = (of(&made, name), of(&fewer, name));
        assert_eq!(some, more[..some.len()], "{name}");
    }
    let hour = generate_clients(&Clients { requests: None, duration_s: Some(3600.0), ..three.clone() }, 8);
    assert_eq!(of(&hour, "b")[..count(1)], of(&made, "b"));
    assert!(hour.requests.arrival.iter().all(|t| t.0 < 3_600_000_000_000));
    // Another model makes other blocks of the same words.
    let mut other = two;
    other.clients[1].tenant = Some("acme".to_owned());
    let roots = |w: &Clients| {
        let made = generate_clients(w, 8).requests;
        (0..made.len()).map(|i| made.hashes(i)[0]).collect::<BTreeSet<u64>>().len()
    };
    assert_eq!(roots(&other), 1);
    other.clients[1].model = Some("m".to_owned());
    assert_eq!(roots(&other), 2);
}

#[test]
fn sessions_and_agents_of_clients_keep_their_order() {
    let body = |more: &str| {
        let mut body = parse(more);
        body.requests = None;
        Body::Alike(Box::new(body))
    };
    let talk = body(r#""sessions": {"turns": {"constant": {"tokens": 3}}, "think_time": {"constant": {"s": 5}}}"#);
    let agent = body(r#""chains": {"turn_s": 1, "steps": [{"name": "plan"}, {"name": "do", "after": ["plan"]}]}"#);
    let clients = vec![
        Client::new("talk", talk),
        Client { class: Some("gold".to_owned()), ..Client::new("alone", body(r#""starts": 300"#)) },
        Client::new("agent", agent),
    ];
    let made = generate_clients(&Clients { clients, requests: Some(4000), duration_s: None }, 1);
    let r = &made.requests;
    assert_eq!((made.client.iter().filter(|c| **c == Some(1)).count(), r.len()), (300, 4000));
    let mut seen: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for i in 0..r.len() {
        match (made.client[i], r.session[i]) {
            (Some(1), session) => {
                assert_eq!((session, r.class[i].map(|c| r.class_names[c as usize].as_str())), (None, Some("gold")))
            }
            (_, session) => seen.entry(session.unwrap()).or_default().push(i),
        }
        for before in r.waits_for(i) {
            assert!((*before as usize) < i && r.session[*before as usize] == r.session[i]);
            assert_eq!(r.class_names[r.class[i].unwrap() as usize], "do");
        }
        assert!(r.waits_for(i).len() <= 1);
        assert_eq!(r.hashes(i).is_empty(), r.input_tokens[i] + r.output_tokens[i] < 16);
    }
    assert!(seen.keys().copied().eq(0..seen.len() as u32));
    assert!(seen.values().all(|t| t.len() <= 3 && t.iter().all(|i| made.client[*i] == made.client[t[0]])));
}

/// The rule of ServeGen: a window of rate r and length t has `ceil(r t)` gaps that fill it, of which the last ends it.
#[test]
fn windows_are_filled_and_comonotone() {
    let gamma = |cv| ArrivalProcess::Gamma(crate::scenario::Gamma { cv });
    let window = |start_s, end_s, rate_rps, set| Window { start_s, end_s, rate_rps, process: gamma(2.0), set };
    let empirical = |values: &[u32]| Lengths::Empirical(Empirical { values: values.to_vec(), ..Empirical::default() });
    let set = |values: &[u32], fields| LengthSet {
        input: empirical(values),
        output: empirical(&[1, 2, 3, 4]),
        correlation: Correlation::Comonotone,
        fields,
    };
    let media = Field::Media { count: vec![(0, 0.5), (2, 0.5)], tokens: vec![(10, 1.0)] };
    let base = parse(r#""starts": 1"#);
    let windows = Windows {
        base,
        windows: vec![window(0.0, 600.0, 5.0, 0), window(600.0, 1200.0, 0.0, 0), window(1200.0, 1260.0, 10.005, 1)],
        sets: vec![set(&[10, 20, 30, 40], vec![Field::Reasoning(vec![0.5, 0.0, 0.5])]), set(&[7], vec![media])],
    };
    let workload = Clients {
        clients: vec![Client::new("w", Body::Windows(Box::new(windows)))],
        requests: None,
        duration_s: Some(5000.0),
    };
    assert_eq!(workload.problems(), []);
    let made = generate_clients(&workload, 4);
    let r = &made.requests;
    let first = r.arrival.iter().filter(|t| t.0 < 600_000_000_000).count();
    assert_eq!((first, r.len()), (2999, 2999 + 600));
    assert!(r.arrival[first].0 >= 1_200_000_000_000 && r.arrival[r.len() - 1].0 < 1_260_000_000_000);
    for i in 0..first {
        assert_eq!(r.input_tokens[i], 10 * r.output_tokens[i]);
        assert_eq!(made.reasoning[i], Some(if r.output_tokens[i] <= 2 { 0 } else { r.output_tokens[i] }));
    }
    for i in first..r.len() {
        let media = if r.output_tokens[i] <= 2 { 0 } else { 2 };
        assert_eq!(
            (made.images[i], r.encoder_tokens[i], r.input_tokens[i]),
            (Some(media), Some(10 * media), 7 + 10 * media)
        );
    }
    let gaps: Vec<f64> = r.arrival[..first].windows(2).map(|w| (w[1].0 - w[0].0) as f64 / 1e9).collect();
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    let cv = (gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt() / mean;
    assert!((mean - 0.2).abs() < 0.01 && (cv - 2.0).abs() < 0.25, "{mean} {cv}");
}

#[test]
fn all_problems_are_found_at_once() {
    let bad = parse(
        r#""prefix_tree": {"levels": [{"branching": 0, "tokens": 0, "skew": -1}]}, "shared_prefix": {"groups": 1, "tokens": 1},
        "prefix_groups": [{"weight": -1, "count": 0, "tokens": 99999999}], "system_prompt": {"tokens": 0}"#,
    );
    let paths: Vec<String> = bad.problems().into_iter().map(|p| p.path).collect();
    let expect = [
        "system_prompt.tokens",
        "prefix_tree.levels.0.branching",
        "prefix_tree.levels.0.tokens",
        "prefix_tree.levels.0.skew",
        "prefix_groups.0.weight",
        "prefix_groups.0.count",
        "prefix_groups.0.tokens",
        "prefix_groups.0.weight",
        "prefix_tree",
    ];
    assert_eq!(paths, expect);
    let nobody = Clients { clients: Vec::new(), requests: None, duration_s: Some(-1.0) };
    let paths: Vec<String> = nobody.problems().into_iter().map(|p| p.path).collect();
    assert_eq!(paths, ["duration_s", "clients"]);
    let late = Client { timeout_s: Some(0.0), ..client("a", "t", -1.0) };
    let bad = Clients { clients: vec![late], requests: Some(1), duration_s: None };
    let paths: Vec<String> = bad.problems().into_iter().map(|p| p.path).collect();
    assert_eq!(paths, ["clients.0.timeout_s", "clients.0.rate_rps"]);
}

/// Rows that were drawn before there was more to set stay as they were.
#[test]
fn what_was_drawn_before_is_drawn_again() {
    let digest = |text: &str| {
        let workload: Synthetic = serde_json::from_str(text).unwrap();
        rng::fnv1a(format!("{:?}", generate(&workload, 42)).as_bytes())
    };
    let sessions = r#"{"requests": 200, "rate_rps": 3, "arrivals": {"gamma": {"cv": 2.5}}, "models": {"a": 1, "b": 2},
        "input": {"normal": {"mean": 300, "std": 100, "min": 5, "max": 500}}, "output": {"lognormal_mean_std": {"mean": 300, "std": 200}},
        "shared_prefix": {"groups": 2, "tokens": 33}, "images": {"share": 0.4, "tokens": {"uniform": {"min": 1, "max": 900}}},
        "sessions": {"turns": {"uniform": {"min": 1, "max": 6}}, "turn_s": 4, "think_time": {"exponential": {"mean_s": 20}}}}"#;
    let alone = r#"{"requests": 200, "rate_rps": 3, "input": {"lognormal": {"mu": 5, "sigma": 1}},
        "output": {"lognormal_p50_p90": {"p50": 100, "p90": 400}}, "adapters": {"count": 3, "skew": 1},
        "shared_prefix": {"groups": 4, "tokens": 40, "skew": 1}}"#;
    assert_eq!((digest(sessions), digest(alone)), (PINNED.0, PINNED.1));
}

const PINNED: (u64, u64) = (10_608_053_819_217_134_769, 18_259_687_400_723_336_543);
