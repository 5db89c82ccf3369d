//! Writes small models, for tests.

/// Types of pieces, as the file numbers them.
pub const NORMAL: u64 = 1;
pub const UNKNOWN: u64 = 2;
pub const CONTROL: u64 = 3;
pub const USER_DEFINED: u64 = 4;
pub const UNUSED: u64 = 5;
pub const BYTE: u64 = 6;

pub const UNIGRAM: u64 = 1;
pub const BPE: u64 = 2;

/// What a model is made of.
#[derive(Clone, Default)]
pub struct Model {
    pub algorithm: u64,
    /// Text, score, type.
    pub pieces: Vec<(String, f32, u64)>,
    /// Fields of the trainer's and of the normalizer's settings that are not the defaults.
    pub trainer: Vec<(u64, u64)>,
    pub normalizer: Vec<(u64, u64)>,
    pub charsmap: Vec<u8>,
}

impl Model {
    /// A model of these pieces, after `<unk>`, `<s>` and `</s>`.
    pub fn new(algorithm: u64, pieces: &[(&str, f32, u64)]) -> Model {
        let first = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)];
        let pieces = first.iter().chain(pieces).map(|(text, score, kind)| (text.to_string(), *score, *kind)).collect();
        Model { algorithm, pieces, ..Model::default() }
    }

    /// The bytes of a `.model`.
    pub fn file(&self) -> Vec<u8> {
        let mut file = Vec::new();
        for (text, score, kind) in &self.pieces {
            let mut piece = bytes(1, text.as_bytes());
            piece.push(2 << 3 | 5);
            piece.extend(score.to_le_bytes());
            piece.extend(number(3, *kind));
            file.extend(bytes(1, &piece));
        }
        let mut trainer = number(3, self.algorithm);
        self.trainer.iter().for_each(|(field, value)| trainer.extend(number(*field, *value)));
        file.extend(bytes(2, &trainer));
        let mut normalizer = bytes(2, &self.charsmap);
        self.normalizer.iter().for_each(|(field, value)| normalizer.extend(number(*field, *value)));
        file.extend(bytes(3, &normalizer));
        file
    }
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn bytes(field: u64, value: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
}
