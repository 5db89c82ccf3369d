//! pipe: a declarative dataflow pipeline that turns request traces of LLM services into capacity, configuration and
//! cost decisions. This page is for the next author; users start at README.md.
//!
//! # The picture
//!
//! ```text
//!  YAML ──► spec ──► plan ──► run ──► stage ──► kernel (simulator, samplers)
//!                     │        │       │  └───► query (DataFusion)
//!                     └────────┴───────┴──────► store (Parquet, content-addressed)
//!                                                 ▲
//!            cli: run, plan, check, schema,       │
//!                 ls, show, sql, report ─► query ─┤
//!                 serve ─► serve ────────► query ─┘
//! ```
//!
//! A user writes a YAML file of named stages. Every stage reads tables and makes tables; every table is Parquet in a
//! content-addressed store and is published under a stable path. A stage whose recipe (settings, inputs, versions) is
//! in the store is never run again; a scenario that was ever simulated is never simulated again.
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | pipeline | one YAML file: name, seed, params, stages |
//! | stage | a named step of one kind that reads tables and makes tables |
//! | table | rows with a documented schema; named after its stage (`sim`), or stage and part (`sim_requests`) |
//! | scenario | one fully specified simulation: deployment + workload + seed; a row of a table like anything else |
//! | deployment | what is operated: model, GPU, parallelism, replicas or pools, router, scheduler, KV cache, latency model |
//! | replica | one engine instance (TP x PP GPUs) with its own scheduler and KV cache; a data-parallel rank is one too |
//! | pool | equal replicas with a role (mixed, encode, prefill, decode); a deployment without pools is one mixed pool |
//! | set of candidates | the replicas of all pools that serve one model in one role: what one router chooses among |
//! | part | what one engine does for a request: its images, its prompt, its reply, or prompt and reply |
//! | conversation | requests that belong to one session, or wait for each other |
//! | step | one iteration of an engine: a batch formed, executed, and its tokens handed out |
//! | fingerprint | the hash of a stage's recipe: kind, version, settings, seed, content hashes of its inputs |
//! | trial | one evaluation that an optimizer made |
//! | profile | a table of measured times of operators, layers or steps, which some latency models read |
//! | run | requests that a real server answered, with their times; what a simulation is compared with |
//! | trace | a table of requests: who asked what, when, of what length; what `ingest`, `synthesize`, `transform` and `tokenize` make |
//! | client, tenant | who sends requests, and whose they are |
//!
//! TTFT: arrival to first token. ITL: gap between two consecutive tokens of a request. TPOT: (finish - first token) /
//! (output tokens - 1). E2E: arrival to last token. Goodput: requests per second that meet every objective. Quantiles
//! are exact, with linear interpolation.
//!
//! # The code
//!
//! | module | holds | may use |
//! |---|---|---|
//! | [`cli`] | one file per subcommand | everything |
//! | [`serve`] | PostgreSQL's wire protocol, Arrow Flight SQL, HTTP; read-only | `query report store table` |
//! | [`run`] | executes a plan: order, concurrency, progress, cancel, record | `plan stage store spec` |
//! | [`plan`] | pipeline to DAG; what is cached, what runs, and why | `spec stage store` |
//! | [`stage`] | the kinds of stages, one file each | `kernel table trace query report store spec catalog` |
//! | [`query`] | the DataFusion session over tables: functions, rules, output formats | `store table` |
//! | [`report`] | charts, the graph of a pipeline, the page of a report | |
//! | [`trace`] | trace formats | `table spec` |
//! | [`store`] | recipes, atomic publish, the memory of scenarios, records of runs | `table spec` |
//! | [`table`] | schemas between stages | |
//! | [`catalog`] | facts of models and GPUs | `spec` |
//! | [`spec`] | YAML to typed values that know their place | |
//! | [`diag`] | diagnostics and exit codes | |
//! | `pipe-kernel` | simulator, workloads, samplers: no I/O, no clock, no threads, no Arrow | nobody |
//!
//! A test holds these directions, and that kernel types meet Arrow only in `stage` and `table`.
//!
//! # What must stay true
//!
//! - Same pipeline, seed and inputs: the same bytes in every table, on any machine, with any number of threads. So:
//!   integer nanoseconds and integer sums; random numbers from labelled streams with a specified generator; `libm`
//!   instead of the platform's; stored results are ordered; parts are cut by rows, never by threads.
//! - A crash at any instant leaves the old table or the new one.
//! - An operator of ours in a DataFusion plan is never a leaf, and takes nothing from a partition's index: on a
//!   cluster, leaves are repeated per task and partitions are renumbered.
//! - Every mistake of the user is found before anything runs, all at once, with file, line, column and remedy; a bug
//!   of ours is an `assert!`.
//! - The fast engine equals `sim::reference` in every row, on random scenarios.
//!
//! # To add something
//!
//! A router, scheduler, latency model, sampler, trace format or kind of stage: one new file, one variant of its enum,
//! one line where the enum is built. An objective or a view: one `.sql` file.
//!
//! # Decisions
//!
//! - **Settings live in `spec`, behaviour in `stage`.** A kind's settings are plain data with positions; its [`stage::Kind`]
//!   implementation reads, checks and runs them.
//! - **Paths in YAML are relative to their file; paths given with `--set` are relative to the working directory**, as
//!   for any other command.
//! - **Errors are collected, not thrown.** Serde stops at the first mistake; `spec` notes it, takes the offending
//!   entry out of a copy and tries again.
//! - **Scenarios are remembered by content, in packs**, not by their number: a sweep that grows keeps what it has.
//! - **A recipe has what a sweep starts from**, less what the sweep sets in every scenario: where one item of its list sets
//!   something and another does not, the other has it from there.
//! - **A scheduler answers questions; it does not return a whole step.** Who runs how many tokens, who is admitted and who
//!   goes depends on the blocks that the answer before left, so the engine asks about one request at a time and books. A
//!   scheduler that forms no batches is a node of its own beside the replica (`exclusive`).
//! - **An engine says before which time it has nothing to report**, and is let pass up to that time only. So an idle replica
//!   costs nothing, a busy one runs many steps at once, and routers, transfers and requests that wait for others still
//!   hear of everything in the order of time. Where nobody listens, replicas are let pass now and then.
//! - **A request of several parts is one row.** Encoder, prompt and reply on different engines are parts that the cluster
//!   puts together; an engine knows one part, and whether it must keep its blocks.
//! - **A profile belongs to a scenario by its fingerprint.** Its points are read once per stage and shared; the kernel gets
//!   them with the facts (`Supplied`), and what a latency model says beyond what was measured is counted where a step runs.
//! - **A study is a fold over its trials, and is not stored.** A search that goes on asks for the same trials again, and finds
//!   their scenarios, or what a command measured, in the memory by content. So nothing can be out of step with a changed
//!   space, more trials begin with those that there were, and the table of trials is written once. What the wall clock says
//!   of a trial is in no table.
//! - **`auto` follows the fidelity report**, not the other way round: a profile that fits, then the roofline; published
//!   coefficients only for those who ask.
//! - **A part's name has its content's hash**, because readers of a published folder take no lock: they list it, then open
//!   what they listed, and a new run may publish in between. They find the same bytes or no file, never another table's.
//! - **What is sent to a database is cached like rows.** `export` to PostgreSQL has no table in the store that could be
//!   published again, so a result counts only while it is the stage's last one ([`stage::Kind::writes_outside`]).
//! - **Each decode step's duration is evaluated**, though sums over a run of steps have closed forms: it is an entry of
//!   the exact histogram of gaps.
//! - **What was observed of a request is in its row.** A trace that is cut, sampled or merged can so still be compared; the
//!   table `<stage>_measured` beside it has the run, and what follows from its times.
//! - **ServeGen's folders are a generator, not a trace**: they hold rates and distributions of clients, from which
//!   `synthesize` draws. Reading them as rows would make up what nobody sent.
//! - **Rows of 0 tokens are kept with 1, and counted.** A request that failed still loaded the server with its prompt, and an
//!   engine cannot reply with nothing.
//! - **Traces elsewhere are behind a feature**: `object_store` with its clients would be unified with DataFusion's, so that
//!   everybody would build an HTTP client, TLS and DataFusion anew for them.
//! - **`transform` holds its requests in memory**, as `simulate` does after it; `ingest` and `tokenize` stream.
//! - **A server serves the last good run, not what is published.** Stages publish as they finish, so that what is done is
//!   seen; a dashboard must not mix two runs. The store still has the results of both.
//! - **Queries of clients run on threads of their own, and hand over batches through a short channel.** So a heavy query does
//!   not silence the servers, a slow client holds up only itself, and time limits count work alone.
//! - **Servers are not behind a feature.** They add a hundred small packages and some minutes to the first build; in return
//!   every binary that reads tables can also serve them.
//! - **The store is a local folder.** `object_store` enters with DataFusion; the store's own writes need rename, fsync
//!   and locks, which it does not offer.

pub mod catalog;
pub mod cli;
pub mod diag;
pub mod plan;
pub mod query;
pub mod report;
pub mod run;
pub mod serve;
pub mod spec;
pub mod stage;
pub mod store;
pub mod table;
pub mod trace;

/// The repository's root, for tests: asked when they run, because clones that share a target folder share its binaries.
#[cfg(test)]
fn repository() -> &'static std::path::Path {
    static ROOT: std::sync::LazyLock<std::path::PathBuf> =
        std::sync::LazyLock::new(|| std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where").into());
    &ROOT
}
