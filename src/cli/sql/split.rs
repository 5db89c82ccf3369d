//! Cuts what a user types or pipes in into statements, which end with `;`, and commands, which begin with `\`.
//!
//! Knows what SQL text may hide a `;` in: texts, names in quotes, dollar quotes, comments. Lines come one at a time, so
//! that a statement runs as soon as it ends.

/// A statement without its `;`, and where it begins in what was read: line and column from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    pub text: String,
    pub line: u32,
    pub column: u32,
}

/// What a line completes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    Statement(Statement),
    /// A command with its arguments, without the backslash; the statement before it on which it acts, if it does on one.
    Command {
        text: String,
        statement: Option<Statement>,
        line: u32,
        column: u32,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Code,
    /// In text or a name that ends with this character; twice it is itself.
    Quoted(char),
    /// In text whose backslashes escape: `E'it\'s'`.
    Escaped,
    /// In text that ends with `$tag$`.
    Dollar(String),
    LineComment,
    /// In `/* */`, so many deep.
    BlockComment(u32),
}

/// The state between lines.
#[derive(Clone, Debug)]
pub struct Splitter {
    state: State,
    /// From the first character that is neither space nor comment.
    text: String,
    start: (u32, u32),
    line: u32,
}

impl Default for Splitter {
    fn default() -> Self {
        Splitter { state: State::Code, text: String::new(), start: (1, 1), line: 0 }
    }
}

/// Commands that act on the statement before them, which then needs no `;`.
fn takes_statement(command: &str) -> bool {
    let name = command.split_whitespace().next().unwrap_or_default();
    matches!(name, "g" | "r" | "watch")
}

impl Splitter {
    /// Reads one line, with or without its end, and says what it completes.
    pub fn line(&mut self, line: &str) -> Vec<Piece> {
        self.line += 1;
        let line = line.strip_suffix('\n').unwrap_or(line);
        let characters: Vec<char> = line.strip_suffix('\r').unwrap_or(line).chars().collect();
        let mut pieces = Vec::new();
        let mut at = 0;
        while at < characters.len() {
            at += self.step(&characters, at, &mut pieces);
        }
        if self.state == State::LineComment {
            self.state = State::Code;
        }
        self.keep('\n', at);
        pieces
    }

    /// What is left without a `;` at the end of the input.
    pub fn finish(&mut self) -> Option<Statement> {
        self.state = State::Code;
        self.take()
    }

    /// Whether a statement has begun that has not ended.
    pub fn is_open(&self) -> bool {
        !self.text.is_empty() || matches!(self.state, State::BlockComment(_))
    }

    /// Whether the end of the input is within text, a quoted name or a comment.
    pub fn is_quoted(&self) -> bool {
        self.state != State::Code
    }

    /// Consumes the characters at `at`, and returns their number.
    fn step(&mut self, line: &[char], at: usize, pieces: &mut Vec<Piece>) -> usize {
        let (here, next) = (line[at], line.get(at + 1).copied());
        match (&self.state, here, next) {
            (State::Code, '-', Some('-')) => self.skip(State::LineComment, 2),
            (State::Code, '/', Some('*')) => self.skip(State::BlockComment(1), 2),
            (State::Code, ';', _) => {
                pieces.extend(self.take().map(Piece::Statement));
                1
            }
            (State::Code, '\\', _) => {
                let text: String = line[at + 1..].iter().collect();
                let text = text.trim().trim_end_matches(';').trim_end().to_string();
                let statement = if takes_statement(&text) { self.take() } else { None };
                pieces.push(Piece::Command { text, statement, line: self.line, column: at as u32 + 1 });
                line.len() - at
            }
            (State::Code, '\'' | '"' | '`', _) => {
                let word = |i: usize| line.get(i).is_some_and(|c| c.is_alphanumeric() || *c == '_');
                let escapes = here == '\'' && at > 0 && matches!(line[at - 1], 'e' | 'E') && !(at > 1 && word(at - 2));
                self.enter(if escapes { State::Escaped } else { State::Quoted(here) }, &line[at..=at], at)
            }
            (State::Code, '$', _) => match dollar_tag(&line[at..]) {
                // Within a name it is a letter.
                Some(tag) if at == 0 || !(line[at - 1].is_alphanumeric() || "_$".contains(line[at - 1])) => {
                    self.enter(State::Dollar(tag.iter().collect()), tag, at)
                }
                _ => self.keep(here, at),
            },
            (State::Code, _, _) => self.keep(here, at),
            (State::Quoted(end), _, _) if here == *end => {
                self.state = State::Code;
                self.keep(here, at)
            }
            (State::Escaped, '\\', Some(next)) => {
                self.keep(here, at);
                self.keep(next, at) + 1
            }
            (State::Escaped, '\'', _) => {
                self.state = State::Code;
                self.keep(here, at)
            }
            (State::Dollar(tag), '$', _) => {
                let tag: Vec<char> = tag.chars().collect();
                if !line[at..].starts_with(&tag) {
                    return self.keep(here, at);
                }
                self.enter(State::Code, &tag, at)
            }
            (State::BlockComment(depth), '*', Some('/')) => {
                let depth = *depth - 1;
                self.skip(if depth == 0 { State::Code } else { State::BlockComment(depth) }, 2)
            }
            (State::BlockComment(depth), '/', Some('*')) => {
                let depth = *depth + 1;
                self.skip(State::BlockComment(depth), 2)
            }
            (State::LineComment | State::BlockComment(_), _, _) => self.keep_comment(),
            (State::Quoted(_) | State::Escaped | State::Dollar(_), _, _) => self.keep(here, at),
        }
    }

    /// Comments become spaces: places stay what they were.
    fn skip(&mut self, state: State, characters: usize) -> usize {
        self.state = state;
        for _ in 0..characters {
            self.keep_comment();
        }
        characters
    }

    fn keep_comment(&mut self) -> usize {
        if !self.text.is_empty() {
            self.text.push(' ');
        }
        1
    }

    fn enter(&mut self, state: State, characters: &[char], at: usize) -> usize {
        self.state = state;
        for c in characters {
            self.keep(*c, at);
        }
        characters.len()
    }

    fn keep(&mut self, c: char, at: usize) -> usize {
        if self.text.is_empty() {
            if c.is_whitespace() && self.state == State::Code || self.is_comment() {
                return 1;
            }
            self.start = (self.line, at as u32 + 1);
        }
        self.text.push(c);
        1
    }

    fn is_comment(&self) -> bool {
        matches!(self.state, State::LineComment | State::BlockComment(_))
    }

    fn take(&mut self) -> Option<Statement> {
        let text = std::mem::take(&mut self.text);
        let (line, column) = self.start;
        let text = text.trim_end().to_string();
        (!text.is_empty()).then_some(Statement { text, line, column })
    }
}

/// `$tag$` at the beginning.
fn dollar_tag(line: &[char]) -> Option<&[char]> {
    let end = 1 + line[1..].iter().position(|c| *c == '$')?;
    let tag = &line[1..end];
    let name = tag.iter().all(|c| c.is_alphanumeric() || *c == '_') && !tag.first().is_some_and(|c| c.is_numeric());
    name.then_some(&line[..=end])
}

/// All pieces of a text, and what is left at its end.
pub fn split(text: &str) -> (Vec<Piece>, Splitter) {
    let mut splitter = Splitter::default();
    let pieces = text.split_inclusive('\n').flat_map(|line| splitter.line(line)).collect();
    (pieces, splitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pieces, statements as they are and commands with their backslash, each with its place.
    fn all(text: &str) -> Vec<String> {
        let (mut pieces, mut rest) = split(text);
        pieces.extend(rest.finish().map(Piece::Statement));
        let statement = |s: &Statement| format!("{}:{} {}", s.line, s.column, s.text);
        let show = |p: &Piece| match p {
            Piece::Statement(s) => statement(s),
            Piece::Command { text, statement: None, line, column } => format!("{line}:{column} \\{text}"),
            Piece::Command { text, statement: Some(s), .. } => format!("{} \\{text}", statement(s)),
        };
        pieces.iter().map(show).collect()
    }

    #[test]
    fn statements_and_commands() {
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            (";;  ;\n", &[]),
            ("select 1", &["1:1 select 1"]),
            ("select 1;", &["1:1 select 1"]),
            (" select 1; select\n2 ;", &["1:2 select 1", "1:12 select\n2"]),
            ("-- only a comment\n/* and\n another; */", &[]),
            ("-- c;\nselect 1 -- d;\n, 2; -- e", &["2:1 select 1      \n, 2"]),
            ("select /* ; /* ; */ ; */ 1;", &["1:1 select                   1"]),
            ("/* a */ select 1;", &["1:9 select 1"]),
            ("select ';', 'it''s;', \"a;b\", `c;d`; x", &["1:1 select ';', 'it''s;', \"a;b\", `c;d`", "1:37 x"]),
            ("select 'a\n;b';", &["1:1 select 'a\n;b'"]),
            ("select 'a\\'; x", &["1:1 select 'a\\'", "1:14 x"]),
            ("select E'a\\';b'; x", &["1:1 select E'a\\';b'", "1:18 x"]),
            ("select date'a\\'; x", &["1:1 select date'a\\'", "1:18 x"]),
            ("select $$a;b$$; $t$ ; $$ ; $t$", &["1:1 select $$a;b$$", "1:17 $t$ ; $$ ; $t$"]),
            ("select $1; select a$b$c; x", &["1:1 select $1", "1:12 select a$b$c", "1:26 x"]),
            ("'-- no comment';", &["1:1 '-- no comment'"]),
            ("\\d sim\nselect 1;", &["1:1 \\d sim", "2:1 select 1"]),
            ("select 1; \\x on;\nselect 2;", &["1:1 select 1", "1:11 \\x on", "2:1 select 2"]),
            ("select\n\\timing\n1;", &["2:1 \\timing", "1:1 select\n\n1"]),
            ("select 1 \\g\n", &["1:1 select 1 \\g"]),
            ("select 1\n\\watch 2", &["1:1 select 1 \\watch 2"]),
            ("\\watch 2", &["1:1 \\watch 2"]),
            ("select 'a\\d';", &["1:1 select 'a\\d'"]),
            ("ä; ö", &["1:1 ä", "1:4 ö"]),
            ("select 1;\r\nselect 2;\r\n", &["1:1 select 1", "2:1 select 2"]),
        ];
        for (text, expect) in cases {
            assert_eq!(all(text), *expect, "{text:?}");
        }
    }

    #[test]
    fn what_is_open() {
        let cases = [
            ("", false, false),
            ("select 1", true, false),
            ("select 1;", false, false),
            ("select 1; -- x", false, false),
            ("select 'a;", true, true),
            ("/* a", true, true),
            ("\\d", false, false),
            ("select $x$;", true, true),
        ];
        for (text, open, quoted) in cases {
            let (_, rest) = split(text);
            assert_eq!((rest.is_open(), rest.is_quoted()), (open, quoted), "{text:?}");
        }
    }
}
