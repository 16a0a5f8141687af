//! Error against size as SVG: what a smaller model costs.
//!
//! ```text
//! points (name, bytes, error) -> MiB across, from 0; the error upwards, logarithmic -> dots with their names beside them
//! curve (bytes, error)..                                                            -> a line below them
//! ```
//!
//! An error below [`LEAST`] is drawn there.

use super::plot::{COLOURS, MUTED, axes, chart, decades, page, short, words, write};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

const WIDTH: i32 = 900;
const HEIGHT: i32 = 600;
/// Of the letters of names: their size, and about how wide one is.
const LETTER: f64 = 13.0;
const LETTER_WIDTH: f64 = 6.5;
/// Of a dot, and to the name beside it.
const RADIUS: i32 = 5;
const BESIDE: i32 = 10;
/// The lowest error that has a place of its own: what f32 vectors cannot tell from none.
const LEAST: f64 = 1e-8;

/// A model.
#[derive(Clone, Debug)]
pub struct Point {
    pub name: String,
    pub bytes: u64,
    pub error: f64,
}

/// The picture; `error` says what the errors are of. Points whose error is not finite are left out. `curve` is in the order of its sizes.
///
/// # Errors
/// What the library says, in words.
pub fn svg(
    title: &str,
    below: &str,
    error: &str,
    points: &[Point],
    curve: &[(u64, f64)],
) -> Result<String, String> {
    let place = |bytes: u64, error: f64| (bytes as f64 / (1 << 20) as f64, error.max(LEAST));
    page((WIDTH, HEIGHT), title, below, |body| {
        let finite = points.iter().filter(|p| p.error.is_finite());
        let places: Vec<(f64, f64)> = finite.clone().map(|p| place(p.bytes, p.error)).collect();
        let line: Vec<(f64, f64)> = curve.iter().map(|&(bytes, error)| place(bytes, error)).collect();
        let all = || places.iter().chain(&line);
        let largest = all().map(|p| p.0).fold(0.0, f64::max);
        let x = 0.0..if largest > 0.0 { largest * 1.15 } else { 1.0 };
        let y = decades(all().map(|p| p.1));
        let mut chart = chart(body).build_cartesian_2d(x, (y.start..y.end).log_scale()).map_err(words)?;
        let mut mesh = chart.configure_mesh();
        axes(&mut mesh, "size, MiB", error);
        mesh.x_label_formatter(&|v| short(*v))
            .y_label_formatter(&|v| format!("{v:.0e}"))
            .draw()
            .map_err(words)?;
        let plane = chart.plotting_area().strip_coord_spec();
        let (base, (wide, high)) = (plane.get_base_pixel(), plane.dim_in_pixel());
        let spec = chart.as_coord_spec();
        let pixel = |(x, y): (f64, f64)| {
            let (px, py) = spec.translate(&(x, y));
            (px - base.0, py - base.1)
        };
        if !line.is_empty() {
            let line: Vec<(i32, i32)> = line.into_iter().map(pixel).collect();
            plane.draw(&PathElement::new(line, MUTED.stroke_width(2))).map_err(words)?;
        }
        let dots: Vec<(i32, i32)> = places.into_iter().map(pixel).collect();
        let mut taken: Vec<Bounds> = dots.iter().map(|&dot| around(dot, RADIUS)).collect();
        for ((&(x, y), point), colour) in dots.iter().zip(finite).zip(COLOURS.iter().cycle()) {
            plane.draw(&Circle::new((x, y), RADIUS, colour.filled())).map_err(words)?;
            let width = (point.name.chars().count() as f64 * LETTER_WIDTH) as i32;
            let place = beside((x, y), width, (wide as i32, high as i32), &taken);
            taken.push(place);
            let middle = (place.1 + place.3) / 2;
            // A line leads to a name that is not at its side.
            if middle != y {
                let edge = x.clamp(place.0 - 2, place.2 + 2);
                plane.draw(&PathElement::new(vec![(x, y), (edge, middle)], colour)).map_err(words)?;
            }
            let left = Pos::new(HPos::Left, VPos::Center);
            write(&plane, &point.name, (place.0, middle), LETTER, *colour, left)?;
        }
        Ok(())
    })
}

/// Left, top, right, bottom.
type Bounds = (i32, i32, i32, i32);

fn around((x, y): (i32, i32), by: i32) -> Bounds {
    (x - by, y - by, x + by, y + by)
}

/// A place for a name of so many pixels beside a dot, where nothing else is if there is one.
fn beside((x, y): (i32, i32), width: i32, (wide, high): (i32, i32), taken: &[Bounds]) -> Bounds {
    let half = LETTER as i32 / 2 + 1;
    let (right, left, middle) = (x + BESIDE, x - BESIDE - width, x - width / 2);
    let rows = [0, -16, 16, -30, 30, -44, 44];
    let all = rows.iter().flat_map(|dy| [(right, *dy), (left, *dy), (middle, *dy)]);
    let places = all.map(|(from, dy)| (from, y + dy - half, from + width, y + dy + half));
    let is_free = |p: &Bounds| {
        let apart = |t: &Bounds| p.2 < t.0 || t.2 < p.0 || p.3 < t.1 || t.3 < p.1;
        p.0 >= 0 && p.1 >= 0 && p.2 <= wide && p.3 <= high && taken.iter().all(apart)
    };
    let first = (right, y - half, right + width, y + half);
    places.clone().find(is_free).unwrap_or(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(name: &str, mib: u64, error: f64) -> Point {
        Point { name: name.into(), bytes: mib << 20, error }
    }

    #[test]
    fn every_finite_error_has_a_dot_and_a_name() {
        let points = [
            point("q8_0 <a&b>", 24, 1e-5),
            point("q4_0", 12, 2e-3),
            point("same", 86, 0.0),
            point("spoiled", 12, f64::NAN),
        ];
        let text = svg("Title", "below", "1 - cosine", &points, &[]).unwrap();
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"), "{text}");
        assert_eq!(text.matches("<circle").count(), 3);
        for name in
            ["q8_0 &lt;a&amp;b&gt;", "q4_0", "same", "Title", "below", "size, MiB", "1 - cosine", "1e-5"]
        {
            assert!(text.contains(name), "{name}");
        }
        assert!(!text.contains("spoiled"));
        assert!(svg("Title", "below", "error", &[], &[]).unwrap().contains("size, MiB"));
        let lines = |curve: &[(u64, f64)]| {
            svg("Title", "below", "error", &points, curve).unwrap().matches("<polyline").count()
        };
        assert_eq!(lines(&[(20 << 20, 1e-3), (30 << 20, 1e-4), (80 << 20, 1e-9)]), lines(&[]) + 1);
    }

    #[test]
    fn names_lie_beside_their_dots_and_not_on_others() {
        let size = (400, 300);
        let alone = beside((100, 100), 50, size, &[]);
        assert_eq!(alone, (110, 93, 160, 107));
        // At the right edge it goes to the left; where a dot is, elsewhere.
        assert_eq!(beside((380, 100), 50, size, &[]).2, 370);
        let next = beside((100, 100), 50, size, &[around((120, 100), RADIUS)]);
        assert_eq!((next.0, next.2), (40, 90));
        let mut taken = vec![around((100, 100), RADIUS)];
        for _ in 0..6 {
            let place = beside((100, 100), 50, size, &taken);
            assert!(taken.iter().all(|t| place.2 < t.0 || t.2 < place.0 || place.3 < t.1 || t.3 < place.1));
            taken.push(place);
        }
    }
}
