//! The space that the embedded font leaves on the left of each letter: the one thing about it that plotters does not
//! tell, and does not draw.
//!
//! Reads the tables `head`, `hhea`, `hmtx` and `cmap` (format 4) of the OpenType specification. Whatever cannot be read
//! is no space: the letter is then a fraction of a pixel off.

use std::collections::BTreeMap;
use std::sync::OnceLock;

/// Space on the left of `c`, in ems. Negative where the letter reaches under the one before it.
pub(super) fn left(c: char) -> f64 {
    static LATIN: OnceLock<BTreeMap<char, f64>> = OnceLock::new();
    let known = LATIN.get_or_init(|| {
        let font = Font(epaint_default_fonts::UBUNTU_LIGHT);
        (' '..='\u{24f}').chain("≤…–µ".chars()).filter_map(|c| Some((c, font.left(c)?))).collect()
    });
    known.get(&c).copied().unwrap_or(0.0)
}

struct Font(&'static [u8]);

impl Font {
    fn u16(&self, at: usize) -> Option<usize> {
        Some(usize::from(u16::from_be_bytes(self.0.get(at..at + 2)?.try_into().ok()?)))
    }

    fn i16(&self, at: usize) -> Option<i16> {
        Some(i16::from_be_bytes(self.0.get(at..at + 2)?.try_into().ok()?))
    }

    fn u32(&self, at: usize) -> Option<usize> {
        Some(u32::from_be_bytes(self.0.get(at..at + 4)?.try_into().ok()?) as usize)
    }

    /// Where a table begins.
    fn table(&self, tag: &[u8; 4]) -> Option<usize> {
        let records = (0..self.u16(4)?).map(|i| 12 + 16 * i);
        records.into_iter().find(|r| self.0.get(*r..*r + 4) == Some(tag)).and_then(|r| self.u32(r + 8))
    }

    fn left(&self, c: char) -> Option<f64> {
        let glyph = self.glyph(c)?;
        let units = self.u16(self.table(b"head")? + 18)?;
        let full = self.u16(self.table(b"hhea")? + 34)?;
        let metrics = self.table(b"hmtx")?;
        // After the full records, of width and bearing, come bearings alone.
        let at = if glyph < full { metrics + 4 * glyph + 2 } else { metrics + 4 * full + 2 * (glyph - full) };
        Some(f64::from(self.i16(at)?) / units as f64)
    }

    fn glyph(&self, c: char) -> Option<usize> {
        let code = usize::from(u16::try_from(u32::from(c)).ok()?);
        let cmap = self.table(b"cmap")?;
        let offsets = (0..self.u16(cmap + 2)?).filter_map(|i| Some(cmap + self.u32(cmap + 4 + 8 * i + 4)?));
        let map = offsets.into_iter().find(|m| self.u16(*m) == Some(4))?;
        let twice = self.u16(map + 6)?;
        let (ends, starts) = (map + 14, map + 16 + twice);
        let (deltas, ranges) = (starts + twice, starts + 2 * twice);
        let segment = (0..twice).step_by(2).find(|s| self.u16(ends + s).is_some_and(|end| end >= code))?;
        let start = self.u16(starts + segment)?;
        if start > code {
            return None;
        }
        let (delta, range) = (self.u16(deltas + segment)?, self.u16(ranges + segment)?);
        let glyph = match range {
            0 => code,
            _ => self.u16(ranges + segment + range + 2 * (code - start))?,
        };
        (glyph != 0).then_some((glyph + delta) % 65_536)
    }
}

#[cfg(test)]
mod tests {
    use super::left;

    #[test]
    fn letters_have_their_space() {
        // An upright stem stands off, a round letter less so, a j reaches under its neighbour.
        assert!(left('l') > 0.06 && left('l') < 0.12, "{}", left('l'));
        assert!(left('o') > 0.02 && left('o') < left('l'), "{}", left('o'));
        assert!(left('j') < 0.0, "{}", left('j'));
        assert_eq!(left('漢'), 0.0);
    }
}
