//! The fields of `sentencepiece_model.proto` that make tokens, read from the wire format of Protocol Buffers.
//!
//! Source: <https://protobuf.dev/programming-guides/encoding/>, and `src/sentencepiece_model.proto` of
//! google/sentencepiece for the numbers of the fields.

/// How a text becomes pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Unigram,
    Bpe,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceType {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

#[derive(Debug)]
pub struct Piece {
    pub text: Vec<u8>,
    pub score: f32,
    pub kind: PieceType,
}

/// What is done to a text before it is cut.
#[derive(Debug)]
pub struct Normalization {
    /// Rules of characters: see [`super::normalize`].
    pub charsmap: Vec<u8>,
    pub add_dummy_prefix: bool,
    pub remove_extra_whitespaces: bool,
    pub escape_whitespaces: bool,
    pub whitespace_as_suffix: bool,
}

#[derive(Debug)]
pub struct Proto {
    pub pieces: Vec<Piece>,
    pub algorithm: Algorithm,
    pub byte_fallback: bool,
    pub normalizer: Normalization,
}

impl Proto {
    /// # Errors
    /// What of the bytes is no such message.
    pub fn read(bytes: &[u8]) -> Result<Proto, String> {
        let normalizer = Normalization {
            charsmap: Vec::new(),
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
            whitespace_as_suffix: false,
        };
        let mut proto = Proto { pieces: Vec::new(), algorithm: Algorithm::Unigram, byte_fallback: false, normalizer };
        let mut fields = Fields(bytes);
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (1, Wire::Bytes(message)) => proto.pieces.push(piece(message)?),
                (2, Wire::Bytes(message)) => proto.trainer(message)?,
                (3, Wire::Bytes(message)) => proto.normalizer(message)?,
                _ => {}
            }
        }
        if proto.pieces.is_empty() {
            return Err("it has no pieces".to_string());
        }
        Ok(proto)
    }

    fn trainer(&mut self, message: &[u8]) -> Result<(), String> {
        let mut fields = Fields(message);
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (3, Wire::Number(kind)) => {
                    self.algorithm = match kind {
                        1 => Algorithm::Unigram,
                        2 => Algorithm::Bpe,
                        3 => return Err("it is a model of words, which is not read: only unigram and bpe".to_string()),
                        4 => return Err("it is a model of characters, which is not read: only unigram and bpe".into()),
                        other => return Err(format!("it is a model of the unknown type {other}")),
                    }
                }
                (24, Wire::Number(on)) => self.normalizer.whitespace_as_suffix = on != 0,
                (35, Wire::Number(on)) => self.byte_fallback = on != 0,
                _ => {}
            }
        }
        Ok(())
    }

    fn normalizer(&mut self, message: &[u8]) -> Result<(), String> {
        let mut fields = Fields(message);
        let to = &mut self.normalizer;
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (2, Wire::Bytes(map)) => to.charsmap = map.to_vec(),
                (3, Wire::Number(on)) => to.add_dummy_prefix = on != 0,
                (4, Wire::Number(on)) => to.remove_extra_whitespaces = on != 0,
                (5, Wire::Number(on)) => to.escape_whitespaces = on != 0,
                _ => {}
            }
        }
        Ok(())
    }
}

fn piece(message: &[u8]) -> Result<Piece, String> {
    let mut piece = Piece { text: Vec::new(), score: 0.0, kind: PieceType::Normal };
    let mut fields = Fields(message);
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, Wire::Bytes(text)) => piece.text = text.to_vec(),
            (2, Wire::Four(bits)) => piece.score = f32::from_bits(bits),
            (3, Wire::Number(kind)) => {
                piece.kind = match kind {
                    1 => PieceType::Normal,
                    2 => PieceType::Unknown,
                    3 => PieceType::Control,
                    4 => PieceType::UserDefined,
                    5 => PieceType::Unused,
                    6 => PieceType::Byte,
                    other => return Err(format!("a piece has the unknown type {other}")),
                }
            }
            _ => {}
        }
    }
    if piece.score.is_nan() {
        return Err("a piece has a score that is not a number".to_string());
    }
    Ok(piece)
}

/// A value as it lies in the message.
enum Wire<'a> {
    Number(u64),
    Four(u32),
    Bytes(&'a [u8]),
    /// Eight bytes: no field of ours has them.
    Eight,
}

/// The fields of a message, one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u64, Wire<'a>)>, String> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Wire::Number(self.varint()?),
            1 => {
                self.take(8)?;
                Wire::Eight
            }
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| broken())?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Four(u32::from_le_bytes(self.take(4)?.try_into().map_err(|_| broken())?)),
            _ => return Err(broken()),
        };
        Ok(Some((key >> 3, value)))
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(broken())
    }

    fn take(&mut self, bytes: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or_else(broken)?;
        self.0 = rest;
        Ok(taken)
    }
}

fn broken() -> String {
    "it is not a message of Protocol Buffers, or is cut off".to_string()
}
