//! What pictures share: letters, colours, numbers at axes.
//!
//! ```text
//! results -> bench::plot (a roofline) | size_plot (error against size) | accuracy_plot (accuracy against bits) -> SVG, as text
//! ```

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::Pos;
use std::fmt::Display;
use std::ops::Range;

pub const FONT: &str = "sans-serif";
pub const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
pub const MUTED: RGBColor = RGBColor(0x77, 0x77, 0x77);
pub const GRID: RGBColor = RGBColor(0xe8, 0xe8, 0xe8);
/// Colours that are told apart with the common kinds of colour blindness too (Okabe and Ito).
pub const COLOURS: [RGBColor; 7] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0x55, 0x55, 0x55),
];

/// Where pictures are drawn.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// An error of the library in words.
pub fn words(error: impl Display) -> String {
    error.to_string()
}

/// Writes a text at a pixel.
pub fn write(
    area: &Area,
    text: &str,
    at: (i32, i32),
    size: f64,
    colour: RGBColor,
    anchor: Pos,
) -> Result<(), String> {
    let style = TextStyle::from((FONT, size).into_font()).color(&colour).pos(anchor);
    area.draw(&Text::new(text.to_string(), at, style)).map_err(words)
}

/// Powers of ten around `values`, of all of them one at least.
pub fn decades(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (low, high) = values
        .filter(|v| v.is_finite() && *v > 0.0)
        .fold((f64::INFINITY, 0f64), |(low, high), v| (low.min(v), high.max(v)));
    if low > high {
        return 1.0..10.0;
    }
    let power = |v: f64| 10f64.powi(v as i32);
    power((low * 0.9).log10().floor())..power((high * 1.1).log10().ceil())
}

/// `0.1`, `1`, `1000`.
pub fn short(v: f64) -> String {
    let text = format!("{v:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decades_hold_all_values() {
        assert_eq!(decades([3.0, 700.0].into_iter()), 1.0..1000.0);
        assert_eq!(decades([0.0, f64::NAN].into_iter()), 1.0..10.0);
        assert_eq!(decades([5.0].into_iter()), 1.0..10.0);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.01, 10.0, 1000.0].map(short), ["0.01", "10", "1000"]);
    }
}
