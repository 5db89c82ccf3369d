//! A PostgreSQL server of this machine's binaries, in a temporary folder, for the time of a test.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::serving::skipped;

pub const USER: &str = "tester";
pub const PASSWORD: &str = "hunter2-secret";

pub struct Server {
    bin: PathBuf,
    dir: TempDir,
    pub port: u16,
}

/// The newest of Debian's server packages.
fn binaries() -> Option<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .flatten()
        .filter_map(|e| Some((e.file_name().to_str()?.parse().ok()?, e.path().join("bin"))))
        .filter(|(_, bin)| bin.join("initdb").exists())
        .collect();
    found.sort();
    found.pop().map(|(_, bin)| bin)
}

fn output(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}\n{text}");
    text
}

impl Server {
    /// A server with a database and a user; `None` and a note where there are no binaries.
    pub fn start() -> Option<Server> {
        let Some(bin) = binaries() else {
            skipped("no PostgreSQL server in /usr/lib/postgresql");
            return None;
        };
        let dir = tempfile::tempdir().expect("a folder");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("a port").port();
        drop(listener);
        let server = Server { bin, dir, port };
        std::fs::write(server.path().join("password"), PASSWORD).expect("a file");
        server.certificates();
        if root() {
            output(Command::new("chown").args(["-R", "postgres"]).arg(server.path()));
        }
        let data = server.path().join("data");
        output(
            server
                .server("initdb")
                .args(["-A", "scram-sha-256", "-U", USER, "--no-sync", "-E", "UTF8", "--locale=C"])
                .args([
                    "-D",
                    data.to_str().expect("a path"),
                    "--pwfile",
                    server.path().join("password").to_str().expect("a path"),
                ]),
        );
        let place = server.path().display();
        let mut options = format!("-p {port} -k {place} -c listen_addresses=127.0.0.1 -c fsync=off");
        if server.has_tls() {
            options += &format!(" -c ssl=on -c ssl_cert_file={place}/server.crt -c ssl_key_file={place}/server.key");
        }
        output(
            server
                .server("pg_ctl")
                .args(["start", "-w", "-t", "60", "-o", &options, "-D"])
                .arg(data)
                .arg("-l")
                .arg(server.path().join("log")),
        );
        Some(server)
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn has_tls(&self) -> bool {
        self.path().join("server.crt").exists()
    }

    /// An authority, and a certificate of `localhost` that it signed; another authority that signed nothing.
    fn certificates(&self) {
        let script = "for ca in ca other; do openssl req -x509 -newkey rsa:2048 -nodes -keyout $ca.key -out $ca.crt -days 30 \
                      -subj /CN=$ca -addext basicConstraints=critical,CA:TRUE; done && \
                      openssl req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost && \
                      printf 'subjectAltName=DNS:localhost\\nbasicConstraints=CA:FALSE\\n' > ext && \
                      openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out made.crt -days 30 \
                      -extfile ext && chmod 600 server.key && mv made.crt server.crt";
        let made = Command::new("sh").args(["-c", script]).current_dir(self.path()).output();
        if !made.is_ok_and(|o| o.status.success()) {
            skipped("without TLS: openssl made no certificates");
        }
    }

    /// A program of the server, which does not run as root.
    fn server(&self, name: &str) -> Command {
        let program = self.bin.join(name);
        let mut command = if root() {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.current_dir(self.path()).stdin(std::process::Stdio::null());
        command
    }

    /// `postgresql://user:password@127.0.0.1:port/postgres`.
    pub fn url(&self) -> String {
        format!("postgresql://{USER}:{PASSWORD}@127.0.0.1:{}/postgres", self.port)
    }

    /// What a query prints, a line per row, with `|` between values.
    pub fn ask(&self, sql: &str) -> String {
        let mut psql = Command::new(self.bin.join("psql"));
        psql.args(["-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-c", sql, &self.url()]);
        output(&mut psql).trim_end().to_string()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let data = self.path().join("data");
        let _ = self.server("pg_ctl").args(["stop", "-m", "immediate", "-D"]).arg(data).output();
    }
}

fn root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout.starts_with(b"0\n"))
}
