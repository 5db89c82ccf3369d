//! Arguments to a subcommand; errors to text and exit code.

use std::process::ExitCode;

use clap::Parser;

/// Allocation is a visible part of ingest and fan-out; mimalloc is what DataFusion's own tools use.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = pipe::cli::Args::parse();
    ExitCode::from(pipe::cli::main(args) as u8)
}
