//! The shape of messages, looked at before they are decoded: the decoder takes counts and lengths for true, and panics where
//! they reach beyond the message.

/// What is left of a message's body.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn count(&mut self) -> Option<usize> {
        let bytes: [u8; 2] = self.bytes(2)?.try_into().ok()?;
        Some(usize::from(u16::from_be_bytes(bytes)))
    }

    fn number(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.bytes(4)?.try_into().ok()?))
    }

    /// A text up to its zero byte.
    fn text(&mut self) -> Option<()> {
        let zero = self.0.iter().position(|b| *b == 0)?;
        self.bytes(zero + 1).map(|_| ())
    }

    /// A value after its length; -1 is NULL.
    fn value(&mut self) -> Option<()> {
        match self.number()? {
            -1 => Some(()),
            length => self.bytes(usize::try_from(length).ok()?).map(|_| ()),
        }
    }

    fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// Whether the body of a message of this kind is whole, and nothing but it. What has no parts is always.
pub fn is_whole(kind: u8, body: &[u8]) -> bool {
    let mut rest = Rest(body);
    let mut whole = || -> Option<()> {
        match kind {
            b'Q' | b'f' => rest.text()?,
            b'P' => {
                rest.text()?;
                rest.text()?;
                let types = rest.count()?;
                rest.bytes(4 * types)?;
            }
            b'B' => {
                rest.text()?;
                rest.text()?;
                let formats = rest.count()?;
                rest.bytes(2 * formats)?;
                for _ in 0..rest.count()? {
                    rest.value()?;
                }
                let formats = rest.count()?;
                rest.bytes(2 * formats)?;
            }
            b'C' | b'D' => {
                rest.bytes(1)?;
                rest.text()?;
            }
            b'E' => {
                rest.text()?;
                rest.number()?;
            }
            _ => return Some(()),
        }
        rest.end()
    };
    whole().is_some()
}

/// Whether the body of a password message is the first one of SASL.
pub fn begins_sasl(body: &[u8]) -> bool {
    let mut rest = Rest(body);
    rest.text().and_then(|()| rest.value()).and_then(|()| rest.end()).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_messages_and_others() {
        let cases: [(u8, &[u8], bool); 26] = [
            (b'Q', b"select 1\0", true),
            (b'Q', b"select 1", false),
            (b'Q', b"select 1\0x", false),
            (b'P', b"\0select 1\0\0\0", true),
            (b'P', b"a\0select $1\0\0\x01\0\0\0\x17", true),
            (b'P', b"\0select 1\0\x7f\xff", false),
            (b'P', b"\0select 1\0\0", false),
            (b'P', b"\0select 1", false),
            (b'P', b"", false),
            (b'B', b"\0\0\0\0\0\0\0\0", true),
            (b'B', b"\0\0\0\x01\0\x01\0\x02\0\0\0\x01x\xff\xff\xff\xff\0\x01\0\0", true),
            (b'B', b"\0\0\0\0\0\x01\x7f\xff\xff\xff\0\0", false),
            (b'B', b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0", false),
            (b'B', b"\0\0\0\0\xff\xff", false),
            (b'B', b"\0\0\xff\xff\0\0\0\0", false),
            (b'B', b"\0\0\0\0\0\0\0\x01", false),
            (b'B', b"\0\0\0\0\0\0\0\0\0", false),
            (b'D', b"Sa\0", true),
            (b'D', b"", false),
            (b'C', b"P\0", true),
            (b'C', b"P", false),
            (b'E', b"\0\0\0\0\0", true),
            (b'E', b"\0\0\0", false),
            (b'E', b"zz\0\0\0\0\0\0", false),
            (b'S', b"", true),
            (b'd', b"anything", true),
        ];
        for (kind, body, expected) in cases {
            assert_eq!(is_whole(kind, body), expected, "{} {body:?}", char::from(kind));
        }
        let first: [(&[u8], bool); 5] = [
            (b"SCRAM-SHA-256\0\0\0\0\x02n,", true),
            (b"SCRAM-SHA-256\0\xff\xff\xff\xff", true),
            (b"SCRAM-SHA-256\0\0\0\0\x03n,", false),
            (b"SCRAM-SHA-256\0", false),
            (b"password", false),
        ];
        for (body, expected) in first {
            assert_eq!(begins_sasl(body), expected, "{body:?}");
        }
    }
}
