//! Timelines of SGLang's scheduler with drafts (rules 29 to 34 of its table), and of adaptive
//! drafts. Pages have four tokens.

use super::sglang::{ask, blocks, check, of, reckless, rows_of};
use super::{Ask, linear, ms, whatever};
use crate::scenario::Scenario;
use crate::sim::adaptive::{Adaptive, AdaptiveBatch};
use crate::sim::scheduler::{MoeA2aBackend, Sglang};
use crate::sim::speculative::{Acceptance, DraftMethod, Speculative};

fn drafts(s: &mut Scenario, method: DraftMethod, tokens: u32, acceptance: Acceptance) -> &mut Speculative {
    s.deployment.speculative.insert(Speculative {
        method,
        num_speculative_tokens: tokens,
        num_speculative_tokens_per_batch_size: Vec::new(),
        adaptive: None,
        acceptance,
        draft_us: 0.0,
        draft_share: 0.0,
    })
}

fn ngram(tokens: u32, rate: f64) -> impl Fn(&mut Scenario, &mut Sglang) {
    move |s, _| _ = drafts(s, DraftMethod::Ngram, tokens, Acceptance::Rate(rate))
}

#[test]
fn a_step_of_replies_verifies_drafts() {
    // One token with the prompt, then three a step; the last step has one token left to give.
    check(
        |s, _| _ = drafts(s, DraftMethod::Ngram, 3, Acceptance::Rates(vec![1.0, 1.0, 0.0])),
        &[ask(0.0, 3, 8, 8)],
        &["finished q0 s0 f1 d4 o8 i3/1/1"],
        &[
            "0+1 d0 p3/1 c0 r1 w0 x0 b1",
            "1+1 d0 p4/1 c3 r1 w0 x0 b2",
            "2+1 d0 p4/1 c6 r1 w0 x0 b3",
            "3+1 d0 p4/1 c9 r1 w0 x0 b4",
        ],
        |s| assert_eq!((s.speculation.drafts, s.speculation.accepted_tokens), (3, 6)),
    );
    // Drafts are not cut at the longest sequence, which is 10 here.
    check(
        |s, r| {
            ngram(4, 1.0)(s, r);
            s.deployment.max_model_len = Some(12);
        },
        &[ask(0.0, 5, 9, 9)],
        &["length_capped q0 s0 f1 d2 o5 i1/0.97/1"],
        &["0+1 d0 p5/1 c0 r1 w0 x0 b2", "1+1 d0 p5/1 c5 r1 w0 x0 b3"],
        whatever,
    );
}

#[test]
fn pages_of_rejected_drafts_are_given_back() {
    // Nine tokens are three pages while they are verified; of four that stay the cache keeps one page, beside that of the
    // prompt for which the reply pauses.
    check(
        ngram(5, 0.0),
        &[ask(0.0, 3, 3, 3), ask(1.5, 3, 1, 1)],
        &["finished q0 s0 f1 d4 o3 i3/1.99/2", "finished q1.5 s2 f3 d3 o1"],
        &[
            "0+1 d0 p3/1 c0 r1 w0 x0 b1",
            "1+1 d0 p6/1 c3 r1 w0 x0 b3",
            "2+1 d0 p3/1 c0 r2 w0 x0 b2",
            "3+1 d0 p6/1 c4 r1 w0 x0 b3",
        ],
        |s| assert_eq!(s.kv_block_ns, 9_000_000),
    );
}

#[test]
fn the_last_is_retracted_where_drafts_lack_pages() {
    // Of six pages five are in use at 5 ms, and the drafts of each might take one: the second goes, with as many tokens out as
    // the first. At 6 ms it wants 12 tokens of those 12 that are free, of which 4 are kept for the first.
    check(
        |s, r| {
            reckless(s, r);
            ngram(3, 0.0)(s, r);
        },
        &[ask(0.0, 6, 9, 9), ask(0.0, 3, 9, 9)],
        &["finished q0 s0 f1 d10 o9 i9/1.93/2", "finished q0 s1 f2 d15 o9 p1 l6 a6 i13/5.65/6"],
        &[
            "0+1 d0 p6/1 c0 r1 w1 x0 b2",
            "1+1 d0 p3/1 c0 r2 w0 x0 b3",
            "2+1 d0 p8/2 c9 r2 w0 x0 b5",
            "3+1 d0 p8/2 c11 r2 w0 x0 b5",
            "4+1 d0 p8/2 c13 r2 w0 x0 b6",
            "5+1 d0 p4/1 c9 r1 w1 x1 b4",
            "6+1 d0 p4/1 c10 r1 w1 x0 b4",
        ],
        |s| assert_eq!((s.preemptions, s.recomputed_tokens), (1, 6)),
    );
    // Where drafts are a page longer, six pages hold less of a sequence: (6 - 2) * 4 - 2 tokens.
    check(
        |s, r| {
            blocks(s, 6);
            ngram(4, 0.0)(s, r);
        },
        &[ask(0.0, 9, 9, 9), ask(0.0, 10, 1, 1)],
        &["length_capped q0 s0 f1 d5 o5", "rejected q- s- f- d- o0"],
        &[],
        whatever,
    );
}

#[test]
fn contents_of_eagle_are_known_by_pairs() {
    let cached = |method: DraftMethod, page: u32, asked: [(u32, &'static [u64]); 2]| {
        let edit = |s: &mut Scenario, _: &mut Sglang| {
            drafts(s, method, 2, Acceptance::Rate(0.5));
            s.deployment.kv.block_size = page;
        };
        let asked = [of(0.0, asked[0].0, asked[0].1), of(5.0, asked[1].0, asked[1].1)];
        let mut found = Vec::new();
        rows_of(edit, &asked, |_, got, _| found.push(got.requests[1].cached_tokens));
        assert_eq!(found[0], found[1], "{method:?} {page}");
        found[0]
    };
    for (method, of_eight, of_nine, of_ten, tokens) in [
        // Of eight tokens seven pairs are known: one page. Of the last but one token of a prompt there is no pair to look for:
        // of nine tokens seven are found at most, of ten eight.
        (DraftMethod::Eagle, 4, 4, 8, 7),
        (DraftMethod::Mtp, 4, 4, 8, 7),
        (DraftMethod::DraftModel, 8, 8, 8, 8),
        (DraftMethod::Ngram, 8, 8, 8, 8),
    ] {
        assert_eq!(cached(method, 4, [(8, &[1, 2]), (12, &[1, 2, 3])]), of_eight, "{method:?}");
        assert_eq!(cached(method, 4, [(12, &[1, 2, 3]), (9, &[1, 2])]), of_nine, "{method:?}");
        assert_eq!(cached(method, 4, [(12, &[1, 2, 3]), (10, &[1, 2])]), of_ten, "{method:?}");
        // Pages of one token.
        assert_eq!(cached(method, 1, [(8, &[1, 2]), (12, &[1, 2, 3])]), tokens, "{method:?}");
    }
}

#[test]
fn drafting_belongs_to_the_step_that_verifies() {
    // Three passes in a step that verifies. In that of the prompt one, over its tokens; none without a model.
    for (method, expect) in
        [(DraftMethod::Eagle, "1.1 1.3"), (DraftMethod::DraftModel, "1.1 1.3"), (DraftMethod::Ngram, "1 1.3")]
    {
        let edit = |s: &mut Scenario, _: &mut Sglang| {
            drafts(s, method, 3, Acceptance::Rate(0.0)).draft_us = 100.0;
        };
        rows_of(edit, &[ask(0.0, 3, 2, 2)], |name, got, _| {
            let times: Vec<String> = got.steps.iter().map(|row| ms(row.duration.0)).collect();
            assert_eq!(times.join(" "), expect, "{name} {method:?}");
        });
    }
}

#[test]
fn graphs_pad_with_drafts() {
    let asked = [ask(0.0, 3, 2, 2), ask(0.0, 3, 2, 2), ask(0.0, 3, 2, 2)];
    let done = |edit: &dyn Fn(&mut Sglang), expect: &str| {
        let edit = |s: &mut Scenario, r: &mut Sglang| {
            linear(s).per_prefill_token_us = 100.0;
            ngram(3, 0.0)(s, r);
            edit(r);
        };
        rows_of(edit, &asked, |name, got, _| {
            let times: Vec<String> = got.steps.iter().map(|row| ms(row.duration.0)).collect();
            assert_eq!(times.join(" "), expect, "{name}");
        });
    };
    // Nine tokens of prompts; twelve of drafts. Up to eight, there is a graph for every number of requests.
    done(&|_| (), "1.9 2.2");
    // For even numbers only: three requests run as four.
    let even = |r: &mut Sglang| (r.enable_two_batch_overlap, r.moe_a2a_backend) = (true, MoeA2aBackend::Deepep);
    done(&even, "1.9 2.6");
}

/// Every batch counts, and at once.
fn eager(batch_size: u32, candidate_steps: &[u32]) -> AdaptiveBatch {
    AdaptiveBatch {
        batch_size,
        candidate_steps: candidate_steps.to_vec(),
        ema_alpha: 1.0,
        update_interval: 1,
        warmup_batches: 0,
        down_hysteresis: 0.0,
        ..AdaptiveBatch::default()
    }
}

/// Tokens of every step.
fn tokens(edit: impl Fn(&mut Speculative), asked: &[Ask], expect: &[u32]) {
    let edit = |s: &mut Scenario, _: &mut Sglang| edit(drafts(s, DraftMethod::Eagle, 1, Acceptance::Rate(1.0)));
    rows_of(edit, asked, |name, got, _| {
        let tokens: Vec<u32> = got.steps.iter().map(|row| row.prefill_tokens + row.decode_requests).collect();
        assert_eq!(tokens, expect, "{name}");
    });
}

#[test]
fn the_draft_follows_what_is_accepted() {
    // All of one, three and five is accepted: from each the next; with seven it stays. 1 + 2 + 4 + 6 + 8 + 8 tokens.
    let adaptive = |rates: &'static [f64]| {
        move |drafts: &mut Speculative| {
            drafts.adaptive = Some(Adaptive { batches: vec![eager(1, &[1, 3, 5, 7])] });
            drafts.acceptance = Acceptance::Rates(rates.to_vec());
        }
    };
    tokens(adaptive(&[1.0; 7]), &[ask(0.0, 3, 29, 29)], &[3, 2, 4, 6, 8, 8]);
    // Two are accepted at most: of three that is enough for neither more nor less.
    tokens(adaptive(&[1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]), &[ask(0.0, 3, 9, 9)], &[3, 2, 4, 4]);
    // None is accepted of three, with which it begins here: one is tried from then on.
    let from_three = |drafts: &mut Speculative| {
        adaptive(&[0.0; 7])(drafts);
        drafts.num_speculative_tokens = 3;
    };
    tokens(from_three, &[ask(0.0, 3, 4, 4)], &[3, 4, 2, 2]);
}

#[test]
fn entries_by_batch_size() {
    // One request drafts two tokens, two draft none; alone again, the other one drafts two.
    let by_size = |drafts: &mut Speculative| {
        drafts.adaptive = Some(Adaptive { batches: vec![eager(1, &[2]), eager(2, &[0])] });
    };
    tokens(by_size, &[ask(0.0, 3, 3, 3), ask(0.0, 3, 6, 6)], &[6, 2, 2, 3]);
}
