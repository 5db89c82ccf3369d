//! What sessions and runs of agents promise: shared blocks, sums of lengths, order, and independence of their number.

use std::collections::{BTreeMap, BTreeSet};

use super::{MAX_TOKENS, Synthetic, generate};
use crate::request::Requests;

fn workload(more: &str) -> Synthetic {
    let text = format!(
        r#"{{"requests": 3000, "rate_rps": 2, "input": {{"uniform": {{"min": 1, "max": 90}}}},
            "output": {{"uniform": {{"min": 1, "max": 70}}}}, {more}}}"#
    );
    let workload: Synthetic = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
    assert_eq!(workload.problems(), [], "{text}");
    workload
}

const SESSIONS: &str = r#""sessions": {"turns": {"uniform": {"min": 1, "max": 6}}, "turn_s": 4,
    "think_time": {"exponential": {"mean_s": 20}}}"#;
const PREFIX: &str = r#""shared_prefix": {"groups": 3, "tokens": 100}"#;
const CHAINS: &str = r#""chains": {"turn_s": 2, "steps": [
    {"name": "answer", "after": ["look", "read"], "tool_time": {"constant": {"s": 0.5}}},
    {"name": "plan", "input": {"constant": {"tokens": 50}}},
    {"name": "look", "after": ["plan"], "tool_time": {"exponential": {"mean_s": 3}}},
    {"name": "read", "after": ["plan"], "output": {"constant": {"tokens": 33}}},
    {"name": "judge", "after": ["answer"], "context": "fresh"}
]}"#;

/// The requests of every session, in order.
fn by_session(made: &Requests) -> BTreeMap<u32, Vec<usize>> {
    let mut sessions: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (i, session) in made.session.iter().enumerate() {
        sessions.entry(session.unwrap()).or_default().push(i);
    }
    sessions
}

fn total(made: &Requests, i: usize) -> u32 {
    made.input_tokens[i] + made.output_tokens[i]
}

/// Blocks that more than one session has.
fn common_blocks(made: &Requests) -> usize {
    let mut owners: BTreeMap<u64, BTreeSet<u32>> = BTreeMap::new();
    for i in 0..made.len() {
        for hash in made.hashes(i) {
            owners.entry(*hash).or_default().insert(made.session[i].unwrap());
        }
    }
    owners.values().filter(|sessions| sessions.len() > 1).count()
}

#[test]
fn turns_go_on_from_all_that_was_said() {
    for (more, prefix) in [(SESSIONS.to_string(), 0), (format!("{SESSIONS}, {PREFIX}"), 100)] {
        let made = generate(&workload(&more), 11);
        assert!(made.arrival.is_sorted() && made.len() == 3000);
        assert!(made.depends_on.is_empty() && made.class.is_empty());
        for turns in by_session(&made).values() {
            assert!(made.think[turns[0]].is_none());
            assert!((prefix + 1..=prefix + 90).contains(&made.input_tokens[turns[0]]));
            for (i, turn) in turns.iter().enumerate() {
                assert_eq!(made.hashes(*turn).len() as u32, total(&made, *turn) / 16);
                let Some(&next) = turns.get(i + 1) else { continue };
                let new = made.input_tokens[next] - total(&made, *turn);
                assert!((1..=90).contains(&new), "{new} new tokens");
                let (before, after) = (made.hashes(*turn), made.hashes(next));
                assert!(after.starts_with(before), "turn {} of {turns:?}", i + 1);
                let wait = made.arrival[next] - made.arrival[*turn];
                assert_eq!(wait.0, 4_000_000_000 + made.think[next].unwrap().0);
            }
        }
        // Of 100 tokens, six blocks are full; the seventh holds words of a session too.
        assert_eq!(common_blocks(&made), if prefix == 0 { 0 } else { 3 * 6 });
    }
}

/// A block that a reply fills only in part is not a block of the next turn.
#[test]
fn turns_share_full_blocks_and_no_more() {
    let mut w = workload(SESSIONS);
    w.block_tokens = 7;
    let made = generate(&w, 4);
    for turns in by_session(&made).values() {
        let mut seen: BTreeSet<u64> = BTreeSet::new();
        for turn in turns {
            let old = made.hashes(*turn).iter().filter(|h| seen.contains(h)).count();
            let before = turns.iter().take_while(|t| *t != turn).last();
            assert_eq!(old as u32, before.map_or(0, |b| total(&made, *b) / 7));
            seen.extend(made.hashes(*turn));
        }
    }
}

#[test]
fn think_times_and_turns_have_their_means() {
    let seed = 5;
    let made = generate(&Synthetic { requests: Some(40_000), ..workload(SESSIONS) }, seed);
    // The last of about 11,400 sessions are cut; those that began 10 minutes earlier are whole.
    let whole = 10_000;
    let of_whole = |i: &usize| made.session[*i] < Some(whole);
    let turns: Vec<usize> = (0..made.len()).filter(of_whole).collect();
    let thinks: Vec<f64> = turns.iter().filter_map(|i| Some(made.think[*i]?.as_s())).collect();
    let mean = thinks.iter().sum::<f64>() / thinks.len() as f64;
    assert!((mean - 20.0).abs() < 4.0 * 20.0 / (thinks.len() as f64).sqrt(), "{mean} s");
    // Uniform from 1 to 6: a mean of 3.5, a standard deviation of 1.71.
    let mean = turns.len() as f64 / f64::from(whole);
    assert!((mean - 3.5).abs() < 4.0 * 1.71 / f64::from(whole).sqrt(), "{mean} turns");
}

#[test]
fn a_session_is_the_same_whatever_else_is_made() {
    for more in [SESSIONS, CHAINS] {
        let w = workload(&format!(
            r#"{more}, {PREFIX}, "models": {{"a": 1, "b": 3}}, "adapters": {{"count": 5, "skew": 1}},
                "images": {{"share": 0.5, "tokens": {{"constant": {{"tokens": 64}}}}}}"#
        ));
        let all = generate(&w, 3);
        assert_eq!(all, generate(&w, 3));
        assert_ne!(all.input_tokens, generate(&w, 4).input_tokens);
        let few = generate(&Synthetic { requests: Some(100), ..w }, 3);
        assert_eq!((&few.arrival[..], &few.input_tokens[..]), (&all.arrival[..100], &all.input_tokens[..100]));
        assert_eq!((&few.session[..], &few.think[..]), (&all.session[..100], &all.think[..100]));
        assert_eq!((&few.model[..], &few.adapter[..]), (&all.model[..100], &all.adapter[..100]));
        assert_eq!(few.encoder_tokens, all.encoder_tokens[..100]);
        assert!((0..100).all(|i| few.hashes(i) == all.hashes(i) && few.waits_for(i) == all.waits_for(i)));
    }
}

/// More turns, or longer replies, leave what is drawn for a turn alone.
#[test]
fn one_part_changes_without_shifting_the_others() {
    let new_parts = |w: &Synthetic| -> BTreeMap<(u32, usize), u32> {
        let made = generate(w, 8);
        let mut parts = BTreeMap::new();
        for (session, turns) in by_session(&made) {
            for (i, turn) in turns.iter().enumerate() {
                let before = if i == 0 { 0 } else { total(&made, turns[i - 1]) };
                parts.insert((session, i), made.input_tokens[*turn] - before);
            }
        }
        parts
    };
    let base = new_parts(&workload(SESSIONS));
    let longer = workload(&SESSIONS.replace(r#""max": 6"#, r#""max": 9"#));
    let wordy = Synthetic { output: longer.input.clone(), ..workload(SESSIONS) };
    for other in [new_parts(&longer), new_parts(&wordy)] {
        let both = base.iter().filter_map(|(k, v)| other.get(k).map(|o| (v, o)));
        let same: Vec<bool> = both.map(|(a, b)| a == b).collect();
        assert!(same.len() > 1000 && same.iter().all(|s| *s));
    }
}

#[test]
fn sessions_end_before_their_context_is_too_long() {
    let limit = r#"{"max_context": 300, "turns"#;
    let made = generate(&workload(&SESSIONS.replace(r#"{"turns"#, limit)), 2);
    let longest = (0..made.len()).map(|i| total(&made, i)).max();
    assert!(longest <= Some(300) && longest > Some(250), "{longest:?}");
    let free = generate(&workload(SESSIONS), 2);
    assert!((0..free.len()).any(|i| total(&free, i) > 300));
    // A first turn is made however long it is.
    let tight = generate(&workload(&SESSIONS.replace(r#"{"turns"#, r#"{"max_context": 1, "turns"#)), 2);
    assert_eq!(by_session(&tight).len(), tight.len());
}

#[test]
fn without_accumulation_turns_have_nothing_in_common() {
    let alone = SESSIONS.replace(r#"{"turns"#, r#"{"accumulate": false, "turns"#);
    let made = generate(&workload(&alone), 2);
    assert!(made.input_tokens.iter().all(|n| *n <= 90) && made.block_hashes.is_empty() && made.hashes(9).is_empty());
    assert_eq!(made.block_hash_offsets.len(), made.len() + 1);
    let made = generate(&workload(&format!("{alone}, {PREFIX}")), 2);
    assert_eq!(common_blocks(&made), 3 * 6);
}

#[test]
fn steps_wait_for_those_before_them_and_hold_what_they_said() {
    let made = generate(&workload(&format!("{CHAINS}, {PREFIX}")), 6);
    assert_eq!(made.class_names, ["plan", "look", "read", "answer", "judge"]);
    assert!(made.arrival.is_sorted() && made.len() == 3000);
    let mut whole = 0;
    for run in by_session(&made).values() {
        let step =
            |name: &str| run.iter().copied().find(|i| made.class_names[made.class[*i].unwrap() as usize] == name);
        let plan = step("plan").unwrap();
        assert_eq!((made.waits_for(plan), made.think[plan], made.input_tokens[plan]), (&[][..], None, 150));
        let (Some(look), Some(read), Some(answer), Some(judge)) =
            (step("look"), step("read"), step("answer"), step("judge"))
        else {
            continue;
        };
        whole += 1;
        let number = |i: usize| i as u32;
        assert_eq!((made.waits_for(look), made.waits_for(read)), (&[number(plan)][..], &[number(plan)][..]));
        assert_eq!(
            (made.waits_for(answer), made.waits_for(judge)),
            (&[number(look), number(read)][..], &[number(answer)][..])
        );
        assert_eq!(made.output_tokens[read], 33);
        // The answer holds all of the first, and what the second replied.
        let new = made.input_tokens[answer] - total(&made, look) - 33;
        assert!((1..=90).contains(&new), "{new}");
        assert!(made.hashes(answer).starts_with(made.hashes(look)));
        assert!(made.hashes(look).starts_with(made.hashes(plan)) && made.hashes(read).starts_with(made.hashes(plan)));
        assert!((101..=190).contains(&made.input_tokens[judge]));
        let shared = made.hashes(judge).iter().zip(made.hashes(plan)).take_while(|(a, b)| a == b).count();
        assert_eq!(shared, 6);
        let last = made.arrival[look].max(made.arrival[read]);
        assert_eq!((made.arrival[answer] - last).0, 2_500_000_000);
        assert_eq!(made.think[read].unwrap().0, 0);
    }
    assert!(whole > 500, "{whole} whole runs");
}

/// What would be too long is left out, with all that waits for it.
#[test]
fn steps_that_do_not_fit_end_their_part_of_the_run() {
    let chains = CHAINS.replace(r#"{"turn_s""#, r#"{"max_context": 160, "turn_s""#);
    let made = generate(&workload(&chains), 6);
    assert!((0..made.len()).all(|i| total(&made, i) <= 160));
    let with = |name: &str| made.class.iter().filter(|c| made.class_names[c.unwrap() as usize] == name).count();
    assert!(with("plan") > with("look") && with("look") > with("answer") && with("answer") > 0);
    assert!((0..made.len()).all(|i| made.waits_for(i).iter().all(|w| (*w as usize) < i)));
}

#[test]
fn nothing_breaks_at_the_limits() {
    let most = format!(r#"{{"constant": {{"tokens": {MAX_TOKENS}}}}}"#);
    let think = r#""think_time": {"lognormal": {"mean_s": 1e300, "cv": 1e100}}"#;
    for end in [
        format!(r#""sessions": {{"turns": {most}, {think}, "turn_s": 1e300}}"#),
        format!(r#""sessions": {{"turns": {most}, {think}, "accumulate": false}}"#),
        r#""chains": {"turn_s": 1e300, "steps": [{"name": "a"}, {"name": "b"}, {"name": "c", "after": ["a", "b"]},
            {"name": "d", "after": ["a"], "context": "fresh", "output": {"constant": {"tokens": 1}}}]}"#
            .to_string(),
    ] {
        for input in [&most, r#"{"constant": {"tokens": 1}}"#] {
            let text = format!(
                r#"{{"requests": 50, "rate_rps": 1e-300, "input": {input}, "output": {input}, "block_tokens": {MAX_TOKENS},
                    "shared_prefix": {{"groups": 1, "tokens": {MAX_TOKENS}}}, "images": {{"share": 1, "tokens": {most}}}, {end}}}"#
            );
            let w: Synthetic = serde_json::from_str(&text).unwrap();
            assert_eq!(w.problems(), []);
            let made = generate(&w, 1);
            assert_eq!(made.len(), 50);
            // No more than what a first turn has: prefix, images, input and output.
            assert!((0..50).all(|i| total(&made, i) <= 4 * MAX_TOKENS));
        }
    }
    // A long session of short turns stops at the longest context.
    let long = r#""sessions": {"turns": {"constant": {"tokens": 1000}}, "think_time": {"constant": {"s": 0}},
        "max_context": 4000}, "block_tokens": 4000"#;
    let made = generate(&Synthetic { requests: Some(200), ..workload(long) }, 1);
    assert_eq!(made.len(), 200);
    assert!((0..200).all(|i| total(&made, i) <= 4000));
}

#[test]
fn models_adapters_and_images_belong_to_sessions_and_turns() {
    let more = r#""models": {"big": 1, "small": 3}, "adapters": {"count": 2, "skew": 1},
        "images": {"share": 0.25, "tokens": {"constant": {"tokens": 64}}}"#;
    for (kind, alone) in [(format!("{SESSIONS}, {PREFIX}"), false), (PREFIX.to_string(), true)] {
        let made = generate(&workload(&format!("{kind}, {more}")), 9);
        assert_eq!(made.model_names, ["big", "small"]);
        let share = |of: &[Option<u32>], which: u32| of.iter().filter(|m| **m == Some(which)).count() as f64 / 3000.0;
        assert!((share(&made.model, 1) - 0.75).abs() < 0.06 && (share(&made.adapter, 0) - 2.0 / 3.0).abs() < 0.06);
        assert!((share(&made.encoder_tokens, 64) - 0.25).abs() < 0.04);
        assert!((share(&made.encoder_tokens, 64) + share(&made.encoder_tokens, 0) - 1.0).abs() < 1e-9);
        // Equal words under another model or adapter are other blocks.
        let mut firsts: BTreeMap<u64, (Option<u32>, Option<u32>)> = BTreeMap::new();
        for i in 0..made.len() {
            let asked = (made.model[i], made.adapter[i]);
            assert_eq!(*firsts.entry(made.hashes(i)[0]).or_insert(asked), asked);
        }
        assert_eq!(firsts.len(), 3 * 2 * 2);
        if alone {
            let plain = generate(&workload(PREFIX), 9);
            assert_eq!((plain.arrival, plain.output_tokens), (made.arrival.clone(), made.output_tokens.clone()));
            let more = (0..made.len())
                .all(|i| made.input_tokens[i] == plain.input_tokens[i] + made.encoder_tokens[i].unwrap());
            assert!(more && plain.encoder_tokens.is_empty() && plain.model.is_empty() && plain.model_names.is_empty());
        } else {
            for turns in by_session(&made).values() {
                assert!(turns.iter().all(|t| made.model[*t] == made.model[turns[0]]));
                assert!(turns.iter().all(|t| made.adapter[*t] == made.adapter[turns[0]]));
            }
        }
    }
}

#[test]
fn all_problems_are_found_at_once() {
    let bad = r#"{"requests": 1, "rate_rps": 1, "input": {"constant": {"tokens": 1}}, "output": {"constant": {"tokens": 1}},
        "sessions": {"turns": {"constant": {"tokens": 0}}, "think_time": {"uniform": {"min_s": 2, "max_s": 1}},
            "max_context": 0, "turn_s": -1},
        "chains": {"max_context": 20000000, "turn_s": -1, "steps": [
            {"name": "a", "tool_time": {"constant": {"s": 1}}, "input": {"constant": {"tokens": 0}}},
            {"name": "b", "after": ["a"], "tool_time": {"lognormal": {"mean_s": 0, "cv": -1}}},
            {"name": "c", "after": ["a", "d"], "tool_time": {"exponential": {"mean_s": -1}}},
            {"name": "e", "after": ["a"], "tool_time": {"constant": {"s": -1}}, "output": {"constant": {"tokens": 0}}}]},
        "models": {"m": 0}, "adapters": {"count": 0, "skew": -1},
        "images": {"share": 2, "tokens": {"constant": {"tokens": 0}}}}"#;
    let bad: Synthetic = serde_json::from_str(bad).unwrap();
    let paths: Vec<String> = bad.problems().into_iter().map(|p| p.path).collect();
    let expect = [
        "chains",
        "sessions.turns.constant.tokens",
        "sessions.think_time.uniform.max_s",
        "sessions.max_context",
        "sessions.turn_s",
        "chains.steps.a.tool_time",
        "chains.steps.a.input.constant.tokens",
        "chains.steps.b.tool_time.lognormal.mean_s",
        "chains.steps.b.tool_time.lognormal.cv",
        "chains.steps.c.tool_time.exponential.mean_s",
        "chains.steps.e.output.constant.tokens",
        "chains.steps.e.tool_time.constant.s",
        "chains.steps.c.after.1",
        "chains.max_context",
        "chains.turn_s",
        "models.m",
        "adapters.count",
        "adapters.skew",
        "images.share",
        "images.tokens.constant.tokens",
    ];
    assert_eq!(paths, expect);
}
