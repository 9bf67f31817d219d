//! An RGB raster with rectangles and text. It knows nothing about triage.
use crate::colour::{Colour, mix};
use crate::picture::Picture;
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, RasterizedChar, get_raster, get_raster_width};

/// A size and weight of the one typeface (Noto Sans Mono).
#[derive(Debug, Clone, Copy)]
pub struct Font {
    weight: FontWeight,
    height: RasterHeight,
    /// Each bitmap pixel becomes a square of this side, interpolated.
    scale: usize,
}

pub const SMALL: Font = Font { weight: FontWeight::Regular, height: RasterHeight::Size16, scale: 1 };
pub const BODY: Font = Font { weight: FontWeight::Regular, height: RasterHeight::Size20, scale: 1 };
pub const STRONG: Font = Font { weight: FontWeight::Bold, height: RasterHeight::Size20, scale: 1 };
pub const MEDIUM: Font = Font { weight: FontWeight::Regular, height: RasterHeight::Size24, scale: 1 };
pub const LARGE: Font = Font { weight: FontWeight::Bold, height: RasterHeight::Size32, scale: 1 };
pub const HUGE: Font = Font { weight: FontWeight::Bold, height: RasterHeight::Size24, scale: 2 };

impl Font {
    /// Distance from one line to the next.
    pub fn line(&self) -> usize {
        self.height.val() * self.scale
    }

    /// Width of every character.
    pub fn advance(&self) -> usize {
        get_raster_width(self.weight, self.height) * self.scale
    }

    /// Width of a text.
    pub fn width(&self, text: &str) -> usize {
        text.chars().count() * self.advance()
    }
}

/// A font and its colour.
pub type Style = (Font, Colour);

/// An image while it is drawn. Whatever falls outside of it is not drawn.
pub struct Canvas {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Canvas {
    /// A canvas of one colour.
    pub fn new(width: usize, height: usize, colour: Colour) -> Self {
        let mut canvas = Self { width, height, rgb: vec![0; width * height * 3] };
        canvas.rectangle(0, 0, width, height, colour);
        canvas
    }

    /// Mixes `alpha` (0 to 1) of a colour into a pixel.
    pub fn blend(&mut self, x: usize, y: usize, colour: Colour, alpha: f32) {
        if x >= self.width || y >= self.height {
            return;
        }
        let at = (y * self.width + x) * 3;
        let pixel = &mut self.rgb[at..at + 3];
        let under = [0, 1, 2].map(|i| f32::from(pixel[i]) / 255.0);
        let over = mix(under, colour, alpha.clamp(0.0, 1.0));
        for (byte, value) in pixel.iter_mut().zip(over) {
            *byte = (value * 255.0 + 0.5) as u8;
        }
    }

    /// Fills a rectangle.
    pub fn rectangle(&mut self, x: usize, y: usize, width: usize, height: usize, colour: Colour) {
        let pixel = colour.map(|value| (value * 255.0 + 0.5) as u8);
        let right = (x + width).min(self.width);
        for row in y..(y + height).min(self.height) {
            let start = (row * self.width + x.min(right)) * 3;
            let end = (row * self.width + right) * 3;
            self.rgb[start..end].chunks_exact_mut(3).for_each(|p| p.copy_from_slice(&pixel));
        }
    }

    /// Draws one line of text; `x`, `y` are its left upper corner. Characters outside of Latin-1 become `?`.
    pub fn text(&mut self, (x, y): (usize, usize), text: &str, (font, colour): Style) {
        for (i, c) in text.chars().enumerate() {
            let glyph = get_raster(c, font.weight, font.height);
            let Some(glyph) = glyph.or_else(|| get_raster('?', font.weight, font.height)) else { continue };
            let left = x + i * font.advance();
            for row in 0..glyph.height() * font.scale {
                for column in 0..glyph.width() * font.scale {
                    let alpha = coverage(&glyph, column, row, font.scale);
                    if alpha > 0.0 {
                        self.blend(left + column, y + row, colour, alpha);
                    }
                }
            }
        }
    }

    /// Draws text that ends at `right`.
    pub fn text_right(&mut self, (right, y): (usize, usize), text: &str, style: Style) {
        self.text((right.saturating_sub(style.0.width(text)), y), text, style);
    }

    /// Draws text around `centre`.
    pub fn text_centred(&mut self, (centre, y): (usize, usize), text: &str, style: Style) {
        self.text((centre.saturating_sub(style.0.width(text) / 2), y), text, style);
    }

    /// Draws text wrapped to `width`, in at most `lines_max` lines; returns where the next line would begin.
    pub fn paragraph(
        &mut self,
        (x, y): (usize, usize),
        (width, lines_max): (usize, usize),
        text: &str,
        style: Style,
    ) -> usize {
        let lines = wrap(text, width / style.0.advance(), lines_max);
        for (i, line) in lines.iter().enumerate() {
            self.text((x, y + i * style.0.line()), line, style);
        }
        y + lines.len() * style.0.line()
    }

    /// The finished image, and in words what it shows.
    pub fn finish(self, shows: &'static str) -> Picture {
        Picture { width: self.width, height: self.height, rgb: self.rgb, shows }
    }
}

/// Coverage of a pixel of a glyph, 0 to 1. Enlarged glyphs are interpolated, then sharpened by as much as they were
/// enlarged, so that their edges are one pixel wide again.
fn coverage(glyph: &RasterizedChar, column: usize, row: usize, scale: usize) -> f32 {
    let sample = |x: isize, y: isize| {
        let inside = usize::try_from(x).ok().zip(usize::try_from(y).ok());
        f32::from(inside.and_then(|(x, y)| glyph.pixel(x, y)).unwrap_or(0)) / 255.0
    };
    if scale == 1 {
        return sample(column as isize, row as isize);
    }
    let source = |i: usize| (i as f32 + 0.5) / scale as f32 - 0.5;
    let (x, y) = (source(column), source(row));
    let (left, top) = (x.floor(), y.floor());
    let (fx, fy) = (x - left, y - top);
    let (x, y) = (left as isize, top as isize);
    let upper = sample(x, y) * (1.0 - fx) + sample(x + 1, y) * fx;
    let lower = sample(x, y + 1) * (1.0 - fx) + sample(x + 1, y + 1) * fx;
    let value = upper * (1.0 - fy) + lower * fy;
    ((value - 0.5) * scale as f32 + 0.5).clamp(0.0, 1.0)
}

/// Breaks text at spaces into lines of at most `columns` characters; a longer word is cut. What does not fit into
/// `lines_max` lines is left out, and the last line says so with three dots.
fn wrap(text: &str, columns: usize, lines_max: usize) -> Vec<String> {
    let columns = columns.max(4);
    let mut lines = vec![Vec::<char>::new()];
    for word in text.split_whitespace() {
        let word: Vec<char> = word.chars().collect();
        for (i, piece) in word.chunks(columns).enumerate() {
            let line = lines.last_mut().filter(|line| i == 0 && line.len() + 1 + piece.len() <= columns);
            match line {
                Some(line) if line.is_empty() => line.extend(piece),
                Some(line) => {
                    line.push(' ');
                    line.extend(piece);
                }
                None => lines.push(piece.to_vec()),
            }
        }
    }
    lines.retain(|line| !line.is_empty());
    if lines.len() > lines_max {
        lines.truncate(lines_max);
        if let Some(last) = lines.last_mut() {
            last.truncate(columns - 3);
            last.extend("...".chars());
        }
    }
    lines.into_iter().map(|line| line.into_iter().collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_wrapped_cut_and_marked_when_it_does_not_fit() {
        let cases: &[(&str, usize, usize, &[&str])] = &[
            ("", 10, 3, &[]),
            ("one two three", 7, 3, &["one two", "three"]),
            ("one  two", 20, 3, &["one two"]),
            ("abcdefghij kl", 4, 9, &["abcd", "efgh", "ij", "kl"]),
            ("exactly ten", 7, 3, &["exactly", "ten"]),
            ("a bb ccc dddd eeeee", 8, 2, &["a bb ccc", "dddd..."]),
            ("a bb ccc dddd eeeee", 8, 0, &[]),
            ("gantry tilt of 5°", 14, 3, &["gantry tilt of", "5°"]),
        ];
        for (text, columns, lines_max, want) in cases {
            assert_eq!(wrap(text, *columns, *lines_max), *want, "{text}");
        }
    }

    #[test]
    fn drawing_outside_is_no_panic_and_changes_nothing() {
        let mut canvas = Canvas::new(4, 4, [0.0; 3]);
        canvas.text((4, 0), "A", (LARGE, [1.0; 3]));
        canvas.rectangle(5, 5, 9, 9, [1.0; 3]);
        assert!(canvas.finish("").rgb.iter().all(|b| *b == 0));
    }

    #[test]
    fn every_character_of_a_reason_has_a_glyph() {
        for c in (' '..='~').chain("°±µ".chars()) {
            for font in [SMALL, BODY, STRONG, LARGE, HUGE] {
                assert!(get_raster(c, font.weight, font.height).is_some(), "{c} {font:?}");
            }
        }
    }
}
