//! Colours and markers that tell series apart.

pub(super) type Rgb = (u8, u8, u8);

pub(super) const PAPER: Rgb = (255, 255, 255);
/// Titles and labels.
pub(super) const INK: Rgb = (0x1f, 0x24, 0x2b);
/// Tick labels and notes.
pub(super) const SOFT_INK: Rgb = (0x4a, 0x52, 0x5c);
/// The line at the foot of the plot.
pub(super) const AXIS: Rgb = (0x8a, 0x92, 0x9c);
pub(super) const GRID: Rgb = (0xe1, 0xe4, 0xe8);
/// Lines of the grid between labelled ones.
pub(super) const FAINT_GRID: Rgb = (0xf1, 0xf3, 0xf5);

/// Ten colours that stay apart under the common kinds of colour blindness: the sequence of M. A. Petroff, "Accessible Color
/// Sequences for Data Visualization", arXiv:2107.02270, moved by a search until each has a contrast of 3:1 with white, as
/// WCAG 2.2 (1.4.11) asks of graphics, and any two of them keep their distance. The tests say what is kept.
const COLOURS: [Rgb; 10] = [
    (0x30, 0x78, 0xde),
    (0xe6, 0x74, 0x13),
    (0x93, 0x07, 0x18),
    (0x9d, 0x8d, 0xa8),
    (0x74, 0x26, 0xa2),
    (0xa0, 0x5e, 0x56),
    (0xc7, 0x5b, 0x14),
    (0xbc, 0x86, 0x6b),
    (0x6e, 0x75, 0x8b),
    (0x2a, 0x98, 0xee),
];

/// The same for dark paper.
const ON_DARK: [Rgb; 10] = [
    (0x4b, 0x9c, 0xeb),
    (0xfe, 0xa8, 0x0c),
    (0xc4, 0x2d, 0x08),
    (0xac, 0xab, 0xa4),
    (0xa0, 0x32, 0xc1),
    (0x83, 0x82, 0x88),
    (0xe7, 0x63, 0x0a),
    (0xd6, 0xc3, 0x8c),
    (0x69, 0x66, 0x72),
    (0x93, 0xda, 0xdc),
];

/// The shape of a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marker {
    Circle,
    Square,
    Triangle,
    Diamond,
    Down,
}

const MARKERS: [Marker; 5] = [Marker::Circle, Marker::Square, Marker::Triangle, Marker::Diamond, Marker::Down];

/// How a series is drawn. Colours repeat after ten series; marker and dashes then differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Look {
    pub rgb: Rgb,
    pub marker: Marker,
    /// Lengths of dash and gap; `None` is a solid line.
    pub dash: Option<(f64, f64)>,
}

/// The look of the series number `index`.
pub(super) fn look(index: usize) -> Look {
    let turn = index / COLOURS.len();
    let dash = match turn % 4 {
        0 => None,
        1 => Some((8.0, 5.0)),
        2 => Some((3.0, 4.0)),
        _ => Some((14.0, 5.0)),
    };
    Look { rgb: COLOURS[index % COLOURS.len()], marker: MARKERS[turn % MARKERS.len()], dash }
}

/// Colours of values from 0 to 1, from dark to light in even steps of lightness: the anchors of Viridis (N. Smith and
/// S. van der Walt, matplotlib, CC0), between which colours are mixed.
const VALUES: [Rgb; 9] = [
    (0x44, 0x01, 0x54),
    (0x48, 0x28, 0x78),
    (0x3e, 0x4a, 0x89),
    (0x31, 0x68, 0x8e),
    (0x26, 0x82, 0x8e),
    (0x1f, 0x9e, 0x89),
    (0x35, 0xb7, 0x79),
    (0x6e, 0xce, 0x58),
    (0xfd, 0xe7, 0x25),
];

/// Colours of values on both sides of a middle: RdBu of C. A. Brewer (colorbrewer2.org), which people who see no red or no
/// green tell apart too.
const SIDES: [Rgb; 9] = [
    (0xb2, 0x18, 0x2b),
    (0xd6, 0x60, 0x4d),
    (0xf4, 0xa5, 0x82),
    (0xfd, 0xdb, 0xc7),
    (0xf7, 0xf7, 0xf7),
    (0xd1, 0xe5, 0xf0),
    (0x92, 0xc5, 0xde),
    (0x43, 0x93, 0xc3),
    (0x21, 0x66, 0xac),
];

/// The colour of a value from 0 to 1.
pub(super) fn value_colour(unit: f64) -> Rgb {
    between(&VALUES, unit)
}

/// The colour of a value from 0 to 1 whose middle is 0.5. There the colours jump: on which side a value lies is seen however
/// near it is.
pub(super) fn sided_colour(unit: f64) -> Rgb {
    between(&SIDES, if unit < 0.5 { unit * 0.75 } else { 0.25 + unit * 0.75 })
}

fn between(anchors: &[Rgb; 9], unit: f64) -> Rgb {
    let at = unit.clamp(0.0, 1.0) * (anchors.len() - 1) as f64;
    let below = (at as usize).min(anchors.len() - 2);
    mix(anchors[below], anchors[below + 1], at - below as f64)
}

/// The colour of a line whose value is from 0 to 1: the part of the same colours that has a contrast of 3:1 with the paper.
pub(super) fn line_colour(unit: f64, dark: bool) -> Rgb {
    let unit = unit.clamp(0.0, 1.0);
    value_colour(if dark { 0.41 + 0.59 * unit } else { 0.66 * unit })
}

/// `share` of `b`, the rest of `a`.
pub(super) fn mix(a: Rgb, b: Rgb, share: f64) -> Rgb {
    let of = |a: u8, b: u8| libm::round(f64::from(a) + (f64::from(b) - f64::from(a)) * share) as u8;
    (of(a.0, b.0), of(a.1, b.1), of(a.2, b.2))
}

/// Whether letters on this colour are to be light.
pub(super) fn is_dark((r, g, b): Rgb) -> bool {
    0.299 * f64::from(r) + 0.587 * f64::from(g) + 0.114 * f64::from(b) < 140.0
}

/// Paper, letters and grid, and what they are on dark paper.
const PAPERS: [(Rgb, Rgb); 6] = [
    (PAPER, (0x16, 0x1b, 0x22)),
    (INK, (0xe6, 0xed, 0xf3)),
    (SOFT_INK, (0xa9, 0xb4, 0xc0)),
    (AXIS, (0x6e, 0x78, 0x84)),
    (GRID, (0x2d, 0x34, 0x3d)),
    (FAINT_GRID, (0x20, 0x26, 0x2e)),
];

/// The colour that stands for `rgb` on dark paper: paper, letters, grid and series have others.
pub(super) fn on_dark(rgb: Rgb) -> Rgb {
    let of_series = COLOURS.iter().zip(&ON_DARK);
    let mut pairs = PAPERS.iter().map(|(light, dark)| (light, dark)).chain(of_series);
    pairs.find(|(light, _)| **light == rgb).map_or(rgb, |(_, dark)| *dark)
}

/// Rules of CSS that turn a picture `within` a page to dark paper.
pub(super) fn dark_rules(within: &str) -> String {
    let of_series = COLOURS.iter().zip(&ON_DARK);
    let pairs = PAPERS.iter().map(|(light, dark)| (light, dark)).chain(of_series);
    let hex = |(r, g, b): &Rgb| format!("#{r:02X}{g:02X}{b:02X}");
    let rule = |what: &str, light: &str, dark: &str| format!("  {within} [{what}=\"{light}\"] {{ {what}: {dark}; }}\n");
    let both = |(light, dark): (&Rgb, &Rgb)| {
        let (light, dark) = (hex(light), hex(dark));
        rule("fill", &light, &dark) + &rule("stroke", &light, &dark)
    };
    pairs.map(both).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shares of light, not of the screen's steps: IEC 61966-2-1.
    fn linear((r, g, b): Rgb) -> [f64; 3] {
        [r, g, b].map(|v| {
            let v = f64::from(v) / 255.0;
            if v <= 0.04045 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
        })
    }

    /// WCAG 2.2, "contrast ratio".
    fn contrast(a: Rgb, b: Rgb) -> f64 {
        let luminance = |rgb| {
            let [r, g, b] = linear(rgb);
            0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05
        };
        let (a, b) = (luminance(a), luminance(b));
        a.max(b) / a.min(b)
    }

    fn times(m: [[f64; 3]; 3], v: [f64; 3]) -> [f64; 3] {
        m.map(|row| row[0] * v[0] + row[1] * v[1] + row[2] * v[2])
    }

    /// A hundred times the distance in OKLab (B. Ottosson, 2020): about 2 is just seen to differ.
    fn distance(a: [f64; 3], b: [f64; 3]) -> f64 {
        let lab = |rgb| {
            let cones = [
                [0.412_221_470_8, 0.536_332_536_3, 0.051_445_992_9],
                [0.211_903_498_2, 0.680_699_545_1, 0.107_396_956_6],
                [0.088_302_461_9, 0.281_718_837_6, 0.629_978_700_5],
            ];
            let mixed = [
                [0.210_454_255_3, 0.793_617_785_0, -0.004_072_046_8],
                [1.977_998_495_1, -2.428_592_205_0, 0.450_593_709_9],
                [0.025_904_037_1, 0.782_771_766_2, -0.808_675_766_0],
            ];
            times(mixed, times(cones, rgb).map(f64::cbrt))
        };
        let (a, b): ([f64; 3], [f64; 3]) = (lab(a), lab(b));
        100.0 * a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt()
    }

    /// As people see who see everything, no red, no green, no blue: G. M. Machado, M. M. Oliveira and L. A. F. Fernandes, "A
    /// Physiologically-based Model for Simulation of Color Vision Deficiency", 2009, severity 1.
    const EYES: [[[f64; 3]; 3]; 4] = [
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ];

    #[test]
    fn series_are_told_apart_by_everybody_on_both_papers() {
        for (colours, paper) in [(COLOURS, PAPER), (ON_DARK, on_dark(PAPER))] {
            assert!(colours.iter().all(|c| contrast(*c, paper) >= 3.0));
            for (i, j) in (0..10).flat_map(|j| (0..j).map(move |i| (i, j))) {
                for eyes in EYES {
                    let seen = |c| times(eyes, linear(c)).map(|v| v.clamp(0.0, 1.0));
                    let apart = distance(seen(colours[i]), seen(colours[j]));
                    // The first six, which most charts have no more than, are further apart.
                    let least = if j < 6 { 12.9 } else { 8.0 };
                    assert!(apart >= least, "{:?} and {:?}: {apart}", colours[i], colours[j]);
                }
            }
        }
    }

    #[test]
    fn letters_and_lines_can_be_read_on_both_papers() {
        for dark in [false, true] {
            let on = |rgb| if dark { on_dark(rgb) } else { rgb };
            assert!([INK, SOFT_INK].iter().all(|ink| contrast(on(*ink), on(PAPER)) >= 4.5));
            assert!(contrast(on(AXIS), on(PAPER)) >= 3.0);
            for i in 0..=20 {
                let rgb = line_colour(f64::from(i) / 20.0, dark);
                assert!(contrast(rgb, on(PAPER)) >= 3.0, "{i}: {rgb:?}");
            }
        }
    }
}
