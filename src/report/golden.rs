//! Pictures that charts are held against: `tests/golden/<name>.png`.
//!
//! A picture may differ in a few pixels, so that a rounding here or there is no failure; a text that moved, a mark that
//! is gone or another colour is one. What was drawn instead is left in the target folder, beside a picture of the
//! differences. `UPDATE_GOLDEN=1 cargo test` draws all of them anew: look at them before they are committed.

use std::path::{Path, PathBuf};

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ImageBuffer, ImageEncoder, Rgb, RgbImage};

use super::chart::{Chart, png};

/// Channels further apart than this are seen to differ.
const CHANNEL: u8 = 32;
/// So many of a thousand pixels may differ.
const PER_MILLE: usize = 2;
/// Bytes of a picture at most: the repository holds dozens of them.
const BYTES: usize = 25_000;

/// Draws the chart and compares it with `tests/golden/<name>.png`. Keep pictures small: 480 x 300 shows everything.
///
/// # Panics
/// They differ, there is no such picture yet, or it is larger than 25 KB.
#[track_caller]
pub(crate) fn check_picture(name: &str, chart: &Chart) {
    let drawn = picture(chart);
    let golden = crate::repository().join("tests/golden").join(name).with_extension("png");
    if std::env::var_os("UPDATE_GOLDEN").is_some_and(|v| v == "1") {
        let bytes = encoded(&coarse(&drawn));
        std::fs::create_dir_all(golden.parent().unwrap()).unwrap();
        std::fs::write(&golden, &bytes).unwrap();
        assert!(bytes.len() <= BYTES, "{name} has {} bytes: make the chart smaller", bytes.len());
        return;
    }
    let Ok(bytes) = std::fs::read(&golden) else {
        panic!("no picture {}: draw it with UPDATE_GOLDEN=1 cargo test, and look at it", golden.display());
    };
    let expected = image::load_from_memory(&bytes).unwrap().to_rgb8();
    if let Some(found) = difference(&expected, &drawn) {
        let (new, changes) = (left_behind(name, "new"), left_behind(name, "difference"));
        std::fs::write(&new, encoded(&drawn)).unwrap();
        std::fs::write(&changes, encoded(&marked(&expected, &drawn))).unwrap();
        panic!(
            "{found}\nexpected:   {}\ndrawn:      {}\ndifference: {}\nif it is meant: UPDATE_GOLDEN=1 cargo test",
            golden.display(),
            new.display(),
            changes.display()
        );
    }
}

/// The pixels of the chart's PNG.
fn picture(chart: &Chart) -> RgbImage {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chart.png");
    png(chart, &file).unwrap();
    image::open(&file).unwrap().to_rgb8()
}

/// What is too different, in words.
fn difference(expected: &RgbImage, drawn: &RgbImage) -> Option<String> {
    if expected.dimensions() != drawn.dimensions() {
        return Some(format!("the picture is {:?} instead of {:?}", drawn.dimensions(), expected.dimensions()));
    }
    let all = expected.pixels().len();
    let changed = expected.pixels().zip(drawn.pixels()).filter(|(a, b)| differ(**a, **b)).count();
    (changed * 1000 >= all * PER_MILLE && changed > 0).then(|| format!("{changed} of {all} pixels differ"))
}

fn differ(a: Rgb<u8>, b: Rgb<u8>) -> bool {
    a.0.iter().zip(b.0).any(|(a, b)| a.abs_diff(b) > CHANNEL)
}

/// What was expected, faintly, with red where it differs.
fn marked(expected: &RgbImage, drawn: &RgbImage) -> RgbImage {
    let (width, height) = (expected.width().max(drawn.width()), expected.height().max(drawn.height()));
    ImageBuffer::from_fn(width, height, |x, y| {
        match (expected.get_pixel_checked(x, y), drawn.get_pixel_checked(x, y)) {
            (Some(a), Some(b)) if !differ(*a, *b) => Rgb(a.0.map(|c| 192 + c / 4)),
            _ => Rgb([0xd0, 0x10, 0x10]),
        }
    })
}

/// With sixteen steps per channel, which half the bytes hold.
fn coarse(image: &RgbImage) -> RgbImage {
    let coarse = |c: u8| ((u16::from(c) + 8) / 17 * 17) as u8;
    ImageBuffer::from_fn(image.width(), image.height(), |x, y| Rgb(image.get_pixel(x, y).0.map(coarse)))
}

fn encoded(image: &RgbImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    let encoder = PngEncoder::new_with_quality(&mut bytes, CompressionType::Best, FilterType::NoFilter);
    encoder.write_image(image, image.width(), image.height(), image::ColorType::Rgb8).unwrap();
    bytes
}

/// `<target>/tmp/golden/<name>.<what>.png`: test binaries lie in `<target>/<profile>/deps`.
fn left_behind(name: &str, what: &str) -> PathBuf {
    let binary = std::env::current_exe().unwrap();
    let folder = binary.ancestors().nth(3).unwrap_or(Path::new(".")).join("tmp/golden");
    std::fs::create_dir_all(&folder).unwrap();
    folder.join(format!("{name}.{what}.png"))
}

#[test]
fn a_changed_picture_is_noticed() {
    let plain = RgbImage::from_pixel(100, 100, Rgb([255, 255, 255]));
    // (pixels that change, by how much, whether that is too much)
    for (pixels, by, expect) in [(0, 0, false), (10_000, 32, false), (19, 200, false), (20, 33, true)] {
        let mut other = plain.clone();
        other.pixels_mut().take(pixels).for_each(|p| p.0[1] = 255 - by);
        assert_eq!(difference(&plain, &other).is_some(), expect, "{pixels} by {by}");
        let red = marked(&plain, &other).pixels().filter(|p| p.0 == [0xd0, 0x10, 0x10]).count();
        assert_eq!(red, if by > CHANNEL { pixels } else { 0 });
    }
    let wider = RgbImage::from_pixel(101, 100, Rgb([255, 255, 255]));
    assert!(difference(&plain, &wider).is_some_and(|d| d.contains("(101, 100) instead of (100, 100)")));
    assert_eq!(marked(&plain, &wider).dimensions(), (101, 100));
}
