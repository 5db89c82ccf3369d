//! Timelines of how requests end and what steps last: caps, clients that go, the horizon, ticks, the order of rows.

use super::*;
use crate::rng;

#[test]
fn replies_are_cut_by_max_tokens_by_the_longest_sequence_and_by_the_cache() {
    check(
        |_, _| (),
        &[Ask { max_tokens: Some(2), ..ask(0.0, 3, 5) }, Ask { max_tokens: Some(2), ..ask(0.0, 3, 2) }],
        &["length_capped q0 s0 f1 d2 o2", "finished q0 s0 f1 d2 o2"],
        &[],
        |s| assert_eq!((s.finished, s.length_capped), (1, 1)),
    );
    let asked = [ask(0.0, 8, 1), ask(0.0, 6, 9), ask(0.0, 6, 2)];
    check(
        |s, _| s.deployment.max_model_len = Some(8),
        &asked,
        &["rejected q- s- f- d- o0", "length_capped q0 s0 f1 d2 o2", "finished q0 s0 f1 d2 o2"],
        &[],
        |s| assert_eq!((s.rejected, s.length_capped, s.finished), (1, 1, 1)),
    );
    // The last token of a reply is never in the cache.
    check(
        |s, _| blocks(s, 2),
        &[ask(0.0, 8, 1), ask(0.0, 5, 9)],
        &["rejected q- s- f- d- o0", "length_capped q0 s0 f1 d3 o3"],
        &[],
        |s| assert_eq!(s.kv_blocks_max, 2),
    );
}

#[test]
fn clients_that_go_are_noticed_at_the_end_of_the_step() {
    let one_seat = |_: &mut Scenario, r: &mut VllmV1| r.max_num_seqs = 1;
    check(
        one_seat,
        &[ask(0.0, 3, 5), Ask { timeout: Some(2.0), ..ask(0.5, 3, 1) }],
        &["finished q0 s0 f1 d5 o5", "timed_out q0.5 s- f- d- o0"],
        &[],
        |s| {
            assert_eq!((s.finished, s.timed_out, s.end.0), (1, 1, 5_000_000));
            assert_eq!((s.running_ns, s.waiting_ns), (5_000_000, 2_500_000));
        },
    );
    // (patience, what becomes of the request, when the next one gets its seat)
    let cases = [
        (2.5, "timed_out q0 s0 f1 d- o3", 3),
        (3.0, "timed_out q0 s0 f1 d- o3", 3),
        (3.5, "timed_out q0 s0 f1 d- o4", 4),
        // What is complete at that time is served.
        (5.0, "finished q0 s0 f1 d5 o5", 5),
    ];
    for (patience, first, seat) in cases {
        let second = format!("finished q0 s{seat} f{} d{} o1", seat + 1, seat + 1);
        let asked = [Ask { timeout: Some(patience), ..ask(0.0, 3, 5) }, ask(0.0, 3, 1)];
        check(one_seat, &asked, &[first, &second], &[], whatever);
    }
    // Something else that happens during the step changes nothing.
    check(
        one_seat,
        &[Ask { timeout: Some(2.5), ..ask(0.0, 3, 5) }, ask(2.7, 3, 1)],
        &["timed_out q0 s0 f1 d- o3", "finished q2.7 s3 f4 d4 o1"],
        &[],
        whatever,
    );
    let cancelled = Ask { cancel: Some(2.5), timeout: Some(3.0), ..ask(0.0, 3, 5) };
    check(one_seat, &[cancelled], &["cancelled q0 s0 f1 d- o3"], &[], |s| {
        assert_eq!((s.cancelled, s.end.0, s.steps), (1, 3_000_000, 3));
        assert_eq!(s.itl, [(SimDuration(1_000_000), 2)]);
    });
}

#[test]
fn what_was_being_lost_when_the_client_went_is_lost() {
    // Preempted at 2 ms, gone at 3.5, noticed at 4.
    check(
        |s, _| blocks(s, 2),
        &[ask(0.0, 3, 5), Ask { timeout: Some(3.5), ..ask(0.0, 3, 5) }],
        &["finished q0 s0 f1 d5 o5", "timed_out q0 s0 f1 d- o2 p1 l2"],
        &[],
        |s| assert_eq!((s.recomputed_tokens, s.waiting_ns), (0, 2_000_000)),
    );
}

#[test]
fn a_request_whose_client_is_gone_never_enters_the_queue() {
    // Two milliseconds from arrival to queue.
    // (when its client goes, what becomes of the request, end of the simulation)
    let cases = [
        (1.0, "cancelled q- s- f- d- o0", 2_000_000),
        (2.0, "cancelled q- s- f- d- o0", 2_000_000),
        (2.5, "cancelled q2 s2 f3 d- o1", 3_000_000),
    ];
    for (gone, row, end) in cases {
        check(
            |s, _| linear(s).queue_base_us = 2_000.0,
            &[Ask { cancel: Some(gone), ..ask(0.0, 3, 5) }],
            &[row],
            &[],
            |s| assert_eq!((s.end.0, s.waiting_ns), (end, 0)),
        );
    }
}

#[test]
fn nothing_counts_beyond_the_horizon() {
    // (horizon in ms, tokens by then)
    for (horizon, tokens) in [(2.5, 2), (3.0, 3)] {
        let first = format!("in_flight q0 s0 f1 d- o{tokens}");
        check(
            |s, r| {
                s.workload.horizon_s = Some(horizon * 1e-3);
                r.max_num_seqs = 1;
            },
            &[ask(0.0, 3, 9), ask(2.0, 3, 1), ask(3.0, 3, 1)],
            &[&first, "in_flight q2 s- f- d- o0"],
            &[],
            |s| {
                let end = (horizon * MS) as i64;
                assert_eq!((s.injected, s.in_flight, s.end.0), (2, 2, end));
                assert_eq!((s.steps, s.busy.0), (tokens, tokens as i64 * 1_000_000));
                assert_eq!((s.running_ns, s.waiting_ns), (i128::from(end), i128::from(end - 2_000_000)));
                assert_eq!(s.work.decode_requests, tokens - 1);
            },
        );
    }
    // At the horizon requests end and enter the queue, but no step is formed.
    check(
        |s, r| {
            s.workload.horizon_s = Some(3e-3);
            linear(s).queue_base_us = 1_000.0;
            r.max_num_seqs = 1;
        },
        &[ask(0.0, 3, 2), ask(1.0, 3, 1), ask(2.0, 3, 1), ask(2.5, 3, 1)],
        &[
            "finished q1 s1 f2 d3 o2",
            "in_flight q2 s- f- d- o0",
            "in_flight q3 s- f- d- o0",
            "in_flight q- s- f- d- o0",
        ],
        &[],
        |s| assert_eq!((s.in_flight, s.waiting_max, s.waiting_ns, s.end.0), (3, 2, 1_000_000, 3_000_000)),
    );
    // What is done by then ends before it.
    check(
        |s, _| s.workload.horizon_s = Some(5e-3),
        &[ask(0.0, 3, 3)],
        &["finished q0 s0 f1 d3 o3"],
        &[],
        |s| assert_eq!((s.end.0, s.in_flight), (3_000_000, 0)),
    );
}

#[test]
fn the_horizon_cuts_losses_but_not_what_was_formed() {
    // Preempted at 2 ms; the step from 5 to 6 ms computes four tokens again.
    check(
        |s, _| {
            blocks(s, 2);
            s.workload.horizon_s = Some(5.5e-3);
        },
        &[ask(0.0, 3, 5), ask(0.0, 3, 5)],
        &["finished q0 s0 f1 d5 o5", "in_flight q0 s0 f1 d- o2 p1 l3.5 a4"],
        &[],
        |s| assert_eq!((s.steps, s.preemptions, s.recomputed_tokens), (5, 1, 4)),
    );
}

#[test]
fn the_host_takes_time_or_hides_it() {
    // (overhead in us, asynchronous, tick, end of the first step and of the second)
    let cases = [
        (500.0, false, None, "1.5", "3"),
        (500.0, true, None, "1", "2"),
        (1_500.0, false, None, "2.5", "5"),
        (1_500.0, true, None, "1.5", "3"),
        (500.0, false, Some("1ms"), "1", "2"),
        (1_500.0, false, Some("1ms"), "2", "4"),
        (100.25, false, Some("1us"), "1.1", "2.2"),
    ];
    for (overhead, hidden, tick, first, done) in cases {
        let s = scenario(|s, r| {
            (r.scheduler_overhead_us, r.async_scheduling) = (overhead, hidden);
            s.deployment.tick = tick.and_then(|t| t.parse().ok());
        });
        for (name, engine) in ENGINES {
            let mut got = Rows::default();
            let asked = requests(&[ask(0.0, 3, 2)]);
            engine(&s, &asked, &mut got, &AtomicBool::new(false), Quirks::default()).unwrap();
            let row = &got.requests[0];
            let times = [row.first_token, row.finished].map(|t| ms(t.unwrap().0));
            assert_eq!(times, [first, done], "{name}: {overhead} {hidden} {tick:?}");
        }
    }
}

#[test]
fn overheads_lengthen_steps_and_delay_clients() {
    let edit = |s: &mut Scenario, _: &mut VllmV1| {
        let o = &mut s.deployment.overheads;
        (o.step_us, o.request_us) = (250.0, 125.0);
        (o.tokenize_us, o.tokenize_per_token_us) = (500.0, 100.0);
        (o.detokenize_us, o.network_rtt_ms) = (200.0, 1.0);
    };
    // To the queue: 0.5 + 3 x 0.1 + 0.5 ms; to the client: 0.2 + 0.5 ms. Steps: 1 + 0.25 ms, and 0.125 per request.
    check(
        edit,
        &[ask(0.0, 3, 2), ask(0.0, 3, 1)],
        &["finished q1.3 s1.3 f3.5 d4.875 o2 i1.375/1.375/1.375", "finished q1.3 s1.3 f3.5 d3.5 o1"],
        &["1.3+1.5 d0 p6/2 c0 r2 w0 x0 b2", "2.8+1.375 d1 p0/0 c3 r1 w0 x0 b1"],
        |s| assert_eq!((s.steps, s.busy.0), (2, 2_875_000)),
    );
    // Asynchronous: what is hidden is the scheduler's overhead alone, and the last token is nobody's.
    check(
        |s, r| {
            edit(s, r);
            (r.async_scheduling, r.scheduler_overhead_us) = (true, 1_000.0);
        },
        &[ask(0.0, 3, 2)],
        &["finished q1.3 s1.3 f3.375 d4.75 o2 i1.375/1.375/1.375"],
        &["1.3+1.375 d0 p3/1 c0 r1 w0 x0 b1", "2.675+1.375 d1 p0/0 c3 r1 w0 x0 b1"],
        whatever,
    );
}

#[test]
fn steps_vary_by_numbers_of_their_replica() {
    // Steps of 1 ms and half a millisecond of the host, which does not vary.
    let with = |seed: u64, cv: f64| {
        scenario(move |s, r| {
            (s.seed, s.deployment.replicas, s.deployment.overheads.jitter_cv) = (seed, 2, cv);
            r.scheduler_overhead_us = 500.0;
        })
    };
    let run = |s: &Scenario, engine: Engine| {
        let mut got = Rows::default();
        let asked = requests(&[ask(0.0, 3, 3_000), ask(0.0, 3, 3_000)]);
        engine(s, &asked, &mut got, &AtomicBool::new(false), Quirks::default()).unwrap();
        got.requests.sort_by_key(|row| row.request);
        got
    };
    let cv = 0.2;
    for (name, engine) in ENGINES {
        let rows = run(&with(42, cv), engine);
        for replica in 0..2 {
            let steps: Vec<i64> =
                rows.steps.iter().filter(|row| row.replica == replica).map(|row| row.duration.0).collect();
            assert_eq!(steps.len(), 3_000, "{name}");
            // Of 3,000 numbers none is beyond four standard deviations.
            let mut numbers = rng::stream(42, &format!("latency/jitter/{replica}"));
            let variance = libm::log1p(cv * cv);
            for step in &steps {
                let factor = rng::lognormal(&mut numbers, -variance / 2.0, libm::sqrt(variance));
                let expect = (1e6 * factor) as i64 + 500_000;
                assert!((step - expect).abs() <= 1, "{name}: {step}, not {expect}");
            }
            let factors: Vec<f64> = steps.iter().map(|ns| (*ns - 500_000) as f64 / 1e6).collect();
            let mean = factors.iter().sum::<f64>() / 3_000.0;
            let spread = (factors.iter().map(|f| (f - mean) * (f - mean)).sum::<f64>() / 3_000.0).sqrt();
            assert!((mean - 1.0).abs() < 0.015 && (spread / cv - 1.0).abs() < 0.06, "{name}: {mean} {spread}");
        }
        assert_eq!(rows, run(&with(42, cv), engine), "{name}");
        assert_ne!(rows.steps, run(&with(43, cv), engine).steps, "{name}");
        // Without jitter nothing is drawn, and all steps are alike.
        assert!(run(&with(42, 0.0), engine).steps.iter().all(|row| row.duration.0 == 1_500_000), "{name}");
    }
}

#[test]
fn times_are_whole_ticks() {
    // 1.6 ms per step and per client, 0.7 ms to the queue.
    let edit = |s: &mut Scenario, _: &mut VllmV1| {
        let linear = linear(s);
        (linear.base_us, linear.queue_base_us, linear.per_output_token_us) = (1_600.0, 700.0, 1_600.0);
        s.deployment.tick = "1ms".parse().ok();
    };
    check(edit, &[ask(0.0, 3, 3)], &["finished q0 s0 f2 d4 o3"], &[], |s| assert_eq!(s.end.0, 4_000_000));
    // At least one.
    check(
        |s, r| {
            edit(s, r);
            linear(s).base_us = 10.0;
        },
        &[ask(0.0, 3, 3)],
        &["finished q0 s0 f2 d4 o3"],
        &[],
        whatever,
    );
}

#[test]
fn requests_out_of_order_arrive_at_their_time() {
    check(
        |_, _| (),
        &[ask(3.0, 3, 1), ask(1.0, 3, 1), ask(1.0, 3, 1)],
        &["finished q3 s3 f4 d4 o1", "finished q1 s1 f2 d2 o1", "finished q1 s1 f2 d2 o1"],
        &[],
        |s| assert_eq!(s.out_of_order, 2),
    );
}

#[test]
fn rows_of_one_time_are_in_the_order_of_the_batch_then_clients_then_rejections() {
    let s = scenario(|s, r| {
        s.deployment.max_model_len = Some(50);
        r.scheduling_policy = QueueOrder::Priority;
    });
    // All end at 2 ms. The last one is the first in the batch.
    let asked = requests(&[
        ask(2.0, 100, 1),
        Ask { timeout: Some(2.0), ..ask(0.0, 3, 9) },
        Ask { timeout: Some(1.5), priority: Some(-7), ..ask(0.0, 3, 9) },
        Ask { priority: Some(5), ..ask(0.0, 3, 2) },
        Ask { priority: Some(-5), ..ask(0.0, 3, 2) },
    ]);
    for (name, engine) in ENGINES {
        let mut got = Rows::default();
        engine(&s, &asked, &mut got, &AtomicBool::new(false), Quirks::default()).unwrap();
        let order: Vec<u32> = got.requests.iter().map(|row| row.request).collect();
        assert_eq!(order, [4, 3, 1, 2, 0], "{name}");
    }
}

#[test]
fn a_step_of_13_days_is_an_error() {
    let s = scenario(|s, r| {
        linear(s).per_prefill_token_us = 60e6;
        r.max_num_batched_tokens = 20_000;
        blocks(s, 10_000);
    });
    for (name, engine) in ENGINES {
        let asked = requests(&[ask(0.0, 20_000, 1)]);
        let result = engine(&s, &asked, &mut Rows::default(), &AtomicBool::new(false), Quirks::default());
        assert!(
            matches!(&result, Err(SimError::Invalid { path, .. }) if path == "deployment.latency"),
            "{name}: {result:?}"
        );
    }
}
