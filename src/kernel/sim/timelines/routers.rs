//! Timelines of routers. Where equals are chosen among by chance, the choice that was made is taken as it is, and what
//! follows from it is told.

use super::*;
use crate::pools::Signals;
use crate::sim::router::{KvAware, RankedSticky, Router, Scorers, TolerantSticky, Weighted};

/// Engines by request.
fn chosen(got: &Rows) -> Vec<u32> {
    got.requests.iter().map(|row| row.replica).collect()
}

/// What the router thought of the two engines for a request.
fn scores(got: &Rows, request: u32) -> Vec<Option<f64>> {
    got.routes.iter().filter(|row| row.request == request).map(|row| row.score).collect()
}

/// The same, of the engine `first`, and of the other one.
fn scores_from(got: &Rows, request: u32, first: u32) -> [Option<f64>; 2] {
    let scores = scores(got, request);
    [scores[first as usize], scores[1 - first as usize]]
}

fn two(router: Router) -> impl Fn(&mut Scenario, &mut VllmV1) {
    move |s, _| (s.deployment.replicas, s.deployment.router) = (2, router.clone())
}

fn in_session(session: u32, asked: Ask) -> Ask {
    Ask { session: Some(session), ..asked }
}

#[test]
fn the_fewest_outstanding_or_pending_are_chosen() {
    // At 0 ms: 100 tokens here; two requests of 10 there; then one more there by tokens, here by requests.
    let asked = [ask(0.0, 100, 9), ask(0.0, 10, 9), ask(0.0, 10, 9), ask(0.5, 10, 9)];
    check_rows(two(Router::LeastTokens), &asked[..3], |name, got, _| {
        let to = chosen(got);
        assert_eq!(to[1..], [1 - to[0]; 2], "{name}");
        assert_eq!(scores_from(got, 2, to[0]), [Some(-100.0), Some(-10.0)], "{name}");
    });
    check_rows(two(Router::LeastOutstanding), &asked, |name, got, _| {
        let to = chosen(got);
        assert_eq!((to[1], to[3]), (1 - to[0], 1 - to[2]), "{name}");
        assert_eq!(scores_from(got, 3, to[2]), [Some(-2.0), Some(-1.0)], "{name}");
    });
    // Prompts are done at 1 ms: nothing is pending any more.
    check_rows(two(Router::LopBinary), &[asked[0], asked[1], ask(0.5, 10, 1), ask(1.0, 3, 1)], |name, got, _| {
        let to = chosen(got);
        assert_eq!(to[1], 1 - to[0], "{name}");
        assert_eq!(scores(got, 2), [Some(-1.0); 2], "{name}");
        // The third waits for the step that runs, and for the one after it.
        assert_eq!(scores_from(got, 3, to[2]), [Some(-1.0), Some(0.0)], "{name}");
    });
    // Of 100 tokens 40 are computed when a step ends.
    let chunks = |s: &mut Scenario, r: &mut VllmV1| {
        two(Router::LopBatchEnd)(s, r);
        r.long_prefill_token_threshold = 40;
    };
    check_rows(chunks, &[ask(0.0, 100, 9), ask(0.5, 70, 9), ask(1.0, 3, 1)], |name, got, _| {
        let to = chosen(got);
        // Nothing of the second was computed by 1 ms: its step ends at 1.5.
        assert_eq!(to[1..], [1 - to[0], to[0]], "{name}");
        assert_eq!(scores_from(got, 2, to[0]), [Some(-60.0), Some(-70.0)], "{name}");
    });
}

#[test]
fn what_is_seen_may_be_old() {
    // One seat each. The three of 0 ms are not even: one engine has more in its queue. All that come until the next look
    // go to the other one; who looks at every decision sees its queue grow.
    let late = [11.0, 12.0, 13.0].map(|at| ask(at, 3, 900));
    let asked = [[ask(0.0, 3, 900); 3].as_slice(), &late].concat();
    for (signals, stale) in [
        (Signals { refresh_ms: 10.0, delay_ms: 0.0 }, true),
        (Signals { refresh_ms: 5.0, delay_ms: 3.0 }, true),
        (Signals { refresh_ms: 0.0, delay_ms: 0.0 }, false),
    ] {
        let edit = move |s: &mut Scenario, r: &mut VllmV1| {
            two(Router::LeastQueued)(s, r);
            r.max_num_seqs = 1;
            s.deployment.signals = signals;
        };
        check_rows(edit, &asked, |name, got, _| {
            let to = chosen(got);
            if stale {
                let here = to[..3].iter().filter(|engine| **engine == 0).count();
                let fewer = u32::from(here > 1);
                assert_eq!(to[3..], [fewer; 3], "{name}: {to:?}");
            }
            for request in 0..6 {
                // Those of 0 ms are routed before one of them is in a queue.
                let upto = match (stale, request < 3) {
                    (_, true) => 0,
                    (true, false) => 3,
                    (false, false) => request,
                };
                // As many wait there as were sent, but for the one that runs.
                let sent = |engine: u32| to[..upto].iter().filter(|to| **to == engine).count();
                let expect = [0, 1].map(|engine| Some(-(sent(engine).saturating_sub(1) as f64)));
                assert_eq!(scores(got, request as u32), expect, "{name}: {request} of {to:?}");
            }
        });
    }
}

#[test]
fn sessions_keep_their_replica() {
    let asked = [
        in_session(0, ask(0.0, 3, 9)),
        in_session(1, ask(0.0, 3, 9)),
        in_session(0, ask(0.0, 3, 9)),
        ask(0.0, 3, 9),
        in_session(1, ask(0.0, 3, 9)),
        in_session(2, ask(0.0, 3, 9)),
    ];
    // Keeping a replica does not take a turn.
    check_rows(
        |s, r| {
            two(Router::StickyRoundRobin)(s, r);
            s.deployment.replicas = 3;
        },
        &asked,
        |name, got, _| assert_eq!(chosen(got), [0, 1, 0, 2, 1, 0], "{name}"),
    );
    for router in [Router::StickyLor, Router::StickyLop] {
        // The third goes where its session is; so the fourth, which is in none, goes to the other one.
        check_rows(two(router.clone()), &asked[..5], |name, got, _| {
            let to = chosen(got);
            assert_eq!(to, [to[0], 1 - to[0], to[0], 1 - to[0], 1 - to[0]], "{name} {router:?}");
            assert_eq!(scores(got, 2), [None; 2], "{name} {router:?}");
        });
    }
}

#[test]
fn sessions_leave_a_replica_that_is_too_far_out_of_balance() {
    let asked = [in_session(0, ask(0.0, 100, 9)), in_session(0, ask(0.0, 10, 9)), in_session(0, ask(0.0, 1, 9))];
    // Where the first is, the second would make it 110 to 0; on the other one, 100 to 10.
    let tolerant = |factor| Router::TolerantStickyLopUncached(TolerantSticky { tolerance_factor: factor });
    let ranked = |top_k| Router::RankedStickyLopUncached(RankedSticky { top_k });
    for (router, stays) in [(tolerant(1.0), false), (tolerant(1.5), true), (ranked(1), false), (ranked(2), true)] {
        check_rows(two(router.clone()), &asked, |name, got, _| {
            let to = chosen(got);
            // Having moved, it is where the third is best, too: 100 to 11.
            let then = if stays { to[0] } else { 1 - to[0] };
            assert_eq!(to[1..], [then; 2], "{name} {router:?}");
            assert_eq!(scores_from(got, 1, to[0]), [Some(-110.0), Some(-90.0)], "{name} {router:?}");
        });
    }
}

#[test]
fn the_least_imbalance_of_what_is_not_cached() {
    // The first is found again where it was, but for a token: 1 to 0 there, 9 to 0 on the other one. Then 1 is pending
    // there; 50 tokens make it 51 to 0, or 50 to 1.
    let content = |at: f64| Ask { blocks: &[1, 2], ..ask(at, 9, 2) };
    check_rows(two(Router::LopUncached), &[content(0.0), content(10.0), ask(10.0, 50, 1)], |name, got, _| {
        let to = chosen(got);
        assert_eq!(to[1..], [to[0], 1 - to[0]], "{name}");
        assert_eq!(scores_from(got, 1, to[0]), [Some(-1.0), Some(-9.0)], "{name}");
        assert_eq!(scores_from(got, 2, to[0]), [Some(-51.0), Some(-49.0)], "{name}");
    });
}

#[test]
fn two_at_random_are_both_of_two() {
    let asked = [ask(0.0, 3, 9); 4];
    check_rows(two(Router::PowerOfTwo), &asked, |name, got, _| {
        let to = chosen(got);
        assert_eq!((to[1], to[3]), (1 - to[0], 1 - to[2]), "{name}");
    });
}

#[test]
fn scorers_are_weighed_against_each_other() {
    // One seat. From 10 ms on the content is known to one engine, and a request runs there; from 11 ms on one waits.
    let content = |at: f64, output: u32| Ask { blocks: &[1, 2], ..ask(at, 9, output) };
    let asked = [content(0.0, 1), content(10.0, 90), content(11.0, 90), content(12.0, 90)];
    for (precise_prefix_cache, queue_depth) in [(2.0, 1.0), (1.0, 2.0)] {
        let scorers = Scorers { precise_prefix_cache, queue_depth, ..Scorers::default() };
        let edit = move |s: &mut Scenario, r: &mut VllmV1| {
            two(Router::Weighted(Weighted { scorers: Some(scorers), ..Weighted::default() }))(s, r);
            r.max_num_seqs = 1;
        };
        check_rows(edit, &asked, |name, got, _| {
            let to = chosen(got);
            let here = to[0];
            let elsewhere = if precise_prefix_cache > queue_depth { here } else { 1 - here };
            assert_eq!(to[1..], [here, here, elsewhere], "{name} {scorers:?}");
            // Equal queues count as empty ones.
            assert_eq!(scores(got, 0), [Some(1.0); 2], "{name}");
            assert_eq!(scores_from(got, 2, here), [Some(1.0), Some(queue_depth / 3.0)], "{name}");
            let apart = [Some(precise_prefix_cache / 3.0), Some(queue_depth / 3.0)];
            assert_eq!(scores_from(got, 3, here), apart, "{name}");
        });
    }
}

#[test]
fn overlap_is_preferred_until_load_outweighs_it() {
    // Nine tokens, three blocks, eight tokens of which one engine knows from 1 ms on. At 10 ms it costs there 1/4 + 3
    // blocks, and 9/4 + 3 on the other; at 12 ms, with a prompt's blocks held, 1/4 + 6. With the weight 4: 1 + 6, 9 + 3.
    let content = |at: f64, output: u32| Ask { blocks: &[1, 2], ..ask(at, 9, output) };
    let asked = [content(0.0, 1), content(10.0, 90), content(12.0, 90)];
    for (overlap_weight, stays, first, second) in
        [(1.0, false, [-3.25, -5.25], [-6.25, -5.25]), (4.0, true, [-4.0, -12.0], [-7.0, -12.0])]
    {
        let router = Router::KvAware(KvAware { overlap_weight, temperature: 0.0 });
        check_rows(two(router), &asked, |name, got, _| {
            let to = chosen(got);
            let then = if stays { to[0] } else { 1 - to[0] };
            assert_eq!(to[1..], [to[0], then], "{name} {overlap_weight}");
            assert_eq!(scores_from(got, 1, to[0]), first.map(Some), "{name} {overlap_weight}");
            assert_eq!(scores_from(got, 2, to[0]), second.map(Some), "{name} {overlap_weight}");
        });
    }
}
