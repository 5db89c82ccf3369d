//! A scanner of JSON text that looks only at what is asked for, and knows the place of everything.
//!
//! Trace rows are small, and most of a row is skipped. The scanner checks the grammar of RFC 8259 as it passes over a
//! value, copies nothing but strings with escapes, and keeps numbers as text, so that they can be read exactly.

use std::borrow::Cow;

use super::Fault;

/// Nesting deeper than this is refused, so that no file can exhaust the stack.
const MAX_DEPTH: u32 = 128;

/// A value that is looked at.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    Null,
    Bool,
    Number(&'a str),
    Text(Cow<'a, str>),
    /// A list; its items have not been read.
    List,
    /// An object; its members have not been read.
    Object,
}

/// A position in a text.
pub struct Scanner<'a> {
    text: &'a str,
    at: usize,
    depth: u32,
}

impl<'a> Scanner<'a> {
    pub fn new(text: &'a str) -> Self {
        Scanner { text, at: 0, depth: 0 }
    }

    /// Where the next value begins.
    pub fn value_at(&mut self) -> usize {
        self.space();
        self.at
    }

    /// Calls `member` for every member of the object that comes next; it must read or skip the value.
    pub fn members(
        &mut self,
        mut member: impl FnMut(&mut Self, Cow<'a, str>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        self.enter(b'{', "an object")?;
        if self.eat(b'}') {
            return self.leave();
        }
        loop {
            self.space();
            let key = self.string()?;
            self.expect(b':', "`:` after a key")?;
            member(self, key)?;
            if !self.eat(b',') {
                self.expect(b'}', "`,` or `}` after a member")?;
                return self.leave();
            }
        }
    }

    /// Calls `item` for every item of the list that comes next; it must read or skip the value.
    pub fn items(&mut self, mut item: impl FnMut(&mut Self) -> Result<(), Fault>) -> Result<(), Fault> {
        self.enter(b'[', "a list")?;
        if self.eat(b']') {
            return self.leave();
        }
        loop {
            item(self)?;
            if !self.eat(b',') {
                self.expect(b']', "`,` or `]` after an item")?;
                return self.leave();
            }
        }
    }

    /// The list that comes next, if it is one of whole numbers of at most 19 digits, as most are; else it is still to be read,
    /// and nothing was added. Several times faster than [`Self::items`].
    pub fn plain_numbers(&mut self, out: &mut Vec<u64>) -> bool {
        let (start, before) = (self.at, out.len());
        let found = self.try_plain_numbers(out).is_some();
        if !found {
            self.at = start;
            out.truncate(before);
        }
        found
    }

    fn try_plain_numbers(&mut self, out: &mut Vec<u64>) -> Option<()> {
        self.space();
        let bytes = self.text.as_bytes();
        let mut at = self.at;
        let next = |at: usize| bytes.get(at).copied();
        let space = |mut at: usize| {
            while let Some(b' ' | b'\n' | b'\r' | b'\t') = next(at) {
                at += 1;
            }
            at
        };
        if next(at)? != b'[' {
            return None;
        }
        at = space(at + 1);
        if next(at)? == b']' {
            self.at = at + 1;
            return Some(());
        }
        loop {
            let (first, mut number) = (at, 0u64);
            while let Some(digit @ b'0'..=b'9') = next(at) {
                number = number.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
                at += 1;
            }
            let digits = at - first;
            if !(1..=19).contains(&digits) || (bytes[first] == b'0' && digits > 1) {
                return None;
            }
            out.push(number);
            at = space(at);
            match next(at)? {
                b',' => at = space(at + 1),
                b']' => {
                    self.at = at + 1;
                    return Some(());
                }
                _ => return None,
            }
        }
    }

    /// The next value; of a list or an object only what it is: call [`Self::items`] or [`Self::members`] then.
    pub fn value(&mut self) -> Result<Value<'a>, Fault> {
        self.space();
        match self.peek() {
            Some(b'"') => Ok(Value::Text(self.string()?)),
            Some(b'-' | b'0'..=b'9') => Ok(Value::Number(self.number()?)),
            Some(b'[') => Ok(Value::List),
            Some(b'{') => Ok(Value::Object),
            Some(b'n') => self.word("null").map(|()| Value::Null),
            Some(b't') => self.word("true").map(|()| Value::Bool),
            Some(b'f') => self.word("false").map(|()| Value::Bool),
            _ => Err(self.unexpected("a value")),
        }
    }

    /// Passes over `word`, if it is what comes next.
    pub fn pass(&mut self, word: &str) -> bool {
        self.space();
        let found = self.text.as_bytes()[self.at..].starts_with(word.as_bytes());
        self.at += if found { word.len() } else { 0 };
        found
    }

    /// Passes over the next value.
    pub fn skip(&mut self) -> Result<(), Fault> {
        self.space();
        match self.peek() {
            Some(b'"') => self.skip_string().map(|_| ()),
            Some(b'[') => self.items(Self::skip),
            Some(b'{') => self.members(|inner, _| inner.skip()),
            _ => self.value().map(|_| ()),
        }
    }

    /// Nothing but white space may follow.
    pub fn end(&mut self) -> Result<(), Fault> {
        self.space();
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.unexpected("the end of the row")),
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn eat(&mut self, byte: u8) -> bool {
        self.space();
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8, what: &str) -> Result<(), Fault> {
        if self.eat(byte) { Ok(()) } else { Err(self.unexpected(what)) }
    }

    fn enter(&mut self, open: u8, what: &str) -> Result<(), Fault> {
        self.expect(open, what)?;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Fault::new(self.at, format!("not JSON that can be read: nested deeper than {MAX_DEPTH}")));
        }
        Ok(())
    }

    fn leave(&mut self) -> Result<(), Fault> {
        self.depth -= 1;
        Ok(())
    }

    fn unexpected(&self, expected: &str) -> Fault {
        let found = match self.text.get(self.at..).and_then(|rest| rest.chars().next()) {
            Some(c) => format!("`{}`", c.escape_debug()),
            None => "the end of the row".to_string(),
        };
        Fault::new(self.at, format!("not valid JSON: found {found}, expected {expected}"))
    }

    fn word(&mut self, word: &str) -> Result<(), Fault> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(self.unexpected("a value"));
        }
        self.at += word.len();
        Ok(())
    }

    fn number(&mut self) -> Result<&'a str, Fault> {
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        let zero = self.peek() == Some(b'0');
        let whole = self.digits();
        let mut valid = whole > 0 && !(zero && whole > 1);
        if self.peek() == Some(b'.') {
            self.at += 1;
            valid &= self.digits() > 0;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            valid &= self.digits() > 0;
        }
        if !valid {
            return Err(Fault::new(start, "not valid JSON: a number that is not one"));
        }
        Ok(&self.text[start..self.at])
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        self.at - start
    }

    fn string(&mut self) -> Result<Cow<'a, str>, Fault> {
        let start = self.at + 1;
        let escapes = self.skip_string()?;
        let raw = &self.text[start..self.at - 1];
        if escapes { unescape(raw, start).map(Cow::Owned) } else { Ok(Cow::Borrowed(raw)) }
    }

    /// Passes over a string; says whether it has escapes.
    fn skip_string(&mut self) -> Result<bool, Fault> {
        if self.peek() != Some(b'"') {
            return Err(self.unexpected("a string"));
        }
        let bytes = self.text.as_bytes();
        let mut escapes = false;
        let mut at = self.at + 1;
        loop {
            match bytes.get(at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escapes = true;
                    at += 2;
                }
                Some(0..=0x1F) => {
                    return Err(Fault::new(at, "not valid JSON: a control character inside a string"));
                }
                Some(_) => at += 1,
                None => return Err(Fault::new(self.at, "not valid JSON: a string that does not end")),
            }
        }
        self.at = at + 1;
        Ok(escapes)
    }
}

/// The text of a string with escapes; `start` is where it stands, for faults.
fn unescape(raw: &str, start: usize) -> Result<String, Fault> {
    let mut text = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(backslash) = rest.find('\\') {
        text.push_str(&rest[..backslash]);
        let wrong = || Fault::new(start + raw.len() - rest.len() + backslash, "not valid JSON: an unknown escape");
        let escape = &rest[backslash + 1..];
        let (c, used) = match escape.as_bytes().first() {
            Some(b'u') => unicode(escape).ok_or_else(wrong)?,
            Some(b'n') => ('\n', 1),
            Some(b't') => ('\t', 1),
            Some(b'r') => ('\r', 1),
            Some(b'b') => ('\u{8}', 1),
            Some(b'f') => ('\u{c}', 1),
            Some(b @ (b'"' | b'\\' | b'/')) => (char::from(*b), 1),
            _ => return Err(wrong()),
        };
        text.push(c);
        rest = &escape[used..];
    }
    text.push_str(rest);
    Ok(text)
}

/// The character of `uXXXX` or `uXXXX\uXXXX`, and the bytes used. Half of a surrogate pair becomes U+FFFD, as in
/// browsers: chat logs are full of emoji that were cut in two.
fn unicode(escape: &str) -> Option<(char, usize)> {
    let hex = |from: usize| {
        let digits = escape.as_bytes().get(from..from + 4)?;
        digits.iter().try_fold(0u32, |n, b| Some(n * 16 + char::from(*b).to_digit(16)?))
    };
    let first = hex(1)?;
    if !(0xD800..0xDC00).contains(&first) {
        return Some((char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER), 5));
    }
    match (escape.as_bytes().get(5..7) == Some(b"\\u")).then(|| hex(7)).flatten() {
        Some(second @ 0xDC00..=0xDFFF) => {
            let c = 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
            Some((char::from_u32(c).unwrap_or(char::REPLACEMENT_CHARACTER), 11))
        }
        _ => Some((char::REPLACEMENT_CHARACTER, 5)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validates(text: &str) -> bool {
        let mut scanner = Scanner::new(text);
        scanner.skip().and_then(|()| scanner.end()).is_ok()
    }

    #[test]
    fn agrees_with_serde_json_on_what_is_json() {
        let cases = [
            "{}",
            "[]",
            " [1, -2.5e+3, 0] ",
            r#"{"a": {"b": [null, true, false]}}"#,
            r#""\u00e9\n\"""#,
            "01",
            "1.",
            "-",
            "1e",
            "+1",
            "nul",
            "[1,]",
            "{,}",
            r#"{"a" 1}"#,
            r#"{"a":1,}"#,
            "[1 2]",
            "\"\t\"",
            "\"",
            "{} {}",
            "",
            r#""\x""#,
            "[[[[]]]]",
            r#"{"a":1}x"#,
            "NaN",
            "1.5E-7",
            "-0",
            "é",
        ];
        for text in cases {
            let expect = serde_json::from_str::<serde_json::Value>(text).is_ok();
            // Escapes are checked where a string is read, which `skip` does not do.
            let ours = validates(text) && (!text.starts_with('"') || Scanner::new(text).value().is_ok());
            assert_eq!(ours, expect, "{text}");
        }
        assert!(!validates(&"[".repeat(100_000)));
    }

    #[test]
    fn plain_numbers_are_read_or_left_alone() {
        let mut out = vec![7];
        for (text, expect) in [
            ("[]", Some(vec![])),
            (" [1, 20,\t300 ]", Some(vec![1, 20, 300])),
            ("[9999999999999999999]", Some(vec![9_999_999_999_999_999_999])),
            ("[1,]", None),
            ("[01]", None),
            ("[-1]", None),
            ("[1.5]", None),
            ("[1", None),
            ("[18446744073709551615]", None),
            ("{}", None),
        ] {
            let mut scanner = Scanner::new(text);
            assert_eq!(scanner.plain_numbers(&mut out), expect.is_some(), "{text}");
            assert_eq!(out[1..], expect.clone().unwrap_or_default(), "{text}");
            assert_eq!(scanner.at, if expect.is_some() { text.len() } else { 0 }, "{text}");
            out.truncate(1);
        }
    }

    #[test]
    fn strings_are_unescaped() {
        let text = r#""a\u00e9\ud83d\ude00\"\\\/\b\f\n\r\t \ud83d.""#;
        let expect = "a\u{e9}\u{1f600}\"\\/\u{8}\u{c}\n\r\t \u{fffd}.";
        assert_eq!(Scanner::new(text).value(), Ok(Value::Text(expect.into())));
    }
}
