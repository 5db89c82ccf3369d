//! Parallel samples, where every sample is a request to the scheduler. A row has the tokens and gaps of all of them.

use super::*;
use crate::sim::SimError;
use crate::sim::scheduler::{
    Exclusive, FasterTransformer, Lightllm, Orca, Sarathi, SchedulePolicy, Sglang, Trtllm, VllmV0,
};
use crate::sim::speculative::{Acceptance, DraftMethod, Speculative};

fn several(at: f64, input: u32, output: u32, n: u32) -> Ask {
    Ask { n: Some(n), ..ask(at, input, output) }
}

#[test]
fn samples_are_requests_that_share_what_the_cache_finds() {
    // The second finds the whole block of the prompt that the first fills in the same step, and computes the other two tokens
    // in a block of its own. The trace says nothing of contents.
    check(
        |_, _| (),
        &[several(0.0, 6, 3, 2)],
        &["finished q0 s0 f1 d3 o6 i4/1/1"],
        &["0+1 d0 p8/2 c4 r2 w0 x0 b3", "1+1 d2 p0/0 c12 r2 w0 x0 b3", "2+1 d2 p0/0 c14 r2 w0 x0 b3"],
        |s| assert_eq!((s.injected, s.prefix_tokens_queried, s.prefix_tokens_hit), (1, 12, 4)),
    );
    // Without prefix caching, each computes it all.
    check(
        |s, _| s.deployment.kv.enable_prefix_caching = false,
        &[several(0.0, 6, 3, 2)],
        &["finished q0 s0 f1 d3 o6 i4/1/1"],
        &["0+1 d0 p12/2 c0 r2 w0 x0 b4"],
        whatever,
    );
}

#[test]
fn a_prompt_that_ends_with_a_block_is_not_found_whole() {
    // The last token is computed again: with its block, of which each has one.
    check(
        |_, _| (),
        &[several(0.0, 8, 2, 3)],
        &["finished q0 s0 f1 d2 o6 i3/1/1"],
        &["0+1 d0 p16/3 c8 r3 w0 x0 b4", "1+1 d3 p0/0 c24 r3 w0 x0 b7"],
        whatever,
    );
}

#[test]
fn the_reply_that_the_trace_knows_is_that_of_the_first_sample() {
    // Prompt and reply of the first request have four blocks; a turn of the conversation begins with them. The second
    // sample's reply is another, so that the turn finds what the first one filled: three blocks and the four tokens in front of
    // its own last one.
    let first = Ask { blocks: &[1, 2, 3, 4], ..several(0.0, 8, 9, 2) };
    let next = Ask { blocks: &[1, 2, 3, 4, 5], ..ask(20.0, 18, 1) };
    let rows = ["finished q0 s0 f1 d9 o18 i16/1/1", "finished q20 s20 f21 d21 o1 c16"];
    check(|_, _| (), &[first, next], &rows, &[], whatever);
}

#[test]
fn every_sample_takes_a_seat() {
    check(
        |_, r| r.max_num_seqs = 2,
        &[several(0.0, 3, 2, 3)],
        &["finished q0 s0 f1 d4 o6 i3/1/1"],
        &["0+1 d0 p6/2 c0 r2 w1 x0 b2", "1+1 d2 p0/0 c6 r2 w1 x0 b2", "2+1 d0 p3/1 c0 r1 w0 x0 b1"],
        |s| assert_eq!((s.injected, s.running_max, s.waiting_max), (1, 2, 3)),
    );
}

#[test]
fn samples_are_preempted_one_by_one() {
    // At 2 ms both have four tokens and want a block, of which one is left: the second goes, and comes back at 4 ms with the
    // two tokens that it had.
    check(
        |s, _| blocks(s, 3),
        &[several(0.0, 3, 4, 2)],
        &["finished q0 s0 f1 d6 o8 p1 l3 a4 i8/2.9/3"],
        &[
            "0+1 d0 p6/2 c0 r2 w0 x0 b2",
            "1+1 d2 p0/0 c6 r2 w0 x0 b2",
            "2+1 d1 p0/0 c4 r1 w1 x1 b2",
            "3+1 d1 p0/0 c5 r1 w1 x0 b2",
            "4+1 d0 p5/1 c0 r1 w0 x0 b2",
        ],
        |s| assert_eq!(s.preemptions, 1),
    );
}

#[test]
fn the_first_token_of_any_and_the_last_of_all() {
    // Six tokens a step: the prompt of the second is computed behind the reply of the first.
    check(
        |s, r| {
            s.deployment.kv.enable_prefix_caching = false;
            r.max_num_batched_tokens = 6;
        },
        &[several(0.0, 6, 2, 2)],
        &["finished q0 s0 f1 d4 o4 i2/1/1"],
        &["0+1 d0 p6/1 c0 r1 w1 x0 b2", "1+1 d1 p5/1 c6 r2 w0 x0 b4", "2+1 d0 p1/1 c5 r1 w0 x0 b2"],
        whatever,
    );
}

#[test]
fn a_client_takes_all_samples_along() {
    let gone = Ask { timeout: Some(2.5), ..several(0.0, 3, 9, 2) };
    check(
        |_, _| (),
        &[gone, ask(2.0, 3, 1)],
        &["timed_out q0 s0 f1 d- o6 i4/1/1", "finished q2 s2 f3 d3 o1"],
        &[],
        |s| assert_eq!((s.timed_out, s.finished), (1, 1)),
    );
    // One sample was done by then, the other waits for a seat.
    let gone = Ask { timeout: Some(1.5), ..several(0.0, 3, 2, 2) };
    let rows = ["timed_out q0 s0 f1 d- o2", "finished q2 s2 f3 d3 o1"];
    check(|_, r| r.max_num_seqs = 1, &[gone, ask(2.0, 3, 1)], &rows, &[], whatever);
}

#[test]
fn at_the_horizon_a_request_is_in_flight_while_one_of_its_samples_is() {
    check(
        |s, r| (s.workload.horizon_s, r.max_num_seqs) = (Some(0.003), 1),
        &[several(0.0, 3, 2, 2)],
        &["in_flight q0 s0 f1 d- o3 i1/1/1"],
        &[],
        |s| assert_eq!((s.finished, s.in_flight), (0, 1)),
    );
}

#[test]
fn samples_stay_together() {
    let rows = ["finished q0 s0 f1 d2 o4 i2/1/1 @0", "finished q0 s0 f1 d2 o4 i2/1/1 @1"];
    check_cluster(
        |s, _| (s.deployment.replicas, s.workload.n) = (2, Some(2)),
        &[ask(0.0, 3, 2), ask(0.0, 3, 2)],
        &rows,
        |s| assert_eq!((s.injected, s.running_max), (2, 2)),
    );
}

#[test]
fn a_request_goes_before_its_class_and_that_before_all() {
    let edit = |s: &mut Scenario, _: &mut VllmV1| s.workload.n = Some(3);
    check_rows(edit, &[several(0.0, 3, 1, 2), ask(0.0, 3, 1)], |name, got, _| {
        let told: Vec<(u32, u32)> = got.requests.iter().map(|row| (row.samples, row.output_tokens)).collect();
        assert_eq!(told, [(2, 2), (3, 3)], "{name}");
    });
}

#[test]
fn sglang_computes_the_prompt_before_the_samples() {
    // The samples find the first page; the second is computed by each, with the last token in it, and kept once. The token at 1
    // ms is nobody's.
    let two = Ask { max_tokens: Some(2), ..several(0.0, 8, 2, 2) };
    let sglang = Scheduler::Sglang(Sglang { schedule_policy: SchedulePolicy::Fcfs, ..Sglang::default() });
    check_scheduler(
        &sglang,
        |_| (),
        &[two],
        &["finished q0 s0 f2 d3 o4 i2/1/1"],
        &["0+1 d0 p8/1 c0 r1 w0 x0 b2", "1+1 d0 p8/2 c8 r2 w0 x0 b3", "2+1 d2 p0/0 c16 r2 w0 x0 b4"],
        |s| assert_eq!((s.injected, s.prefix_tokens_queried, s.prefix_tokens_hit), (1, 24, 8)),
    );
    // Who goes while the prompt is computed goes whole, and who goes then too.
    let early = Ask { timeout: Some(0.5), ..two };
    check_scheduler(&sglang, |_| (), &[early], &["timed_out q0 s0 f- d- o0"], &[], whatever);
    let then = Ask { timeout: Some(1.0), ..two };
    check_scheduler(
        &sglang,
        |_| (),
        &[then],
        &["timed_out q0 s0 f- d- o0"],
        &[],
        |s| {
            assert_eq!((s.steps, s.waiting_max), (1, 2));
        },
    );
}

#[test]
fn trtllm_takes_all_samples_at_once() {
    // The second of three requests has two samples, for which there are no two places before 3 ms; the third waits behind it.
    let trtllm = |most| Scheduler::Trtllm(Trtllm { max_batch_size: most, ..Trtllm::default() });
    let exact = |s: &mut Scenario| s.workload.exact_max_tokens = true;
    let rows = ["finished q0 s0 f1 d3 o3", "finished q0 s3 f4 d5 o4 i2/1/1", "finished q0 s5 f6 d6 o1"];
    let asked = [ask(0.0, 3, 3), several(0.0, 3, 2, 2), ask(0.0, 3, 1)];
    let steps = [
        "0+1 d0 p3/1 c0 r1 w3 x0 b1",
        "1+1 d1 p0/0 c3 r1 w3 x0 b1",
        "2+1 d1 p0/0 c4 r1 w3 x0 b2",
        "3+1 d0 p6/2 c0 r2 w1 x0 b2",
    ];
    check_scheduler(&trtllm(2), exact, &asked, &rows, &steps, |s| assert_eq!((s.injected, s.running_max), (3, 2)));
    // The second sample waits for the block that the first one computes.
    check_scheduler(
        &trtllm(2),
        exact,
        &[several(0.0, 6, 2, 2)],
        &["finished q0 s0 f1 d3 o4 i2/1/1"],
        &["0+1 d0 p6/1 c0 r1 w1 x0 b2", "1+1 d1 p2/1 c10 r2 w0 x0 b3", "2+1 d1 p0/0 c6 r1 w0 x0 b2"],
        whatever,
    );
}

#[test]
fn what_other_engines_do_not_know_is_refused() {
    let found = |edit: &dyn Fn(&mut Scenario)| -> Vec<String> {
        let mut s = scenario(|_, _| ());
        s.workload.n = Some(2);
        edit(&mut s);
        let problems = crate::sim::check(&s).err().unwrap_or_default();
        problems.into_iter().map(|problem| problem.to_string()).filter(|told| told.starts_with("workload")).collect()
    };
    assert_eq!(found(&|_| ()), [""; 0]);
    assert_eq!(found(&|s| s.workload.n = Some(0)), ["workload.n: is 0; must be 1 to 16384"]);
    let schedulers = [
        Scheduler::Sarathi(Sarathi::default()),
        Scheduler::Orca(Orca::default()),
        Scheduler::Exclusive(Exclusive::default()),
        Scheduler::VllmV0(VllmV0 { max_num_seqs: 1, ..VllmV0::default() }),
        Scheduler::Lightllm(Lightllm::default()),
        Scheduler::Trtllm(Trtllm { max_batch_size: 1, ..Trtllm::default() }),
        Scheduler::FasterTransformer(FasterTransformer::default()),
    ];
    for scheduler in schedulers {
        let told = found(&|s| s.deployment.scheduler = scheduler.clone());
        assert!(matches!(&told[..], [one] if one.starts_with("workload.n: is above 1: ")), "{scheduler:?}: {told:?}");
        assert_eq!(found(&|s| (s.deployment.scheduler, s.workload.n) = (scheduler.clone(), Some(1))), [""; 0]);
    }
    let drafts = Speculative {
        method: DraftMethod::Ngram,
        num_speculative_tokens: 2,
        num_speculative_tokens_per_batch_size: Vec::new(),
        acceptance: Acceptance::Rate(0.5),
        draft_us: 0.0,
        draft_share: 0.0,
        adaptive: None,
    };
    let told = found(&|s| s.deployment.speculative = Some(drafts.clone()));
    assert_eq!(told, ["workload.n: is above 1: samples are not simulated with speculative decoding"]);
    // Requests that ask for themselves are found when they are there.
    let ran = |s: &Scenario, n: u32| -> Option<SimError> {
        let asked = requests(&[several(0.0, 3, 1, n)]);
        simulate_with(s, &asked, &mut Rows::default(), &AtomicBool::new(false), Quirks::default()).err()
    };
    let mut orca = scenario(|_, _| ());
    orca.deployment.scheduler = Scheduler::Orca(Orca::default());
    let why = "workload: request 0 has an n of 2: Orca knows requests of one sequence only";
    assert_eq!(ran(&orca, 2).map(|e| e.to_string()).as_deref(), Some(why));
    let known = |s: &Scenario, n: u32| crate::sim::check_requests(s, &requests(&[several(0.0, 3, 1, n)]));
    assert_eq!(known(&orca, 2).err().map(|all| all.iter().map(SimError::to_string).collect()), Some(vec![why.into()]));
    assert_eq!((known(&orca, 1), known(&scenario(|_, _| ()), 2)), (Ok(()), Ok(())));
    assert_eq!(ran(&orca, 1), None);
    let zero = ran(&scenario(|_, _| ()), 0).map(|e| e.to_string());
    assert_eq!(zero.as_deref(), Some("workload: request 0 has an n of 0; must be 1 to 16384"));
}
