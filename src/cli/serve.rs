//! `pipe serve`: the tables for other programs.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{Done, cores, project, runtime};
use crate::diag::{self, Exit};
use crate::query::session::SessionOptions;
use crate::serve::{Limits, Options, Report, Server, Wire};
use crate::store::Store;

#[derive(Args, Debug)]
pub struct ServeArgs {
    /// Serve only these pipelines
    #[arg(value_name = "PIPELINE")]
    pipelines: Vec<String>,
    /// Address to listen on; one that other machines reach needs users, tokens and TLS
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port of PostgreSQL's wire protocol, 0 for any that is free, or `off`
    #[arg(long, default_value = "5433", value_name = "PORT", value_parser = port)]
    postgres: Port,
    /// Port of Arrow Flight SQL (gRPC), 0 for any that is free, or `off`
    #[arg(long, default_value = "32010", value_name = "PORT", value_parser = port)]
    flight: Port,
    /// Port of the page and the HTTP interface, 0 for any that is free, or `off`
    #[arg(long, default_value = "8080", value_name = "PORT", value_parser = port)]
    http: Port,
    /// File with a `name:password` per line, for PostgreSQL's clients [env: PIPE_SERVE_USERS=name:password,...]
    #[arg(long, value_name = "FILE")]
    users: Option<PathBuf>,
    /// File with a bearer token per line, for Flight SQL and HTTP [env: PIPE_SERVE_TOKENS=token,...]
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// Certificate with its chain, in PEM; connections without TLS are then refused
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Listen where other machines reach it without users, tokens or TLS: everybody there reads the tables, and so do web
    /// pages that somebody there has open
    #[arg(long)]
    insecure: bool,
    /// Seconds that a statement may take
    #[arg(long, default_value_t = 60.0, value_name = "SECONDS", value_parser = seconds)]
    timeout: f64,
    /// Seconds after which a result that its client does not read is dropped
    #[arg(long, default_value_t = 300.0, value_name = "SECONDS", value_parser = seconds)]
    idle_timeout: f64,
    /// Memory for all queries, such as 4GiB; one query may have half of it [default: half of the machine's]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<usize>,
    /// Queries at once; further ones wait for their turn
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_queries: u32,
    /// Rows that a result may have
    #[arg(long, default_value_t = 50_000_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_rows: u64,
    /// Connections at once, per protocol
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: u32,
    /// Seconds between looks for what a run has published
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS", value_parser = seconds)]
    refresh: f64,
    /// Threads that run queries [default: the machine's cores]
    #[arg(short, long, value_name = "N")]
    jobs: Option<usize>,
}

/// A port, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Port(Option<u16>);

fn port(text: &str) -> Result<Port, String> {
    match text {
        "off" => Ok(Port(None)),
        _ => text.parse().map(|p| Port(Some(p))).map_err(|_| "expected a port from 0 to 65535, or `off`".to_string()),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(s) if s.is_finite() && s > 0.0 && s <= 1e6 => Ok(s),
        _ => Err("expected a number of seconds above 0, and at most 1000000".to_string()),
    }
}

/// `512MiB`, `4GiB`, `4GB`, or bytes.
fn size(text: &str) -> Result<usize, String> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kib" | "k" => 1024.0,
        "mib" | "m" => 1024.0 * 1024.0,
        "gib" | "g" => 1024.0 * 1024.0 * 1024.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        _ => return Err("expected a size such as 512MiB or 4GiB".to_string()),
    };
    match number.trim().parse::<f64>() {
        Ok(n) if n.is_finite() && n * scale >= 1e6 && n * scale < 1e15 => Ok((n * scale) as usize),
        Ok(_) => Err("expected at least 1MB".to_string()),
        Err(_) => Err("expected a size such as 512MiB or 4GiB".to_string()),
    }
}

pub(super) fn serve(root: Option<PathBuf>, args: ServeArgs) -> Done {
    let project = project(root, Path::new("."))?;
    let store = Store::open(&project)?;
    let options = args.options();
    let done: diag::Result<()> = runtime(cores())?.block_on(async {
        let server = Server::open(store, options).await?;
        announce(&server);
        let stop = CancellationToken::new();
        let on_signal = stop.clone();
        tokio::spawn(async move {
            super::run::interrupted().await;
            on_signal.cancel();
        });
        server.run(stop).await
    });
    done?;
    tell!("stopped");
    Ok(Exit::Ok)
}

impl ServeArgs {
    fn options(self) -> Options {
        let ports = [(Wire::Postgres, self.postgres), (Wire::Flight, self.flight), (Wire::Http, self.http)];
        let threads = self.jobs.filter(|j| *j > 0).unwrap_or_else(cores);
        let limits = Limits {
            timeout: Duration::from_secs_f64(self.timeout),
            idle: Duration::from_secs_f64(self.idle_timeout),
            memory_bytes: self.memory.unwrap_or_else(|| SessionOptions::threads(threads).memory_bytes),
            queries: self.max_queries as usize,
            rows: self.max_rows,
            connections: self.max_connections as usize,
        };
        Options {
            pipelines: self.pipelines,
            host: self.host,
            ports: ports.into_iter().filter_map(|(wire, port)| Some((wire, port.0?))).collect(),
            users: self.users,
            tokens: self.tokens,
            tls: self.tls_cert.zip(self.tls_key),
            open: self.insecure,
            limits,
            threads,
            refresh: Duration::from_secs_f64(self.refresh),
            report: Some(Report::new(super::report::page)),
        }
    }
}

/// Says what is served, and how clients connect.
fn announce(server: &Server) {
    let now = server.service().now();
    let pipelines: std::collections::BTreeSet<&str> = now.tables.iter().map(|t| t.pipeline.as_str()).collect();
    let names: Vec<&str> = pipelines.into_iter().collect();
    match names.as_slice() {
        [] => say!("no tables yet: they are served as soon as a pipeline has run"),
        names => say!("{} tables of {}, read-only", now.tables.len(), names.join(", ")),
    }
    let tls = server.tls();
    for (wire, address) in server.addresses() {
        match wire {
            Wire::Postgres => {
                let (host, port) = (address.ip(), address.port());
                let mode = if tls { "?sslmode=require" } else { "" };
                say!("postgres  psql \"postgresql://pipe@{host}:{port}/pipe{mode}\"");
            }
            Wire::Flight => say!("flight    {}://{address}", if tls { "grpc+tls" } else { "grpc" }),
            Wire::Http => say!("http      {}://{address}/", if tls { "https" } else { "http" }),
        }
    }
    say!("Ctrl-C stops it");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ports() {
        let sizes = [
            ("4GiB", Some(4 << 30)),
            ("512mib", Some(512 << 20)),
            ("2.5GB", Some(2_500_000_000)),
            ("2000000", Some(2_000_000)),
            ("10", None),
            ("4 parsecs", None),
            ("", None),
            ("-4GiB", None),
            ("nanGiB", None),
        ];
        for (text, expected) in sizes {
            assert_eq!(size(text).ok(), expected, "{text}");
        }
        let ports = [("0", Some(Port(Some(0)))), ("off", Some(Port(None))), ("65536", None), ("-1", None)];
        for (text, expected) in ports {
            assert_eq!(port(text).ok(), expected, "{text}");
        }
    }
}
