//! Timelines of speculative decoding. Rates of 0 and 1 leave nothing to luck: `[1, 1, 0]` accepts two of three drafts, always.

use super::*;
use crate::sim::Speculation;
use crate::sim::lora::Lora;
use crate::sim::speculative::{Acceptance, DraftMethod, Speculative};

const MS_NS: i64 = 1_000_000;

fn drafts(method: DraftMethod, tokens: u32, acceptance: Acceptance) -> Speculative {
    Speculative {
        method,
        num_speculative_tokens: tokens,
        num_speculative_tokens_per_batch_size: Vec::new(),
        adaptive: None,
        acceptance,
        draft_us: 0.0,
        draft_share: 0.0,
    }
}

fn ngram(s: &mut Scenario, tokens: u32, rate: f64) {
    s.deployment.speculative = Some(drafts(DraftMethod::Ngram, tokens, Acceptance::Rate(rate)));
}

fn eagle(s: &mut Scenario, tokens: u32, rate: f64) {
    s.deployment.speculative = Some(drafts(DraftMethod::Eagle, tokens, Acceptance::Rate(rate)));
}

#[test]
fn a_step_yields_what_it_accepts() {
    let two_of_three = |s: &mut Scenario, _: &mut VllmV1| {
        let rates = Acceptance::Rates(vec![1.0, 1.0, 0.0]);
        s.deployment.speculative = Some(drafts(DraftMethod::Ngram, 3, rates));
    };
    // One token with the prompt, then three a step: what is accepted and one more. The last step has one token left to give.
    check(
        two_of_three,
        &[ask(0.0, 3, 8)],
        &["finished q0 s0 f1 d4 o8 i3/1/1"],
        &[
            "0+1 d0 p3/1 c0 r1 w0 x0 b1",
            "1+1 d0 p4/1 c3 r1 w0 x0 b2",
            "2+1 d0 p4/1 c6 r1 w0 x0 b3",
            "3+1 d0 p4/1 c9 r1 w0 x0 b4",
        ],
        |s| {
            let told = Speculation {
                drafts: 3,
                draft_tokens: 9,
                accepted_tokens: 6,
                accepted_by_position: vec![3, 3, 0],
                emitted_tokens: 7,
                draft_ns: 0,
            };
            assert_eq!((&s.speculation, s.speculation.acceptance_length()), (&told, Some(3.0)));
            assert_eq!(s.itl, [(SimDuration(0), 4), (SimDuration(MS_NS), 3)]);
            assert_eq!((s.work.decode_requests, s.work.prefill_tokens), (0, 15));
        },
    );
}

#[test]
fn nothing_accepted_is_a_token_a_step_as_ever() {
    check(
        |s, _| ngram(s, 2, 0.0),
        &[ask(0.0, 3, 3)],
        &["finished q0 s0 f1 d3 o3"],
        &["0+1 d0 p3/1 c0 r1 w0 x0 b1", "1+1 d0 p3/1 c3 r1 w0 x0 b2", "2+1 d0 p3/1 c4 r1 w0 x0 b2"],
        |s| assert_eq!((s.speculation.drafts, s.speculation.accepted_tokens), (2, 0)),
    );
}

#[test]
fn a_reply_ends_in_the_middle_of_a_draft() {
    // Four drafts are accepted, and three tokens are wanted.
    check(
        |s, _| ngram(s, 4, 1.0),
        &[ask(0.0, 3, 4)],
        &["finished q0 s0 f1 d2 o4 i1/0.98/1"],
        &["0+1 d0 p3/1 c0 r1 w0 x0 b1", "1+1 d0 p5/1 c3 r1 w0 x0 b2"],
        |s| {
            let told = &s.speculation;
            assert_eq!((told.drafts, told.draft_tokens, told.accepted_tokens, told.emitted_tokens), (1, 4, 4, 3));
        },
    );
}

#[test]
fn no_draft_lies_beyond_the_longest_sequence() {
    // Of ten tokens eight are computed at 2 ms: there is place for one more, and the reply ends with what follows it.
    check(
        |s, _| {
            ngram(s, 4, 1.0);
            s.deployment.max_model_len = Some(10);
        },
        &[ask(0.0, 3, 9)],
        &["length_capped q0 s0 f1 d3 o7 i2/1/1"],
        &["0+1 d0 p3/1 c0 r1 w0 x0 b1", "1+1 d0 p5/1 c3 r1 w0 x0 b2", "2+1 d1 p0/0 c8 r1 w0 x0 b3"],
        whatever,
    );
    // What the request may generate at most is nothing to the drafter.
    check(
        |s, _| ngram(s, 4, 1.0),
        &[Ask { max_tokens: Some(2), ..ask(0.0, 3, 9) }],
        &["length_capped q0 s0 f1 d2 o2"],
        &["0+1 d0 p3/1 c0 r1 w0 x0 b1", "1+1 d0 p5/1 c3 r1 w0 x0 b2"],
        whatever,
    );
}

#[test]
fn drafts_take_from_the_budget() {
    // The second request has two of six tokens left, every time.
    check(
        |s, r| {
            ngram(s, 3, 0.0);
            r.max_num_batched_tokens = 6;
        },
        &[ask(0.0, 3, 3), ask(0.0, 3, 3)],
        &["finished q0 s0 f1 d3 o3", "finished q0 s0 f1 d3 o3"],
        &["0+1 d0 p6/2 c0 r2 w0 x0 b2", "1+1 d0 p6/2 c6 r2 w0 x0 b4", "2+1 d0 p6/2 c8 r2 w0 x0 b4"],
        |s| assert_eq!((s.speculation.drafts, s.speculation.draft_tokens), (4, 8)),
    );
    check(
        |s, r| {
            ngram(s, 3, 0.0);
            r.long_prefill_token_threshold = 2;
        },
        &[ask(0.0, 2, 2)],
        &["finished q0 s0 f1 d2 o2"],
        &["0+1 d0 p2/1 c0 r1 w0 x0 b1", "1+1 d0 p2/1 c2 r1 w0 x0 b1"],
        whatever,
    );
}

#[test]
fn a_request_that_got_nothing_keeps_its_drafts() {
    check(
        |s, r| {
            ngram(s, 3, 0.0);
            r.max_num_batched_tokens = 4;
        },
        &[ask(0.0, 2, 2), ask(0.0, 2, 2)],
        &["finished q0 s0 f1 d2 o2", "finished q0 s0 f1 d3 o2 i2/2/2"],
        &["0+1 d0 p4/2 c0 r2 w0 x0 b2", "1+1 d0 p4/1 c2 r2 w0 x0 b3", "2+1 d0 p4/1 c2 r1 w0 x0 b2"],
        whatever,
    );
}

#[test]
fn slots_for_drafts_are_kept_and_used_again() {
    // 3 + 4 tokens and three slots more are three blocks; at 2 ms 4 + 4 + 3 still are.
    check(
        |s, _| eagle(s, 3, 0.0),
        &[ask(0.0, 3, 3)],
        &["finished q0 s0 f1 d3 o3"],
        &["0+1 d0 p3/1 c0 r1 w0 x0 b1", "1+1 d0 p4/1 c3 r1 w0 x0 b3", "2+1 d0 p4/1 c4 r1 w0 x0 b3"],
        |s| assert_eq!(s.kv_block_ns, 7_000_000),
    );
    // Chunks of a prompt that runs already have them too, the one with which it is admitted has not.
    check(
        |s, r| {
            eagle(s, 3, 0.0);
            r.long_prefill_token_threshold = 4;
        },
        &[ask(0.0, 9, 1)],
        &["finished q0 s0 f3 d3 o1"],
        &["0+1 d0 p4/1 c0 r1 w0 x0 b1", "1+1 d0 p4/1 c4 r1 w0 x0 b3", "2+1 d0 p1/1 c8 r1 w0 x0 b3"],
        whatever,
    );
    // Slots of one request cost another one its place.
    check(
        |s, _| {
            eagle(s, 3, 0.0);
            blocks(s, 3);
        },
        &[ask(0.0, 3, 3), ask(0.0, 3, 3)],
        &["finished q0 s0 f1 d3 o3", "finished q0 s0 f1 d5 o3 p1 l3 a3 i4/2.98/3"],
        &[
            "0+1 d0 p6/2 c0 r2 w0 x0 b2",
            "1+1 d0 p4/1 c3 r1 w1 x1 b3",
            "2+1 d0 p4/1 c4 r1 w1 x0 b3",
            "3+1 d0 p4/1 c0 r1 w0 x0 b1",
            "4+1 d0 p4/1 c4 r1 w0 x0 b3",
        ],
        whatever,
    );
}

#[test]
fn eagle_computes_the_last_block_again() {
    let asked = [Ask { blocks: &[1, 2], ..ask(0.0, 9, 1) }, Ask { blocks: &[1, 2], ..ask(5.0, 9, 1) }];
    let cases = [(DraftMethod::Eagle, 4), (DraftMethod::Mtp, 4), (DraftMethod::DraftModel, 8), (DraftMethod::Ngram, 8)];
    for (method, cached) in cases {
        check(
            |s, _| s.deployment.speculative = Some(drafts(method, 2, Acceptance::Rate(0.5))),
            &asked,
            &["finished q0 s0 f1 d1 o1", &format!("finished q5 s5 f6 d6 o1 c{cached}")],
            &[],
            |s| assert_eq!(s.prefix_tokens_hit, cached),
        );
    }
}

#[test]
fn few_drafts_in_large_batches() {
    // What is drafted in the step from 2 to 3 ms, which has two requests, is nothing.
    check(
        |s, _| {
            let by_batch_size = vec![[1, 1, 3], [2, 9, 0]];
            let rules = drafts(DraftMethod::Ngram, 3, Acceptance::Rate(0.0));
            let rules = Speculative { num_speculative_tokens_per_batch_size: by_batch_size, ..rules };
            s.deployment.speculative = Some(rules);
        },
        &[ask(0.0, 3, 4), ask(1.5, 3, 1)],
        &["finished q0 s0 f1 d4 o4", "finished q1.5 s2 f3 d3 o1"],
        &[
            "0+1 d0 p3/1 c0 r1 w0 x0 b1",
            "1+1 d0 p4/1 c3 r1 w0 x0 b2",
            "2+1 d0 p7/2 c4 r2 w0 x0 b3",
            "3+1 d1 p0/0 c5 r1 w0 x0 b2",
        ],
        whatever,
    );
}

#[test]
fn drafting_takes_time() {
    // Three passes of 0.1 ms, and of a tenth of a step of 1 ms each.
    check(
        |s, _| {
            let rules = drafts(DraftMethod::DraftModel, 3, Acceptance::Rate(0.0));
            s.deployment.speculative = Some(Speculative { draft_us: 100.0, draft_share: 0.1, ..rules });
        },
        &[ask(0.0, 3, 2)],
        &["finished q0 s0 f1.6 d3.2 o2 i1.6/1.6/1.6"],
        &["0+1.6 d0 p3/1 c0 r1 w0 x0 b1", "1.6+1.6 d0 p4/1 c3 r1 w0 x0 b3"],
        |s| assert_eq!((s.speculation.draft_ns, s.busy.0), (1_200_000, 3_200_000)),
    );
    // The first pass is over the tokens of the step, the others over a token of every request.
    check(
        |s, _| {
            let rules = drafts(DraftMethod::Mtp, 3, Acceptance::Rate(0.0));
            s.deployment.speculative = Some(Speculative { draft_share: 0.5, ..rules });
            linear(s).per_prefill_token_us = 100.0;
        },
        &[ask(0.0, 10, 1)],
        // 2 ms; 1 ms for the first pass, half a millisecond for each of the others.
        &["finished q0 s0 f4 d4 o1"],
        &["0+4 d0 p10/1 c0 r1 w0 x0 b3"],
        whatever,
    );
}

#[test]
fn drafts_are_made_without_adapters() {
    // An adapter makes steps half a millisecond longer, and its load takes one. One pass of a drafter takes half of a step without.
    check(
        |s, _| {
            let rules = drafts(DraftMethod::DraftModel, 1, Acceptance::Rate(0.0));
            s.deployment.speculative = Some(Speculative { draft_share: 0.5, ..rules });
            let lora = Lora { bytes_per_rank: Some(62_500.0), load_gb_per_s: Some(1.0), ..Lora::default() };
            s.deployment.lora = Some(Lora { per_adapter_us: 500.0, ..lora });
        },
        &[Ask { adapter: Some(0), ..ask(0.0, 3, 2) }, Ask { adapter: Some(0), ..ask(10.0, 3, 1) }, ask(20.0, 3, 1)],
        &["finished q0 s0 f3 d5 o2 i2/2/2", "finished q10 s10 f12 d12 o1", "finished q20 s20 f21.5 d21.5 o1"],
        &["0+3 d0 p3/1 c0 r1 w0 x0 b1", "3+2 d0 p2/1 c3 r1 w0 x0 b2"],
        |s| {
            assert_eq!(
                (s.adapters.steps_by_adapters.as_slice(), s.speculation.draft_ns),
                ([1, 3].as_slice(), 2_000_000)
            )
        },
    );
}

#[test]
fn a_request_may_say_itself_what_is_accepted() {
    check(
        |s, _| ngram(s, 2, 0.0),
        &[Ask { acceptance: Some(1.0), ..ask(0.0, 3, 4) }, ask(0.0, 3, 4)],
        &["finished q0 s0 f1 d2 o4 i1/0.98/1", "finished q0 s0 f1 d4 o4"],
        &[],
        whatever,
    );
}

#[test]
fn luck_is_the_same_under_every_scheduler() {
    let asked: Vec<Ask> = (0..30).map(|i| ask(f64::from(i) * 0.7, 3 + i % 5, 5 + i % 7 * 9)).collect();
    let told = |edit: &dyn Fn(&mut VllmV1)| {
        let told = std::cell::RefCell::new(Vec::new());
        check_rows(
            |s, r| {
                ngram(s, 4, 0.6);
                edit(r);
            },
            &asked,
            |_, _, summary| told.borrow_mut().push(summary.speculation.clone()),
        );
        told.into_inner()
    };
    let together = told(&|_| {});
    let one_by_one = told(&|r| (r.max_num_seqs, r.scheduling_policy) = (1, QueueOrder::Sjf));
    assert!(together[0].drafts > 100 && together[0] == together[1]);
    assert_eq!(together, one_by_one);
}
