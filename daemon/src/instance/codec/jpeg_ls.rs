//! JPEG-LS, lossless and near-lossless (ITU-T T.87; PS3.5 section 8.2.3), one component. Names are the standard's.
use super::Frame;
use super::markers::Markers;

/// T.87 section A.2.1, J: the order of the run length code, by run index.
const RUN_ORDER: [u32; 32] =
    [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 9, 10, 11, 12, 13, 14, 15];
/// Contexts of the regular mode; two for the ends of runs follow them.
const REGULAR_CONTEXTS: usize = 365;

/// Largest reset interval that is taken, so that sums of magnitudes stay far from overflow. The default is 64.
const RESET_MAX: i32 = 4096;

/// Decodes a frame into one cell a pixel.
pub(super) fn decode(frame: &Frame<'_>) -> Result<Vec<u16>, String> {
    let mut markers = Markers::new(frame.stream);
    if markers.next()? != 0xD8 {
        return Err("no JPEG-LS stream".to_owned());
    }
    let mut bits = None;
    let mut preset = [0; 5];
    loop {
        match markers.next()? {
            0xF7 => {
                let [p, y1, y0, x1, x0, components, ..] = *markers.segment()? else {
                    return Err("the JPEG-LS frame header is cut off".to_owned());
                };
                let [rows, columns] = [[y1, y0], [x1, x0]].map(|b| usize::from(u16::from_be_bytes(b)));
                frame.check(columns, rows, usize::from(components), usize::from(p))?;
                bits = Some(p);
            }
            // T.87 section C.2.4.1: only the coding parameters are of use; mapping tables and large sizes are not.
            0xF8 => match markers.segment()? {
                [1, values @ ..] if values.len() == 10 => {
                    let words = values.as_chunks().0.iter().map(|b| i32::from(u16::from_be_bytes(*b)));
                    preset.iter_mut().zip(words).for_each(|(p, w)| *p = w);
                }
                _ => return Err("JPEG-LS preset parameters that CT does not use".to_owned()),
            },
            0xDA => {
                let bits = bits.ok_or("a JPEG-LS scan comes before its frame")?;
                let [1, _, 0, near, _, 0] = *markers.segment()? else {
                    return Err("the JPEG-LS scan header is not one of a single plain component".to_owned());
                };
                let coding = Coding::new(u32::from(bits), i32::from(near), preset)?;
                return Scan::new(coding, markers.rest()).decode(frame);
            }
            0xE0..=0xEF | 0xFE => {
                markers.segment()?;
            }
            marker => return Err(format!("JPEG-LS marker {marker:#04X} before the image")),
        }
    }
}

/// The parameters of a scan (T.87 sections A.2 and C.2.4.1.1).
struct Coding {
    max_value: i32,
    near: i32,
    thresholds: [i32; 3],
    reset: i32,
    range: i32,
    /// Bits of a value in the range.
    qbpp: u32,
    limit: u32,
}

impl Coding {
    /// `preset` is MAXVAL, T1, T2, T3 and RESET, where 0 means the default.
    fn new(bits: u32, near: i32, preset: [i32; 5]) -> Result<Self, String> {
        if !(2..=16).contains(&bits) {
            return Err(format!("{bits} JPEG-LS bits a pixel"));
        }
        let [max_value, t1, t2, t3, reset] = preset;
        let all_ones = (1 << bits) - 1;
        let max_value = if max_value == 0 { all_ones } else { max_value };
        let defaults = default_thresholds(max_value, near);
        let chosen = |value: i32, default: i32| if value == 0 { default } else { value };
        let [t1, t2, t3] = [chosen(t1, defaults[0]), chosen(t2, defaults[1]), chosen(t3, defaults[2])];
        let reset = chosen(reset, 64);
        let ordered = near < t1 && t1 <= t2 && t2 <= t3 && t3 <= max_value;
        if max_value > all_ones || near > max_value / 2 || !ordered || !(3..=RESET_MAX).contains(&reset) {
            return Err(format!("JPEG-LS parameters {max_value}, {near}, {t1}, {t2}, {t3}, {reset}"));
        }
        let range = (max_value + 2 * near) / (2 * near + 1) + 1;
        // ⌈log2 n⌉ for n ≥ 2.
        let log = |n: i32| 32 - ((n - 1) as u32).leading_zeros();
        let bpp = log(max_value + 1).max(2);
        Ok(Self {
            max_value,
            near,
            thresholds: [t1, t2, t3],
            reset,
            range,
            qbpp: log(range),
            limit: 2 * (bpp + bpp.max(8)),
        })
    }

    /// T.87 section A.3.3.
    fn quantise(&self, gradient: i32) -> i32 {
        let size = gradient.abs();
        let level = if size <= self.near {
            0
        } else {
            1 + self.thresholds.iter().filter(|t| size >= **t).count() as i32
        };
        if gradient < 0 { -level } else { level }
    }

    /// T.87 section A.4.5: from prediction and error to the sample.
    fn reconstruct(&self, prediction: i32, error: i32) -> i32 {
        let step = 2 * self.near + 1;
        let value = prediction + error * step;
        let value = if value < -self.near {
            value + self.range * step
        } else if value > self.max_value + self.near {
            value - self.range * step
        } else {
            value
        };
        value.clamp(0, self.max_value)
    }
}

/// T.87 section C.2.4.1.1.1.
fn default_thresholds(max_value: i32, near: i32) -> [i32; 3] {
    let basic = [3, 7, 21];
    let mut lowest = near + 1;
    std::array::from_fn(|i| {
        let number = i as i32;
        let offset = (3 + 2 * number) * near;
        let value = if max_value >= 128 {
            let factor = (max_value.min(4095) + 128) / 256;
            factor * (basic[i] - 2 - number) + 2 + number + offset
        } else {
            let factor = 256 / (max_value + 1);
            (2 + number).max(basic[i] / factor + offset)
        };
        lowest = if value > max_value || value < lowest { lowest } else { value };
        lowest
    })
}

/// Entropy-coded bits (T.87 section A.1 and C.2.1): a zero bit is stuffed after each 0xFF byte.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    after_ff: bool,
    buffer: u64,
    count: u32,
}

impl Bits<'_> {
    fn fill(&mut self) {
        while self.count <= 56 {
            let Some(byte) = self.bytes.get(self.at).copied() else { return };
            // A set bit after 0xFF makes a marker: the end of the data.
            if self.after_ff && byte >= 0x80 {
                return;
            }
            let width = if self.after_ff { 7 } else { 8 };
            self.buffer |= u64::from(byte) << (64 - width - self.count);
            self.count += width;
            self.after_ff = byte == 0xFF;
            self.at += 1;
        }
    }

    /// At most 32 bits.
    fn take(&mut self, bits: u32) -> Result<u32, String> {
        if bits == 0 {
            return Ok(0);
        }
        self.fill();
        if bits > self.count {
            return Err("the JPEG-LS image is cut off".to_owned());
        }
        let value = self.buffer >> (64 - bits);
        self.buffer <<= bits;
        self.count -= bits;
        Ok(value as u32)
    }

    /// T.87 section A.5.3: a limited-length Golomb code.
    fn golomb(&mut self, k: u32, limit: u32, qbpp: u32) -> Result<i32, String> {
        self.fill();
        let zeros = self.buffer.leading_zeros();
        let longest = limit - qbpp - 1;
        if zeros > longest || zeros >= self.count {
            return Err("a JPEG-LS code is too long".to_owned());
        }
        self.take(zeros + 1)?;
        let value = if zeros < longest { (zeros << k) | self.take(k)? } else { self.take(qbpp)? + 1 };
        // Larger ones than the range come from broken streams only.
        if value > 1 << qbpp {
            return Err(format!("a JPEG-LS error of {value}"));
        }
        Ok(value as i32)
    }
}

/// The statistics of a context (T.87 section A.2.1).
#[derive(Clone, Copy)]
struct Context {
    a: i32,
    b: i32,
    c: i32,
    n: i32,
    /// Negative errors, in the contexts of ends of runs.
    negative: i32,
}

impl Context {
    /// The Golomb parameter for a mean magnitude of `a / n`; with errors of 16 bits it is at most 17.
    fn golomb_parameter(n: i32, a: i32) -> u32 {
        (0..17).find(|k| i64::from(n) << k >= i64::from(a)).unwrap_or(17)
    }

    /// T.87 section A.6.
    fn update(&mut self, error: i32, coding: &Coding) {
        self.b += error * (2 * coding.near + 1);
        self.a += error.abs();
        if self.n == coding.reset {
            self.a >>= 1;
            self.b >>= 1;
            self.n >>= 1;
        }
        self.n += 1;
        if self.b <= -self.n {
            self.b = (self.b + self.n).max(1 - self.n);
            self.c = (self.c - 1).max(-128);
        } else if self.b > 0 {
            self.b = (self.b - self.n).min(0);
            self.c = (self.c + 1).min(127);
        }
    }
}

struct Scan<'a> {
    coding: Coding,
    bits: Bits<'a>,
    contexts: Vec<Context>,
    run_index: usize,
}

impl<'a> Scan<'a> {
    fn new(coding: Coding, bytes: &'a [u8]) -> Self {
        let a = ((coding.range + 32) / 64).max(2);
        let contexts = vec![Context { a, b: 0, c: 0, n: 1, negative: 0 }; REGULAR_CONTEXTS + 2];
        let bits = Bits { bytes, at: 0, after_ff: false, buffer: 0, count: 0 };
        Self { coding, bits, contexts, run_index: 0 }
    }

    fn decode(mut self, frame: &Frame<'_>) -> Result<Vec<u16>, String> {
        let columns = frame.columns;
        let mut cells = Vec::with_capacity(frame.pixels());
        // Sample x is at x + 1; before it the edge value of T.87 section A.2.1, behind the last one its repetition.
        let mut above = vec![0i32; columns + 2];
        let mut line = vec![0i32; columns + 2];
        for _ in 0..frame.rows {
            above[columns + 1] = above[columns];
            line[0] = above[1];
            let mut x = 1;
            while x <= columns {
                let [ra, rb, rc, rd] = [line[x - 1], above[x], above[x - 1], above[x + 1]];
                let q = [rd - rb, rb - rc, rc - ra].map(|g| self.coding.quantise(g));
                if q == [0; 3] {
                    x = self.run(&mut line, &above, x, columns)?;
                } else {
                    line[x] = self.regular(q, ra, rb, rc)?;
                    x += 1;
                }
            }
            cells.extend(line[1..=columns].iter().map(|v| *v as u16));
            std::mem::swap(&mut above, &mut line);
        }
        Ok(cells)
    }

    /// T.87 sections A.3 to A.6.
    fn regular(&mut self, q: [i32; 3], ra: i32, rb: i32, rc: i32) -> Result<i32, String> {
        let index = 81 * q[0] + 9 * q[1] + q[2];
        let sign = index.signum();
        let context = &mut self.contexts[index.unsigned_abs() as usize];
        let gradient = if rc >= ra.max(rb) {
            ra.min(rb)
        } else if rc <= ra.min(rb) {
            ra.max(rb)
        } else {
            ra + rb - rc
        };
        let prediction = (gradient + sign * context.c).clamp(0, self.coding.max_value);
        let k = Context::golomb_parameter(context.n, context.a);
        let mapped = self.bits.golomb(k, self.coding.limit, self.coding.qbpp)?;
        // Where the bias is clearly negative, the two signs change places.
        let swapped = self.coding.near == 0 && k == 0 && 2 * context.b <= -context.n;
        let mapped = if swapped { mapped ^ 1 } else { mapped };
        let error = if mapped & 1 == 0 { mapped / 2 } else { -(mapped + 1) / 2 };
        context.update(error, &self.coding);
        Ok(self.coding.reconstruct(prediction, sign * error))
    }

    /// T.87 section A.7: a run and the sample that ends it; returns the place of the next sample.
    fn run(
        &mut self,
        line: &mut [i32],
        above: &[i32],
        start: usize,
        columns: usize,
    ) -> Result<usize, String> {
        let value = line[start - 1];
        let mut x = start;
        while x <= columns {
            let order = RUN_ORDER[self.run_index];
            let left = columns + 1 - x;
            if self.bits.take(1)? == 1 {
                let whole = 1 << order;
                let length = left.min(whole);
                line[x..x + length].fill(value);
                x += length;
                if length == whole && self.run_index < 31 {
                    self.run_index += 1;
                }
                continue;
            }
            let length = self.bits.take(order)? as usize;
            if length >= left {
                return Err("a JPEG-LS run is longer than its row".to_owned());
            }
            line[x..x + length].fill(value);
            x += length;
            line[x] = self.end_of_run(value, above[x], order)?;
            self.run_index = self.run_index.saturating_sub(1);
            return Ok(x + 1);
        }
        Ok(x)
    }

    /// T.87 section A.7.2.
    fn end_of_run(&mut self, ra: i32, rb: i32, order: u32) -> Result<i32, String> {
        let same = (ra - rb).abs() <= self.coding.near;
        let kind = i32::from(same);
        let context = &mut self.contexts[REGULAR_CONTEXTS + usize::from(same)];
        let magnitude = if same { context.a + (context.n >> 1) } else { context.a };
        let k = Context::golomb_parameter(context.n, magnitude);
        let mapped = self.bits.golomb(k, self.coding.limit - order - 1, self.coding.qbpp)?;
        let doubled = mapped + kind;
        let odd = doubled & 1 == 1;
        let size = (doubled + 1) / 2;
        let mostly_negative = k != 0 || 2 * context.negative >= context.n;
        let error = if mostly_negative == odd { -size } else { size };
        if error < 0 {
            context.negative += 1;
        }
        context.a += (mapped + 1 - kind) >> 1;
        if context.n == self.coding.reset {
            context.a >>= 1;
            context.n >>= 1;
            context.negative >>= 1;
        }
        context.n += 1;
        let (prediction, sign) = if same { (ra, 1) } else { (rb, if ra > rb { -1 } else { 1 }) };
        Ok(self.coding.reconstruct(prediction, sign * error))
    }
}
