//! What `SET` and `SHOW` know: the settings that PostgreSQL's clients send, of which few matter here.
//!
//! Settings of the query engine are not among them: no client changes how another's query, or its own, is run.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fault::Fault;

/// The release of PostgreSQL whose dialect and catalog clients may expect.
pub const SERVER_VERSION: &str = "16.6";
const VERSION_NUM: &str = "160006";

/// Names, values at first, and whether clients may change them.
const KNOWN: &[(&str, &str, bool)] = &[
    ("application_name", "", true),
    ("backslash_quote", "safe_encoding", true),
    ("bytea_output", "hex", false),
    ("client_encoding", "UTF8", false),
    ("client_min_messages", "notice", true),
    ("cursor_tuple_fraction", "0.1", true),
    ("datestyle", "ISO, MDY", false),
    ("default_table_access_method", "heap", false),
    ("default_tablespace", "", true),
    ("default_transaction_deferrable", "off", true),
    ("default_transaction_isolation", "repeatable read", true),
    ("default_transaction_read_only", "on", true),
    ("enable_bitmapscan", "on", true),
    ("enable_hashjoin", "on", true),
    ("enable_indexscan", "on", true),
    ("enable_mergejoin", "on", true),
    ("enable_nestloop", "on", true),
    ("enable_seqscan", "on", true),
    ("enable_sort", "on", true),
    ("escape_string_warning", "on", true),
    ("extra_float_digits", "1", true),
    ("from_collapse_limit", "8", true),
    ("geqo", "on", true),
    ("idle_in_transaction_session_timeout", "0", true),
    ("idle_session_timeout", "0", true),
    ("in_hot_standby", "off", false),
    ("integer_datetimes", "on", false),
    ("intervalstyle", "postgres", false),
    ("is_superuser", "off", false),
    ("jit", "off", true),
    ("join_collapse_limit", "8", true),
    ("lc_collate", "C", false),
    ("lc_ctype", "C", false),
    ("lc_messages", "C", true),
    ("lc_monetary", "C", true),
    ("lc_numeric", "C", true),
    ("lc_time", "C", true),
    ("lock_timeout", "0", true),
    ("max_connections", "100", false),
    ("max_identifier_length", "63", false),
    ("max_index_keys", "32", false),
    ("max_parallel_workers_per_gather", "2", true),
    ("quote_all_identifiers", "off", true),
    ("random_page_cost", "4", true),
    ("row_security", "on", true),
    ("search_path", "public", true),
    ("server_encoding", "UTF8", false),
    ("server_version", SERVER_VERSION, false),
    ("server_version_num", VERSION_NUM, false),
    ("session_authorization", "", false),
    ("standard_conforming_strings", "on", false),
    ("statement_timeout", "0", true),
    ("synchronize_seqscans", "on", true),
    ("synchronous_commit", "on", true),
    ("temp_buffers", "8MB", true),
    ("timezone", "UTC", false),
    ("transaction_deferrable", "off", true),
    ("transaction_isolation", "repeatable read", true),
    ("transaction_read_only", "on", true),
    ("wal_level", "replica", false),
    ("work_mem", "4MB", true),
    ("xmloption", "content", true),
];

/// The settings of one connection.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    changed: BTreeMap<&'static str, String>,
    /// What was changed before the transaction that is open.
    before: Option<BTreeMap<&'static str, String>>,
    /// Values from outside of the transaction, of settings that have others within it alone.
    outer: BTreeMap<&'static str, Option<String>>,
}

/// What `SET` did.
#[derive(Debug, PartialEq, Eq)]
pub enum Changed {
    Yes,
    /// Nothing, for a reason that the client is told.
    No(String),
}

impl Settings {
    /// The value of a setting.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn get(&self, name: &str) -> Result<&str, Fault> {
        let (name, first, _) = known(name)?;
        Ok(self.changed.get(name).map_or(*first, String::as_str))
    }

    /// All of them, by name.
    pub fn all(&self) -> Vec<(&'static str, String)> {
        KNOWN.iter().map(|(n, v, _)| (*n, self.changed.get(n).cloned().unwrap_or_else(|| v.to_string()))).collect()
    }

    /// Gives a setting another value; `None` is its first one.
    ///
    /// # Errors
    /// There is none of that name, or it cannot have that value.
    pub fn set(&mut self, name: &str, value: Option<&str>) -> Result<Changed, Fault> {
        let (name, first, free) = known(name)?;
        let Some(value) = value else {
            self.changed.remove(name);
            self.outer.remove(name);
            return Ok(Changed::Yes);
        };
        if *name == "statement_timeout" {
            duration(value)?;
        }
        if !*free {
            let same = |v: &str| v.to_lowercase().replace(['-', ' ', '"', '\''], "");
            return Ok(match same(value) == same(first) || (*name == "datestyle" && same(value).starts_with("iso")) {
                true => Changed::Yes,
                false => Changed::No(format!("`{name}` is always {first} here")),
            });
        }
        self.changed.insert(name, value.to_string());
        self.outer.remove(name);
        Ok(Changed::Yes)
    }

    /// The same until the transaction ends.
    ///
    /// # Errors
    /// As [`Settings::set`].
    pub fn set_local(&mut self, name: &str, value: Option<&str>) -> Result<Changed, Fault> {
        let (name, ..) = known(name)?;
        if self.before.is_none() {
            return Ok(Changed::No("SET LOCAL can only be used in transaction blocks".into()));
        }
        let outer = self.outer.get(name).cloned().unwrap_or_else(|| self.changed.get(name).cloned());
        let changed = self.set(name, value)?;
        self.outer.insert(name, outer);
        Ok(changed)
    }

    /// A transaction begins.
    pub fn begin(&mut self) {
        self.before = Some(self.changed.clone());
        self.outer.clear();
    }

    /// It ends: what was set in it is kept, but for what is its own, or nothing is.
    pub fn end(&mut self, kept: bool) {
        let (before, outer) = (self.before.take(), std::mem::take(&mut self.outer));
        match before {
            Some(before) if !kept => self.changed = before,
            _ => {
                for (name, value) in outer {
                    match value {
                        Some(value) => drop(self.changed.insert(name, value)),
                        None => drop(self.changed.remove(name)),
                    }
                }
            }
        }
    }

    /// Sets what is not for clients to choose.
    pub fn fix(&mut self, name: &str, value: String) {
        if let Ok((name, ..)) = known(name) {
            self.changed.insert(name, value);
        }
    }

    /// All first values again, but for who is connected.
    pub fn reset(&mut self) {
        self.changed.retain(|name, _| *name == "session_authorization");
        self.outer.clear();
    }

    /// The time that a statement may take, if the client wants less than the server allows.
    pub fn timeout(&self) -> Option<Duration> {
        self.get("statement_timeout").ok().and_then(|v| duration(v).ok()).filter(|d| !d.is_zero())
    }

    /// The schemas in which names without one are looked up, in order.
    pub fn path(&self) -> Vec<String> {
        let text = self.get("search_path").unwrap_or("public");
        let names = text.split(',').map(|n| {
            let n = n.trim();
            match n.strip_prefix('"').and_then(|n| n.strip_suffix('"')) {
                Some(quoted) => quoted.to_string(),
                None => n.trim_matches('\'').to_lowercase(),
            }
        });
        names.filter(|n| !n.is_empty() && n != "$user").collect()
    }
}

fn known(name: &str) -> Result<&'static (&'static str, &'static str, bool), Fault> {
    let lower = name.trim_matches('"').to_lowercase();
    KNOWN.iter().find(|(n, ..)| *n == lower).ok_or_else(|| {
        let name: String = name.chars().take(100).collect();
        Fault::new("42704", format!("unrecognized configuration parameter \"{name}\"")).hint("SHOW ALL lists them")
    })
}

/// `1500`, `1500ms`, `2s`, `1min`, `1h`, `1d`; milliseconds without unit.
fn duration(text: &str) -> Result<Duration, Fault> {
    let text = text.trim().trim_matches('\'').trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let scale = match text[split..].trim() {
        "" | "ms" => Some(1.0),
        "us" => Some(1e-3),
        "s" => Some(1e3),
        "min" => Some(60e3),
        "h" => Some(3600e3),
        "d" => Some(86400e3),
        _ => None,
    };
    let ms = text[..split].parse::<f64>().ok().zip(scale).map(|(n, s)| n * s).filter(|ms| *ms <= 2_147_483_647.0);
    ms.map(|ms| Duration::from_secs_f64(ms / 1000.0)).ok_or_else(|| {
        let text: String = text.chars().take(50).collect();
        Fault::new("22023", format!("invalid value for parameter \"statement_timeout\": \"{text}\""))
            .hint("valid units are us, ms, s, min, h and d")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_may_change() {
        let mut settings = Settings::default();
        let cases = [
            ("application_name", "x", Some(true)),
            ("client_encoding", "utf-8", Some(true)),
            ("client_encoding", "LATIN1", Some(false)),
            ("TimeZone", "Europe/Berlin", Some(false)),
            ("DateStyle", "ISO", Some(true)),
            ("statement_timeout", "2min", Some(true)),
            ("statement_timeout", "soon", None),
            ("statement_timeout", "-1", None),
            ("datafusion.execution.batch_size", "1", None),
            ("nonsense", "1", None),
            ("", "1", None),
        ];
        for (name, value, expected) in cases {
            let done = settings.set(name, Some(value)).ok().map(|c| c == Changed::Yes);
            assert_eq!(done, expected, "SET {name} = {value}");
        }
        assert_eq!(settings.timeout(), Some(Duration::from_secs(120)));
        assert_eq!(settings.get("Application_Name").unwrap(), "x");
        settings.reset();
        assert_eq!((settings.timeout(), settings.get("timezone").unwrap()), (None, "UTC"));
    }

    #[test]
    fn what_a_transaction_leaves() {
        // Each `SET` or `SET LOCAL` of a transaction, and the value after COMMIT; after ROLLBACK it is the one from before.
        let cases: [(&[(bool, &str)], &str); 5] = [
            (&[(false, "2s")], "2s"),
            (&[(true, "2s")], "1s"),
            (&[(false, "2s"), (true, "3s"), (true, "4s")], "2s"),
            (&[(true, "2s"), (false, "3s")], "3s"),
            (&[], "1s"),
        ];
        for (steps, committed) in cases {
            for (kept, expected) in [(true, committed), (false, "1s")] {
                let mut settings = Settings::default();
                settings.set("statement_timeout", Some("1s")).unwrap();
                settings.begin();
                for (local, value) in steps {
                    let set = if *local { Settings::set_local } else { Settings::set };
                    set(&mut settings, "statement_timeout", Some(value)).unwrap();
                    assert_eq!(settings.get("statement_timeout").unwrap(), *value);
                }
                settings.end(kept);
                assert_eq!(settings.get("statement_timeout").unwrap(), expected, "{steps:?} {kept}");
            }
        }
        let mut settings = Settings::default();
        assert!(matches!(settings.set_local("statement_timeout", Some("1s")), Ok(Changed::No(_))));
        assert_eq!(settings.timeout(), None);
    }

    #[test]
    fn the_search_path() {
        let cases = [
            ("sweep", vec!["sweep"]),
            ("\"$user\", Public", vec!["public"]),
            ("\"My Pipe\",public", vec!["My Pipe", "public"]),
            ("''", vec![]),
        ];
        for (value, expected) in cases {
            let mut settings = Settings::default();
            settings.set("search_path", Some(value)).unwrap();
            assert_eq!(settings.path(), expected, "{value}");
        }
    }
}
