//! Beam search: all beams of a request are computed, one is told of.

use super::orca::{check_of, sizes, windows};
use super::*;
use crate::sim::scheduler::{
    CapacitySchedulerPolicy, Exclusive, FasterTransformer, Lightllm, Orca, Reserve, Sarathi, Sglang, Trtllm, VllmV0,
};
use crate::sim::{changes, check as check_scenario};

fn beams(at: f64, input: u32, output: u32, width: u32) -> Ask {
    Ask { beam_width: Some(width), ..ask(at, input, output) }
}

/// TensorRT-LLM with so many beams and blocks; caps are what requests generate.
#[track_caller]
fn check_trtllm(
    (width, cache): (u32, u64),
    edit: impl Fn(&mut Trtllm),
    asked: &[Ask],
    rows: &[&str],
    steps: &[&str],
    totals: impl Fn(&Summary),
) {
    let mut rules = Trtllm { max_beam_width: width, ..Trtllm::default() };
    edit(&mut rules);
    let scenario = |s: &mut Scenario| {
        blocks(s, cache);
        s.workload.exact_max_tokens = true;
    };
    check_of(Scheduler::Trtllm(rules), scenario, asked, rows, steps, totals);
}

#[test]
fn beams_share_whole_blocks_of_their_prompt() {
    // Of two blocks the first is shared. At 3 ms both have eight tokens, and take a block.
    check_trtllm(
        (2, 1_000),
        |_| (),
        &[beams(0.0, 6, 4, 2)],
        &["finished q0 s0 f1 d4 o4"],
        &[
            "0+1 d0 p6/1 c0 r1 w0 x0 b3",
            "1+1 d2 p0/0 c12 r1 w0 x0 b3",
            "2+1 d2 p0/0 c14 r1 w0 x0 b3",
            "3+1 d2 p0/0 c16 r1 w0 x0 b5",
        ],
        |s| {
            assert_eq!(s.itl, [(SimDuration(1_000_000), 3)]);
            assert_eq!((s.work.decode_requests, s.work.decode_context, s.work.prefill_tokens), (6, 42, 6));
        },
    );
    // A prompt that ends with a block.
    check_trtllm(
        (3, 1_000),
        |_| (),
        &[beams(0.0, 8, 2, 3)],
        &["finished q0 s0 f1 d2 o2"],
        &["0+1 d0 p8/1 c0 r1 w0 x0 b2", "1+1 d3 p0/0 c24 r1 w0 x0 b5"],
        whatever,
    );
    // The blocks of the prompt are there from its first chunk on.
    check_trtllm(
        (2, 1_000),
        |r| (r.max_num_tokens, r.enable_chunked_context) = (4, true),
        &[beams(0.0, 6, 2, 2)],
        &["finished q0 s0 f2 d3 o2"],
        &["0+1 d0 p4/1 c0 r1 w0 x0 b3", "1+1 d0 p2/1 c4 r1 w0 x0 b3", "2+1 d2 p0/0 c12 r1 w0 x0 b3"],
        whatever,
    );
}

#[test]
fn beams_are_admitted_only_with_all_their_blocks() {
    // Ten tokens are three blocks, of which the beams share one: five each.
    let asked = [beams(0.0, 6, 4, 2), beams(0.0, 6, 4, 2)];
    check_trtllm(
        (2, 9),
        |_| (),
        &asked,
        &["finished q0 s0 f1 d4 o4", "finished q0 s4 f5 d8 o4"],
        &[
            "0+1 d0 p6/1 c0 r1 w1 x0 b3",
            "1+1 d2 p0/0 c12 r1 w1 x0 b3",
            "2+1 d2 p0/0 c14 r1 w1 x0 b3",
            "3+1 d2 p0/0 c16 r1 w1 x0 b5",
            "4+1 d0 p6/1 c0 r1 w0 x0 b3",
        ],
        whatever,
    );
    check_trtllm(
        (2, 10),
        |_| (),
        &asked,
        &["finished q0 s0 f1 d4 o4"; 2],
        &["0+1 d0 p12/2 c0 r2 w0 x0 b6", "1+1 d4 p0/0 c24 r2 w0 x0 b6"],
        whatever,
    );
    // One that is under way counts with what it has: three of its five. The other wants one for each of its beams.
    let cut = |r: &mut Trtllm| (r.max_num_tokens, r.enable_chunked_context) = (4, true);
    let asked = [beams(0.0, 6, 4, 2), beams(0.5, 2, 1, 2)];
    check_trtllm(
        (2, 7),
        cut,
        &asked,
        &["finished q0 s0 f2 d5 o4", "finished q0.5 s1 f2 d2 o1"],
        &["0+1 d0 p4/1 c0 r1 w0 x0 b3", "1+1 d0 p4/2 c4 r2 w0 x0 b5"],
        whatever,
    );
    check_trtllm(
        (2, 6),
        cut,
        &asked,
        &["finished q0 s0 f2 d5 o4", "finished q0.5 s5 f6 d6 o1"],
        &["0+1 d0 p4/1 c0 r1 w0 x0 b3", "1+1 d0 p2/1 c4 r1 w1 x0 b3"],
        whatever,
    );
}

#[test]
fn beams_that_are_paused_begin_anew() {
    // At 2 ms both beams of both want a block, and two are free. The second has the first token of its second life at 4 ms.
    check_trtllm(
        (2, 6),
        |r| r.capacity_scheduler_policy = CapacitySchedulerPolicy::MaxUtilization,
        &[beams(0.0, 3, 4, 2), beams(0.0, 3, 4, 2)],
        &["finished q0 s0 f1 d4 o4", "finished q0 s0 f4 d7 o4 p1 l2/2 a3"],
        &[
            "0+1 d0 p6/2 c0 r2 w0 x0 b4",
            "1+1 d4 p0/0 c12 r2 w0 x0 b4",
            "2+1 d2 p0/0 c8 r1 w1 x1 b4",
            "3+1 d2 p3/1 c10 r2 w0 x0 b6",
            "4+1 d2 p0/0 c6 r1 w0 x0 b2",
            "5+1 d2 p0/0 c8 r1 w0 x0 b4",
        ],
        // Seven gaps, one of them in the first life of the second.
        |s| assert_eq!(s.itl, [(SimDuration(1_000_000), 7)]),
    );
}

#[test]
fn a_step_has_tokens_for_all_beams_or_none() {
    check_trtllm(
        (4, 1_000),
        |r| r.max_num_tokens = 7,
        &[beams(0.0, 3, 2, 4), beams(0.0, 3, 2, 4)],
        &["finished q0 s0 f1 d2 o2", "finished q0 s0 f1 d3 o2 i2/2/2"],
        &["0+1 d0 p6/2 c0 r2 w0 x0 b8", "1+1 d4 p0/0 c12 r2 w0 x0 b8", "2+1 d4 p0/0 c12 r1 w0 x0 b4"],
        whatever,
    );
}

#[test]
fn a_request_of_another_width_is_rejected() {
    check_trtllm(
        (2, 1_000),
        |_| (),
        &[ask(0.0, 3, 1), beams(0.0, 3, 1, 2), beams(0.0, 3, 1, 3)],
        &["rejected q- s- f- d- o0", "finished q0 s0 f1 d1 o1", "rejected q- s- f- d- o0"],
        &["0+1 d0 p3/1 c0 r1 w0 x0 b2"],
        |s| assert_eq!(s.rejected, 2),
    );
    // A class, and all others.
    let mut s = scenario(|_, _| ());
    s.deployment.scheduler = Scheduler::Trtllm(Trtllm { max_beam_width: 2, ..Trtllm::default() });
    s.workload.classes = [("ranked".to_string(), serde_json::from_str(r#"{"beam_width": 2}"#).unwrap())].into();
    let asked = Requests {
        class: vec![None, Some(0)],
        class_names: vec!["ranked".to_string()],
        ..requests(&[ask(0.0, 3, 1), ask(0.0, 3, 1)])
    };
    for (name, engine) in ENGINES {
        let mut got = Rows::default();
        engine(&s, &asked, &mut got, &AtomicBool::new(false), Quirks::default()).unwrap();
        got.requests.sort_by_key(|row| row.request);
        let told: Vec<&str> = got.requests.iter().map(|row| row.status.as_str()).collect();
        assert_eq!(told, ["rejected", "finished"], "{name}");
    }
}

#[test]
fn the_cache_is_dealt_out_to_the_beams() {
    // Four blocks for each: sixteen tokens.
    check_trtllm(
        (2, 9),
        |_| (),
        &[beams(0.0, 6, 20, 2), beams(0.0, 16, 1, 2)],
        &["length_capped q0 s0 f1 d10 o10", "rejected q- s- f- d- o0"],
        &[],
        |s| assert_eq!(s.kv_blocks_max, 7),
    );
}

#[test]
fn blocks_are_not_reused() {
    let mut s = scenario(|s, _| s.deployment.kv.enable_prefix_caching = true);
    let told = |s: &Scenario| changes(s).into_iter().map(|(path, _)| path).collect::<Vec<_>>();
    for (width, changed, found) in [(1, vec![], 4), (2, vec!["deployment.kv.enable_prefix_caching"], 0)] {
        s.deployment.scheduler = Scheduler::Trtllm(Trtllm { max_beam_width: width, ..Trtllm::default() });
        assert_eq!(told(&s), changed);
        let known = |at: f64| Ask { blocks: &[1, 2], ..beams(at, 8, 1, width) };
        run_rows(&s, &[known(0.0), known(5.0)], |name, got, _| {
            assert_eq!(got.requests[1].cached_tokens, found, "{name}");
        });
    }
}

#[test]
fn a_client_takes_all_beams_along() {
    let gone = Ask { timeout: Some(2.5), ..beams(0.0, 3, 9, 2) };
    check_trtllm(
        (2, 1_000),
        |_| (),
        &[gone, beams(3.0, 3, 1, 2)],
        &["timed_out q0 s0 f1 d- o3", "finished q3 s3 f4 d4 o1"],
        &["0+1 d0 p3/1 c0 r1 w0 x0 b2", "1+1 d2 p0/0 c6 r1 w0 x0 b2", "2+1 d2 p0/0 c8 r1 w0 x0 b4"],
        |s| assert_eq!(s.timed_out, 1),
    );
    // In the middle of its prompt, for which all blocks were taken.
    let gone = Ask { timeout: Some(0.5), ..beams(0.0, 6, 9, 2) };
    check_trtllm(
        (2, 1_000),
        |r| (r.max_num_tokens, r.enable_chunked_context) = (4, true),
        &[gone, beams(1.0, 3, 1, 2)],
        &["timed_out q0 s0 f- d- o0", "finished q1 s1 f2 d2 o1"],
        &["0+1 d0 p4/1 c0 r1 w0 x0 b3", "1+1 d0 p3/1 c0 r1 w0 x0 b2"],
        whatever,
    );
}

fn static_batches(edit: impl Fn(&mut FasterTransformer)) -> Scheduler {
    let mut rules = FasterTransformer::default();
    edit(&mut rules);
    Scheduler::FasterTransformer(rules)
}

#[test]
fn a_static_batch_has_one_width() {
    check_of(
        static_batches(|_| ()),
        sizes(1_000, 40),
        &[beams(0.0, 3, 2, 2), beams(0.0, 3, 3, 2), ask(0.0, 3, 1), beams(0.0, 3, 1, 2)],
        &["finished q0 s0 f1 d2 o2", "finished q0 s0 f1 d3 o3", "finished q0 s3 f4 d4 o1", "finished q0 s4 f5 d5 o1"],
        &[
            "0+1 d0 p6/2 c0 r2 w2 x0 b40",
            "1+1 d4 p0/0 c12 r2 w2 x0 b40",
            "2+1 d2 p0/0 c8 r1 w2 x0 b20",
            "3+1 d0 p3/1 c0 r1 w1 x0 b10",
            "4+1 d0 p3/1 c0 r1 w0 x0 b20",
        ],
        |s| assert_eq!(s.itl, [(SimDuration(1_000_000), 3)]),
    );
}

#[test]
fn memory_is_reserved_for_every_beam() {
    // Two blocks for each beam, and five there are.
    check_of(
        static_batches(|_| ()),
        sizes(5, 8),
        &[beams(0.0, 3, 1, 2), beams(0.0, 3, 1, 2)],
        &["finished q0 s0 f1 d1 o1", "finished q0 s1 f2 d2 o1"],
        &["0+1 d0 p3/1 c0 r1 w1 x0 b4", "1+1 d0 p3/1 c0 r1 w0 x0 b4"],
        whatever,
    );
    // One block each, nothing of which is shared.
    let asked = [1, 1].map(|output| Ask { max_tokens: Some(1), ..beams(0.0, 3, output, 2) });
    check_of(
        static_batches(|r| r.reserve = Reserve::RequestCap),
        sizes(5, 8),
        &asked,
        &["finished q0 s0 f1 d1 o1"; 2],
        &["0+1 d0 p6/2 c0 r2 w0 x0 b4"],
        whatever,
    );
}

#[test]
fn a_prompt_alone_is_computed_for_every_beam() {
    // A millisecond for each step, each prompt token, and each sequence that decodes.
    let by_size = |s: &mut Scenario| {
        sizes(1_000, 40)(s);
        (linear(s).per_prefill_token_us, linear(s).per_decode_token_us) = (1_000.0, 1_000.0);
    };
    check_of(
        static_batches(|_| ()),
        by_size,
        &[beams(0.0, 3, 2, 2)],
        &["finished q0 s0 f7 d10 o2 i3/3/3"],
        &["0+7 d0 p3/1 c0 r1 w0 x0 b20", "7+3 d2 p0/0 c6 r1 w0 x0 b20"],
        |s| assert_eq!((s.work.prefill_tokens, s.work.decode_requests), (3, 2)),
    );
    // Of two the prompts are computed once. All four sequences are computed until the end.
    check_of(
        static_batches(|_| ()),
        by_size,
        &[beams(0.0, 3, 2, 2), beams(0.0, 3, 3, 2)],
        &["finished q0 s0 f7 d12 o2 i5/5/5", "finished q0 s0 f7 d17 o3 i10/5/5"],
        &["0+7 d0 p6/2 c0 r2 w0 x0 b40", "7+5 d4 p0/0 c12 r2 w0 x0 b40", "12+5 d2 p0/0 c8 r1 w0 x0 b20"],
        whatever,
    );
    check_of(
        static_batches(|r| r.padded = false),
        by_size,
        &[beams(0.0, 3, 2, 2)],
        &["finished q0 s0 f4 d7 o2 i3/3/3"],
        &["0+4 d0 p3/1 c0 r1 w0 x0 b20", "4+3 d2 p0/0 c6 r1 w0 x0 b20"],
        whatever,
    );
}

#[test]
fn beams_are_a_group_of_sequences() {
    // The blocks of two samples, and the tokens of one. With three seats a third beam has none.
    let rules = VllmV0 { watermark: 0.0, max_num_seqs: 3, ..VllmV0::default() };
    check_scheduler(
        &Scheduler::VllmV0(rules),
        |s| blocks(s, 1_000),
        &[beams(0.0, 6, 4, 2), beams(0.0, 3, 1, 2)],
        &["finished q0 s0 f1 d4 o4", "finished q0 s4 f5 d5 o1"],
        &[
            "0+1 d0 p6/1 c0 r1 w1 x0 b2",
            "1+1 d2 p0/0 c12 r1 w1 x0 b3",
            "2+1 d2 p0/0 c14 r1 w1 x0 b3",
            "3+1 d2 p0/0 c16 r1 w1 x0 b5",
            "4+1 d0 p3/1 c0 r1 w0 x0 b1",
        ],
        |s| assert_eq!((&s.itl[..], s.work.decode_requests), (&[(SimDuration(1_000_000), 3)][..], 6)),
    );
}

fn found(edit: &dyn Fn(&mut Scenario)) -> Vec<String> {
    let mut s = scenario(|s, _| s.deployment.kv.enable_prefix_caching = false);
    edit(&mut s);
    check_scenario(&s).err().unwrap_or_default().into_iter().map(|problem| problem.to_string()).collect()
}

#[test]
fn engines_without_beams_refuse_them() {
    let none = [""; 0];
    for (scheduler, why) in [
        (Scheduler::VllmV1(VllmV1::default()), "vLLM's V1 engine has no beam search: a helper in front of it asks "),
        (Scheduler::Sglang(Sglang::default()), "SGLang has no beam search"),
        (Scheduler::Lightllm(Lightllm::default()), "beams are not simulated with lightllm"),
        (Scheduler::Sarathi(Sarathi::default()), "Sarathi-Serve knows requests of one sequence only"),
        (Scheduler::Orca(Orca::default()), "Orca knows requests of one sequence only"),
        (Scheduler::Exclusive(Exclusive::default()), "an exclusive server holds one request, with one reply"),
        (Scheduler::Trtllm(Trtllm::default()), "TensorRT-LLM takes requests of max_beam_width beams only, which is 1"),
        (
            Scheduler::VllmV0(VllmV0 { max_num_seqs: 2, ..VllmV0::default() }),
            "3 sequences can never run together, max_num_seqs is 2",
        ),
    ] {
        let of_width = |width: u32| {
            let all = found(&|s| (s.deployment.scheduler, s.workload.beam_width) = (scheduler.clone(), Some(width)));
            all.into_iter().filter(|told| told.starts_with("workload")).collect::<Vec<_>>()
        };
        let told = of_width(3);
        let path = format!("workload.beam_width: is 3: {why}");
        assert!(matches!(&told[..], [one] if one.starts_with(&path)), "{told:?}");
        assert_eq!(of_width(1), none);
    }
    for (width, path) in [(0, "workload.beam_width: is 0"), (1_025, "workload.beam_width: is 1025")] {
        let told = found(&|s| s.workload.beam_width = Some(width));
        assert_eq!(told, [format!("{path}; must be 1 to 1024")]);
    }
    let of_class = |width: u32| {
        found(&|s| {
            let rules = serde_json::from_str(&format!(r#"{{"beam_width": {width}}}"#)).unwrap();
            s.workload.classes = [("ranked".to_string(), rules)].into();
        })
    };
    assert_eq!(of_class(0), ["workload.classes: ranked.beam_width is 0; must be 1 to 1024"]);
    let told = of_class(2);
    assert!(told.len() == 1 && told[0].starts_with("workload.classes: ranked.beam_width is 2: vLLM's V1"), "{told:?}");
}

#[test]
fn what_beams_do_not_go_with_is_refused() {
    let of_trtllm = |width: u32, edit: &dyn Fn(&mut Scenario, &mut Trtllm)| {
        found(&|s| {
            let mut rules = Trtllm { max_beam_width: width, ..Trtllm::default() };
            s.workload.beam_width = Some(width);
            edit(s, &mut rules);
            s.deployment.scheduler = Scheduler::Trtllm(rules);
        })
    };
    let path = "deployment.scheduler.trtllm.max_beam_width";
    assert_eq!(of_trtllm(4, &|_, _| ()), [""; 0]);
    assert_eq!(of_trtllm(4, &|s, _| s.deployment.pp = 2), [""; 0]);
    assert_eq!(of_trtllm(0, &|s, _| s.workload.beam_width = None), [format!("{path}: is 0; must be 1 to 1024")]);
    let why = "workload.beam_width: is 3: TensorRT-LLM takes requests of max_beam_width beams only, which is 4";
    assert_eq!(of_trtllm(4, &|s, _| s.workload.beam_width = Some(3)), [why]);
    let why = "deployment.scheduler.trtllm.max_num_tokens: is 3, less than the tokens of a step of 4 beams";
    assert_eq!(of_trtllm(4, &|_, rules| rules.max_num_tokens = 3), [why]);
    let told = of_trtllm(4, &|s, _| windows(s, 4));
    assert_eq!(told, [format!("{path}: is 4: TensorRT-LLM has no beams with sliding windows")]);
    let lora = || serde_json::from_str(r#"{"max_loras": 1}"#).ok();
    let told = of_trtllm(4, &|s, _| s.deployment.lora = lora());
    let why = "beams are not simulated with adapters";
    assert_eq!(told, [format!("{path}: is 4: {why}"), format!("workload.beam_width: is 4: {why}")]);
    let drafts = r#"{"method": "ngram", "num_speculative_tokens": 2, "acceptance": {"rate": 0.5}}"#;
    let told = of_trtllm(4, &|s, _| s.deployment.speculative = serde_json::from_str(drafts).ok());
    let why = "drafts are made for one beam only, leave out deployment.speculative";
    assert_eq!(told, [format!("{path}: is 4: {why}"), format!("workload.beam_width: is 4: {why}")]);
    let staged = found(&|s| {
        s.deployment.scheduler = static_batches(|_| ());
        (s.workload.beam_width, s.deployment.pp) = (Some(2), 2);
    });
    let why = "beams are not simulated with pipeline stages of faster_transformer";
    assert_eq!(staged, [format!("workload.beam_width: is 2: {why}")]);
}

#[test]
fn what_requests_ask_for_is_looked_at_with_them() {
    let said = |scheduler: Scheduler, edit: &dyn Fn(&mut Scenario), asked: &[Ask]| -> Vec<String> {
        let mut s = scenario(|s, _| sizes(20, 40)(s));
        s.deployment.scheduler = scheduler;
        edit(&mut s);
        let of = |(_, engine): (&str, Engine)| {
            engine(&s, &requests(asked), &mut Rows::default(), &AtomicBool::new(false), Quirks::default()).err()
        };
        let [oracle, fast] = ENGINES.map(of);
        assert_eq!(oracle, fast);
        fast.into_iter().map(|e| e.to_string()).collect()
    };
    let one = Scheduler::Trtllm(Trtllm { max_beam_width: 1, ..Trtllm::default() });
    let four = Scheduler::Trtllm(Trtllm { max_beam_width: 4, ..Trtllm::default() });
    let told = said(one.clone(), &|_| (), &[beams(0.0, 3, 1, 0)]);
    assert_eq!(told, ["workload: request 0 has a beam_width of 0; must be 1 to 1024"]);
    let both = Ask { n: Some(2), ..beams(0.0, 3, 1, 2) };
    let why = "workload.beam_width: is above 1: beams and parallel samples (n) are not simulated together";
    assert_eq!(said(one.clone(), &|_| (), &[both]), [why]);
    for (scheduler, width) in [(one, 1), (four, 4)] {
        let why = "but no request asks for as many beams (workload.beam_width), and TensorRT-LLM rejects all others";
        let path = "deployment.scheduler.trtllm.max_beam_width";
        assert_eq!(said(scheduler.clone(), &|_| (), &[beams(0.0, 3, 1, 2)]), [format!("{path}: is {width}, {why}")]);
        assert_eq!(said(scheduler, &|_| (), &[beams(0.0, 3, 1, width), beams(0.0, 3, 1, 2)]), [""; 0]);
    }
    let told = said(Scheduler::Orca(Orca::default()), &|_| (), &[beams(0.0, 3, 1, 2)]);
    assert_eq!(told, ["workload.beam_width: is above 1: Orca knows requests of one sequence only"]);
    // Two times ten blocks are there, and not three times.
    let why = "workload.beam_width: is above 1: 3 beams of the longest sequence take 30 blocks, and a replica has 20; lower \
               deployment.max_model_len";
    assert_eq!(said(static_batches(|_| ()), &|_| (), &[beams(0.0, 3, 1, 2)]), [""; 0]);
    assert_eq!(said(static_batches(|_| ()), &|_| (), &[beams(0.0, 3, 1, 3)]), [why]);
    assert_eq!(
        said(static_batches(|_| ()), &|s| s.deployment.max_model_len = Some(24), &[beams(0.0, 3, 1, 3)]),
        [""; 0]
    );
}
