//! The command line: one file per subcommand. Results go to standard output, everything else to standard error.

// A reader that went away (`pipe ls | head`) is no reason to panic, as the macros of the standard library do.
macro_rules! say {
    ($($t:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($t)*);
    }};
}
macro_rules! put {
    ($($t:tt)*) => {{
        use std::io::Write as _;
        let _ = write!(std::io::stdout(), $($t)*);
    }};
}
macro_rules! tell {
    ($($t:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($t)*);
    }};
}

mod bench;
mod check;
mod diff;
mod duckdb;
mod export;
mod facts;
mod figures;
mod gc;
mod graph;
mod history;
mod init;
mod kv_plan;
mod output;
mod progress;
mod report;
mod run;
mod serve;
mod sql;
mod tables;
mod trace_facts;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};

use crate::diag::{self, Diagnostic, Exit, Failure, Result, Sources};

const EXIT_CODES: &str = "\
Exit codes:
  0    everything asked for is there
  1    a stage failed while it ran
  2    the command line, the pipeline or a query is wrong; nothing ran
  3    an objective with `assert: true` is violated
  130  interrupted; what was finished is kept, run again to go on

Where things are:
  data/tables/<pipeline>/<table>/   the tables, as Parquet
  data/figures/<pipeline>/          the charts, as SVG and PNG
  data/exports/<pipeline>/          the files that `export` wrote
  data/store/                       the cache; may be deleted at any time";

/// From request traces of LLM services to capacity, configuration and cost decisions.
///
/// A pipeline is a YAML file of stages. Every stage makes tables, every table is Parquet and can be queried in SQL, and
/// a stage whose settings and inputs have not changed is never run again.
#[derive(Parser, Debug)]
#[command(name = "pipe", version, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Args {
    /// The project's folder. Default: the nearest folder upwards that holds `pipelines/` or `data/store/`.
    #[arg(long, global = true, value_name = "DIR", env = "PIPE_ROOT")]
    root: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Write a first pipeline, from a question asked in one line
    ///
    /// Examples:
    ///   pipe init "how many H100 does Llama 3.1 70B need for 20 requests/s with TTFT p95 under 1 s?"
    ///   pipe init --name mine "what load does an L40S carry? requests of my/trace.jsonl"
    #[command(verbatim_doc_comment)]
    Init(init::InitArgs),
    /// Run a pipeline: every stage whose settings or inputs changed
    ///
    /// Stages run in the order of what they read, independent ones side by side. Finished stages come from the cache.
    /// Ctrl-C stops within a second and loses no finished scenario: run again to go on.
    ///
    /// Examples:
    ///   pipe run pipelines/sweep.yaml
    ///   pipe run pipelines/sweep.yaml --set trace=my/requests.jsonl --only verdict
    ///   pipe run pipelines/sweep.yaml --set stages.sim.simulate.deployment.gpu=h100-sxm
    #[command(verbatim_doc_comment)]
    Run(run::RunArgs),
    /// Say what a run would do, and why: cached, will run, or depends on what comes before
    Plan(run::PlanArgs),
    /// Find every mistake in a pipeline without running it
    Check(check::CheckArgs),
    /// Print the JSON Schema of pipeline files, for editors
    Schema,
    /// List the tables of all pipelines, and the views
    Ls(tables::LsArgs),
    /// Show a table, or what is known of a GPU or a model
    ///
    /// Of a table: columns with units, rows, size, where it comes from, first rows. Of a GPU: peaks, memory, links, prices,
    /// and where it stops being bound by memory. Of a model: parameters, KV cache, and how it fits the GPUs.
    ///
    /// `gpu`, `model` and `prices` alone list what the catalog has, and `figures` the ready-made figures, unless a table has
    /// that name; with its pipeline (`sweep.gpu`) a table is always meant.
    ///
    /// Examples:
    ///   pipe show sweep.metrics
    ///   pipe show gpu h100-sxm
    ///   pipe show figure latency_by_load
    ///   pipe show model llama-3.1-70b --gpu h100-sxm --tp 4
    ///   pipe show model path/to/config.json --gpu l40s
    #[command(verbatim_doc_comment)]
    Show(tables::ShowArgs),
    /// Query tables with SQL: one query, a script, or a console
    ///
    /// Tables are `<pipeline>.<table>`, or just `<table>` where only one pipeline has it. Files of `queries/views/`
    /// are views. Functions besides those of DataFusion: `pipe sql --functions`.
    ///
    /// Without a query, `pipe sql` is a console with history and completion; `\?` shows its commands. Statements and
    /// commands can also come from a file or by a pipe; the first error ends them, unless --keep-going.
    ///
    /// Examples:
    ///   pipe sql
    ///   pipe sql "SELECT * FROM sweep.metrics ORDER BY ttft_ms_p99 LIMIT 5"
    ///   pipe sql -f queries/slo/chat.sql --format csv
    ///   pipe sql "SELECT * FROM sweep.sim_requests" --output requests.parquet
    ///   pipe sql "SELECT count(*) FROM sweep.sim" --watch 5
    ///   echo '\d sweep.metrics' | pipe sql
    #[command(verbatim_doc_comment)]
    Sql(sql::SqlArgs),
    /// Serve the tables to other programs: PostgreSQL's wire protocol, Arrow Flight SQL, and HTTP
    ///
    /// Read-only, on this machine only unless --host says otherwise. Schemas are pipelines; a new run is served as soon as it
    /// has ended well.
    ///
    /// Examples:
    ///   pipe serve
    ///   pipe serve sweep --postgres 5433 --flight off --http 8080
    ///   pipe serve --host 0.0.0.0 --users users.txt --tokens tokens.txt --tls-cert cert.pem --tls-key key.pem
    #[command(verbatim_doc_comment)]
    Serve(serve::ServeArgs),
    /// Write a table as a file: CSV, JSON lines, Parquet, Arrow or Excel
    ///
    /// Files that belong to a pipeline are made by a stage `export`, which also writes partitioned Parquet, formats of
    /// traces, and tables of PostgreSQL. The result of a query: `pipe sql --format`.
    ///
    /// Examples:
    ///   pipe export sweep.metrics --output metrics.xlsx
    ///   pipe export sweep.sim_requests --output requests.csv.gz
    #[command(verbatim_doc_comment)]
    Export(export::ExportArgs),
    /// Write what a pipeline found as one HTML file: the answer, figures, tables, stages, and how to make it again
    Report(report::ReportArgs),
    /// Show what reads what in a pipeline: as text, Mermaid or SVG
    Graph(graph::GraphArgs),
    /// List the runs that there were, or what one of them did
    History(history::HistoryArgs),
    /// Compare two runs, or two tables: what was set otherwise, and which rows differ
    ///
    /// Examples:
    ///   pipe diff sweep.sim other.sim --key scenario_id --tolerance 0.01
    ///   pipe diff 20260722T101500 latest
    #[command(verbatim_doc_comment)]
    Diff(diff::DiffArgs),
    /// List results that no pipeline uses any more, and remove them with --delete
    Gc(gc::GcArgs),
    /// Print the completion of commands for a shell
    ///
    /// Examples:
    ///   pipe completion bash > ~/.local/share/bash-completion/completions/pipe
    ///   pipe completion zsh > ~/.zfunc/_pipe
    #[command(verbatim_doc_comment)]
    Completion {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Measure how fast the simulator is on this machine
    ///
    /// Prints requests, output tokens and steps per second of CPU time, and the peak of memory over the workload. All
    /// cases are Llama 3.1 8B on an H100, roofline, at most 2,048 tokens and 256 requests per step:
    ///   a  100,000 requests of 512 +/- 256 prompt and output tokens (normal), Poisson, 10/s, one replica
    ///   b  the same at saturation, 25/s with 13,800 KV blocks: preemptions
    ///   c  conversations of about 12,000 prompt tokens with shared prefixes, prefix caching, four replicas:
    ///      the trace of --trace, at its own times, or 12,031 synthetic requests like Mooncake's
    ///   d  1,000,000 requests of the first kind at 40/s over four replicas
    ///   e  case a with outputs twice as long: must take less than twice the time
    ///   f  case a with 200,000 requests: should take about twice the time
    ///
    /// Every run is a process of its own; one that was built without `--release` is several times slower.
    ///
    /// Examples:
    ///   pipe bench --case a --case e
    ///   pipe bench --case c --trace conversation_trace.jsonl --json
    #[command(hide = true, verbatim_doc_comment)]
    Bench(bench::BenchArgs),
    /// Write the sample traces, one per format
    Samples {
        /// Folder to write to
        #[arg(default_value = "data/samples")]
        dir: PathBuf,
    },
}

/// Runs the command, prints what went wrong, and says how to exit.
pub fn main(args: Args) -> Exit {
    // A panic is a bug of ours; it is caught where stages run, and told in one line.
    std::panic::set_hook(Box::new(|info| {
        tell!("internal error (a bug in pipe, please report it): {info}");
    }));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("PIPE_LOG")
                .unwrap_or_else(|_| "pipe=warn,pipe::serve=info,error".into()),
        )
        .with_writer(std::io::stderr)
        .with_ansi(colour())
        .without_time()
        .with_target(false)
        .try_init();
    let root = args.root;
    let done = match args.command {
        Command::Init(a) => init::init(root, a),
        Command::Run(a) => run::run(root, a),
        Command::Plan(a) => run::plan(root, a),
        Command::Check(a) => check::check(root, a),
        Command::Schema => check::schema(),
        Command::Ls(a) => tables::ls(root, a),
        Command::Show(a) => tables::show(root, a),
        Command::Sql(a) => sql::sql(root, a),
        Command::Serve(a) => serve::serve(root, a),
        Command::Export(a) => export::export(root, a),
        Command::Report(a) => report::report(root, a),
        Command::Graph(a) => graph::graph(root, a),
        Command::History(a) => history::history(root, a),
        Command::Diff(a) => diff::diff(root, a),
        Command::Gc(a) => gc::gc(root, a),
        Command::Completion { shell } => {
            use clap::CommandFactory;
            clap_complete::generate(shell, &mut Args::command(), "pipe", &mut std::io::stdout());
            Ok(Exit::Ok)
        }
        Command::Bench(a) => bench::bench(a),
        Command::Samples { dir } => crate::trace::sample::write_all(&dir).map(|()| Exit::Ok).map_err(Reported::bare),
    };
    match done {
        Ok(exit) => exit,
        Err(Reported { failure, sources }) => {
            let text = diag::render(&failure, &sources, colour());
            if !text.is_empty() {
                tell!("{}", text.trim_end_matches('\n'));
            }
            if failure.exit == Exit::Interrupted {
                tell!("interrupted; what was finished is kept: run the same command again to go on");
            }
            failure.exit
        }
    }
}

/// A failure, and the texts that its places point into.
struct Reported {
    failure: Failure,
    sources: Sources,
}

impl Reported {
    fn bare(failure: Failure) -> Self {
        Reported { failure, sources: Sources::default() }
    }
}

impl From<Failure> for Reported {
    fn from(failure: Failure) -> Self {
        Reported::bare(failure)
    }
}

type Done = std::result::Result<Exit, Reported>;

/// Colour on a terminal, unless `NO_COLOR` is set.
fn colour() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// The project's folder: as given, or found from `near`.
fn project(root: Option<PathBuf>, near: &Path) -> Result<PathBuf> {
    match root {
        Some(dir) if dir.is_dir() => dir.canonicalize().map_err(|e| diag::io(&dir, "open the project's folder", &e)),
        Some(dir) => Err(Diagnostic::new("cli::root", format!("`{}` is not a folder", dir.display()))
            .help("give --root an existing folder")
            .into()),
        None => Ok(crate::store::project_root(near)),
    }
}

/// The folder that a pipeline's file lies in.
fn folder(file: &Path) -> &Path {
    match file.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// The file of a pipeline that is given by its name: that of its last run, or the one in `pipelines/` that is called so.
fn pipeline_file(store: &crate::store::Store, name: &str) -> Option<PathBuf> {
    let runs = store.runs();
    let ran = runs.iter().filter(|run| run.pipeline == name).map(|run| store.project().join(&run.file));
    let usual = store.project().join("pipelines").join(format!("{name}.yaml"));
    ran.take(1).chain([usual]).find(|file| file.is_file())
}

/// `k=v` of `--set`.
fn key_value(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((k, v)) if !k.trim().is_empty() => Ok((k.trim().to_string(), v.to_string())),
        _ => Err("write NAME=VALUE, e.g. trace=data/requests.jsonl".to_string()),
    }
}

/// A runtime for commands that read tables.
fn runtime(threads: usize) -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.max(1))
        .thread_stack_size(crate::serve::service::STACK)
        .enable_all()
        .build()
        .map_err(|e| Failure::stage("runtime", format!("cannot start threads: {e}")))
}

/// Cores of the machine.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// `1234567` as `1,234,567`.
fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// A duration in the unit that suits it.
fn duration(millis: u64) -> String {
    match millis {
        0..1_000 => format!("{millis} ms"),
        1_000..60_000 => format!("{:.1} s", millis as f64 / 1e3),
        _ => format!("{} min {:02} s", millis / 60_000, millis / 1_000 % 60),
    }
}

/// A number of bytes in the unit that suits it.
fn bytes(n: u64) -> String {
    match n {
        0..1_024 => format!("{n} B"),
        1_024..1_048_576 => format!("{:.1} KiB", n as f64 / 1_024.0),
        _ => format!("{:.1} MiB", n as f64 / 1_048_576.0),
    }
}

/// Columns of text, padded to their widest cell; numbers to the right.
fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width =
        |c: usize| rows.iter().map(|r| r[c].chars().count()).chain([header[c].chars().count()]).max().unwrap_or(0);
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let numeric: Vec<bool> = (0..header.len())
        .map(|c| {
            !rows.is_empty() && rows.iter().all(|r| r[c].is_empty() || r[c].starts_with(|x: char| x.is_ascii_digit()))
        })
        .collect();
    let line = |cells: Vec<&str>| {
        let mut out = String::from(" ");
        for (c, cell) in cells.iter().enumerate() {
            let pad = " ".repeat(widths[c] - cell.chars().count());
            out.push(' ');
            if numeric[c] {
                out.push_str(&pad);
                out.push_str(cell);
            } else {
                out.push_str(cell);
                out.push_str(&pad);
            }
            out.push(' ');
        }
        out.trim_end().to_string() + "\n"
    };
    let mut out = line(header.to_vec());
    for row in rows {
        out.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(duration(12), "12 ms");
        assert_eq!(duration(61_000), "1 min 01 s");
        assert_eq!(bytes(1_536), "1.5 KiB");
    }

    #[test]
    fn numbers_stand_to_the_right() {
        let text = table(&["name", "rows"], &[vec!["a".into(), "1".into()], vec!["long".into(), "10".into()]]);
        assert_eq!(text, "  name  rows\n  a        1\n  long    10\n");
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }
}
