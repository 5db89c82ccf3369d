//! Timelines of Orca: who joins, and what is reserved.

use super::*;
use crate::sim::check;
use crate::sim::scheduler::{FasterTransformer, Orca, Reserve};

/// Runs a timeline of a scheduler on every engine; `rows` by request, `steps` the first ones.
#[track_caller]
pub(super) fn check_of(
    scheduler: Scheduler,
    edit: impl Fn(&mut Scenario),
    asked: &[Ask],
    rows: &[&str],
    steps: &[&str],
    totals: impl Fn(&Summary),
) {
    let mut s = scenario(|_, _| ());
    s.deployment.scheduler = scheduler;
    edit(&mut s);
    for (name, engine) in ENGINES {
        let mut got = Rows::default();
        let summary = engine(&s, &requests(asked), &mut got, &AtomicBool::new(false), Quirks::default());
        let summary = summary.unwrap_or_else(|e| panic!("{name}: {e}"));
        got.requests.sort_by_key(|row| row.request);
        let texts: Vec<String> = got.requests.iter().map(request_text).collect();
        assert_eq!(texts, rows, "requests of the {name}");
        let texts: Vec<String> = got.steps.iter().take(steps.len()).map(step_text).collect();
        assert_eq!(texts, steps, "steps of the {name}");
        totals(&summary);
    }
}

/// A cache of so many blocks, and requests of so many tokens at most.
pub(super) fn sizes(cache: u64, longest: u32) -> impl Fn(&mut Scenario) {
    move |s| {
        blocks(s, cache);
        s.deployment.max_model_len = Some(longest);
    }
}

fn orca(batch_size_cap: u32, reserve: Reserve) -> Scheduler {
    Scheduler::Orca(Orca { batch_size_cap, reserve })
}

#[test]
fn prompts_join_whole_those_that_decode() {
    // 40 tokens at most: ten blocks each, whatever they hold.
    check_of(
        Scheduler::Orca(Orca::default()),
        sizes(1_000, 40),
        &[ask(0.0, 5, 4), ask(1.0, 27, 2)],
        &["finished q0 s0 f1 d4 o4", "finished q1 s1 f2 d3 o2"],
        &[
            "0+1 d0 p5/1 c0 r1 w0 x0 b10",
            "1+1 d1 p27/1 c5 r2 w0 x0 b20",
            "2+1 d2 p0/0 c33 r2 w0 x0 b20",
            "3+1 d1 p0/0 c7 r1 w0 x0 b10",
        ],
        |s| assert_eq!((s.kv_block_ns, s.kv_blocks_max, s.preemptions), (60_000_000, 20, 0)),
    );
}

#[test]
fn a_batch_has_so_many_seats() {
    check_of(
        orca(2, Reserve::RequestCap),
        sizes(1_000, 40),
        &[ask(0.0, 3, 2), ask(0.0, 3, 3), ask(0.0, 3, 1)],
        &["finished q0 s0 f1 d2 o2", "finished q0 s0 f1 d3 o3", "finished q0 s2 f3 d3 o1"],
        &["0+1 d0 p6/2 c0 r2 w1 x0 b20", "1+1 d2 p0/0 c6 r2 w1 x0 b20", "2+1 d1 p3/1 c4 r2 w0 x0 b20"],
        whatever,
    );
}

#[test]
fn memory_is_reserved_for_the_longest() {
    // Three blocks; each of these takes one, and the longest request two.
    let small = |at| Ask { max_tokens: Some(1), ..ask(at, 3, 1) };
    let asked = [small(0.0), small(0.0), small(0.0)];
    check_of(
        orca(128, Reserve::MaxModelLen),
        sizes(3, 8),
        &asked,
        &["finished q0 s0 f1 d1 o1", "finished q0 s1 f2 d2 o1", "finished q0 s2 f3 d3 o1"],
        &["0+1 d0 p3/1 c0 r1 w2 x0 b2", "1+1 d0 p3/1 c0 r1 w1 x0 b2", "2+1 d0 p3/1 c0 r1 w0 x0 b2"],
        |s| assert_eq!(s.kv_block_ns, 6_000_000),
    );
    check_of(
        orca(128, Reserve::RequestCap),
        sizes(3, 8),
        &asked,
        &["finished q0 s0 f1 d1 o1"; 3],
        &["0+1 d0 p9/3 c0 r3 w0 x0 b3"],
        |s| assert_eq!(s.kv_block_ns, 3_000_000),
    );
    // Without `max_tokens` it is all that the length leaves, unless clients are known to ask for what they get.
    let asked = [ask(0.0, 3, 1), ask(0.0, 3, 1)];
    check_of(
        orca(128, Reserve::RequestCap),
        sizes(3, 8),
        &asked,
        &["finished q0 s0 f1 d1 o1", "finished q0 s1 f2 d2 o1"],
        &["0+1 d0 p3/1 c0 r1 w1 x0 b2"],
        whatever,
    );
    check_of(
        orca(128, Reserve::RequestCap),
        |s| {
            sizes(3, 8)(s);
            s.workload.exact_max_tokens = true;
        },
        &asked,
        &["finished q0 s0 f1 d1 o1"; 2],
        &["0+1 d0 p6/2 c0 r2 w0 x0 b2"],
        whatever,
    );
}

#[test]
fn who_does_not_fit_holds_up_those_behind() {
    // Two blocks for each of the first two, and one for the last, which is free all the time.
    let long = |at| Ask { max_tokens: Some(5), ..ask(at, 3, 3) };
    check_of(
        orca(128, Reserve::RequestCap),
        sizes(3, 8),
        &[long(0.0), long(0.0), Ask { max_tokens: Some(1), ..ask(0.0, 3, 1) }],
        &["finished q0 s0 f1 d3 o3", "finished q0 s3 f4 d6 o3", "finished q0 s3 f4 d4 o1"],
        &[
            "0+1 d0 p3/1 c0 r1 w2 x0 b2",
            "1+1 d1 p0/0 c3 r1 w2 x0 b2",
            "2+1 d1 p0/0 c4 r1 w2 x0 b2",
            "3+1 d0 p6/2 c0 r2 w0 x0 b3",
        ],
        whatever,
    );
}

#[test]
fn slots_are_free_when_the_client_goes() {
    check_of(
        orca(128, Reserve::MaxModelLen),
        sizes(3, 12),
        &[Ask { cancel: Some(1.5), ..ask(0.0, 3, 9) }, ask(0.0, 3, 1)],
        &["cancelled q0 s0 f1 d- o2", "finished q0 s2 f3 d3 o1"],
        &["0+1 d0 p3/1 c0 r1 w1 x0 b3", "1+1 d1 p0/0 c3 r1 w1 x0 b3", "2+1 d0 p3/1 c0 r1 w0 x0 b3"],
        |s| assert_eq!((s.kv_block_ns, s.waiting_ns, s.running_ns), (9_000_000, 2_000_000, 3_000_000)),
    );
}

#[test]
fn a_batch_must_have_a_seat() {
    let static_batches = FasterTransformer { batch_size_cap: 0, ..FasterTransformer::default() };
    for (scheduler, name) in
        [(orca(0, Reserve::RequestCap), "orca"), (Scheduler::FasterTransformer(static_batches), "faster_transformer")]
    {
        let mut s = scenario(|_, _| ());
        s.deployment.scheduler = scheduler;
        let found: Vec<String> = check(&s).err().unwrap_or_default().iter().map(ToString::to_string).collect();
        assert_eq!(found, [format!("deployment.scheduler.{name}.batch_size_cap: is 0; must be at least 1")]);
    }
}

/// Half of the layers see so many tokens.
pub(super) fn windows(s: &mut Scenario, tokens: u32) {
    (s.model.sliding_window, s.model.window_layers) = (tokens, 16);
}

#[test]
fn windows_are_held_beside_what_is_reserved() {
    // Four tokens and a block: two blocks for each, and two for its eight tokens.
    check_of(
        orca(128, Reserve::MaxModelLen),
        |s| {
            sizes(11, 8)(s);
            windows(s, 4);
        },
        &[ask(0.0, 3, 2), ask(0.0, 3, 1), ask(0.0, 3, 1)],
        &["finished q0 s0 f1 d2 o2", "finished q0 s0 f1 d1 o1", "finished q0 s1 f2 d2 o1"],
        &["0+1 d0 p6/2 c0 r2 w1 x0 b8", "1+1 d1 p3/1 c3 r2 w0 x0 b8"],
        |s| assert_eq!(s.kv_block_ns, 16_000_000),
    );
}
