//! The commands of the console: what follows a backslash.

use std::path::PathBuf;

use crate::diag::{Diagnostic, Result, nearest};
use crate::query::output::Format;

/// One command, understood.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    Describe(Option<String>),
    Tables(Option<String>),
    Views(Option<String>),
    Pipelines(Option<String>),
    Functions(Option<String>),
    Timing(Option<bool>),
    Expanded(Option<Expanded>),
    /// Show the settings, or one; or set it.
    Set(Option<(Setting, Option<String>)>),
    Format(Option<Format>),
    /// Send results to a file, or to standard output again.
    Output(Option<PathBuf>),
    Include(PathBuf),
    Edit,
    /// Seconds between runs.
    Watch(f64),
    Connect(Option<String>),
    Go,
    Reset,
    Help,
    Quit,
}

/// Whether rows are shown with a line per column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expanded {
    #[default]
    Off,
    On,
    /// Where they are wider than the terminal.
    Auto,
}

/// What `\pset` sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    Format,
    Expanded,
    All,
    Timing,
}

impl Setting {
    pub const ALL: [(&'static str, Setting); 4] = [
        ("all", Setting::All),
        ("expanded", Setting::Expanded),
        ("format", Setting::Format),
        ("timing", Setting::Timing),
    ];
}

/// Name, arguments, and what it does, in the order of `\?`.
pub const COMMANDS: &[(&str, &str, &str)] = &[
    ("?", "", "show the commands"),
    ("q", "", "leave (also Ctrl-D)"),
    ("d", "[NAME]", "list tables and views, or show one: columns with type, unit and description, rows, where from"),
    ("dt", "[PATTERN]", "list tables; in patterns, * stands for any characters and ? for one"),
    ("dv", "[PATTERN]", "list views, those that cannot be queried with the reason"),
    ("dn", "[PATTERN]", "list pipelines"),
    ("df", "[PATTERN]", "list functions, or show what one does"),
    ("c", "[PIPELINE]", "tables without a pipeline's name are those of this one"),
    ("x", "[on|off|auto]", "a line per column; auto: where rows are wider than the terminal"),
    ("f", "[FORMAT]", "how rows are printed: table, csv, tsv, json, jsonl, markdown, vertical, parquet, arrow"),
    ("pset", "[SETTING [VALUE]]", "show or set: format, expanded, all (rows), timing"),
    ("timing", "[on|off]", "how long statements take"),
    ("o", "[FILE]", "send results to a file; without one, back to standard output"),
    ("i", "FILE", "run the statements and commands of a file"),
    ("e", "", "edit the last statement in $VISUAL or $EDITOR"),
    ("g", "", "run the statement before it, or the last one again"),
    ("r", "", "forget the statement before it"),
    ("watch", "[SECONDS]", "run the statement before it, or the last one, again and again; Ctrl-C ends it"),
];

impl Command {
    /// Reads what stands after the backslash.
    ///
    /// # Errors
    /// An unknown command, or arguments that it does not take.
    pub fn parse(text: &str) -> Result<Command> {
        let words = words(text)?;
        let (name, args) = match words.split_first() {
            Some((name, args)) => (name.as_str(), args),
            None => ("", &[][..]),
        };
        let (known, most) = match name {
            "pset" => (true, 2),
            "q" | "?" | "e" | "g" | "r" => (true, 0),
            _ => (COMMANDS.iter().any(|(n, ..)| *n == name), 1),
        };
        if !known {
            return Err(unknown(name));
        }
        if args.len() > most {
            return Err(wrong(name, format!("`\\{name}` takes no `{}`", args[most])));
        }
        let first = args.first().cloned();
        Ok(match name {
            "?" => Command::Help,
            "q" => Command::Quit,
            "d" => Command::Describe(first),
            "dt" => Command::Tables(first),
            "dv" => Command::Views(first),
            "dn" => Command::Pipelines(first),
            "df" => Command::Functions(first),
            "c" => Command::Connect(first),
            "x" => Command::Expanded(first.as_deref().map(|v| expanded(name, v)).transpose()?),
            "f" => Command::Format(first.as_deref().map(|v| format(name, v)).transpose()?),
            "timing" => Command::Timing(first.as_deref().map(|v| switch(name, v)).transpose()?),
            "o" => Command::Output(first.map(PathBuf::from)),
            "i" => match first {
                Some(file) => Command::Include(file.into()),
                None => return Err(wrong(name, "`\\i` needs the name of a file".to_string())),
            },
            "e" => Command::Edit,
            "g" => Command::Go,
            "r" => Command::Reset,
            "watch" => Command::Watch(first.as_deref().map_or(Ok(2.0), |s| seconds(name, s))?),
            _ => Command::Set(match first {
                Some(setting) => Some((self::setting(&setting)?, args.get(1).cloned())),
                None => None,
            }),
        })
    }
}

/// Words between spaces; in single quotes, spaces are part of one.
fn words(text: &str) -> Result<Vec<String>> {
    let mut all: Vec<String> = Vec::new();
    let mut quoted = false;
    let mut inside = false;
    for c in text.chars() {
        if c == '\'' {
            quoted = !quoted;
            if !inside {
                all.push(String::new());
            }
            inside = true;
        } else if c.is_whitespace() && !quoted {
            inside = false;
        } else {
            if !inside {
                all.push(String::new());
            }
            inside = true;
            all.iter_mut().last().into_iter().for_each(|w| w.push(c));
        }
    }
    if quoted {
        return Err(Diagnostic::new("console::quote", "a quote is not closed").help("write '...'").into());
    }
    Ok(all)
}

fn unknown(name: &str) -> crate::diag::Failure {
    let near = nearest(name, COMMANDS.iter().map(|(n, ..)| *n));
    let help = near.map_or("`\\?` shows the commands".to_string(), |n| format!("did you mean `\\{n}`?"));
    Diagnostic::new("console::unknown_command", format!("there is no command `\\{name}`")).help(help).into()
}

fn wrong(name: &str, what: String) -> crate::diag::Failure {
    let usage = COMMANDS
        .iter()
        .find(|(n, ..)| *n == name)
        .map_or(String::new(), |(n, args, does)| format!("{}: {does}", format!("\\{n} {args}").trim_end()));
    Diagnostic::new("console::argument", what).help(usage).into()
}

/// `on` or `off`, and their other spellings.
///
/// # Errors
/// Neither.
pub fn switch(name: &str, value: &str) -> Result<bool> {
    match value.to_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Ok(true),
        "off" | "false" | "no" | "0" => Ok(false),
        _ => Err(wrong(name, format!("`{value}` is neither `on` nor `off`"))),
    }
}

/// # Errors
/// Not `on`, `off` or `auto`.
pub fn expanded(name: &str, value: &str) -> Result<Expanded> {
    match value {
        "auto" => Ok(Expanded::Auto),
        other => Ok(if switch(name, other)? { Expanded::On } else { Expanded::Off }),
    }
}

/// # Errors
/// There is no such format.
pub fn format(name: &str, value: &str) -> Result<Format> {
    use clap::ValueEnum;
    if let Ok(format) = Format::from_str(value, true) {
        return Ok(format);
    }
    let all: Vec<String> = Format::value_variants().iter().map(|f| f.name()).collect();
    let near =
        nearest(value, all.iter().map(String::as_str)).map_or(String::new(), |n| format!("; did you mean `{n}`?"));
    Err(wrong(name, format!("there is no format `{value}`{near}")))
}

fn setting(value: &str) -> Result<Setting> {
    if let Some((_, setting)) = Setting::ALL.iter().find(|(n, _)| *n == value) {
        return Ok(*setting);
    }
    let near = nearest(value, Setting::ALL.iter().map(|(n, _)| *n))
        .map_or(String::new(), |n| format!("; did you mean `{n}`?"));
    Err(wrong("pset", format!("there is no setting `{value}`{near}")))
}

fn seconds(name: &str, value: &str) -> Result<f64> {
    super::seconds(value).map_err(|what| wrong(name, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands() {
        let text = |s: &str| Some(s.to_string());
        let cases = [
            ("?", Command::Help),
            ("q", Command::Quit),
            ("d", Command::Describe(None)),
            ("d  sweep.sim ", Command::Describe(text("sweep.sim"))),
            ("dt sim*", Command::Tables(text("sim*"))),
            ("df 'a b'", Command::Functions(text("a b"))),
            ("x", Command::Expanded(None)),
            ("x auto", Command::Expanded(Some(Expanded::Auto))),
            ("x OFF", Command::Expanded(Some(Expanded::Off))),
            ("f markdown", Command::Format(Some(Format::Markdown))),
            ("pset", Command::Set(None)),
            ("pset format csv", Command::Set(Some((Setting::Format, text("csv"))))),
            ("timing on", Command::Timing(Some(true))),
            ("o 'my file.csv'", Command::Output(Some("my file.csv".into()))),
            ("o", Command::Output(None)),
            ("i x.sql", Command::Include("x.sql".into())),
            ("watch", Command::Watch(2.0)),
            ("watch 0.5", Command::Watch(0.5)),
            ("c", Command::Connect(None)),
        ];
        for (given, expect) in cases {
            assert_eq!(Command::parse(given).unwrap(), expect, "\\{given}");
        }
    }

    #[test]
    fn mistakes() {
        let cases = [
            ("tming", "there is no command `\\tming`", "did you mean `\\timing`?"),
            ("", "there is no command `\\`", "did you mean"),
            ("zzzzzz", "there is no command", "`\\?` shows the commands"),
            ("q now", "takes no `now`", "\\q: leave"),
            ("x maybe", "neither `on` nor `off`", "\\x [on|off|auto]"),
            ("f cvs", "did you mean `csv`?", "\\f [FORMAT]"),
            ("pset formt csv", "did you mean `format`?", "\\pset"),
            ("i", "needs the name of a file", "\\i FILE"),
            ("watch -1", "-1", "\\watch [SECONDS]"),
            ("watch 0", "0", "\\watch [SECONDS]"),
            ("o 'x", "not closed", "write"),
        ];
        for (given, message, help) in cases {
            let failure = Command::parse(given).unwrap_err();
            let d = &failure.diagnostics[0];
            assert!(d.message.contains(message), "\\{given}: {}", d.message);
            assert!(d.help.as_ref().is_some_and(|h| h.contains(help)), "\\{given}: {:?}", d.help);
        }
    }
}
