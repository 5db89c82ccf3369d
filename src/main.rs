//! Arguments to a subcommand; errors to text and exit code.

fn main() {}
