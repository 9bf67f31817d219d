//! A drawing of a few shapes and words, written as SVG and as PNG.
//!
//! Text is in a monospaced font, whose width is known: the PNG needs no font of the system, and both look alike.

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};
use std::fmt::Write;
use tiny_skia::{
    Color, FillRule, LineCap, Paint, PathBuilder, Pixmap, PremultipliedColorU8, Stroke, StrokeDash, Transform,
};

/// Pixels of the PNG for one unit of the drawing: pictures for paper and slides.
const SCALE: f32 = 2.0;
/// A colour: red, green, blue.
pub type Colour = [u8; 3];

/// Where a text's position is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    /// At its beginning.
    Start,
    /// In its middle.
    Middle,
    /// At its end.
    End,
}

enum Shape {
    Rectangle { at: [f32; 4], fill: Colour },
    Line { points: Vec<(f32, f32)>, colour: Colour, width: f32, dash: f32 },
    Circle { centre: (f32, f32), radius: f32, fill: Colour },
    Text { at: (f32, f32), text: String, colour: Colour, anchor: Anchor, bold: bool },
}

/// A drawing in the making; y grows downwards.
pub struct Drawing {
    size: (f32, f32),
    shapes: Vec<Shape>,
}

impl Drawing {
    /// An empty drawing, in units.
    pub fn new(width: f32, height: f32) -> Self {
        Self { size: (width, height), shapes: Vec::new() }
    }

    /// A filled rectangle: x, y, width, height.
    pub fn rectangle(&mut self, at: [f32; 4], fill: Colour) {
        self.shapes.push(Shape::Rectangle { at, fill });
    }

    /// Joined lines.
    pub fn line(&mut self, points: Vec<(f32, f32)>, colour: Colour, width: f32) {
        self.dashed(points, colour, width, 0.0);
    }

    /// The same, in dashes of a length and gaps half as long; of length 0 a whole line.
    pub fn dashed(&mut self, points: Vec<(f32, f32)>, colour: Colour, width: f32, dash: f32) {
        self.shapes.push(Shape::Line { points, colour, width, dash });
    }

    /// A filled circle.
    pub fn circle(&mut self, centre: (f32, f32), radius: f32, fill: Colour) {
        self.shapes.push(Shape::Circle { centre, radius, fill });
    }

    /// A word; `at` is on its base line.
    pub fn text(&mut self, at: (f32, f32), text: &str, colour: Colour, anchor: Anchor) {
        self.words(at, text, colour, anchor, false);
    }

    /// The same in bold.
    pub fn title(&mut self, at: (f32, f32), text: &str, colour: Colour, anchor: Anchor) {
        self.words(at, text, colour, anchor, true);
    }

    fn words(&mut self, at: (f32, f32), text: &str, colour: Colour, anchor: Anchor, bold: bool) {
        // What the font lacks would be a hole in the PNG.
        let text = text.chars().map(|c| if get_raster(c, weight(bold), HEIGHT).is_some() { c } else { '?' });
        self.shapes.push(Shape::Text { at, text: text.collect(), colour, anchor, bold });
    }

    /// As SVG.
    pub fn svg(&self) -> String {
        let (width, height) = self.size;
        // A monospaced character is six tenths of its height wide.
        let em = advance(false) / 0.6;
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{}\" height=\"{}\" \
             font-family=\"'Noto Sans Mono', 'DejaVu Sans Mono', monospace\" font-size=\"{em:.2}\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n",
            width * SCALE,
            height * SCALE
        );
        for shape in &self.shapes {
            let _ = match shape {
                Shape::Rectangle { at: [x, y, w, h], fill } => writeln!(
                    out,
                    "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{w:.2}\" height=\"{h:.2}\" fill=\"{}\"/>",
                    web(*fill)
                ),
                Shape::Line { points, colour, width, dash } => {
                    let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.2},{y:.2}")).collect();
                    let dashes = if *dash > 0.0 {
                        format!(" stroke-dasharray=\"{dash} {}\"", dash / 2.0)
                    } else {
                        String::new()
                    };
                    writeln!(
                        out,
                        "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{width}\"{dashes} stroke-linecap=\"{}\"/>",
                        points.join(" "),
                        web(*colour),
                        if *dash > 0.0 { "butt" } else { "round" }
                    )
                }
                Shape::Circle { centre: (x, y), radius, fill } => {
                    writeln!(
                        out,
                        "<circle cx=\"{x:.2}\" cy=\"{y:.2}\" r=\"{radius}\" fill=\"{}\"/>",
                        web(*fill)
                    )
                }
                Shape::Text { at: (x, y), text, colour, anchor, bold } => writeln!(
                    out,
                    "<text x=\"{x:.2}\" y=\"{y:.2}\" fill=\"{}\" text-anchor=\"{}\"{}>{}</text>",
                    web(*colour),
                    match anchor {
                        Anchor::Start => "start",
                        Anchor::Middle => "middle",
                        Anchor::End => "end",
                    },
                    if *bold { " font-weight=\"bold\"" } else { "" },
                    text.replace('&', "&amp;").replace('<', "&lt;")
                ),
            };
        }
        out + "</svg>\n"
    }

    /// As PNG.
    ///
    /// # Errors
    /// A drawing without size, or too large for memory.
    pub fn png(&self) -> anyhow::Result<Vec<u8>> {
        let (width, height) = ((self.size.0 * SCALE) as u32, (self.size.1 * SCALE) as u32);
        let Some(mut canvas) = Pixmap::new(width, height) else {
            anyhow::bail!("a drawing of {width} x {height} pixels");
        };
        canvas.fill(Color::WHITE);
        let scaled = Transform::from_scale(SCALE, SCALE);
        for shape in &self.shapes {
            match shape {
                Shape::Rectangle { at: [x, y, w, h], fill } => {
                    if let Some(rect) = tiny_skia::Rect::from_xywh(*x, *y, *w, *h) {
                        canvas.fill_rect(rect, &paint(*fill), scaled, None);
                    }
                }
                Shape::Line { points, colour, width, dash } => {
                    let mut path = PathBuilder::new();
                    for (i, (x, y)) in points.iter().enumerate() {
                        if i == 0 { path.move_to(*x, *y) } else { path.line_to(*x, *y) }
                    }
                    let line_cap = if *dash > 0.0 { LineCap::Butt } else { LineCap::Round };
                    let dash = StrokeDash::new(vec![*dash, dash / 2.0], 0.0).filter(|_| *dash > 0.0);
                    let stroke = Stroke { width: *width, line_cap, dash, ..Stroke::default() };
                    if let Some(path) = path.finish() {
                        canvas.stroke_path(&path, &paint(*colour), &stroke, scaled, None);
                    }
                }
                Shape::Circle { centre: (x, y), radius, fill } => {
                    if let Some(path) = PathBuilder::from_circle(*x, *y, *radius) {
                        canvas.fill_path(&path, &paint(*fill), FillRule::Winding, scaled, None);
                    }
                }
                Shape::Text { at, text, colour, anchor, bold } => {
                    write_text(&mut canvas, *at, text, *colour, *anchor, *bold);
                }
            }
        }
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width, height);
        encoder.set_color(png::ColorType::Rgb);
        let rgb: Vec<u8> = canvas.pixels().iter().flat_map(|p| [p.red(), p.green(), p.blue()]).collect();
        encoder.write_header()?.write_image_data(&rgb)?;
        Ok(bytes)
    }
}

/// Bitmaps of 16 pixels: 8 units.
const HEIGHT: RasterHeight = RasterHeight::Size16;

fn weight(bold: bool) -> FontWeight {
    if bold { FontWeight::Bold } else { FontWeight::Regular }
}

/// Width of a character, in units.
fn advance(bold: bool) -> f32 {
    get_raster_width(weight(bold), HEIGHT) as f32 / SCALE
}

fn write_text(
    canvas: &mut Pixmap,
    (x, y): (f32, f32),
    text: &str,
    colour: Colour,
    anchor: Anchor,
    bold: bool,
) {
    let length = text.chars().count() as f32 * advance(bold);
    let start = match anchor {
        Anchor::Start => x,
        Anchor::Middle => x - length / 2.0,
        Anchor::End => x - length,
    };
    // The base line lies three quarters down a bitmap.
    let (left, top) = ((start * SCALE).round() as i64, (y * SCALE).round() as i64 - 12);
    let (width, height) = (i64::from(canvas.width()), i64::from(canvas.height()));
    for (index, character) in text.chars().enumerate() {
        let Some(glyph) = get_raster(character, weight(bold), HEIGHT) else { continue };
        for (row, line) in glyph.rows().enumerate() {
            for (column, cover) in line.iter().enumerate() {
                let (px, py) = (left + (index * glyph.width() + column) as i64, top + row as i64);
                if *cover == 0 || px < 0 || py < 0 || px >= width || py >= height {
                    continue;
                }
                let pixel = &mut canvas.pixels_mut()[(py * width + px) as usize];
                let share = f32::from(*cover) / 255.0;
                let mix = |under: u8, ink: u8| {
                    (f32::from(under) * (1.0 - share) + f32::from(ink) * share).round() as u8
                };
                let [r, g, b] = [
                    mix(pixel.red(), colour[0]),
                    mix(pixel.green(), colour[1]),
                    mix(pixel.blue(), colour[2]),
                ];
                *pixel = PremultipliedColorU8::from_rgba(r, g, b, 255).unwrap_or(*pixel);
            }
        }
    }
}

fn paint(colour: Colour) -> Paint<'static> {
    let mut paint = Paint::default();
    paint.set_color_rgba8(colour[0], colour[1], colour[2], 255);
    paint.anti_alias = true;
    paint
}

fn web(colour: Colour) -> String {
    format!("#{:02x}{:02x}{:02x}", colour[0], colour[1], colour[2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_hold_every_shape() {
        let mut drawing = Drawing::new(60.0, 30.0);
        drawing.rectangle([1.0, 1.0, 20.0, 10.0], [255, 0, 0]);
        drawing.line(vec![(0.0, 29.0), (59.0, 29.0)], [0, 0, 255], 1.0);
        drawing.circle((50.0, 8.0), 4.0, [0, 128, 0]);
        drawing.text((30.0, 24.0), "a<b&☃", [0; 3], Anchor::Middle);
        let svg = drawing.svg();
        for part in ["<rect x=\"1.00\"", "#ff0000", "<polyline", "<circle", ">a&lt;b&amp;?</text>"] {
            assert!(svg.contains(part), "{part}: {svg}");
        }
        let png = drawing.png().unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), (120, 60));
        let at = |x: usize, y: usize| &pixels[(y * 120 + x) * 3..][..3];
        assert_eq!(
            (at(20, 10), at(100, 16), at(60, 58)),
            (&[255, 0, 0][..], &[0, 128, 0][..], &[0, 0, 255][..])
        );
        let dark = pixels.chunks(3).filter(|p| p.iter().all(|v| *v < 80)).count();
        assert!(dark > 40, "text: {dark} dark pixels");
    }
}
